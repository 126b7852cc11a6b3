"""Families and sources: a family describes a kind of task, a source gives the tasks of a split, step by step.

`family.source("train", seed=0, size=4)(step)` is the meta-batch of that step, always the same. `source(step, slice(0,
2))` gives only these tasks of the same batch.

The examples of a task are in an order that is drawn for it: a model may see all queries at once (batch norm,
attention), and must find nothing about the answer in their places.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.rules.torch_private import tree_map
from quickstudy.tasks.check import check_layout
from quickstudy.tasks.draws import Draws, as_integer
from quickstudy.types import Examples, InputShapes, Integer, Task

TASK_FORMAT = 2
"""Part of the name of a task list. It rises when the same family, seed and step give other tasks than before."""


class TaskFamily(ABC):
    """A kind of task. Subclasses are frozen dataclasses. Their fields are the options, checked on construction."""

    loss: ClassVar[str]
    """The name of the criterion: "mse", "cross_entropy" or "binary_cross_entropy"."""

    @property
    def notes(self) -> Sequence[str]:
        """Remarks about the data for the user: how the files were laid out, what was left out. Empty by default."""
        return ()

    @property
    @abstractmethod
    def inputs(self) -> InputShapes:
        """The shape of one x, without the axis of examples: `(1,)`, or `(channels, height, width)`.

        Where x is a tuple or a dictionary of tensors, so is this of their shapes: `{"words": (12,)}`.
        """

    @property
    @abstractmethod
    def outputs(self) -> int:
        """The size of one output: the number of classes, or the number of regressed values."""

    @abstractmethod
    def sample(self, draws: Draws, size: Integer, part: slice) -> tuple[Examples, Examples, dict[str, Tensor]]:
        """Support, query and about of the tasks `part` in a batch of `size` tasks.

        Draw the random numbers of the whole batch, then use only those of the part: a part must equal a slice of the
        whole. The source then draws an order for the examples of each half. An entry of `about` whose name ends in
        `_support` or `_query` has one value per example, `[T, n, ...]`, and is put into the same order.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What is printed with every result: the name, the options and, for real data, the data and the split."""

    def to_device(self, device: torch.device, max_bytes: int) -> "TaskFamily":
        """Move stored data to a device if they have at most `max_bytes` bytes. Without stored data, return itself.

        The tasks do not depend on where the data are.
        """
        del device, max_bytes
        return self

    def of_split(self, split: str) -> "TaskFamily":
        """The family that gives the tasks of a split: this one, unless the family joins several."""
        del split
        return self

    def source(self, split: str, *, seed: Integer = 0, size: Integer) -> "TaskSource":
        """The tasks of a split, `size` to a step."""
        draws = Draws(seed, split, 0)  # refuses an unknown split now instead of at the first step
        return TaskSource(self, split, draws.seed, as_integer("size", size, least=1))


@dataclass(frozen=True)
class TaskSource:
    """Tasks as a pure function of the step, without any state between calls.

    Args:
        family: The kind of task.
        split: "train", "val" or "test".
        seed: The seed of all draws.
        size: Tasks in a step.
        augmented: Whether training images are augmented, if the family does so. Training wants this, evaluation not.
    """

    family: TaskFamily
    split: str
    seed: Integer
    size: Integer
    augmented: bool = True

    def without_augmentation(self) -> "TaskSource":
        """The same tasks for an evaluation, which shows training images as they are."""
        return replace(self, augmented=False)

    def __call__(self, step: Integer, part: slice = slice(None)) -> Task:
        draws = Draws(self.seed, self.split, step, self.augmented)
        sampled = self.family.sample(draws, self.size, part)
        if not isinstance(sampled, tuple) or len(sampled) != 3:
            raise InputError(
                f"`sample` of {type(self.family).__name__} returns three things: the support and the query, each "
                "Examples(x, y), and a dictionary of what else is known of each task, which may be empty."
            )
        support, query, about = sampled
        task = check_layout(Task(support, query, draws.keys(self.size)[part], about))
        return _order_examples(task, draws, self.size, part)


def _order_examples(task: Task, draws: Draws, size: Integer, part: slice) -> Task:
    about = dict(task.about)

    def reorder(half: str, examples: Examples) -> Examples:
        order = torch.from_numpy(draws.order(f"order of the {half}", size, examples.y.shape[1])[part])
        rows = torch.arange(len(order))[:, None]
        about.update({name: value[rows, order] for name, value in about.items() if name.endswith(f"_{half}")})
        ordered: Examples = tree_map(lambda value: value[rows, order], examples)
        return ordered

    return Task(reorder("support", task.support), reorder("query", task.query), task.key, about)


def float_tensor(array: NDArray[np.float64]) -> Tensor:
    """A float64 array as a float32 tensor: numbers are drawn in double precision, but parameters are float32."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
