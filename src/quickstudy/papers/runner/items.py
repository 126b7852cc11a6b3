"""What is reproduced, as data: an item is a table or a figure, a row is one training, a cell one reading of it.

paper -> items -> rows -> cells
                  a configuration   a measure with its options, and what the paper reports
"""

from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from quickstudy.errors import RunError
from quickstudy.evaluation.metrics import Spread, spread
from quickstudy.papers.runner.measures import Array, Reading, Trained
from quickstudy.papers.runner.rows import Row, Scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ASKED = "asked of this library"
SUGGESTED = "suggested by the paper, not claimed"
QUESTION = "a question of this library"
EQUATIONS = "follows from the equations"
OWN = frozenset({ASKED, SUGGESTED, QUESTION, EQUATIONS})
"""Sources of what no paper claims: these are answered yes or no, and counted apart."""


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds here (None: not decided), and the numbers that say so, in a sentence."""

    holds: bool | None
    evidence: str


def all_hold(held: Collection[bool | None]) -> bool | None:
    """Whether all of several hold; where the rest do, one that is not decided leaves it open."""
    return False if False in held else None if None in held else True


@dataclass(frozen=True)
class Claim:
    """Something the paper says, or something asked of this library.

    Args:
        text: The claim, in a sentence.
        source: Where it is made.
        judged: From what was found to a verdict. It may raise `Missing` through `Found` where rows were left out.
        decides: The smallest scale whose numbers decide it; empty where the item's does.
    """

    text: str
    source: str
    judged: "Callable[[Found], Verdict]"
    decides: str = ""

    @property
    def own(self) -> bool:
        """Whether it is this library's question, and no claim of the paper."""
        return self.source in OWN


@dataclass(frozen=True)
class Item:
    """A table or a figure.

    Args:
        paper: "mtnet", "wormhole", "hypermaml" or "beyond".
        name: "table-6.1": what the command line takes.
        title: As a heading.
        rows: In the table's order.
        scales: By name, all of `SCALES`.
        unit: Of the numbers, in words: "accuracy in %".
        larger_is_better: Of the numbers; None where they are no scores.
        digits: Decimals shown.
        claims: Judged from what was found.
        figures: Pictures by name, drawn from what was found.
        needs: Image sets, by name.
        decides: The smallest scale whose numbers decide its claims, where a claim names none itself.
        notes: What the reader must know: contradictions of the paper, protocol.
    """

    paper: str
    name: str
    title: str
    rows: tuple[Row, ...]
    scales: Mapping[str, Scale]
    unit: str
    larger_is_better: bool | None = None
    digits: int = 2
    claims: tuple[Claim, ...] = ()
    figures: "Mapping[str, Callable[[Found], Figure]]" = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    decides: str = "quick"
    notes: tuple[str, ...] = ()


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
