"""From a picture of any kind to bytes of one shape; what had to be changed on the way is said, not hidden."""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from quickstudy.errors import InputError
from quickstudy.tasks.images.listing import Pictures

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}
LARGEST = 1024


class Unreadable(ValueError):
    """A picture that cannot be decoded, with the reason in a few words."""


@dataclass(frozen=True)
class Decoding:
    """The bytes that a picture becomes: `[channels, side, side]`.

    The picture is stretched to the square, as the papers' scripts do; nothing is cut off here.

    Args:
        side: Height and width in pixels.
        channels: 1 for grey (luma), 3 for red, green and blue.
        resample: The filter: lanczos, bilinear, bicubic or area.
        invert: Store 255 minus the value.
    """

    side: int
    channels: int
    resample: str = "bilinear"
    invert: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.side <= LARGEST:
            raise InputError(f"Pictures of {self.side} pixels cannot be made: give a size from 1 to {LARGEST}.")
        if self.channels not in (1, 3):
            raise InputError(f"channels={self.channels!r} cannot be used: 1 is grey, 3 is colour.")
        if self.resample not in FILTERS:
            raise InputError(f"There is no filter {self.resample!r}. Filters are: {', '.join(FILTERS)}.")


def decode(pictures: Pictures, number: int, how: Decoding) -> tuple[UInt8[np.ndarray, "channels side side"], set[str]]:
    """One picture's bytes, and in words what was done to it beyond resizing.

    Raises:
        Unreadable: The file is damaged, of an unknown kind, or too large to be a picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # tags that no pixel depends on
            with pictures[number] as picture:  # opened in here: what is too large is told before a pixel is decoded
                picture.load()
                return _converted(picture, how)
    except Exception as error:  # Pillow lets damage out as struct.error, IndexError, TypeError and more
        raise Unreadable(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """Why a picture could not be read, without the path and the object's address in it."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition(" <")[0] or type(error).__name__


def _converted(picture: Image.Image, how: Decoding) -> tuple[UInt8[np.ndarray, "channels side side"], set[str]]:
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
