"""What was found of an item: its readings by row, column and seed, with their means, differences and ratios."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from quickstudy.errors import RunError
from quickstudy.evaluation.metrics import Spread, compute_spread
from quickstudy.papers.runner.estimate import Estimate
from quickstudy.papers.runner.items import Item, Row
from quickstudy.papers.runner.measures import Reading, Trained
from quickstudy.storage.result import Array

WORST = {False: float("inf"), True: float("-inf"), None: float("nan")}
"""The value of a row that diverged, where the item's numbers are errors, scores or neither."""


class MissingError(RunError):
    """A row or a column was not run, so that something cannot be said."""


@dataclass(frozen=True)
class Difference:
    """One row minus another on identical tasks, over the seeds that both have."""

    estimate: Estimate
    tasks: int
    finite: int  # of the tasks

    @property
    def paired(self) -> bool:
        """Whether it can be held against its interval: there are two tasks or more, and none diverged."""
        return self.finite == self.tasks > 1


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

    def estimate(self, row: str, column: str) -> Estimate:
        """The number over seeds, with its interval; the worst value there is if a training or a task diverged."""
        over = self.spread(row, column)
        tasks = over.interval if over is not None and over.finite == over.tasks > 1 else 0.0
        return Estimate(tuple(self.at_worst(row, column)), tasks)

    def difference(self, first: str, second: str, column: str) -> Difference:
        """Second minus first over identical tasks, where each task's difference is its mean over seeds."""
        if any(one.each is None and lost_tasks(one) for row in (first, second) for one in self.all(row, column)):
            return Difference(Estimate((float("nan"),)), 1, 0)  # a training left nothing to read
        pairs = self.pairs(first, second, column)
        one, two = self._each(first, column, len(pairs)), self._each(second, column, len(pairs))
        if one is None or two is None or self.first(first, column).tasks != self.first(second, column).tasks:
            raise MissingError(f"{first} and {second} were not read on the same tasks, so they cannot be paired.")
        over = compute_spread(two - one)
        interval = over.interval if over.finite > 1 else 0.0
        return Difference(Estimate(tuple(b - a for a, b in pairs), interval), over.tasks, over.finite)

    def ratio(self, row: str, over: str, column: str) -> Estimate | None:
        """The logarithm of one row's number over another's, by seed; None where a number is not positive and finite."""
        numbers = list(zip(self.at_worst(row, column), self.at_worst(over, column), strict=False))
        if not all(0 < one < np.inf and 0 < two < np.inf for one, two in numbers):
            return None
        logs = tuple(float(np.log(one / two)) for one, two in numbers)
        one, two = self._each(row, column, len(numbers)), self._each(over, column, len(numbers))
        if one is None or two is None:
            return Estimate(logs)
        if self.first(row, column).tasks != self.first(over, column).tasks or len(one) < 2:
            ours, others = (self.estimate(name, column) for name in (row, over))
            return Estimate(logs, float(np.hypot(ours.tasks / ours.mean, others.tasks / others.mean)))
        # What each task adds to the logarithm of a ratio of means.
        pull = one / one.mean() - two / two.mean()
        return Estimate(logs, compute_spread(pull).interval)

    def pairs(self, first: str, second: str, column: str) -> list[tuple[float, float]]:
        """Two rows' values by seed, for the seeds that both have: a run that was stopped may have fewer."""
        return list(zip(self.each_seed(first, column), self.each_seed(second, column), strict=False))

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

    def rise(self, row: str) -> tuple[float, float] | None:
        """By how much a row's validation rose from the fourth fifth of training to the last, and half of its interval.

        It is the mean over seeds, and the interval that of validations which scatter around a level in each fifth. None
        where there are fewer than two validations in a fifth.
        """
        sign = -1 if self.item.larger_is_better is False else 1
        curves = [
            [sign * line["metric"] for line in one.run.metrics() if line["kind"] == "val"]
            for one in self.trained.get(row, ())
            if one.run is not None
        ]
        fifth = min(map(len, curves), default=0) // 5
        if fifth < 2:
            return None
        parts = np.array([[curve[-2 * fifth : -fifth], curve[-fifth:]] for curve in curves])  # [seeds, 2, fifth]
        levels = parts.mean(2, keepdims=True)
        scatter = np.sqrt(((parts - levels) ** 2).sum() / (parts.size - levels.size))
        rise = float((levels[:, 1] - levels[:, 0]).mean())
        return rise, float(1.96 * scatter * np.sqrt(2 / (fifth * len(parts))))

    def is_rising(self, row: str) -> bool:
        """Whether a row's validation still rose, by more than its interval, in the last fifth of training."""
        rise = self.rise(row)
        return rise is not None and rise[0] > rise[1]

    def _each(self, row: str, column: str, seeds: int | None = None) -> Array | None:
        readings = self.all(row, column)[:seeds]
        every = [one.each for one in readings if one.each is not None]
        return np.mean(np.stack(every), axis=0) if len(every) == len(readings) else None


def lost_tasks(reading: Reading) -> bool:
    """Whether the training, or the adaptation to one of the tasks, diverged."""
    each = np.ones(1) if reading.each is None else reading.each
    counted = reading.more.get("tasks", 0) > reading.more.get("finite", np.inf)
    return bool(np.isnan(reading.value) or not np.isfinite(each).all() or counted)
