"""Claims and how they are decided: one vocabulary for all papers, and one rule.

A claim is a list of parts. A part is a word with what it says: `below: {row: mtnet, than: maml, column: 5-shot}`. It
holds, is refused, or is open.

The rule:

- Numbers, differences and ratios have an interval over tasks and seeds, which `estimate` holds against what is claimed:
  a verdict takes three seeds, five where they differ, and an interval that is on one side.
- A part of which a row or a column was not run is open. It is decided with the others only where they leave no doubt:
  one counterexample refuses what is said of all.
- At `cpu` scale, a training whose validation still rose may yet change a part to the other side: then the part is open.
  Of two accuracies, this can be said of the lower one alone; more training would lift the upper one further. It is not
  said of a ratio that would have the same verdict if it were `FAR` times as large, or as small.
- A row that diverged on a task has an infinite interval and the worst mean there is: an error of infinity, a score of
  minus infinity; what is neither is no number, which keeps within no bound. So every difference with that row is
  open (the tasks that are left favour it), and a bound on it is decided: an infinite error is below nothing.
- An order that the paper shows by two numbers is refused by a tie: an interval that ends below a `TIE` of the paper's
  own difference. Without this, no number of seeds would refuse an order between two rows that are equal.
- A claim holds where all of its parts do, is refused where one is, and is open between. One that needs `most` holds
  where more than half of its parts do, and is refused where half of them or more are; one that needs `some` holds where
  one of them does, and is refused where all are.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from importlib import import_module
from math import exp, log
from typing import Any

import numpy as np

from quickstudy.papers.runner.estimate import SEEDS, Bounds, Estimate, Real, seeds_hold
from quickstudy.papers.runner.found import Difference, Found, MissingError
from quickstudy.papers.runner.items import Claim
from quickstudy.papers.runner.measures import TIMES

ClaimPart = tuple[bool | None, str]
Word = Callable[..., ClaimPart]
WORDS: dict[str, Word] = {}

TIE = 0.1
"""A difference that is surely below this share of the paper's own is none of the paper's."""

FAR = 10.0
"""By such a factor, the last part of a training changes no ratio."""

MANY = 6
"""With more parts than this, the evidence of a claim counts those that hold and shows the others only."""


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds here (None: not decided), and the numbers that say so, in a sentence."""

    holds: bool | None
    evidence: str


class LeftOutError(Exception):
    """A part that does not apply, with the words that say so."""


def word(function: Word) -> Word:
    """Enter a function into `WORDS` under its name: `word(found, **options) -> (holds, words)`."""
    WORDS[function.__name__] = function
    return function


def decide(claim: Claim, found: Found) -> Verdict:
    """Whether a claim holds by what was found; a word that is not of this vocabulary is of the paper's `claims`."""
    parts: list[ClaimPart] = []
    beside, missing = [], []
    for name, options in claim.parts:
        own = WORDS.get(name) or getattr(import_module(f"quickstudy.papers.{found.item.paper}.claims"), name)
        try:
            holds, words = own(found, **options)
            late = [] if holds is None else _late_rows(name, options, holds, found)
            parts.append((None, f"{words}: {_describe_late(late, found)}") if late else (holds, words))
        except LeftOutError as other:
            beside.append(str(other))
        except MissingError as gone:
            missing.append(str(gone))
    held, said = [one for one, _ in parts] + [None for _ in missing], [words for _, words in parts]
    if len(parts) > MANY:
        # What decides: of a claim that needs some, the parts that hold, and of all others those that do not.
        told = [(one, words) for one, words in parts if bool(one) == (claim.needs == "some")]
        signs = {True: "holds", False: "refused", None: "open"}
        shown = [f"{signs[one]}: {words}" for one, words in told]
        said = [f"{held.count(True)} of {len(held)} hold, {held.count(False)} are refused", *shown]
    sentences = ["; ".join(said)] if said else []
    sentences += [f"It does not apply: {'; '.join(beside)}"] if beside else []
    sentences += [f"Not run: {missing[0].removesuffix('.')}"] if missing else []
    return Verdict(ENOUGH[claim.needs](held), f"{'. '.join(sentences)}.")


def rows_of(claim: Claim, found: Found) -> list[str]:
    """The rows that a claim names, in the order of the item."""
    named = {row for _, options in claim.parts for row in _rows_of_part(options, found)}
    return [row.name for row in found.item.rows if row.name in named]


