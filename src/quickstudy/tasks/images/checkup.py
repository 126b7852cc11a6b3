"""Counts for a check of an image set: pictures per class, sizes of files, and identical pictures."""

import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from quickstudy.tasks.images.decode import hash_picture
from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.store import Progress, StoredPictures
from quickstudy.tasks.splits import Indices


@dataclass(frozen=True)
class Identical:
    """Pictures whose pixels are the same, byte for byte, as they are stored and at their full size.

    Args:
        groups: Groups of identical pictures, by their indices.
        within: How many groups have two pictures of one class.
        across: How many groups have pictures of several classes, so that at least one label is wrong.
        splits: How many groups have pictures in several splits, so that a test picture was trained on.
    """

    groups: Sequence[Sequence[int]]
    within: int
    across: int
    splits: int

    @property
    def pictures(self) -> int:
        """How many pictures are in any of the groups."""
        return sum(map(len, self.groups))


def find_identical(found: StoredPictures, splits: Indices, listing: Listing) -> Identical:
    """Find the pictures that are there more than once.

    Args:
        found: The pictures.
        listing: Where they were found: those that look alike at the stored size are compared at their full size.
        splits: The indices of each split; empty if the pictures are not divided.
    """
    same: dict[bytes, list[int]] = {}
    for number, pixels in enumerate(found.pixels):
        same.setdefault(blake2b(pixels, digest_size=16).digest(), []).append(number)
    place = {name: number for number, name in enumerate(listing.names)}
    full: dict[tuple[bytes, bytes], list[int]] = {}
    for stored, alike in same.items():
        for number in alike if len(alike) > 1 else ():
            full.setdefault((stored, hash_picture(listing.pictures, place[found.names[number]])), []).append(number)
    groups = [numbers for numbers in full.values() if len(numbers) > 1]
    home = np.full(len(found.labels), -1)
    for split, numbers in enumerate(splits.values()):
        home[numbers] = split
    classes = [found.labels[numbers] for numbers in groups]
    return Identical(
        groups,
        sum(len(np.unique(labels)) < len(labels) for labels in classes),
        sum(len(np.unique(labels)) > 1 for labels in classes),
        sum(len(set(home[numbers].tolist()) - {-1}) > 1 for numbers in groups),
    )


def read_headers(
    listing: Listing, readable: Collection[str], progress: Progress | None = None
) -> tuple[Counter[tuple[int, int]], Counter[str]]:
    """Count pictures by (width, height) and by Pillow's mode. Only the headers of the files are read.

    Args:
        listing: The pictures.
        readable: The names of those that could be decoded; only these are counted. A damaged one may have its header.
        progress: Is told how many were read.
    """
    sizes, modes, counted = Counter[tuple[int, int]](), Counter[str](), set(readable)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd tags and large sizes; decoding reports what matters
        for number in range(len(listing.pictures)):
            try:
                if listing.names[number] not in counted:
                    continue
                with listing.pictures[number] as picture:
                    sizes[picture.size] += 1
                    modes[picture.mode] += 1
            except Exception:  # damage may raise anything; decoding reports such a picture, with the reason
                continue
            finally:
                if progress is not None:
                    progress(number + 1, len(listing.pictures))
    return sizes, modes


def count_per_class(found: StoredPictures) -> dict[str, Any]:
    """Pictures in the smallest, the median and the largest class, and how many classes have two or more."""
    counts = np.bincount(found.labels, minlength=len(found.classes))
    return {
        "smallest": int(counts.min()),
        "median": float(np.median(counts)),
        "largest": int(counts.max()),
        "of_two_or_more": int((counts >= 2).sum()),
    }
