"""Supervised batches as tasks, so that the same trainer does pretraining and meta-training.

The query of such a "task" is a batch of images from all training classes. The label of an image is the position of its
class among the sorted training classes, so it is the same in the whole run. The support is one training image of each
class. Supervised learning ignores it; it is there because every task has a support set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.tasks.arrays import as_integers
from quickstudy.tasks.base import TaskFamily, TaskSource
from quickstudy.tasks.draws import SPLITS, Draws, is_finite, store_integers
from quickstudy.tasks.episodes import Episodes
from quickstudy.tasks.splits import Pool, split_by_image
from quickstudy.types import Examples, Integer, Shape


class _SplitImages(NamedTuple):
    """The images of a split, `[M]`: the position of its class in the split, its index in the data, and its label.

    With rotated classes an image is in four classes, and with mirrored ones in eight: so many rows have its index.
    """

    place: NDArray[np.int64]
    number: NDArray[np.int64]
    y: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batches(TaskFamily):
    """Supervised batches of the training classes of few-shot tasks, for pretraining.

    "val" has other images of the training classes: the "val" of the few-shot tasks if it has the same classes, else a
    fixed part of each class's training images. "test" is the "test" of the few-shot tasks, if it has the same classes;
    else there is none. All images of a batch differ. With rotated classes, all rotations of an image are in the same
    split, and at most one of them is in a batch.

    `about` has `images_support` and `images_query` (indices into the images of the few-shot tasks).

    >>> images, labels = np.zeros((40, 1, 8, 8), dtype=np.uint8), np.repeat([3, 8], 20)
    >>> of = Episodes.by_image(images, labels, fractions=(0.8, 0.0, 0.2), ways=2, queries=3)
    >>> batch = Batches(of, size=16).source("train", seed=0, size=1)(step=0)
    >>> batch.query.x.shape, sorted(batch.support.y[0].tolist())
    (torch.Size([1, 16, 1, 8, 8]), [0, 1])

    Args:
        of: The few-shot tasks whose images and training classes are used. Their ways, shots and queries are not,
            nor whether a task is within one alphabet.
        size: Images in a batch.
        hold_out: The fraction of each class's training images that is used for "val", if the few-shot tasks have no
            "val" of these classes.
        seed: The seed of that choice.
    """

    of: TaskFamily = field(repr=False)
    size: Integer = 64
    hold_out: float = 0.1
    seed: Integer = 0

    loss: ClassVar[str] = "cross_entropy"

    def __post_init__(self) -> None:
        store_integers(self, "size", least=1)
        store_integers(self, "seed")
        if not (is_finite(self.hold_out) and 0 <= self.hold_out < 1):
            raise InputError(
                f"hold_out={self.hold_out!r} is not a fraction: give 0 or more and less than 1, for example 0.1."
            )
        if "train" not in self._of.pools:
            raise InputError(f"{self._of.name!r} ({self._of.rule}) has no 'train' images to draw batches from.")
        _ = self._members  # computed now, so that the first step is as fast as the others

    @cached_property
    def _of(self) -> Episodes:
        if not isinstance(self.of, Episodes):
            raise InputError(
                f"Batches are drawn from images with class labels, and `of` is a {type(self.of).__name__}, which has "
                "none. Give few-shot tasks over images as `of`: {name: digits}, or Episodes."
            )
        return self.of

    def to_device(self, device: torch.device, max_bytes: int) -> "Batches":
        return replace(self, of=self.of.to_device(device, max_bytes))

    @property
    def inputs(self) -> Shape:
        return self._of.inputs

    @property
    def outputs(self) -> int:
        return len(self._of.pools["train"].classes)

    def source(self, split: str, *, seed: Integer = 0, size: Integer) -> TaskSource:
        """The batches of a split, `size` to a step. A split with too few images of the training classes is refused."""
        tasks = super().source(split, seed=seed, size=size)
        if split not in self._members:
            raise InputError(
                f"Batches of {self._of.name!r} ({self._of.rule}) have no {split!r}: it has no images of the "
                f"{self.outputs} training classes. They have {', '.join(self._members)}. To test on few-shot tasks of "
                "other classes, join both: tasks: {name: cross, train: {name: batches, ...}, test: ...}."
            )
        # In training, a support image is not in the query of its batch.
        free = len(np.unique(self._members[split].number)) - (self.outputs if split == "train" else 0)
        if free < self.size:
            raise InputError(
                f"Batches of {self.size} images need as many, and {split!r} has {max(free, 0)} to draw from. Lower "
                "size" + (", or raise hold_out." if split != "train" and not self._has_training_classes("val") else ".")
            )
        return tasks

    def sample(self, draws: Draws, size: Integer, part: slice) -> tuple[Examples, Examples, dict[str, Tensor]]:
        trained, asked = self._members["train"], self._members[draws.split]
        counts = np.bincount(trained.y)
        one = np.cumsum(counts) - counts + np.floor(draws.uniform("support", size, len(counts)) * counts).astype(int)
        one = one[part]
        rows = _rows_by_image(asked.number)
        rank = draws.uniform("query", size, len(asked.y))[part][:, rows]  # [T, images, turns]
        turn = rank.argmin(-1)  # an image that is in several classes is drawn in the row with the lowest rank
        rank = rank.min(-1)
        if draws.split == "train":
            image = np.empty(len(asked.y), dtype=np.int64)
            image[rows] = np.arange(len(rows))[:, None]
            # Support images come after all others, whose ranks are below 1.
            np.put_along_axis(rank, image[one], 2.0, axis=1)
        first = np.argsort(rank, axis=-1, kind="stable")[:, : self.size]
        many = rows[first, np.take_along_axis(turn, first, 1)]

        chosen, numbers, y = (
            torch.from_numpy(np.concatenate([support[one], query[many]], axis=1))
            for support, query in zip(trained, asked, strict=True)
        )
        pixels = self._of.take_images(numbers.numpy()[:, :, None])  # [T, n, 1, *stored]
        labels = self._of.pools["train"].classes[chosen.numpy()]
        x = self._of.prepare_inputs(pixels, labels, draws, size, part)[:, :, 0]
        ways = self.outputs
        about = {"images_support": numbers[:, :ways], "images_query": numbers[:, ways:]}
        return Examples(x[:, :ways], y[:, :ways]), Examples(x[:, ways:], y[:, ways:]), about

    @property
    def notes(self) -> Sequence[str]:
        return self.of.notes

    def describe(self) -> dict[str, Any]:
        return {
            "name": "batches",
            "of": self._of.name,
            "split_rule": self._of.rule
            + ("" if self._has_training_classes("val") else f", val {self.hold_out:g} of train's images"),
            "classes": self.outputs,
            "images": {name: len(members.y) for name, members in self._members.items()},
            "size": self.size,
            "seed": self.seed,
            "data": self._of.fingerprint,
        }

    def _has_training_classes(self, split: str) -> bool:
        """Whether the few-shot tasks have this split, and only training classes in it."""
        pools = self._of.pools
        return split in pools and bool(np.isin(pools[split].classes, pools["train"].classes).all())

    @cached_property
    def _members(self) -> dict[str, _SplitImages]:
        """The images of each split, sorted by class."""
        pools = self._of.pools
        shared = [split for split in SPLITS if self._has_training_classes(split)]
        members = {split: _list_members(pools[split], pools["train"].classes) for split in shared}
        if "val" not in members:
            every = members["train"]
            # Divided by image and not by row: no rotation of a held-out image is seen in training.
            once = every.number[np.sort(np.unique(every.number, return_index=True)[1])]
            labels = as_integers("labels", self._of.labels)[once]
            cut = split_by_image(labels, (1 - self.hold_out, self.hold_out, 0.0), self.seed)
            sides = {"train": once[:0]} | {split: once[kept] for split, kept in cut.items()}
            members |= {
                s: _SplitImages(*(part[np.isin(every.number, own)] for part in every)) for s, own in sides.items()
            }
        self._check_counts(members["train"])
        return members

    def _check_counts(self, trained: _SplitImages) -> None:
        """Refuse a class with fewer than 2 training images: one is in the support, and only others are in the query."""
        counts = np.bincount(trained.y, minlength=self.outputs)
        if counts.min() < 2:
            scarce = int(counts.argmin())
            classes, _, given = self._of.pools["train"]
            name = self._of.class_name(int(classes[scarce]))
            advice = f"Lower hold_out to {max(int(100 - 150 / given[scarce]), 0) / 100:g} or less, or leave"
            advice = f"{advice if given[scarce] > 1 else 'Leave'} that class out of the splits."
            left = f", of which hold_out={self.hold_out!r} leaves {counts[scarce]}"
            if given[scarce] == counts[scarce]:  # nothing was held out of it, so another hold_out would not help
                left, advice = "", "Add images to it, or leave it out of the splits."
            raise InputError(
                f"Batches need 2 images of each class to train on, one of them for the support; class '{name}' has "
                f"{given[scarce]}{left}. {advice}"
            )


def _rows_by_image(number: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of each image, `[images, rotations]`: one row, four with rotated classes, or eight.

    >>> _rows_by_image(np.array([7, 3, 3, 7])).tolist()
    [[1, 2], [0, 3]]
    """
    return np.argsort(number, kind="stable").reshape(len(np.unique(number)), -1)


def _list_members(pool: Pool, classes: NDArray[np.int64]) -> _SplitImages:
    place, column = np.nonzero(pool.table >= 0)
    return _SplitImages(place, pool.table[place, column], np.searchsorted(classes, pool.classes)[place])
