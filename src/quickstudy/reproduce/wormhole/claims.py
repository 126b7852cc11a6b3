"""How claims about Wormhole MAML are judged: by paired differences on identical tasks, with their 95% intervals."""

from collections.abc import Mapping, Sequence

import numpy as np

from quickstudy.reproduce.found import Found, Missing
from quickstudy.reproduce.items import Claim, Verdict

FLIPS = (0.05, 0.95)
"""A gain "can flip" where it was negative for a share of the tasks between these."""

Pairs = Mapping[str, tuple[str, str]]


def below(text: str, source: str, pairs: Pairs, column: str) -> Claim:
    """In every pair the second row is below the first, by more than the interval of the paired difference."""

    def judged(found: Found) -> Verdict:
        done, said = _differences(found, pairs, column)
        return Verdict(all(sure for sure, _, _ in done), said)

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
        return Verdict(all(sure for sure, _, _ in done), f"Where the gain flips: {said}{told}")

    return Claim(text, source, judged)


def lower_by(text: str, source: str, pairs: Pairs, column: str, share: float) -> Claim:
    """In every pair the second row is surely below the first, and its mean by at least a share of the first's."""

    def judged(found: Found) -> Verdict:
        change = {n: found.value(b, column) / found.value(a, column) - 1 for n, (a, b) in pairs.items()}
        done, said = _differences(found, pairs, column)
        lower = all(sure and change[name] <= -share for sure, name, _ in done)
        return Verdict(lower, f"{_percent(change)}. Paired: {said}")

    return Claim(text, source, judged)


def lower_by_amount(text: str, source: str, pairs: Pairs, column: str, amount: float) -> Claim:
    """In most of the pairs the second row is surely below the first, and by more than an amount."""

    def judged(found: Found) -> Verdict:
        done, said = _differences(found, pairs, column)
        return Verdict(sum(sure and gap < -amount for sure, _, gap in done) > len(done) / 2, said)

    return Claim(text, source, judged)


def no_gain(text: str, source: str, pairs: Pairs, column: str, share: float) -> Claim:
    """In no pair is the second row's mean lower than the first's by a share of it."""

    def judged(found: Found) -> Verdict:
        change = {n: found.value(b, column) / found.value(a, column) - 1 for n, (a, b) in pairs.items()}
        _, said = _differences(found, pairs, column)
        return Verdict(all(c > -share for c in change.values()), f"{_percent(change)}. Paired: {said}")

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


def _differences(found: Found, pairs: Pairs, column: str) -> tuple[list[tuple[bool, str, float]], str]:
    """Of each pair: whether the second is surely below, its name, the difference; and all of it in a sentence.

    Where one of the two diverged on some tasks the pair is over the others, which favours it, so it is told.
    """
    done, words = [], []
    for name, (first, second) in pairs.items():
        gap = found.paired(first, second, column)
        if not np.isfinite(gap.mean):
            raise Missing(f"{first} and {second} have no task on which both are finite.")
        done.append((gap.mean + gap.interval < 0 and gap.finite == gap.tasks, name, gap.mean))
        lost = f" ({gap.tasks - gap.finite} of {gap.tasks} tasks diverged)" if gap.finite < gap.tasks else ""
        words.append(f"{name}: {gap.mean:+.3g} ± {gap.interval:.2g}{lost}")
    return done, "; ".join(words) + "."


def _percent(change: Mapping[str, float]) -> str:
    return "; ".join(f"{name}: {100 * value:+.0f}%" for name, value in change.items())


def _listed(share: Mapping[str, float]) -> str:
    return ", ".join(f"{100 * value:.0f}% ({name})" for name, value in share.items())
