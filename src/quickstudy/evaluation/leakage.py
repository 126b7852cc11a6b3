"""Leakage: a run must not be evaluated on pictures that it was trained on.

A seeded split depends on the list of all pictures. So one more picture, another seed or another choice of classes can
move pictures from training to test. A checkpoint describes its tasks, with a digest of their pictures. If the digest is
still the same, a picture's number means the same picture, and the numbers of both splits can be compared.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quickstudy.errors import InputError
from quickstudy.storage.files import to_plain_or_text
from quickstudy.tasks import Batches, Episodes, TaskFamily
from quickstudy.tasks.arrays import as_array, as_integers
from quickstudy.tasks.images.family import ImageEpisodes

SPLIT_KEYS = ("name", "data", "split_rule", "seed")
"""The entries of a description that decide which pictures a split has."""


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
    if not _same_pictures(source, target):
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
    seen = int(np.isin(numbers, _picture_numbers(source, "train")).sum())
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


def _same_pictures(one: TaskFamily, other: TaskFamily) -> bool:
    """Whether a number means the same picture in both families. The size and the preparation may differ."""
    if one is other:
        return True
    first, second = _episodes(one), _episodes(other)
    if first is None or second is None:
        return False
    if isinstance(first, ImageEpisodes) and isinstance(second, ImageEpisodes):
        same_set = first.name == second.name and list(first.names) == list(second.names)
        return first.digest == second.digest or (same_set and np.array_equal(first.labels, second.labels))
    return first.images is second.images or np.array_equal(as_array(first.images), as_array(second.images))


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
