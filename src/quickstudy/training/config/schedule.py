"""Schedules: values of buffers as functions of the step. They are set from outside; no module knows the step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, model_validator
from torch import nn

from quickstudy.errors import InputError, suggest_nearest

Value = float | tuple[float, ...]


class Ramp(BaseModel, frozen=True, extra="forbid"):
    """A linear change: the value is `before` up to `start`, and `after` from `end` on.

    `start` and `end` count epochs of `every` steps. HyperMAML's switch with W warm-up epochs, S switch epochs and k
    steps an epoch is `Ramp(start=W - 1, end=W + S, before=(0, 1), after=(1, 0), every=k)` on `rule.weights`.
    """

    kind: Literal["ramp"] = "ramp"
    start: int
    end: int
    before: Value
    after: Value
    every: int = Field(1, ge=1, description="steps in an epoch, during which the value stays the same")

    @model_validator(mode="after")
    def _check(self) -> "Ramp":
        if self.end <= self.start:
            raise ValueError(f"a ramp ends after it starts; start is {self.start} and end is {self.end}")
        if len(_as_tuple(self.before)) != len(_as_tuple(self.after)):
            raise ValueError("`before` and `after` need the same number of values")
        return self

    def at(self, step: int) -> list[float]:
        """The value at a step.

        >>> Ramp(start=0, end=4, before=(0, 1), after=(1, 0)).at(1)
        [0.25, 0.75]
        """
        share = min(max((step // self.every - self.start) / (self.end - self.start), 0.0), 1.0)
        pairs = zip(_as_tuple(self.before), _as_tuple(self.after), strict=True)
        return [before * (1 - share) + after * share for before, after in pairs]

    @property
    def last_step(self) -> int:
        """The first step at which the value is final."""
        return self.end * self.every


class Multistep(BaseModel, frozen=True, extra="forbid"):
    """A value multiplied by `gamma` at each milestone."""

    kind: Literal["multistep"]
    value: float
    milestones: tuple[int, ...]
    gamma: float

    def at(self, step: int) -> list[float]:
        """The value at a step."""
        return [decay(step, self.value, self.milestones, self.gamma)]

    @property
    def last_step(self) -> int:
        """The first step at which the value is final."""
        return max(self.milestones, default=0)


Schedule = Annotated[Ramp | Multistep, Field(discriminator="kind")]
SCHEDULES: dict[str, type[BaseModel]] = {"ramp": Ramp, "multistep": Multistep}


def decay(step: int, value: float, milestones: tuple[int, ...], gamma: float) -> float:
    """`value` times `gamma` for each milestone that has been reached.

    >>> decay(10, 1.0, (10, 20), 0.5)
    0.5
    """
    return value * gamma ** sum(step >= milestone for milestone in milestones)


def _as_tuple(value: Value) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def check_schedules(learner: nn.Module, schedules: Mapping[str, Ramp | Multistep]) -> None:
    """Refuse a schedule whose path is no buffer, or whose value has another size than the buffer."""
    buffers = dict(learner.named_buffers())
    for path, schedule in schedules.items():
        if path not in buffers:
            raise InputError(
                f"A schedule sets {path!r}, which is no buffer of this learner. {suggest_nearest(path, buffers)}"
            )
        given, wanted = len(schedule.at(0)), buffers[path].numel()
        if given != wanted:
            raise InputError(f"The schedule of {path!r} gives {given} values; the buffer holds {wanted}.")


def apply_schedules(learner: nn.Module, schedules: Mapping[str, Ramp | Multistep], step: int) -> None:
    """Set every scheduled buffer to its value at `step`."""
    buffers = dict(learner.named_buffers()) if schedules else {}
    with torch.no_grad():
        for path, schedule in schedules.items():
            buffers[path].copy_(torch.tensor(schedule.at(step)).reshape(buffers[path].shape))


def last_step(schedules: Mapping[str, Ramp | Multistep]) -> int:
    """The first step at which every schedule has reached its final value."""
    return max((schedule.last_step for schedule in schedules.values()), default=0)


@contextmanager
def final_schedules(learner: nn.Module, schedules: Mapping[str, Ramp | Multistep]) -> Iterator[None]:
    """The learner with every schedule at its final value, for the time of a `with` block.

    HyperMAML, for example, is validated by its emission alone, also while it still warms up.
    """
    buffers = dict(learner.named_buffers())
    before = {path: buffers[path].clone() for path in schedules}
    apply_schedules(learner, schedules, last_step(schedules))
    try:
        yield
    finally:
        with torch.no_grad():
            for path, value in before.items():
                buffers[path].copy_(value)
