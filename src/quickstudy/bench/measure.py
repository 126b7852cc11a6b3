"""Fair timing: each contender has its own processes, and in every round all contenders have a turn.

So a slow minute of the machine slows down all of them. Reported is the ratio of two contenders in the same round: its
median, lowest and highest value. This is written here because timing libraries measure one piece of code at a time, in
one process: there the first contender's threads, allocator and caches would change the next one's times.
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
from typing import Any

from quickstudy.bench.contenders import get_contender
from quickstudy.bench.workloads import Case

MAX_REPEATS = 10_000
"""The most steps or evaluations in one turn."""

MIN_ROUNDS = 3
"""So many rounds are run (if asked for) even when they take longer than they should."""


class ContenderError(Exception):
    """Why a contender has no time."""


class Processes:
    """The processes of one contender, used as one. `close` ends them."""

    def __init__(self, name: str) -> None:
        contender = get_contender(name)
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
                    env=contender.environment(),
                )
                for rank in range(contender.processes)
            ]

    def close(self) -> None:
        """End the processes."""
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
        """Send a command to all processes, and wait for all answers. Returned is the first process's answer."""
        if not self.children:
            raise ContenderError("its process has ended")
        pipes: dict[Any, int] = {}
        for rank, child in enumerate(self.children):
            assert child.stdin is not None and child.stdout is not None
            with suppress(BrokenPipeError):
                child.stdin.write(json.dumps({"do": do, **what}) + "\n")
                child.stdin.flush()
            pipes[child.stdout] = rank
        value: Any = None
        first_error: ContenderError | None = None
        while pipes:
            for pipe in wait(list(pipes)):
                rank = pipes.pop(pipe)
                line = pipe.readline()  # type: ignore[union-attr]
                answer = json.loads(line) if line else {"error": self._last_words()}
                if "error" in answer:
                    first_error = first_error or ContenderError(answer["error"])
                    if not line or (pipes and do != "build"):
                        self.close()  # the process has ended, or the others would wait for it for ever
                        raise first_error
                elif rank == 0:
                    value = answer["value"]
        if first_error:
            raise first_error
        return value

    def time(self, times: int) -> float:
        """Seconds of one step or evaluation: the mean over so many."""
        start = perf_counter()
        self.ask("repeat", times=times)
        return (perf_counter() - start) / times

    def _last_words(self) -> str:
        lines = [line for line in self.errors.read_text(errors="replace").splitlines() if line.strip()]
        return "its process ended" + (f": {lines[-1].strip()}" if lines else "")


class ProcessPool(ExitStack):
    """The processes of contenders by name. They are started when first needed, and end with the pool."""

    def __init__(self) -> None:
        super().__init__()
        self.running: dict[str, Processes] = {}

    def __getitem__(self, name: str) -> Processes:
        if name not in self.running or not self.running[name].children:
            self.running[name] = Processes(name)
            self.callback(self.running[name].close)
        return self.running[name]


@dataclass(frozen=True)
class Ratio:
    """How many times faster one contender was than another: median, lowest and highest over rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def compute_ratio(slow: list[float], fast: list[float]) -> Ratio:
    """The ratio of two contenders' times in the same rounds.

    >>> compute_ratio([2.0, 6.0, 4.0], [1.0, 2.0, 2.0])
    Ratio(median=2.0, low=2.0, high=3.0)
    """
    each = [s / f for s, f in zip(slow, fast, strict=False)]
    return Ratio(median(each), min(each), max(each))


@dataclass(frozen=True)
class Timing:
    """The times of one case."""

    case: Case
    baseline: str  # the contender that the others are compared with
    rounds: Mapping[str, list[float]]  # for each contender the seconds of one step or evaluation in every round
    left_out: Mapping[str, str]  # contenders without a time, and the reasons
    errors: Mapping[str, float]  # the relative errors of the contenders' gradients
    flops: int  # the operations of the case

    def speedup(self, name: str, baseline: str | None = None) -> Ratio | None:
        """How many times faster a contender is than the baseline; None if one of the two has no time."""
        base = baseline or self.baseline
        return compute_ratio(self.rounds[base], self.rounds[name]) if {base, name} <= set(self.rounds) else None

    def gflops(self, name: str) -> float | None:
        """The operations of a second; None for a contender without a time."""
        return self.flops / median(self.rounds[name]) / 1e9 if name in self.rounds else None

    def rows(self) -> dict[str, dict[str, Any]]:
        """All results of each contender as plain values."""
        rows: dict[str, dict[str, Any]] = {}
        for name, times in self.rounds.items():
            speedup = self.speedup(name)
            rows[name] = {
                "seconds": median(times),
                "ratio": None if speedup is None else asdict(speedup),
                "gflops": self.gflops(name),
                "error": self.errors.get(name),
                "rounds": times,
            }
        return rows | {name: {"left_out": reason} for name, reason in self.left_out.items()}


def measure_in_turns(
    running: Mapping[str, Processes], case: Case, *, rounds: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Time all contenders in turns. Returned are the seconds of each round by contender, and the errors of the others.

    Args:
        running: The processes of the contenders.
        case: What they compute.
        rounds: The number of rounds. In each of them every contender has a turn.
        seconds: For all rounds together, without warming up and compiling. A turn is at least one step or evaluation.
    """
    times: dict[str, int] = {}
    taken: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    for name, processes in running.items():
        try:
            processes.ask("build", case=asdict(case))
            processes.time(1)  # compiles, and fills caches
            once = processes.time(1)
            times[name] = min(MAX_REPEATS, max(1, int(seconds / rounds / len(running) / once)))
            taken[name] = []
        except ContenderError as error:
            failed[name] = str(error)
    began = perf_counter()
    for done in range(rounds):
        if done >= MIN_ROUNDS and perf_counter() - began > 1.5 * seconds:
            break
        for name in list(taken):
            try:
                taken[name].append(running[name].time(times[name]))
            except ContenderError as error:
                failed[name] = str(error)
                del taken[name]
    return taken, failed
