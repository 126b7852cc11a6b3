"""The shapes of what a run's files hold besides tensors and arrays. What has another shape was changed or damaged.

Each `check_` function returns what it was given, or raises a ValueError of one line.
"""

from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, NonNegativeInt, ValidationError

Number = float | None


def _as_array(value: Any) -> Any:
    np.asarray(value, dtype=float)  # refuses texts, and lists of unequal lengths
    return value


class Row(BaseModel, extra="allow", strict=True):
    """A row of the metrics, of any kind."""

    step: NonNegativeInt = 0


class TrainRow(Row):
    """Means since the row before."""

    loss: Number = None
    metric: Number = None
    lr: Number = None
    seconds: Number = None


class ValidationRow(Row):
    """A validation: how many of its tasks have a finite metric, and the mean over these."""

    step: NonNegativeInt
    loss: Number = None
    metric: float
    interval: float
    finite: NonNegativeInt
    tasks: NonNegativeInt
    name: str = "metric"


class ProbeRow(Row):
    """A quantity that the user asked for: a number, or lists of numbers."""

    step: NonNegativeInt
    name: str
    value: Annotated[Any, AfterValidator(_as_array)]


class Summary(BaseModel, extra="allow", strict=True):
    """The summary of a result."""

    mean: Number = None
    interval: Number = None
    adapt_ms: Number = None
    train_seconds: Number = None
    tasks: NonNegativeInt | None = None
    finite: NonNegativeInt | None = None
    parameters: NonNegativeInt | None = None


class State(BaseModel, extra="allow", strict=True):
    """The plain values in a checkpoint."""

    step: NonNegativeInt = 0
    tasks: dict[str, Any] = {}


ROWS: dict[Any, type[Row]] = {"train": TrainRow, "val": ValidationRow, "probe": ProbeRow}


def check_row(row: Any) -> dict[str, Any]:
    """Check a row of the metrics."""
    kind = row.get("kind") if isinstance(row, dict) else None
    return check_shape(row, ROWS.get(kind, Row) if isinstance(kind, str) else Row)


def check_summary(summary: Any) -> dict[str, Any]:
    """Check the summary of a result."""
    return check_shape(summary, Summary)


def check_state(state: Any) -> dict[str, Any]:
    """Check the plain values of a checkpoint."""
    return check_shape(state, State)


def check_shape(value: Any, model: type[BaseModel]) -> dict[str, Any]:
    """Check plain values against a model of them."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
    held: dict[str, Any] = value
    return held


def first_fault(error: ValidationError) -> str:
    """What pydantic found first, in a few words."""
    fault = error.errors()[0]
    place = ".".join(map(str, fault["loc"]))
    return f"{place}: {fault['msg']}" if place else fault["msg"]
