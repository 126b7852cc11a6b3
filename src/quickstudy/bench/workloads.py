"""The cases that are measured: tasks with the shapes of published ones.

Images are noise and labels are arbitrary, since no kernel's time depends on them. So no data set is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.methods.learner import Learner
from quickstudy.methods.registry import RECIPES
from quickstudy.models import nets
from quickstudy.tasks import Sine
from quickstudy.types import Examples, Shape, Task

BENCH_METHODS = ("maml", "mtnet", "wormhole", "hypermaml")
PHASES = ("train", "evaluate")


@dataclass(frozen=True)
class Workload:
    """A model and the shape of its tasks."""

    about: str  # for people
    net: Callable[[], nn.Module]
    inputs: Shape  # of one input
    ways: int  # classes in a task; 0 for regression
    shots: int  # support examples (of each class), unless a case has its own number
    queries: int  # query examples (of each class)
    inner_lr: float = 0.01  # so small that a hundred steps stay finite

    @property
    def loss(self) -> str:
        """The name of the loss."""
        return "cross_entropy" if self.ways else "mse"


def _image_workload(name: str, inputs: Shape, ways: int, filters: int) -> Workload:
    def net() -> nn.Module:
        return nets.conv4(inputs, ways, filters=filters)

    size = "x".join(map(str, inputs))
    return Workload(f"{name}: Conv4-{filters}, {ways}-way, images {size}", net, inputs, ways, shots=1, queries=15)


WORKLOADS = {
    "sine": Workload("sine waves: MLP 1-40-40-1", lambda: nets.mlp(1, 1), (1,), 0, shots=10, queries=10),
    "omniglot": _image_workload("Omniglot-shaped", (1, 28, 28), 5, 64),
    "omniglot20": _image_workload("Omniglot-shaped", (1, 28, 28), 20, 64),
    "mini32": _image_workload("mini-ImageNet-shaped", (3, 84, 84), 5, 32),
    "mini64": _image_workload("mini-ImageNet-shaped", (3, 84, 84), 5, 64),
}


@dataclass(frozen=True)
class Case:
    """What is measured: a training step, or an evaluation, of a method on a batch of tasks."""

    workload: str  # of `WORKLOADS`
    method: str = "maml"
    tasks: int = 4  # in the batch
    steps: int = 1  # inner steps; HyperMAML takes none
    phase: str = "train"  # a meta-gradient and a step of Adam, or "evaluate": query losses without a gradient
    shots: int = 0  # 0: the workload's
    queries: int = 0  # 0: the workload's

    def __post_init__(self) -> None:
        for what, given, known in (
            ("workload", self.workload, WORKLOADS),
            ("method", self.method, BENCH_METHODS),
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


def build_learner(case: Case, dtype: torch.dtype = torch.float32) -> Learner:
    """The case's learner, as a user builds it. It has the same parameters every time."""
    load = case.load
    steps: dict[str, Any] = {"inner_lr": load.inner_lr, "inner_steps": case.steps}
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)  # for step sizes too: 0.01 in single precision is another number
        try:
            options = {} if case.method == "hypermaml" else steps
            made: Learner = RECIPES[case.method](load.net(), loss=load.loss, **options)
        finally:
            torch.set_default_dtype(before)
    return made


def draw_case_tasks(case: Case, dtype: torch.dtype = torch.float32) -> Task:
    """The case's tasks. They are the same every time."""
    load = case.load
    if not load.ways:
        waves = Sine(case.shots, case.queries).source("train", size=case.tasks)(0)
        return waves._replace(support=_cast(waves.support, dtype), query=_cast(waves.query, dtype))
    draw = torch.Generator().manual_seed(0)

    def examples(each: int) -> Examples:
        y = torch.arange(load.ways).repeat(each).expand(case.tasks, -1).contiguous()
        x = torch.randn(*y.shape, *load.inputs, generator=draw)
        return Examples(x.to(dtype), y)

    return Task(examples(case.shots), examples(case.queries), torch.arange(case.tasks), {})


def _cast(examples: Examples, dtype: torch.dtype) -> Examples:
    return Examples(examples.x.to(dtype), examples.y.to(dtype))
