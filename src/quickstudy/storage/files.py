"""Atomic files, which a kill at any instant leaves whole, and JSON that can hold NaN and infinity.

A file that replaces another is first written in full beside it, synced to the disk, and then renamed. So its name
always has either the old bytes or the new ones. This is written by hand because a result stages two files before either
is renamed, and because a run clears what a killed writer left.

A run may come from somebody else. So its files are opened by `open_file` only, which follows no link, and they are read
up to a limit.

JSON has no NaN, but losses have. Non-finite floats are written as the strings "nan", "inf" and "-inf", and these three
strings are read back as floats.
"""

import json
import math
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from quickstudy.errors import InputError, RunError

FILE_FORMAT = 1
"""The format number in every file of a run. It rises when older code would misread newer files."""

MAX_BYTES = 2**29
"""The largest log or result that is read, unless `QUICKSTUDY_MAX_BYTES` gives another number."""
MAX_DIGITS = 20
"""Of a whole number in JSON. Longer ones are no count and no seed, and fit no array."""
MAX_LEVELS = 64
"""How deep values may be nested in a file."""

_NON_FINITE = ("nan", "inf", "-inf")


def refuse_link(path: Path, root: Path) -> Path:
    """The path itself, unless it or a folder between it and `root` is a link: what is behind one is not the run's."""
    for part in (path, *path.parents):
        if part == root:
            break
        if part.is_symlink():
            raise InputError(
                f"{part} is a link, and nothing of a run is read or written through a link. Put the "
                f"{'directory' if part.is_dir() else 'file'} itself in its place, or delete the link."
            )
    return path


def open_file(path: Path, mode: str = "rb") -> IO[bytes]:
    """Open a regular file, by "rb", "rb+" or "ab". A link is refused, and so is a pipe, which would never answer."""
    flags = {"rb": os.O_RDONLY, "rb+": os.O_RDWR, "ab": os.O_WRONLY | os.O_APPEND | os.O_CREAT}[mode]
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # where the operating system has them
        flags |= getattr(os, name, 0)
    refuse_link(path, path.parent)
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path} is not a file. Give another run, or delete it.")
    return os.fdopen(descriptor, mode)


def as_path(given: str | Path) -> Path:
    """A path as a user wrote it: `~` is the home folder. That of nobody stays as it is, as in a shell.

    >>> as_path("")
    Traceback (most recent call last):
    quickstudy.errors.InputError: A path is empty. Is a variable of your shell unset? The folder you are in is `.`.
    """
    if given == "":
        raise InputError("A path is empty. Is a variable of your shell unset? The folder you are in is `.`.")
    return Path(os.path.expanduser(given))


def read_file(path: Path, limit: int | None = None) -> bytes:
    """The contents of a file that is not longer than the limit, by default `max_bytes()`."""
    with open_file(path) as file:
        check_size(path, os.fstat(file.fileno()).st_size, limit or max_bytes())
        return file.read()


def max_bytes() -> int:
    """`MAX_BYTES`, or the environment's QUICKSTUDY_MAX_BYTES."""
    given = os.environ.get("QUICKSTUDY_MAX_BYTES", str(MAX_BYTES))
    if not given.isdecimal() or len(given) > MAX_DIGITS:
        raise InputError(f"QUICKSTUDY_MAX_BYTES is {given!r}; give a number of bytes, such as {MAX_BYTES}.")
    return int(given)


def check_size(path: Path, size: int, limit: int) -> None:
    """Refuse to read more bytes than the limit."""
    if size > limit:
        raise InputError(
            f"{path} holds {size} bytes, and at most {limit} are read. If it is your own, allow more: set the "
            f"environment variable QUICKSTUDY_MAX_BYTES, which is now {max_bytes()}."
        )


def check_lock(path: Path) -> None:
    """Refuse any other file in place of a lock: the library that takes a lock empties its file."""
    refuse_link(path, path.parent)
    if path.exists() and (not path.is_file() or path.stat().st_size):
        raise InputError(f"{path} is not a lock that quickstudy made. Delete it, or move it away.")


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
    staged.unlink(missing_ok=True)
    try:
        with staged.open("xb") as file:  # a new file, never one that is there or that a link leads to
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


def remove(path: Path) -> None:
    """Remove what is there: a folder with all that is in it, a file, a link, a pipe.

    Nothing but a folder is opened: `shutil.rmtree` alone would wait for ever at a pipe.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    for path in folder.glob(".*.tmp"):
        remove(path)


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
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{path} has no `format` number, so quickstudy did not write it. Give the path of a run.")
    if value > FILE_FORMAT:
        raise InputError(
            f"{path} has format {value}; this quickstudy reads up to {FILE_FORMAT}. "
            "Update it (`pip install --upgrade quickstudy`), or use the version named in versions.json."
        )


def to_plain(value: Any) -> Any:
    """Convert a value to JSON's types: scalars and arrays of NumPy and torch become numbers and lists.

    An infinity and NaN become texts.
    """
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's and torch's arrays and scalars; neither library is imported for this
        return to_plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def mark_texts(value: Any) -> Any:
    r"""Put a backslash before the texts that `restore_floats` would take for numbers, and before those marked so.

    >>> mark_texts(["nan", r"\nan", "nano"])
    ['\\nan', '\\\\nan', 'nano']
    """
    if isinstance(value, Mapping):
        return {key: mark_texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mark_texts(item) for item in value]
    if hasattr(value, "tolist"):
        return mark_texts(value.tolist())
    return f"\\{value}" if isinstance(value, str) and value.lstrip("\\") in _NON_FINITE else value


def to_plain_or_text(value: Any) -> Any:
    """Convert a value of a user's code to JSON's types: what JSON cannot hold becomes its text."""
    return json.loads(json.dumps(value, default=str))


def restore_floats(value: Any, levels: int = MAX_LEVELS) -> Any:
    """The inverse of `to_plain` for infinities and NaN, and of `mark_texts`."""
    if not levels:
        raise ValueError(f"values are nested more than {MAX_LEVELS} deep")
    if isinstance(value, dict):
        return {key: restore_floats(item, levels - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [restore_floats(item, levels - 1) for item in value]
    if isinstance(value, str) and value.lstrip("\\") in _NON_FINITE:
        return value[1:] if value.startswith("\\") else float(value)
    return value


def dumps(value: Any) -> str:
    """JSON on one line.

    >>> dumps({"loss": float("nan"), "hidden": (40, 40)})
    '{"loss": "nan", "hidden": [40, 40]}'
    """
    return json.dumps(to_plain(value), allow_nan=False, ensure_ascii=False)


def dump_line(value: Any) -> str:
    """JSON on one line, which `loads` reads as it was.

    >>> loads(dump_line({"loss": float("inf"), "name": "inf"}))
    {'loss': inf, 'name': 'inf'}
    """
    return dumps(mark_texts(value))


def dump_pretty(value: Any) -> bytes:
    """Indented JSON, as the bytes of a file that `read_json` reads as it was."""
    return (json.dumps(to_plain(mark_texts(value)), allow_nan=False, ensure_ascii=False, indent=2) + "\n").encode()


def loads(text: str | bytes) -> Any:
    """Read what `dump_line` wrote. Whatever is wrong with the text is a ValueError."""
    try:
        return restore_floats(json.loads(text, parse_int=_read_whole))
    except RecursionError:
        raise ValueError(f"values are nested more than {MAX_LEVELS} deep") from None


def _read_whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds values by name."""
    try:
        value = loads(read_file(path, max_bytes() // 8))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}. It was changed or damaged.") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} does not hold values by name. It was changed or damaged.")
    return value
