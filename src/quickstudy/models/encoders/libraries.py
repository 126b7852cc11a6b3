"""Libraries that only some encoders need: imported when such an encoder is opened."""

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import nn

from quickstudy.errors import InputError, describe_error
from quickstudy.models.encoders.pictures import PicturePreparation
from quickstudy.tasks.images.decode import FILTERS, Decoding


def require_library(name: str, what: str, install: str) -> ModuleType:
    """A library, or one line that says what to install."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"{what} needs {name}, which cannot be imported ({error}). Install it: {install}.") from error
    except Exception as error:  # a library beside a version that it does not fit may fail in any way
        raise InputError(f"{what} needs {name}, whose import fails: {describe_error(error)}.") from error


def square_side(size: Any, what: str) -> int:
    """The side of a square that a preparation gives as a number, a pair, or a mapping with height and width.

    >>> square_side({"height": 224, "width": 224}, "x"), square_side((3, 160, 160), "x"), square_side(96, "x")
    (224, 160, 96)
    """
    if isinstance(size, dict):
        size = [size["height"], size["width"]] if "height" in size else [size.get("shortest_edge")] * 2
    sides = [size, size] if isinstance(size, int) else list(size)[-2:]
    if sides[0] != sides[1] or not isinstance(sides[0], int):
        raise InputError(f"{what} reads pictures of the size {size}; only squares are prepared here.")
    return sides[0]


def make_preparation(
    what: str, side: int, resample: str, mean: Any, std: Any, *, fit: str = "crop", keep: float = 1.0
) -> PicturePreparation:
    """A preparation in a library's words; one that is not known here is refused."""
    if resample not in FILTERS:
        raise InputError(f"{what} resizes pictures by {resample!r}; known here are {', '.join(FILTERS)}.")
    decoding = Decoding(side, 3, resample, fit=fit, keep=min(keep, 1.0) if fit == "crop" else 1.0)
    mean, std = ((value,) * 3 if isinstance(value, int | float) else tuple(map(float, value)) for value in (mean, std))
    return PicturePreparation(decoding, mean, std)


def count_features(network: nn.Module, preparation: PicturePreparation) -> int:
    """How many features a network has for a picture, found by a black one. The network is then in evaluation mode."""
    side = preparation.decoding.side
    with torch.no_grad():
        features: int = network.eval()(torch.zeros(1, 3, side, side)).shape[1]
    return features
