"""MAML in other libraries, each in its own usual style. A library that is not installed is left out.

All compute with a copy of the case's model and tasks, and must agree with the same float64 meta-gradient.
"""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from quickstudy.bench.implementations import TaskLoop
from quickstudy.bench.plain import Predict
from quickstudy.errors import InputError
from quickstudy.types import Examples


class Peer(TaskLoop):
    """Another library, in a loop over tasks."""

    methods = ("maml",)
    package = ""

    def prepare(self) -> None:
        if find_spec(self.package) is None:
            raise InputError(f"{self.package} is not installed")
        weights = {n.removeprefix("head."): p.detach().clone() for n, p in self.learner.meta_params().items()}
        self.net = self.case.load.net().to(next(iter(weights.values())).dtype)
        self.net.load_state_dict(weights)
        self.leaves: list[Tensor] = list(self.net.parameters())
        self.begin()

    @abstractmethod
    def begin(self) -> None:
        """Build the library's own objects."""

    def parameters(self) -> list[Tensor]:
        return self.leaves


class Higher(Peer):
    """higher (Grefenstette et al., 2019): a patched copy of the model and a differentiable SGD."""

    package = "higher"

    def begin(self) -> None:
        self.inner = torch.optim.SGD(self.net.parameters(), lr=self.case.load.inner_lr)

    @contextmanager
    def adapt(self, i: int, support: Examples, training: bool) -> Iterator[Predict]:
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
    def adapt(self, i: int, support: Examples, training: bool) -> Iterator[Predict]:
        import torchopt

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
    def adapt(self, i: int, support: Examples, training: bool) -> Iterator[Predict]:
        clone: Any = self.maml.clone()
        for _ in range(self.case.steps):
            clone.adapt(self.loss(clone(support.x), support.y), first_order=not training)
        yield clone
