"""Products in half precision, everything else in single: the autocast of `compute.autocast`.

Parameters, gradients and what stands between products stay float32; the factors of a convolution, a linear layer or a
matrix product are rounded just before it, and so are those of its backward. torch's own autocast looks at operators
below `vmap`, where a convolution has another name and is passed over; this one looks at the calls in the model's code,
so that the loop and `vmap` round the same factors.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

AUTOCAST_KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRODUCTS = {
    *(f"conv{transposed}{n}d" for n in (1, 2, 3) for transposed in ("", "_transpose")),
    *("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum"),
}
LOSS_SCALES = (2.0**16, 2.0**8, 1.0)
"""By which an fp16 loss is multiplied before its backward: the first that overflows no gradient."""


class _Rounded(TorchFunctionMode):
    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in PRODUCTS:
            return func(*args, **kwargs)
        floating = {t.dtype for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.is_floating_point()}
        if floating != {torch.float32}:  # double precision is asked for where rounding is to be seen: leave it alone
            return func(*args, **kwargs)
        args, kwargs = tree_map(self._round, (args, kwargs))
        return func(*args, **kwargs).to(torch.float32)

    def _round(self, leaf: Any) -> Any:
        return leaf.to(self.kind) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def autocast_products(autocast: str | None) -> AbstractContextManager[Any]:
    """Products in "bf16" or "fp16" inside; None: as they are."""
    return nullcontext() if autocast is None else _Rounded(AUTOCAST_KINDS[autocast])


def scaled_gradient(loss: Tensor, params: Sequence[Tensor], autocast: str | None) -> tuple[Tensor | None, ...]:
    """`torch.autograd.grad`; for "fp16", whose smallest number is 6e-8, of a scaled loss, divided again.

    The scale follows from the loss alone. A scaler that remembers what overflowed would make a step depend on how the
    run came to it.
    """
    if autocast != "fp16":
        return torch.autograd.grad(loss, params, allow_unused=True)
    for scale in LOSS_SCALES:
        scaled = torch.autograd.grad(scale * loss, params, allow_unused=True, retain_graph=scale != LOSS_SCALES[-1])
        if all(bool(g.isfinite().all()) for g in scaled if g is not None):
            break
    return tuple(g if g is None else g / scale for g in scaled)
