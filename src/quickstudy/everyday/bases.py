"""Bases: what a few examples are taught to. Features of a frozen encoder, a meta-trained learner, or nothing at all.

A base makes a user's X ready, and adapts to examples. It knows no class of the user's.
"""

import json
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from math import isfinite, nan
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.engine.twin import logits_of
from quickstudy.errors import InputError, RunError, suggest_nearest
from quickstudy.evaluation.calibration import EPISODES, Calibration, calibrate, calibrate_on_tasks, measure_error
from quickstudy.everyday.heads import NearestMean, PerOutput, RidgeLine, leave_one_out
from quickstudy.everyday.items import Items, as_inputs, as_pictures, refuse_single_picture
from quickstudy.methods.learner import Learner
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.methods.unicorn_maml import UnicornLearner
from quickstudy.models.encoders.encoder import Encoder
from quickstudy.models.encoders.open_encoder import ENCODERS, open_encoder
from quickstudy.models.norms import serve_by_support
from quickstudy.storage.model_files import is_model, read_model, write_model
from quickstudy.storage.run import Run
from quickstudy.storage.trust import code_parts, remember
from quickstudy.tasks.base import TaskFamily
from quickstudy.tasks.draws import as_integer
from quickstudy.training.config import Blueprint, build_tasks, complete_run, parse_config
from quickstudy.training.config.blueprint import Interface
from quickstudy.training.restore import load, load_learner
from quickstudy.types import Examples

CHUNK = 256
"""Inputs that a net is given at once, so that memory does not grow with the number of pictures."""
NORMS = ("support", "trained")
ANY_WAYS = "protonet, nca, matchingnet, relationnet, nearest_neighbour, feature_transfer, baseline_pp and unicorn_maml"
MANY_EXAMPLES = 100
"""So many examples that can be left out calibrate better than the tasks of other pictures that came with an encoder."""
SHIPPED = ("drawings",)
"""Learners that come with the package, each in a directory of its name in `shipped/`, with a card."""
LEAVE_ONE_OUT = "the user's own examples, each left out once"

Progress = Callable[[int, int], None]


class Base(ABC):
    """What examples are taught to."""

    name: str
    """What it is called in messages and files."""
    notes: tuple[str, ...] = ()
    """Remarks for the user."""

    @property
    def regression(self) -> str:
        """What it is called where it predicts quantities."""
        return self.name

    @property
    @abstractmethod
    def takes(self) -> str:
        """What an X holds: "pictures", "texts" or "arrays"."""

    @abstractmethod
    def prepare(self, items: Items, progress: Progress | None = None) -> Tensor:
        """Inputs `[n, ...]` from a user's X. `progress` is called with how many are done, and of how many."""

    def time_one(self, items: Items) -> float:
        """The seconds in which one item is made ready, when nothing of it is kept from before."""
        one = items[:1]
        self.prepare(one)  # the first one also loads code
        begun = perf_counter()
        self.prepare(one)
        return perf_counter() - begun

    @property
    def parameters(self) -> int:
        """The numbers that it has learnt before."""
        return 0

    @abstractmethod
    def adapt(self, x: Tensor, y: Tensor, ways: int) -> nn.Module:
        """A plain module from inputs to outputs `[n, ways]`, taught by examples with class numbers y."""

    def calibrate(self, module: nn.Module, x: Tensor, y: Tensor, ways: int, shots: int) -> Calibration | None:
        """How far the outputs of such a module can be trusted; None if nothing says it."""
        del module, x, y, ways, shots
        return None

    def adapt_regression(self, x: Tensor, y: Tensor) -> tuple[nn.Module, PerOutput]:
        """A plain module from inputs to values `[n, outputs]`, and the usual error of its values."""
        raise InputError(f"{self.name} tells classes apart and predicts no quantities: give another base.")

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a file says of the base, so that it can be made again."""

    def tensors(self) -> dict[str, Tensor]:
        """What a file must hold beside that."""
        return {}


class TableBase(Base):
    """Nothing learnt before: rows of numbers, each feature standardised, and the nearest class mean or a line."""

    name = "nearest class mean on standardised features"
    regression = "ridge regression on standardised features"
    takes = "arrays"

    def prepare(self, items: Items, progress: Progress | None = None) -> Tensor:
        del progress
        # Differences of large numbers lose digits, and rows of numbers are few.
        return as_inputs(items, None, "base=None", torch.float64).flatten(1)

    def adapt(self, x: Tensor, y: Tensor, ways: int) -> nn.Module:
        return NearestMean(x, y, ways, standardise=True)

    def calibrate(self, module: nn.Module, x: Tensor, y: Tensor, ways: int, shots: int) -> Calibration | None:
        return calibrate_by_leaving_out(module, x, y, shots)

    def adapt_regression(self, x: Tensor, y: Tensor) -> tuple[nn.Module, PerOutput]:
        line = RidgeLine(x, y.to(x.dtype))
        return line, line.deviation

    def describe(self) -> dict[str, Any]:
        return {"kind": "table"}


class EncoderBase(Base):
    """Features of a frozen encoder, scaled to length 1, and the nearest class mean.

    Args:
        encoder: The encoder.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.name = encoder.name

    @property
    def takes(self) -> str:
        return self.encoder.takes

    def prepare(self, items: Items, progress: Progress | None = None) -> Tensor:
        return encode(self.encoder, items, progress)

    def time_one(self, items: Items) -> float:
        return time_encoding(self.encoder, items)

    @property
    def parameters(self) -> int:
        return count_parameters(self.encoder)

    def adapt(self, x: Tensor, y: Tensor, ways: int) -> nn.Module:
        return NearestMean(x, y, ways, standardise=False)

    def calibrate(self, module: nn.Module, x: Tensor, y: Tensor, ways: int, shots: int) -> Calibration | None:
        known = shipped_calibrations(self.encoder)
        assert isinstance(module, NearestMean)
        if known and len(leave_one_out(module, x, y)[1]) < MANY_EXAMPLES:
            return min(known, key=lambda one: distance(one, ways, shots))
        return calibrate_by_leaving_out(module, x, y, shots)

    def adapt_regression(self, x: Tensor, y: Tensor) -> tuple[nn.Module, PerOutput]:
        line = RidgeLine(x.double(), y.double())
        return nn.Sequential(_Double(), line), line.deviation

    def describe(self) -> dict[str, Any]:
        return {"kind": "encoder", "name": self.name, "digest": self.encoder.digest}


