"""Timing that is fair: every contender in its own process, and all of them in every round, one after the other.

A slow minute of the machine then falls on all alike. What is reported is the ratio of two contenders in the same round:
its median, its lowest and its highest.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from types import TracebackType
from typing import Any

from quickstudy.bench.contenders import contender
from quickstudy.bench.workloads import Case

MOST = 10_000
"""Goes of one round."""

FEWEST = 3
"""Rounds that are run even when they take longer than was allowed, if so many were asked for."""


class Fault(Exception):
    """Why a contender has no time."""


class Processes:
    """The processes of one contender, told and timed as one.

    Args:
        name: Of the contender.
    """

    def __init__(self, name: str) -> None:
        who = contender(name)
        self.folder = TemporaryDirectory()
        self.errors = Path(self.folder.name) / "errors"
        with self.errors.open("w") as errors:
            self.children = [
                subprocess.Popen(
                    [sys.executable, "-m", "quickstudy.bench.worker", name, str(rank), f"{self.folder.name}/meeting"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=who.environment(),
                )
                for rank in range(who.processes)
            ]

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End them."""
        for child in self.children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):
                    pipe.close()
        self.children = []
        self.folder.cleanup()

    def ask(self, do: str, **what: Any) -> Any:
        """Tell all of them, and wait for all answers; the first process's answer."""
        if not self.children:
            raise Fault("its process has ended")
        pipes: dict[Any, int] = {}
        for rank, child in enumerate(self.children):
            assert child.stdin is not None and child.stdout is not None
            with suppress(BrokenPipeError):
                child.stdin.write(json.dumps({"do": do, **what}) + "\n")
                child.stdin.flush()
            pipes[child.stdout] = rank
        value: Any = None
        while pipes:
            for pipe in wait(list(pipes)):
                rank = pipes.pop(pipe)
                line = pipe.readline()  # type: ignore[union-attr]
                answer = json.loads(line) if line else {"error": self._last_words()}
                if "error" in answer:
                    if not line or pipes and do != "build":
                        self.close()  # it has ended, or the others may wait for it for ever
                        raise Fault(answer["error"])
                    fault = Fault(answer["error"])
                    value = value if isinstance(value, Fault) else fault
                elif rank == 0 and not isinstance(value, Fault):
                    value = answer["value"]
        if isinstance(value, Fault):
            raise value
        return value

    def timed(self, times: int) -> float:
        """Seconds of one go, over so many."""
        start = perf_counter()
        self.ask("go", times=times)
        return (perf_counter() - start) / times

    def _last_words(self) -> str:
        lines = [line for line in self.errors.read_text(errors="replace").splitlines() if line.strip()]
        return "its process ended" + (f": {lines[-1].strip()}" if lines else "")


class ProcessPool:
    """Processes by contender, started when first needed and kept from case to case."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.held: dict[str, Processes] = {}

    def __enter__(self) -> "ProcessPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def __getitem__(self, name: str) -> Processes:
        if name not in self.held or not self.held[name].children:
            self.held[name] = self.stack.enter_context(Processes(name))
        return self.held[name]


@dataclass(frozen=True)
class Ratio:
    """How many times faster one contender was than another: over rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(slow: list[float], fast: list[float]) -> Ratio:
    """Of the same rounds.

    >>> ratio([2.0, 6.0, 4.0], [1.0, 2.0, 2.0])
    Ratio(median=2.0, low=2.0, high=3.0)
    """
    each = [s / f for s, f in zip(slow, fast, strict=False)]
    return Ratio(median(each), min(each), max(each))


@dataclass(frozen=True)
class Measured:
    """A case, the seconds of one go in every round by contender, and who was left out and why."""

    case: Case
    baseline: str
    rounds: Mapping[str, list[float]]
    left_out: Mapping[str, str]
    errors: Mapping[str, float]
    flops: int

    def faster(self, name: str, baseline: str | None = None) -> Ratio | None:
        """How many times faster than the baseline; None where one of the two has no time."""
        base = baseline or self.baseline
        return ratio(self.rounds[base], self.rounds[name]) if {base, name} <= set(self.rounds) else None

    def rows(self) -> dict[str, dict[str, Any]]:
        """Everything by contender, in plain values."""
        rows: dict[str, dict[str, Any]] = {}
        for name, times in self.rounds.items():
            seconds, gain = median(times), self.faster(name)
            rows[name] = {
                "seconds": seconds,
                "ratio": None if gain is None else asdict(gain),
                "gflops": self.flops / seconds / 1e9,
                "error": self.errors.get(name),
                "rounds": times,
            }
        return rows | {name: {"left_out": reason} for name, reason in self.left_out.items()}


def measure_in_turns(
    running: Mapping[str, Processes], case: Case, *, rounds: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of one go by contender and round, and who failed.

    Args:
        running: The contenders.
        case: What they compute.
        rounds: In each of which every contender has a turn.
        seconds: For all rounds together, warming up (and compiling) apart; a turn is at least one go.
    """
    times: dict[str, int] = {}
    taken: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    for name, processes in running.items():
        try:
            processes.ask("build", case=asdict(case))
            processes.timed(1)  # compiles, and fills caches
            once = processes.timed(1)
            times[name] = min(MOST, max(1, int(seconds / rounds / len(running) / once)))
            taken[name] = []
        except Fault as fault:
            failed[name] = str(fault)
    began = perf_counter()
    for done in range(rounds):
        if done >= FEWEST and perf_counter() - began > 1.5 * seconds:
            break
        for name in list(taken):
            try:
                taken[name].append(running[name].timed(times[name]))
            except Fault as fault:
                failed[name] = str(fault)
                del taken[name]
    return taken, failed
