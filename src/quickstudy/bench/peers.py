"""MAML as other libraries have it, each in its own usual style. A library that is not installed is left out.

They are given the very model and tasks of the case, and are held to the same float64 meta-gradient.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.bench.makers import Maker, split
from quickstudy.errors import InputError
from quickstudy.types import Examples


class Peer(Maker):
    """Another library's loop over tasks, around a copy of the case's model."""

    package = ""

    def prepare(self) -> None:
        if find_spec(self.package) is None:
            raise InputError(f"{self.package} is not installed")
        load = self.case.load
        named = {n.removeprefix("head."): p.detach().clone() for n, p in self.learner.meta_params().items()}
        self.net = load.net().to(next(iter(named.values())).dtype)
        self.net.load_state_dict(named)
        self.loss = F.cross_entropy if load.ways else F.mse_loss
        self.begin()

    def begin(self) -> None:
        """The library's own objects."""

    def parameters(self) -> list[Tensor]:
        return list(self.net.parameters())

    def task(self, support: Examples, query: Examples, training: bool) -> Tensor:
        """One task's query loss; in training, after a backward of its share."""
        raise NotImplementedError

    def share(self, loss: Tensor) -> Tensor:
        """A task's part of the outer loss, the mean."""
        return loss / len(self.tasks.key)

    def gradients(self) -> list[Tensor]:
        self.net.zero_grad()
        for i in range(len(self.tasks.key)):
            self.task(split(self.tasks.support, i), split(self.tasks.query, i), training=True)
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters()]

    def evaluate(self) -> Tensor:
        halves = [(split(self.tasks.support, i), split(self.tasks.query, i)) for i in range(len(self.tasks.key))]
        return torch.stack([self.task(support, query, training=False).detach() for support, query in halves])


class Higher(Peer):
    """higher (Grefenstette et al., 2019): a patched copy of the model and a differentiable SGD."""

    package = "higher"

    def begin(self) -> None:
        self.inner = torch.optim.SGD(self.net.parameters(), lr=self.case.load.inner_lr)

    def task(self, support: Examples, query: Examples, training: bool) -> Tensor:
        import higher

        with higher.innerloop_ctx(self.net, self.inner, copy_initial_weights=False, track_higher_grads=training) as (
            net,
            inner,
        ):
            for _ in range(self.case.steps):
                inner.step(self.loss(net(support.x), support.y))
            loss: Tensor = self.loss(net(query.x), query.y)
            if training:
                self.share(loss).backward()  # type: ignore[no-untyped-call]
            return loss.detach()


class TorchOpt(Peer):
    """TorchOpt (Ren et al., 2023): MetaSGD moves the model itself, and its state is put back after each task."""

    package = "torchopt"

    def begin(self) -> None:
        import torchopt

        self.inner = torchopt.MetaSGD(self.net, lr=self.case.load.inner_lr)
        self.leaves: list[Tensor] = list(self.net.parameters())

    def parameters(self) -> list[Tensor]:
        return self.leaves  # between a step and its recovery the model's own are no leaves

    def task(self, support: Examples, query: Examples, training: bool) -> Tensor:
        import torchopt

        net = torchopt.extract_state_dict(self.net, by="reference", detach_buffers=True)
        state = torchopt.extract_state_dict(self.inner, by="reference")
        for _ in range(self.case.steps):
            self.inner.step(self.loss(self.net(support.x), support.y))
        with torch.set_grad_enabled(training):
            loss: Tensor = self.loss(self.net(query.x), query.y)
        if training:
            self.share(loss).backward()  # type: ignore[no-untyped-call]
        torchopt.recover_state_dict(self.net, net)
        torchopt.recover_state_dict(self.inner, state)
        return loss.detach()


class Learn2Learn(Peer):
    """learn2learn (Arnold et al., 2020): clone the model, adapt the clone."""

    package = "learn2learn"

    def begin(self) -> None:
        self.maml = import_module("learn2learn").algorithms.MAML(
            self.net, lr=self.case.load.inner_lr, first_order=False
        )

    def task(self, support: Examples, query: Examples, training: bool) -> Tensor:
        clone: Any = self.maml.clone()
        for _ in range(self.case.steps):
            clone.adapt(self.loss(clone(support.x), support.y), first_order=not training)
        with torch.set_grad_enabled(training):
            loss: Tensor = self.loss(clone(query.x), query.y)
        if training:
            self.share(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()
