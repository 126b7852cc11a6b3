"""Whether a run is judged on pictures that it was not trained on.

Seeded splits deal pictures out by their place, so one picture more deals all of them anew, and so does another seed or
another choice of classes. What a checkpoint says of its tasks tells whether the pictures are those of training still;
where they are, the numbers of what is judged and of what was trained on can be compared.
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

DIVISION = ("name", "data", "split_rule", "seed")
"""What of a description says which pictures a split has."""


class MaybeSeen(UserWarning):
    """Pictures of which it cannot be told whether a run was trained on them."""


def describe_split(described: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    """Of what tasks say of themselves, what concerns a split: tasks that join several have a description for each.

    >>> described = {"name": "cross", "train": {"name": "batches", "data": "1f"}, "test": {"name": "digits"}}
    >>> describe_split(described, "train")
    {'name': 'batches', 'data': '1f'}
    """
    while "data" not in described and isinstance(described.get(split), Mapping):
        described = described[split]
    return described


def check_unseen(
    run: str, saved: Mapping[str, Any], trained: TaskFamily, judged: TaskFamily, split: str, *, asked_for: bool
) -> None:
    """Refuse to judge a run on pictures that it was trained on, or on changed pictures of which nobody can say.

    Args:
        run: Its name, for the message.
        saved: What the tasks said of themselves in training, from a checkpoint.
        trained: The tasks of training as they are now.
        judged: The tasks of the evaluation.
        split: Which of their splits is evaluated.
        asked_for: Whether other tasks than the run's own were asked for. Changed pictures are a warning then.
    """
    source, asked = trained.of_split("train"), judged.of_split(split)
    if not _same_pictures(source, asked):
        return
    before, now, here = (
        describe_split(saved, "train"),
        to_plain_or_text(source.describe()),
        to_plain_or_text(asked.describe()),
    )
    if "data" in before and before["data"] != now.get("data"):
        told = (
            f"{run} was trained on {before.get('name')}, data {before['data']}; what is there now is "
            f"{now.get('name')}, data {now.get('data')}, and which of its pictures were trained on cannot be told. "
        )
        if not asked_for:
            raise InputError(
                f"{told}Put the files back, or name what it is to be judged on all the same (--tasks.path DIRECTORY)."
            )
        if _set(before) == _set(now):
            warnings.warn(f"{told}The result may be of pictures it was trained on.", MaybeSeen, stacklevel=3)
        return
    if split == "train" or all(now.get(key) == here.get(key) for key in DIVISION):
        return
    tested = _numbers(asked, split)
    seen = int(np.isin(tested, _numbers(source, "train")).sum())
    if seen:
        raise InputError(
            f"{seen} of the {len(tested)} {split!r} pictures of {here['name']} ({here['split_rule']}) are among those "
            f"that {run} was trained on ({now['split_rule']}). Leave the split, its seed and the choice of classes as "
            "they were in training, or judge the run on another set."
        )


def _episodes(family: TaskFamily) -> Episodes | None:
    under = family.of if isinstance(family, Batches) else family
    return under if isinstance(under, Episodes) else None


def _same_pictures(one: TaskFamily, other: TaskFamily) -> bool:
    """Whether a number means the same picture in both, perhaps in another size or preparation."""
    if one is other:
        return True
    first, second = _episodes(one), _episodes(other)
    if first is None or second is None:
        return False
    if isinstance(first, ImageEpisodes) and isinstance(second, ImageEpisodes):
        alike = first.name == second.name and list(first.names) == list(second.names)
        return first.digest == second.digest or (alike and np.array_equal(first.labels, second.labels))
    return first.images is second.images or np.array_equal(as_array(first.images), as_array(second.images))


def _set(described: Mapping[str, Any]) -> str:
    """Which set it is, without what its name says of the counts of pictures."""
    return str(described.get("of", described.get("name"))).partition(" ")[0]


def _numbers(family: TaskFamily, split: str) -> NDArray[np.int64]:
    """The pictures of a split by number; those that batches hold out of training are among those of training."""
    under = _episodes(family)
    assert under is not None
    wanted = {split} if family is under else {"train", split}
    own = [as_integers("splits", as_array(under.splits[name])) for name in wanted if name in under.splits]
    return np.unique(np.concatenate(own))