def _rows_of_part(options: Mapping[str, Any], found: Found, but: Collection[str] = ()) -> Iterator[str]:
    """The rows that a part names; without those that it names for numbers by measures in `but` only."""
    names = [options[key] for key in ("row", "than", "over", "rows") if key in options]
    for row in found.item.rows:
        cell = row.cells.get(options.get("column", ""))
        if any(fnmatchcase(row.name, name) for name in names) and (cell is None or cell.measure not in but):
            yield row.name


def _late_rows(name: str, options: Mapping[str, Any], holds: bool, found: Found) -> list[str]:
    """At `cpu` scale, the rows of a part whose validation still rose and which might yet change what it says."""
    if found.scale != "cpu":
        return []
    late = [row for row in _rows_of_part(options, found, but=TIMES) if found.is_rising(row)]
    better, cells = found.item.larger_is_better, {row.name: row.cells for row in found.item.rows}
    if name in ("above", "below") and better is not None:
        leads = options["row" if (holds == (name == "above")) == better else "than"]
        # What is validated is what the part is about: the one that leads would be further ahead.
        late = [row for row in late if row != leads or cells[row][options["column"]].measure != "judged"]
    return [] if late and name == "ratio" and _is_far(options, holds, found) else late


def _is_far(options: Mapping[str, Any], holds: bool, found: Found) -> bool:
    """Whether a ratio would have the same verdict if it were `FAR` times as large, or as small."""
    logs = found.ratio(options["row"], options["over"], options["column"])
    named = {field.name for field in fields(Bounds)}
    wanted = Bounds(**{name: bound for name, bound in options.items() if name in named}).in_logarithms()
    shifts = (-log(FAR), log(FAR))
    moved = [Estimate(tuple(one + shift for one in logs.seeds), logs.tasks) for shift in shifts] if logs else []
    return bool(moved) and all(one.keeps(wanted) is holds for one in moved)


def _describe_late(rows: Sequence[str], found: Found) -> str:
    labels = ", ".join(map(found.item.label, rows))
    return f"the validation of {labels} had not stopped rising, so longer training is needed"


def all_hold(held: Collection[bool | None]) -> bool | None:
    """Whether all of several hold; where the rest do, one that is open leaves it open."""
    return False if False in held else None if None in held or not held else True


def most_hold(held: Sequence[bool | None]) -> bool | None:
    """Whether more than half of several hold, whatever becomes of those that are open."""
    yes, no = (2 * sum(one is wanted for one in held) for wanted in (True, False))
    return True if yes > len(held) else False if no >= len(held) and held else None


def some_hold(held: Sequence[bool | None]) -> bool | None:
    """Whether one of several holds; where none is known to, one that is open leaves it open."""
    return True if True in held else None if None in held or not held else False


ENOUGH: dict[str, Callable[[Sequence[bool | None]], bool | None]] = {
    "all": all_hold,
    "most": most_hold,
    "some": some_hold,
}


# -- differences on identical tasks --


@word
def above(
    found: Found, *, row: str, than: str, column: str, by: Real = 0.0, comparisons: int = 1,
    where: Mapping[str, Any] | None = None, beside: Sequence[Sequence[str]] = (), side: int = 1,
) -> ClaimPart:  # fmt: skip
    """One row is above another (`side` -1: below), by so much where that is asked.

    `where` has another column of `row` with bounds: out of them this part does not apply. The interval is widened for
    so many `comparisons`, so that it is 95% over all of them. `beside` are further pairs of rows whose differences are
    told of.
    """
    if where is not None:
        level = found.value(row, where["column"])
        if not Bounds(**{name: bound for name, bound in where.items() if name != "column"}).hold(level):
            raise LeftOutError(f"{found.item.label(row)}, {where['column']}: {level:.3g}")
    over = found.difference(than, row, column)
    words = _describe_difference(found, row, than, column, over)
    for one, two in beside:
        if {(one, column), (two, column)} <= set(found.readings):
            words += f", where {_describe_difference(found, one, two, column, found.difference(two, one, column))}"
    if not over.paired:
        return None, words
    wanted = Bounds(at_least=by) if by else Bounds(above=0.0)
    claimed = Estimate(tuple(side * one for one in over.estimate.seeds), over.estimate.tasks, comparisons)
    holds, said = _judge(claimed, wanted, words)
    printed = 0.0 if by else side * _printed_difference(found, row, than, column)
    if holds is None and printed > 0 and claimed.keeps(Bounds(at_least=TIE * printed)) is False:
        return False, f"{words}: a tie, as the paper's difference is {side * printed:+.3g}"
    return holds, said


