"""What a result keeps of image tasks, so that a page can show them later without the data: thumbnails and confusions.

Figures are drawn from run directories alone. What they will show is therefore cut to size here: bytes instead of
floats, no more images than a page holds, shrunk until they fit, so that a result stays under a megabyte.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.storage.result import NO_ANSWER, QUERIES_SHOWN, SHOTS_SHOWN, WAYS_SHOWN, is_images
from quickstudy.tasks import Episodes, TaskFamily
from quickstudy.tasks.arrays import as_array, as_integers
from quickstudy.tasks.draws import SPLITS

ROOM = 350_000
"""Bytes for the thumbnails of one picture."""

MOST_CLASSES = 60
"""Of one split on the contact sheet."""

Arrays = dict[str, NDArray[Any]]
Counts = NDArray[np.int64]


def predict_classes(output: Float[Tensor, "*t n out"], ways: int) -> Int[Tensor, "*t n"]:
    """The class 0..ways-1 that each output says, as accuracy counts it; -1 where it names none."""
    said = output.argmax(-1)
    return said.masked_fill(output.isnan().any(-1) | (said >= ways), -1)


def count_confusions(classes: Int[Tensor, "t ways"], y: Int[Tensor, "t n"], guess: Int[Tensor, "t n"]) -> Counts:
    """Rows (true label, predicted label, number of queries) `[K, 3]` over tasks that number their classes anew each.

    >>> classes, y = torch.tensor([[7, 4]]), torch.tensor([[0, 0, 1]])
    >>> count_confusions(classes, y, guess=torch.tensor([[0, 1, 1]])).tolist()
    [[4, 4, 1], [7, 4, 1], [7, 7, 1]]
    """
    labels, number = np.unique(classes.numpy(), return_inverse=True)
    # A last column for no answer, which is where -1 points.
    number = np.append(number.reshape(classes.shape), np.full((len(classes), 1), len(labels)), 1)
    true, said = (np.take_along_axis(number, of.numpy(), 1) for of in (y, guess % (classes.shape[1] + 1)))
    pairs, counts = np.unique(true * (len(labels) + 1) + said, return_counts=True)
    known = np.append(labels, NO_ANSWER)
    return np.stack([known[pairs // (len(labels) + 1)], known[pairs % (len(labels) + 1)], counts], 1)


def merge_confusions(parts: Sequence[Counts]) -> Counts:
    """The confusions of several task lists as those of one."""
    rows = np.concatenate(parts)
    labels, number = np.unique(rows[:, :2], return_inverse=True)
    true, said = number.reshape(-1, 2).T
    pairs, place = np.unique(true * len(labels) + said, return_inverse=True)
    counts = np.zeros(len(pairs), np.int64)
    np.add.at(counts, place, rows[:, 2])
    return np.stack([labels[pairs // len(labels)], labels[pairs % len(labels)], counts], 1)


def collect_thumbnails(
    family: TaskFamily, split: str, example: Mapping[str, NDArray[Any]], confusions: Sequence[Counts | None]
) -> Arrays:
    """The arrays of a result beside its values: the example task, and what an image family has to show.

    Args:
        family: That the tasks came from.
        split: Of it.
        example: Of the first task list, as evaluated.
        confusions: One per task list.
    """
    arrays, part = shrink_example(example), family.of_split(split)
    if not isinstance(part, Episodes):
        return arrays
    if counts := [of for of in confusions if of is not None]:
        arrays["confusion"] = merge_confusions(counts)
    if is_images(part.inputs):
        # Of tasks joined from several, this part's other splits are neither trained on nor judged.
        arrays |= contact_sheet(part, [name for name in SPLITS if part is family or name == split])
    used = [arrays[name].ravel() for name in ("classes", "sheet_labels") if name in arrays]
    labels = np.unique(np.concatenate([*used, *(of[:, :2].ravel() for of in counts)]))
    labels = labels[labels != NO_ANSWER]
    return arrays | {"labels": labels, "names": np.array([part.class_name(int(label)) for label in labels], np.str_)}


def shrink_example(example: Mapping[str, NDArray[Any]]) -> Arrays:
    """An example task with the images that a page has room for, as thumbnails; any other task as it is.

    `support_shown` and `query_shown` say which images were kept, by their number in the set.
    """
    arrays = dict(example)
    if not is_images(arrays["support_x"].shape[1:]) or arrays["support_y"].ndim != 1:
        return arrays
    for half, most in (("support", SHOTS_SHOWN), ("query", QUERIES_SHOWN)):
        y = arrays[f"{half}_y"]
        labels = np.unique(arrays["support_y"])[:WAYS_SHOWN]
        arrays[f"{half}_shown"] = np.concatenate([np.flatnonzero(y == label)[:most] for label in labels])
    support, query = (arrays[f"{half}_x"][arrays[f"{half}_shown"]] for half in ("support", "query"))
    small = thumbnails(np.concatenate([support, query]))
    return arrays | {"support_x": small[: len(support)], "query_x": small[len(support) :]}


def contact_sheet(family: Episodes, wanted: Sequence[str]) -> Arrays:
    """One image of each of up to `MOST_CLASSES` classes of the wanted splits, and how many classes there are."""
    labels, images = as_integers("labels", family.labels), as_array(family.images)
    numbers, splits, classes = [], [], {}
    for split in (name for name in wanted if name in family.splits):
        own = np.sort(as_array(family.splits[split]))
        classes[split], first = np.unique(labels[own], return_index=True)
        spaced = np.linspace(0, len(first) - 1, min(len(first), MOST_CLASSES)).round().astype(np.int64)
        numbers.append(own[first[spaced]])
        splits += [split] * len(spaced)
    every, homes = np.unique(np.concatenate(list(classes.values())), return_counts=True)
    return {
        "sheet_x": thumbnails(images[np.concatenate(numbers)]),
        "sheet_labels": labels[np.concatenate(numbers)],
        "sheet_splits": np.array(splits),
        "sheet_classes": np.array([len(classes[split]) for split in dict.fromkeys(splits)]),
        "sheet_shared": every[homes > 1],
    }


def thumbnails(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Images `[n, C, H, W]` as bytes, their least value black and their largest white, shrunk to fit in `ROOM`."""
    x = torch.from_numpy(images).double()
    shrink = sqrt(ROOM / max(ROOM, x.numel()))
    if shrink < 1:
        x = F.interpolate(x, size=[max(1, int(side * shrink)) for side in x.shape[2:]], mode="area")
    low, high = x.aminmax()
    small: NDArray[np.uint8] = (255 * (x - low) / (high - low).clamp(min=1e-12)).round().byte().numpy()
    return small
