"""Kernels of torch whose second derivative is missing, wrong or fatal, each called in another way.

A meta-gradient is a derivative of a gradient. In torch 2.13 some fused kernels fail there:

- Batch, layer and instance norm with a scale are wrong under `vmap`, without an error. Without a scale they are exact.
- Group norm of images whose channels are last in memory ends the process, already in its first derivative.
- The kernel of weight norm is wrong, without an error.
- The chunked `linear_cross_entropy` has a second derivative of zero, without an error.
- The fused kernels of attention have no second derivative.
- An embedding whose table is adapted forgets under `vmap` that its padding has no gradient, and its scale by frequency.
  On the loop its sparse gradient has no second derivative. A bag of embeddings has none at all, and scales the gradient
  of a word by the frequency of another one.

`twice_differentiable` calls these functions by their plain formulas, wherever Python code of a model calls them.
Scripted code calls its kernels itself: the engine runs it task by task, where the norms are right.
"""

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quickstudy.rules.torch_private import (
    AnyBatchNorm,
    AnyInstanceNorm,
    function_modes,
    fused_weight_norm,
    math_attention,
    outside_transforms,
    run_checkpoints_again,
)


def scale_and_shift(normal: Tensor, scale: Tensor | None, shift: Tensor | None, axis: int | None) -> Tensor:
    """Apply a norm's scale and shift, along one axis or over the last axes."""
    dtype = normal.dtype
    for value, apply in ((scale, torch.mul), (shift, torch.add)):
        if value is not None:
            normal = apply(normal, value if axis is None else value.reshape(-1, *[1] * (normal.ndim - axis - 1)))
    return normal.to(dtype)  # of half precision also where the scale is not, as the kernels


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    return scale_and_shift(F.layer_norm(input, list(normalized_shape), None, None, eps), weight, bias, None)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    return scale_and_shift(
        F.batch_norm(input, running_mean, running_var, None, None, training, momentum, eps), weight, bias, 1
    )


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    normal = F.instance_norm(input, running_mean, running_var, None, None, use_input_stats, momentum, eps)
    return scale_and_shift(normal, weight, bias, 1)


