"""Encoders from open_clip: the image encoder of a model, by `NAME/WEIGHTS`.

open_clip needs torchvision. Where the two cannot be imported, as in the environment of this package's tests, opening a
model says so; the preparation is tested by open_clip's own numbers.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from quickstudy.errors import InputError, describe_error
from quickstudy.models.encoders.libraries import count_features, make_preparation, require_library, square_side
from quickstudy.models.encoders.pictures import PictureEncoder, PicturePreparation


def open_open_clip(model_name: str) -> PictureEncoder:
    """A model of open_clip: `ViT-B-32/laion2b_s34b_b79k`, or `hf-hub:...`, which names its weights itself."""
    name = f"open_clip:{model_name}"
    names_itself = model_name.startswith("hf-hub:")
    kind, _, weights = (model_name, "", "") if names_itself else model_name.partition("/")
    if not names_itself and not weights:
        raise InputError(
            f"The encoder {name!r} names no weights, so its model would not be trained. Write {name}/WEIGHTS, such as "
            "open_clip:ViT-B-32/laion2b_s34b_b79k; open_clip.list_pretrained() lists them."
        )
    library = require_library("open_clip", f"The encoder {name!r}", "pip install open_clip_torch torchvision")
    try:
        model = library.create_model(kind, pretrained=weights or None)
        settings = library.get_model_preprocess_cfg(model)
    except Exception as error:  # no such model or weights, or no network
        raise InputError(f"The encoder {name!r} cannot be opened: {describe_error(error)}.") from error
    preparation = open_clip_preparation(name, settings)
    network = _PictureHalf(model)
    return PictureEncoder(name, name, network, count_features(network, preparation), preparation)


class _PictureHalf(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.model.encode_image(x)  # type: ignore[operator]
        return features


def open_clip_preparation(name: str, settings: Mapping[str, Any]) -> PicturePreparation:
    """Our preparation, by open_clip's numbers.

    >>> numbers = {"size": 224, "interpolation": "bicubic", "resize_mode": "shortest"}
    >>> open_clip_preparation("open_clip:x", numbers | {"mean": (0.5,) * 3, "std": (0.5,) * 3}).decoding.fit
    'crop'
    """
    squash = settings.get("resize_mode") == "squash"
    return make_preparation(
        name,
        square_side(settings["size"], name),
        settings["interpolation"],
        settings["mean"],
        settings["std"],
        fit="stretch" if squash else "crop",
    )
