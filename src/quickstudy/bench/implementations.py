"""Implementations of a case, with one interface: a training step, an evaluation, and the meta-gradient of the step.

All start from the same parameters and the same tasks, and return their gradients in the order of
`learner.meta_params()`, so that they can be compared.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from quickstudy.bench import plain
from quickstudy.bench.workloads import BENCH_METHODS, Case, build_learner, draw_case_tasks
from quickstudy.engine import allocator
from quickstudy.engine.engine import Engine, channels_last
from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import BATCH
from quickstudy.training.train import MAX_PIECE
from quickstudy.types import Examples, Params, Task, pick

TINY_LR = 1e-6
"""Adam's step size: so small that the parameters, and with them the cost of a step, stay the same."""


class Implementation(ABC):
    """One implementation of one case: of the `part` of its tasks that this process computes.

    `engine` are options of the library's engine, for `Library` alone.
    """

    methods: ClassVar[tuple[str, ...]] = BENCH_METHODS

    def __init__(self, case: Case, dtype: torch.dtype, part: slice, engine: Mapping[str, Any]) -> None:
        if case.method not in self.methods:
            raise InputError(f"only {', '.join(self.methods)} is written with it")
        self.case = case
        self.learner = build_learner(case, dtype)
        self.learner.engine = Engine(**engine)
        self.tasks: Task = pick(draw_case_tasks(case, dtype), part)
        self.prepare()
        self.optimizer = torch.optim.Adam(self.parameters(), lr=TINY_LR)

    @abstractmethod
    def prepare(self) -> None:
        """Build everything that is not timed."""

    def parameters(self) -> list[Tensor]:
        """The parameters that a step changes, in the order of `learner.meta_params()`."""
        return list(self.learner.meta_params().values())

    @abstractmethod
    def gradients(self) -> list[Tensor]:
        """The gradient of the mean query loss over the tasks."""

    @abstractmethod
    def evaluate(self) -> Tensor:
        """The query loss of each task."""

    def run(self, times: int) -> None:
        """What is measured: so many training steps or evaluations, as the case says."""
        for _ in range(times):
            self.step(self.gradients()) if self.case.phase == "train" else self.evaluate()

    def step(self, grads: Sequence[Tensor]) -> None:
        """Take a training step along gradients. If several processes share the tasks, these are averaged."""
        if dist.is_initialized():
            flat = torch.cat([g.flatten() for g in grads])
            dist.all_reduce(flat)
            sizes = [g.numel() for g in grads]
            parts = torch.split(flat / dist.get_world_size(), sizes)
            grads = [part.view_as(g) for part, g in zip(parts, grads, strict=True)]
        for p, g in zip(self.parameters(), grads, strict=True):
            p.grad = g
        self.optimizer.step()


class Library(Implementation):
    """quickstudy, with the engine of the contender."""

    def prepare(self) -> None:
        if self.learner.engine.settings.recompute:
            allocator.return_freed_memory()  # as the command does

    def gradients(self) -> list[Tensor]:
        _, grads = self.learner.meta_gradient(self.tasks)
        return self.fill(grads)

    def fill(self, grads: Sequence[Tensor | None]) -> list[Tensor]:
        """Gradients with zeros where there is none."""
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters(), grads, strict=True)]

    def run(self, times: int) -> None:
        if self.case.phase != "train":
            super().run(times)
            return
        for begun in range(0, times, MAX_PIECE):  # as a training does
            steps = [self.tasks] * min(MAX_PIECE, times - begun)
            for _, grads in self.learner.meta_gradients(steps):
                self.step(self.fill(grads))

    def evaluate(self) -> Tensor:
        size = len(self.tasks.key)
        learner = self.learner.evaluation_twin()
        with torch.no_grad():
            parts = [pick(self.tasks, slice(i, i + BATCH)) for i in range(0, size, BATCH)]
            return torch.cat([learner(part, evaluating=True).loss for part in parts])


class TaskLoop(Implementation):
    """One task after the other, with a backward pass for each."""

    @property
    def loss(self) -> plain.PlainLoss:
        """The inner and the outer loss."""
        return F.cross_entropy if self.case.load.ways else F.mse_loss

    @abstractmethod
    def adapt(self, i: int, support: Examples, training: bool) -> AbstractContextManager[plain.Predict]:
        """Adapt to task i; the value is how to predict then. After the `with` block the model is as it was."""

    def run_tasks(self, training: bool) -> Tensor:
        """The query loss of each task. In training, its share of the gradient is added."""
        losses = []
        for i in range(len(self.tasks.key)):
            support = pick(self.tasks.support, i)
            with self.adapt(i, support, training) as predict, torch.set_grad_enabled(training):
                loss = self.loss(predict(self.tasks.query.x[i]), self.tasks.query.y[i])
                if training:
                    (loss / len(self.tasks.key)).backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach())
        return torch.stack(losses)

    def gradients(self) -> list[Tensor]:
        for p in self.parameters():
            p.grad = None
        self.run_tasks(training=True)
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters()]

    def evaluate(self) -> Tensor:
        return self.run_tasks(training=False)


def short_name(name: str) -> str:
    """The name that a learner's parameter has in the loops by hand.

    >>> short_name("head.block0.conv.weight"), short_name("body.block0.conv.weight")
    ('block0.conv.weight', 'block0.conv.weight')
    >>> short_name("rule.rate.logits.layer0/rows40")
    'layer0.logit'
    >>> short_name("rule.rules.0.network.layers.2.bias")
    'hyper.2.bias'
    """
    if name.startswith("rule.rate.logits."):
        return name.removeprefix("rule.rate.logits.").rpartition("/")[0].replace("/", ".") + ".logit"
    name = name.replace("rule.rules.0.network.layers.", "hyper.").removeprefix("body.")
    return name.removeprefix("head.") if name.count(".") > 1 else name


class ByHand(TaskLoop):
    """The methods of `plain`, with the learner's parameters."""

    def prepare(self) -> None:
        load = self.case.load
        net: plain.PlainNet = plain.plain_conv4 if load.ways else plain.plain_mlp
        named = {short_name(n): p.detach().clone().requires_grad_() for n, p in self.learner.meta_params().items()}
        self.hand = plain.Plain(named, net, self.loss, load.inner_lr, self.case.steps)
        self.noise: Params = {}

    def share_noise(self) -> None:
        """Use the learner's random draws instead of new ones, so that the gradients can be compared."""
        drawn = self.learner.draw(self.tasks)
        self.noise = {name.removeprefix("mask.").rpartition(".")[0] + ".logit": u for name, u in drawn.items()}

    def parameters(self) -> list[Tensor]:
        return list(self.hand.leaves.values())

    def adapt(self, i: int, support: Examples, training: bool) -> AbstractContextManager[plain.Predict]:
        logits = {name: p for name, p in self.hand.leaves.items() if name.endswith(".logit")}
        u = {name: self.noise[name][i] if self.noise else torch.rand_like(p) for name, p in logits.items()}
        return nullcontext(plain.PLAIN_METHODS[self.case.method](self.hand, support, u, training))


class Forward(TaskLoop):
    """The model alone, without adaptation, on all images of a task together. There is no training step."""

    def prepare(self) -> None:
        if self.case.phase != "evaluate":
            raise InputError("a forward pass has no training step")
        self.net = self.case.load.net().eval()

    def adapt(self, i: int, support: Examples, training: bool) -> AbstractContextManager[plain.Predict]:
        del i, training
        return nullcontext(lambda x: self.net(channels_last(torch.cat([support.x, x])))[len(support.x) :])
