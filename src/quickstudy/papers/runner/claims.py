"""Claims and how they are decided: one vocabulary for all papers, and one rule.

A claim is a list of parts. A part is a word with what it says: `below: {row: mtnet, than: maml, column: 5-shot}`. It
holds, is refused, or is open.

The rule:

- A paired difference counts where it is beyond its 95% interval over tasks and has the same sign with every seed.
  Otherwise it is open: an interval over tasks knows nothing of the chance of training.
- A claim of which a row or a column was not run is not decided, whatever the others say: it is about all of them.
- A row that diverged on a task has an infinite interval and the worst mean there is: an error of infinity, a score of
  minus infinity; what is neither is no number, which keeps within no bound. So every paired difference with that row is
  open (the tasks that are left favour it), and a bound on it is decided: an infinite error is below nothing.
- A claim holds where all of its parts do, is refused where one is, and is open between. One that needs `most` holds
  where more than half of its parts do, and is refused where half of them or more are; one that needs `some` holds where
  one of them does, and is refused where all are.
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from statistics import NormalDist
from typing import Any

import numpy as np

from quickstudy.evaluation.metrics import Z95, Spread, compute_spread
from quickstudy.papers.runner.found import Found, MissingError
from quickstudy.papers.runner.items import Claim

Real = float | int
ClaimPart = tuple[bool | None, str]
Word = Callable[..., ClaimPart]
WORDS: dict[str, Word] = {}

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
    beside = []
    for name, options in claim.parts:
        own = WORDS.get(name) or getattr(import_module(f"quickstudy.papers.{found.item.paper}.claims"), name)
        try:
            parts.append(own(found, **options))
        except LeftOutError as other:
            beside.append(str(other))
        except MissingError as gone:
            return Verdict(None, f"Not run: {gone}")
    holds, words = [one for one, _ in parts], [words for _, words in parts]
    if len(parts) > MANY:
        # What decides: of a claim that needs some, the parts that hold, and of all others those that do not.
        told = [(one, words) for one, words in parts if bool(one) == (claim.needs == "some")]
        signs = {True: "holds", False: "refused", None: "open"}
        shown = [f"{signs[one]}: {words}" for one, words in told]
        words = [f"{holds.count(True)} of {len(parts)} hold, {holds.count(False)} are refused", *shown]
    sentences = ["; ".join(words)] if words else []
    sentences += [f"It does not apply: {'; '.join(beside)}"] if beside else []
    return Verdict(ENOUGH[claim.needs](holds), f"{'. '.join(sentences)}.")


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


# -- paired differences on identical tasks --


@word
def above(
    found: Found, *, row: str, than: str, column: str, by: Real = 0.0, share: float = 0.0, comparisons: int = 1,
    where: Mapping[str, Any] | None = None, beside: Sequence[Sequence[str]] = (), side: int = 1,
) -> ClaimPart:  # fmt: skip
    """One row is above another (`side` -1: below), by so much, or by such a share of the other, where that is asked.

    It is refused where the mean and every seed miss what is asked. `where` has another column of `row` with bounds: out
    of them this part does not apply. The interval is widened for so many `comparisons`, so that it is 95% over all of
    them (Bonferroni). `beside` are further pairs of rows whose differences are told of.
    """
    if where is not None:
        level = found.value(row, where["column"])
        if not inside(level, **{name: bound for name, bound in where.items() if name != "column"}):
            raise LeftOutError(f"{found.item.label(row)}, {where['column']}: {level:.3g}")
    sign, over = found.sure_sign(than, row, column)
    words = _difference(found, row, than, column, over)
    for one, two in beside:
        if {(one, column), (two, column)} <= set(found.readings):
            words += f", where {_difference(found, one, two, column, found.paired_difference(two, one, column))}"
    if not over.decides:
        return None, words
    if not by and not share:
        wide = NormalDist().inv_cdf(1 - 0.025 / comparisons) / Z95 if comparisons > 1 else 1.0
        return None if not sign or abs(over.mean) <= wide * over.interval else sign == side, words
    pairs = found.pairs(row, than, column)
    changes = [over.mean, *(one - two for one, two in pairs)]
    if share:
        changes = [one / two - 1 for one, two in ((found.value(row, column), found.value(than, column)), *pairs)]
    reached = [side * change >= (share or by) for change in changes]
    return (True if sign == side and reached[0] else False if sign == -side or not any(reached) else None), words


@word
def below(found: Found, **options: Any) -> ClaimPart:
    """One row is below another; see `above`."""
    return above(found, **options, side=-1)


@word
def not_below(found: Found, *, row: str, than: str, column: str) -> ClaimPart:
    """One row is not below another; a difference within its interval is none."""
    sign, over = found.sure_sign(than, row, column)
    return sign >= 0 if over.decides else None, _difference(found, row, than, column, over)


@word
def difference(
    found: Found, *, row: str, than: str, column: str, at_least: Real = -np.inf, at_most: Real = np.inf
) -> ClaimPart:
    """One row minus another is within bounds, its interval included; refused where all of the interval is outside."""
    over = found.paired_difference(than, row, column)
    low, high = over.mean - over.interval, over.mean + over.interval
    holds = True if at_least <= low and high <= at_most else False if high < at_least or low > at_most else None
    return holds if over.decides else None, _difference(found, row, than, column, over)


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
        over = compute_spread(np.array([one - two for one, two in found.pairs(row, than, column)]))
        sure = over.sign and over.finite == over.tasks >= over_seeds
        words = f"{_difference(found, row, than, column, over)}, over seeds; {over_seeds} are needed"
        parts.append((bool(over.mean > 0) if sure else None, words))
    return all_hold([holds for holds, _ in parts]), "; ".join(words for _, words in parts)


def _difference(found: Found, row: str, than: str, column: str, over: Spread) -> str:
    """A paired difference in words."""
    pairs, lost = found.pairs(row, than, column), over.tasks - over.finite
    words = f"{found.item.label(row)} - {found.item.label(than)} = {over.format('+.3g')} ({column}"
    words += f"; above in {sum(one > two for one, two in pairs)} of {len(pairs)} seeds" if len(pairs) > 1 else ""
    return f"{words}; {lost} of {over.tasks} tasks diverged)" if lost else f"{words})"


# -- numbers within bounds --


def inside(
    number: float, *, above: Real = -np.inf, at_least: Real = -np.inf, below: Real = np.inf, at_most: Real = np.inf
) -> bool:
    """Whether a number keeps within its bounds; NaN keeps within none."""
    strict = (above < number or above == -np.inf) and (number < below or below == np.inf)
    return bool(strict and at_least <= number <= at_most)


def keep_inside(numbers: Sequence[float], seeds: str, **bounds: Real) -> bool | None:
    """Whether numbers, one a seed, keep within bounds.

    By `seeds` it is the "mean", the "first" or the "worst" (the largest) that does, or "each": open where they differ.
    """
    if seeds == "each":
        every = {inside(one, **bounds) for one in numbers}
        return every.pop() if len(every) == 1 else None
    with np.errstate(invalid="ignore"):
        return inside({"mean": _mean(numbers), "worst": float(np.max(numbers)), "first": numbers[0]}[seeds], **bounds)


@word
def within(found: Found, *, row: str, column: str, more: str = "", seeds: str = "mean", **bounds: Real) -> ClaimPart:
    """A row's number is within bounds; `more` is another number of the same reading."""
    numbers = [float(one.more[more]) for one in found.all(row, column)] if more else found.at_worst(row, column)
    return keep_inside(numbers, seeds, **bounds), _number(f"{found.item.label(row)}, {more or column}", numbers)


