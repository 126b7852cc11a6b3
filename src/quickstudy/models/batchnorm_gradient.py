r"""Batch norm with a second derivative in few passes over memory: torch's own makes some twenty.

With x-hat the normalised input, s = 1 / std, N the numbers in a channel, w the scale, g the gradient that arrives, and
means over a channel:

.. math::
    \nabla_x &= w s (g - \bar g - \hat x b), \quad b = \overline{g \hat x}, \qquad
    \nabla_w = N b, \qquad \nabla_\beta = N \bar g

The second derivative takes v, u and t, which arrive for these three. With :math:`a = \overline{v \hat x}` and
:math:`d = \overline{v g} - \bar v \bar g - a b`,

.. math::
    g &: w s (v - \bar v - \hat x a) + u \hat x + t \\
    x &: -w s^2 [(d - 2 a b) \hat x + b (v - \bar v) + a (g - \bar g)] + u s (g - \bar g - \hat x b) \\
    w &: N s d

All three are sums of x, v and g with a factor for each channel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

_BACKWARD = torch.ops.aten.native_batch_norm_backward


def batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """By the batch's own statistics, as `torch.nn.functional.batch_norm`: outside every transform of `torch.func`."""
    plain = x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or x.numel() == x.shape[1]
    if plain or not torch.is_grad_enabled():
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    normal: Tensor = _Norm.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]
    return normal


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        y, mean, scale = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.eps, ctx.biased = eps, bias is not None
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight, mean, scale = ctx.saved_tensors
        dx, dw, db = _Gradient.apply(g, x, weight, mean, scale, ctx.eps)  # type: ignore[no-untyped-call]
        return dx, None if weight is None else dw, db if ctx.biased else None, None


class _Gradient(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, scale: Tensor, eps: float) -> Any:
        found = _BACKWARD(g, x, weight, None, None, mean, scale, True, eps, [True, True, True])
        ctx.save_for_backward(g, x, weight, mean, scale, *found[1:])
        ctx.eps = eps
        return found

    @staticmethod
    def backward(ctx: Any, v: Tensor, u: Tensor, t: Tensor) -> Any:
        g, x, weight, mean, s, sum_gx, sum_g = ctx.saved_tensors
        if torch.is_grad_enabled():
            # Views, so that each is a point of its own on the tape: g was computed from x.
            at_g, at_x, at_w = g.view_as(g), x.view_as(x), None if weight is None else weight.view_as(weight)
            wanted = [at_g, at_x] if at_w is None else [at_g, at_x, at_w]
            again = _by_hand(at_g, at_x, at_w, ctx.eps)
            found = torch.autograd.grad(again, wanted, (v, u, t), create_graph=True, materialize_grads=True)
            return *found, *(None,) * (6 - len(found))
        n = x.numel() / x.shape[1]
        w = torch.ones_like(s) if weight is None else weight
        dg, sum_vx, sum_v = _BACKWARD(v, x, weight, None, None, mean, s, True, ctx.eps, [True, True, True])
        # The sum over v times g, as that kernel finds it: for an input g of mean 0 and deviation 1.
        _, sum_vg, _ = _BACKWARD(v, g, None, None, None, 0 * s, 0 * s + 1, True, ctx.eps, [False, True, False])
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


def _by_hand(g: Tensor, x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The first derivative in single operations, for a third: in torch 2.13 that of its kernel is wrong."""
    axes, shape = (0, *range(2, x.ndim)), (1, -1) + (1,) * (x.ndim - 2)
    scale = (x.var(axes, correction=0, keepdim=True) + eps).rsqrt()
    normal = (x - x.mean(axes, keepdim=True)) * scale
    flat = g - g.mean(axes, keepdim=True) - normal * (g * normal).mean(axes, keepdim=True)
    dx = flat * scale if weight is None else flat * scale * weight.reshape(shape)
    return dx, (g * normal).sum(axes), g.sum(axes)
