"""Encoders of pictures: a picture in any form is fitted, cropped and standardised, and a network reads it.

The pictures pass the same bounded readers as those of image sets: formats by their content, no more pixels than
`QUICKSTUDY_MAX_PIXELS`, upright, transparency over white, 16 bits as 8.
"""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from quickstudy.models.encoders.cache import hash_content
from quickstudy.models.encoders.encoder import Encoder, digest_module
from quickstudy.storage.files import max_bytes
from quickstudy.tasks.images.decode import Decoding, decode
from quickstudy.tasks.images.limits import check_pixels
from quickstudy.tasks.images.listing import FilePictures

Colours = tuple[float, float, float]
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class PicturePreparation:
    """How a picture becomes the input of a network.

    Args:
        decoding: How it becomes bytes: side, crop and filter.
        mean: Subtracted from each channel, whose values are 0 to 1.
        std: Each channel is divided by it.
    """

    decoding: Decoding
    mean: Colours
    std: Colours

    def key_fields(self) -> dict[str, Any]:
        """What names this preparation in a digest."""
        return {**self.decoding.key_fields(), "mean": self.mean, "std": self.std}

    def __call__(self, item: Any) -> Float[Tensor, "1 channels side side"]:
        """The input for one picture: a path, a PIL image, an array or a tensor."""
        pixels, _ = decode(_OnePicture(item), 0, self.decoding)
        x = torch.from_numpy(pixels[None].astype(np.float32)) / 255
        shape = (1, -1, 1, 1)
        return (x - x.new_tensor(self.mean).reshape(shape)) / x.new_tensor(self.std).reshape(shape)


class PictureEncoder(Encoder):
    """An encoder of pictures.

    Args:
        name: What it is opened by.
        kind: Names the computation of the network, for the digest.
        network: From prepared pictures `[n, channels, side, side]` to features `[n, features]`. It is put into
            evaluation mode, where a norm uses its own statistics.
        features: The size of these features.
        preparation: How a picture becomes an input.
    """

    takes = "pictures"

    def __init__(
        self, name: str, kind: str, network: nn.Module, features: int, preparation: PicturePreparation
    ) -> None:
        self.name, self.preparation = name, preparation
        self.network = network.eval().requires_grad_(False)
        self._features = features
        self.digest = digest_module(self.network, {"kind": kind, **preparation.key_fields()})

    @property
    def features(self) -> int:
        return self._features

    def key(self, item: Any) -> bytes:
        if isinstance(item, str | PathLike):
            path = Path(item)
            if path.stat().st_size > max_bytes():
                raise ValueError(f"{path} has more than {max_bytes()} bytes, which QUICKSTUDY_MAX_BYTES allows")
            return hash_content(b"file", path.read_bytes())
        if isinstance(item, Image.Image):
            check_pixels(*item.size)
            turned = item.info.get("exif", b"")
            through = repr(item.info.get("transparency")).encode()
            palette = item.palette.tobytes() if item.mode == "P" and item.palette else b""
            about = f"{item.mode} {item.size}".encode()
            return hash_content(b"image", about, item.tobytes(), turned, through, palette)
        pixels = as_pixels(item)
        return hash_content(b"array", str(pixels.shape).encode(), pixels.tobytes())

    def encode_one(self, item: Any) -> Float[Tensor, " features"]:
        features: Tensor = self.network(self.preparation(item))[0]
        return features


@dataclass(frozen=True)
class _OnePicture:
    """One picture in any form, for the decoder, which closes what it was given."""

    item: Any

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> Image.Image:
        if isinstance(self.item, str | PathLike):
            return FilePictures([Path(self.item)])[number]
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
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
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
        raise ValueError(f"the values of a picture of {array.dtype} are 0 to {most}; here they are {low:g} to {high:g}")
    return np.ascontiguousarray((array * (255.0 if most == 1 else 1.0)).round().astype(np.uint8))
