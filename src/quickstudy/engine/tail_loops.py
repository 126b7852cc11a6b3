"""The loops of a convolution block's tail, compiled by numba. Only code that knows that numba is there imports this.

An array of images is a matrix: a row is a pixel, a column a channel, which are side by side in memory. `x` has the rows
of the images, h times `across` for each. The pooled arrays have the rows of the windows, p times p pixels each; with
p = 1 nothing is pooled. A right or lower edge that fills no window counts for the statistics only.

`place` says for each window and channel which of its pixels is the largest; with p = 1 it is one row of zeros. `chosen`
is the x of that pixel. y tells where the activation has its other slope: where it is not positive. The formulas are
those of `models.batchnorm_gradient`, with g behind the activation and the pooling.

Sums run over at most BLOCK rows in the type of the images, and from there on in double precision. Loops run in one
thread, because tasks have a thread each, and release Python's lock. The factors of the channels are rows of one array:
with more arrays in a loop, the compiler no longer proves that they do not overlap, and leaves it slow.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

BLOCK = 64

Array = NDArray[Any]
F = TypeVar("F", bound=Callable[..., None])


def _compiled(function: F) -> F:
    """The function, compiled when it is first called with arguments of new types, and kept on disk.

    Numba keeps it beside this file, or in the user's cache where this folder cannot be written, or where
    NUMBA_CACHE_DIR says.
    """
    compiled: Any = njit  # its types do not know that what was compiled is called like the function
    options = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        kept: F = compiled(function, cache=True, **options)
    except RuntimeError:  # no folder can be written: compile in every process
        kept = compiled(function, **options)
    return kept


def are_kept() -> bool:
    """Whether loops were compiled before, by this version of them or an older one, so that none may be to compile."""
    folder = getattr(forward, "stats").cache_path  # noqa: B009 - for the types it is a function like any other
    return folder is not None and any(Path(folder).glob(f"{Path(__file__).stem}.*.nbi"))


@_compiled
def _moments(x: Array, eps: float, mean: Array, scale: Array) -> None:
    """The mean and 1 / deviation of every channel."""
    rows, channels = x.shape
    total, part = np.zeros(channels), np.empty(channels, x.dtype)
    for start in range(0, rows, BLOCK):
        part[:] = 0
        for row in range(start, min(start + BLOCK, rows)):
            for k in range(channels):
                part[k] += x[row, k]
        for k in range(channels):
            total[k] += part[k]
    for k in range(channels):
        mean[k] = total[k] / rows
    total[:] = 0
    for start in range(0, rows, BLOCK):
        part[:] = 0
        for row in range(start, min(start + BLOCK, rows)):
            for k in range(channels):
                z = x[row, k] - mean[k]
                part[k] += z * z
        for k in range(channels):
            total[k] += part[k]
    for k in range(channels):
        scale[k] = 1 / np.sqrt(total[k] / rows + eps)


@_compiled
def forward(
    x: Array,
    h: int,
    across: int,
    p: int,
    weight: Array,
    bias: Array,
    eps: float,
    slope: float,
    y: Array,
    place: Array,
    chosen: Array,
    mean: Array,
    scale: Array,
) -> None:
    """Normalise x, pool it, and let it through the activation; with p = 1 `chosen` is x itself."""
    channels = x.shape[1]
    _moments(x, eps, mean, scale)
    s = x.dtype.type(slope)
    per = np.empty((3, channels), x.dtype)
    for k in range(channels):
        per[0, k] = np.sign(weight[k])
        per[1, k] = weight[k] * scale[k]
        per[2, k] = bias[k] - per[1, k] * mean[k]
    high, wide = h // p, across // p
    for line in range(y.shape[0] // wide):
        top = (line // high) * h + (line % high) * p
        for q in range(wide):
            o, a = line * wide + q, top * across + q * p
            if p > 1:
                for k in range(channels):
                    chosen[o, k] = x[a, k]
                    place[o, k] = 0
            for e in range(1, p * p):
                b = a + (e // p) * across + e % p
                byte = np.uint8(e)
                for k in range(channels):
                    z, best, at = x[b, k], chosen[o, k], place[o, k]
                    larger = per[0, k] * z > per[0, k] * best
                    chosen[o, k] = z if larger else best
                    place[o, k] = byte if larger else at
            for k in range(channels):
                z = per[1, k] * chosen[o, k] + per[2, k]
                y[o, k] = s * z if z <= 0 else z  # NaN is let through


@_compiled
def first_derivative(
    g: Array,
    x: Array,
    h: int,
    across: int,
    p: int,
    weight: Array,
    slope: float,
    y: Array,
    place: Array,
    chosen: Array,
    mean: Array,
    scale: Array,
    dx: Array,
    dw: Array,
    db: Array,
) -> None:
    """The gradients for x, the weight and the bias, given that of the output."""
    windows, channels = g.shape
    rows, s, zero = x.shape[0], x.dtype.type(slope), x.dtype.type(0)
    total, part = np.zeros((2, channels)), np.empty((2, channels), x.dtype)
    for start in range(0, windows, BLOCK):
        part[:] = 0
        for o in range(start, min(start + BLOCK, windows)):
            for k in range(channels):
                z = s * g[o, k] if y[o, k] <= 0 else g[o, k]
                part[0, k] += z
                part[1, k] += z * (chosen[o, k] - mean[k])
        total += part
    per = np.empty((3, channels), x.dtype)
    for k in range(channels):
        db[k] = total[0, k]
        dw[k] = total[1, k] * scale[k]
        factor = weight[k] * scale[k]
        per[0, k] = factor
        per[1, k] = -factor * dw[k] / rows * scale[k]
        per[2, k] = -factor * db[k] / rows - per[1, k] * mean[k]
    high, wide = h // p, across // p
    through = np.empty((wide, channels), x.dtype)
    for image in range(rows // (h * across)):
        for r in range(h):
            line = image * high + r // p
            if r % p == 0 and r < high * p:
                for q in range(wide):
                    o = line * wide + q
                    for k in range(channels):
                        through[q, k] = per[0, k] * (s * g[o, k] if y[o, k] <= 0 else g[o, k])
            for column in range(across):
                a, q = (image * h + r) * across + column, column // p
                if r < high * p and q < wide:
                    o = line * wide + q if p > 1 else 0
                    byte = np.uint8((r % p) * p + column % p)
                    for k in range(channels):
                        z = through[q, k] if place[o, k] == byte else zero
                        dx[a, k] = z + per[1, k] * x[a, k] + per[2, k]
                else:
                    for k in range(channels):
                        dx[a, k] = per[1, k] * x[a, k] + per[2, k]


@_compiled
def second_derivative(
    v: Array,
    u: Array,
    t: Array,
    g: Array,
    x: Array,
    h: int,
    across: int,
    p: int,
    weight: Array,
    slope: float,
    y: Array,
    place: Array,
    chosen: Array,
    mean: Array,
    scale: Array,
    sum_gx: Array,
    sum_g: Array,
    dg: Array,
    dx: Array,
    dw: Array,
) -> None:
    """The gradients for g, x and the weight, given those of the first derivative's three results."""
    windows, channels = g.shape
    rows, s, zero = x.shape[0], x.dtype.type(slope), x.dtype.type(0)
    total, part = np.zeros((3, channels)), np.zeros((3, channels), x.dtype)
    high, wide = h // p, across // p
    for start in range(0, rows, BLOCK):
        part[:] = 0
        for a in range(start, min(start + BLOCK, rows)):
            for k in range(channels):
                part[0, k] += v[a, k]
                part[1, k] += v[a, k] * (x[a, k] - mean[k])
        total += part
    part[:] = 0
    for line in range(windows // wide):
        top = (line // high) * h + (line % high) * p
        for q in range(wide):
            o, a = line * wide + q, top * across + q * p
            for k in range(channels):
                dg[o, k] = v[a, k]
            for e in range(1, p * p):
                b = a + (e // p) * across + e % p
                byte = np.uint8(e)
                for k in range(channels):
                    z, so_far = v[b, k], dg[o, k]
                    dg[o, k] = z if place[o, k] == byte else so_far
            for k in range(channels):
                part[2, k] += dg[o, k] * (s * g[o, k] if y[o, k] <= 0 else g[o, k])
        total[2] += part[2]
        part[2] = 0
    per = np.empty((7, channels), x.dtype)
    for k in range(channels):
        mean_g, b_, mean_v, a_ = sum_g[k] / rows, sum_gx[k] / rows, total[0, k] / rows, total[1, k] * scale[k] / rows
        d = total[2, k] / rows - mean_v * mean_g - a_ * b_
        dw[k] = rows * scale[k] * d
        factor, us = weight[k] * scale[k], u[k] * scale[k]
        # dg = w s (v - mean of v - x^ a) + u x^ + t, where x^ = (x - mean) s
        per[0, k] = factor
        per[1, k] = us - factor * a_ * scale[k]
        per[2, k] = t[k] - factor * mean_v - per[1, k] * mean[k]
        # dx = -w s^2 [(d - 2 a b) x^ + b (v - mean of v) + a (g - mean of g)] + u s (g - mean of g - x^ b)
        per[3, k] = us - factor * scale[k] * a_
        per[4, k] = (-factor * scale[k] * (d - 2 * a_ * b_) - us * b_) * scale[k]
        per[5, k] = -factor * scale[k] * b_
        per[6, k] = -per[4, k] * mean[k] - per[5, k] * mean_v - per[3, k] * mean_g
    through = np.empty((wide, channels), x.dtype)
    for image in range(rows // (h * across)):
        for r in range(h):
            line = image * high + r // p
            if r % p == 0 and r < high * p:
                for q in range(wide):
                    o = line * wide + q
                    for k in range(channels):
                        through[q, k] = per[3, k] * (s * g[o, k] if y[o, k] <= 0 else g[o, k])
                    for k in range(channels):
                        z = per[0, k] * dg[o, k] + per[1, k] * chosen[o, k] + per[2, k]
                        dg[o, k] = s * z if y[o, k] <= 0 else z
            for column in range(across):
                a, q = (image * h + r) * across + column, column // p
                if r < high * p and q < wide:
                    o = line * wide + q if p > 1 else 0
                    byte = np.uint8((r % p) * p + column % p)
                    for k in range(channels):
                        z = through[q, k] if place[o, k] == byte else zero
                        dx[a, k] = z + per[4, k] * x[a, k] + per[5, k] * v[a, k] + per[6, k]
                else:
                    for k in range(channels):
                        dx[a, k] = per[4, k] * x[a, k] + per[5, k] * v[a, k] + per[6, k]
