"""Pictures in arrays: convert them to one form, and join several arrays to one listing."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quickstudy.errors import InputError
from quickstudy.tasks.images.limits import check_unpacked
from quickstudy.tasks.images.listing import ArrayPictures, Listing, Pictures, open_picture
from quickstudy.tasks.images.readers.gather import nfc


class LabelledPictures(NamedTuple):
    """The pictures of one array or file, their labels (numbers or names), and their split, if any."""

    source: str
    pictures: Pictures
    labels: NDArray[Any]
    split: str | None


@dataclass(frozen=True)
class EncodedPictures:
    """Pictures as the bytes of image files, opened on access."""

    files: Sequence[Any]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Image.Image:
        file = self.files[number]
        return open_picture(BytesIO(file.encode("latin1") if isinstance(file, str) else file))


@dataclass(frozen=True)
class ChainedPictures:
    """Pictures of several sources, one after the other, without copying arrays of gigabytes into one."""

    parts: Sequence[Pictures]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, number: int) -> Image.Image:
        if not 0 <= number < len(self):
            raise IndexError(number)
        ends = list(accumulate(map(len, self.parts)))
        at = bisect_right(ends, number)
        return self.parts[at][number - ends[at] + len(self.parts[at])]


def as_plain_array(values: object, source: str) -> NDArray[Any]:
    """An array of lists from a file. A list may hold one list many times, so that a short file means billions of items.

    >>> as_plain_array([[1, 2], [3, 4]], "x").shape
    (2, 2)
    """
    check_unpacked(source, 0, 8 * _count_items(values, {}, 0))
    return np.asarray(values)


def _count_items(values: object, known: dict[int, int], depth: int) -> int:
    if not isinstance(values, list | tuple):
        return 1
    if depth > 32:
        raise ValueError("lists in lists, more than 32 deep")
    if id(values) not in known:
        known[id(values)] = sum(_count_items(value, known, depth + 1) for value in values)
    return known[id(values)]


def as_pictures(values: object, source: str) -> ArrayPictures:
    """Convert an array to `[N, height, width]` or `[N, height, width, 3]`. Channels may come first or last."""
    array = as_plain_array(values, source)
    if array.ndim == 4 and array.shape[-1] not in (1, 3) and array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] != 3):
        raise InputError(
            f"The pictures of {source} are {array.dtype} of the shape {list(array.shape)}: give uint8 (0 to 255) as "
            "[N, height, width] or [N, height, width, 3]."
        )
    return ArrayPictures(array)


def as_labels(values: object, source: str, count: int) -> NDArray[Any]:
    """Convert labels to one row of integers or names, one for each picture."""
    array = as_plain_array(values, source)
    if array.dtype.kind in "SO":
        array = np.array([v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in array.ravel().tolist()])
    if array.size != count:
        raise InputError(f"{source} has {count} pictures and {array.size} labels: each picture needs one label.")
    if array.size and array.dtype.kind not in "iuU":
        raise InputError(f"The labels of {source} are {array.dtype}: give integers or names.")
    return array.reshape(-1)


def join_pictures(
    layout: str, parts: Sequence[LabelledPictures], skipped: Sequence[tuple[str, str]] = (), *, disjoint: bool
) -> Listing:
    """Join parts to one listing. Classes are in the order of their numbers, or in code-point order of their names.

    Args:
        layout: The layout, in words.
        parts: The pictures, in the order of the listing.
        skipped: What was left out, as (name, reason).
        disjoint: Whether the parts share no class. If numbers overlap, a number then means another class in each part,
            and the class is named after its split too ("train/0").
    """
    parts = [part for part in parts if len(part.labels)]
    if not parts:
        raise InputError(f"{layout}: there are no pictures in it.")
    labels_of = [set(part.labels.tolist()) for part in parts]
    shared = {value for at, values in enumerate(labels_of) for other in labels_of[:at] for value in values & other}
    if disjoint and any(isinstance(value, str) for value in shared):
        raise InputError(
            f"{layout}: {sorted(map(str, shared))[0]!r} is a class of two splits, but these splits share no class."
        )

    def name(part: LabelledPictures, value: int | str) -> int | str:
        return f"{part.split}/{value}" if disjoint and shared and isinstance(value, int) else value

    known = {name(part, value) for part, values in zip(parts, labels_of, strict=True) for value in values}
    classes = sorted(known, key=lambda value: (0, value, "") if isinstance(value, int) else (1, 0, nfc(value)))
    number = {value: at for at, value in enumerate(classes)}
    labels = [number[name(part, value)] for part in parts for value in part.labels.tolist()]
    ends = [0, *accumulate(len(part.labels) for part in parts)]
    splits: dict[str, list[NDArray[np.int64]]] = {}
    for part, start, end in zip(parts, ends, ends[1:], strict=False):
        if part.split:
            splits.setdefault(part.split, []).append(np.arange(start, end))
    return Listing(
        layout=nfc(layout),
        pictures=parts[0].pictures if len(parts) == 1 else ChainedPictures([part.pictures for part in parts]),
        names=[f"{nfc(part.source)}[{at}]" for part in parts for at in range(len(part.labels))],
        labels=np.array(labels, dtype=np.int64),
        classes=[nfc(str(value)) for value in classes],
        splits={split: np.concatenate(numbers) for split, numbers in splits.items()},
        skipped=list(skipped),
    )