def _printed_difference(found: Found, row: str, than: str, column: str) -> float:
    """One row minus another, as the paper prints them; 0 where it does not, or where the numbers are not its own kind.

    With data that stand in for the paper's, or less than its budget, a difference has no size to be held against.
    """
    rows = {one.name: one for one in found.item.rows}
    two = [rows[name] for name in (row, than) if name in rows]
    if found.scale != "full" or any(found.stand_in(one) for one in two):
        return 0.0
    numbers = [one.cells[column].reported[0].value for one in two if column in one.cells and one.cells[column].reported]
    return numbers[0] - numbers[1] if len(numbers) == 2 else 0.0


def _judge(one: Estimate, wanted: Bounds, words: str) -> ClaimPart:
    """Whether an estimate keeps within bounds, with what an open verdict would take."""
    lacks = one.lacks(wanted)
    return one.keeps(wanted), f"{words}: {lacks}" if lacks else words


@word
def below(found: Found, **options: Any) -> ClaimPart:
    """One row is below another; see `above`."""
    return above(found, **options, side=-1)


@word
def difference(found: Found, *, row: str, than: str, column: str, **bounds: Real) -> ClaimPart:
    """One row minus another is within bounds."""
    over = found.difference(than, row, column)
    words = _describe_difference(found, row, than, column, over)
    return _judge(over.estimate, Bounds(**bounds), words) if over.paired else (None, words)


@word
def in_order(
    found: Found, *, column: str, rising: Sequence[str] = (), falling: Sequence[str] = (), over_seeds: int = 0
) -> ClaimPart:
    """Rows whose numbers rise, or fall, from each to the next.

    Where there are no tasks to pair over, the interval is over seeds, and fewer than `over_seeds` decide nothing.
    """
    parts: list[ClaimPart] = []
    for than, row in itertools.pairwise(rising or falling[::-1]):
        if not over_seeds:
            parts.append(above(found, row=row, than=than, column=column))
            continue
        pairs = found.pairs(than, row, column)
        over = Estimate(tuple(two - one for one, two in pairs))
        words = f"{found.item.label(row)} - {found.item.label(than)} = {over.format('+.3g')} ({column}, over seeds; "
        words += f"{over_seeds} are needed)"
        parts.append(_judge(over, Bounds(above=0.0), words) if len(pairs) >= over_seeds else (None, words))
    return all_hold([holds for holds, _ in parts]), "; ".join(words for _, words in parts)


def _describe_difference(found: Found, row: str, than: str, column: str, over: Difference) -> str:
    """A difference in words."""
    pairs, lost = found.pairs(than, row, column), over.tasks - over.finite
    words = f"{found.item.label(row)} - {found.item.label(than)} = {over.estimate.format('+.3g')}"
    words += " (one task)" if over.finite == 1 else ""
    words += f" ({column}"
    words += f"; above in {sum(two > one for one, two in pairs)} of {len(pairs)} seeds" if len(pairs) > 1 else ""
    words += f"; {lost} of {over.tasks} tasks diverged" if lost else ""
    return f"{words})"


# -- numbers within bounds --


@word
def within(found: Found, *, row: str, column: str, more: str = "", seeds: str = "mean", **bounds: Real) -> ClaimPart:
    """A row's number is within bounds; `more` is another number of the same reading.

    By `seeds` it is the "mean" that is, with its interval, or "each" seed's number, as `seeds_hold` decides, or the
    "worst", the largest: of errors that are to be rounding.
    """
    wanted, one = Bounds(**bounds), found.estimate(row, column)
    if more:
        one = Estimate(tuple(float(reading.more[more]) for reading in found.all(row, column)))
    words = _describe_number(f"{found.item.label(row)}, {more or column}", one)
    return _keep(one, seeds, wanted, words)


def _keep(one: Estimate, seeds: str, wanted: Bounds, words: str) -> ClaimPart:
    if seeds == "each":
        held = [wanted.hold(number) for number in one.seeds]
        return seeds_hold(held), f"{words}: {sum(held)} of {len(held)} seeds"
    if seeds == "worst":
        return wanted.hold(float(np.max(one.seeds))) if len(one.seeds) >= SEEDS else None, words
    return _judge(one, wanted, words)


