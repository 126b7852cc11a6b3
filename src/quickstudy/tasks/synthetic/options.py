"""Shared by the formulas: their options and checks of these, and uniform draws scaled to a range."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from quickstudy.errors import InputError
from quickstudy.tasks.base import TaskFamily
from quickstudy.tasks.draws import is_finite
from quickstudy.types import Shape

Interval = tuple[float, float]
"""Lowest and highest value of a uniform draw. Equal ends fix the value."""


@dataclass(frozen=True)
class Formula(TaskFamily):
    """A kind of task that a formula gives: x and y are one number each, unless a subclass says otherwise."""

    name: ClassVar[str]

    @property
    def inputs(self) -> Shape:
        return (1,)

    @property
    def outputs(self) -> int:
        return 1

    def describe(self) -> dict[str, Any]:
        return {"name": self.name} | asdict(self)


def check_ranges(**ranges: Interval) -> None:
    """Refuse ranges that are not two finite numbers (low, high) with low <= high."""
    for name, limits in ranges.items():
        is_pair = isinstance(limits, Sequence | np.ndarray) and len(limits) == 2
        if not is_pair or not all(map(is_finite, limits)) or limits[0] > limits[1]:
            raise InputError(
                f"{name}={limits!r} is no range: give two finite numbers (low, high) with low <= high, "
                f"or the same number twice to fix {name}."
            )


def draw_within(uniform: NDArray[np.float64], limits: Interval) -> NDArray[np.float64]:
    """Draws in (0, 1), scaled to a range."""
    low, high = limits
    return low + (high - low) * uniform


def draw_signs(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draws in (0, 1), turned into -1 or +1 with equal probability."""
    return np.where(uniform < 0.5, -1.0, 1.0)
