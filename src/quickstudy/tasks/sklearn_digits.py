"""scikit-learn's handwritten digits as few-shot tasks: real images that need no download.

There are 1797 images of 8x8 pixels, 174 to 183 of each digit. They are scaled down from the test part of the UCI data
"Optical Recognition of Handwritten Digits" (https://archive.ics.uci.edu/dataset/80).
"""

from typing import Any

import numpy as np

from quickstudy.errors import InputError
from quickstudy.tasks.episodes import Episodes
from quickstudy.types import Integer

DIGIT_CLASSES = {"train": range(6), "test": range(6, 10)}


def digits(
    split: str = "image", ways: Integer = 5, shots: Integer = 1, queries: Integer = 15, seed: Integer = 0
) -> Episodes:
    """Few-shot tasks over the ten digits; x is `[n, 1, 8, 8]` in [0, 1], ink is 1.

    By image, the images of each digit are divided 60/20/20: test tasks show new images of known digits. By class,
    digits 0-5 train and 6-9 test, so a task has 2 to 4 ways. Then there is no val: with a third set of 3 digits, only
    four would be left for training. Choose settings with the split by image, or train for a fixed number of steps.

    Args:
        split: "image" or "class".
        ways: Classes in a task.
        shots: Support images per class.
        queries: Query images per class.
        seed: The seed of the split by image. The split by class is fixed.
    """
    if split not in ("image", "class"):
        raise InputError(f"Digits cannot be split by {split!r}: choose 'image' or 'class'.")
    if split == "class" and ways > len(DIGIT_CLASSES["test"]):
        raise InputError(
            f"{ways}-way tasks need {ways} classes, and the split by class tests on "
            f"{len(DIGIT_CLASSES['test'])} digits (6 to 9): choose ways=3, or split='image'."
        )
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            "The digits come with scikit-learn, which is not installed: pip install 'quickstudy[data]'."
        ) from error
    data = load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)  # stored as ink counts from 0 to 16
    options: dict[str, Any] = {"name": "digits", "ways": ways, "shots": shots, "queries": queries}
    if split == "image":
        return Episodes.by_image(images, data.target, seed=seed, **options)
    rule = "by class (classes disjoint), 0-5 train, 6-9 test, no val"
    return Episodes.by_class(images, data.target, DIGIT_CLASSES, rule=rule, **options)
