"""Checks of a user's arrays: what can be used as images, labels and splits, and the errors for what cannot."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.tasks.draws import SPLITS, check_split

ArrayOrTensor = NDArray[Any] | Tensor
"""A NumPy array or a torch tensor, as a user gives it."""


def as_array(values: ArrayOrTensor) -> NDArray[Any]:
    """A NumPy view of an array or a tensor, in the byte order of this machine and with axes that run forwards.

    A copy is made only where torch could not read the view: of bfloat16, which NumPy lacks, of what is on a device or
    mapped backwards, of the other byte order, and of floating types that torch lacks.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().resolve_neg()
        return np.asarray(values.float() if values.dtype == torch.bfloat16 else values)
    if np.ma.is_masked(values):
        raise InputError("Some values are masked: fill them, for example values.filled(0).")
    array = np.asarray(values)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if any(step < 0 for step in array.strides):
        array = array.copy()
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def as_integers(name: str, values: ArrayOrTensor) -> NDArray[np.int64]:
    """A one-dimensional array of integers, as int64."""
    array = as_array(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"{name} of type {array.dtype} and shape {list(array.shape)} cannot be used: give one row of integers, for "
            "example np.unique(names, return_inverse=True)[1] for class names, or np.flatnonzero(mask) for a mask."
        )
    return np.ascontiguousarray(array, dtype=np.int64)


def check_images(images: NDArray[Any]) -> None:
    """Refuse images that are not `[N, *input]` of finite numbers within the range of float32."""
    if images.dtype.kind != "f" and images.dtype != np.uint8:
        raise InputError(
            f"images are {images.dtype}: give a floating type or uint8, for example images.astype('float32')."
        )
    if images.ndim < 2 or images.size == 0:
        raise InputError(
            f"images have the shape {list(images.shape)}: give [N, *input] with at least one image and one input axis, "
            "for example [N, 1, 28, 28] or [N, features]."
        )
    if images.dtype == np.uint8:
        return
    # The minimum and the maximum show NaN and infinity without a second array of the same size.
    if not max(abs(float(images.min())), abs(float(images.max()))) <= float(np.finfo(np.float32).max):
        bad = np.flatnonzero(~np.isfinite(images.reshape(len(images), -1)).all(1))
        which = f"{len(bad)} of {len(images)}, first number {bad[0]}" if len(bad) else "values beyond float32's range"
        raise InputError(f"images hold NaN, infinity or too large a number ({which}): repair or drop these images.")


def check_splits(splits: Mapping[str, ArrayOrTensor], n: int) -> None:
    """Refuse unknown split names, indices without an image, and images that are given twice."""
    if not isinstance(splits, Mapping):
        raise InputError(
            f"splits are a {type(splits).__name__}: give the image numbers by split, {{'train': [0, 1, ...], ...}}."
        )
    if not splits:
        raise InputError("splits are empty: give the image numbers of at least one of train, val and test.")
    home = np.full(n, -1)
    for split, images in splits.items():
        check_split(split)
        numbers = as_integers(f"splits[{split!r}]", images)
        if len(numbers) == 0:
            raise InputError(f"Split {split!r} has no images: leave it out, or give it some.")
        if numbers.min() < 0 or numbers.max() >= n:
            raise InputError(
                f"Split {split!r} has image numbers from {numbers.min()} to {numbers.max()}, but there are {n} images: "
                f"give numbers from 0 to {n - 1}."
            )
        if len(np.unique(numbers)) < len(numbers):
            raise InputError(f"Split {split!r} has an image twice: give np.unique(...) of its image numbers.")
        taken = numbers[home[numbers] >= 0]
        if len(taken):
            other = list(SPLITS)[home[taken[0]]]
            raise InputError(
                f"Image {taken[0]} is in {other!r} and in {split!r} ({len(taken)} such images): training images "
                "cannot be test images. Take them out of one of the two."
            )
        home[numbers] = SPLITS[split]
