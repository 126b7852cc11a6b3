"""Products in half precision and everything else in single: the autocast of `compute.autocast`.

The factors of a convolution, a linear layer or a matrix product are rounded just before it, in the forward and in the
backward pass. Parameters, gradients and all other operations stay float32. torch's own autocast acts on the operators
below `vmap`; a convolution has another name there, which it does not know. This one acts on the calls in the model's
code, so that the loop and `vmap` round the same factors.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from quickstudy.rules.torch_private import tree_leaves, tree_map

AUTOCAST_KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRODUCT_NAMES = {
    *(f"conv{transposed}{n}d" for n in (1, 2, 3) for transposed in ("", "_transpose")),
    *("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum"),
}
LOSS_SCALES = (2.0**16, 2.0**8, 1.0)
"""Factors on an fp16 loss before its backward pass: the first one by which no gradient overflows is used."""


class _RoundFactors(TorchFunctionMode):
    """Rounds the factors of every product that is called inside."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in PRODUCT_NAMES:
            return func(*args, **kwargs)
        floating = {t.dtype for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.is_floating_point()}
        if floating != {torch.float32}:  # float64 was chosen for its precision: leave it alone
            return func(*args, **kwargs)
        args, kwargs = tree_map(self._round, (args, kwargs))
        return func(*args, **kwargs).to(torch.float32)

    def _round(self, leaf: Any) -> Any:
        return leaf.to(self.kind) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def autocast_products(autocast: str | None) -> AbstractContextManager[Any]:
    """Products in "bf16" or "fp16" inside the context; None changes nothing."""
    return nullcontext() if autocast is None else _RoundFactors(AUTOCAST_KINDS[autocast])


def scaled_gradient(loss: Tensor, params: Sequence[Tensor], autocast: str | None) -> tuple[Tensor | None, ...]:
    """`torch.autograd.grad`; for "fp16", whose smallest number is 6e-8, of a scaled loss, and divided by the scale.

    The scale depends on this loss alone. A scaler that remembers overflows would make a step depend on the steps before
    it, and a resumed run would not be the same.
    """
    if autocast != "fp16":
        return torch.autograd.grad(loss, params, allow_unused=True)
    for scale in LOSS_SCALES:
        scaled = torch.autograd.grad(scale * loss, params, allow_unused=True, retain_graph=scale != LOSS_SCALES[-1])
        if all(bool(g.isfinite().all()) for g in scaled if g is not None):
            break
    return tuple(g if g is None else g / scale for g in scaled)