def encode(encoder: Encoder, items: Items, progress: Progress | None = None) -> Tensor:
    """The features of items. An item that cannot be used is an error that names it."""
    if encoder.takes == "arrays":
        items = as_inputs(items, None, f"The encoder {encoder.name!r}", None)
    elif isinstance(items, Tensor) and (encoder.takes == "texts" or items.ndim < 3):
        raise InputError(
            f"The encoder {encoder.name!r} takes {encoder.takes}, and X has numbers of the shape {list(items.shape)}."
        )
    elif isinstance(items, Tensor):
        refuse_single_picture(items)
    return encoder.encode(items, progress)


def time_encoding(encoder: Encoder, items: Items) -> float:
    """The seconds in which one item is encoded anew, although its features may be kept."""
    with torch.inference_mode():
        encoder.encode_one(items[0])  # the first one also loads code
        begun = perf_counter()
        encoder.encode_one(items[0])
    return perf_counter() - begun


def count_parameters(encoder: Encoder) -> int:
    """The parameters of the modules that an encoder has."""
    modules = [part for part in vars(encoder).values() if isinstance(part, nn.Module)]
    return sum(p.numel() for module in modules for p in module.parameters())


class _Double(nn.Module):
    """Inputs in double precision."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def shipped_calibrations(encoder: Encoder) -> list[Calibration]:
    """What was measured with an encoder of the library, on pictures that do not come along; see `make calibrations`."""
    file = files("quickstudy.everyday") / "calibrations" / f"{encoder.name}.json"
    if encoder.name not in ENCODERS or not file.is_file():
        return []
    held = json.loads(file.read_text())
    if held["digest"] != encoder.digest:  # other weights or another preparation than were measured
        return []
    return [Calibration.model_validate(one) for one in held["calibrations"]]


def calibrate_by_leaving_out(module: nn.Module, x: Tensor, y: Tensor, shots: int) -> Calibration | None:
    """Calibrate on the user's own examples, each predicted by the others; None if every class has but one."""
    assert isinstance(module, NearestMean)
    outputs, true = leave_one_out(module, x, y)
    if not len(true):
        return None
    among_its_own = F.one_hot(true).cumsum(0)[torch.arange(len(true)), true]
    return calibrate(
        outputs, true, shots=max(shots - 1, 1), episodes=0, source=LEAVE_ONE_OUT, first=among_its_own % 2 == 0
    )


