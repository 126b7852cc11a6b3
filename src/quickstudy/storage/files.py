"""Atomic files, which a kill at any instant leaves whole, and JSON that can hold NaN and infinity.

A file that replaces another is first written in full beside it, synced to the disk, and then renamed. So its name
always has either the old bytes or the new ones. This is written by hand because a result stages two files before either
is renamed, and because a run clears what a killed writer left.

JSON has no NaN, but losses have. Non-finite floats are written as the strings "nan", "inf" and "-inf", and these three
strings are read back as floats.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quickstudy.errors import InputError, RunError

FILE_FORMAT = 1
"""The format number in every file of a run. It rises when older code would misread newer files."""

_NON_FINITE = ("nan", "inf", "-inf")


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` so that it has its old bytes or all of the new ones, whenever the process or the machine stops."""
    staged = write_beside(path, data)
    try:
        os.replace(staged, path)
    except OSError:
        staged.unlink()
        raise
    sync_folder(path.parent)


def write_beside(path: Path, data: bytes) -> Path:
    """Write the data under a temporary name in the same directory, because a rename within a directory is atomic."""
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
    """Sync a rename to the disk. Windows cannot open a directory, and does not need this."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_stale(folder: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def explain_disk_errors(path: Path, advice: str) -> Iterator[None]:
    """Turn an error of the disk into a `RunError` that names the file and says what to do."""
    from filelock import Timeout

    try:
        yield
    except Timeout:  # a lock's timeout is an OSError too, but no failure of the disk
        raise
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}. {advice}") from error


def check_format(value: Any, path: Path) -> None:
    """Refuse a file of a later version, or of another program."""
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{path} has no `format` number, so quickstudy did not write it. Give the path of a run.")
    if value > FILE_FORMAT:
        raise InputError(
            f"{path} has format {value}; this quickstudy reads up to {FILE_FORMAT}. "
            "Update it (`pip install --upgrade quickstudy`), or use the version named in versions.json."
        )


def to_plain(value: Any) -> Any:
    """Convert a value to JSON's types: scalars and arrays of NumPy and torch become numbers and lists."""
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's and torch's arrays and scalars; neither library is imported for this
        return to_plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def to_plain_or_text(value: Any) -> Any:
    """Convert a value of a user's code to JSON's types: what JSON cannot hold becomes its text."""
    return json.loads(json.dumps(value, default=str))


def restore_floats(value: Any) -> Any:
    """The inverse of `to_plain` for non-finite floats."""
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
    """Indented JSON for people, as the bytes of a file."""
    return (json.dumps(to_plain(value), allow_nan=False, ensure_ascii=False, indent=2) + "\n").encode()


def loads(text: str | bytes) -> Any:
    """Read what `dumps` wrote."""
    return restore_floats(json.loads(text))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds values by name."""
    try:
        value = loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}. It was changed or damaged.") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} does not hold values by name. It was changed or damaged.")
    return value
