"""What an evaluation leaves in a run: a summary, and the arrays behind it."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quickstudy.errors import RunError
from quickstudy.storage.files import check_format, read_json

if TYPE_CHECKING:
    pass


WAYS_SHOWN, SHOTS_SHOWN, QUERIES_SHOWN = 10, 5, 8
"""At most, of a task of images: classes, and support and query images of each. More could not be read."""


NO_ANSWER = int(np.iinfo(np.int64).min)
"""Stands for the predicted class where the output held NaN. No data have it as a label."""


Array = NDArray[Any]


def is_images(shape: Sequence[int]) -> bool:
    """Whether one input can be shown as an image, grey or in colour: `(1 or 3, height, width)`."""
    return len(shape) == 3 and shape[0] in (1, 3)


class Result(NamedTuple):
    """An evaluation: its summary, and the arrays (per task, and one example task) behind it."""

    summary: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def read_result(table: Path) -> Result:
    summary = read_json(table)
    check_format(summary.get("format"), table)
    data = table.with_suffix(".npz")
    try:
        # Opened here: np.load leaves a file it cannot make sense of open.
        with data.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    # What zipfile and NumPy raise depends on which byte is wrong.
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(
            f"{data} is missing or damaged ({error}). Evaluate again, or delete {table.name} to go on without it."
        ) from error
    return Result(summary, arrays)
