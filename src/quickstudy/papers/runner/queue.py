"""A queue: items in order of value, worked off by processes that may be stopped at any time.

    queue:
    - {paper: mtnet, item: table-6.1, rows: [maml, "*tnet"], scale: full, seeds: 10, minutes: 60, decides: the order}

What is done is what the store holds. So a queue goes on where it was stopped, on another machine too that has a copy of
the folder, and entries may be added, dropped and moved at any time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from time import time

from filelock import FileLock
from pydantic import BaseModel, Field, ValidationError

from quickstudy.errors import InputError, RunError
from quickstudy.papers.catalog import item
from quickstudy.papers.runner.store import Store, Unit
from quickstudy.papers.runner.work import Plan, Tell, choose_rows, scale_of, work_on
from quickstudy.storage.records import first_fault
from quickstudy.training.config.overrides import read_file
from quickstudy.training.train import StoppedError
from quickstudy.training.watcher import Watcher


class Entry(BaseModel, frozen=True, extra="forbid"):
    """Rows of an item at a scale, with so many seeds."""

    paper: str
    item: str
    rows: tuple[str, ...] | None = Field(None, min_length=1)  # names, or patterns of names; all by default
    scale: str = "full"
    seeds: int | None = Field(None, ge=1)  # by default the scale's
    minutes: float = Field(gt=0)  # guessed, of one core, for all of it
    decides: str = ""  # in words


class _Queue(BaseModel, extra="forbid"):
    queue: list[Entry] = Field(min_length=1)


@dataclass(frozen=True)
class Queued:
    """An entry, as it is to be run."""

    entry: Entry
    plan: Plan

    @property
    def name(self) -> str:
        """The item and its scale."""
        return f"{self.entry.paper} {self.entry.item}, {self.plan.scale}"


@dataclass(frozen=True)
class Standing:
    """How far an entry has come. A case is one seed of a row; rows may share a training."""

    done: int  # cases
    cases: int
    trainings: frozenset[str]  # that are left, by name
    hours: float  # of one core, for what is left
    measured: bool  # whether the hours are those of its own trainings; else they are the guess

    @property
    def complete(self) -> bool:
        """Whether nothing is left."""
        return self.done == self.cases


def read_queue(path: Path, folder: Path) -> list[Queued]:
    """The entries of a file, each with its plan in a folder."""
    try:
        entries = _Queue.model_validate(read_file(path)).queue
    except ValidationError as error:
        raise InputError(
            f"{path} is no queue: {first_fault(error)}. It holds `queue`, a list of entries such as {{paper: mtnet, "
            "item: table-6.1, scale: full, seeds: 3, minutes: 18}."
        ) from None
    made = []
    for number, entry in enumerate(entries, start=1):
        try:
            one = item(entry.paper, entry.item)
            scale = scale_of(one, entry.scale)
            rows = choose_rows(one, entry.rows, entry.scale)
        except InputError as error:
            raise InputError(f"Entry {number} of {path}: {error}") from None
        made.append(Queued(entry, Plan(one, entry.scale, entry.seeds or scale.seeds, rows, folder)))
    return made


def stand(one: Queued, promised: frozenset[str] = frozenset()) -> Standing:
    """How far an entry has come, and the hours that are left: by the cases that are done, else by the guess.

    Args:
        one: The entry.
        promised: Trainings that are left to entries before it, by name; they cost this one nothing.
    """
    store, plan = Store(one.plan.folder), one.plan
    done, cases = list(filter(store.is_done, plan.units())), plan.size()
    took = [(unit.name, *seconds) for unit in done if (seconds := store.seconds(unit)) is not None]
    trainings = frozenset(plan.trainings_left() - promised)
    left = cases - len(done)
    if len(took) * 4 < cases:  # of few, none may be typical
        return Standing(len(done), cases, trainings, one.entry.minutes / 60 * left / cases, measured=False)
    reading = fmean(seconds for _, seconds, _ in took)
    training = fmean({name: seconds for name, _, seconds in took}.values())
    hours = (reading * left + training * len(trainings)) / 3600
    return Standing(len(done), cases, trainings, hours, measured=True)


def stand_all(queue: Sequence[Queued]) -> list[Standing]:
    """How far every entry has come. A training that several need counts for the first of them."""
    found: list[Standing] = []
    for one in queue:
        found.append(stand(one, frozenset().union(*(before.trainings for before in found))))
    return found


class Until(Watcher):
    """Asks to stop when another watcher does, or when the time is over."""

    def __init__(self, other: Watcher, end: float | None) -> None:
        self.other, self.end = other, end

    @property
    def stopping(self) -> bool:  # type: ignore[override]  # training only reads it
        """Whether to save and stop."""
        return self.other.stopping or (self.end is not None and time() >= self.end)


def work_off(
    queue: Sequence[Queued], watch: Watcher, tell: Tell, finish: Callable[[Queued], None],
    fail: Callable[[Unit, Exception], None],
) -> None:  # fmt: skip
    """Do what is not done, in the order of the queue, until nothing is left that this process could do.

    `finish` is called with an entry when the last of it is done; where a training or a reading fails, `fail` is called,
    and the rest goes on without it.
    """
    store = Store(queue[0].plan.folder)
    failed: set[tuple[str, ...]] = set()  # by the names of their readings: units may share a training

    def attempt(one: Queued, unit: Unit) -> bool:
        did = False
        try:
            did = work_on(unit, store, watch, tell)
            if did and stand(one).complete:
                with FileLock(store.folder / "runs" / ".results.lock"):  # two entries may end at once, of one item
                    finish(one)
        except (StoppedError, KeyboardInterrupt):
            raise
        except Exception as error:  # a night's work does not end with one training, or one page
            failed.add(tuple(asked.name for asked in unit.asked.values()))
            fail(unit, error)
            return True
        return did

    def open_units() -> Iterator[tuple[Queued, Unit]]:
        for one in queue:
            for unit in one.plan.units():
                if tuple(asked.name for asked in unit.asked.values()) not in failed:
                    yield one, unit

    # Again from the start after each: another process may have left what it held, or made a choice by its trials.
    while any(attempt(*one) for one in open_units()):
        if watch.stopping:
            raise StoppedError("The queue was stopped.")


def check_failures(queue: Sequence[Queued]) -> None:
    """Raise an error if something is not done, where all that could be done was tried."""
    left = [(one, stand(one)) for one in queue]
    short = [f"{one.name} ({state.done} of {state.cases})" for one, state in left if not state.complete]
    if short:
        raise RunError(
            f"Not all was done: {', '.join(short)}. The notes above say why, or another command is still at it; the "
            "same command tries again."
        )
