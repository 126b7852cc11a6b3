"""Measuring the calibrations that come with the encoder `photos`: `make calibrations`, with the two image sets there.

ImageNet, which the encoder was trained on, holds the classes of mini-ImageNet and some of the birds. So on pictures of
another kind probabilities may be too sure.
"""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from quickstudy.everyday.packing import measure_encoder
from quickstudy.models.encoders.feature_tasks import features
from quickstudy.models.encoders.open_encoder import open_encoder
from quickstudy.storage.files import write_atomic
from quickstudy.tasks.arrays import as_integers
from quickstudy.tasks.episodes import Episodes
from quickstudy.tasks.images.sets import IMAGE_SETS

MEASURED_ON = ("cub", "mini_imagenet")


def measure_photos() -> Path:
    """Write `calibrations/photos.json`, and return its path."""
    encoder = open_encoder("photos")
    measured = measure_encoder(encoder, [_every_class(features(of=IMAGE_SETS[name]())) for name in MEASURED_ON])
    path = Path(str(files("quickstudy.everyday"))) / "calibrations" / "photos.json"
    write_atomic(path, (json.dumps(measured) + "\n").encode())
    return path


def _every_class(family: Episodes) -> Episodes:
    """The family with all of its classes for validation: the encoder was trained on none of these pictures."""
    every = np.arange(len(as_integers("labels", family.labels)))
    return replace(family, splits={"val": every}, rule="all classes")
