"""What a contender computes, in one shape: a training step, an evaluation, and the meta-gradient behind the step.

Every maker starts from the same learner's numbers and the same tasks, and gives its gradients in the order of
`learner.meta_params()`, so that they can be compared.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from quickstudy.bench import plain
from quickstudy.bench.workloads import Case, learner, tasks
from quickstudy.engine import allocator
from quickstudy.engine.engine import Engine, channels_last
from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import BATCH
from quickstudy.methods.learner import evaluation_mode
from quickstudy.types import Examples, Params, Task, pick

STILL = 1e-6
"""Adam's step size: a step costs the same at any, and at this one the thousandth costs what the first did."""


class Maker(ABC):
    """One implementation of one case.

    Args:
        case: What is computed.
        dtype: Of parameters and tasks.
        part: Which of the case's tasks are this process's.
    """

    methods: ClassVar[tuple[str, ...]] = ("maml",)

    def __init__(self, case: Case, dtype: torch.dtype, part: slice, options: Mapping[str, Any]) -> None:
        if case.method not in self.methods:
            raise InputError(f"only {', '.join(self.methods)} is written with it")
        self.case = case
        self.options = dict(options)
        self.learner = learner(case, dtype)
        self.tasks: Task = pick(tasks(case, dtype), part)
        self.prepare()
        self.optimizer = torch.optim.Adam(self.parameters(), lr=STILL)

    @abstractmethod
    def prepare(self) -> None:
        """Build what is not to be timed."""

    def parameters(self) -> list[Tensor]:
        """What the step moves, in the order of `learner.meta_params()`."""
        return list(self.learner.meta_params().values())

    @abstractmethod
    def gradients(self) -> list[Tensor]:
        """The gradient of the mean query loss over the tasks."""

    @abstractmethod
    def evaluate(self) -> Tensor:
        """The query loss of each task."""

    def train(self) -> None:
        """One training step; where several processes share the tasks, their gradients are averaged."""
        grads = self.gradients()
        if dist.is_initialized():
            flat = torch.cat([g.flatten() for g in grads])
            dist.all_reduce(flat)
            sizes = [g.numel() for g in grads]
            parts = torch.split(flat / dist.get_world_size(), sizes)
            grads = [part.view_as(g) for part, g in zip(parts, grads, strict=True)]
        for p, g in zip(self.parameters(), grads, strict=True):
            p.grad = g
        self.optimizer.step()


class Library(Maker):
    """quickstudy, under the engine that the options describe."""

    methods = ("maml", "mtnet", "wormhole", "hypermaml")

    def prepare(self) -> None:
        known = {field.name for field in fields(Engine)}
        missing = [name for name in self.options if name not in known]
        if missing:
            raise InputError(f"this engine has no `{missing[0]}`")
        self.learner.engine = Engine(**self.options)
        if self.learner.engine.recompute:
            allocator.return_freed_memory()  # as the command does

    def gradients(self) -> list[Tensor]:
        _, grads = self.learner.meta_gradient(self.tasks)
        params = self.parameters()
        return [torch.zeros_like(p) if g is None else g for p, g in zip(params, grads, strict=True)]

    def evaluate(self) -> Tensor:
        size = len(self.tasks.key)
        with torch.no_grad(), evaluation_mode(self.learner):
            parts = [pick(self.tasks, slice(i, i + BATCH)) for i in range(0, size, BATCH)]
            return torch.cat([self.learner(part, evaluating=True).loss for part in parts])


def short(name: str) -> str:
    """A learner's name of a parameter, as the hand-written loops have it.

    >>> short("head.block0.conv.weight"), short("body.block0.conv.weight"), short("rule.rate.logits.layer0/rows40")
    ('block0.conv.weight', 'block0.conv.weight', 'layer0.logit')
    >>> short("rule.rules.0.network.layers.2.bias")
    'hyper.2.bias'
    """
    if name.startswith("rule.rate.logits."):
        return name.removeprefix("rule.rate.logits.").rpartition("/")[0].replace("/", ".") + ".logit"
    name = name.replace("rule.rules.0.network.layers.", "hyper.").removeprefix("body.")
    return name.removeprefix("head.") if name.count(".") > 1 else name


class ByHand(Maker):
    """The loop of `plain`, from the learner's numbers."""

    methods = ("maml", "mtnet", "wormhole", "hypermaml")

    def prepare(self) -> None:
        load = self.case.load
        net: plain.Net = plain.conv4 if load.ways else plain.mlp
        loss: plain.Loss = F.cross_entropy if load.ways else F.mse_loss
        named = {short(n): p.detach().clone().requires_grad_() for n, p in self.learner.meta_params().items()}
        self.hand = plain.BY_HAND[self.case.method](named, net, loss, load.inner_lr, self.case.steps)
        self.noise: list[Params] | None = None

    def share_noise(self) -> None:
        """Read the learner's own draws instead of fresh ones: gradients can be compared only then."""
        drawn = self.learner.draw(self.tasks)
        named = {name.removeprefix("mask.").rpartition(".")[0] + ".logit": u for name, u in drawn.items()}
        self.noise = [{name: u[i] for name, u in named.items()} for i in range(len(self.tasks.key))]

    def parameters(self) -> list[Tensor]:
        return list(self.hand.leaves.values())

    def gradients(self) -> list[Tensor]:
        return self.hand.gradients(self.tasks.support, self.tasks.query, self.noise)

    def evaluate(self) -> Tensor:
        return self.hand.evaluate(self.tasks.support, self.tasks.query, self.noise)


class Forward(Maker):
    """No adaptation at all: the model on a task's images together in the library's layout; evaluation only."""

    methods = ("maml", "mtnet", "wormhole", "hypermaml")

    def prepare(self) -> None:
        if self.case.phase != "evaluate":
            raise InputError("a forward pass has no training step")
        self.net = self.case.load.net().eval()
        (self.support, self.query) = (self.tasks.support, self.tasks.query)

    def gradients(self) -> list[Tensor]:
        raise InputError("a forward pass has no meta-gradient")

    def evaluate(self) -> Tensor:
        losses = []
        with torch.no_grad():
            for i in range(len(self.tasks.key)):
                out = self.net(channels_last(torch.cat([self.support.x[i], self.query.x[i]])))
                losses.append(self.learner.criterion(out[len(self.support.x[i]) :], self.query.y[i]))
        return torch.stack(losses)


def split(examples: Examples, i: int) -> Examples:
    """The examples of one task."""
    return Examples(examples.x[i], examples.y[i])
