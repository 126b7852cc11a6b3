"""Student's t: how far a mean of few numbers may be from what it estimates."""

from functools import cache
from math import cos, pi, sin, sqrt, tan

import numpy as np


@cache
def student(confidence: float, freedom: int) -> float:
    """The t such that Student's distribution lies between -t and t with this confidence (26.7.3 and 26.7.4 of AS).

    >>> [round(student(0.95, freedom), 3) for freedom in (1, 2, 9, 599)]
    [12.706, 4.303, 2.262, 1.964]
    """
    low, high = 0.0, pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _between(middle, freedom) < confidence else (low, middle)
    return tan(low) * sqrt(freedom)


def _between(angle: float, freedom: int) -> float:
    """Student's probability of lying between -t and t, where t is the tangent of an angle times the root of freedom."""
    odd = freedom % 2
    k = np.arange(2 + odd, freedom - 1, 2)
    total = 1 + float(np.cumprod((k - 1) / k * cos(angle) ** 2).sum())
    if not odd:
        return sin(angle) * total
    return 2 / pi * (angle + (sin(angle) * cos(angle) * total if freedom > 1 else 0.0))
