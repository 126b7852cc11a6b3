"""Pictures that a user gives one by one, made ready for a net as the pictures of its training were.

Each picture is decoded alone, so what a net sees of it never depends on the pictures that are given with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.tasks.base import TaskFamily
from quickstudy.tasks.batches import Batches
from quickstudy.tasks.images.decode import UnreadablePictureError, decode
from quickstudy.tasks.images.family import ImageEpisodes
from quickstudy.tasks.images.limits import check_pixels
from quickstudy.tasks.images.listing import open_picture
from quickstudy.tasks.images.preparations import preparation_named

Picture = str | Path | Image.Image | NDArray[Any] | Tensor
"""A picture: the path of a file, an image of Pillow, or bytes `[height, width]`, `[height, width, 3]` or with the
channels first."""


@dataclass(frozen=True)
class PictureInput:
    """How a picture becomes the input of a net.

    Args:
        size: Height and width of the input.
        channels: 1 for grey, 3 for colour.
        recipe: The name of the preparation.
        drawing: Whether the net was trained on drawings. Their ink is found by its being rarer than the paper, and made
            light or dark as the recipe wants it.
        fit: How a picture that is no square becomes one: see `Decoding`.
    """

    size: int
    channels: int
    recipe: str = "none"
    drawing: bool = False
    fit: str = "stretch"

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one input."""
        return (self.channels, self.size, self.size)

    def prepare(self, pictures: Sequence[Picture]) -> Float[Tensor, "n channels size size"]:
        """The inputs for these pictures. One that cannot be read is an error that names it."""
        recipe = preparation_named(self.recipe)
        how = recipe.decoding(self.size, self.channels, None, self.fit)
        made = []
        for number, picture in enumerate(pictures):
            try:
                pixels, _ = decode(_OnePicture(picture), 0, how)
            except UnreadablePictureError as error:
                raise InputError(
                    f"{name_picture(picture, number)} cannot be read: {error}. Repair it, or leave it out."
                ) from error
            made.append(self._with_ink(pixels, recipe.ink))
        return recipe.prepare(torch.from_numpy(np.stack(made)), self.size, None)

    def _with_ink(self, pixels: UInt8[np.ndarray, "c h w"], wanted: str | None) -> UInt8[np.ndarray, "c h w"]:
        """A drawing with light or dark ink, as wanted; any other picture as it is."""
        if not self.drawing or wanted is None:
            return pixels
        found = "dark" if np.median(pixels) > 127 else "light"
        return pixels if found == wanted else 255 - pixels


@dataclass(frozen=True)
class _OnePicture:
    """One picture as `decode` reads it. An image of the user's own is copied, because decoding closes what it reads."""

    picture: Picture

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> Image.Image:
        del number
        if isinstance(self.picture, str | Path):
            return open_picture(Path(self.picture))
        if isinstance(self.picture, Image.Image):
            check_pixels(*self.picture.size)  # before the copy, which decodes a file that was only opened
            return self.picture.copy()
        return _image_of(self.picture)


def _image_of(values: NDArray[Any] | Tensor) -> Image.Image:
    """An image of bytes with their channels last, first, or without channels."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype != np.uint8:
        raise ValueError(f"its values are {array.dtype}, and a picture has bytes (uint8, 0 to 255)")
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ValueError(
            f"its shape is {list(array.shape)}, and a picture is [height, width], [height, width, 3] or "
            "[3, height, width]"
        )
    check_pixels(array.shape[1], array.shape[0])
    return Image.fromarray(np.ascontiguousarray(array))


def name_picture(picture: Picture, number: int) -> str:
    """A picture in messages: its path, or its place among those that were given.

    >>> name_picture("a/1.png", 0), name_picture(np.zeros((2, 2), np.uint8), 3)
    ('a/1.png', 'Picture number 3')
    """
    return str(picture) if isinstance(picture, str | Path) else f"Picture number {number}"


def picture_input(family: TaskFamily) -> PictureInput | None:
    """How the pictures of a family's training tasks are made ready; None for tasks without pictures."""
    trained = family.of_split("train")
    if isinstance(trained, Batches):
        trained = trained.of
    if not isinstance(trained, ImageEpisodes):
        return None
    channels = int(trained.inputs[0])
    return PictureInput(int(trained.size), channels, trained.recipe.name, trained.drawing, trained.fit)
