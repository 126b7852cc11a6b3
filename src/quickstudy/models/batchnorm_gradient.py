r"""Batch norm whose second derivative takes few passes over memory: torch's own takes about twenty.

Let :math:`\hat x` be the normalised input, s = 1 / std, N the number of values in a channel, w the scale and g the
incoming gradient. A bar is the mean over a channel. The first derivative is

.. math::
    \nabla_x &= w s (g - \bar g - \hat x b), \quad b = \overline{g \hat x}, \qquad
    \nabla_w = N b, \qquad \nabla_\beta = N \bar g

Let v, u and t be the incoming gradients of these three. With :math:`a = \overline{v \hat x}` and
:math:`d = \overline{v g} - \bar v \bar g - a b`, the second derivative is

.. math::
    g &: w s (v - \bar v - \hat x a) + u \hat x + t \\
    x &: -w s^2 [(d - 2 a b) \hat x + b (v - \bar v) + a (g - \bar g)] + u s (g - \bar g - \hat x b) \\
    w &: N s d

Each is a sum of x, v and g with one factor per channel.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from quickstudy.rules.torch_private import is_tracing

_BACKWARD_KERNEL = torch.ops.aten.native_batch_norm_backward


def batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """As `torch.nn.functional.batch_norm` with the statistics of the batch. Not for use in a `torch.func` transform."""
    plain = is_tracing() or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64)
    plain = plain or x.numel() == x.shape[1]
    if plain or not torch.is_grad_enabled():
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    normal: Tensor = _BatchNormFunction.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]
    return normal


class _BatchNormFunction(Function):
    """Batch norm, with `_BatchNormGradient` as its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        y, mean, scale = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.eps, ctx.biased = eps, bias is not None
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight, mean, scale = ctx.saved_tensors
        dx, dw, db = _BatchNormGradient.apply(g, x, weight, mean, scale, ctx.eps)  # type: ignore[no-untyped-call]
        return dx, None if weight is None else dw, db if ctx.biased else None, None


class _BatchNormGradient(Function):
    """The first derivative, with the formulas above as its own derivative."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, scale: Tensor, eps: float) -> Any:
        found = _BACKWARD_KERNEL(g, x, weight, None, None, mean, scale, True, eps, [True, True, True])
        ctx.save_for_backward(g, x, weight, mean, scale, *found[1:])
        ctx.eps = eps
        return found

    @staticmethod
    def backward(ctx: Any, v: Tensor, u: Tensor, t: Tensor) -> Any:
        g, x, weight, mean, s, sum_gx, sum_g = ctx.saved_tensors
        if torch.is_grad_enabled():
            formula = partial(gradient_by_formula, eps=ctx.eps)
            return *gradients_by_tape(formula, (g, x, weight), (v, u, t)), None, None, None
        n = x.numel() / x.shape[1]
        w = torch.ones_like(s) if weight is None else weight
        dg, sum_vx, sum_v = _BACKWARD_KERNEL(v, x, weight, None, None, mean, s, True, ctx.eps, [True, True, True])
        # The kernel gives the sum over v times g too: as for an input g with the mean 0 and the deviation 1.
        _, sum_vg, _ = _BACKWARD_KERNEL(v, g, None, None, None, 0 * s, 0 * s + 1, True, ctx.eps, [False, True, False])
        a, b, v_, g_ = sum_vx / n, sum_gx / n, sum_v / n, sum_g / n
        d = sum_vg / n - v_ * g_ - a * b
        shape = (1, -1) + (1,) * (x.ndim - 2)

        def of_x(factor: Tensor, more: Tensor) -> Tensor:
            """factor x-hat + more, in one pass."""
            scaled = factor * s
            return torch.addcmul((more - mean * scaled).reshape(shape), x, scaled.reshape(shape))

        dg = dg.add_(of_x(u, t))
        for_v, for_g = -w * s * s * b, u * s - w * s * s * a
        dx = of_x(-w * s * s * (d - 2 * a * b) - u * s * b, -for_v * v_ - for_g * g_)
        dx = dx.addcmul_(v, for_v.reshape(shape)).addcmul_(g, for_g.reshape(shape))
        return dg, dx, None if weight is None else n * s * d, None, None, None


def gradients_by_tape(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor | None], cotangents: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradients of a function for its inputs, to be differentiated again; None for a constant."""
    # Views, so that each is a node of its own on the tape: one input may have been computed from another.
    at = [None if t is None else t.view_as(t) for t in inputs]
    wanted = [t for t in at if t is not None and t.requires_grad]
    results = [(y, c) for y, c in zip(function(*at), cotangents, strict=True) if y.requires_grad]
    if not wanted or not results:
        return [None] * len(at)
    ys, cs = zip(*results, strict=True)
    found = iter(torch.autograd.grad(ys, wanted, cs, create_graph=True, materialize_grads=True))
    return [next(found) if t is not None and t.requires_grad else None for t in at]


def gradient_by_formula(g: Tensor, x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The first derivative in single operations, to differentiate twice: the kernel's is wrong there in torch 2.13."""
    axes, shape = (0, *range(2, x.ndim)), (1, -1) + (1,) * (x.ndim - 2)
    scale = (x.var(axes, correction=0, keepdim=True) + eps).rsqrt()
    normal = (x - x.mean(axes, keepdim=True)) * scale
    flat = g - g.mean(axes, keepdim=True) - normal * (g * normal).mean(axes, keepdim=True)
    dx = flat * scale if weight is None else flat * scale * weight.reshape(shape)
    return dx, (g * normal).sum(axes), g.sum(axes)
