"""Thumbnails and confusion counts of image tasks, kept with a result so that a report needs no data set.

Reports are made from run directories alone. A result therefore keeps its images, small: bytes instead of floats, no
more images than a page shows, and shrunk, so that the result stays under a megabyte.
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

THUMBNAIL_BYTES = 350_000
"""At most so many bytes for all thumbnails of one figure."""

MAX_SHEET_CLASSES = 60
"""Classes of one split on the contact sheet."""

ArraysByName = dict[str, NDArray[Any]]
Counts = NDArray[np.int64]


def predict_classes(output: Float[Tensor, "*t n out"], ways: int) -> Int[Tensor, "*t n"]:
    """The predicted class 0..ways-1 of each query; -1 where the output is NaN or its largest value is no class."""
    largest = output.argmax(-1)
    return largest.masked_fill(output.isnan().any(-1) | (largest >= ways), -1)


def count_confusions(classes: Int[Tensor, "t ways"], y: Int[Tensor, "t n"], guess: Int[Tensor, "t n"]) -> Counts:
    """Rows (true label, predicted label, number of queries) `[K, 3]` over all tasks.

    Each task numbers its own classes from 0. `classes` has the lasting labels of these.

    >>> classes, y = torch.tensor([[7, 4]]), torch.tensor([[0, 0, 1]])
    >>> count_confusions(classes, y, guess=torch.tensor([[0, 1, 1]])).tolist()
    [[4, 4, 1], [7, 4, 1], [7, 7, 1]]
    """
    labels, number = np.unique(classes.numpy(), return_inverse=True)
    # The last column stands for "no answer": a guess of -1 points there.
    number = np.append(number.reshape(classes.shape), np.full((len(classes), 1), len(labels)), 1)
    true, predicted = (np.take_along_axis(number, of.numpy(), 1) for of in (y, guess % (classes.shape[1] + 1)))
    pairs, counts = np.unique(true * (len(labels) + 1) + predicted, return_counts=True)
    known = np.append(labels, NO_ANSWER)
    return np.stack([known[pairs // (len(labels) + 1)], known[pairs % (len(labels) + 1)], counts], 1)


def merge_confusions(parts: Sequence[Counts]) -> Counts:
    """Add up the confusion counts of several task lists."""
    rows = np.concatenate(parts)
    labels, number = np.unique(rows[:, :2], return_inverse=True)
    true, predicted = number.reshape(-1, 2).T
    pairs, place = np.unique(true * len(labels) + predicted, return_inverse=True)
    counts = np.zeros(len(pairs), np.int64)
    np.add.at(counts, place, rows[:, 2])
    return np.stack([labels[pairs // len(labels)], labels[pairs % len(labels)], counts], 1)


def collect_thumbnails(
    family: TaskFamily, split: str, example: Mapping[str, NDArray[Any]], confusions: Sequence[Counts | None]
) -> ArraysByName:
    """The arrays that a result keeps for figures: the example task, and for image tasks confusions and a contact sheet.

    Args:
        family: The tasks of the evaluation.
        split: Their split.
        example: The example task of the first task list.
        confusions: The confusion counts of each task list, where there are any.
    """
    arrays, part = shrink_example(example), family.of_split(split)
    if not isinstance(part, Episodes):
        return arrays
    if counts := [of for of in confusions if of is not None]:
        arrays["confusion"] = merge_confusions(counts)
    if is_images(part.inputs):
        # A part of `cross` also has splits that play no part in the run: only the evaluated one is shown.
        arrays |= make_contact_sheet(part, [name for name in SPLITS if part is family or name == split])
    used = [arrays[name].ravel() for name in ("classes", "sheet_labels") if name in arrays]
    labels = np.unique(np.concatenate([*used, *(of[:, :2].ravel() for of in counts)]))
    labels = labels[labels != NO_ANSWER]
    return arrays | {"labels": labels, "names": np.array([part.class_name(int(label)) for label in labels], np.str_)}


def shrink_example(example: Mapping[str, NDArray[Any]]) -> ArraysByName:
    """Keep the images of an example task that a page shows, as thumbnails. Any other task stays as it is.

    `support_shown` and `query_shown` are the numbers of these images in the support and the query set.
    """
    arrays = dict(example)
    x = arrays.get("support_x")  # inputs of several tensors are not kept
    if x is None or not is_images(x.shape[1:]) or arrays["support_y"].ndim != 1:
        return arrays
    for half, most in (("support", SHOTS_SHOWN), ("query", QUERIES_SHOWN)):
        y = arrays[f"{half}_y"]
        labels = np.unique(arrays["support_y"])[:WAYS_SHOWN]
        arrays[f"{half}_shown"] = np.concatenate([np.flatnonzero(y == label)[:most] for label in labels])
    support, query = (arrays[f"{half}_x"][arrays[f"{half}_shown"]] for half in ("support", "query"))
    small = make_thumbnails(np.concatenate([support, query]))
    return arrays | {"support_x": small[: len(support)], "query_x": small[len(support) :]}


def make_contact_sheet(family: Episodes, wanted: Sequence[str]) -> ArraysByName:
    """One image of each class of the wanted splits (at most `MAX_SHEET_CLASSES`), and the number of classes.

    Of classes that are copies of each other, turned or mirrored, it is the first.
    """
    labels, images = family.copies * as_integers("labels", family.labels), as_array(family.images)
    numbers, splits, classes = [], [], {}
    for split in (name for name in wanted if name in family.splits):
        own = np.sort(as_array(family.splits[split]))
        classes[split], first = np.unique(labels[own], return_index=True)
        spaced = np.linspace(0, len(first) - 1, min(len(first), MAX_SHEET_CLASSES)).round().astype(np.int64)
        numbers.append(own[first[spaced]])
        splits += [split] * len(spaced)
    every, homes = np.unique(np.concatenate(list(classes.values())), return_counts=True)
    return {
        "sheet_x": make_thumbnails(images[np.concatenate(numbers)]),
        "sheet_labels": labels[np.concatenate(numbers)],
        "sheet_splits": np.array(splits),
        "sheet_classes": np.array([family.copies * len(classes[split]) for split in dict.fromkeys(splits)]),
        "sheet_shared": every[homes > 1],
    }


def make_thumbnails(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Images `[n, C, H, W]` as bytes: 0 for the smallest value, 255 for the largest. They fit in `THUMBNAIL_BYTES`."""
    x = torch.from_numpy(images).double()
    shrink = sqrt(THUMBNAIL_BYTES / max(THUMBNAIL_BYTES, x.numel()))
    if shrink < 1:
        x = F.interpolate(x, size=[max(1, int(side * shrink)) for side in x.shape[2:]], mode="area")
    low, high = x.aminmax()
    small: NDArray[np.uint8] = (255 * (x - low) / (high - low).clamp(min=1e-12)).round().byte().numpy()
    return small
