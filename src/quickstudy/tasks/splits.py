"""Which images belong to which split: divide the images of every class, or divide the classes.

By image, a test task shows new images of the training classes. By class, it shows new classes. The second is harder and
is what most papers report; the first needs far fewer classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quickstudy.errors import InputError
from quickstudy.tasks.draws import SPLITS, Draws, check_split, is_finite
from quickstudy.types import Integer

Fractions = tuple[float, float, float]
"""The fractions of train, val and test, adding up to 1. A split with fraction 0 is left out."""

Indices = dict[str, NDArray[np.int64]]
"""The images of each split, as indices into the data."""


class Pool(NamedTuple):
    """The images of a split by class: labels `[C]` and indices `[C, max(counts)]`. Row c has `counts[c]`, then -1."""

    classes: NDArray[np.int64]
    table: NDArray[np.int64]
    counts: NDArray[np.int64]


def pool_by_class(labels: NDArray[np.int64], images: NDArray[np.int64]) -> Pool:
    """The images of a split by class. The order of `images` does not matter."""
    ordered = images[np.lexsort((images, labels[images]))]
    classes, counts = np.unique(labels[ordered], return_counts=True)
    table = np.full((len(classes), counts.max()), -1)
    table[np.repeat(np.arange(len(classes)), counts), rank_within(counts)] = ordered
    return Pool(classes, table, counts)


def rank_within(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The position of each item within its group, for groups of these sizes one after the other.

    >>> rank_within(np.array([2, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _assign_splits(place: NDArray[np.float64], fractions: Fractions) -> NDArray[np.int64]:
    """The number of the split for each position in (0, 1) of a shuffled row."""
    are_three = isinstance(fractions, Sequence) and len(fractions) == 3 and all(map(is_finite, fractions))
    if not are_three or not all(0 <= share <= 1 for share in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(
            f"fractions={fractions!r} do not divide the data: give the fractions of train, val and test, "
            "each 0 to 1 and adding up to 1, for example (0.6, 0.2, 0.2)."
        )
    # Rounding may leave the last edge just below 1; no position may fall beyond the last split with a fraction.
    last = max(number for number, share in enumerate(fractions) if share > 0)
    return np.minimum(np.searchsorted(np.cumsum(fractions), place), last)


def split_by_image(labels: NDArray[np.int64], fractions: Fractions, seed: Integer) -> Indices:
    """Divide the shuffled images of each class: all splits have all classes, and no image is in two splits.

    >>> {name: len(images) for name, images in split_by_image(np.repeat([3, 8], 10), (0.6, 0.2, 0.2), seed=0).items()}
    {'train': 12, 'val': 4, 'test': 4}
    """
    shuffled = np.lexsort((Draws(seed, "train", 0).uniform("split by image", len(labels)), labels))
    counts = np.unique(labels, return_counts=True)[1]
    number = _assign_splits((rank_within(counts) + 0.5) / np.repeat(counts, counts), fractions)
    return _drop_empty({name: np.sort(shuffled[number == i]) for name, i in SPLITS.items()})


def split_by_class(labels: NDArray[np.int64], fractions: Fractions, seed: Integer) -> Indices:
    """Divide the shuffled classes: each class, with all of its images, is in one split."""
    classes = np.unique(labels)
    shuffled = classes[Draws(seed, "train", 0).order("split by class", len(classes))]
    number = _assign_splits((np.arange(len(classes)) + 0.5) / len(classes), fractions)
    return split_by_list(labels, {name: shuffled[number == i].tolist() for name, i in SPLITS.items()})


def split_by_list(labels: NDArray[np.int64], classes: Mapping[str, Sequence[int]]) -> Indices:
    """Divide the classes as listed. Classes that no split lists are left out."""
    if not isinstance(classes, Mapping) or not all(isinstance(members, Iterable) for members in classes.values()):
        raise InputError(
            f"classes={classes!r} are no lists by split: give them as {{'train': [0, 1], 'test': [2, 3]}}."
        )
    home: dict[int, str] = {}
    known = set(np.unique(labels).tolist())
    for split, members in classes.items():
        check_split(split)
        for label in members:
            if label not in known:
                raise InputError(
                    f"Split {split!r} lists class {label!r}, which no image has. The data have {len(known)} classes, "
                    f"from {min(known)} to {max(known)}."
                )
            if label in home:
                raise InputError(
                    f"Class {label!r} is listed in {home[label]!r} and in {split!r}. A class can be in one split only: "
                    "remove it from one of them, or split by image."
                )
            home[label] = split
    return _drop_empty({name: np.flatnonzero(np.isin(labels, list(members))) for name, members in classes.items()})


def _drop_empty(splits: Indices) -> Indices:
    return {name: images for name, images in splits.items() if len(images)}
