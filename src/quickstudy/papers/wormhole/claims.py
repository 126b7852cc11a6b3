"""How claims about Wormhole MAML are judged: by paired differences on identical tasks, with their 95% intervals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from quickstudy.papers.runner.items import Claim, Found, Missing, Verdict

FLIPS = (0.05, 0.95)
"""A gain "can flip" where it was negative for a share of the tasks between these."""

Pairs = Mapping[str, tuple[str, str]]


class Gap(NamedTuple):
    """The paired difference of two rows, the second minus the first, and whether it is surely on one side of 0."""

    name: str
    mean: float
    below: bool
    above: bool


def below(text: str, source: str, pairs: Pairs, column: str) -> Claim:
    """In every pair the second row is below the first, by more than the interval of the paired difference.

    Not decided where none is surely above, and some are within their intervals.
    """

    def judged(found: Found) -> Verdict:
        done, said = _differences(found, pairs, column)
        return Verdict(_every_below(done), said)

    return Claim(text, source, judged)


def below_where_it_flips(text: str, source: str, pairs: Pairs, column: str, flips: str) -> Claim:
    """As `below`, over those pairs whose second row's gain can flip, as measured; the others are told of."""

    def judged(found: Found) -> Verdict:
        share = {name: found.value(second, flips) / 100 for name, (_, second) in pairs.items()}
        can = {name: pair for name, pair in pairs.items() if FLIPS[0] < share[name] < FLIPS[1]}
        rest = {name: pair for name, pair in pairs.items() if name not in can}
        if not can:
            return Verdict(None, f"In no setting does the gain flip: C < 0 for {_listed(share)} of the tasks.")
        done, said = _differences(found, can, column)
        told = f" Where it does not flip: {_differences(found, rest, column)[1]}" if rest else ""
        return Verdict(_every_below(done), f"Where the gain flips: {said}{told}")

    return Claim(text, source, judged)


def lower_by(text: str, source: str, pairs: Pairs, column: str, share: float) -> Claim:
    """In every pair the second row is surely below the first, and its mean by at least a share of the first's.

    Not so where a pair's mean misses that and no seed reaches it; where seeds differ it is not decided.
    """

    def judged(found: Found) -> Verdict:
        mean, each = _changes(found, pairs, column)
        done, said = _differences(found, pairs, column)
        held = [gap.below and mean[gap.name] <= -share for gap in done]
        missed = [gap.above or min(mean[gap.name], *each[gap.name]) > -share for gap in done]
        return Verdict(True if all(held) else False if any(missed) else None, f"{_percent(mean, each)}. Paired: {said}")

    return Claim(text, source, judged)


def lower_by_amount(text: str, source: str, pairs: Pairs, column: str, amount: float) -> Claim:
    """In most pairs the second row is surely below the first, and by more than an amount."""

    def judged(found: Found) -> Verdict:
        done, said = _differences(found, pairs, column)
        return Verdict(sum(gap.below and gap.mean < -amount for gap in done) > len(done) / 2, said)

    return Claim(text, source, judged)


def no_gain(text: str, source: str, pairs: Pairs, column: str, share: float) -> Claim:
    """In no pair, and with no seed, is the second row lower than the first by a share of it.

    Not so where with every seed of a pair it is; where seeds differ it is not decided.
    """

    def judged(found: Found) -> Verdict:
        mean, each = _changes(found, pairs, column)
        _, said = _differences(found, pairs, column)
        none = all(change > -share for every in each.values() for change in every)
        lower = any(all(change <= -share for change in every) for every in each.values())
        return Verdict(True if none else False if lower else None, f"{_percent(mean, each)}. Paired: {said}")

    return Claim(text, source, judged)


def equal(text: str, source: str, pairs: Pairs, column: str) -> Claim:
    """In every pair the two rows' means are the same to within rounding."""

    def judged(found: Found) -> Verdict:
        gaps = {n: abs(found.value(b, column) / found.value(a, column) - 1) for n, (a, b) in pairs.items()}
        worst = max(gaps, key=lambda name: gaps[name])
        return Verdict(
            all(gap < 1e-3 for gap in gaps.values()),
            f"The largest relative difference is {gaps[worst]:.1e} ({worst}), of {len(gaps)} pairs.",
        )

    return Claim(text, source, judged)


def between(text: str, source: str, rows: Mapping[str, tuple[str, float, float]], column: str) -> Claim:
    """Every row's mean lies between two numbers."""

    def judged(found: Found) -> Verdict:
        values = {name: found.value(row, column) for name, (row, _, _) in rows.items()}
        inside = all(rows[name][1] <= value <= rows[name][2] for name, value in values.items())
        return Verdict(inside, "; ".join(f"{name}: {value:.3g}" for name, value in values.items()) + ".")

    return Claim(text, source, judged)


def lower_by_value(text: str, source: str, first: str, second: str, column: str) -> Claim:
    """The second row's value is below the first's with every seed, where there are no tasks to pair over."""

    def judged(found: Found) -> Verdict:
        one, two = found.each_seed(first, column), found.each_seed(second, column)
        # Of a run that was stopped, one row may have more seeds than the other.
        below = all(b < a for a, b in zip(one, two, strict=False))
        return Verdict(below, f"By seed: {first} {shares(one)}; {second} {shares(two)}.")

    return Claim(text, source, judged)


def shares(values: Sequence[float]) -> str:
    """Numbers one after the other, as a sentence has them."""
    return ", ".join(f"{value:.3g}" for value in values)


def _every_below(done: Sequence[Gap]) -> bool | None:
    if all(gap.below for gap in done):
        return True
    return False if any(gap.above for gap in done) else None


def _differences(found: Found, pairs: Pairs, column: str) -> tuple[list[Gap], str]:
    """Of each pair the difference; and all of it in a sentence.

    Where one of the two diverged on some tasks the pair is over the others, which favours it, so it is told, and
    nothing is sure.
    """
    done, words = [], []
    label = {row.name: row.label for row in found.item.rows}
    for name, (first, second) in pairs.items():
        sure, gap = found.surely(first, second, column)
        if not np.isfinite(gap.mean):
            raise Missing(f"{first} and {second} have no task on which both are finite.")
        whole = gap.finite == gap.tasks
        done.append(Gap(name, gap.mean, sure < 0, sure > 0))
        lost = "" if whole else f" ({gap.tasks - gap.finite} of {gap.tasks} tasks diverged)"
        words.append(f"{name}: {label[second]} - {label[first]} = {gap.mean:+.3g} ± {gap.interval:.2g}{lost}")
    return done, "; ".join(words) + "."


def _changes(found: Found, pairs: Pairs, column: str) -> tuple[dict[str, float], dict[str, list[float]]]:
    """How much lower or higher the second row of each pair is, as a share of the first: in the mean, and by seed."""
    mean = {name: found.value(b, column) / found.value(a, column) - 1 for name, (a, b) in pairs.items()}
    each = {
        name: [two / one - 1 for one, two in zip(found.each_seed(a, column), found.each_seed(b, column), strict=False)]
        for name, (a, b) in pairs.items()
    }
    return mean, each


def _percent(mean: Mapping[str, float], each: Mapping[str, Sequence[float]]) -> str:
    def seeds(name: str) -> str:
        every = each[name]
        return f" (by seed {', '.join(f'{100 * one:+.0f}' for one in every)})" if len(every) > 1 else ""

    return "; ".join(f"{name}: {100 * value:+.1f}%{seeds(name)}" for name, value in mean.items())


def _listed(share: Mapping[str, float]) -> str:
    return ", ".join(f"{100 * value:.0f}% ({name})" for name, value in share.items())
