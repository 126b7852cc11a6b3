"""Leakage: a run must not be evaluated on pictures that it was trained on.

A seeded split depends on the list of all pictures. So one more picture, another seed or another choice of classes can
move pictures from training to test. A checkpoint describes its tasks, with a digest of their pictures. If the digest is
still the same, a picture's number means the same picture, and the numbers of both splits can be compared. If it is not,
the same picture may be there under another number, in another size or in other shades. Then classes of one name are
compared by what their pictures look like.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.storage.files import to_plain_or_text
from quickstudy.tasks import Batches, Episodes, TaskFamily
from quickstudy.tasks.arrays import as_array, as_integers
from quickstudy.tasks.images.family import ImageEpisodes

SPLIT_KEYS = ("name", "data", "split_rule", "seed")
"""The entries of a description that decide which pictures a split has."""


COMPARED, SMALL, ALIKE = 256, 8, 0.6
"""How many pictures are compared, at how many pixels a side, and the share of those that must be most alike."""


class LeakageWarning(UserWarning):
    """The pictures have changed since training, so the run may have been trained on some of them."""


def describe_split(description: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    """The part of a description that is about a split. Tasks of `cross` have a description for each split.

    >>> description = {"name": "cross", "train": {"name": "batches", "data": "1f"}, "test": {"name": "digits"}}
    >>> describe_split(description, "train")
    {'name': 'batches', 'data': '1f'}
    """
    while "data" not in description and isinstance(description.get(split), Mapping):
        description = description[split]
    return description


def check_leakage(
    run: str, saved: Mapping[str, Any], trained: TaskFamily, evaluated: TaskFamily, split: str, *, other_tasks: bool
) -> None:
    """Refuse to evaluate a run on pictures that it was trained on, or may have been trained on.

    Args:
        run: The run's name, for messages.
        saved: The description of the tasks of training, from a checkpoint.
        trained: The tasks of training, built from the files of today.
        evaluated: The tasks of the evaluation.
        split: The split of the evaluation.
        other_tasks: Whether the user asked for other tasks than the run's own. Changed pictures are a warning then.
    """
    source, target = trained.of_split("train"), evaluated.of_split(split)
    there = _numbers_there(source, target)
    if there is None:
        return
    before = describe_split(saved, "train")
    now, here = to_plain_or_text(source.describe()), to_plain_or_text(target.describe())
    if "data" in before and before["data"] != now.get("data"):
        change = (
            f"{run} was trained on {before.get('name')}, data {before['data']}. The files are now {now.get('name')}, "
            f"data {now.get('data')}, so it is unknown which of these pictures the run was trained on. "
        )
        if not other_tasks:
            raise InputError(
                f"{change}Put the old files back, or name the pictures for the evaluation (--tasks.path DIRECTORY)."
            )
        if _set_name(before) == _set_name(now):
            warnings.warn(f"{change}The result may be of pictures it was trained on.", LeakageWarning, stacklevel=3)
        return
    if split == "train" or all(now.get(key) == here.get(key) for key in SPLIT_KEYS):
        return
    numbers = _picture_numbers(target, split)
    seen = int(np.isin(there[numbers], _picture_numbers(source, "train")).sum())
    if seen:
        raise InputError(
            f"{seen} of the {len(numbers)} {split!r} pictures of {here['name']} ({here['split_rule']}) are among those "
            f"that {run} was trained on ({now['split_rule']}). Leave the split, its seed and the choice of classes as "
            "they were in training, or evaluate the run on another set."
        )


def _episodes(family: TaskFamily) -> Episodes | None:
    """The episodes of a family or of the family inside `batches`; None for tasks without pictures."""
    inner = family.of if isinstance(family, Batches) else family
    return inner if isinstance(inner, Episodes) else None


def _numbers_there(source: TaskFamily, target: TaskFamily) -> NDArray[np.int64] | None:
    """For each picture of the target, the number of the same picture in the source, or -1; None if they share none."""
    first, second = _episodes(source), _episodes(target)
    if first is None or second is None:
        return None
    own = np.arange(len(second.labels))
    if first.images is second.images:
        return own
    if not (isinstance(first, ImageEpisodes) and isinstance(second, ImageEpisodes)):
        return own if np.array_equal(as_array(first.images), as_array(second.images)) else None
    if first.digest == second.digest:
        return own
    numbers = _numbers_by_class(first, second)
    shared = np.flatnonzero(numbers >= 0)
    some = shared[np.linspace(0, len(shared) - 1, min(len(shared), COMPARED)).astype(int)]
    return numbers if len(some) and _look_alike(first, numbers[some], second, some) else None


def _numbers_by_class(source: ImageEpisodes, target: ImageEpisodes) -> NDArray[np.int64]:
    """The number of the picture at the same place in the class of the same name; -1 where there is no such class.

    A class that has another number of pictures in the source is left out: the places say nothing there.
    """
    theirs = {name: np.flatnonzero(np.asarray(source.labels) == label) for label, name in enumerate(source.names)}
    numbers = np.full(len(target.labels), -1)
    for label, name in enumerate(target.names):
        own = np.flatnonzero(np.asarray(target.labels) == label)
        if len(theirs.get(name, ())) == len(own):
            numbers[own] = theirs[name]
    return numbers


def _look_alike(
    one: ImageEpisodes, numbers: NDArray[np.int64], other: ImageEpisodes, others: NDArray[np.int64]
) -> bool:
    """Whether most pictures are more like their counterpart than like any of the other ones.

    Small grey pictures are compared by the size of their correlation. So other sizes, shades and cuts do not matter,
    nor whether ink is dark or light.
    """
    alike = (_small(one, numbers) @ _small(other, others).T).abs()
    return bool((alike.argmax(1) == torch.arange(len(numbers))).double().mean() > ALIKE)


def _small(family: ImageEpisodes, numbers: NDArray[np.int64]) -> Tensor:
    """Grey pictures of `SMALL` pixels a side, as rows with mean 0 and length 1."""
    pictures = family.take_images(numbers).cpu().double()
    small = F.adaptive_avg_pool2d(pictures.mean(1, keepdim=True), SMALL).flatten(1)
    return F.normalize(small - small.mean(1, keepdim=True), dim=1)


def _set_name(description: Mapping[str, Any]) -> str:
    """The name of the data set, without the number of pictures that may follow it."""
    return str(description.get("of", description.get("name"))).partition(" ")[0]


def _picture_numbers(family: TaskFamily, split: str) -> NDArray[np.int64]:
    """The numbers of a split's pictures. For `batches` they include the pictures held out of training."""
    inner = _episodes(family)
    assert inner is not None
    wanted = {split} if family is inner else {"train", split}
    own = [as_integers("splits", as_array(inner.splits[name])) for name in wanted if name in inner.splits]
    return np.unique(np.concatenate(own))
