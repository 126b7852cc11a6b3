"""What Wormhole MAML's figures are to show, where it is not a number within bounds."""

from math import isfinite

import numpy as np

from quickstudy.papers.runner.claims import ClaimPart, keep_inside
from quickstudy.papers.runner.found import Found
from quickstudy.papers.wormhole.figures import HOW


def surgery_leaves_little(found: Found, *, rows: list[str], column: str, least: float) -> ClaimPart:
    """Adding up after surgery leaves less than `least` of the gradients, and the gain more than twice of that.

    It must be so at all stages of training, or at none.
    """
    left = {row: [found.value(row, column.replace("surgery", way)) for way in HOW] for row in rows}
    holds = {surgery < least and gain > 2 * surgery for _, surgery, gain in left.values()}
    words = "; ".join(f"{found.item.label(row)}: {join_numbers(shares)}" for row, shares in left.items())
    return holds.pop() if len(holds) == 1 else None, f"Left without the gain, after surgery and with the gain. {words}"


def between_the_optima(found: Found, *, vanilla: str, gain: str, column: str) -> ClaimPart:
    """Without the gain theta ends near 0, between the tasks' optima; with it theta ends near one of them."""
    stars = found.first(vanilla, column).arrays["stars"]
    size = float(np.linalg.norm(stars[0]))
    plain, own = found.first(vanilla, column).more["size"], found.first(gain, column).more["from a task's own"]
    words = f"The tasks' optima are {size:.2f} from 0. Vanilla's theta ends {plain:.2f} from 0, Wormhole's {own:.2f} "
    return plain < 0.2 * size and own < 0.5 * size, f"{words}from one of them"


def shrinks(found: Found, *, row: str, column: str, below: float) -> ClaimPart:
    """With every seed the mean of the norm over the last third of training is less than a share of the first."""
    starts = [one.more["start"] for one in found.all(row, column)]
    late = []
    for seed in range(len(starts)):
        norms = np.linalg.norm(found.probed(row, "head.head.*", seed)[1], axis=1)
        late.append(float(norms[min(-(-2 * len(norms) // 3), len(norms) - 1) :].mean()))
    holds = all(end < below * start for end, start in zip(late, starts, strict=True))
    return holds, f"{column}, by seed: {join_numbers(starts)} at the start, {join_numbers(late)} over the last third"


def bump(found: Found, *, row: str, column: str) -> ClaimPart:
    """With every seed w is mostly of one sign, and in [-.4, .8] or [-.8, .4], to .1."""
    weights = [one.arrays["weights"] for one in found.all(row, column)]
    reach = [sorted((float(-w.min()), float(w.max()))) for w in weights]
    holds = all(large > 1.5 * small and large < 0.9 and small < 0.5 for small, large in reach)
    return holds, "By seed w ranges in " + ", ".join(f"[{w.min():.2f}, {w.max():.2f}]" for w in weights)


def near_the_exact_c(found: Found, *, column: str, below: float) -> ClaimPart:
    """A formula's c is near the exact one in every condition where that is finite; open where it is in none."""
    rows = [row.name for row in found.item.rows if column in row.cells]
    away = [found.first(row, column).more["from exact"] for row in rows]
    finite = [one for one in away if isfinite(one)]
    words = f"Relative distance from the exact c*, {column}, where that is finite: {join_numbers(finite)}"
    return keep_inside(finite, "worst", below=below) if finite else None, words


def join_numbers(values: list[float]) -> str:
    """Numbers one after the other."""
    return ", ".join(f"{value:.3g}" for value in values)
