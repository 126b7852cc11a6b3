"""Runs: the directory of a training run, written so that a kill at any instant leaves it usable.

    run/  config.yaml  versions.json  metrics.jsonl  checkpoints/{last,best}.safetensors  results/<name>.{json,npz}

Two rules make this safe. A file replaces another at once and in full (see `files`). A log grows by whole lines, so text
after the last newline that is no whole row is the trace of a crash. Nothing here is a pickle, and nothing is opened
through a link: reading a run executes no code from it and touches no other file.
"""

import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

import yaml
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors.torch import save as to_safetensors
from torch import Tensor

from quickstudy.errors import InputError, RunError, suggest_nearest
from quickstudy.storage.arrays import pack_arrays
from quickstudy.storage.checkpoints import (
    Checkpoint,
    check_storable,
    describe_step,
    describe_survivor,
    hash_tensors,
    read_checkpoint,
)
from quickstudy.storage.files import (
    FILE_FORMAT,
    MAX_DIGITS,
    check_format,
    check_lock,
    dump_line,
    dump_pretty,
    explain_disk_errors,
    loads,
    open_file,
    read_file,
    read_json,
    refuse_link,
    remove_stale,
    sync_folder,
    write_atomic,
    write_beside,
)
from quickstudy.storage.records import check_row, check_state, check_summary
from quickstudy.storage.result import EvaluationResult, read_result
from quickstudy.storage.trust import remember
from quickstudy.storage.versions import record_versions
from quickstudy.storage.yaml_text import MAX_YAML_BYTES, SavedYaml, parse_yaml

Text = TypeVar("Text", str, bytes)

_CREATION_LEFTOVERS = {".lock", ".writer", "versions.json"}


