"""What HyperMAML's tables are to show, where it is not a number within bounds."""

from fnmatch import fnmatchcase

import numpy as np

from quickstudy.papers.runner.claims import ClaimPart
from quickstudy.papers.runner.figures import number_in
from quickstudy.papers.runner.found import Found


def time_is_linear(found: Found, *, rows: str, column: str, above: float) -> ClaimPart:
    """Time rises with the steps, and a straight line explains more than a share of its variance."""
    names = [row.name for row in found.item.rows if fnmatchcase(row.name, rows)]
    steps, times = np.array([[number_in(name), found.value(name, column)] for name in names]).T
    slope, start = np.polyfit(steps, times, 1)
    explained = 1 - np.var(times - slope * steps - start) / np.var(times)
    words = f"{start:.2f} + {slope:.3f} k seconds for k steps; the line explains {100 * explained:.1f}% of the variance"
    return bool(slope > 0 and explained > above), words
