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
from PIL import ExifTags, Image
from torch import Tensor, nn

from quickstudy.models.encoders.cache import hash_content
from quickstudy.models.encoders.encoder import Encoder, digest_module
from quickstudy.storage.files import max_bytes
from quickstudy.tasks.images.decode import Decoding, RangedPictures, decode, standard_range
from quickstudy.tasks.images.inputs import OnePicture, as_pixels
from quickstudy.tasks.images.limits import check_pixels
from quickstudy.tasks.images.listing import check_regular

Colours = tuple[float, float, float]


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
        pixels, _ = decode(RangedPictures(OnePicture(item), standard_range), 0, self.decoding)
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
        return picture_key(item)

    def encode_one(self, item: Any) -> Float[Tensor, " features"]:
        features: Tensor = self.network(self.preparation(item))[0]
        return features


def picture_key(item: Any) -> bytes:
    """A hash of what a picture is: of its file, of a PIL image with all that says how it is shown, or of an array."""
    if isinstance(item, str | PathLike):
        path = Path(item)
        check_regular(path)
        if path.stat().st_size > max_bytes():
            raise ValueError(f"{path} has more than {max_bytes()} bytes, which QUICKSTUDY_MAX_BYTES allows")
        return hash_content(b"file", path.read_bytes())
    if isinstance(item, Image.Image):
        check_pixels(*item.size)
        item.load()  # a file may say behind its pixels how it is turned
        turned = item.info.get("exif", b"")
        if "xmp" in item.info or "XML:com.adobe.xmp" in item.info:  # which may say how the picture is turned too
            turned += f"turned {item.getexif().get(ExifTags.Base.Orientation)}".encode()
        through = repr(item.info.get("transparency")).encode()
        palette = b""
        if item.mode in ("P", "PA") and item.palette:
            palette = item.palette.mode.encode() + item.palette.tobytes()
        about = f"{item.mode} {item.size}".encode()
        return hash_content(b"image", about, item.tobytes(), turned, through, palette)
    pixels = as_pixels(item)
    return hash_content(b"array", str(pixels.shape).encode(), pixels.tobytes())
