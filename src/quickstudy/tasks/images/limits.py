"""Limits on the work that a small file may cause. An environment variable raises each, and errors name it."""

import os

from quickstudy.errors import InputError

MAX_PIXELS = "QUICKSTUDY_MAX_PIXELS"
MAX_UNPACKED = "QUICKSTUDY_MAX_UNPACKED"
MAX_FEATURES = "QUICKSTUDY_MAX_FEATURES"
_DEFAULTS = {MAX_PIXELS: 64_000_000, MAX_UNPACKED: 2**30, MAX_FEATURES: 2**30}
_SPARE_LINE = 16
"""Pixels that a row or a column counts beside its own, because Pillow keeps a pointer to each row of every copy."""
_USUAL_RATIO = 30
"""How many times larger than its file a data set may be: drawings are packed 20 times smaller, zeros 1000 times."""


def read_limit(name: str) -> int:
    """A limit from the environment, or its default.

    >>> read_limit(MAX_UNPACKED)
    1073741824
    """
    given = os.environ.get(name)
    if given is None:
        return _DEFAULTS[name]
    from pydantic import ByteSize, TypeAdapter, ValidationError  # a method does without it

    try:
        return int(TypeAdapter(ByteSize).validate_python(given))
    except ValidationError as error:
        raise InputError(f"{name}={given!r} is no amount: give a number, for example {_DEFAULTS[name]}.") from error


def check_pixels(width: int, height: int) -> None:
    """Refuse a picture that is too large, before it is decoded."""
    most = read_limit(MAX_PIXELS)
    if (width + _SPARE_LINE) * (height + _SPARE_LINE) > most:
        raise ValueError(
            f"Image size ({width * height} pixels) exceeds limit: it is {width} x {height}, and {MAX_PIXELS} is {most}"
        )


def check_unpacked(what: object, packed: int, unpacked: int) -> None:
    """Refuse data that would become far larger than their file, before they are unpacked."""
    most = read_limit(MAX_UNPACKED)
    if unpacked > max(most, _USUAL_RATIO * packed):
        raise InputError(
            f"{what} has {packed} bytes and would become {unpacked}: is it damaged, or made to fill the memory? If it "
            f"is right, raise the limit of {most} bytes: {MAX_UNPACKED}={unpacked}."
        )
