"""What HyperMAML's paper says of its tables and figures, judged from what was found.

A difference within its interval decides nothing: neither that a claim holds nor that it does not.
"""

from collections.abc import Callable, Sequence

import numpy as np

from quickstudy.evaluation.metrics import Spread
from quickstudy.papers.runner.items import Claim, Found, Missing, Verdict, all_hold

Judge = Callable[[Found], Verdict]


def gap(found: Found, first: str, second: str, column: str) -> tuple[int, str]:
    """Whether the second is surely above the first (1), below (-1) or neither (0), and by how much."""
    _whole(found, first, second, column)
    sign, over = found.surely(first, second, column)
    return sign, f"{over.mean:+.2f} ± {over.interval:.2f}"


def _whole(found: Found, first: str, second: str, column: str) -> Spread:
    """The paired difference, over all tasks: those that did not diverge are no comparison."""
    over = found.paired(first, second, column)
    if over.finite < over.tasks:
        raise Missing(f"{first} or {second} diverged on {over.tasks - over.finite} of {over.tasks} tasks.")
    return over


def above(first: str, second: str, column: str, meaning: str) -> Judge:
    """That the second is above the first, beyond the interval of the paired difference."""

    def judged(found: Found) -> Verdict:
        sign, said = gap(found, first, second, column)
        return Verdict(_is(sign, 1), f"{meaning}: {said} points, paired on the same tasks.")

    return judged


def _over_columns(found: Found, pairs: Sequence[tuple[str, str, str]]) -> tuple[list[int | None], str]:
    """Signs of the differences, None of those that could not be taken, and all of them in words."""
    signs: list[int | None] = []
    said = []
    labels = {row.name: row.label for row in found.item.rows}
    for first, second, column in pairs:
        try:
            sign, words = gap(found, first, second, column)
        except Missing as missing:
            signs.append(None)
            said.append(f"{column}: {str(missing).rstrip('.')}")
            continue
        signs.append(sign)
        said.append(f"{column}, {labels[second]} minus {labels[first]} {words}")
    if all(sign is None for sign in signs):
        raise Missing("No column has both methods.")
    return signs, "; ".join(said)


def _is(sign: int | None, wanted: int) -> bool | None:
    """Whether a difference has a sign; not known where it is within its interval, or could not be taken."""
    return sign == wanted if sign else None


def mostly_above(pairs: Sequence[tuple[str, str, str]]) -> Judge:
    """That the second is above the first in more than half of the columns."""

    def judged(found: Found) -> Verdict:
        signs, said = _over_columns(found, pairs)
        yes, open_ = (2 * sum(_is(sign, 1) in kind for sign in signs) for kind in ((True,), (True, None)))
        held = True if yes > len(signs) else None if open_ > len(signs) else False
        return Verdict(held, f"Paired differences in points: {said}.")

    return judged


def never_below(pairs: Sequence[tuple[str, str, str]]) -> Judge:
    """That the second is below the first in no column."""

    def judged(found: Found) -> Verdict:
        signs, said = _over_columns(found, pairs)
        held = all_hold([None if sign is None else sign >= 0 for sign in signs])
        return Verdict(held, f"Paired differences in points: {said}.")

    return judged


def below(pairs: Sequence[tuple[str, str, str]]) -> Judge:
    """That the second is below the first in every column."""

    def judged(found: Found) -> Verdict:
        signs, said = _over_columns(found, pairs)
        return Verdict(all_hold([_is(sign, -1) for sign in signs]), f"Paired differences in points: {said}.")

    return judged


def all_above(pairs: Sequence[tuple[str, str, str]]) -> Judge:
    """That the second is above the first in every column."""

    def judged(found: Found) -> Verdict:
        signs, said = _over_columns(found, pairs)
        return Verdict(all_hold([_is(sign, 1) for sign in signs]), f"Paired differences in points: {said}.")

    return judged


def little_below(pairs: Sequence[tuple[str, str, str]], margin: float) -> Judge:
    """That the second is in every column at most so many points below the first, interval included."""

    def judged(found: Found) -> Verdict:
        held: list[bool | None] = []
        for first, second, column in pairs:
            over = _whole(found, first, second, column)
            low, high = over.mean - over.interval, over.mean + over.interval
            held.append(True if low >= -margin else False if high < -margin else None)
        return Verdict(all_hold(held), f"Paired differences in points: {_over_columns(found, pairs)[1]}.")

    return judged


def norm_ratio(least: float, printed: tuple[float, float]) -> Judge:
    """That HyperMAML's update is so many times MAML's, weight and bias."""

    def judged(found: Found) -> Verdict:
        ratios = [found.value("hypermaml", of) / found.value("maml", of) for of in ("weight", "bias")]
        return Verdict(
            all(ratio > least for ratio in ratios),
            f"HyperMAML's update over MAML's: weight {ratios[0]:.1f} (the paper's numbers: {printed[0]:.1f}), bias "
            f"{ratios[1]:.1f} ({printed[1]:.1f}).",
        )

    return judged


def linear_time(prefix: str, steps: Sequence[int], column: str) -> Judge:
    """That a straight line of time over steps leaves less than 2% of the variance."""

    def judged(found: Found) -> Verdict:
        times = np.array([found.value(f"{prefix}-{k}", column) for k in steps])
        slope, start = np.polyfit(steps, times, 1)
        rest = 1 - np.var(times - slope * np.array(steps) - start) / np.var(times)
        return Verdict(
            bool(slope > 0 and rest > 0.98),
            f"{start:.2f} + {slope:.3f} k seconds for k steps; the line explains {100 * rest:.1f}% of the variance.",
        )

    return judged


