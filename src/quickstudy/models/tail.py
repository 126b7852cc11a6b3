"""The tail of a convolution block: batch norm, pooling and activation in a few passes over memory.

Single operations write and read every intermediate image, and the second derivative has many. Here the output, its
derivative and the derivative of that are one loop each (`engine.tail_loops`), compiled by numba. Where numba is missing
or the loops do not fit, the modules run one by one: the results are the same up to rounding.
"""

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from quickstudy.models.batchnorm_gradient import gradient_by_formula, gradients_by_tape
from quickstudy.rules.torch_private import is_tracing, outside_transforms

LARGEST_WINDOW = 15
"""The largest side of a window whose places fit one byte."""


@cache
def _loops() -> Any:
    """The compiled loops; numba is imported when they are first needed. None where it is not installed."""
    try:
        from quickstudy.engine import tail_loops
    except ImportError:
        return None
    return tail_loops


def describe_loops() -> str:
    """What a user should know before the loops are first needed; empty if nothing."""
    loops = _loops()
    if loops is None:
        return 'pip install "quickstudy[fast]" makes batch norm with pooling faster: a fifth off a step on a CPU'
    return "" if loops.are_kept() else "the first task compiles batch norm with pooling, once: about ten seconds"


def takes_loops(x: Tensor, weight: Tensor | None, bias: Tensor | None, window: int) -> bool:
    """Whether the loops can run on these: images on a CPU, outside of `torch.func` and of whatever records the code."""
    return (
        not is_tracing()
        and outside_transforms()
        and type(x) is Tensor
        and x.ndim == 4
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > x.shape[1]
        and min(x.shape[2:]) >= window
        # The loops trust these sizes.
        and all(p is None or (p.shape, p.dtype, p.device) == (x.shape[1:2], x.dtype, x.device) for p in (weight, bias))
        and _loops() is not None
    )


def tail(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, slope: float, window: int) -> Tensor:
    """Batch norm by the statistics of the batch, then the maximum of each window, then (leaky) ReLU.

    Args:
        x: Images `[n, C, H, W]` that `takes_loops` accepts. The output has their layout.
        weight: The norm's scale; None for 1.
        bias: The norm's shift; None for 0.
        eps: Added to the variance.
        slope: Of the activation below 0, and not negative. 0 for ReLU, 1 for none.
        window: The side of a window, which is also its distance from the next; 1 for no pooling.
    """
    weight = x.new_ones(x.shape[1]) if weight is None else weight
    bias = x.new_zeros(x.shape[1]) if bias is None else bias
    # Copies are made here, before the function: from what it saves, the second derivative must find its way back.
    pixels = x.permute(0, 2, 3, 1).contiguous()
    y: Tensor = _Tail.apply(pixels, weight.contiguous(), bias.contiguous(), eps, slope, window)  # type: ignore[no-untyped-call]
    images = y.permute(0, 3, 1, 2)
    return images.contiguous() if x.is_contiguous() else images


def _rows(*tensors: Tensor) -> list[Any]:
    """Tensors as arrays for the loops: images as matrices with a row for each pixel."""
    return [t.detach().reshape(-1, t.shape[-1]).numpy() if t.ndim == 4 else t.detach().numpy() for t in tensors]


class _Tail(Function):
    """The tail of images whose channels are last, with `_TailGradient` as its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float, window: int) -> Tensor:
        n, h, across, channels = x.shape
        y = x.new_empty(n, h // window, across // window, channels)
        pooled = window > 1
        place = torch.empty_like(y, dtype=torch.uint8) if pooled else torch.zeros(1, channels, dtype=torch.uint8)
        chosen = torch.empty_like(y) if pooled else x
        mean, scale = torch.empty_like(weight), torch.empty_like(weight)
        _loops().forward(
            *_rows(x), h, across, window, *_rows(weight, bias), eps, slope, *_rows(y, place, chosen, mean, scale)
        )
        ctx.save_for_backward(x, weight, y, place, chosen, mean, scale)
        ctx.numbers = eps, slope, window
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight, y, place, chosen, mean, scale = ctx.saved_tensors
        # No gradient flows through the numbers that were found: the formulas know that they depend on x.
        found = y.detach(), place, chosen.detach(), mean, scale
        grads = _TailGradient.apply(g.contiguous(), x, weight, *found, *ctx.numbers)  # type: ignore[no-untyped-call]
        return *grads, None, None, None


class _TailGradient(Function):
    """The first derivative, with the second as its own derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        y: Tensor,
        place: Tensor,
        chosen: Tensor,
        mean: Tensor,
        scale: Tensor,
        eps: float,
        slope: float,
        window: int,
    ) -> Any:
        found = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        given = *_rows(g, x), *x.shape[1:3], window, *_rows(weight), slope, *_rows(y, place, chosen, mean, scale)
        _loops().first_derivative(*given, *_rows(*found))
        ctx.save_for_backward(g, x, weight, y, place, chosen, mean, scale, *found[1:])
        ctx.numbers = eps, slope, window
        return found

    @staticmethod
    def backward(ctx: Any, v: Tensor, u: Tensor, t: Tensor) -> Any:
        g, x, weight, y, place, chosen, mean, scale, sum_gx, sum_g = ctx.saved_tensors
        eps, slope, window = ctx.numbers
        if torch.is_grad_enabled():
            formula = partial(_gradient_in_single_operations, y=y, place=place, eps=eps, slope=slope, window=window)
            return *gradients_by_tape(formula, (g, x, weight), (v, u, t)), *(None,) * 8
        dg, dx, dw = torch.empty_like(g), torch.empty_like(x), torch.empty_like(weight)
        given = *_rows(g, x), *x.shape[1:3], window, *_rows(weight), slope, *_rows(y, place, chosen, mean, scale)
        cotangents = _rows(v.contiguous(), u.contiguous(), t.contiguous())
        _loops().second_derivative(*cotangents, *given, *_rows(sum_gx, sum_g, dg, dx, dw))
        return dg, dx, dw, *(None,) * 8


def _gradient_in_single_operations(
    g: Tensor, x: Tensor, weight: Tensor, y: Tensor, place: Tensor, eps: float, slope: float, window: int
) -> tuple[Tensor, ...]:
    """The first derivative, to differentiate twice."""
    through = torch.where(y <= 0, slope * g, g)
    spread = torch.zeros_like(x)
    high, wide = (side * window for side in g.shape[1:3])
    for e in range(window**2):
        quarter = spread[:, e // window : high : window, e % window : wide : window]
        quarter.copy_(through * (place == e))
    dx, dw, db = gradient_by_formula(spread.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2), weight, eps)
    return dx.permute(0, 2, 3, 1), dw, db