@dataclass
class LearnerBase(Base):
    """A meta-trained learner.

    Args:
        learner: The learner, as it serves.
        name: What it is called.
        notes: Remarks for the user.
        family: Its tasks, if their data are at hand; they calibrate.
        episodes: How many of them; 0 for none.
    """

    learner: Learner
    name: str
    notes: tuple[str, ...] = ()
    family: TaskFamily | None = field(default=None, repr=False)
    episodes: int = EPISODES

    @property
    def blueprint(self) -> Blueprint | None:
        """What is known of the learner; None for one that was made by hand."""
        values = self.learner.blueprint
        return None if values is None else Blueprint.model_validate(values)

    @property
    def tasks(self) -> Interface | None:
        """What is known of the tasks that it was made for."""
        return None if self.blueprint is None else self.blueprint.tasks

    @property
    def takes(self) -> str:
        if self.encoder is not None:
            return self.encoder.takes
        return "arrays" if self.tasks is None or self.tasks.picture is None else "pictures"

    @cached_property
    def encoder(self) -> Encoder | None:
        """What computes the features that the learner reads; None if it reads something else."""
        wanted = None if self.tasks is None else self.tasks.encoder
        return None if wanted is None else open_known_encoder(wanted.name, wanted.digest, self.name)

    def time_one(self, items: Items) -> float:
        return super().time_one(items) if self.encoder is None else time_encoding(self.encoder, items)

    @property
    def parameters(self) -> int:
        own = sum(p.numel() for p in self.learner.parameters())
        return own + (0 if self.encoder is None else count_parameters(self.encoder))

    def prepare(self, items: Items, progress: Progress | None = None) -> Tensor:
        tasks = self.tasks
        if self.encoder is not None and not self._are_features(items):
            return encode(self.encoder, items, progress)
        if tasks is not None and tasks.picture is not None:
            pictures = as_pictures(items)
            if pictures is not None:
                return tasks.picture.prepare(pictures, progress)
        double = any(p.dtype == torch.float64 for p in self.learner.parameters())
        dtype = torch.float64 if double else torch.float32
        x = as_inputs(items, None if tasks is None else tasks.single_input(), self.name, dtype)
        if tasks is not None and tasks.picture is not None and tasks.picture.has_other_paper(x):
            warnings.warn(
                f"X holds floating-point numbers, which {self.name} takes as prepared inputs. These are "
                "light where its inputs are dark: give pictures as bytes, for example (255 * X).astype('uint8').",
                UserWarning,
                stacklevel=4,
            )
        return x

    def _are_features(self, items: Items) -> bool:
        return isinstance(items, Tensor) and items.ndim == 2 and items.is_floating_point()

    def adapt(self, x: Tensor, y: Tensor, ways: int) -> nn.Module:
        if self.tasks is not None and self.tasks.loss != "cross_entropy":
            raise InputError(
                f"{self.name} predicts quantities, and classes are asked for: use FewShotRegressor, or give another "
                "base."
            )
        built_for = self._outputs(x)
        if built_for is not None and ways > built_for:
            raise InputError(
                f"{self.name} was trained for {built_for} classes, and the examples have {ways}. Methods that take any "
                f"number of classes: {ANY_WAYS}; so do encoders, such as base='photos'."
            )
        adapted = self.learner.adapt(Examples(x, y))
        return adapted if built_for in (None, ways) else _FirstOutputs(adapted, ways)

    def _outputs(self, x: Tensor) -> int | None:
        """The number of outputs that a learner was built with; None if the labels decide."""
        if not isinstance(self.learner, RuleLearner) or isinstance(self.learner, UnicornLearner):
            return None
        with torch.no_grad():
            features = self.learner.features(x[:2].to(self.learner.device))
            output: Tensor = self.learner.run_head(self.learner.params(), features)
        return output.shape[-1]

    def calibrate(self, module: nn.Module, x: Tensor, y: Tensor, ways: int, shots: int) -> Calibration | None:
        known = () if self.blueprint is None else self.blueprint.calibrations
        exact = [one for one in known if (one.ways, one.shots) == (ways, shots)]
        if self.family is not None and self.episodes and not exact:
            found = calibrate_on_tasks(self.learner, self.family, ways, shots, episodes=self.episodes)
            self._remember(calibrations=(*known, found))
            return found
        return min(known, key=lambda one: distance(one, ways, shots), default=None)

    def adapt_regression(self, x: Tensor, y: Tensor) -> tuple[nn.Module, PerOutput]:
        if self.tasks is not None and self.tasks.loss == "cross_entropy":
            raise InputError(f"{self.name} was trained to tell classes apart: give a run on tasks of regression.")
        shots, known = len(x), {} if self.blueprint is None else self.blueprint.errors
        adapted = self.learner.adapt(Examples(x, y.to(x.dtype)))
        if self.family is not None and self.episodes and shots not in known:
            error = measure_error(self.learner, self.family, shots, episodes=self.episodes)
            if not isfinite(error):  # the learner diverges on one of its own tasks: nobody knows how far it is off
                return adapted, nan
            known = {**known, shots: error}
            self._remember(errors=known)
        near = min(known, key=lambda one: abs(np.log(one / shots)), default=None)
        return adapted, nan if near is None else known[near]

    def _remember(self, **found: Any) -> None:
        """Keep what was measured with the learner, so that it is there where the tasks are not."""
        if self.blueprint is not None:
            self.learner.blueprint = self.blueprint.model_copy(update=found).model_dump(mode="json")

    def describe(self) -> dict[str, Any]:
        if self.learner.blueprint is None:
            raise InputError(
                f"{self.name} was made by hand, so a file cannot say how to make it again. Save it first, by "
                "learner.save(path, factory='package.module:function'), and give that path as the base."
            )
        return {"kind": "learner", "name": self.name, "learner": self.learner.blueprint}

    def tensors(self) -> dict[str, Tensor]:
        return {f"{LEARNER}{name}": value for name, value in self.learner.tensors().items()}


