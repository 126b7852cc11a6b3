r"""Heads that are fitted to features in closed form: nearest class means, and a line.

.. math:: o_k(x) = -\lVert g(x) - \mu_k \rVert^2, \qquad g(x) = (x - m) / s \text{ or } x / \lVert x \rVert

:math:`\mu_k` is the mean of g over the examples of class k; m and s are the mean and the standard deviation of each
feature over all examples. The line is ridge regression on :math:`(x - m) / s`.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from quickstudy.methods.embedding import class_means
from quickstudy.methods.learner import Learner
from quickstudy.methods.protonet import protonet

ROUNDING = 8
"""A feature whose deviation is at most so many units in the last place of its largest value is constant."""
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""The strengths of the ridge that are tried, as shares of the features' variance."""


PerOutput = float | NDArray[np.float64]
"""A number, or one for each of several outputs of a regression."""


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


def nearest_mean_learner(features: int, ways: int) -> Learner:
    """The nearest class mean on features of length 1, as a learner: what `NearestMean` fits, for any task."""
    return protonet(nn.Sequential(UnitLength(), nn.Linear(features, ways)), ways)


class UnitLength(nn.Module):
    """Features scaled to length 1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


def leave_one_out(head: NearestMean, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs for each example by the means of the other ones, and their classes; of classes with two or more.

    Examples that are there twice are left out together, and have one output: doubling every example changes nothing.
    """
    pairs = torch.cat([y[:, None].to(x.dtype), x], 1)
    _, number, counts = torch.unique(pairs, dim=0, return_inverse=True, return_counts=True)
    at = torch.arange(len(y))
    first = torch.full_like(counts, len(y)).scatter_reduce(0, number, at, "amin")
    once = at == first[number]
    x, y, copies = x[once], y[once], counts[number][once].to(x.dtype)[:, None]
    n = torch.zeros(len(head.means), 1, dtype=x.dtype).index_add_(0, y, copies)[y]
    place, own = head.place(x), head.means[y]
    kept = (n > copies)[:, 0]
    without = (n * own - copies * place) / (n - copies).clamp(min=1)
    outputs = head(x)
    outputs[torch.arange(len(y)), y] = -(place - without).square().sum(-1)
    return outputs[kept], y[kept]


def _spread(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each feature; infinity for a feature that does not vary."""
    shift, largest = x.mean(0), _largest(x)
    return shift, _without_flat(((x - shift) / largest).square().mean(0).sqrt() * largest, x)


def _largest(x: Tensor) -> Tensor:
    """The largest size of each feature, or 1: squares of what is divided by it are no infinities."""
    size = x.abs().amax(0)
    return torch.where(size > 0, size, 1.0)


def _without_flat(scale: Tensor, x: Tensor) -> Tensor:
    """Infinity in place of what rounding leaves of a constant feature: blown up, it would be noise."""
    flat = scale <= ROUNDING * torch.finfo(x.dtype).eps * x.abs().amax(0)
    return torch.where(flat, torch.inf, scale)


class RidgeLine(nn.Module):
    """A line through the examples, `[n, outputs]`, by the penalty with the smallest error on examples left out.

    Every output has its own penalty, so it has the values that it would have alone. Examples that are there twice count
    twice, and are left out together: doubling every example changes nothing.

    Args:
        x: The examples' features, `[n, features]`.
        y: Their values, `[n, outputs]`.

    Attributes:
        penalty: A number, or one for each of several outputs.
        deviation: The usual error on an example that is left out, likewise; NaN where all examples are the same.
    """

    weight: Tensor
    shift: Tensor
    scale: Tensor
    centre: Tensor
    penalty: PerOutput
    deviation: PerOutput

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        rows, counts = torch.unique(torch.cat([x, y], 1), dim=0, return_counts=True)
        distinct, values = rows[:, : x.shape[1]], rows[:, x.shape[1] :]
        share = counts.to(x.dtype) / counts.sum()  # in this order: integers would be divided in single precision
        shift = share @ distinct
        largest = _largest(distinct)
        variance = share @ ((distinct - shift) / largest).square()
        scale = _without_flat(variance.sqrt() * largest, distinct)
        fit = _fit_ridge((distinct - shift) / scale, values, share)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.register_buffer("centre", share @ values)
        self.register_buffer("weight", fit.weight)
        self.deviation, self.penalty = _per_output(fit.deviation), _per_output(fit.penalty)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale @ self.weight + self.centre


def _per_output(values: Tensor) -> PerOutput:
    return float(values) if len(values) == 1 else values.numpy()


class _Fit(NamedTuple):
    """Weights `[features, outputs]`, and for each output the error on an example that is left out, and the penalty."""

    weight: Tensor
    deviation: Tensor
    penalty: Tensor


def _fit_ridge(z: Tensor, y: Tensor, share: Tensor) -> _Fit:
    """Weighted ridge regression of centred features. `share` is the weight of each example; their sum is 1."""
    root = share.sqrt()[:, None]
    u, s, v = torch.linalg.svd(root * z, full_matrices=False)
    target = root * (y - share @ y)
    weights, deviations = [], []
    for penalty in PENALTIES:
        shrink = s / (s.square() + penalty)
        hat = (u.square() * (s * shrink)).sum(1, keepdim=True) + share[:, None]  # the last for the mean
        left_out = (target - u @ ((s * shrink)[:, None] * (u.T @ target))) / (1 - hat).clamp(min=1e-9)
        weights.append(v.T @ (shrink[:, None] * (u.T @ target)))
        deviations.append(left_out.square().sum(0).sqrt() if len(y) > 1 else left_out[0] * torch.nan)
    best, outputs = torch.stack(deviations).argmin(0), torch.arange(y.shape[1])
    weight = torch.stack(weights)[best, :, outputs].T
    return _Fit(weight, torch.stack(deviations)[best, outputs], y.new_tensor(PENALTIES)[best])
