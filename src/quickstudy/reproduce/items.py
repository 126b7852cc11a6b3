"""What is reproduced, as data: an item is a table or a figure, a row is one training, a cell one reading of it.

paper -> items -> rows -> cells
                  a configuration   a measure with its options, and what the paper reports
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from quickstudy.reproduce.found import Found

SCALES = {
    "smoke": "proves that the way from tasks to table works, in seconds; its numbers mean nothing",
    "quick": "minutes: short trainings, which already show what is large",
    "full": "the paper's budget, or what the row says instead",
}

ASKED = "asked of this library"
SUGGESTED = "suggested by the paper, not claimed"
QUESTION = "a question of this library"
EQUATIONS = "follows from the equations"
OWN = frozenset({ASKED, SUGGESTED, QUESTION, EQUATIONS})
"""Sources of what no paper claims: these are answered yes or no, and counted apart."""


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