LEARNER = "learner."
"""Begins the names of the base's tensors in a file."""


class _FirstOutputs(nn.Module):
    """A module whose outputs beyond the classes of a task are cut off.

    Args:
        module: The module.
        ways: The number of classes.
    """

    def __init__(self, module: nn.Module, ways: int) -> None:
        super().__init__()
        self.module = module
        self.ways = ways

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.module(x)
        return outputs[:, : self.ways]


def distance(known: Calibration, ways: int, shots: int) -> float:
    """How far a calibration is from some ways and shots: in factors, which add up.

    A factor of 1.5 in ways counts as much as one in shots.
    """
    return abs(float(np.log(known.ways / ways))) + abs(float(np.log(known.shots / shots)))


def run_outputs(module: nn.Module, x: Tensor) -> Tensor:
    """The outputs of a module for any number of inputs, on the CPU."""
    outputs, device = [], next((t.device for t in (*module.parameters(), *module.buffers())), x.device)
    with torch.no_grad():
        # Parts of equal size: a norm of a batch has no statistics of one input that is left over.
        for part in x.tensor_split(max(1, -(-len(x) // CHUNK))):
            outputs.append(logits_of(module(part.to(device, copy=True))).cpu())  # a forward may change what it is given
    return torch.cat(outputs)


def check_norms(norms: str) -> None:
    """Refuse a norm policy that there is not."""
    if norms not in NORMS:
        raise InputError(f"`norms` is 'support' or 'trained', not {norms!r}.")


def serve(learner: Learner, norms: str, name: str) -> tuple[Learner, tuple[str, ...]]:
    """The learner as it serves, and a remark if this is not how it was trained."""
    check_norms(norms)
    if norms == "trained":
        return learner, ()
    served = serve_by_support(learner)
    if served.norms == learner.norms:
        return learner, ()
    if served.blueprint is not None:
        served.blueprint = with_served_norms(Blueprint.model_validate(served.blueprint)).model_dump(mode="json")
    return served, (
        f"{name} was trained with {learner.norms}; it serves with {served.norms}, so that no answer depends on its "
        "neighbours (norms='trained' keeps the other)",
    )


def with_served_norms(blueprint: Blueprint) -> Blueprint:
    """A blueprint whose method takes the statistics of the support set, and which says that training did not."""
    if blueprint.method is None:
        return blueprint
    before = str(blueprint.method.options.get("norms", "batch"))
    method = type(blueprint.method).model_validate({**blueprint.method.model_dump(), "norms": "support"})
    return blueprint.model_copy(update={"method": method, "trained_norms": before})


def open_base(base: Any, *, norms: str = "support", episodes: int = EPISODES, trust: bool = False) -> Base:
    """The base that a user names.

    Args:
        base: None (rows of numbers), the name of an encoder, a run, a saved learner or model by its path, a learner, an
            encoder, or a module that gives features.
        norms: "support" or "trained": see `serve`.
        episodes: The validation tasks that calibrate a run, if its data are at hand.
        trust: Whether to run code of others that a run or a saved learner names.
    """
    check_norms(norms)
    episodes = as_integer("episodes", episodes, least=0)
    if isinstance(base, Base):
        return base
    if base is None:
        return TableBase()
    if isinstance(base, Learner):
        served, notes = serve(base, norms, "The learner")
        return LearnerBase(served, "the learner", notes)
    if isinstance(base, Run):
        base = base.path
    if isinstance(base, str | Path) and os.path.isfile(Path(base) / "config.yaml"):
        return _open_run(Run.open(base), norms, episodes, trust)
    if isinstance(base, str | Path) and is_model(Path(base)):
        return _open_saved(Path(base), norms, trust)
    if base in SHIPPED:
        return _open_saved(Path(__file__).parent / "shipped" / base, norms, trust)
    try:
        return EncoderBase(open_encoder(base))
    except InputError as refusal:
        if isinstance(base, str | Path) and ":" not in str(base) and str(base) not in ENCODERS:
            near = suggest_nearest(str(base), SHIPPED)
            raise InputError(
                f"{refusal} Nor is {str(base)!r} the path of a run or of a saved learner, or a learner that comes with "
                f"quickstudy. {near}"
            ) from refusal
        raise


def _open_run(run: Run, norms: str, episodes: int, trust: bool) -> LearnerBase:
    learner, notes = serve(load(run.path, trust=trust), norms, run.path.name)
    return LearnerBase(learner, run.path.name, notes, find_tasks(run) if episodes else None, episodes)


def find_tasks(run: Run) -> TaskFamily | None:
    """The tasks of a run, if their data are still there."""
    try:
        return build_tasks(parse_config(complete_run(run.config)).tasks)[0]
    except (InputError, RunError):
        return None


def _open_saved(path: Path, norms: str, trust: bool) -> Base:
    values, _ = read_model(path)
    if values.get("kind") == "learner":
        learner, notes = serve(load_learner(path, trust=trust), norms, path.name)
        return LearnerBase(learner, path.name, notes)
    raise InputError(
        f"{path} is a model that has been taught already. Teach it more by `quickstudy update` (in Python "
        "quickstudy.open and its `update`), or teach its base again: give "
        "the run, the learner or the encoder that it was made from."
    )


def open_known_encoder(name: str, digest: str, whose: str, given: Any = None) -> Encoder:
    """The encoder of a name, if its hash is the one that is known.

    Args:
        name: Its name.
        digest: Its hash.
        whose: What was taught on its features, for the message.
        given: What the user gives in its place.
    """
    encoder = open_encoder(name if given is None else given)
    if encoder.digest != digest:
        raise InputError(
            f"{whose} reads features of the encoder {name!r} with the hash {digest[:12]}, and this one has "
            f"{encoder.digest[:12]}: its weights or its preparation are others, so its features mean something else. "
            "Install the version that was used, or teach the examples again."
        )
    return encoder


def save_taught(path: Path, base: Base, config: Mapping[str, Any], examples: Mapping[str, Tensor]) -> None:
    """Write a model that was taught, with its base. Code that the base names is the user's own from now on."""
    check_norms(config["norms"])
    write_model(path, {**config, "base": base.describe()}, {**examples, **base.tensors()})
    if isinstance(base, LearnerBase) and base.learner.blueprint is not None:
        remember(code_parts(base.learner.blueprint))


def canonical_order(x: Tensor, y: Tensor) -> Tensor:
    """An order of examples that depends on what they are, and not on how they were given: by y, then by their bytes.

    Sums over examples have other roundings in another order, and gradient steps make these larger.
    """
    keys = [(row.tolist(), own.numpy().tobytes()) for row, own in zip(y, x, strict=True)]
    return torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))


def count_distinct(x: Tensor, y: Tensor) -> list[int]:
    """The examples of each class, of which those that are the same count once: they say no more than one of them.

    >>> count_distinct(torch.tensor([[1.0], [1.0], [2.0], [1.0]]), torch.tensor([0, 0, 0, 1]))
    [2, 1]
    """
    kinds = [{own.numpy().tobytes() for own in x[y == number]} for number in range(int(y.max()) + 1)]
    return [len(kind) for kind in kinds]


def typical_shots(counts: Sequence[int]) -> int:
    """One number for unequal shots: their harmonic mean, because a class with few examples is the one that errs.

    >>> typical_shots([1, 1, 10]), typical_shots([5, 5])
    (1, 5)
    """
    return max(1, round(len(counts) / sum(1 / count for count in counts)))
