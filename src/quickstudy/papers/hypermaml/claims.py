"""What HyperMAML's tables are to show, where it is not a number within bounds."""

from fnmatch import fnmatchcase

import numpy as np

from quickstudy.papers.runner.claims import ClaimPart
from quickstudy.papers.runner.estimate import seeds_hold
from quickstudy.papers.runner.figures import number_in
from quickstudy.papers.runner.found import Found


def time_is_linear(found: Found, *, rows: str, column: str, above: float) -> ClaimPart:
    """Time rises with the steps, and a straight line explains more than a share of its variance; seed by seed."""
    names = [row.name for row in found.item.rows if fnmatchcase(row.name, rows)]
    steps = np.array([number_in(name) for name in names])
    held, words = [], []
    for times in zip(*(found.each_seed(name, column) for name in names), strict=False):
        slope, start = np.polyfit(steps, times, 1)
        explained = 1 - np.var(times - slope * steps - start) / np.var(times)
        held.append(bool(slope > 0 and explained > above))
        words.append(f"{start:.2f} + {slope:.3f} k, {100 * explained:.1f}% of the variance")
    return seeds_hold(held), f"{column} for k steps by a straight line, by seed: {'; '.join(words)}"