def _scale_first(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The norm in the order of arguments of `torch.batch_norm` and `torch.instance_norm`: scale and shift first."""

    def call(
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        uses_batch: bool,
        momentum: float,
        eps: float,
        *_: Any,
    ) -> Tensor:
        return norm(input, running_mean, running_var, weight, bias, uses_batch, momentum, eps)

    return call


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g * v / |v|, with one norm for each index of `dim`, or one for the whole tensor if that is -1."""
    axes = [axis for axis in range(v.ndim) if dim == -1 or axis != dim % v.ndim]
    length: Tensor = torch.linalg.vector_norm(v, dim=axes, keepdim=dim != -1)
    return v * (g / length)


def _with_plain_attention(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of torch's attention whose own call of a kernel, which is not seen here, is one of the plain formula.

    With `need_weights` torch itself uses a formula; it gives NaN where all of a sequence is padding.
    """
    names = vars(F) | {"scaled_dot_product_attention": math_attention}
    made = FunctionType(function.__code__, names, argdefs=function.__defaults__)
    made.__kwdefaults__ = function.__kwdefaults__
    names[function.__name__] = made  # by this name it hands itself to other modes
    return made


def _group_norm(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return torch.group_norm(input.contiguous(), *args, **kwargs)


def _functional_group_norm(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return F.group_norm(input.contiguous(), *args, **kwargs)


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    if max_norm is not None:  # it writes to the table, which is refused where it matters
        return F.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    rows = F.embedding(input, weight)
    share = torch.ones(input.shape, dtype=rows.dtype, device=rows.device)
    if padding_idx is not None:
        share = share * (input != padding_idx % len(weight))
    if scale_grad_by_freq:
        share = share / (input.flatten()[:, None] == input.flatten()).sum(1).reshape(input.shape)
    fixed = rows.detach()
    return rows if padding_idx is None and not scale_grad_by_freq else fixed + (rows - fixed) * share[..., None]


def _embedding_by_table(
    weight: Tensor, input: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Tensor:
    return _embedding(
        input, weight, None if padding_idx == -1 else padding_idx, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse
    )


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """The sum, mean or maximum of a table's rows over each bag. Bags are rows of the input, or begin at offsets."""
    if max_norm is not None or (offsets is not None and (input.ndim != 1 or offsets.ndim != 1)):
        return F.embedding_bag(
            input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights,
            include_last_offset, padding_idx,
        )  # fmt: skip  # which writes to the table, or says what is wrong
    kept = torch.ones_like(input, dtype=torch.bool) if padding_idx is None else input != padding_idx % len(weight)
    rows = _embedding(input, weight, None, scale_grad_by_freq=scale_grad_by_freq)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[..., None]
    if offsets is not None:
        place = torch.arange(len(input), device=input.device)
        starts = offsets[:-1] if include_last_offset else offsets
        ends = torch.cat([offsets[1:], offsets.new_full((0 if include_last_offset else 1,), len(input))])
        kept = kept & (place >= starts[:, None]) & (place < ends[:, None])  # [bags, n]
        rows = rows.expand(len(starts), *rows.shape)
    if mode == "max":
        none = rows.new_full((), -torch.inf)
        largest = torch.where(kept[..., None], rows, none).max(1).values
        return torch.where(kept.any(1)[:, None], largest, 0.0)
    total = torch.where(kept[..., None], rows, 0.0).sum(1)
    return total / kept.sum(1).clamp(min=1)[:, None] if mode == "mean" else total


def _linear_cross_entropy(*args: Any, options: Any = None, **kwargs: Any) -> Tensor:
    del options  # how it is cut into chunks
    return F.linear_cross_entropy(*args, **kwargs)


_ALWAYS: dict[Any, Callable[..., Any]] = {
    F.group_norm: _functional_group_norm,
    torch.group_norm: _group_norm,
    F.multi_head_attention_forward: _with_plain_attention(F.multi_head_attention_forward),
    F.scaled_dot_product_attention: math_attention,
    fused_weight_norm: _weight_norm,
    F.embedding: _embedding,
    torch.embedding: _embedding_by_table,
    F.embedding_bag: _embedding_bag,
} | ({F.linear_cross_entropy: _linear_cross_entropy} if hasattr(F, "linear_cross_entropy") else {})

_UNDER_VMAP: dict[Any, Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
    torch.batch_norm: _scale_first(_batch_norm),
    F.instance_norm: _instance_norm,
    torch.instance_norm: _scale_first(_instance_norm),
}


_TABLED = (
    *(AnyBatchNorm, AnyInstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.MultiheadAttention, nn.EmbeddingBag),
    *(nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder),
    *(nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
)


def calls_tabled_kernels(module: nn.Module) -> bool:
    """Whether a module of torch calls a function of the tables. What strangers' code calls is not known.

    Looking at every call of a function makes a step of a small net an eighth slower, so known nets go without it.
    """
    if isinstance(module, nn.Embedding):
        return module.padding_idx is not None or module.scale_grad_by_freq or module.sparse
    return isinstance(module, _TABLED) and not _is_ours(type(module).forward)


def is_strange(code: object) -> bool:
    """Whether a module or a loss may run code that is neither torch's nor this package's."""
    if not isinstance(code, nn.Module):
        return not _is_ours(getattr(code, "func", code)) and code not in (F.cross_entropy, F.mse_loss)
    hooks = (*code._forward_hooks.values(), *code._forward_pre_hooks.values())
    if "forward" in code.__dict__ or not all(map(_is_ours, hooks)):
        return True
    return not type(code).__module__.startswith("torch.nn.modules.") and not _is_ours(type(code))


def _is_ours(code: object) -> bool:
    """Whether a class, a function or an object is of this package."""
    return str(getattr(code, "__module__", "")).startswith("quickstudy.")


class twice_differentiable(TorchFunctionMode):  # noqa: N801 - used like a function: `with twice_differentiable():`
    """A context of the calling thread, in which the functions above are called by their plain formulas.

    While it is active, torch's attention layers and transformer encoders leave their fast path by themselves.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        plain = _ALWAYS.get(func)
        if plain is None and func in _UNDER_VMAP and not outside_transforms():
            plain = _UNDER_VMAP[func]
        return (plain or func)(*args, **(kwargs or {}))


def _in_the_same_mode(block: Callable[..., Any]) -> Callable[..., Any]:
    """A checkpointed block as it is to run again: by plain formulas, if these are called now."""
    if not any(isinstance(mode, twice_differentiable) for mode in function_modes()):
        return block

    def run(*args: Any, **kwargs: Any) -> Any:
        with twice_differentiable():
            return block(*args, **kwargs)

    return run


run_checkpoints_again(_in_the_same_mode)
