"""Encoders from timm, by the name of a model.

timm needs torchvision. Where the two cannot be imported, as in the environment of this package's tests, opening one
says so; the preparation is tested by timm's own numbers.
"""

from collections.abc import Mapping
from typing import Any

from quickstudy.errors import InputError, describe_error
from quickstudy.models.encoders.libraries import count_features, make_preparation, require_library, square_side
from quickstudy.models.encoders.pictures import PictureEncoder, PicturePreparation


def open_timm(model_name: str) -> PictureEncoder:
    """A model of timm by its name, with its published weights."""
    name = f"timm:{model_name}"
    timm = require_library("timm", f"The encoder {name!r}", "pip install timm torchvision")
    try:
        network = timm.create_model(model_name, pretrained=True, num_classes=0)
        settings = timm.data.resolve_model_data_config(network)
    except Exception as error:  # no such model, or no network
        raise InputError(f"The encoder {name!r} cannot be opened: {describe_error(error)}.") from error
    preparation = timm_preparation(name, settings)
    return PictureEncoder(name, name, network, count_features(network, preparation), preparation)


def timm_preparation(name: str, settings: Mapping[str, Any]) -> PicturePreparation:
    """Our preparation, by timm's numbers.

    >>> numbers = {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.9}
    >>> timm_preparation("timm:x", numbers | {"mean": (0.5,) * 3, "std": (0.5,) * 3}).decoding.keep
    0.9
    """
    side = square_side(settings["input_size"], name)
    squash = settings.get("crop_mode") == "squash"
    return make_preparation(
        name,
        side,
        settings["interpolation"],
        settings["mean"],
        settings["std"],
        fit="stretch" if squash else "crop",
        keep=settings.get("crop_pct", 1.0),
    )
