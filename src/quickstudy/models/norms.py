"""Normalisations whose meta-gradients stay right under `vmap`, and the pass that puts them into any model.

In torch 2.13 an affine native batch, layer or instance norm inside `vmap` gives a silently wrong second-order
gradient when the outer gradient is taken over the vmapped result (relative error 3e-2 for batch norm); without the
affine part it is exact. So the safe norms call the native kernel without scale and bias and apply those outside.
Only the class of a module changes: its parameters, their names and the state dict's keys stay what they were.

Batch norms keep the statistics of each (task, half): support and query are normalised apart, each by its own batch.
That is MAML's convention, and transductive: a prediction depends on what else is in the batch. Under "support" the
support set's statistics, taken once after adaptation, serve every prediction, which then depends on nothing else.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.engine.autodiff import outside_transforms
from quickstudy.errors import InputError
from quickstudy.models.batchnorm_gradient import batch_norm
from quickstudy.models.surgery import replace_modules, with_class
from quickstudy.rules.params import broadcast_rows
from quickstudy.types import Params

POLICIES = ("batch", "support", "per_step", "running")


_BATCH = nn.modules.batchnorm._BatchNorm


def _affine(module: Any, x: Tensor, channels: bool) -> Tensor:
    """Scale and bias, outside the kernel: per channel (axis 1), or over the trailing axes."""
    for name, apply in (("weight", torch.mul), ("bias", torch.add)):
        value = getattr(module, name, None)
        if value is not None:
            x = apply(x, broadcast_rows(value, tuple(value.shape) + (1,) * (x.ndim - 2)) if channels else value)
    return x


class SafeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm by the statistics of the batch it is given; running statistics are neither read nor written."""

    def forward(self, input: Tensor) -> Tensor:
        if outside_transforms():  # the affine kernel is right then, and reads its input once
            return batch_norm(input, self.weight, self.bias, self.eps)
        normal = F.batch_norm(input, None, None, None, None, True, 0.0, self.eps)
        return _affine(self, normal, channels=True)


def _by(module: nn.modules.batchnorm._BatchNorm, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Batch norm by given statistics."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale = (var + module.eps).rsqrt().reshape(shape)
    return _affine(module, (x - mean.reshape(shape)) * scale, channels=True)


class FrozenBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm by its running statistics, which stay as they are."""

    def forward(self, input: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        return _by(self, input, self.running_mean, self.running_var)


class SupportBatchNorm(SafeBatchNorm):
    """Batch norm by the support set's statistics where a task has put them, and by its batch's own until then.

    The two buffers are empty in a learner, hence absent from its state dict; an adapted module holds its task's.
    """

    support_mean: Tensor | None
    support_var: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        if self.support_mean is None or self.support_var is None:
            return super().forward(input)
        return _by(self, input, self.support_mean, self.support_var)


STATISTICS = ("support_mean", "support_var")


def statistics_of(norm: str) -> list[str]:
    """The names of a norm's mean and variance, given its own.

    >>> statistics_of("body:block0.norm"), statistics_of("head:")
    (['body:block0.norm.support_mean', 'body:block0.norm.support_var'], ['head:support_mean', 'head:support_var'])
    """
    return [f"{norm}.{buffer}".replace(":.", ":") for buffer in STATISTICS]


def support_norms(model: nn.Module) -> dict[str, SupportBatchNorm]:
    """The norms that wait for a support set, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, SupportBatchNorm)}


def keep_statistics(model: nn.Module, statistics: Params) -> None:
    """Put statistics where norms wait for them, for good."""
    for name, value in statistics.items():
        norm, _, buffer = name.rpartition(".")
        setattr(model.get_submodule(norm), buffer, value)


@contextmanager
def record_statistics(norms: Mapping[str, SupportBatchNorm]) -> Iterator[Params]:
    """The statistics of what each norm is given inside the context, under the names of its two buffers.

    The variance is the biased one, as a batch norm uses it: the pass that is recorded and the same pass by what was
    recorded are one function.
    """
    statistics: Params = {}

    def record(name: str, x: Tensor) -> None:
        own = statistics_of(name)
        if own[0] in statistics:
            raise InputError(
                f"`norms` is 'support', but {name} runs more than once in a forward pass, each time on something else, "
                "so it has no one mean. Give each place a norm of its own, or use norms='batch'."
            )
        axes = (0, *range(2, x.ndim))
        statistics.update(zip(own, (x.mean(axes), x.var(axes, correction=0)), strict=True))

    handles = [
        norm.register_forward_pre_hook(lambda module, args, name=name: record(name, args[0]))
        for name, norm in norms.items()
    ]
    try:
        yield statistics
    finally:
        for handle in handles:
            handle.remove()


class SafeLayerNorm(nn.LayerNorm):
    """Layer norm with its scale and bias outside the kernel."""

    def forward(self, input: Tensor) -> Tensor:
        return _affine(self, F.layer_norm(input, self.normalized_shape, None, None, self.eps), channels=False)


class SafeInstanceNorm(nn.modules.instancenorm._InstanceNorm):
    """Instance norm with its scale and bias outside the kernel."""

    def forward(self, input: Tensor) -> Tensor:
        batched = input.ndim - self._get_no_batch_dim()  # type: ignore[no-untyped-call]
        x = input if batched else input.unsqueeze(0)
        x = _affine(self, F.instance_norm(x, None, None, None, None, True, 0.0, self.eps), channels=True)
        return x if batched else x.squeeze(0)


