"""Augmentation of a batch of pictures as tensor operations on uniform numbers that the caller has drawn.

`noise` is `[n, NUMBERS_PER_PICTURE]` in (0, 1). Photographs are cropped, mirrored and jittered, drawings are distorted.
Of these functions each reads columns of its own, so the changes of a picture are independent of each other and of the
other pictures in the batch.
"""

from math import log, pi

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

NUMBERS_PER_PICTURE = 8
_AREA, _RATIO, _LEFT, _TOP, _FLIP, _BRIGHTNESS, _CONTRAST, _SATURATION = range(NUMBERS_PER_PICTURE)
_TURN, _SLANT, _WIDTH, _HEIGHT, _RIGHT, _DOWN = range(6)
"""The columns that `distort` reads. No drawing is changed by the other functions."""
LARGEST_TURN, LARGEST_SLANT, LARGEST_SCALE, LARGEST_SHIFT = pi / 9, 0.3, 1.28, 0.075
"""Of where a drawing is read, at strength 1: 20 degrees, .3 pixels a row, 1.28 times as wide, a 13th of the side."""

PictureBatch = Float[Tensor, "n channels height width"]
SquareBatch = Float[Tensor, "n channels size size"]
UniformNoise = Float[Tensor, "n numbers"]
LUMA_WEIGHTS = (0.299, 0.587, 0.114)


def crop_and_resize(x: PictureBatch, size: int, noise: UniformNoise) -> SquareBatch:
    """Crop a random part of 8 to 100% of the area, 3/4 to 4/3 as wide as high, and scale it to `size` (bilinear).

    If the part would be larger than the picture, its longer side is cut to the side of the picture.
    """
    area = 0.08 + 0.92 * noise[:, _AREA]
    stretch = torch.exp((noise[:, _RATIO] * 2 - 1) * log(4 / 3) / 2)
    width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    left, top = (2 * noise[:, _LEFT] - 1) * (1 - width), (2 * noise[:, _TOP] - 1) * (1 - height)
    zero = torch.zeros_like(width)
    theta = torch.stack([torch.stack([width, zero, left], -1), torch.stack([zero, height, top], -1)], 1)
    grid = F.affine_grid(theta, [len(x), x.shape[1], size, size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def pad_and_crop(x: PictureBatch, size: int, by: int, noise: UniformNoise) -> SquareBatch:
    """Pad the picture with `by` black pixels on each side and crop a window of `size` at a random place.

    In single precision the noise can be 1, hence the clamp.
    """
    wide = F.pad(x, (by,) * 4)
    span = wide.shape[-1] - size + 1
    rows, columns = (
        (noise[:, i] * span).long().clamp(max=span - 1)[:, None] + torch.arange(size, device=x.device)
        for i in (_TOP, _LEFT)
    )
    n = torch.arange(len(x), device=x.device)[:, None, None]
    return wide.permute(0, 2, 3, 1)[n, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def flip(x: PictureBatch, noise: UniformNoise) -> PictureBatch:
    """Mirror half of the pictures, left to right."""
    return torch.where((noise[:, _FLIP] < 0.5)[:, None, None, None], x.flip(-1), x)


def jitter(x: PictureBatch, strength: float, noise: UniformNoise) -> PictureBatch:
    """Multiply brightness, contrast and saturation, in this order, by factors of 1 - strength to 1 + strength."""
    brightness, contrast, saturation = (
        (1 + strength * (2 * noise[:, i] - 1))[:, None, None, None] for i in (_BRIGHTNESS, _CONTRAST, _SATURATION)
    )
    x = (x * brightness).clamp(0, 1)
    mean = _to_grey(x).mean((1, 2, 3), keepdim=True)
    x = (mean + (x - mean) * contrast).clamp(0, 1)
    grey = _to_grey(x)
    return (grey + (x - grey) * saturation).clamp(0, 1)


def distort(x: PictureBatch, strength: float, noise: UniformNoise) -> PictureBatch:
    """Turn, slant, scale and shift each picture at random. What comes in from outside is its paper: the median.

    Every number is uniform between plus and minus `strength` times the largest; of scales it is the logarithm.
    """
    turn, slant, width, height, right, down = (
        strength * (2 * noise[:, i] - 1) * largest
        for i, largest in (
            (_TURN, LARGEST_TURN),
            (_SLANT, LARGEST_SLANT),
            (_WIDTH, log(LARGEST_SCALE)),
            (_HEIGHT, log(LARGEST_SCALE)),
            (_RIGHT, 2 * LARGEST_SHIFT),  # the grid counts from -1 to 1
            (_DOWN, 2 * LARGEST_SHIFT),
        )
    )
    cos, sin, wide, high = turn.cos(), turn.sin(), width.exp(), height.exp()
    # Where each new pixel is read: scaled and slanted, then turned, then shifted.
    across = torch.stack([cos * wide, cos * slant - sin * high, right], -1)
    along = torch.stack([sin * wide, sin * slant + cos * high, down], -1)
    grid = F.affine_grid(torch.stack([across, along], 1), list(x.shape), align_corners=False)
    paper = x.flatten(2).median(-1).values[:, :, None, None]
    return paper + F.grid_sample(x - paper, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _to_grey(x: PictureBatch) -> Float[Tensor, "n 1 height width"]:
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor(LUMA_WEIGHTS).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
