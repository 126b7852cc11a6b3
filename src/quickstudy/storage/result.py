"""The result of an evaluation, as it is stored in a run: a summary, and the arrays behind it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quickstudy.errors import RunError
from quickstudy.storage.arrays import read_arrays
from quickstudy.storage.files import check_format, read_json
from quickstudy.storage.records import check_summary

WAYS_SHOWN, SHOTS_SHOWN, QUERIES_SHOWN = 10, 5, 8
"""How much of an image task is stored and drawn at most: classes, and support and query images of each class."""

NO_ANSWER = int(np.iinfo(np.int64).min)
"""The predicted class where the output was NaN. No data set has this label."""

INTERVAL = "95% interval over tasks"
"""What ± is beside a result of one list of tasks."""

Array = NDArray[Any]
"""A NumPy array of any type."""


def is_images(shape: Sequence[int]) -> bool:
    """Whether one input can be shown as an image, grey or in colour: `(1 or 3, height, width)`."""
    return len(shape) == 3 and shape[0] in (1, 3)


class EvaluationResult(NamedTuple):
    """An evaluation: its summary, and the arrays behind it (one value per task, and one example task)."""

    summary: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def read_result(table: Path, check: Callable[[Any], dict[str, Any]] = check_summary) -> EvaluationResult:
    """Read a result from its summary `<name>.json`, which is checked, and the arrays beside it, `<name>.npz`."""
    summary = read_json(table)
    check_format(summary.get("format"), table)
    data = table.with_suffix(".npz")
    try:
        return EvaluationResult(check(summary), read_arrays(data))
    except ValueError as error:
        raise RunError(
            f"{table} or {data.name} is missing or damaged ({error}). Evaluate again, or delete {table.name} to go on "
            "without it."
        ) from error
