"""What was found of an item: its readings by row, column and seed, with their means and differences."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from quickstudy.errors import RunError
from quickstudy.evaluation.metrics import Spread, compute_spread
from quickstudy.papers.runner.items import Item, Row
from quickstudy.papers.runner.measures import Reading, Trained
from quickstudy.storage.result import Array

WORST = {False: float("inf"), True: float("-inf"), None: float("nan")}
"""The value of a row that diverged, where the item's numbers are errors, scores or neither."""


class MissingError(RunError):
    """A row or a column was not run, so that something cannot be said."""


@dataclass(frozen=True)
class Found:
    """Readings of an item at a scale."""

    item: Item
    scale: str
    readings: Mapping[tuple[str, str], tuple[Reading, ...]]  # by row and column, one a seed
    trained: Mapping[str, tuple[Trained, ...]]  # by row, one a seed: where a figure finds what was logged
    stopped: Mapping[str, Mapping[int, str]]  # by row and seed: why a training ended before its last step
    genuine: Set[str] = frozenset()  # rows read while no folder stood in for an image set that they name

    def stand_in(self, row: Row) -> str:
        """The data that stood in for the paper's in a row; empty if the paper's were at hand."""
        return "" if row.name in self.genuine else row.stand_in

    def all(self, row: str, column: str) -> tuple[Reading, ...]:
        """The readings of every seed."""
        if (row, column) not in self.readings:
            raise MissingError(f"{self.item.name} has no reading of {row}, {column}.")
        return self.readings[row, column]

    def first(self, row: str, column: str) -> Reading:
        """The reading of the first seed."""
        return self.all(row, column)[0]

    def value(self, row: str, column: str) -> float:
        """The mean over seeds."""
        return float(np.mean([one.value for one in self.all(row, column)]))

    def each_seed(self, row: str, column: str) -> list[float]:
        """One value for each seed."""
        return [one.value for one in self.all(row, column)]

    def at_worst(self, row: str, column: str) -> list[float]:
        """One value for each seed; the worst value there is if the training or a task diverged."""
        worst = WORST[self.item.larger_is_better]
        return [worst if lost_tasks(one) else one.value for one in self.all(row, column)]

    def spread(self, row: str, column: str) -> Spread | None:
        """The spread over tasks, where each task's value is its mean over seeds; None if there are no tasks."""
        each = self._each(row, column)
        return None if each is None else compute_spread(each)

    def paired_difference(self, first: str, second: str, column: str) -> Spread:
        """Second minus first over identical tasks, where each task's difference is its mean over seeds."""
        if any(one.each is None and lost_tasks(one) for row in (first, second) for one in self.all(row, column)):
            return Spread(float("nan"), float("nan"), 0, 1)  # a training left nothing to read
        one, two = self._each(first, column), self._each(second, column)
        if one is None or two is None or self.first(first, column).tasks != self.first(second, column).tasks:
            raise MissingError(f"{first} and {second} were not read on the same tasks, so they cannot be paired.")
        return compute_spread(two - one)

    def pairs(self, first: str, second: str, column: str) -> list[tuple[float, float]]:
        """Two rows' values by seed, for the seeds that both have: a run that was stopped may have fewer."""
        return list(zip(self.each_seed(first, column), self.each_seed(second, column), strict=False))

    def sure_sign(self, first: str, second: str, column: str) -> tuple[int, Spread]:
        """The sign of second minus first where it is sure, else 0: beyond the interval over tasks, and with every seed.

        The interval knows nothing of the chance of training. Where a row diverged on some tasks nothing is sure.
        """
        over = self.paired_difference(first, second, column)
        sign = over.sign if over.decides else 0
        return (sign if all(np.sign(two - one) == sign for one, two in self.pairs(first, second, column)) else 0), over

    def log(self, row: str, seed: int = 0) -> list[dict[str, Any]]:
        """What a training logged: rows with its losses, and rows with what its configuration probes."""
        if row not in self.trained or (run := self.trained[row][seed].run) is None:
            raise MissingError(f"{self.item.name} has no training of {row}.")
        return run.metrics()

    def logged(self, row: str, name: str, seed: int = 0) -> tuple[Array, Array]:
        """Steps and values of a number that a training logged: "loss" or "metric"."""
        rows = [one for one in self.log(row, seed) if one["kind"] == "train"]
        return np.array([one["step"] for one in rows]), np.array([one[name] for one in rows])

    def probed(self, row: str, pattern: str, seed: int = 0) -> tuple[Array, Array]:
        """Steps `[n]` and values `[n, size]` of what a training probed; of several quantities, side by side."""
        held: dict[int, list[float]] = {}
        for one in self.log(row, seed):
            if one["kind"] == "probe" and fnmatchcase(one["name"], pattern):
                held.setdefault(one["step"], []).extend(np.ravel(one["value"]))
        return np.array(list(held)), np.array(list(held.values()), dtype=float)

    def _each(self, row: str, column: str) -> Array | None:
        readings = self.all(row, column)
        every = [one.each for one in readings if one.each is not None]
        return np.mean(np.stack(every), axis=0) if len(every) == len(readings) else None


def lost_tasks(reading: Reading) -> bool:
    """Whether the training, or the adaptation to one of the tasks, diverged."""
    each = np.ones(1) if reading.each is None else reading.each
    counted = reading.more.get("tasks", 0) > reading.more.get("finite", np.inf)
    return bool(np.isnan(reading.value) or not np.isfinite(each).all() or counted)
