"""What is in a set of pictures, counted: classes, sizes, and pictures that are there more than once."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.store import Progress, Stored

Indices = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Identical:
    """Pictures that are the same, byte for byte, as they are stored: decoded, at one size.

    Args:
        groups: Numbers of the pictures, by picture that is there more than once.
        within: How many groups have two pictures of one class.
        across: How many have pictures of more than one class: at least one of the labels is wrong.
        splits: How many have pictures in more than one split: what is tested was trained on.
    """

    groups: Sequence[Sequence[int]]
    within: int
    across: int
    splits: int

    @property
    def pictures(self) -> int:
        """How many pictures are in a group."""
        return sum(map(len, self.groups))


def find_identical(found: Stored, splits: Indices) -> Identical:
    """The pictures that are there more than once.

    Args:
        found: The pictures.
        splits: Picture numbers by split; empty where there is no division to look across.
    """
    same: dict[bytes, list[int]] = {}
    for number, pixels in enumerate(found.pixels):
        same.setdefault(blake2b(pixels, digest_size=16).digest(), []).append(number)
    groups = [numbers for numbers in same.values() if len(numbers) > 1]
    home = np.full(len(found.labels), -1)
    for place, numbers in enumerate(splits.values()):
        home[numbers] = place
    classes = [found.labels[numbers] for numbers in groups]
    return Identical(
        groups,
        sum(len(np.unique(labels)) < len(labels) for labels in classes),
        sum(len(np.unique(labels)) > 1 for labels in classes),
        sum(len(set(home[numbers].tolist()) - {-1}) > 1 for numbers in groups),
    )


def read_headers(listing: Listing, progress: Progress | None = None) -> tuple[Counter[tuple[int, int]], Counter[str]]:
    """How many pictures there are of each (width, height) and of each of Pillow's modes, by their headers alone."""
    sizes, modes = Counter[tuple[int, int]](), Counter[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd tags and great sizes; decoding has said what matters
        for number in range(len(listing.pictures)):
            try:
                with listing.pictures[number] as picture:
                    sizes[picture.size] += 1
                    modes[picture.mode] += 1
            except Exception:  # damaged in any way: decoding names it, with the reason
                continue
            finally:
                if progress is not None:
                    progress(number + 1, len(listing.pictures))
    return sizes, modes


def count_per_class(found: Stored) -> dict[str, Any]:
    """Pictures in the smallest, the median and the largest class, and how many classes are of use for learning."""
    counts = np.bincount(found.labels, minlength=len(found.classes))
    return {
        "smallest": int(counts.min()),
        "median": float(np.median(counts)),
        "largest": int(counts.max()),
        "of_two_or_more": int((counts >= 2).sum()),
    }