def resume_command(path: Path) -> str:
    """The command by which a run goes on, as a shell takes it."""
    return f"quickstudy train --resume {quote(str(path))}"


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
        run = Run(path, {key: value for key, value in config.items() if key != "format"})
        text = _to_yaml(run.config)
        with explain_disk_errors(path, "Give a directory that can be made and written."):
            path.mkdir(parents=True, exist_ok=True)
        with run.writing():
            _check_vacant(path)  # again, now that no other process can be creating it
            with explain_disk_errors(path, "Free some space, or give a directory on another disk."):
                write_atomic(path / "versions.json", dump_pretty(record_versions()))
                # Written last: a directory is a run as soon as it has config.yaml.
                write_atomic(path / "config.yaml", text)
        remember(run.config)
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
            config = parse_yaml(read_file(file, MAX_YAML_BYTES).decode(), SavedYaml)
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read: {error}. Repair it, or start a new run.") from error
        if not isinstance(config, dict):
            raise InputError(f"{file} does not hold settings by name. Repair it, or start a new run.")
        check_format(config.pop("format", None), file)
        return Run(path, config)

    @property
    def versions(self) -> dict[str, Any]:
        """The versions of packages, platform, threads and commit that the run was started with; {} if they are gone."""
        place = self.path / "versions.json"
        return read_json(place) if os.path.lexists(place) else {}

    def folder(self, name: str) -> Path:
        """The path of a directory inside the run, which may not exist yet, but is no link to another place."""
        return refuse_link(self.path / name, self.path)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the run for writing. The lock is the operating system's, so a killed writer leaves no lock behind.

        What a killed writer can leave is mended on entry: half-written files, and a line of metrics without its end.
        """
        if self._lock.is_locked:
            yield
            return
        signature = self.path / ".writer"
        check_lock(self.path / ".lock")
        try:
            with explain_disk_errors(self.path, "Check that you have permission to write there."):
                self._lock.acquire()
        except Timeout:
            raise InputError(
                f"{self.path} is in use by {_read_writer(signature)}. Wait for it to end, or give another directory."
            ) from None
        try:
            with explain_disk_errors(self.path, "Free some space, then try again."):
                write_atomic(signature, f"process {os.getpid()} on {platform.node()}".encode())
                remove_stale(self.path)
                remove_stale(self.folder("checkpoints"))
                self._mend_metrics()
            yield
        finally:
            signature.unlink(missing_ok=True)
            self._lock.release()

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to the metrics. The row survives a kill of the process; after `save`, also a power cut."""
        self._check_writing()
        line = (_dump_readable(row, dump_line, check_row, "row of metrics") + "\n").encode()
        path = self.path / "metrics.jsonl"
        with explain_disk_errors(path, "The rows before it are intact. Free some space and continue with `--resume`."):
            file = open_file(path, "ab")
            end = file.tell()
            try:
                with file:
                    file.write(line)
            except OSError:
                with open_file(path, "rb+") as file:
                    file.truncate(end)  # otherwise the next row would be appended to half of this one
                raise

    def metrics(self) -> list[dict[str, Any]]:
        """Every logged row, in order, without the half line that a crash may have left."""
        *lines, end = self._read_metrics().split(b"\n")
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(check_row(loads(line)))
            except ValueError as error:
                raise RunError(
                    f"Line {number} of {self.path / 'metrics.jsonl'} is not a row of metrics: {line[:60]!r} ({error}). "
                    "The file was changed or damaged; delete that line to continue without it."
                ) from error
        return rows + _read_end(end)

    def rewind(self, step: int) -> None:
        """Drop the rows of later steps, because training resumes from a checkpoint of this step."""
        self._check_writing()
        rows = self.metrics()
        kept = [row for row in rows if row.get("step", step) <= step]
        if len(kept) == len(rows):
            return
        path = self.path / "metrics.jsonl"
        with explain_disk_errors(path, "The metrics are unchanged. Free some space, then try again."):
            write_atomic(path, "".join(dump_line(row) + "\n" for row in kept).encode())

    def save(self, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace checkpoint `name`, or fail and leave it unchanged. Tensors may be on any device and share memory."""
        self._check_writing()
        text = _dump_readable(state, dump_line, check_state, "state of a checkpoint")
        check_storable(tensors)
        # Copied, because safetensors refuses tensors that share memory, as tied or expanded ones do.
        copies = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
        header = {"format": str(FILE_FORMAT), "state": text, "sha256": hash_tensors(copies, text)}
        path = self._checkpoint(name)
        try:
            self.folder("checkpoints").mkdir(exist_ok=True)
            self._sync_metrics()  # so that the metrics on disk reach at least to the step of the checkpoint
            write_atomic(path, to_safetensors(copies, header))
        except OSError as error:
            raise RunError(
                f"Checkpoint {path} could not be written: {error.strerror or error}. {describe_survivor(path)} "
                "Free some space and continue with `--resume`."
            ) from error

    def checkpoints(self) -> list[str]:
        """Names of the checkpoints, readable or damaged."""
        return sorted(path.stem for path in self.folder("checkpoints").glob("*.safetensors"))

    def has_reached(self, step: int) -> bool:
        """Whether training has come to a step, according to its last checkpoint."""
        return "last" in self.checkpoints() and bool(self.load("last").state.get("step", -1) >= step)

    def load(self, name: str) -> Checkpoint:
        """Load checkpoint `name` and verify that it is byte for byte what was saved."""
        path = self._checkpoint(name)
        if not path.is_file():
            known = self.checkpoints()
            if not known:
                raise InputError(f"{self.path} has no checkpoint yet. Train it first: {resume_command(self.path)}")
            raise InputError(f"{self.path} has no checkpoint `{name}`. {suggest_nearest(name, known)}")
        try:
            return read_checkpoint(path)
        except RunError as damage:
            others = [f"`{other}` ({step})" for other in self.checkpoints() if (step := self._step_if_readable(other))]
            advice = f"Use {' or '.join(others)} instead." if others else "No other checkpoint can be read."
            if name == "last":
                advice += " Training goes on from `last` only: to train it anew, give another --out."
            raise RunError(f"{damage} {advice}") from damage

    def write_result(self, name: str, summary: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace result `name`. A kill meanwhile leaves the old result, the new one, or none, but never a mixture."""
        if summary.get("format", FILE_FORMAT) != FILE_FORMAT:
            raise InputError("The summary of a result has the format of its file as `format`. Take another name.")
        text = _dump_readable({"format": FILE_FORMAT, **summary}, dump_pretty, check_summary, "summary of a result")
        folder = self.folder("results")
        table, data = folder / f"{check_name(name)}.json", folder / f"{name}.npz"
        packed = pack_arrays(arrays)
        with explain_disk_errors(data, "Free some space and evaluate again; the checkpoint is not affected."):
            folder.mkdir(exist_ok=True)
            check_lock(folder / ".lock")
            with FileLock(folder / ".lock"):
                remove_stale(folder)
                new_data = write_beside(data, packed)
                try:
                    new_table = write_beside(table, text)
                except BaseException:
                    new_data.unlink()
                    raise
                table.unlink(missing_ok=True)  # a summary must never stand beside the arrays of another result
                os.replace(new_data, data)
                os.replace(new_table, table)
                sync_folder(folder)

    def results(self) -> dict[str, EvaluationResult]:
        """Every result, by name."""
        return {table.stem: read_result(table) for table in sorted(self.folder("results").glob("*.json"))}

    def _checkpoint(self, name: str) -> Path:
        return refuse_link(self.path / "checkpoints" / f"{check_name(name)}.safetensors", self.path)

    def _step_if_readable(self, name: str) -> str:
        """'step 300' when the checkpoint can be read, else nothing."""
        try:
            return describe_step(read_checkpoint(self._checkpoint(name)))
        except (InputError, RunError):
            return ""

    def _check_writing(self) -> None:
        if not self._lock.is_locked:
            raise RuntimeError("Write to a run inside `with run.writing():`, so that it has only one writer.")

    def _read_metrics(self) -> bytes:
        path = self.path / "metrics.jsonl"
        return read_file(path) if os.path.lexists(path) else b""

    def _mend_metrics(self) -> None:
        """End the last line: half a row goes, and a row that lacks nothing but its end gets it.

        The file is written anew then, and also if it has a second name: a copy of the run that shares its files by hard
        links must not grow with it.
        """
        path, held = self.path / "metrics.jsonl", self._read_metrics()
        *lines, end = held.split(b"\n")
        if end or (held and path.stat().st_nlink > 1):
            write_atomic(path, b"".join(line + b"\n" for line in [*lines, *([end] if _read_end(end) else [])]))

    def _sync_metrics(self) -> None:
        path = self.path / "metrics.jsonl"
        if path.exists():
            with open_file(path, "rb+") as file:
                os.fsync(file.fileno())


def free_path(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that does not exist."""
    taken, candidate = 1, path
    while candidate.exists():
        taken += 1
        candidate = path.with_name(f"{path.name}-{taken}")
    return candidate


def _to_yaml(config: Mapping[str, Any]) -> bytes:
    """Settings as the bytes of `config.yaml`. Those that `Run.open` would not read as they are, are refused."""
    settings = {"format": FILE_FORMAT, **config}
    try:
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode()
        if len(text) > MAX_YAML_BYTES:
            raise ValueError(f"they take {len(text)} bytes, and {MAX_YAML_BYTES} are read at most")
        if dump_line(parse_yaml(text.decode(), SavedYaml)) != dump_line(settings):
            raise ValueError("they would be read as other values")
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"These settings cannot be kept in a run's config.yaml: {reason:.200}. It holds texts, numbers of at most "
            f"{MAX_DIGITS} digits, truth values, and lists and mappings of them."
        ) from None
    return text


def _dump_readable(
    values: Mapping[str, Any], dump: Callable[[Any], Text], check: Callable[[Any], dict[str, Any]], what: str
) -> Text:
    """Values as JSON. What `check` would not read again is refused: such a file would be taken for a damaged one."""
    try:
        text = dump(values)
        check(loads(text))
    except (ValueError, TypeError) as error:
        raise InputError(f"This is no {what}, so nothing was written ({error}): {values!r:.60}") from None
    return text


def _check_vacant(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, and a run is a directory. Give another path.")
    if (path / "config.yaml").is_file():
        raise InputError(
            f"{path} already holds a run. Continue it with `{resume_command(path)}`, or give another directory."
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


def _read_end(line: bytes) -> list[dict[str, Any]]:
    """The row in a last line that has no end: one, or none if it is half a row."""
    try:
        return [check_row(loads(line))]
    except ValueError:
        return []


def _read_writer(signature: Path) -> str:
    try:
        return read_file(signature, 1000).decode(errors="replace") or "another process"
    except (OSError, InputError):  # the writer has the lock but has not signed yet, or has just released it
        return "another process"


def check_name(name: str) -> str:
    """Return the name when a checkpoint or a result can have it, else raise an `InputError`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise InputError(f"{name!r} cannot name a file of a run. Use letters, digits, `-`, `_` and `.`, as in `best`.")
    return name