def two_steps(prefix: str, steps: Sequence[int], column: str, own: str, printed: tuple[float, float, float]) -> Judge:
    """That HyperMAML takes at most about the time of two MAML steps: 15% more, as the paper's own numbers do."""

    def judged(found: Found) -> Verdict:
        times = [found.value(f"{prefix}-{k}", column) for k in steps]
        here, two = found.value(own, column), found.value(f"{prefix}-2", column)
        equal = float(np.interp(here, times, steps))
        zero, second, theirs = printed
        return Verdict(
            here <= 1.15 * two,
            f"HyperMAML {here:.2f} s, MAML with two steps {two:.2f} s, without any {times[0]:.2f} s: {here / two:.2f} "
            f"times two steps (paper {theirs / second:.2f}), {here / times[0]:.2f} times none (paper "
            f"{theirs / zero:.2f}), the time of MAML with {equal:.1f} steps.",
        )

    return judged


def one_pass(own: str, column: str, most: float = 1.5) -> Judge:
    """That emitting costs about one forward pass over the support set."""

    def judged(found: Found) -> Verdict:
        passes = found.value(own, column)
        return Verdict(passes <= most, f"Adapting costs {passes:.2f} forward passes over the support set (median).")

    return judged


def never_matched(prefix: str, steps: Sequence[int], column: str, own: str) -> Judge:
    """That HyperMAML is above MAML whatever the number of its steps."""

    def judged(found: Found) -> Verdict:
        every = {k: gap(found, f"{prefix}-{k}", own, column) for k in steps}
        level, misses = ([k for k, (sign, _) in every.items() if sign == of] for of in (0, -1))
        best = max(steps, key=lambda k: found.value(f"{prefix}-{k}", column))
        said = f"HyperMAML minus MAML at its best, {best} steps: {every[best][1]} points."
        at = {"Within the interval of": level, "Below": misses}
        told = "".join(f" {how} MAML with {', '.join(map(str, these))} steps." for how, these in at.items() if these)
        return Verdict(all_hold([_is(sign, 1) for sign, _ in every.values()]), said + told)

    return judged


def both_help(rates: str, plain: str, enhanced: str, switched: str, both: str) -> tuple[Claim, ...]:
    """Table 5's claims for one choice of outer rates."""
    single = [("enhancement alone", plain, enhanced), ("switch alone", plain, switched)]
    last = [("both over enhancement", enhanced, both), ("both over switch", switched, both)]

    def judge(of: Sequence[tuple[str, str, str]]) -> Judge:
        def judged(found: Found) -> Verdict:
            every = [(name, *gap(found, first, second, "accuracy")) for name, first, second in of]
            said = "; ".join(f"{name} {words}" for name, _, words in every)
            return Verdict(all_hold([_is(sign, 1) for _, sign, _ in every]), f"Paired differences in points: {said}.")

        return judged

    return (
        Claim(f"With {rates}, each mechanism alone improves HyperMAML.", "appendix B", judge(single)),
        Claim(f"With {rates}, both together are best.", "appendix B", judge(last)),
    )


def rate_explains(plain: str, same: str, switched: str) -> Judge:
    """That the switch helps at equal rates; and how much of its advantage in table 5 the rate alone brings."""

    def judged(found: Found) -> Verdict:
        total, by_rate = (_whole(found, plain, name, "accuracy") for name in (switched, same))
        rest, said = gap(found, same, switched, "accuracy")
        return Verdict(
            _is(rest, 1),
            f"Switch at the paper's two rates: {total.mean:+.2f} ± {total.interval:.2f} points; the larger rate "
            f"without the switch: {by_rate.mean:+.2f} ± {by_rate.interval:.2f}; the switch at equal rates: {said}.",
        )

    return judged


def same(first: str, second: str, column: str, meaning: str, margin: float = 1.0) -> Judge:
    """That two rows differ by no more than a margin, interval included."""

    def judged(found: Found) -> Verdict:
        over = _whole(found, first, second, column)
        low, high = over.mean - over.interval, over.mean + over.interval
        held = True if -margin <= low and high <= margin else False if low > margin or high < -margin else None
        return Verdict(held, f"{meaning}: {over.mean:+.2f} ± {over.interval:.2f} points, paired on the same tasks.")

    return judged


def solves(row: str, column: str, least: float) -> Judge:
    """That every seed reaches a percentage; not decided where some do."""

    def judged(found: Found) -> Verdict:
        every = found.each_seed(row, column)
        there = sum(one >= least for one in every)
        return Verdict(
            None if 0 < there < len(every) else there > 0,
            f"{found.value(row, column):.1f}%, asked for {least:g}% or more: with {there} of {len(every)} seeds "
            f"({', '.join(f'{one:.1f}' for one in every)}).",
        )

    return judged


def fails(row: str, column: str, most: float) -> Judge:
    """That every seed stays under a percentage; not decided where some do."""

    def judged(found: Found) -> Verdict:
        every = found.each_seed(row, column)
        there = sum(one < most for one in every)
        return Verdict(
            None if 0 < there < len(every) else there > 0,
            f"{found.value(row, column):.1f}%; a failure is under {most:g}%: with {there} of {len(every)} seeds "
            f"({', '.join(f'{one:.1f}' for one in every)}).",
        )

    return judged
