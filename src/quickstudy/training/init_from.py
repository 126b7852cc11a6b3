"""Starting a model from another run: which tensors are loaded, and the record of it.

Each learner keeps the tensors of its model under its own names. MAML has them as `head.*`; HyperMAML has the body as
`body.*` and the last layer as `head.weight`. Therefore tensors are matched by the names that the model itself gives
them, without the learner's prefix.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import AliasChoices, BaseModel, Field, model_validator
from torch import Tensor, nn

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.methods.learner import Learner
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.rules.params import layer_of, matches, with_prefix
from quickstudy.rules.per_step import PerStep
from quickstudy.storage.checkpoints import MODEL, describe_misfit, describe_step, read_checkpoint
from quickstudy.storage.run import Run
from quickstudy.types import Params

RULE_PREFIX = "rule."
"""The part of a learner that belongs to its method, not to its model."""

MODEL_PREFIXES = ("head.", "body.")
"""The parts of a learner that hold its model. A method's own networks may use the same tensor names elsewhere."""


class InitFrom(BaseModel, frozen=True, extra="forbid"):
    """The run that a model starts from. Without it a model starts from the seed."""

    # `--init_from RUN --init_from.freeze P` gives {"name": RUN, "freeze": P}: an override below a bare value puts that
    # value under `name`.
    run: str = Field(validation_alias=AliasChoices("run", "name"), description="a run directory or a checkpoint file")
    only: tuple[str, ...] = Field(("*",), description="patterns of the model's tensors that are loaded")
    freeze: tuple[str, ...] = Field((), description="patterns of the model's parameters that do not change any more")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return {"run": value}
        return {n: (v,) if n in ("only", "freeze") and isinstance(v, str) else v for n, v in value.items()}


class Start(NamedTuple):
    """What a model starts from.

    Args:
        tensors: The tensors to load, by the learner's names.
        source: The run or file, its checkpoint and its step, in words.
        loaded: The names of these tensors in the model.
        skipped: What is not loaded into the last layer, and why.
        unused: What the source has and the model has not.
    """

    tensors: Params
    source: str
    loaded: list[str]
    skipped: list[str]
    unused: list[str]

    def to_plain(self) -> dict[str, Any]:
        """All but the tensors, for checkpoints and results."""
        return {name: value for name, value in self._asdict().items() if name != "tensors"}

    def __str__(self) -> str:
        rest = [f"{what} {', '.join(names)}" for what in ("skipped", "unused") if (names := getattr(self, what))]
        return "; ".join([f"{len(self.loaded)} tensors from {self.source}", *rest])


def find_start(asked: InitFrom, learner: Learner, model_shapes: Mapping[str, torch.Size]) -> Start:
    """Read what a learner starts from. The learner is not changed; `apply_start` does that.

    Args:
        asked: The setting `init_from`.
        learner: The learner, built around the model.
        model_shapes: The shapes of the model's tensors, by the model's own names.
    """
    tensors, source = _read_source(asked.run)
    theirs = with_prefix(tensors, MODEL)
    ours = learner.state_dict()
    here, there = match_names(model_shapes, ours), match_names(model_shapes, theirs)
    wanted = [name for name in model_shapes if name in here and any(matches(name, p) for p in asked.only)]
    faults = {}
    for name in wanted:
        if name not in there:
            faults[name] = f"{name} is missing there"
        elif misfit := describe_misfit(theirs[there[name]], ours[here[name]]):
            faults[name] = f"{name} {misfit.replace(', not', ' there, not')}"
    last = layer_of(list(model_shapes)[-1])
    loaded = [name for name in wanted if name not in faults]
    body_faults = [fault for name, fault in faults.items() if layer_of(name) != last]
    if not loaded or body_faults:
        _refuse_source(asked, source, body_faults or list(faults.values()), theirs)
    return Start(
        tensors={here[name]: theirs[there[name]] for name in loaded},
        source=source,
        loaded=loaded,
        skipped=list(faults.values()),
        unused=[name for name in theirs if name not in there.values() and not name.startswith(RULE_PREFIX)],
    )


