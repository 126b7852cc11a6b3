"""Trainings and readings on disk, each under the hash of what it is, so that nothing is computed twice.

    OUT/runs/HASH            a run like any other: `quickstudy report`, `quickstudy evaluate` take it
    OUT/readings/HASH.json   a reading, and HASH.npz its arrays

Two rows, or two items, that need the same training have one.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from quickstudy.errors import RunError
from quickstudy.papers.runner.measures import Reading, Trained
from quickstudy.storage.arrays import pack_arrays
from quickstudy.storage.files import FILE_FORMAT, dump_pretty, explain_disk_errors, read_json, write_atomic
from quickstudy.storage.records import Number, check_shape
from quickstudy.storage.result import read_result
from quickstudy.storage.run import Run
from quickstudy.training.progress import read_progress


@cache
def _read_seconds(table: Path) -> tuple[float, float | None]:
    """How long a reading took, and the training before it."""
    held = read_json(table)
    try:
        about = check_shape(held, StoredReading)
    except ValueError as error:
        raise RunError(f"{table} is damaged ({error}). Delete it to read again.") from error
    return about["seconds"], about.get("training")


def digest(what: Any) -> str:
    """Sixteen hexadecimal digits that name plain data, whatever the order of its keys."""
    # Under the name that the package of the papers had when the first trainings were hashed, so that they are found.
    text = json.dumps(what, sort_keys=True).replace("quickstudy.papers.", "quickstudy.reproduce.")
    return sha256(text.encode()).hexdigest()[:16]


class StoredReading(BaseModel, extra="allow", strict=True):
    """A reading of a paper's number, and how it came to be."""

    value: float
    interval: Number
    tasks: str
    more: dict[str, Any]
    seed: int
    seconds: float
    commit: str | None
    stand_ins: list[str]
    training: Number = None


@dataclass(frozen=True)
class Asked:
    """A reading to be made: a measure, with its options, of a training."""

    seed: int
    config: Mapping[str, Any] | None
    measure: str
    options: Mapping[str, Any]

    @cached_property
    def name(self) -> str:
        """The name of its files."""
        return digest([self.seed, self.config, self.measure, self.options])


@dataclass(frozen=True)
class Unit:
    """One training of one row, and what is to be read from it."""

    row: str
    seed: int
    config: Mapping[str, Any] | None  # at the scale; None where nothing is trained
    asked: Mapping[str, Asked]  # by column

    @cached_property
    def name(self) -> str:
        """The name of the training's directory. Units with the same name share it."""
        return digest([self.seed, self.config])


@dataclass(frozen=True)
class Store:
    """A directory of trainings and readings."""

    folder: Path

    def path(self, one: Unit) -> Path:
        """Where a unit's training is, or will be."""
        return self.folder / "runs" / one.name

    def training(self, one: Unit) -> Trained:
        """A unit's training, as measures see it."""
        return Trained(None if one.config is None else Run.open(self.path(one)), one.seed)

    def training_seconds(self, one: Unit) -> float:
        """How long its training took by now."""
        run = self.training(one).run
        if run is None or "last" not in run.checkpoints():
            return 0.0
        return read_progress(run.load("last"), f"Checkpoint `last` of {run.path}").seconds

    def is_trained(self, one: Unit) -> bool:
        """Whether its training has come to its end. A damaged checkpoint is none: going on reports it."""
        if self.why_stopped(one) is not None:
            return True
        if not (self.path(one) / "config.yaml").is_file():
            return False
        run = Run.open(self.path(one))
        try:
            return run.has_reached(run.config["train"]["steps"])
        except RunError:
            return False

    def seconds(self, one: Unit) -> tuple[float, float] | None:
        """How long a unit took that is done: its readings, and its training. None where an older version made it."""
        held = [_read_seconds(self._table(asked)) for asked in one.asked.values()]
        if any(training is None for _, training in held):
            return None
        return sum(reading for reading, _ in held), max((training or 0.0 for _, training in held), default=0.0)

    def why_stopped(self, one: Unit) -> str | None:
        """Why its training ended before its last step, if it did for good."""
        file = self.path(one).with_suffix(".stopped")
        return file.read_text() if file.exists() else None

    def note_stop(self, one: Unit, why: str) -> None:
        """Note that its training cannot go on."""
        write_atomic(self.path(one).with_suffix(".stopped"), why.encode())

    def has(self, asked: Asked) -> bool:
        """Whether a reading is there."""
        return self._table(asked).exists()

    def is_done(self, one: Unit) -> bool:
        """Whether every reading of a unit is there."""
        return all(map(self.has, one.asked.values()))

    def write(self, asked: Asked, reading: Reading, about: Mapping[str, Any]) -> None:
        """Keep a reading; `about` says how it came to be."""
        table = self._table(asked)
        packed = pack_arrays({**reading.arrays, **({} if reading.each is None else {"each": reading.each})})
        plain = {"value": reading.value, "interval": reading.interval, "tasks": reading.tasks}
        asked_for = {"more": dict(reading.more), "measure": asked.measure, "options": dict(asked.options)}
        with explain_disk_errors(table, "Free some space; what is there is intact, and the same command goes on."):
            table.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(table.with_suffix(".npz"), packed)
            write_atomic(table, dump_pretty({"format": FILE_FORMAT, **plain, **asked_for, **about}))

    def read(self, asked: Asked) -> tuple[Reading, dict[str, Any]]:
        """A reading, and how it came to be."""
        table = self._table(asked)
        held, arrays = read_result(table, partial(check_shape, model=StoredReading))
        each = arrays.pop("each", None)
        return Reading(held["value"], held["interval"], each, held["tasks"], held["more"], arrays), held

    @contextmanager
    def hold(self, one: Unit) -> Iterator[bool]:
        """Whether this process has the unit to itself; another one may be at it."""
        with explain_disk_errors(self.folder, "Give a directory that can be made and written: --out DIRECTORY."):
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "runs" / f".{one.name}.lock", timeout=0)
        with suppress(Timeout):
            lock.acquire()
        try:
            yield lock.is_locked
        finally:
            lock.release()

    def _table(self, asked: Asked) -> Path:
        return self.folder / "readings" / f"{asked.name}.json"