class PerStepBatchNorm(SafeBatchNorm):
    """Batch norm by its batch's statistics, whose scale and bias are another at every inner step: `rules.per_step`."""


def per_step_params(model: nn.Module) -> Params:
    """The scales and biases of batch norms that train, by name: what has a value for every step under "per_step"."""
    inside = {id(p) for m in model.modules() if isinstance(m, _BATCH) for p in m.parameters(recurse=False)}
    return {name: p for name, p in model.named_parameters() if id(p) in inside and p.requires_grad}


_BY_POLICY: dict[str, type[nn.Module]] = {
    "batch": SafeBatchNorm,
    "support": SupportBatchNorm,
    "per_step": PerStepBatchNorm,
    "running": FrozenBatchNorm,
}


def _safe_class(module: nn.Module, statistics: str) -> type[nn.Module] | None:
    forward = type(module).forward  # a subclass that leaves the forward alone is the norm it comes from
    if forward in (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward):
        return _BY_POLICY[statistics]
    if forward is nn.LayerNorm.forward:
        return SafeLayerNorm
    if forward is nn.InstanceNorm2d.forward:
        return next(safe for kind, safe in _INSTANCE.items() if isinstance(module, kind))
    return None


class _SafeInstanceNorm1d(SafeInstanceNorm, nn.InstanceNorm1d):
    pass


class _SafeInstanceNorm2d(SafeInstanceNorm, nn.InstanceNorm2d):
    pass


class _SafeInstanceNorm3d(SafeInstanceNorm, nn.InstanceNorm3d):
    pass


_INSTANCE: dict[type[nn.Module], type[nn.Module]] = {
    nn.InstanceNorm1d: _SafeInstanceNorm1d,
    nn.InstanceNorm2d: _SafeInstanceNorm2d,
    nn.InstanceNorm3d: _SafeInstanceNorm3d,
}


def with_safe_norms(model: nn.Module, statistics: str = "batch") -> nn.Module:
    """A copy of `model` whose norms are safe under `vmap`; the same parameter names and state-dict keys.

    Args:
        model: Any module. Norms of a class of its own are left alone; `learner.check` says whether they are right.
        statistics: Of batch norms: "batch" (each half of each task by its own), "support" (both halves by the support
            set's), "per_step" (as "batch", with another scale and bias at every inner step) or "running" (the running
            ones, frozen).
    """
    if statistics not in POLICIES:
        raise InputError(f"Norm statistics are {', '.join(map(repr, POLICIES))}, not {statistics!r}.")
    model = deepcopy(model)
    replace = {}
    for name, module in model.named_modules():
        kind = _safe_class(module, statistics)
        if kind is FrozenBatchNorm and getattr(module, "running_mean", None) is None:
            raise InputError(
                f"Norm statistics were to be 'running', but {name or 'the model'} keeps none "
                "(track_running_stats=False). Use 'batch' or 'support', or a model trained with running statistics."
            )
        if kind is not None:
            replace[module] = with_class(module, kind)
    model = replace_modules(model, replace)
    for norm in support_norms(model).values():
        for buffer in STATISTICS:
            norm.register_buffer(buffer, None)
    return model


def refuse_per_step(norms: str, why: str) -> str:
    """The policy of a method in which all steps share their norms; "per_step" is refused."""
    if norms == "per_step":
        raise InputError(
            f"`norms` is 'per_step', but {why}. Use norms='batch', or a method of gradient steps through the norms, "
            "such as mamlpp or maml."
        )
    return norms


def describe_norms(modules: Iterable[nn.Module]) -> str:
    """The norm policy in words, as it is printed with every result."""
    kinds = {type(module) for module in modules}
    foreign = [k for k in kinds if issubclass(k, _BATCH) and not issubclass(k, SafeBatchNorm | FrozenBatchNorm)]
    if foreign:
        return f"as {', '.join(sorted(kind.__name__ for kind in foreign))} does it"
    if SupportBatchNorm in kinds:
        return "statistics of the support set, for queries too (not transductive)"
    if PerStepBatchNorm in kinds:
        return "batch statistics per task and half (transductive), a scale and bias for every inner step"
    if SafeBatchNorm in kinds:
        return "batch statistics per task and half (transductive)"
    if FrozenBatchNorm in kinds:
        return "running statistics, frozen"
    return "no batch statistics"


def is_transductive(model: nn.Module) -> bool:
    """Whether a prediction depends on what else is in its batch."""
    return any(type(module) in (SafeBatchNorm, PerStepBatchNorm) for module in model.modules())


class OneAtATime(UserWarning):
    """Said once by an adapted module that is given one image and normalises it by itself."""


@dataclass
class WarnsOfOne:
    """Before an adapted module runs: a batch of one has no batch statistics to speak of."""

    said: bool = False

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not self.said and args and len(args[0]) == 1:
            self.said = True
            warnings.warn(
                "This module normalises by the statistics of the batch it is given, and was given one example, so it "
                "predicts something else than it would in a batch. Build the learner with norms='support' "
                "(--method.norms support; 'running' for a model that has running statistics), or predict in batches "
                "like the query sets of training.",
                OneAtATime,
                stacklevel=4,
            )