def apply_start(start: Start, learner: Learner) -> None:
    """Load the tensors into the learner."""
    own = learner.state_dict()
    with torch.no_grad():
        for name, value in start.tensors.items():
            own[name].copy_(value)
    if isinstance(learner, RuleLearner) and isinstance(learner.rule, PerStep):
        learner.rule.restart(learner.params())


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters that match a pattern.

    This happens whenever a run is built, before the method: a method adapts only parameters that are not frozen.
    """
    params = dict(model.named_parameters())
    for pattern in patterns:
        matching = [name for name in params if matches(name, pattern)]
        if not matching:
            raise InputError(
                f"`init_from.freeze` has {pattern!r}, which matches no parameter of the model. "
                f"{suggest_nearest(pattern, params)}"
            )
        for name in matching:
            params[name].requires_grad_(False)


def match_names(model: Iterable[str], learner: Iterable[str]) -> dict[str, str]:
    """The learner's name for each of a model's tensors. Tensors that the learner has replaced are left out.

    >>> match_names(["conv.weight", "head.weight"], ["body.conv.weight", "head.weight", "rule.rate.value"])
    {'conv.weight': 'body.conv.weight', 'head.weight': 'head.weight'}
    >>> match_names(["conv.weight", "head.weight"], ["head.conv.weight", "head.head.weight"])
    {'conv.weight': 'head.conv.weight', 'head.weight': 'head.head.weight'}
    >>> match_names(["conv.weight", "fc.weight"], ["body.conv.weight", "head.weight"])  # the head was split off
    {'conv.weight': 'body.conv.weight', 'fc.weight': 'head.weight'}
    >>> two = ["body.conv.weight", "relation.conv.weight", "relation.head.weight"]
    >>> match_names(["conv.weight", "head.weight"], two)
    {'conv.weight': 'body.conv.weight'}
    """
    names, own = list(model), {name for name in learner if name.startswith(MODEL_PREFIXES)}
    places = {n: next((p for p in (f"body.{n}", f"head.{n}", n) if p in own), None) for n in names}
    free = own - set(places.values())
    split_off = {n: f"head.{n.rpartition('.')[2]}" for n in names}
    heads = [
        layer
        for layer in dict.fromkeys(map(layer_of, names))
        if all(places[n] is None and split_off[n] in free for n in names if layer_of(n) == layer)
    ]
    if len(heads) == 1:
        places |= {n: split_off[n] for n in names if layer_of(n) == heads[0]}
    return {n: place for n, place in places.items() if place is not None}


def _read_source(given: str) -> tuple[Mapping[str, Tensor], str]:
    """The tensors of a run or a checkpoint file, and where they are from in words."""
    path = Path(given)
    if path.is_file():
        checkpoint, source = read_checkpoint(path), f"{path}"
    else:
        run = Run.open(path)
        name = "best" if "best" in run.checkpoints() else "last"
        checkpoint, source = run.load(name), f"{path}, `{name}`"
    return checkpoint.tensors, f"{source} of {describe_step(checkpoint)}"


def _refuse_source(asked: InitFrom, source: str, faults: list[str], theirs: Mapping[str, Tensor]) -> None:
    if not faults:
        raise InputError(
            f"`init_from.only` is {', '.join(map(repr, asked.only))}, which matches no tensor of the model. "
            f"{source} has: {', '.join(name for name in theirs if not name.startswith(RULE_PREFIX))}."
        )
    more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
    raise InputError(
        f"`init_from`: {source} holds a model of another architecture: {'; '.join(faults[:4])}{more}. Only the last "
        "layer may differ. Give `model` the settings of that run (they are in its config.yaml), or give "
        "`init_from.only` a pattern of the tensors to load."
    )
