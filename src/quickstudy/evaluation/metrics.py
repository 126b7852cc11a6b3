"""What is measured on a task's query set, and how it is summed up over tasks.

Intervals are 95% over tasks, not over seeds: 1.96 standard deviations of the per-task values over the square root of
their number. Tasks whose value is not finite are counted and shown, never averaged away.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.errors import InputError, suggest_nearest

Z95 = 1.96


def accuracy(output: Float[Tensor, "*t n ways"], y: Int[Tensor, "*t n"]) -> Float[Tensor, "*t"]:
    """The share of queries whose largest output is their class; NaN outputs are no answer, so they give NaN."""
    right = (output.argmax(-1) == y).to(output.dtype)
    return right.masked_fill(output.isnan().any(-1), float("nan")).mean(-1)


def binary_accuracy(output: Float[Tensor, "*t n 1"], y: Float[Tensor, "*t n 1"]) -> Float[Tensor, "*t"]:
    """The share of queries whose logit has the right sign."""
    right = ((output > 0) == (y > 0.5)).to(output.dtype)
    return right.masked_fill(output.isnan(), float("nan")).flatten(-2).mean(-1)


def mse(output: Float[Tensor, "*t n out"], y: Float[Tensor, "*t n out"]) -> Float[Tensor, "*t"]:
    """The squared error, mean over queries and outputs."""
    return (output - y).square().flatten(-2).mean(-1)


def mae(output: Float[Tensor, "*t n out"], y: Float[Tensor, "*t n out"]) -> Float[Tensor, "*t"]:
    """The absolute error, mean over queries and outputs."""
    return (output - y).abs().flatten(-2).mean(-1)


@dataclass(frozen=True)
class Metric:
    """A named measure, whether larger is better, and the families' losses whose targets it can read."""

    name: str
    measure: Callable[[Tensor, Tensor], Tensor]
    larger_is_better: bool
    suits: tuple[str, ...]


METRICS = {
    m.name: m
    for m in (
        Metric("accuracy", accuracy, True, ("cross_entropy",)),
        Metric("binary_accuracy", binary_accuracy, True, ("binary_cross_entropy",)),
        Metric("mse", mse, False, ("mse", "binary_cross_entropy")),
        Metric("mae", mae, False, ("mse", "binary_cross_entropy")),
    )
}
FOR_LOSS = {"cross_entropy": "accuracy", "binary_cross_entropy": "binary_accuracy", "mse": "mse"}


def metric(name: str) -> Metric:
    """A metric by name."""
    if name not in METRICS:
        raise InputError(f"There is no metric {name!r}. {suggest_nearest(name, METRICS)}")
    return METRICS[name]


@dataclass(frozen=True)
class Spread:
    """A mean over tasks with its 95% half-width, and how many of the tasks it is over."""

    mean: float
    interval: float
    finite: int
    tasks: int

    def __str__(self) -> str:
        lost = self.tasks - self.finite
        return f"{self.mean:.4g} ± {self.interval:.2g}" + (f" ({lost} of {self.tasks} diverged)" if lost else "")


def spread(values: NDArray[np.floating]) -> Spread:
    """Mean and interval of per-task values.

    >>> print(spread(np.array([1.0, 3.0, float("nan")])))
    2 ± 1.4 (1 of 3 diverged)
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return Spread(float("nan"), float("nan"), 0, len(values))
    return Spread(float(finite.mean()), float(Z95 * finite.std() / len(finite) ** 0.5), len(finite), len(values))
