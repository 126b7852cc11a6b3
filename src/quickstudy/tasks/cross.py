"""Training on one kind of task and testing on another: another data set, or few-shot tasks after supervised batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.tasks.base import TaskFamily, TaskSource
from quickstudy.tasks.draws import Draws
from quickstudy.types import Examples, InputShapes, Integer


@dataclass(frozen=True, eq=False)
class Cross(TaskFamily):
    """Training tasks from one family, and validation and test tasks from others.

    The tasks of a split are those of the part with that name: `test` gives the same tasks here as on its own. Training
    may have another number of outputs than the rest (batches have all training classes); `outputs` is that of test.

    >>> from quickstudy.tasks.synthetic.sine import Sine
    >>> family = Cross(train=Sine(shots=10), test=Sine(shots=5, phase=(3.0, 4.0)))
    >>> family.source("train", size=2)(0).support.x.shape, family.source("test", size=2)(0).support.x.shape
    (torch.Size([2, 10, 1]), torch.Size([2, 5, 1]))

    Args:
        train: Where training tasks come from.
        test: Where test tasks come from.
        val: Where validation tasks come from; without it there is no validation.
    """

    train: TaskFamily
    test: TaskFamily
    val: TaskFamily | None = None

    def __post_init__(self) -> None:
        for name in ("train", "test", "val"):
            part = getattr(self, name)
            if not isinstance(part, TaskFamily) and (name, part) != ("val", None):
                raise InputError(f"`{name}` are tasks, such as Sine() or drawings(); given is a {type(part).__name__}.")
        for name, other in (("test", self.test), ("val", self.val)):
            if other is None:
                continue
            if other.inputs != self.train.inputs:
                raise InputError(
                    f"`train` has inputs of the shape {list(self.train.inputs)} and `{name}` {list(other.inputs)}, but "
                    f"one model reads both. Give them the same shape: image tasks have the options `size` and "
                    f"`channels`; resize arrays before you give them."
                )
            if other.loss != self.train.loss:
                raise InputError(
                    f"`train` has the loss {self.train.loss} and `{name}` {other.loss}, but a learner has one loss. "
                    "Choose parts with the same loss."
                )
            if other.outputs != self.test.outputs:
                raise InputError(
                    f"`test` has {self.test.outputs} outputs and `{name}` {other.outputs}, but validation must have "
                    "the tasks of the test. Give both the same ways."
                )

    @property
    def loss(self) -> str:  # type: ignore[override]  # other families have it as a class variable
        """The loss of the parts."""
        return self.train.loss

    @property
    def inputs(self) -> InputShapes:
        return self.train.inputs

    @property
    def outputs(self) -> int:
        return self.test.outputs

    def of_split(self, split: str) -> TaskFamily:
        Draws(0, split, 0)  # refuses an unknown split
        part: TaskFamily | None = getattr(self, split)
        if part is None:
            raise InputError("These tasks have no `val` part: give it beside `train` and `test` (`tasks.val`).")
        return part.of_split(split)

    def to_device(self, device: torch.device, max_bytes: int) -> "Cross":
        train, test = self.train.to_device(device, max_bytes // 3), self.test.to_device(device, max_bytes // 3)
        return Cross(train, test, self.val and self.val.to_device(device, max_bytes // 3))

    def source(self, split: str, *, seed: Integer = 0, size: Integer) -> TaskSource:
        """The tasks of a split, from the part with that name."""
        return self.of_split(split).source(split, seed=seed, size=size)

    def sample(self, draws: Draws, size: Integer, part: slice) -> tuple[Examples, Examples, dict[str, Tensor]]:
        return self.of_split(draws.split).sample(draws, size, part)

    @property
    def notes(self) -> Sequence[str]:
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return [f"{split}: {note}" for split, part in parts.items() if part is not None for note in part.notes]

    def describe(self) -> dict[str, Any]:
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {"name": "cross"} | {split: part.describe() for split, part in parts.items() if part is not None}
