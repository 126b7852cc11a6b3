"""Norms whose meta-gradients are right under `vmap`, and the function that puts them into any model.

In torch 2.13 an affine native batch, layer or instance norm inside `vmap` gives a wrong second-order gradient, without
an error, when the outer gradient is taken of the vmapped result (relative error 3e-2 for batch norm). Without scale and
bias it is exact. So the safe norms call the native kernel without them and apply them afterwards. Only the class of a
module changes: its parameters, their names and the keys of the state dict stay.

Batch norms normalise support and query separately, each by the statistics of its own batch. This is MAML's convention.
It is transductive: a prediction depends on the other examples of its batch. Under "support", the statistics of the
support set are taken once, after adaptation, and serve every prediction, which then depends on its own example only.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.engine.second_derivatives import scale_and_shift
from quickstudy.engine.twin import copy_module
from quickstudy.errors import InputError
from quickstudy.models.batchnorm_gradient import batch_norm
from quickstudy.models.surgery import change_class, refuse_parameter_hooks
from quickstudy.models.tail import LARGEST_WINDOW, tail, takes_loops
from quickstudy.rules.torch_private import (
    AnyBatchNorm,
    AnyInstanceNorm,
    axes_of_one_example,
    has_hooks,
    is_tracing,
    outside_transforms,
)
from quickstudy.types import Params

M = TypeVar("M", bound=nn.Module)

NORM_POLICIES = ("batch", "support", "per_step", "running")


class SafeBatchNorm(AnyBatchNorm):
    """Batch norm by the statistics of its batch; running statistics are neither read nor written."""

    any_layout = True
    keeps_buffers = True

    def forward(self, input: Tensor) -> Tensor:
        if outside_transforms():  # the affine kernel is right then, and faster
            return batch_norm(input, self.weight, self.bias, self.eps)
        normal = F.batch_norm(input, None, None, None, None, True, 0.0, self.eps)
        return scale_and_shift(normal, self.weight, self.bias, 1)


def _normalise_by(module: AnyBatchNorm | AnyInstanceNorm, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """A norm of channels by given statistics."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale = (var + module.eps).rsqrt().reshape(shape)
    return scale_and_shift((x - mean.reshape(shape)) * scale, module.weight, module.bias, 1)


class FrozenBatchNorm(AnyBatchNorm):
    """Batch norm by its running statistics, which do not change."""

    any_layout = True
    keeps_buffers = True

    def forward(self, input: Tensor) -> Tensor:
        return _normalise_by_running(self, input)


class SupportBatchNorm(SafeBatchNorm):
    """Batch norm by the statistics of a task's support set, once they are set; until then by those of the batch.

    In a learner the two buffers are empty and so not in its state dict; an adapted module holds its task's statistics.
    """

    any_layout = True
    keeps_buffers = True
    support_mean: Tensor | None
    support_var: Tensor | None
    recorder: Callable[[Tensor], None] | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self.recorder is not None:
            self.recorder(input)
        if self.support_mean is None or self.support_var is None:
            return super().forward(input)
        return _normalise_by(self, input, self.support_mean, self.support_var)


STATISTICS_BUFFERS = ("support_mean", "support_var")


def statistics_names(norm: str) -> list[str]:
    """The names of the mean and the variance of a norm, by the norm's name.

    >>> statistics_names("body:block0.norm"), statistics_names("head:")
    (['body:block0.norm.support_mean', 'body:block0.norm.support_var'], ['head:support_mean', 'head:support_var'])
    """
    return [f"{norm}.{buffer}".replace(":.", ":") for buffer in STATISTICS_BUFFERS]


