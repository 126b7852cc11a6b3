"""Runs: the directory of a training run, written so that a kill at any instant leaves it usable.

    run/  config.yaml  versions.json  metrics.jsonl  checkpoints/{last,best}.safetensors  results/<name>.{json,npz}

Two rules make this safe. A file replaces another at once and in full (see `files`). A log grows only by whole lines, so
text after the last newline is the trace of a crash and not a row. Nothing here is a pickle: reading a run executes no
code from it.
"""

import io
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors.torch import save as to_safetensors
from torch import Tensor

from quickstudy.errors import InputError, RunError, suggest_nearest
from quickstudy.storage.checkpoints import Checkpoint, describe_step, describe_survivor, hash_tensors, read_checkpoint
from quickstudy.storage.files import (
    FILE_FORMAT,
    check_format,
    dump_pretty,
    dumps,
    explain_disk_errors,
    loads,
    read_json,
    remove_stale,
    sync_folder,
    write_atomic,
    write_beside,
)
from quickstudy.storage.result import EvaluationResult, read_result
from quickstudy.storage.versions import record_versions

_CREATION_LEFTOVERS = {".lock", ".writer", "versions.json"}


class Run:
    """A run directory. Make one with `Run.create`, open it again with `Run.open`.

    Call `log`, `rewind` and `save` inside `with run.writing():`, which keeps a second trainer out. Reading needs no
    lock, and neither does `write_result`: a checkpoint may be tested while its training continues.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        # thread_local=False: the lock belongs to the process, whichever of its threads logs.
        self._lock = FileLock(path / ".lock", timeout=0, thread_local=False)

    @staticmethod
    def create(path: str | Path, config: Mapping[str, Any]) -> "Run":
        """Make a run in a directory that is absent or empty. `Run.open(path).config` equals `config`."""
        path = Path(path)
        _check_vacant(path)
        with explain_disk_errors(path, "Give a directory that can be made and written."):
            path.mkdir(parents=True, exist_ok=True)
        run = Run(path, {key: value for key, value in config.items() if key != "format"})
        with run.writing():
            _check_vacant(path)  # again, now that no other process can be creating it
            with explain_disk_errors(path, "Free some space, or give a directory on another disk."):
                write_atomic(path / "versions.json", dump_pretty(record_versions()))
                text = yaml.safe_dump({"format": FILE_FORMAT, **run.config}, sort_keys=False, allow_unicode=True)
                # Written last: a directory is a run as soon as it has config.yaml.
                write_atomic(path / "config.yaml", text.encode())
        return run

    @staticmethod
    def open(path: str | Path) -> "Run":
        """Open the run at `path`. When there is none, the error names the runs beside it and below it."""
        path = Path(path)
        file = path / "config.yaml"
        if not file.is_file():
            below = _list_runs(path)
            if below:
                raise InputError(f"{path} is not a run but holds some. Give one of: {', '.join(below)}.")
            if (path.parent / "config.yaml").is_file():
                raise InputError(f"{path} is part of a run. Give the run: {path.parent}.")
            near = [str(place / name) for place in (path.parent, path.parent / "runs") for name in _list_runs(place)]
            known = (
                suggest_nearest(str(path), near) if near else "There are none near it; `quickstudy train` makes one."
            )
            raise InputError(f"There is no run at {path} (no config.yaml). {known}")
        try:
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"{file} cannot be read: {error}. Repair it, or start a new run.") from error
        if not isinstance(config, dict):
            raise InputError(f"{file} does not hold settings by name. Repair it, or start a new run.")
        check_format(config.pop("format", None), file)
        return Run(path, config)

    @property
    def versions(self) -> dict[str, Any]:
        """The versions of packages, platform, threads and commit that the run was started with."""
        return read_json(self.path / "versions.json")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the run for writing. The lock is the operating system's, so a killed writer leaves no lock behind.

        What a killed writer can leave is removed on entry: half-written files, and half a line of metrics.
        """
        if self._lock.is_locked:
            yield
            return
        signature = self.path / ".writer"
        try:
            with explain_disk_errors(self.path, "Check that you have permission to write there."):
                self._lock.acquire()
        except Timeout:
            raise InputError(
                f"{self.path} is in use by {_read_writer(signature)}. Wait for it to end, or give another directory."
            ) from None
        try:
            with explain_disk_errors(self.path, "Free some space, then try again."):
                signature.write_text(f"process {os.getpid()} on {platform.node()}")
                remove_stale(self.path)
                remove_stale(self.path / "checkpoints")
                self._drop_half_line()
            yield
        finally:
            signature.unlink(missing_ok=True)
            self._lock.release()

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to the metrics. The row survives a kill of the process; after `save`, also a power cut."""
        self._check_writing()
        line = (dumps(row) + "\n").encode()
        path = self.path / "metrics.jsonl"
        with explain_disk_errors(path, "The rows before it are intact. Free some space and continue with `--resume`."):
            end = path.stat().st_size if path.exists() else 0
            try:
                with path.open("ab") as file:
                    file.write(line)
            except OSError:
                os.truncate(path, end)  # otherwise the next row would be appended to half of this one
                raise

    def metrics(self) -> list[dict[str, Any]]:
        """Every logged row, in order, without the half line that a crash may have left."""
        rows = []
        for number, line in enumerate(self._lines(), start=1):
            try:
                row = loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise RunError(
                    f"Line {number} of {self.path / 'metrics.jsonl'} is not a row of metrics: {line[:60]!r}. "
                    "The file was changed or damaged; delete that line to continue without it."
                )
            rows.append(row)
        return rows

    def rewind(self, step: int) -> None:
        """Drop the rows of later steps, because training resumes from a checkpoint of this step."""
        self._check_writing()
        rows = self.metrics()
        kept = [row for row in rows if row.get("step", step) <= step]
        if len(kept) == len(rows):
            return
        path = self.path / "metrics.jsonl"
        with explain_disk_errors(path, "The metrics are unchanged. Free some space, then try again."):
            write_atomic(path, "".join(dumps(row) + "\n" for row in kept).encode())

    def save(self, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace checkpoint `name`, or fail and leave it unchanged. Tensors may be on any device and share memory."""
        self._check_writing()
        # Copied, because safetensors refuses tensors that share memory, as tied or expanded ones do.
        copies = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
        text = dumps(state)
        header = {"format": str(FILE_FORMAT), "state": text, "sha256": hash_tensors(copies, text)}
        path = self._checkpoint(name)
        try:
            path.parent.mkdir(exist_ok=True)
            self._sync_metrics()  # so that the metrics on disk reach at least to the step of the checkpoint
            write_atomic(path, to_safetensors(copies, header))
        except OSError as error:
            raise RunError(
                f"Checkpoint {path} could not be written: {error.strerror or error}. {describe_survivor(path)} "
                "Free some space and continue with `--resume`."
            ) from error

    def checkpoints(self) -> list[str]:
        """Names of the checkpoints, readable or damaged."""
        return sorted(path.stem for path in (self.path / "checkpoints").glob("*.safetensors"))

    def has_reached(self, step: int) -> bool:
        """Whether training has come to a step, according to its last checkpoint."""
        return "last" in self.checkpoints() and bool(self.load("last").state.get("step", -1) >= step)

    def load(self, name: str) -> Checkpoint:
        """Load checkpoint `name` and verify that it is byte for byte what was saved."""
        path = self._checkpoint(name)
        if not path.is_file():
            known = self.checkpoints()
            if not known:
                raise InputError(
                    f"{self.path} has no checkpoint yet. Train it first: quickstudy train --resume {self.path}"
                )
            raise InputError(f"{self.path} has no checkpoint `{name}`. {suggest_nearest(name, known)}")
        try:
            return read_checkpoint(path)
        except RunError as damage:
            others = [f"`{other}` ({step})" for other in self.checkpoints() if (step := self._step_if_readable(other))]
            advice = f"Use {' or '.join(others)} instead." if others else "No other checkpoint can be read."
            raise RunError(f"{damage} {advice}") from damage

    def write_result(self, name: str, summary: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace result `name`. A kill meanwhile leaves the old result, the new one, or none, but never a mixture."""
        for key, array in arrays.items():
            if array.dtype.hasobject:
                raise TypeError(f"Array {key!r} of result {name!r} holds Python objects, which only pickle can write.")
        folder = self.path / "results"
        table, data = folder / f"{check_name(name)}.json", folder / f"{name}.npz"
        named: dict[str, Any] = dict(arrays)
        packed = io.BytesIO()
        np.savez_compressed(packed, **named)
        with explain_disk_errors(data, "Free some space and evaluate again; the checkpoint is not affected."):
            folder.mkdir(exist_ok=True)
            with FileLock(folder / ".lock"):
                remove_stale(folder)
                new_data = write_beside(data, packed.getvalue())
                try:
                    new_table = write_beside(table, dump_pretty({"format": FILE_FORMAT, **summary}))
                except BaseException:
                    new_data.unlink()
                    raise
                table.unlink(missing_ok=True)  # a summary must never stand beside the arrays of another result
                os.replace(new_data, data)
                os.replace(new_table, table)
                sync_folder(folder)

    def results(self) -> dict[str, EvaluationResult]:
        """Every result, by name."""
        return {table.stem: read_result(table) for table in sorted((self.path / "results").glob("*.json"))}

    def _checkpoint(self, name: str) -> Path:
        return self.path / "checkpoints" / f"{check_name(name)}.safetensors"

    def _step_if_readable(self, name: str) -> str:
        """'step 300' when the checkpoint can be read, else nothing."""
        try:
            return describe_step(read_checkpoint(self._checkpoint(name)))
        except (InputError, RunError):
            return ""

    def _check_writing(self) -> None:
        if not self._lock.is_locked:
            raise RuntimeError("Write to a run inside `with run.writing():`, so that it has only one writer.")

    def _lines(self) -> list[bytes]:
        path = self.path / "metrics.jsonl"
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []

    def _drop_half_line(self) -> None:
        path = self.path / "metrics.jsonl"
        whole = sum(len(line) + 1 for line in self._lines())
        if path.exists() and path.stat().st_size > whole:
            os.truncate(path, whole)

    def _sync_metrics(self) -> None:
        path = self.path / "metrics.jsonl"
        if path.exists():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def free_path(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that does not exist."""
    taken, candidate = 1, path
    while candidate.exists():
        taken += 1
        candidate = path.with_name(f"{path.name}-{taken}")
    return candidate


def _check_vacant(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, and a run is a directory. Give another path.")
    if (path / "config.yaml").is_file():
        raise InputError(
            f"{path} already holds a run. Continue it with `quickstudy train --resume {path}`, or give another "
            "directory."
        )
    others = [name for name in _list_names(path) if name not in _CREATION_LEFTOVERS and not name.endswith(".tmp")]
    if others:
        raise InputError(
            f"{path} is not empty (it has {others[0]}) and is not a run. Give a new or an empty directory."
        )


def _list_names(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _list_runs(folder: Path) -> list[str]:
    return [name for name in _list_names(folder) if (folder / name / "config.yaml").is_file()]


def _read_writer(signature: Path) -> str:
    try:
        return signature.read_text() or "another process"
    except OSError:  # the writer has the lock but has not signed yet, or has just released it
        return "another process"


def check_name(name: str) -> str:
    """Return the name when a checkpoint or a result can have it, else raise an `InputError`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise InputError(f"{name!r} cannot name a file of a run. Use letters, digits, `-`, `_` and `.`, as in `best`.")
    return name
