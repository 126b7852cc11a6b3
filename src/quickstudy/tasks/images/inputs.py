"""Pictures that a user gives one by one, made ready for a net as the pictures of its training were.

Each picture is decoded alone, so what a net sees of it never depends on the pictures that are given with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.tasks.arrays import as_array
from quickstudy.tasks.base import TaskFamily
from quickstudy.tasks.batches import Batches
from quickstudy.tasks.images.decode import RangedPictures, UnreadablePictureError, decode, standard_range
from quickstudy.tasks.images.family import ImageEpisodes
from quickstudy.tasks.images.limits import check_pixels
from quickstudy.tasks.images.listing import open_picture
from quickstudy.tasks.images.preparations import preparation_named
from quickstudy.tasks.images.store import Progress

CHANNELS = (1, 3, 4)

Picture = str | PathLike[str] | Image.Image | NDArray[Any] | Tensor
"""A picture: the path of a file, an image of Pillow, or what `as_pixels` takes."""


@dataclass(frozen=True)
class PictureInput:
    """How a picture becomes the input of a net.

    Args:
        size: Height and width of the input.
        channels: 1 for grey, 3 for colour.
        recipe: The name of the preparation.
        fit: How a picture that is no square becomes one: see `Decoding`.
        drawing: Whether the net was trained on drawings. Their ink is found by its being rarer than the paper, and made
            light or dark as the recipe wants it.
    """

    size: int
    channels: int
    recipe: str = "none"
    fit: str = "stretch"
    drawing: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one input."""
        return (self.channels, self.size, self.size)

    def prepare(
        self, pictures: Sequence[Picture], progress: Progress | None = None
    ) -> Float[Tensor, "n channels size size"]:
        """The inputs for these pictures. One that cannot be read is an error that names it."""
        recipe = preparation_named(self.recipe)
        how = recipe.decoding(self.size, self.channels, None, self.fit)
        made = []
        for number, picture in enumerate(pictures):
            try:
                pixels, _ = decode(RangedPictures(OnePicture(picture), standard_range), 0, how)
            except UnreadablePictureError as error:
                raise InputError(
                    f"{name_picture(picture, number)} cannot be read: {error}. Repair it, or leave it out."
                ) from error
            made.append(self._with_ink(pixels, recipe.ink))
            if progress is not None:
                progress(number + 1, len(pictures))
        return recipe.prepare(torch.from_numpy(np.stack(made)), self.size, None)

    def has_other_paper(self, x: Float[Tensor, "n channels size size"]) -> bool:
        """Whether most of x cannot have been prepared: drawings with light ink, which are light nearly everywhere."""
        wants_dark_paper = self.drawing and preparation_named(self.recipe).ink == "light"
        return wants_dark_paper and bool(x.flatten(1).median(1).values.median() > 0.9)

    def _with_ink(self, pixels: UInt8[np.ndarray, "c h w"], wanted: str | None) -> UInt8[np.ndarray, "c h w"]:
        """A drawing with light or dark ink, as wanted; any other picture as it is."""
        if not self.drawing or wanted is None:
            return pixels
        found = "dark" if np.median(pixels) > 127 else "light"
        return pixels if found == wanted else 255 - pixels


@dataclass(frozen=True)
class OnePicture:
    """One picture in any form, for the decoder, which closes what it was given."""

    item: Any

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> Image.Image:
        del number
        if isinstance(self.item, str | PathLike):
            return open_picture(Path(self.item))
        if isinstance(self.item, Image.Image):
            check_pixels(*self.item.size)
            return self.item.copy()
        return Image.fromarray(as_pixels(self.item))


def as_pixels(values: Any) -> NDArray[np.uint8]:
    """An array or tensor as bytes `[height, width]` or `[height, width, channels]`.

    Bytes and other integers are 0 to 255, floating-point numbers 0 to 1. Channels are the first axis or the last,
    whichever has 1, 3 or 4; if both do, the first in a tensor and the last in an array.

    >>> as_pixels(torch.tensor([[[0.0, 1.0, 0.5]]])).tolist()
    [[0, 255, 128]]
    """
    if not isinstance(values, Tensor | np.ndarray):
        raise ValueError(f"a {type(values).__name__} is no picture: give a path, a PIL image, an array or a tensor")
    array = as_array(values)
    sides = [axis for axis in (0, -1) if array.ndim == 3 and array.shape[axis] in CHANNELS]
    if (array.ndim != 2 and not sides) or 0 in array.shape:
        raise ValueError(
            f"an array of shape {list(array.shape)} is no picture: give [height, width], [channels, height, width] or "
            "[height, width, channels] with 1, 3 or 4 channels"
        )
    if array.ndim == 3 and (sides[0] if isinstance(values, Tensor) else sides[-1]) == 0:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    check_pixels(array.shape[1], array.shape[0])
    floating = array.dtype.kind == "f"
    if array.dtype.kind not in "fiub":
        raise ValueError(f"an array of {array.dtype} is no picture: give bytes, or numbers from 0 to 1")
    low, high, most = float(array.min()), float(array.max()), 1 if floating or array.dtype.kind == "b" else 255
    if not (low >= 0 and high <= most):
        kind = "floating-point" if floating else "whole"
        advice = "; of 16 bits, give them divided by 65535.0" if not floating and low >= 0 and high < 65536 else ""
        raise ValueError(
            f"the values of a picture of {kind} numbers are 0 to {most}; here they are {low:g} to {high:g}{advice}"
        )
    return np.ascontiguousarray((array * (255.0 if most == 1 else 1.0)).round().astype(np.uint8))


def name_picture(picture: Picture, number: int) -> str:
    """A picture in messages: its path, or its place among those that were given.

    >>> name_picture("a/1.png", 0), name_picture(np.zeros((2, 2), np.uint8), 3)
    ('a/1.png', 'Picture number 3')
    """
    return str(picture) if isinstance(picture, str | PathLike) else f"Picture number {number}"


def picture_input(family: TaskFamily) -> PictureInput | None:
    """How the pictures of a family's training tasks are made ready; None for tasks without pictures."""
    trained = family.of_split("train")
    if isinstance(trained, Batches):
        trained = trained.of
    if not isinstance(trained, ImageEpisodes):
        return None
    return PictureInput(int(trained.size), int(trained.inputs[0]), trained.recipe.name, trained.fit, trained.drawing)
