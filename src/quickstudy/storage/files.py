"""Files written so that a kill at any instant leaves them whole, and JSON that holds what losses can become.

A file that replaces another is first written in full beside it, brought to the disk, and then renamed, so a name holds
the old bytes or the new ones.

JSON has no NaN, yet losses do: non-finite floats are written as the strings "nan", "inf" and "-inf", and those three
strings are read back as floats.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout
from torch import Tensor

from quickstudy.errors import InputError, RunError

FILE_FORMAT = 1
"""Of every file in a run. It goes up when a reader of the present one would misread."""

_NON_FINITE = ("nan", "inf", "-inf")


def write_atomic(path: Path, data: bytes) -> None:
    """`path` holds its old bytes or all of the new ones, whenever the process or the machine stops."""
    staged = write_beside(path, data)
    try:
        os.replace(staged, path)
    except OSError:
        staged.unlink()
        raise
    sync_folder(path.parent)


def write_beside(path: Path, data: bytes) -> Path:
    """The data on disk, under a temporary name in the same directory: renaming within one is atomic."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with staged.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return staged


def sync_folder(folder: Path) -> None:
    """Bring a rename to the disk. Windows cannot open a directory, and needs no such call."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_stale(folder: Path) -> None:
    """Clear what writers killed in between have left."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def explain_disk_errors(path: Path, advice: str) -> Iterator[None]:
    """A failure of the disk becomes an error that names the file and what to do."""
    try:
        yield
    except Timeout:  # of the lock: an OSError that is no failure to write
        raise
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}. {advice}") from error


def check_format(value: Any, path: Path) -> None:
    """Refuse a file of a later version, or of somebody else."""
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{path} has no `format` number, so it is not quickstudy's. Give the path of a run.")
    if value > FILE_FORMAT:
        raise InputError(
            f"{path} has format {value}; this quickstudy reads up to {FILE_FORMAT}. "
            "Update it (`pip install --upgrade quickstudy`), or use the version named in versions.json."
        )


def to_plain(value: Any) -> Any:
    """JSON's own types only; scalars and arrays of NumPy and torch become numbers and lists."""
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return to_plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def to_plain_or_text(value: Any) -> Any:
    """What JSON can hold of a value from outside; the rest as its words."""
    return json.loads(json.dumps(value, default=str))


def restore_floats(value: Any) -> Any:
    """The inverse of `to_plain`, as far as non-finite floats go."""
    if isinstance(value, dict):
        return {key: restore_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [restore_floats(item) for item in value]
    return float(value) if isinstance(value, str) and value in _NON_FINITE else value


def dumps(value: Any) -> str:
    """JSON on one line.

    >>> dumps({"loss": float("nan"), "hidden": (40, 40)})
    '{"loss": "nan", "hidden": [40, 40]}'
    """
    return json.dumps(to_plain(value), allow_nan=False, ensure_ascii=False)


def dump_pretty(value: Any) -> bytes:
    """JSON for people, as a file's bytes."""
    return (json.dumps(to_plain(value), allow_nan=False, ensure_ascii=False, indent=2) + "\n").encode()


def loads(text: str | bytes) -> Any:
    """What `dumps` wrote."""
    return restore_floats(json.loads(text))


def read_json(path: Path) -> dict[str, Any]:
    """A file of named values."""
    try:
        value = loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}. It was changed or damaged.") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} should hold values by name and does not. It was changed or damaged.")
    return value
