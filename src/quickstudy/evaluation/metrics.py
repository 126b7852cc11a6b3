"""Metrics of a task's query set, and their mean over tasks with a 95% interval.

The interval is over tasks, not over seeds: that of Student's t. With hundreds of tasks it is the usual one, 1.96
standard deviations of the tasks' values, divided by the square root of their number; with few tasks it is wider. Tasks
whose value is not finite have no part in the mean; they are counted and shown. One task alone has no interval.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.evaluation.student import student


def accuracy(output: Float[Tensor, "*t n ways"], y: Int[Tensor, "*t n"]) -> Float[Tensor, "*t"]:
    """The share of queries whose largest output is that of their class; NaN if any output of the task is NaN."""
    right = (output.argmax(-1) == y).to(output.dtype)
    return right.masked_fill(output.isnan().any(-1), float("nan")).mean(-1)


def binary_accuracy(output: Float[Tensor, "*t n 1"], y: Float[Tensor, "*t n 1"]) -> Float[Tensor, "*t"]:
    """The share of queries whose logit has the right sign."""
    right = ((output > 0) == (y > 0.5)).to(output.dtype)
    return right.masked_fill(output.isnan(), float("nan")).flatten(-2).mean(-1)


def mean_squared_error(output: Float[Tensor, "*t n out"], y: Float[Tensor, "*t n out"]) -> Float[Tensor, "*t"]:
    """The squared error of each task: the mean over queries and outputs."""
    return (output - y).square().flatten(-2).mean(-1)


def mean_absolute_error(output: Float[Tensor, "*t n out"], y: Float[Tensor, "*t n out"]) -> Float[Tensor, "*t"]:
    """The absolute error of each task: the mean over queries and outputs."""
    return (output - y).abs().flatten(-2).mean(-1)


@dataclass(frozen=True)
class Metric:
    """A metric.

    Args:
        name: Its name in configurations and results.
        measure: From outputs and targets, with or without a task axis, to one value for each task.
        larger_is_better: Whether a larger value is better.
        compatible_losses: The losses of the tasks whose targets it can read.
    """

    name: str
    measure: Callable[[Tensor, Tensor], Tensor]
    larger_is_better: bool
    compatible_losses: tuple[str, ...]


METRICS = {
    m.name: m
    for m in (
        Metric("accuracy", accuracy, True, ("cross_entropy",)),
        Metric("binary_accuracy", binary_accuracy, True, ("binary_cross_entropy",)),
        Metric("mse", mean_squared_error, False, ("mse", "binary_cross_entropy")),
        Metric("mae", mean_absolute_error, False, ("mse", "binary_cross_entropy")),
    )
}
METRIC_FOR_LOSS = {"cross_entropy": "accuracy", "binary_cross_entropy": "binary_accuracy", "mse": "mse"}
"""The usual metric for the loss of the tasks."""


def get_metric(name: str) -> Metric:
    """The metric of a name."""
    if name not in METRICS:
        raise InputError(f"There is no metric {name!r}. {suggest_nearest(name, METRICS)}")
    return METRICS[name]


@dataclass(frozen=True)
class Spread:
    """A mean over tasks.

    Args:
        mean: The mean over the tasks with a finite value.
        interval: The half-width of its 95% interval; NaN with fewer than two finite values.
        finite: The number of tasks with a finite value.
        tasks: The number of all tasks.
    """

    mean: float
    interval: float
    finite: int
    tasks: int

    @property
    def decides(self) -> bool:
        """Whether the mean can be held against its interval: there are two or more tasks, and none diverged."""
        return self.finite == self.tasks > 1

    @property
    def sign(self) -> int:
        """The sign of a mean that is beyond its interval, else 0."""
        return int(np.sign(self.mean)) if abs(self.mean) > self.interval else 0

    def format(self, mean: str = ".4g") -> str:
        """The mean in a format, with its interval if it has one.

        >>> Spread(0.5, 0.062, 9, 9).format("+.3g"), Spread(0.5, float("nan"), 1, 1).format()
        ('+0.5 ± 0.062', '0.5 (one task)')
        """
        if isfinite(self.interval):
            return f"{self.mean:{mean}} ± {self.interval:.2g}"
        return f"{self.mean:{mean}}" + (" (one task)" if self.finite == 1 else "")

    def __str__(self) -> str:
        diverged = self.tasks - self.finite
        return self.format() + (f" ({diverged} of {self.tasks} diverged)" if diverged else "")


def compute_spread(values: NDArray[np.floating]) -> Spread:
    """The mean of the tasks' values, with its interval.

    >>> print(compute_spread(np.array([1.0, 3.0, float("nan")])))
    2 ± 13 (1 of 3 diverged)
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    mean = float(finite.mean()) if len(finite) else float("nan")
    n = len(finite)
    interval = student(0.95, n - 1) * float(finite.std(ddof=1)) / sqrt(n) if n > 1 else float("nan")
    return Spread(mean, interval, n, len(values))
