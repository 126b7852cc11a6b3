"""N-way K-shot tasks over any images with class labels, held in memory (or in a memory-mapped file).

A task draws `ways` classes of its split in random order, which numbers them 0..ways-1, then `shots + queries` different
images of each. Support and query are in class order: label 0's images first.

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
from quickstudy.tasks.arrays import Array, as_array, as_integers, check_images, check_splits
from quickstudy.tasks.base import TaskFamily, TaskSource
from quickstudy.tasks.draws import SPLITS, Draws
from quickstudy.tasks.splits import Fractions, Pool, pool, split_by_class, split_by_image, split_by_list
from quickstudy.tasks.synthetic.options import check_counts
from quickstudy.types import Examples, Shape


@dataclass(frozen=True, eq=False)
class Episodes(TaskFamily):
    """Few-shot classification over arrays. Most data start from `Episodes.by_image` or `Episodes.by_class`.

    x is handed out as float32 with the values it is stored with: bytes stay 0..255 unless they are scaled before.
    `about` has `classes [T, ways]` (original labels, in the order of 0..ways-1) and `images_support`, `images_query`
    (numbers into `images`).

    >>> images, labels = np.zeros((40, 1, 8, 8), dtype=np.uint8), np.repeat([3, 8], 20)
    >>> family = Episodes.by_image(images, labels, fractions=(0.5, 0.0, 0.5), ways=2, shots=1, queries=4)
    >>> task = family.source("test", seed=0, size=3)(step=0)
    >>> task.support.x.shape, task.query.y[0].tolist()
    (torch.Size([3, 2, 1, 8, 8]), [0, 0, 0, 0, 1, 1, 1, 1])

    Args:
        images: `[N, *input]`, floating or uint8. Not copied: do not change it afterwards.
        labels: `[N]`, any integers.
        splits: For "train", "val" and "test", or some of them, the numbers of the images it may use.
        ways: Classes in a task.
        shots: Support images per class.
        queries: Query images per class.
        name: What to call the data in results.
        rule: How the splits were made, in words, for results.
    """

    images: Array = field(repr=False)
    labels: Array = field(repr=False)
    splits: Mapping[str, NDArray[Any]] = field(repr=False)
    ways: int = 5
    shots: int = 1
    queries: int = 15
    name: str = "episodes"
    rule: str = "as given"

    loss: ClassVar[str] = "cross_entropy"
    _held: ClassVar[Tensor | None] = None

    def __post_init__(self) -> None:
        check_counts(least=2, ways=self.ways)
        check_counts(shots=self.shots, queries=self.queries)
        check_images(self._images)
        if len(self._images) != len(self._labels):
            raise InputError(f"{len(self._images)} images have {len(self._labels)} labels: give one label per image.")
        check_splits(self.splits, len(self._images))
        _ = self._pools  # built here, so that the first step is no slower than the others

    @classmethod
    def by_image(
        cls, images: Array, labels: Array, fractions: Fractions = (0.6, 0.2, 0.2), seed: int = 0, **options: Any
    ) -> "Episodes":
        """Splits that share their classes and divide each class's images. `options` are the fields ways, shots, ..."""
        splits = split_by_image(as_integers("labels", labels), fractions, seed)
        rule = f"by image (classes shared), train/val/test {'/'.join(map(str, fractions))}, seed {seed}"
        return cls(images, labels, splits, **{"rule": rule} | options)

    @classmethod
    def by_class(
        cls,
        images: Array,
        labels: Array,
        classes: Mapping[str, Sequence[int]] | None = None,
        fractions: Fractions = (0.6, 0.2, 0.2),
        seed: int = 0,
        **options: Any,
    ) -> "Episodes":
        """Splits that share no class: as listed in `classes`, or else a seeded shuffle cut by `fractions`."""
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

    def source(self, split: str, *, seed: int = 0, size: int) -> TaskSource:
        """The tasks of a split; refused when the split has too few classes, or a class of it too few images."""
        tasks = super().source(split, seed=seed, size=size)
        if split not in self._pools:
            raise InputError(
                f"{self.name!r} ({self.rule}) has no {split!r} images; it has {', '.join(self._pools)}. Use one of "
                f"these, or divide the data so that {split!r} gets a share."
            )
        (classes, _, counts), need = self._pools[split], self.shots + self.queries
        wanted = f"{self.ways}-way {self.shots}-shot with {self.queries} queries needs"
        if len(classes) < self.ways:
            raise InputError(
                f"{wanted} {self.ways} classes; {split!r} has {len(classes)}. "
                f"Lower ways to {len(classes)} or less, or give {split!r} more classes."
            )
        if counts.min() < need:
            scarce = int(counts.argmin())
            raise InputError(
                f"{wanted} {need} images per class; class '{self.class_name(int(classes[scarce]))}' of {split!r} has "
                f"{counts[scarce]}. Lower shots or queries, or leave that class out of the splits."
            )
        return tasks

    def sample(self, draws: Draws, size: int, part: slice) -> tuple[Examples, Examples, dict[str, Tensor]]:
        classes, table, counts = self._pools[draws.split]
        chosen = draws.order("classes", size, len(classes))[part, : self.ways]
        rank = draws.uniform("images", size, self.ways, table.shape[1])[part]
        # The table's padding must come after all images, whose ranks are under 1.
        rank[np.arange(table.shape[1]) >= counts[chosen][:, :, None]] = 2.0
        need = self.shots + self.queries
        first = np.argpartition(rank, need - 1, axis=-1)[
            :, :, :need
        ]  # sorting all of a large class takes most of a step
        first = np.take_along_axis(first, np.argsort(np.take_along_axis(rank, first, -1), axis=-1), -1)
        picked = table[chosen[:, :, None], first]

        x = self.shown(self.stored(picked), classes[chosen], draws, size, part)
        y = torch.arange(self.ways)

        def examples(of: slice) -> Examples:
            count = x[:, :, of].shape[2]
            return Examples(x[:, :, of].flatten(1, 2), y.repeat_interleave(count).repeat(len(x), 1))

        support = picked[:, :, : self.shots].reshape(len(picked), -1)
        query = picked[:, :, self.shots :].reshape(len(picked), -1)
        about = {"classes": classes[chosen], "images_support": support, "images_query": query}
        halves = examples(slice(self.shots)), examples(slice(self.shots, None))
        return *halves, {name: torch.from_numpy(value) for name, value in about.items()}

    def stored(self, numbers: NDArray[np.int64]) -> Tensor:
        """Images by number, `[*numbers, *input]` as stored, from the device where they are held."""
        if self._held is None:
            return torch.from_numpy(self._images[numbers])
        return self._held[torch.from_numpy(numbers).to(self._held.device)]

    def on(self, device: torch.device, most: int) -> "Episodes":
        if self._images.nbytes > most:
            return self
        moved = copy(self)  # with what is worked out already: pools and fingerprint are the same
        object.__setattr__(moved, "_held", torch.tensor(self._images, device=device))
        return moved

    def shown(
        self, pixels: Tensor, labels: NDArray[np.int64], draws: Draws, size: int, part: slice
    ) -> Float[Tensor, "T ways n *input"]:
        """Drawn images `[T, ways, n, *stored]` as a learner sees them; here, their numbers as float32.

        Args:
            pixels: As stored.
            labels: The class of each: `[T, ways]`.
            draws: For a family that changes images at random.
            size: Tasks in the whole batch, which random changes are drawn for.
            part: Those of them that are asked for.
        """
        del labels, draws, size, part
        return pixels.to(torch.float32)

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "split_rule": self.rule,
            "classes": {name: len(images.classes) for name, images in self._pools.items()},
            "images": {name: int(images.counts.sum()) for name, images in self._pools.items()},
            "ways": self.ways,
            "shots": self.shots,
            "queries": self.queries,
            "data": self.fingerprint,
        }

    def class_name(self, label: int) -> str:
        """What figures call a class: by its `names` where the data have them, else by its number."""
        names = getattr(self, "names", None)
        return str(label if names is None else names[label])

    @cached_property
    def fingerprint(self) -> str:
        """12 hexadecimal digits of the SHA-256 of images, labels and splits: other data or splits, other digits."""
        digest = hashlib.sha256(f"{self._images.dtype.str} {self._images.shape}".encode())
        digest.update(np.ascontiguousarray(self._images).data)
        digest.update(self._labels.data)
        for name, images in self._pools.items():
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
    def _pools(self) -> dict[str, Pool]:
        return {name: pool(self._labels, as_array(self.splits[name])) for name in SPLITS if name in self.splits}