def support_norms(model: nn.Module) -> dict[str, SupportBatchNorm]:
    """The norms that take the statistics of a support set, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, SupportBatchNorm)}


def store_statistics(model: nn.Module, statistics: Params) -> None:
    """Set the statistics of the norms of a model, which changes."""
    for name, value in statistics.items():
        norm, _, buffer = name.rpartition(".")
        setattr(model.get_submodule(norm), buffer, value)


def record_statistics(twin: nn.Module, mark: str, statistics: Params) -> None:
    """Have the norms of a twin that take a support set's statistics record those of their inputs.

    The variance is the biased one that a batch norm uses, so that the recorded forward pass and the same pass with the
    recorded statistics give the same output.

    Args:
        twin: A twin, made for one call: the norms of a learner itself record nothing.
        mark: Begins the names of the statistics.
        statistics: Where they are put, under the names of the norms' two buffers.
    """

    def record(name: str, x: Tensor) -> None:
        own, axes = statistics_names(name), (0, *range(2, x.ndim))
        mean, var = x.mean(axes), x.var(axes, correction=0)
        if own[0] in statistics:
            if outside_transforms() and torch.equal(mean, statistics[own[0]]):  # a checkpoint runs again
                return
            raise InputError(
                f"`norms` is 'support', but {name} runs more than once in a forward pass, each time on another input, "
                "so it has more than one mean. Use a separate norm for each call, or norms='batch'."
            )
        statistics.update(zip(own, (mean, var), strict=True))

    for name, norm in support_norms(twin).items():
        norm.recorder = partial(record, f"{mark}{name}")


class SafeLayerNorm(nn.LayerNorm):
    """Layer norm with its scale and bias outside the kernel."""

    def forward(self, input: Tensor) -> Tensor:
        return scale_and_shift(
            F.layer_norm(input, self.normalized_shape, None, None, self.eps), self.weight, self.bias, None
        )


def _in_a_batch(norm: AnyInstanceNorm, input: Tensor, normalise: Callable[[AnyInstanceNorm, Tensor], Tensor]) -> Tensor:
    """The norm of a batch of examples, or of one example without a batch axis."""
    if input.ndim - axes_of_one_example(norm):
        return normalise(norm, input)
    return normalise(norm, input.unsqueeze(0)).squeeze(0)


def _normalise_each(norm: AnyInstanceNorm, x: Tensor) -> Tensor:
    normal = F.instance_norm(x, None, None, None, None, True, 0.0, norm.eps)
    return scale_and_shift(normal, norm.weight, norm.bias, 1)


def _normalise_by_running(norm: AnyBatchNorm | AnyInstanceNorm, x: Tensor) -> Tensor:
    assert norm.running_mean is not None and norm.running_var is not None
    return _normalise_by(norm, x, norm.running_mean, norm.running_var)


class SafeInstanceNorm(AnyInstanceNorm):
    """Instance norm with its scale and bias outside the kernel."""

    def forward(self, input: Tensor) -> Tensor:
        return _in_a_batch(self, input, _normalise_each)


class FrozenInstanceNorm(SafeInstanceNorm):
    """Instance norm by its running statistics, which do not change."""

    def forward(self, input: Tensor) -> Tensor:
        return _in_a_batch(self, input, _normalise_by_running)


class PerStepBatchNorm(SafeBatchNorm):
    """Batch norm by the statistics of its batch, with another scale and bias at every inner step: see `PerStep`."""

    any_layout = True
    keeps_buffers = True


class TailSequential(nn.Sequential):
    """Modules in a row; a batch norm and the pooling and activation behind it run as one where they can: `models.tail`.

    The modules, their names and their parameters stay, and so does what they compute, up to rounding.
    """

    any_layout = True

    def forward(self, input: Any) -> Any:
        layers, i = list(self), 0
        while i < len(layers):
            layer = layers[i]
            end, slope, window = _tail_of(layers, i)
            if (
                end > i + 1
                and isinstance(layer, SafeBatchNorm)
                and _only_normalises(layer)
                and takes_loops(input, layer.weight, layer.bias, window)
            ):
                input = tail(input, layer.weight, layer.bias, layer.eps, slope, window)
                i = end
            else:
                input = layer(input)
                i += 1
        return input


def _only_normalises(norm: SafeBatchNorm) -> bool:
    """Whether a call does nothing but normalise by the statistics of the batch."""
    if has_hooks(norm) or type(norm).__call__ is not nn.Module.__call__:
        return False
    return not isinstance(norm, SupportBatchNorm) or (norm.recorder is None and norm.support_mean is None)


def _tail_of(layers: Sequence[nn.Module], start: int) -> tuple[int, float, int]:
    """Where the tail ends that begins with a batch norm at `start`, its slope below 0, and the side of its windows.

    One activation and one pooling belong to it, in either order: both keep the order of numbers.
    """
    end, slope, window = start + 1, 1.0, 1
    if not isinstance(layers[start], AnyBatchNorm):
        return end, slope, window
    for module in layers[start + 1 : start + 3]:
        if has_hooks(module):
            break
        if slope == 1 and type(module) is nn.ReLU:
            slope = 0.0
        elif slope == 1 and type(module) is nn.LeakyReLU and module.negative_slope >= 0:
            slope = float(module.negative_slope)
        elif window == 1 and type(module) is nn.MaxPool2d and _side_of(module):
            window = _side_of(module)
        else:
            break
        end += 1
    return end, slope, window


def _side_of(pool: nn.MaxPool2d) -> int:
    """The side of square windows that lie side by side; 0 for others."""
    sides = {
        side for size in (pool.kernel_size, pool.stride) for side in (size if isinstance(size, tuple) else (size,))
    }
    is_plain = not pool.ceil_mode and not pool.return_indices and pool.padding in (0, (0, 0))
    side = sides.pop()
    return side if is_plain and not sides and pool.dilation in (1, (1, 1)) and side <= LARGEST_WINDOW else 0


def per_step_params(model: nn.Module) -> Params:
    """The scales and biases of batch norms that train, by name: under "per_step" they have a value for each step."""
    inside = {id(p) for m in model.modules() if isinstance(m, AnyBatchNorm) for p in m.parameters(recurse=False)}
    return {name: p for name, p in model.named_parameters() if id(p) in inside and p.requires_grad}


_BATCH_NORM_BY_POLICY: dict[str, type[nn.Module]] = {
    "batch": SafeBatchNorm,
    "support": SupportBatchNorm,
    "per_step": PerStepBatchNorm,
    "running": FrozenBatchNorm,
}


def _safe_class(module: nn.Module, statistics: str) -> type[nn.Module] | None:
    if isinstance(module, torch.jit.ScriptModule):
        return None
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        layers = list(module)
        has_tail = any(_tail_of(layers, i)[0] > i + 1 for i in range(len(layers)))
        return TailSequential if has_tail else None
    forward = type(module).forward  # a subclass with the same forward is the same norm
    if forward in (SafeBatchNorm.forward, SupportBatchNorm.forward, FrozenBatchNorm.forward):  # made safe before
        return _BATCH_NORM_BY_POLICY[statistics]
    if forward in (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward):
        return _BATCH_NORM_BY_POLICY[statistics]
    if forward is nn.LayerNorm.forward:
        return SafeLayerNorm
    if forward in (nn.InstanceNorm2d.forward, SafeInstanceNorm.forward, FrozenInstanceNorm.forward):
        keeps = statistics == "running" and getattr(module, "running_mean", None) is not None
        return FrozenInstanceNorm if keeps else SafeInstanceNorm
    return None


def with_safe_norms(model: nn.Module, statistics: str = "batch") -> nn.Module:
    """A copy of `model` whose norms are safe under `vmap`, with the same parameter names and state-dict keys.

    Args:
        model: Any module. A norm of a class of the user's own stays; `learner.check` tests whether it is right.
        statistics: The statistics of batch norms: "batch" (support and query each by their own), "support" (both by the
            support set's), "per_step" (as "batch", with another scale and bias at every inner step) or "running" (the
            running statistics, which do not change). An instance norm takes those of each example, and under "running"
            its running statistics if it keeps them.
    """
    if statistics not in NORM_POLICIES:
        raise InputError(f"Norm statistics are {', '.join(map(repr, NORM_POLICIES))}, not {statistics!r}.")
    refuse_parameter_hooks(model)
    model = copy_module(model)
    for name, module in model.named_modules():
        kind = _safe_class(module, statistics)
        if kind is FrozenBatchNorm and getattr(module, "running_mean", None) is None:
            raise InputError(
                f"Norm statistics are 'running', but {name or 'the model'} keeps none "
                "(track_running_stats=False). Use 'batch' or 'support', or a model trained with running statistics."
            )
        if kind is not None:
            change_class(module, kind)
    _add_statistics(model)
    return model


def _add_statistics(model: nn.Module) -> None:
    """Give the norms by the support set their two buffers, empty until a task's statistics are known.

    Other batch norms have none, whatever they were before.
    """
    for norm in model.modules():
        if isinstance(norm, AnyBatchNorm):
            for buffer in STATISTICS_BUFFERS:
                if isinstance(norm, SupportBatchNorm):
                    norm.register_buffer(buffer, None)
                elif hasattr(norm, buffer):
                    delattr(norm, buffer)


def serve_by_support(model: M) -> M:
    """A copy whose batch norms take the statistics of the support set, so that no answer depends on its neighbours.

    Norms by running statistics, and models without batch norms, stay as they are.
    """
    if any(isinstance(module, PerStepBatchNorm) for module in model.modules()):
        raise InputError(
            "This learner was trained with norms='per_step', which normalises queries by each other, and it has no "
            "other statistics. Serve it as it was trained (norms='trained'), or train it with norms='support'."
        )
    model = copy_module(model)
    for module in filter(_is_transductive, model.modules()):
        change_class(module, SupportBatchNorm)
    _add_statistics(model)
    return model


def refuse_per_step(norms: str, why: str) -> str:
    """The given policy, for a method whose steps all use the same norms; "per_step" is an error."""
    if norms == "per_step":
        raise InputError(
            f"`norms` is 'per_step', but {why}. Use norms='batch', or a method of gradient steps through the norms, "
            "such as mamlpp or maml."
        )
    return norms


def describe_norms(modules: Iterable[nn.Module]) -> str:
    """The norm policy in words; it is printed with every result."""
    kinds = {type(module) for module in modules}
    foreign = [k for k in kinds if issubclass(k, AnyBatchNorm) and not issubclass(k, SafeBatchNorm | FrozenBatchNorm)]
    if foreign:
        return f"the model's own ({', '.join(sorted(kind.__name__ for kind in foreign))})"
    for kind, words in {
        SupportBatchNorm: "statistics of the support set, for queries too (not transductive)",
        PerStepBatchNorm: "batch statistics per task and half (transductive), a scale and bias for every inner step",
        SafeBatchNorm: "batch statistics per task and half (transductive)",
    }.items():
        if any(issubclass(own, kind) for own in kinds):
            return words
    if any(issubclass(kind, FrozenBatchNorm | FrozenInstanceNorm) for kind in kinds):
        return "running statistics, frozen"
    return "no batch statistics"


def is_transductive(model: nn.Module) -> bool:
    """Whether a prediction depends on the other examples of its batch."""
    return any(map(_is_transductive, model.modules()))


def _is_transductive(module: nn.Module) -> bool:
    return isinstance(module, SafeBatchNorm) and not isinstance(module, SupportBatchNorm)


class SingleExampleWarning(UserWarning):
    """Warns, once per adapted module, that it normalises one example by the statistics of that example alone."""


@dataclass
class WarnSingleExample:
    """A hook before an adapted module runs: warns of a batch of one example."""

    has_warned: bool = False

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not self.has_warned and not is_tracing() and args and len(args[0]) == 1:
            self.has_warned = True
            warnings.warn(
                "This module normalises by the statistics of its batch, which has one example, so the prediction "
                "differs from that in a larger batch. Build the learner with norms='support' "
                "(--method.norms support; 'running' for a model that has running statistics), or predict in batches "
                "like the query sets of training.",
                SingleExampleWarning,
                stacklevel=4,
            )
