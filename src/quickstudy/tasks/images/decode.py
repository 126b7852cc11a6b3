"""Decoding: pictures of any kind become bytes of one shape, and every change beyond resizing is reported."""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from quickstudy.errors import InputError
from quickstudy.tasks.draws import store_integers
from quickstudy.tasks.images.listing import Pictures
from quickstudy.types import Integer

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}
LARGEST_SIDE = 1024


class UnreadablePictureError(ValueError):
    """A picture that cannot be decoded. The message is the reason in a few words."""


@dataclass(frozen=True)
class Decoding:
    """How a picture becomes bytes `[channels, side, side]`.

    The picture is stretched to the square, as the papers' scripts do. Nothing is cut off.

    Args:
        side: Height and width in pixels.
        channels: 1 for grey (luma), 3 for red, green and blue.
        resample: The filter for resizing: lanczos, bilinear, bicubic or area.
        invert: Whether to store 255 minus the value.
    """

    side: Integer
    channels: Integer
    resample: str = "bilinear"
    invert: bool = False

    def __post_init__(self) -> None:
        store_integers(self, "side", "channels")
        if not 1 <= self.side <= LARGEST_SIDE:
            raise InputError(f"size={self.side!r} cannot be used: give a size from 1 to {LARGEST_SIDE} pixels.")
        if self.channels not in (1, 3):
            raise InputError(f"channels={self.channels!r} cannot be used: 1 is grey, 3 is colour.")
        if self.resample not in FILTERS:
            raise InputError(f"There is no filter {self.resample!r}. Filters are: {', '.join(FILTERS)}.")


def decode(pictures: Pictures, number: int, how: Decoding) -> tuple[UInt8[np.ndarray, "channels side side"], set[str]]:
    """Decode one picture. Return its bytes, and in words what was changed beyond resizing.

    Raises:
        UnreadablePictureError: The file is damaged, of an unknown kind, or claims a size that no picture has.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # about tags, which change no pixel
            with pictures[number] as picture:  # opened in here: too large a size is an error before anything is decoded
                picture.load()
                return _convert(picture, how)
    except Exception as error:  # Pillow raises struct.error, IndexError, TypeError and more for damaged files
        raise UnreadablePictureError(_describe_damage(error)) from error


def _describe_damage(error: BaseException) -> str:
    """Why a picture could not be read, without its path and without the address of an object."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition(" <")[0] or type(error).__name__


def _convert(picture: Image.Image, how: Decoding) -> tuple[UInt8[np.ndarray, "channels side side"], set[str]]:
    done = set()
    if getattr(picture, "is_animated", False):
        done.add("only the first frame was taken")
    upright = ImageOps.exif_transpose(picture)
    if picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        done.add("turned upright as its EXIF tag says")
    grey = upright.mode in ("1", "L", "LA", "La") or upright.mode.startswith("I")
    if upright.mode.startswith("I"):
        upright = Image.fromarray((np.asarray(upright).clip(0, 65535) // 257).astype(np.uint8))
        done.add("16 bits made 8")
    elif upright.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        done.add("transparency laid over white")
    if how.channels == 3 and grey:
        done.add("grey made colour")
    elif how.channels == 1 and not grey:
        done.add("colour made grey")
    same = upright.convert("L" if how.channels == 1 else "RGB")
    if same.size != (how.side, how.side):
        same = same.resize((how.side, how.side), FILTERS[how.resample])
    pixels = np.asarray(same).reshape(how.side, how.side, how.channels).transpose(2, 0, 1)
    return (255 - pixels if how.invert else pixels), done
