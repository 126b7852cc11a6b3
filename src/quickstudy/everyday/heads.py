r"""Heads that are fitted to features in closed form: nearest class means, and a line.

.. math:: o_k(x) = -\lVert g(x) - \mu_k \rVert^2, \qquad g(x) = (x - m) / s \text{ or } x / \lVert x \rVert

:math:`\mu_k` is the mean of g over the examples of class k; m and s are the mean and the standard deviation of each
feature over all examples. The line is ridge regression on :math:`(x - m) / s`.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.methods.embedding import class_means

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""The strengths of the ridge that are tried, as shares of the features' variance."""


class NearestMean(nn.Module):
    """Minus the squared distance to each class's mean, `[n, ways]`.

    Args:
        x: The examples' features, `[n, features]`.
        y: Their class numbers.
        ways: The number of classes.
        standardise: Whether each feature gets mean 0 and variance 1 over the examples. Otherwise each x gets length 1.
    """

    means: Tensor
    shift: Tensor | None
    scale: Tensor | None

    def __init__(self, x: Tensor, y: Tensor, ways: int, *, standardise: bool) -> None:
        super().__init__()
        shift, scale = _spread(x) if standardise else (None, None)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.register_buffer("means", class_means(self.place(x), y, ways))

    def place(self, x: Tensor) -> Tensor:
        """The point at which an x is compared."""
        if self.shift is None or self.scale is None:
            return F.normalize(x, dim=-1)
        return (x - self.shift) / self.scale

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.place(x), self.means, compute_mode="donot_use_mm_for_euclid_dist").square()


def leave_one_out(head: NearestMean, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs for each example by the means of the other ones, and their classes; of classes with two or more."""
    counts = torch.bincount(y, minlength=len(head.means))
    place, own = head.place(x), head.means[y]
    n = counts[y].to(x.dtype)[:, None]
    kept = counts[y] > 1
    without = (n * own - place) / (n - 1).clamp(min=1)
    outputs = head(x)
    outputs[torch.arange(len(y)), y] = -(place - without).square().sum(-1)
    return outputs[kept], y[kept]


def _spread(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each feature; 1 for a feature that does not vary."""
    scale, shift = torch.std_mean(x, dim=0, correction=0)
    # What is left of a constant feature by rounding must not be blown up.
    flat = scale <= 1e-9 * x.abs().amax(0)
    return shift, torch.where(flat, torch.ones_like(scale), scale)


class Ridge(nn.Module):
    """A line through the examples, `[n, outputs]`, by the penalty with the smallest error on examples left out.

    Examples that are there twice count twice, and are left out together: doubling every example changes nothing.

    Args:
        x: The examples' features, `[n, features]`.
        y: Their values, `[n, outputs]`.
    """

    weight: Tensor
    shift: Tensor
    scale: Tensor
    centre: Tensor

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        rows, counts = torch.unique(torch.cat([x, y], 1), dim=0, return_counts=True)
        distinct, values = rows[:, : x.shape[1]], rows[:, x.shape[1] :]
        share = counts.to(x.dtype) / counts.sum()  # in this order: integers would be divided in single precision
        shift = share @ distinct
        variance = share @ (distinct - shift).square()
        scale = torch.where(variance.sqrt() <= 1e-9 * distinct.abs().amax(0), 1.0, variance.sqrt())
        fit = _fit_ridge((distinct - shift) / scale, values, share)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.register_buffer("centre", share @ values)
        self.register_buffer("weight", fit.weight)
        self.deviation = fit.deviation
        self.penalty = fit.penalty

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale @ self.weight + self.centre


class _Fit(NamedTuple):
    """Weights `[features, outputs]`, the usual error on an example that is left out, and the penalty."""

    weight: Tensor
    deviation: float
    penalty: float


def _fit_ridge(z: Tensor, y: Tensor, share: Tensor) -> _Fit:
    """Weighted ridge regression of centred features. `share` is the weight of each example; their sum is 1."""
    root = share.sqrt()[:, None]
    u, s, v = torch.linalg.svd(root * z, full_matrices=False)
    target = root * (y - share @ y)
    fits = []
    for penalty in PENALTIES:
        shrink = s / (s.square() + penalty)
        hat = (u.square() * (s * shrink)).sum(1, keepdim=True) + share[:, None]  # the last for the mean
        left_out = (target - u @ ((s * shrink)[:, None] * (u.T @ target))) / (1 - hat).clamp(min=1e-9)
        fits.append(_Fit(v.T @ (shrink[:, None] * (u.T @ target)), float(left_out.square().sum().sqrt()), penalty))
    return min(fits, key=lambda fit: fit.deviation)
