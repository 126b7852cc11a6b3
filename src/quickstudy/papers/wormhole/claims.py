"""What Wormhole MAML's figures are to show, where it is not a number within bounds: seed by seed."""

from math import isfinite

import numpy as np

from quickstudy.papers.runner.claims import ClaimPart
from quickstudy.papers.runner.estimate import seeds_hold
from quickstudy.papers.runner.found import Found
from quickstudy.papers.wormhole.figures import HOW


def surgery_leaves_little(found: Found, *, row: str, column: str, least: float) -> ClaimPart:
    """Adding up after surgery leaves less than `least` of the gradients, and the gain more than twice of that."""
    ways = [found.each_seed(row, column.replace("surgery", way)) for way in HOW]
    held = [surgery < least and gain > 2 * surgery for _, surgery, gain in zip(*ways, strict=True)]
    shares = "; ".join(join_numbers(way) for way in ways)
    return seeds_hold(held), f"Left without the gain, after surgery and with the gain, by seed: {shares}"


def between_the_optima(found: Found, *, vanilla: str, gain: str, column: str) -> ClaimPart:
    """Without the gain theta ends near 0, between the tasks' optima; with it theta ends near one of them."""
    size = float(np.linalg.norm(found.first(vanilla, column).arrays["stars"][0]))
    plain = [one.more["size"] for one in found.all(vanilla, column)]
    own = [one.more["from a task's own"] for one in found.all(gain, column)]
    held = [away < 0.2 * size and near < 0.5 * size for away, near in zip(plain, own, strict=False)]
    words = f"The tasks' optima are {size:.2f} from 0. By seed, vanilla's theta ends {join_numbers(plain)} from 0, "
    return seeds_hold(held), f"{words}Wormhole's {join_numbers(own)} from one of them"


def shrinks(found: Found, *, row: str, column: str, below: float) -> ClaimPart:
    """The mean of theta over the last third of training is shorter than a share of theta at the start.

    The mean of the vectors, not of their lengths: those do not fall below the noise of the outer steps.
    """
    starts = [one.more["start"] for one in found.all(row, column)]
    late = []
    for seed in range(len(starts)):
        thetas = found.probed(row, "head.head.*", seed)[1]
        last = thetas[min(-(-2 * len(thetas) // 3), len(thetas) - 1) :]
        late.append(float(np.linalg.norm(last.mean(0))))
    held = [end < below * start for end, start in zip(late, starts, strict=True)]
    words = f"{column}, by seed: {join_numbers(starts)} at the start, {join_numbers(late)} the mean of the last third"
    return seeds_hold(held), words


def bump(found: Found, *, row: str, column: str) -> ClaimPart:
    """W is mostly of one sign, and in [-.4, .8] or [-.8, .4], to .1."""
    weights = [one.arrays["weights"] for one in found.all(row, column)]
    reach = [sorted((float(-w.min()), float(w.max()))) for w in weights]
    held = [large > 1.5 * small and large < 0.9 and small < 0.5 for small, large in reach]
    ranges = ", ".join(f"[{w.min():.2f}, {w.max():.2f}]" for w in weights)
    return seeds_hold(held), f"{found.item.label(row)}: by seed w ranges in {ranges}"


def near_the_exact_c(found: Found, *, column: str, below: float) -> ClaimPart:
    """A formula's c is near the exact one in every condition where that is finite; open where it is in none."""
    rows = [row.name for row in found.item.rows if column in row.cells]
    away = [[one.more["from exact"] for one in found.all(row, column)] for row in rows]
    finite = [numbers for numbers in away if all(map(isfinite, numbers))]
    words = f"Relative distance from the exact c*, {column}, where that is finite: "
    words += join_numbers([float(np.mean(numbers)) for numbers in finite])
    worst = [max(numbers) for numbers in zip(*finite, strict=False)]
    return seeds_hold([one < below for one in worst]) if finite else None, words


def join_numbers(values: list[float]) -> str:
    """Numbers one after the other."""
    return ", ".join(f"{value:.3g}" for value in values)
