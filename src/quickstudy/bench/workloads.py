"""The cases that are measured: published shapes filled with synthetic tasks.

Images are noise and labels are arbitrary: no kernel's time depends on them, and no data set has to be there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.methods.learner import Learner
from quickstudy.methods.registry import RECIPES
from quickstudy.models import nets
from quickstudy.tasks import Sine
from quickstudy.types import Examples, Shape, Task

METHODS = ("maml", "mtnet", "wormhole", "hypermaml")
PHASES = ("train", "evaluate")


@dataclass(frozen=True)
class Workload:
    """A model and the shape of its tasks.

    Args:
        about: In words.
        net: Builds the model.
        inputs: The shape of one x.
        ways: Classes; 0 where a wave is regressed.
        shots: Support examples (of each class), unless a case says otherwise.
        queries: Query examples (of each class).
        inner_lr: The inner step size: small enough for a hundred steps to stay finite.
    """

    about: str
    net: Callable[[], nn.Module]
    inputs: Shape
    ways: int
    shots: int
    queries: int
    inner_lr: float = 0.01

    @property
    def loss(self) -> str:
        """The criterion by name."""
        return "cross_entropy" if self.ways else "mse"


def _images(name: str, inputs: Shape, ways: int, filters: int) -> Workload:
    def net() -> nn.Module:
        return nets.conv4(inputs, ways, filters=filters)

    size = "x".join(map(str, inputs))
    return Workload(f"{name}: Conv4-{filters}, {ways}-way, images {size}", net, inputs, ways, shots=1, queries=15)


WORKLOADS = {
    "sine": Workload("sine waves: MLP 1-40-40-1", lambda: nets.mlp(1, 1), (1,), 0, shots=10, queries=10),
    "omniglot": _images("Omniglot-shaped", (1, 28, 28), 5, 64),
    "omniglot20": _images("Omniglot-shaped", (1, 28, 28), 20, 64),
    "mini32": _images("mini-ImageNet-shaped", (3, 84, 84), 5, 32),
    "mini64": _images("mini-ImageNet-shaped", (3, 84, 84), 5, 64),
}


@dataclass(frozen=True)
class Case:
    """One thing to measure: a training step, or an evaluation, of a method on a batch of tasks.

    Args:
        workload: The model and the tasks, by name.
        method: By name.
        tasks: In one training step, or evaluated in one go.
        steps: Inner steps; HyperMAML emits its update and takes none.
        phase: "train" (a meta-gradient and a step of Adam) or "evaluate" (query losses, no gradient kept).
        shots: By default the workload's.
        queries: By default the workload's.
    """

    workload: str
    method: str = "maml"
    tasks: int = 4
    steps: int = 1
    phase: str = "train"
    shots: int = field(default=0)
    queries: int = field(default=0)

    def __post_init__(self) -> None:
        for what, given, known in (
            ("workload", self.workload, WORKLOADS),
            ("method", self.method, METHODS),
            ("phase", self.phase, PHASES),
        ):
            if given not in known:
                raise InputError(f"There is no {what} {given!r} to measure. {suggest_nearest(given, known)}")
        if self.method == "hypermaml" and not self.load.ways:
            raise InputError("HyperMAML emits the rows of a classifier, so there is none on sine waves.")
        for name in ("shots", "queries"):
            object.__setattr__(self, name, getattr(self, name) or getattr(self.load, name))

    @property
    def load(self) -> Workload:
        """The workload."""
        return WORKLOADS[self.workload]

    def __str__(self) -> str:
        steps = "" if self.method == "hypermaml" else f" K{self.steps}"
        shots = f" {self.shots}-shot" if self.load.ways else ""
        return f"{self.workload} {self.method}{steps}{shots} T{self.tasks} {self.phase}"


def learner(case: Case, dtype: torch.dtype = torch.float32) -> Learner:
    """The case's learner, as a user builds it; the same start every time."""
    load = case.load
    steps: dict[str, Any] = {"inner_lr": load.inner_lr, "inner_steps": case.steps}
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)  # step sizes too: .01 in single precision is another number
        try:
            options = {} if case.method == "hypermaml" else steps
            made: Learner = RECIPES[case.method](load.net(), loss=load.loss, **options)
        finally:
            torch.set_default_dtype(before)
    return made


def tasks(case: Case, dtype: torch.dtype = torch.float32) -> Task:
    """The case's tasks; the same every time."""
    load = case.load
    if not load.ways:
        waves = Sine(case.shots, case.queries).source("train", size=case.tasks)(0)
        return waves._replace(support=_to(waves.support, dtype), query=_to(waves.query, dtype))
    draw = torch.Generator().manual_seed(0)

    def examples(each: int) -> Examples:
        y = torch.arange(load.ways).repeat(each).expand(case.tasks, -1).contiguous()
        x = torch.randn(*y.shape, *load.inputs, generator=draw)
        return Examples(x.to(dtype), y)

    return Task(examples(case.shots), examples(case.queries), torch.arange(case.tasks), {})


def _to(examples: Examples, dtype: torch.dtype) -> Examples:
    return Examples(examples.x.to(dtype), examples.y.to(dtype))
