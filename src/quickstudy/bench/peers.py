"""MAML in other libraries, each in its own usual style. A library that is not installed is left out.

All compute with a copy of the case's model and tasks, and must agree with the same float64 meta-gradient.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.bench.implementations import Implementation
from quickstudy.errors import InputError
from quickstudy.types import Examples, pick

Predict = Callable[[Tensor], Tensor]
"""A model after adaptation: from inputs to outputs."""


class Peer(Implementation):
    """Another library, in a loop over tasks."""

    methods = ("maml",)
    package = ""

    def prepare(self) -> None:
        if find_spec(self.package) is None:
            raise InputError(f"{self.package} is not installed")
        load = self.case.load
        weights = {n.removeprefix("head."): p.detach().clone() for n, p in self.learner.meta_params().items()}
        self.net = load.net().to(next(iter(weights.values())).dtype)
        self.net.load_state_dict(weights)
        self.leaves: list[Tensor] = list(self.net.parameters())
        self.loss = F.cross_entropy if load.ways else F.mse_loss
        self.begin()

    @abstractmethod
    def begin(self) -> None:
        """Build the library's own objects."""

    @abstractmethod
    def adapt(self, support: Examples, training: bool) -> AbstractContextManager[Predict]:
        """Adapt to one task. After the `with` block the model is as it was."""

    def parameters(self) -> list[Tensor]:
        return self.leaves

    def run_task(self, support: Examples, query: Examples, training: bool) -> Tensor:
        """The query loss of one task. In training, its share of the gradient is added."""
        with self.adapt(support, training) as predict, torch.set_grad_enabled(training):
            loss = self.loss(predict(query.x), query.y)
            if training:
                (loss / len(self.tasks.key)).backward()  # type: ignore[no-untyped-call]
            return loss.detach()

    def run_tasks(self, training: bool) -> Tensor:
        """The query loss of each task."""
        halves = [pick((self.tasks.support, self.tasks.query), i) for i in range(len(self.tasks.key))]
        return torch.stack([self.run_task(support, query, training) for support, query in halves])

    def gradients(self) -> list[Tensor]:
        self.net.zero_grad()
        self.run_tasks(training=True)
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.leaves]

    def evaluate(self) -> Tensor:
        return self.run_tasks(training=False)


class Higher(Peer):
    """higher (Grefenstette et al., 2019): a patched copy of the model and a differentiable SGD."""

    package = "higher"

    def begin(self) -> None:
        self.inner = torch.optim.SGD(self.net.parameters(), lr=self.case.load.inner_lr)

    @contextmanager
    def adapt(self, support: Examples, training: bool) -> Iterator[Predict]:
        import higher

        options = {"copy_initial_weights": False, "track_higher_grads": training}
        with higher.innerloop_ctx(self.net, self.inner, **options) as (net, inner):
            for _ in range(self.case.steps):
                inner.step(self.loss(net(support.x), support.y))
            yield net


class TorchOpt(Peer):
    """TorchOpt (Ren et al., 2023): MetaSGD changes the model itself, and its state is put back after each task."""

    package = "torchopt"

    def begin(self) -> None:
        import torchopt

        self.inner = torchopt.MetaSGD(self.net, lr=self.case.load.inner_lr)

    @contextmanager
    def adapt(self, support: Examples, training: bool) -> Iterator[Predict]:
        import torchopt

        del training
        net = torchopt.extract_state_dict(self.net, by="reference", detach_buffers=True)
        state = torchopt.extract_state_dict(self.inner, by="reference")
        for _ in range(self.case.steps):
            self.inner.step(self.loss(self.net(support.x), support.y))
        yield self.net
        torchopt.recover_state_dict(self.net, net)
        torchopt.recover_state_dict(self.inner, state)


class Learn2Learn(Peer):
    """learn2learn (Arnold et al., 2020): clone the model, adapt the clone."""

    package = "learn2learn"

    def begin(self) -> None:
        maml = import_module("learn2learn").algorithms.MAML
        self.maml = maml(self.net, lr=self.case.load.inner_lr, first_order=False)

    @contextmanager
    def adapt(self, support: Examples, training: bool) -> Iterator[Predict]:
        clone: Any = self.maml.clone()
        for _ in range(self.case.steps):
            clone.adapt(self.loss(clone(support.x), support.y), first_order=not training)
        yield clone
