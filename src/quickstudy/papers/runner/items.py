"""What is reproduced, as data: an item is a table or a figure, a row is one training, a cell one reading of it.

paper -> items -> rows -> cells
                  a configuration   a measure with its options, and what the paper reports
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCALES = {
    "smoke": "proves that the way from tasks to table works, in seconds; its numbers mean nothing",
    "quick": "minutes: short trainings, which already show what is large",
    "cpu": "hours: less than the paper's budget, with equal tasks and equally tuned outer rates for every method; it "
    "decides orders, never levels",
    "full": "the paper's budget, or what the row says instead",
}

OWN_SOURCES = (
    "asked of this library",
    "suggested by the paper, not claimed",
    "a question of this library",
    "follows from the equations",
)
"""Sources of what no paper claims: these are answered yes or no, and counted separately."""


@dataclass(frozen=True)
class Reported:
    """What a paper says of a cell. A paper may contradict itself, so each number has its source."""

    value: float
    interval: float | None = None  # as printed behind the plus-minus
    source: str = ""  # such as "table 6.1" or "section 4.2, text"


@dataclass(frozen=True)
class Cell:
    """One number of a row: a measure with its options (None where the number is quoted), and what the paper reports."""

    measure: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    reported: tuple[Reported, ...] = ()


@dataclass(frozen=True)
class Tried:
    """A setting whose value is chosen by the validation of the first seed's trainings, one with each value."""

    setting: str  # its dotted name
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Row:
    """One training and what is read from it.

    Without a configuration nothing is trained: the row is quoted, or its measures need no training.
    """

    name: str  # short, without spaces; what `--rows` takes
    label: str  # as the table shows it
    cells: Mapping[str, Cell]  # by column
    config: Mapping[str, Any] | None = None  # at full scale, as in a file
    departs: tuple[str, ...] = ()  # what differs from the paper, one sentence each
    stand_in: str = ""  # the data that stand for the paper's where those are not at hand
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # settings over those of the item's scale
    tried: Mapping[str, Tried] = field(default_factory=dict)  # by scale: what is chosen by validation

    @property
    def quoted(self) -> bool:
        """Whether all of it is the paper's own."""
        return all(cell.measure is None for cell in self.cells.values())


@dataclass(frozen=True)
class Scale:
    """How much is run, and what that costs: in words with a unit, "about 9 minutes" where it is estimated."""

    settings: Mapping[str, Any] = field(default_factory=dict)  # over every configuration: {"train.steps": 2000}
    options: Mapping[str, Any] = field(default_factory=dict)  # over those of every measure that has them
    seeds: int = 1  # trainings of each row
    rows: tuple[str, ...] = ("*",)  # patterns of the rows that are run if none are named
    cost: str = ""  # on two cores
    gpu: str = "not measured"


@dataclass(frozen=True)
class Claim:
    """Something the paper says, or something asked of this library."""

    text: str
    source: str  # where it is made
    parts: tuple[tuple[str, Mapping[str, Any]], ...]  # words of `runner.claims` with their options
    short: str = ""  # the claim in a few words, for the table that opens a page
    needs: str = "all"  # which of its parts must hold: "all", "most" or "some"
    decides: str = ""  # the smallest scale whose numbers decide it, where that is not the item's
    takes: str = ""  # what it takes to decide it that two cores do not have: data, a GPU

    @property
    def own(self) -> bool:
        """Whether it is this library's question, and no claim of the paper."""
        return self.source in OWN_SOURCES


@dataclass(frozen=True)
class Item:
    """A table or a figure."""

    paper: str  # of `catalog.PAPERS`
    name: str  # "table-6.1": what the command line takes
    title: str
    rows: tuple[Row, ...]
    scales: Mapping[str, Scale]  # by name, those of `SCALES` that it has
    unit: str  # of the numbers, in words: "accuracy in %"
    larger_is_better: bool | None = None  # None where the numbers are neither scores nor errors
    digits: int = 2
    claims: tuple[Claim, ...] = ()
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # see `runner.figures`
    needs: tuple[str, ...] = ()  # image sets
    decides: str = "quick"  # the smallest scale whose numbers decide its claims
    notes: tuple[str, ...] = ()  # what the reader must know: contradictions of the paper, protocol

    def label(self, row: str) -> str:
        """How the table calls a row."""
        return next((one.label for one in self.rows if one.name == row), row)