@word
def ratio(found: Found, *, row: str, over: str, column: str, seeds: str = "mean", **bounds: Real) -> ClaimPart:
    """One row's number over another's is within bounds."""
    ours, others = found.at_worst(row, column), found.at_worst(over, column)
    pairs = [(_mean(ours), _mean(others))] if seeds == "mean" else zip(ours, others, strict=False)
    numbers = [_divide(one, two) for one, two in pairs]
    words = _number(f"{found.item.label(row)} over {found.item.label(over)}, {column}", numbers)
    return keep_inside(numbers, seeds, **bounds), words


@word
def near_numbers(
    found: Found, *, numbers: Mapping[str, float], column: str, share: float = 0.0, away: float = 0.0
) -> ClaimPart:
    """Several rows' means are near given numbers, each to a share of it, or to so much."""
    ours = {row: _mean(found.at_worst(row, column)) for row in numbers}
    near = all(abs(ours[row] - number) <= max(away, share * abs(number)) for row, number in numbers.items())
    words = ", ".join(f"{ours[row]:.3g} for {number:g}" for row, number in numbers.items())
    return near, f"{next(iter(numbers))} and others, {column}: {words}"


@word
def excess(found: Found, *, row: str, over: str, column: str, **bounds: Real) -> ClaimPart:
    """By how much one row's mean is above another's, on tasks that cannot be paired, is within bounds."""
    one, two = (_mean(found.at_worst(name, column)) for name in (row, over))
    words = f"{found.item.label(row)} {one:.3g}, {found.item.label(over)} {two:.3g} ({column})"
    return inside(one - two, **bounds), words


@word
def spread_of(found: Found, *, rows: str, column: str, over: str = "", **bounds: Real) -> ClaimPart:
    """The largest of several rows' numbers over the smallest is within bounds; `over`, that ratio over other rows'."""
    words, numbers = [], []
    for pattern in filter(None, (rows, over)):
        values = [_mean(found.at_worst(row.name, column)) for row in found.item.rows if fnmatchcase(row.name, pattern)]
        # Where the largest is infinite, so is the ratio, whatever the smallest.
        numbers.append(max(values) / min(values) if np.isfinite(values).all() else float(np.max(values)))
        every = ", ".join(f"{one:.3g}" for one in values)
        words.append(f"{pattern}: largest over smallest {numbers[-1]:.3g} ({every})")
    return inside(_divide(*numbers) if over else numbers[0], **bounds), "; ".join(words)


def _mean(numbers: Sequence[float]) -> float:
    return float(np.mean(numbers))


def _divide(one: float, two: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.divide(one, two))


def _number(name: str, numbers: Sequence[float]) -> str:
    """A number in words, with every seed's where there are several."""
    seeds = f" (by seed {', '.join(f'{one:.3g}' for one in numbers)})" if len(numbers) > 1 else ""
    return f"{name}: {_mean(numbers):.3g}{seeds}"
