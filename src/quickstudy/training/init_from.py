"""Starting a model from another run: which of its tensors go where, and what is said of it.

A learner keeps a model under names of its own: MAML as `head.*`, HyperMAML its body as `body.*` and its last layer as
`head.weight`. So names are compared as the model itself has them, with the learner's first word taken off.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import AliasChoices, BaseModel, Field, model_validator
from torch import Tensor, nn

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.methods.learner import Learner
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.rules.descend import Descend
from quickstudy.rules.params import layer_of
from quickstudy.storage.checkpoints import describe_step, read_checkpoint
from quickstudy.storage.run import Run
from quickstudy.types import Params

OWN = "rule."
"""The part of a learner that belongs to its method and to no model."""

MODEL = ("head.", "body.")
"""The parts of a learner that hold its model; networks of the method's own may have tensors of the same names."""


class InitFrom(BaseModel, frozen=True, extra="forbid"):
    """Where the model's first tensors come from, before meta-training; by default from the seed."""

    # An override below a bare value (`--init_from RUN --init_from.freeze P`) puts that value under `name`.
    run: str = Field(validation_alias=AliasChoices("run", "name"), description="a run directory or a checkpoint file")
    only: tuple[str, ...] = Field(("*",), description="patterns of the model's tensors that are taken over")
    freeze: tuple[str, ...] = Field((), description="patterns of the model's parameters that stay as they come")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return {"run": value}
        return {n: (v,) if n in ("only", "freeze") and isinstance(v, str) else v for n, v in value.items()}


class Start(NamedTuple):
    """What a model starts from: tensors by the learner's names, and what is told of them by the model's."""

    tensors: Params
    source: str
    loaded: list[str]
    skipped: list[str]
    unused: list[str]

    def told(self) -> dict[str, Any]:
        """For a run's checkpoints and results, in plain values."""
        return {name: value for name, value in self._asdict().items() if name != "tensors"}

    def __str__(self) -> str:
        rest = [f"{what} {', '.join(names)}" for what in ("skipped", "unused") if (names := getattr(self, what))]
        return "; ".join([f"{len(self.loaded)} tensors from {self.source}", *rest])


def find_start(asked: InitFrom, learner: Learner, named: Mapping[str, torch.Size]) -> Start:
    """What a learner would start from; nothing is done yet.

    Args:
        asked: What the configuration says.
        learner: Built, around the model.
        named: The shapes of the model's tensors, by its own names.
    """
    found, source = _read(asked.run)
    theirs = {name.removeprefix("model."): value for name, value in found.items() if name.startswith("model.")}
    ours = learner.state_dict()
    here, there = match_names(named, ours), match_names(named, theirs)
    wanted = [name for name in named if name in here and any(fnmatchcase(name, p) for p in asked.only)]
    faults = {}
    for name in wanted:
        if name not in there:
            faults[name] = f"{name} is missing there"
        elif theirs[there[name]].shape != ours[here[name]].shape:
            faults[name] = f"{name} has shape {list(theirs[there[name]].shape)} there, not {list(named[name])}"
    last = layer_of(list(named)[-1])
    loaded = [name for name in wanted if name not in faults]
    body = [fault for name, fault in faults.items() if layer_of(name) != last]
    if not loaded or body:
        _refuse(asked, source, body or list(faults.values()), theirs)
    return Start(
        tensors={here[name]: theirs[there[name]] for name in loaded},
        source=source,
        loaded=loaded,
        skipped=list(faults.values()),
        unused=[name for name in theirs if name not in there.values() and not name.startswith(OWN)],
    )


def apply_start(found: Start, learner: Learner) -> None:
    """Put it into the learner."""
    own = learner.state_dict()
    with torch.no_grad():
        for name, value in found.tensors.items():
            own[name].copy_(value)
    if isinstance(learner, RuleLearner) and isinstance(learner.rule, Descend) and learner.rule.per_step is not None:
        learner.rule.per_step.begin(learner.params())


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Keep parameters from training; done whenever a run is built, as what adapts follows from it."""
    params = dict(model.named_parameters())
    for pattern in patterns:
        chosen = [name for name in params if fnmatchcase(name, pattern)]
        if not chosen:
            raise InputError(
                f"`init_from.freeze` has {pattern!r}, which matches no parameter of the model. "
                f"{suggest_nearest(pattern, params)}"
            )
        for name in chosen:
            params[name].requires_grad_(False)


def match_names(model: Iterable[str], learner: Iterable[str]) -> dict[str, str]:
    """Where a learner keeps each of a model's tensors; those it has no more are left out.

    >>> match_names(["conv.weight", "head.weight"], ["body.conv.weight", "head.weight", "rule.rate.value"])
    {'conv.weight': 'body.conv.weight', 'head.weight': 'head.weight'}
    >>> match_names(["conv.weight", "head.weight"], ["head.conv.weight", "head.head.weight"])
    {'conv.weight': 'head.conv.weight', 'head.weight': 'head.head.weight'}
    >>> two = ["body.conv.weight", "relation.conv.weight", "relation.head.weight"]
    >>> match_names(["conv.weight", "head.weight"], two)
    {'conv.weight': 'body.conv.weight'}
    """
    own = [name for name in learner if name.startswith(MODEL)]
    inside = {name.partition(".")[2]: name for name in own}
    whole = set(own)
    return {n: inside.get(n, n) for n in model if n in inside or n in whole}


def _read(given: str) -> tuple[Mapping[str, Tensor], str]:
    path = Path(given)
    if path.is_file():
        saved, what = read_checkpoint(path), f"{path}"
    else:
        run = Run.open(path)
        name = "best" if "best" in run.checkpoints() else "last"
        saved, what = run.load(name), f"{path}, `{name}`"
    return saved.tensors, f"{what} of {describe_step(saved)}"


def _refuse(asked: InitFrom, source: str, faults: list[str], theirs: Mapping[str, Tensor]) -> None:
    if not faults:
        raise InputError(
            f"`init_from.only` is {', '.join(map(repr, asked.only))}, which matches no tensor of the model. "
            f"{source} has: {', '.join(name for name in theirs if not name.startswith(OWN))}."
        )
    more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
    raise InputError(
        f"`init_from`: {source} holds a model of another architecture: {'; '.join(faults[:4])}{more}. Only the last "
        "layer may differ. Give `model` the settings of that run (its config.yaml), or `init_from.only` a pattern of "
        "what to take."
    )
