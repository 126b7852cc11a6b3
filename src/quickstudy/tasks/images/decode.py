"""Decoding: pictures of any kind become bytes of one shape, and every change beyond resizing is reported."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from quickstudy.errors import InputError
from quickstudy.tasks.draws import store_integers
from quickstudy.tasks.images.limits import check_pixels
from quickstudy.tasks.images.listing import PICTURE_FORMATS, Pictures
from quickstudy.types import Integer

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}
FITS = ("stretch", "crop")
STANDARD_RANGES = (1.0, *(2.0**bits - 1 for bits in (8, 10, 12, 14, 16)))
LARGEST_SIDE = 1024
Range = tuple[float, float]


class UnreadablePictureError(ValueError):
    """A picture that cannot be decoded. The message is the reason in a few words."""


@dataclass(frozen=True)
class Decoding:
    """How a picture becomes bytes `[channels, side, side]`.

    Args:
        side: Height and width in pixels.
        channels: 1 for grey (luma), 3 for red, green and blue.
        resample: The filter for resizing: lanczos, bilinear, bicubic or area.
        invert: Whether to store 255 minus the value.
        fit: How a picture that is no square becomes one: "stretch" (as the papers' scripts do; nothing is cut off) or
            "crop" (the square in its middle; no shape is changed).
        keep: With "crop", the side of that square, divided by the shorter side of the picture.
    """

    side: Integer
    channels: Integer
    resample: str = "bilinear"
    invert: bool = False
    fit: str = "stretch"
    keep: float = 1.0

    def __post_init__(self) -> None:
        store_integers(self, "side", "channels")
        if not 1 <= self.side <= LARGEST_SIDE:
            raise InputError(f"size={self.side!r} cannot be used: give a size from 1 to {LARGEST_SIDE} pixels.")
        if self.channels not in (1, 3):
            raise InputError(f"channels={self.channels!r} cannot be used: 1 is grey, 3 is colour.")
        if self.resample not in FILTERS:
            raise InputError(f"There is no filter {self.resample!r}. Filters are: {', '.join(FILTERS)}.")
        if self.fit not in FITS:
            raise InputError(f"fit={self.fit!r} cannot be used: give {' or '.join(map(repr, FITS))}.")
        if not 0 < self.keep <= 1:
            raise InputError(f"keep={self.keep!r} cannot be used: give more than 0 and at most 1.")

    def key_fields(self) -> dict[str, Any]:
        """What names this decoding in the cache. What came later is named where it is used: older entries stay."""
        later = {"fit": self.fit, "keep": self.keep} if self.fit != "stretch" else {}
        own = {"side": self.side, "channels": self.channels, "resample": self.resample, "invert": self.invert}
        return own | later

    def resize(self, picture: Image.Image) -> Image.Image:
        """The picture as a square of this side."""
        if self.fit == "stretch" and picture.size == (self.side, self.side):
            return picture
        box = None
        if self.fit == "crop":
            width, height = picture.size
            half = self.keep * min(width, height) / 2
            box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
        return picture.resize((self.side, self.side), FILTERS[self.resample], box)


def usual_range(low: float, high: float) -> tuple[float, float]:
    """The range 0 to 1, or of 8, 10, 12, 14 or 16 bits, if the values fill half of it. Else the values' own range.

    >>> usual_range(3.0, 4e3), usual_range(4.0e4, 4.05e4), usual_range(0.0, 0.9)
    ((0.0, 4095.0), (40000.0, 40500.0), (0.0, 1.0))
    """
    for top in STANDARD_RANGES:
        if low >= 0 and top / 2 <= high <= top and (high - low >= top / 2 or low == high):
            return 0.0, top
    return low, high


def standard_range(low: float, high: float) -> tuple[float, float]:
    """The smallest of those ranges that holds the values of a picture which is alone: its contrast stays as it is.

    >>> standard_range(4.0e4, 4.05e4), standard_range(-3.0, 2.0)
    ((0.0, 65535.0), (-3.0, 2.0))
    """
    return next(((0.0, top) for top in STANDARD_RANGES if low >= 0 and high <= top), (low, high))


@dataclass(frozen=True)
class RangedPictures:
    """Pictures of one set, with the ranges by which those of more than 8 bits become bytes.

    A file says how many bits a value has, not how many are used: 12 bits of a camera, or the 8 of a converted picture,
    are often stored in 16. One range for the set keeps light pictures lighter than dark ones.

    Args:
        pictures: The set.
        find_range: From their least and their largest value to those that become 0 and 255.
    """

    pictures: Pictures
    find_range: Callable[[float, float], Range] = usual_range

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, number: int) -> Image.Image:
        return self.pictures[number]

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The range of integers ("i") and of floating-point numbers ("f"), found when the first such picture is met."""
        found: dict[str, list[float]] = {}
        for number in range(len(self.pictures)):
            try:
                with _opened(self.pictures, number) as picture:
                    values = _read_deep_values(picture, self.pictures, number)
            except Exception:  # damage may raise anything; decoding reports such a picture, with the reason
                continue
            if values is not None:
                found.setdefault(_kind(values), []).extend(_ends(values))
        return {kind: self.find_range(min(ends), max(ends)) for kind, ends in found.items()}


def _ends(values: NDArray[Any]) -> tuple[float, float]:
    """The smallest and the largest of the values of a picture, without its transparency."""
    colours = values[..., :3] if values.ndim == 3 else values
    return float(colours.min()), float(colours.max())


def _kind(values: NDArray[Any]) -> str:
    return "f" if values.dtype.kind == "f" else "i"


def _read_deep_values(picture: Image.Image, pictures: Pictures, number: int) -> NDArray[Any] | None:
    """The values `[height, width]` or `[height, width, channels]` of a picture with more than 8 bits; None for others.

    Of 16-bit colours Pillow keeps the upper bytes. The lower ones are read as if the byte order were the other one.
    """
    if picture.mode[0] in "IF":
        values = np.asarray(picture)
        if not np.isfinite(values).all():
            raise ValueError("NaN or infinity among its pixels")
        return values
    names = _raw_modes(picture)
    if not names or not set(names) <= set(_LOWER_BYTES):
        return None
    upper = np.asarray(picture).astype(np.uint16)
    with _opened(pictures, number) as again:
        assert isinstance(again, ImageFile.ImageFile), "it was a file a moment ago"
        again.tile = [
            tile._replace(
                args=(_LOWER_BYTES[name], *tile.args[1:]) if isinstance(tile.args, tuple) else _LOWER_BYTES[name]
            )
            for tile, name in zip(again.tile, names, strict=True)
        ]
        lower = np.asarray(again).astype(np.uint16)
    if "LA;16B" in names:  # there is no mode for its lower bytes; read as four channels, these are all of its bytes
        light, alpha = lower[..., 0] * 256 + lower[..., 1], lower[..., 2] * 256 + lower[..., 3]
        return np.stack([light, light, light, alpha], -1)
    return upper * np.uint16(256) + lower


def _raw_modes(picture: Image.Image) -> list[str]:
    """How the values lie in a file, for each of its tiles; none for an array."""
    tiles = picture.tile if isinstance(picture, ImageFile.ImageFile) else []
    return [str((*tile.args, "")[0] if isinstance(tile.args, tuple) else tile.args) for tile in tiles]


_ORDERS = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_LOWER_BYTES = {
    f"{mode};16{order}": f"{mode};16{other}" for mode in ("RGB", "RGBA") for order, other in _ORDERS.items()
}
_LOWER_BYTES["LA;16B"] = "RGBA"
"""By the raw mode of colours of 16 bits, the one that reads their lower bytes."""


@contextmanager
def _opened(pictures: Pictures, number: int) -> Iterator[Image.Image]:
    """A picture that is not too large, while Pillow's warnings are off: they are about tags, which change no pixel."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `check_pixels` refuses what is too large
        with pictures[number] as picture:
            check_pixels(*picture.size)
            yield picture


def decode(pictures: Pictures, number: int, how: Decoding) -> tuple[UInt8[np.ndarray, "channels side side"], set[str]]:
    """Decode one picture. Return its bytes, and in words what was changed beyond resizing.

    Raises:
        UnreadablePictureError: The file is damaged, of an unknown kind, or claims a size that no picture has.
    """
    try:
        with _opened(pictures, number) as picture:  # opened in here: too large a size is an error before it is decoded
            cut = {"16 bits made 8, by their upper bytes" for raw in _raw_modes(picture) if ";16" in raw}
            deep = _read_deep_values(picture, pictures, number)
            picture.load()
            if deep is None:
                return _convert(picture, cut, how)
            if not isinstance(pictures, RangedPictures):
                pictures = RangedPictures(pictures)
            return _convert(*_make_bytes(picture, deep, *pictures.ranges[_kind(deep)]), how)
    except Exception as error:  # Pillow raises struct.error, IndexError, TypeError and more for damaged files
        raise UnreadablePictureError(_describe_damage(error)) from error


def hash_picture(pictures: Pictures, number: int) -> bytes:
    """A digest of the values of a picture at its full size, upright, whatever the format of its file."""
    with _opened(pictures, number) as picture:
        deep = _read_deep_values(picture, pictures, number)
        upright = ImageOps.exif_transpose(picture)
        values = np.asarray(upright.convert("RGBA")) if deep is None else deep.astype(np.float64)
    return blake2b(f"{values.dtype} {values.shape}".encode() + values.tobytes()).digest()


def _describe_damage(error: BaseException) -> str:
    """Why a picture could not be read, without its path and without the address of an object."""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image that Pillow knows as one of {', '.join(PICTURE_FORMATS)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).partition(" <")[0].split()) or type(error).__name__


def _make_bytes(picture: Image.Image, values: NDArray[Any], low: float, high: float) -> tuple[Image.Image, set[str]]:
    """A picture of 8 bits whose 0 is `low` and whose 255 is `high`, upright as the tag of the other says."""
    ends = (values.astype(np.float64) - low) * 255 / ((high - low) or 1)
    if values.ndim == 3 and values.shape[2] == 4:
        ends[..., 3] = values[..., 3] // 257  # the alpha of a file always fills 16 bits
    shown = Image.fromarray(ends.clip(0, 255).astype(np.uint8))
    shown.getexif()[ExifTags.Base.Orientation] = picture.getexif().get(ExifTags.Base.Orientation, 1)
    through = picture.info.get("transparency")
    if isinstance(through, int | tuple):
        clear = np.atleast_3d(values == np.asarray(through)).all(2)
        shown.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    bits = "16 bits" if (low, high) == (0, 65535) else f"values from {low:g} to {high:g}"
    return shown, {f"{bits} made 8" if bits == "16 bits" else f"{bits} made 8 bits"}


def _convert(
    picture: Image.Image, done: set[str], how: Decoding
) -> tuple[UInt8[np.ndarray, "channels side side"], set[str]]:
    if getattr(picture, "is_animated", False):
        done.add("only the first frame was taken")
    upright = ImageOps.exif_transpose(picture)
    if picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        done.add("turned upright as its EXIF tag says")
    grey = upright.mode in ("1", "L", "LA", "La")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        done.add("transparency laid over white")
    if how.channels == 3 and grey:
        done.add("grey made colour")
    elif how.channels == 1 and not grey:
        done.add("colour made grey")
    same = upright.convert("L" if how.channels == 1 else "RGB")
    same = how.resize(same)
    pixels = np.asarray(same).reshape(how.side, how.side, how.channels).transpose(2, 0, 1)
    return (255 - pixels if how.invert else pixels), done
