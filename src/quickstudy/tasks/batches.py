"""Ordinary supervised batches as tasks: pretraining by the trainer that meta-trains, with its checkpoints and reports.

The query of a "task" is a batch of images from all training classes, each with one label for the whole run: its class's
position among the sorted training classes. The support is one training image of each class, which supervised learning
does not look at; it makes the batch a task like any other.
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
from quickstudy.tasks.base import TaskFamily, TaskSource
from quickstudy.tasks.draws import Draws
from quickstudy.tasks.episodes import Episodes
from quickstudy.tasks.splits import Pool, split_by_image
from quickstudy.tasks.synthetic.options import check_counts
from quickstudy.types import Examples, Shape


class _Members(NamedTuple):
    """A split's images `[M]`: the place of each one's class in the split, the image's number, and its label.

    Where classes are turned, an image is in four of them: four rows have its number.
    """

    place: NDArray[np.int64]
    number: NDArray[np.int64]
    y: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batches(TaskFamily):
    """Supervised batches of the training classes of few-shot tasks, for pretraining.

    Validation is on images that were never trained on, of the same classes: the wrapped tasks' own "val" where it
    shares the training classes, else a fixed part of each class's training images. The same holds for "test", which is
    absent where the wrapped tasks test on other classes. In a batch all images differ. Where turned classes are classes
    of their own, an image is on one side with all its turns, and in a batch by one of them.

    `about` has `images_support` and `images_query` (numbers into the wrapped images).

    >>> images, labels = np.zeros((40, 1, 8, 8), dtype=np.uint8), np.repeat([3, 8], 20)
    >>> of = Episodes.by_image(images, labels, fractions=(0.8, 0.0, 0.2), ways=2, queries=3)
    >>> batch = Batches(of, size=16).source("train", seed=0, size=1)(step=0)
    >>> batch.query.x.shape, batch.support.y.tolist()
    (torch.Size([1, 16, 1, 8, 8]), [[0, 1]])

    Args:
        of: The few-shot tasks whose images and training classes are used; their ways, shots and queries are not.
        size: Images in a batch.
        hold_out: The share of each class's training images kept for "val", where the tasks have none of these classes.
        seed: Of that choice.
    """

    of: TaskFamily = field(repr=False)
    size: int = 64
    hold_out: float = 0.1
    seed: int = 0

    loss: ClassVar[str] = "cross_entropy"

    def __post_init__(self) -> None:
        check_counts(size=self.size)
        if not 0 <= self.hold_out < 1:
            raise InputError(
                f"hold_out={self.hold_out!r} is no share: give 0 or more and less than 1, for example 0.1."
            )
        if "train" not in self._of._pools:
            raise InputError(f"{self._of.name!r} ({self._of.rule}) has no 'train' images to draw batches from.")
        _ = self._members  # built here, so that the first step is no slower than the others

    @cached_property
    def _of(self) -> Episodes:
        if not isinstance(self.of, Episodes):
            raise InputError(
                f"Batches are drawn from images with class labels, and `of` is a {type(self.of).__name__}, which has "
                "none. Give `of` few-shot tasks over images: {name: digits}, or Episodes."
            )
        return self.of

    def on(self, device: torch.device, most: int) -> "Batches":
        return replace(self, of=self.of.on(device, most))

    @property
    def inputs(self) -> Shape:
        return self._of.inputs

    @property
    def outputs(self) -> int:
        return len(self._of._pools["train"].classes)

    def source(self, split: str, *, seed: int = 0, size: int) -> TaskSource:
        """The batches of a split, `size` of them to a step; refused where it has too few images of these classes."""
        tasks = super().source(split, seed=seed, size=size)
        if split not in self._members:
            raise InputError(
                f"Batches of {self._of.name!r} ({self._of.rule}) have no {split!r}: it has no images of the "
                f"{self.outputs} training classes. They have {', '.join(self._members)}. For few-shot tasks of other "
                "classes join the two: tasks: {name: cross, train: {name: batches, ...}, test: ...}."
            )
        # A support image is not its batch's query as well.
        free = len(np.unique(self._members[split].number)) - (self.outputs if split == "train" else 0)
        if free < self.size:
            raise InputError(
                f"Batches of {self.size} images need as many, and {split!r} has {max(free, 0)} to draw from. Lower "
                "size" + (", or raise hold_out." if split != "train" and not self._shares("val") else ".")
            )
        return tasks

    def sample(self, draws: Draws, size: int, part: slice) -> tuple[Examples, Examples, dict[str, Tensor]]:
        trained, asked = self._members["train"], self._members[draws.split]
        counts = np.bincount(trained.y)
        one = np.cumsum(counts) - counts + np.floor(draws.uniform("support", size, len(counts)) * counts).astype(int)
        one = one[part]
        rows = _by_image(asked.number)
        rank = draws.uniform("query", size, len(asked.y))[part][:, rows]  # [T, images, turns]
        turn = rank.argmin(-1)  # of an image that is in several classes, the first row counts
        rank = rank.min(-1)
        if draws.split == "train":
            image = np.empty(len(asked.y), dtype=np.int64)
            image[rows] = np.arange(len(rows))[:, None]
            # A support image comes after all others, whose ranks are under 1.
            np.put_along_axis(rank, image[one], 2.0, axis=1)
        first = np.argsort(rank, axis=-1, kind="stable")[:, : self.size]
        many = rows[first, np.take_along_axis(turn, first, 1)]

        chosen, numbers, y = (
            torch.from_numpy(np.concatenate([support[one], query[many]], axis=1))
            for support, query in zip(trained, asked, strict=True)
        )
        pixels = self._of.stored(numbers.numpy()[:, :, None])  # [T, n, 1, *stored]
        labels = self._of._pools["train"].classes[chosen.numpy()]
        x = self._of.shown(pixels, labels, draws, size, part)[:, :, 0]
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
            "split_rule": self._of.rule + ("" if self._shares("val") else f", val {self.hold_out:g} of train's images"),
            "classes": self.outputs,
            "images": {name: len(members.y) for name, members in self._members.items()},
            "size": self.size,
            "seed": self.seed,
            "data": self._of.fingerprint,
        }

    def _shares(self, split: str) -> bool:
        """Whether the wrapped tasks have such a split, of training classes only."""
        pools = self._of._pools
        return split in pools and bool(np.isin(pools[split].classes, pools["train"].classes).all())

    @cached_property
    def _members(self) -> dict[str, _Members]:
        """The images of each split, sorted by class."""
        pools = self._of._pools
        members = {s: _members(pools[s], pools["train"].classes) for s in ("train", "val", "test") if self._shares(s)}
        if "val" not in members:
            every = members["train"]
            # Cut by image, not by row: what is held out is seen in training by no turn.
            once = every.number[np.sort(np.unique(every.number, return_index=True)[1])]
            cut = split_by_image(self._of._labels[once], (1 - self.hold_out, self.hold_out, 0.0), self.seed)
            sides = {"train": once[:0]} | {split: once[kept] for split, kept in cut.items()}
            members |= {s: _Members(*(part[np.isin(every.number, own)] for part in every)) for s, own in sides.items()}
        self._check_counts(members["train"])
        return members

    def _check_counts(self, trained: _Members) -> None:
        """Refuse a class that is never trained on: one image stands in the support, only others in the query."""
        counts = np.bincount(trained.y, minlength=self.outputs)
        if counts.min() < 2:
            scarce = int(counts.argmin())
            classes, _, given = self._of._pools["train"]
            name = self._of.class_name(int(classes[scarce]))
            advice = f"Lower hold_out to {max(int(100 - 150 / given[scarce]), 0) / 100:g} or less, or leave"
            advice = f"{advice if given[scarce] > 1 else 'Leave'} that class out of the splits."
            left = f", of which hold_out={self.hold_out!r} leaves {counts[scarce]}"
            if given[scarce] == counts[scarce]:  # nothing was held out of it, so another share would not help
                left, advice = "", "Add images to it, or leave it out of the splits."
            raise InputError(
                f"Batches need 2 images of each class to train on, one of them for the support; class '{name}' has "
                f"{given[scarce]}{left}. {advice}"
            )


def _by_image(number: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of each image, `[images, turns]`: one row, or four where classes are turned.

    >>> _by_image(np.array([7, 3, 3, 7])).tolist()
    [[1, 2], [0, 3]]
    """
    return np.argsort(number, kind="stable").reshape(len(np.unique(number)), -1)


def _members(pool: Pool, classes: NDArray[np.int64]) -> _Members:
    place, column = np.nonzero(pool.table >= 0)
    return _Members(place, pool.table[place, column], np.searchsorted(classes, pool.classes)[place])