@word
def ratio(found: Found, *, row: str, over: str, column: str, seeds: str = "mean", **bounds: Real) -> ClaimPart:
    """One row's number over another's is within bounds; 0 over 0 leaves it open."""
    pairs = list(zip(found.at_worst(row, column), found.at_worst(over, column), strict=False))
    numbers = [_divide(one, two) for one, two in pairs]
    wanted, name = Bounds(**bounds), f"{found.item.label(row)} over {found.item.label(over)}, {column}"
    if (0.0, 0.0) in pairs:
        return None, _describe_numbers(name, numbers)
    logs = found.ratio(row, over, column)
    if logs is None or seeds == "each":  # without a positive number on both sides there is no interval
        return _keep(Estimate(tuple(numbers)), seeds, wanted, _describe_numbers(name, numbers))
    reach = f" (within a factor of {exp(logs.half):.3g})"
    return _judge(logs, wanted.in_logarithms(), _describe_numbers(name, numbers) + reach)


@word
def near_numbers(
    found: Found, *, numbers: Mapping[str, float], column: str, share: float = 0.0, away: float = 0.0
) -> ClaimPart:
    """Several rows' numbers are near given ones, each to a share of it, or to so much."""
    held, words = [], []
    for row, number in numbers.items():
        one, reach = found.estimate(row, column), max(away, share * abs(number))
        held.append(one.keeps(Bounds(at_least=number - reach, at_most=number + reach)))
        words.append(f"{one.mean:.3g} for {number:g}")
    return all_hold(held), f"{found.item.label(next(iter(numbers)))} and others, {column}: {', '.join(words)}"


@word
def excess(found: Found, *, row: str, over: str, column: str, **bounds: Real) -> ClaimPart:
    """By how much one row's mean is above another's, on tasks that cannot be paired, is within bounds."""
    one, two = found.estimate(row, column), found.estimate(over, column)
    words = f"{found.item.label(row)} {one.format()}, {found.item.label(over)} {two.format()} ({column})"
    gaps = tuple(a - b for a, b in zip(one.seeds, two.seeds, strict=False))
    return _judge(Estimate(gaps, float(np.hypot(one.tasks, two.tasks))), Bounds(**bounds), words)


@word
def spread_of(found: Found, *, rows: str, column: str, over: str = "", **bounds: Real) -> ClaimPart:
    """The largest of several rows' numbers over the smallest is within bounds; `over`, that ratio over other rows'."""
    words, numbers = [], []
    for pattern in filter(None, (rows, over)):
        values = [found.at_worst(row.name, column) for row in found.item.rows if fnmatchcase(row.name, pattern)]
        by_seed = list(zip(*values, strict=False))
        # Where the largest is infinite, so is the ratio, whatever the smallest.
        numbers.append([max(v) / min(v) if np.isfinite(v).all() else float(np.max(v)) for v in by_seed])
        every = ", ".join(f"{_mean(one):.3g}" for one in values)
        words.append(f"{pattern}: largest over smallest {_mean(numbers[-1]):.3g} ({every})")
    ratios = [_divide(*pair) for pair in zip(*numbers, strict=False)] if over else numbers[0]
    wanted = Bounds(**bounds)
    if all(0 < one < np.inf for one in ratios):
        logs = Estimate(tuple(log(one) for one in ratios))
        return _judge(logs, wanted.in_logarithms(), "; ".join(words))
    return _judge(Estimate(tuple(ratios)), wanted, "; ".join(words))


def _mean(numbers: Sequence[float]) -> float:
    return float(np.mean(numbers))


def _divide(one: float, two: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.divide(one, two))


def _describe_number(name: str, one: Estimate) -> str:
    """A number in words, with every seed's where there are several."""
    return f"{name}: {one.format()}{_describe_seeds(one.seeds)}"


def _describe_numbers(name: str, numbers: Sequence[float]) -> str:
    """The mean of several seeds' numbers, and these."""
    return f"{name}: {_mean(numbers):.3g}{_describe_seeds(numbers)}"


def _describe_seeds(numbers: Sequence[float]) -> str:
    return f" (by seed {', '.join(f'{one:.3g}' for one in numbers)})" if len(numbers) > 1 else ""
