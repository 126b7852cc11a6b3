"""A number that was found with several seeds, its interval over tasks and seeds, and what that interval decides.

Two chances are in a number: which tasks were drawn, and how the trainings went. Their variances add up. Both
intervals are Student's; several comparisons widen the one over tasks, of which there are many, as a normal one.

- A verdict takes three seeds; five where their own numbers would give different verdicts.
- A number keeps within bounds where its whole interval does, and breaks them where its whole interval is outside.
  Between it is open.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, log, sqrt
from statistics import NormalDist

import numpy as np

from quickstudy.evaluation.student import student

SEEDS = 3
"""Trainings that a verdict takes."""
DIFFERING_SEEDS = 5
"""Trainings that it takes where their own numbers would give different verdicts."""

MOST_SEEDS = 100
"""More than these are not advised."""

Real = float | int


@dataclass(frozen=True)
class Bounds:
    """What a number is to keep within."""

    above: Real = -inf
    at_least: Real = -inf
    below: Real = inf
    at_most: Real = inf

    def hold(self, number: float) -> bool:
        """Whether a number keeps within them; NaN keeps within none."""
        strict = (self.above < number or self.above == -inf) and (number < self.below or self.below == inf)
        return bool(strict and self.at_least <= number <= self.at_most)

    def excluded(self, low: float, high: float) -> bool:
        """Whether no number between two others keeps within them."""
        return bool(high < self.at_least or low > self.at_most or high <= self.above or low >= self.below)

    def in_logarithms(self) -> "Bounds":
        """The same for logarithms of positive numbers."""
        ends = (self.above, self.at_least, self.below, self.at_most)
        return Bounds(*(log(end) if 0 < end < inf else end if end == inf else -inf for end in ends))


@dataclass(frozen=True)
class Estimate:
    """A number by seed, and half of the 95% interval over tasks of its mean; 0 where there are no tasks.

    `comparisons` widens the interval so that it is 95% over so many of its kind (Bonferroni).
    """

    seeds: tuple[float, ...]
    tasks: float = 0.0
    comparisons: int = 1

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.seeds))

    @property
    def half(self) -> float:
        """Half of the interval over tasks and seeds; of one seed, over tasks. NaN where a number is not finite."""
        n = len(self.seeds)
        if not isfinite(self.mean):
            return float("nan")
        confidence = 1 - 0.05 / self.comparisons
        over_tasks = self.tasks * NormalDist().inv_cdf((1 + confidence) / 2) / NormalDist().inv_cdf(0.975)
        over_seeds = student(confidence, n - 1) * float(np.std(self.seeds, ddof=1)) / sqrt(n) if n > 1 else 0.0
        return float(np.hypot(over_tasks, over_seeds))

    def keeps(self, bounds: Bounds) -> bool | None:
        """Whether it keeps within bounds; None where that is open."""
        if len(self.seeds) < SEEDS:
            return None
        if not isfinite(self.mean):  # a row that diverged: the worst there is, which needs no interval
            return bounds.hold(self.mean)
        low, high = self.mean - self.half, self.mean + self.half
        holds = True if bounds.hold(low) and bounds.hold(high) else False if bounds.excluded(low, high) else None
        differ = len({bounds.hold(one) for one in self.seeds}) > 1
        return None if differ and len(self.seeds) < DIFFERING_SEEDS else holds

    def lacks(self, bounds: Bounds) -> str:
        """What an open verdict would take, in words; nothing where there is a verdict."""
        if self.keeps(bounds) is not None:
            return ""
        n = len(self.seeds)
        if n < SEEDS:
            return "three seeds are needed"
        ends = [float(end) for end in (bounds.above, bounds.at_least, bounds.below, bounds.at_most) if isfinite(end)]
        away = min(abs(self.mean - end) for end in ends)
        if away <= replace(self, seeds=(self.mean,)).half:
            return "more test tasks are needed"
        spread = float(np.std(self.seeds, ddof=1))
        for more in range(max(n + 1, DIFFERING_SEEDS), MOST_SEEDS):
            over_seeds = student(1 - 0.05 / self.comparisons, more - 1) * spread / sqrt(more)
            if np.hypot(replace(self, seeds=(self.mean,)).half, over_seeds) < away:
                return f"about {more} seeds are needed"
        return f"{MOST_SEEDS} seeds would not do"

    def format(self, number: str = ".3g") -> str:
        """The mean with its interval.

        >>> Estimate((1.0, 1.1, 0.9)).format(), Estimate((2.0,)).format("+.3g")
        ('1 ± 0.25', '+2')
        """
        half = f" ± {self.half:.2g}" if self.half > 0 and isfinite(self.half) else ""
        return f"{self.mean:{number}}{half}"


def seeds_hold(held: Sequence[bool]) -> bool | None:
    """Whether what each seed shows holds: all or none of three, or clearly more or less than half of five.

    >>> seeds_hold([True] * 3), seeds_hold([True, True, False]), seeds_hold([True] * 2)
    (True, None, None)
    >>> seeds_hold([True] * 9 + [False])
    True
    """
    n, k = len(held), sum(held)
    if n < SEEDS:
        return None
    if k in (0, n):
        return k == n
    if n < DIFFERING_SEEDS:
        return None
    z = NormalDist().inv_cdf(0.975)  # Wilson's interval of a share
    middle, reach = (k + z * z / 2) / (n + z * z), z * sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return True if middle - reach > 0.5 else False if middle + reach < 0.5 else None
