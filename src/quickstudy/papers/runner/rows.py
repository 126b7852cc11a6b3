"""Rows of a table as data: a training, what is read from it, and what the paper reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


SCALES = {
    "smoke": "proves that the way from tasks to table works, in seconds; its numbers mean nothing",
    "quick": "minutes: short trainings, which already show what is large",
    "full": "the paper's budget, or what the row says instead",
}


@dataclass(frozen=True)
class Reported:
    """What a paper says of a cell.

    Args:
        value: In the unit of the item.
        interval: As printed behind the plus-minus.
        source: Where, such as "table 6.1" or "section 4.2, text": a paper may contradict itself.
    """

    value: float
    interval: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Cell:
    """One number of a row.

    Args:
        measure: A name of `MEASURES`; None where there is only what the paper reports.
        options: Of the measure.
        reported: What the paper says, if anything.
    """

    measure: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    reported: tuple[Reported, ...] = ()


@dataclass(frozen=True)
class Row:
    """One training and what is read from it.

    Args:
        name: Short, without spaces; what `--rows` takes.
        label: As the table shows it.
        cells: By column.
        config: The configuration at full scale, as in a file; None where nothing is trained (a quoted row, or cells
            whose measure needs no training).
        departs: What differs from the paper, one sentence each.
        stand_in: The data that stand for the paper's where those are not at hand; empty where they always are.
        scales: Settings of this row alone at a scale, over those of the item: {"quick": {"train.steps": 500}}.
    """

    name: str
    label: str
    cells: Mapping[str, Cell]
    config: Mapping[str, Any] | None = None
    departs: tuple[str, ...] = ()
    stand_in: str = ""
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def quoted(self) -> bool:
        """Whether all of it is the paper's own."""
        return all(cell.measure is None for cell in self.cells.values())


@dataclass(frozen=True)
class Scale:
    """How much is run.

    Args:
        settings: Over every row's configuration, by dotted name: {"train.steps": 2000}.
        options: Over the options of every cell's measure that has them: {"tasks": 100}.
        seeds: Trainings of each row.
        cost: What it takes on two cores, in words with a unit: "9 minutes", or "about 9 minutes" where it is estimated.
        gpu: The same on a GPU, where it was measured.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 1
    cost: str = ""
    gpu: str = "not measured"
