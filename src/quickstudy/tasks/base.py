"""Where tasks come from: a family says what its tasks are, a source is a pure function of the step.

`family.source("train", seed=0, size=4)(step)` is the meta-batch of that step, always the same. A source can be asked
for a part of it, `source(step, slice(0, 2))`, and gives those tasks of the same batch.
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
from quickstudy.tasks.draws import Draws
from quickstudy.types import Examples, Shape, Task


class TaskFamily(ABC):
    """A kind of task. Subclasses are frozen dataclasses: their fields are the options, checked when built."""

    loss: ClassVar[str]
    """The criterion by name: "mse", "cross_entropy" or "binary_cross_entropy"."""

    @property
    def notes(self) -> Sequence[str]:
        """What else to say of the data: how they were laid out, what was left out. None by default."""
        return ()

    @property
    @abstractmethod
    def inputs(self) -> Shape:
        """The shape of one x, without the examples' axis: `(1,)`, or `(channels, height, width)`."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """The size of one output: the ways of a classification, or the numbers that are regressed."""

    @abstractmethod
    def sample(self, draws: Draws, size: int, part: slice) -> tuple[Examples, Examples, dict[str, Tensor]]:
        """Support, query and about of the tasks `part` of a batch of `size`. Draws all, then gathers only the part."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What is printed with every result: the name, the options and, for real data, which data and which split."""

    def on(self, device: torch.device, most: int) -> "TaskFamily":
        """The same family, with stored data of up to `most` bytes on a device; without stored data, itself.

        What is drawn, and with it every task, does not depend on where the data are.
        """
        del device, most
        return self

    def of_split(self, split: str) -> "TaskFamily":
        """The family that the tasks of a split come from: this one, unless it joins several."""
        del split
        return self

    def source(self, split: str, *, seed: int = 0, size: int) -> "TaskSource":
        """The tasks of a split, `size` to a step."""
        if size < 1:
            raise InputError(f"A step was to have {size} tasks; it needs at least one.")
        Draws(seed, split, 0)  # refuses an unknown split here rather than at the first step
        return TaskSource(self, split, seed, size)


@dataclass(frozen=True)
class TaskSource:
    """Tasks as a pure function of the step; nothing is remembered between calls.

    `augmented` says whether training tasks are changed at random where their family does so, as the trainer wants them.
    """

    family: TaskFamily
    split: str
    seed: int
    size: int
    augmented: bool = True

    def judged(self) -> "TaskSource":
        """The very same tasks as an evaluation shows them: also those of training are not changed at random."""
        return replace(self, augmented=False)

    def __call__(self, step: int, part: slice = slice(None)) -> Task:
        draws = Draws(self.seed, self.split, step, self.augmented)
        support, query, about = self.family.sample(draws, self.size, part)
        return Task(support, query, draws.keys(self.size)[part], about)


def float_tensor(array: NDArray[np.float64]) -> Tensor:
    """Drawn in double, handed out in single: the default type of parameters."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
