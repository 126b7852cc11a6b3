"""What was found for an item: readings by row, column and seed, and the statistics that tables and claims need."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from quickstudy.errors import RunError
from quickstudy.metrics import Spread, spread
from quickstudy.reproduce.items import Item, Row
from quickstudy.reproduce.measures import Array, Reading, Trained


class Missing(RunError):
    """A row or a column was not run, so that something cannot be said."""


@dataclass(frozen=True)
class Found:
    """Readings of an item.

    Args:
        item: The item.
        scale: At which it was run.
        readings: By (row, column), one a seed, in order of the seeds.
        trained: By row, one a seed: where a figure finds what was logged.
        stopped: By row: why trainings ended before their last step, by seed.
        genuine: Rows read while no folder stood in for an image set that they name.
    """

    item: Item
    scale: str
    readings: Mapping[tuple[str, str], tuple[Reading, ...]]
    trained: Mapping[str, tuple[Trained, ...]]
    stopped: Mapping[str, Mapping[int, str]]
    genuine: Set[str] = frozenset()

    def stand_in(self, row: Row) -> str:
        """What stood for the paper's data in a row; empty where these were at hand."""
        return "" if row.name in self.genuine else row.stand_in

    def all(self, row: str, column: str) -> tuple[Reading, ...]:
        """Of every seed."""
        if (row, column) not in self.readings:
            raise Missing(f"{self.item.name} has no reading of {row}, {column}.")
        return self.readings[row, column]

    def first(self, row: str, column: str) -> Reading:
        """Of the first seed."""
        return self.all(row, column)[0]

    def value(self, row: str, column: str) -> float:
        """The mean over seeds."""
        return float(np.mean([one.value for one in self.all(row, column)]))

    def each_seed(self, row: str, column: str) -> list[float]:
        """One value a seed."""
        return [one.value for one in self.all(row, column)]

    def spread(self, row: str, column: str) -> Spread | None:
        """Over tasks, each task's value being its mean over seeds; None where there are no tasks."""
        each = self._each(row, column)
        return None if each is None else spread(each)

    def paired(self, first: str, second: str, column: str) -> Spread:
        """Second minus first over identical tasks, each task's difference being its mean over seeds."""
        one, two = self._each(first, column), self._each(second, column)
        if one is None or two is None or self.first(first, column).tasks != self.first(second, column).tasks:
            raise Missing(f"{first} and {second} were not read on the same tasks, so they cannot be paired.")
        return spread(two - one)

    def surely(self, first: str, second: str, column: str) -> tuple[int, Spread]:
        """The sign of second minus first where it is sure, else 0: beyond the interval over tasks, and with every seed.

        The interval knows nothing of the chance of training. Where a row diverged on some tasks nothing is sure.
        """
        over = self.paired(first, second, column)
        # Of a run that was stopped, one row may have more seeds than the other.
        seeds = zip(self.each_seed(first, column), self.each_seed(second, column), strict=False)
        sign = int(np.sign(over.mean)) if over.finite == over.tasks and abs(over.mean) > over.interval else 0
        return (sign if all(np.sign(two - one) == sign for one, two in seeds) else 0), over

    def logged(self, row: str, seed: int = 0) -> list[dict[str, Any]]:
        """The metrics of a training: rows of loss, and of what its configuration probes."""
        if row not in self.trained or self.trained[row][seed].run is None:
            raise Missing(f"{self.item.name} has no training of {row}.")
        run = self.trained[row][seed].run
        assert run is not None
        return run.metrics()

    def _each(self, row: str, column: str) -> Array | None:
        every = [one.each for one in self.all(row, column)]
        if any(each is None for each in every):
            return None
        mean: Array = np.mean(np.stack([each for each in every if each is not None]), axis=0)
        return mean
