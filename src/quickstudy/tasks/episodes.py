"""N-way K-shot tasks over any images with class labels, in memory or in a memory-mapped file.

A task draws `ways` classes of its split. Their random order numbers them 0..ways-1. It then draws `shots + queries`
different images of each. `sample` gives support and query in class order; a source draws another order for each task.

Reference: Vinyals et al., 2016 (https://arxiv.org/abs/1606.04080), the protocol that all papers here follow.
"""

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.tasks.arrays import ArrayOrTensor, as_array, as_integers, check_images, check_splits
from quickstudy.tasks.base import TaskFamily, TaskSource
from quickstudy.tasks.draws import SPLITS, Draws, store_integers
from quickstudy.tasks.splits import Fractions, Pool, pool_by_class, split_by_class, split_by_image, split_by_list
from quickstudy.types import Examples, Integer, Shape


@dataclass(frozen=True, eq=False)
class Episodes(TaskFamily):
    """Few-shot classification over arrays. Most users start from `Episodes.by_image` or `Episodes.by_class`.

    x is float32 with the stored values: bytes stay 0..255 unless you scale them before. `about` has `classes [T, ways]`
    (the original labels, in the order of 0..ways-1), and `images_support` and `images_query` (indices into `images`).

    >>> images, labels = np.zeros((40, 1, 8, 8), dtype=np.uint8), np.repeat([3, 8], 20)
    >>> family = Episodes.by_image(images, labels, fractions=(0.5, 0.0, 0.5), ways=2, shots=1, queries=4)
    >>> task = family.source("test", seed=0, size=3)(step=0)
    >>> task.support.x.shape, sorted(task.query.y[0].tolist())
    (torch.Size([3, 2, 1, 8, 8]), [0, 0, 0, 0, 1, 1, 1, 1])

    Args:
        images: `[N, *input]`, floating or uint8. It is not copied, so do not change it afterwards.
        labels: `[N]`, any integers.
        splits: The indices of the images of "train", "val" and "test", or of some of these splits.
        ways: Classes in a task.
        shots: Support images per class.
        queries: Query images per class.
        name: The name of the data in results.
        rule: How the splits were made, in words, for results.
    """

    images: ArrayOrTensor = field(repr=False)
    labels: ArrayOrTensor = field(repr=False)
    splits: Mapping[str, ArrayOrTensor] = field(repr=False)
    ways: Integer = 5
    shots: Integer = 1
    queries: Integer = 15
    name: str = "episodes"
    rule: str = "as given"

    loss: ClassVar[str] = "cross_entropy"
    group: ClassVar[str] = "group"
    """What a group of classes is called in messages."""
    _device_images: ClassVar[Tensor | None] = None

    def __post_init__(self) -> None:
        store_integers(self, "ways", least=2)
        store_integers(self, "shots", "queries", least=1)
        check_images(self._images)
        if len(self._images) != len(self._labels):
            raise InputError(f"{len(self._images)} images have {len(self._labels)} labels: give one label per image.")
        check_splits(self.splits, len(self._images))
        _ = self.pools  # computed now, so that the first step is as fast as the others

    @classmethod
    def by_image(
        cls,
        images: ArrayOrTensor,
        labels: ArrayOrTensor,
        fractions: Fractions = (0.6, 0.2, 0.2),
        seed: Integer = 0,
        **options: Any,
    ) -> "Episodes":
        """Splits share the classes and divide the images of each class. `options` are the fields ways, shots, ..."""
        splits = split_by_image(as_integers("labels", labels), fractions, seed)
        rule = f"by image (classes shared), train/val/test {'/'.join(map(str, fractions))}, seed {seed}"
        return cls(images, labels, splits, **{"rule": rule} | options)

    @classmethod
    def by_class(
        cls,
        images: ArrayOrTensor,
        labels: ArrayOrTensor,
        classes: Mapping[str, Sequence[int]] | None = None,
        fractions: Fractions = (0.6, 0.2, 0.2),
        seed: Integer = 0,
        **options: Any,
    ) -> "Episodes":
        """Splits share no class: they are as listed in `classes`, or a seeded shuffle of all classes is divided."""
        numbers = as_integers("labels", labels)
        if classes is None:
            splits = split_by_class(numbers, fractions, seed)
            rule = f"by class (classes disjoint), train/val/test {'/'.join(map(str, fractions))}, seed {seed}"
        else:
            splits = split_by_list(numbers, classes)
            rule = f"by class (classes disjoint), as listed for {'/'.join(splits)}"
        return cls(images, labels, splits, **{"rule": rule} | options)

    @property
    def inputs(self) -> Shape:
        return self._images.shape[1:]

    @property
    def outputs(self) -> int:
        return self.ways

    def source(self, split: str, *, seed: Integer = 0, size: Integer) -> TaskSource:
        """The tasks of a split. A split with too few classes, or with too few images in a class, is refused."""
        tasks = super().source(split, seed=seed, size=size)
        if split not in self.pools:
            raise InputError(
                f"{self.name!r} ({self.rule}) has no {split!r} images; it has {', '.join(self.pools)}. Use one of "
                f"these, or divide the data so that {split!r} has images."
            )
        (classes, _, counts), need = self.pools[split], self.shots + self.queries
        wanted = f"{self.ways}-way {self.shots}-shot with {self.queries} queries needs"
        if len(classes) < self.ways:
            raise InputError(
                f"{wanted} {self.ways} classes; {split!r} has {len(classes)}. "
                + (f"Lower ways to {len(classes)} or less, or give" if len(classes) > 1 else "Give")
                + f" {split!r} more classes."
            )
        groups = self.groups(split)
        if groups is not None and np.bincount(groups).max() < self.ways:
            raise InputError(
                f"{wanted} {self.ways} classes of one {self.group}; the largest {self.group} of {split!r} has "
                f"{np.bincount(groups).max()}. Lower ways, or draw the classes of a task from the whole split."
            )
        if counts.min() < need:
            scarce = int(counts.argmin())
            raise InputError(
                f"{wanted} {need} images per class; class '{self.class_name(int(classes[scarce]))}' of {split!r} has "
                f"{counts[scarce]}. Lower shots or queries, or leave that class out of the splits."
            )
        return tasks

    def sample(self, draws: Draws, size: int, part: slice) -> tuple[Examples, Examples, dict[str, Tensor]]:
        classes, table, counts = self.pools[draws.split]
        order = draws.order("classes", size, len(classes))
        if (groups := self.groups(draws.split)) is not None:
            large = np.flatnonzero(np.bincount(groups) >= self.ways)
            group = large[np.floor(len(large) * draws.uniform("group", size)).astype(np.int64)]
            is_grouped = draws.uniform("grouped", size) < self.group_share(draws.split)
            outside = is_grouped[:, None] & (groups[order] != group[:, None])
            order = np.take_along_axis(order, np.argsort(outside, axis=1, kind="stable"), 1)
        chosen = order[part, : self.ways]
        rank = draws.uniform("images", size, self.ways, table.shape[1])[part]
        # The padding of the table must come after all images, whose ranks are below 1.
        rank[np.arange(table.shape[1]) >= counts[chosen][:, :, None]] = 2.0
        need = self.shots + self.queries
        # Partitioned first: sorting all images of a large class would take most of a step.
        first = np.argpartition(rank, need - 1, axis=-1)[:, :, :need]
        first = np.take_along_axis(first, np.argsort(np.take_along_axis(rank, first, -1), axis=-1), -1)
        picked = table[chosen[:, :, None], first]

        x = self.prepare_inputs(self.take_images(picked), classes[chosen], draws, size, part)
        y, numbers = torch.arange(self.ways)[:, None].expand(len(x), -1, need), torch.from_numpy(picked)
        (support, *drawn), (query, *asked) = (
            [values[:, :, of].flatten(1, 2) for values in (numbers, x, y)]
            for of in (slice(self.shots), slice(self.shots, None))
        )
        about = {"classes": torch.from_numpy(classes[chosen]), "images_support": support, "images_query": query}
        return Examples(*drawn), Examples(*asked), about

    @property
    def copies(self) -> int:
        """How many classes one class of the images is: their numbers begin with this many times its own."""
        return 1

    def groups(self, split: str) -> NDArray[np.int64] | None:
        """The group of each class of a split, where a task has classes of one group; None: of the whole split.

        A task's group is drawn first, every one that has enough classes with the same probability.
        """
        del split
        return None

    def group_share(self, split: str) -> float:
        """How many of the tasks have classes of one group, where there are groups; the others have any of the split."""
        del split
        return 1.0

    def take_images(self, numbers: NDArray[np.int64]) -> Tensor:
        """Images by index, `[*numbers, *input]` as stored, on the device that has them."""
        if self._device_images is None:
            return torch.from_numpy(self._images[numbers])
        return self._device_images[torch.from_numpy(numbers).to(self._device_images.device)]

    def to_device(self, device: torch.device, max_bytes: int) -> "Episodes":
        if self._images.nbytes > max_bytes:
            return self
        moved = copy(self)  # a copy keeps the cached pools and fingerprint, which do not depend on the device
        object.__setattr__(moved, "_device_images", torch.tensor(self._images, device=device))
        return moved

    def prepare_inputs(
        self, pixels: Tensor, labels: NDArray[np.int64], draws: Draws, size: int, part: slice
    ) -> Float[Tensor, "T ways n *input"]:
        """Prepare drawn images for the learner. Here they only become float32.

        Args:
            pixels: The images as stored, `[T, ways, n, *stored]`.
            labels: Their classes, `[T, ways]`.
            draws: The random numbers, for a family that augments images.
            size: Tasks in the whole batch.
            part: The tasks of the batch that are prepared.
        """
        del labels, draws, size, part
        return pixels.to(torch.float32)

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "split_rule": self.rule,
            "classes": {name: len(images.classes) for name, images in self.pools.items()},
            "images": {name: int(images.counts.sum()) for name, images in self.pools.items()},
            "ways": self.ways,
            "shots": self.shots,
            "queries": self.queries,
            "data": self.fingerprint,
        }

    def class_name(self, label: int) -> str:
        """The name of a class in figures and messages: from `names` if the data have it there, else its number."""
        names = getattr(self, "names", None)
        try:
            return str(label if names is None else names[label])
        except (KeyError, IndexError):
            return str(label)

    @cached_property
    def fingerprint(self) -> str:
        """12 hexadecimal digits of the SHA-256 of images, labels and splits."""
        digest = hashlib.sha256(f"{self._images.dtype.str} {self._images.shape}".encode())
        digest.update(np.ascontiguousarray(self._images).data)
        digest.update(self._labels.data)
        for name, images in self.pools.items():
            digest.update(name.encode())
            digest.update(np.sort(images.table[images.table >= 0]).data)
        return digest.hexdigest()[:12]

    @cached_property
    def _images(self) -> NDArray[Any]:
        return as_array(self.images)

    @cached_property
    def _labels(self) -> NDArray[np.int64]:
        return as_integers("labels", self.labels)

    @cached_property
    def pools(self) -> dict[str, Pool]:
        """The images of each split by class."""
        return {
            name: pool_by_class(self._labels, as_array(self.splits[name])) for name in SPLITS if name in self.splits
        }
