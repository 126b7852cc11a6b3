"""`quickstudy bench`: measure, print each result as it comes, write numbers and plots."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from quickstudy.cli.command import Command, Folder, Names
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError

if TYPE_CHECKING:
    from quickstudy.bench.measure import Timing
    from quickstudy.bench.runner import BenchRun
    from quickstudy.bench.workloads import Case


@dataclass(frozen=True)
class Bench(Command):
    """Measure this library beside the same methods by hand and beside other libraries, on this machine.

    Every contender has a process of its own and a turn in every round; a ratio is the median over rounds, with the
    lowest and the highest. `plain` is torch.autograd.grad in a loop over tasks, with torch's default threads and
    allocator. A contender whose float64 meta-gradient differs is not timed. Rates count the loop's multiplications and
    additions, against what a large product reaches here. Close other programs first.
    """

    suite: Positional[Annotated[str | None, arg(metavar="SUITE", help_behavior_hint="")]] = None
    """sine, omniglot, mini, hypermaml, memory, workers, sweep-steps, sweep-tasks, sweep-shots, targets (all goals),
    all, or smoke (one small case); by default quick: a selection and its goals, in about four minutes."""
    rounds: int = 5
    """Turns of each contender."""
    seconds: float = 6.0
    """Time for the rounds of one case, all contenders together; compiling and warming up come on top."""
    methods: Names = None
    """Only these, with commas: maml,mtnet,wormhole,hypermaml."""
    cases: Annotated[str | None, arg(metavar="PATTERN", help_behavior_hint="")] = None
    """Only cases whose name, as it is printed, matches: "mini64*train", "*T32*"."""
    peers: Names = None
    """Other libraries, with commas: higher,torchopt,learn2learn,jax, or none (default: all that are installed; get the
    first two by: pip install "quickstudy[peers]")."""
    out: Folder = None
    """Directory for bench.json and, with quickstudy[plot], pictures of cost against tasks, steps and shots."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Measure a suite."""
        from quickstudy.bench.contenders import choose_peers
        from quickstudy.bench.runner import BenchRun
        from quickstudy.bench.suites import get_suite
        from quickstudy.storage.files import explain_disk_errors

        if self.rounds < 1:
            raise InputError(f"--rounds was {self.rounds}; at least one is needed, and 5 show a spread.")
        if not 0 < self.seconds < inf:
            raise InputError(
                f"--seconds was {self.seconds:g}; it is the time for the rounds of a case, so a number above 0."
            )
        chosen = get_suite(self.suite or "quick").only(
            _split_names(self.methods), choose_peers(_split_names(self.peers)), self.cases or "*"
        )
        folder = None if self.out is None else Path(self.out)
        if folder is not None:
            with explain_disk_errors(folder, "Give a directory that can be made and written: --out DIRECTORY."):
                folder.mkdir(parents=True, exist_ok=True)  # refused here rather than when all is measured
        bench = BenchRun(chosen, self.rounds, self.seconds, say=console.note)
        with _interrupt_on_sigterm(), bench.pool:
            machine = bench.describe()
            if console.json:
                console.print_json({"machine": machine})
            else:
                console.listing("machine", {name: _format_property(value) for name, value in machine.items()})
            try:
                for measured in bench.time_cases():
                    _report_times(measured, console)
                    if folder is not None:
                        bench.write(folder, [])  # an interruption loses the case that was running, and no other
                for case, peaks in bench.measure_memory():
                    _report_memory(case, peaks, console)
                goals = bench.check_goals()
            finally:
                _show_table(bench, console)
            _show_goals(goals, console)
        if folder is not None:
            _write_results(bench, folder, goals, console)


@contextmanager
def _interrupt_on_sigterm() -> Iterator[None]:
    """SIGTERM acts as Ctrl-C: the contenders' processes end, and their temporary folders are removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _split_names(given: str | None) -> list[str] | None:
    return None if given is None else [word.strip() for word in given.split(",") if word.strip()]


def _format_property(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['matmul']:.0f} GFLOP/s matmul, {value['conv']:.0f} convolution, {value['threads']:.0f} threads"
    return "unknown" if value is None else str(value)


def _report_times(measured: Timing, console: Console) -> None:
    if console.json:
        rows = measured.rows()
        console.print_json({"case": str(measured.case), "baseline": measured.baseline, "contenders": rows})
    for name, reason in measured.left_out.items():
        console.note(f"{name} is left out: {reason}")


def _report_memory(case: Case, peaks: Mapping[str, int | str], console: Console) -> None:
    if console.json:
        console.print_json({"case": str(case), "peak_bytes": peaks})
    for name, reason in peaks.items():
        if isinstance(reason, str):
            console.note(f"{name} is left out: {reason}")


def _show_table(bench: BenchRun, console: Console) -> None:
    """Everything that was measured, one contender a line; the first contender of a case is what it is compared with."""
    if console.json:
        return
    timed = [
        (str(timing.case) if name == timing.baseline else "", *_time_row(name, row, timing, bench.machine))
        for timing in bench.result.timings.values()
        for name, row in timing.rows().items()
        if "left_out" not in row
    ]
    if timed:
        console.table(
            "",
            ("work", "contender", "ms", "times faster", "GFLOP/s", "of peak", "error"),
            timed,
            caption="K: inner steps, T: tasks of a training step (a meta-gradient and Adam) or an evaluation. Times "
            "faster than the first contender of the work: the median over rounds, the lowest and the highest. Peak: of "
            "a large product with the contender's threads. Error: of its meta-gradient in float64.",
        )
    peaks = [
        (str(case) if i == 0 else "", name, f"{peak / 1e6:.1f}")
        for case, found in bench.result.memory.items()
        for i, (name, peak) in enumerate(found.items())
        if isinstance(peak, int)
    ]
    if peaks:
        console.table("", ("peak memory above the level before", "contender", "MB"), peaks)


def _time_row(name: str, row: Mapping[str, Any], measured: Timing, machine: Mapping[str, Any]) -> tuple[str, ...]:
    from quickstudy.bench.contenders import CONTENDERS

    peak = machine["peak, default" if CONTENDERS[name].threads is None else "peak, one thread"]["matmul"]
    gain = measured.speedup(name)
    return (
        name,
        f"{1e3 * median(row['rounds']):.3g}",
        str(gain) if gain and name != measured.baseline else "",
        f"{row['gflops']:.3g}",
        f"{row['gflops'] / (peak * CONTENDERS[name].processes):.0%}",
        "-" if row["error"] is None else f"{row['error']:.0e}",
    )


def _show_goals(goals: Sequence[dict[str, Any]], console: Console) -> None:
    if console.json:
        for goal in goals:
            console.print_json(goal)
        return
    measured = [goal for goal in goals if goal["met"] is not None]
    missed = [goal for goal in measured if not goal["met"]]
    for goal in missed:
        print(f"Missed: {goal['goal']}: asked {goal['sign']} {goal['limit']:g}, measured {goal['value']:.3g}.")
    if measured:
        print(f"{len(measured) - len(missed)} of {len(measured)} goals are met.")
    if unknown := [goal["goal"] for goal in goals if goal["met"] is None]:
        print(f"Not measured: {'; '.join(unknown)}.")


def _write_results(bench: BenchRun, folder: Path, goals: list[dict[str, Any]], console: Console) -> None:
    paths = [bench.write(folder, goals)]
    try:
        from quickstudy.bench.plots import draw_plots

        paths += draw_plots(bench.result, folder)
    except InputError as missing:  # without matplotlib the numbers are written all the same
        console.note(str(missing), always=True)
    if console.json:
        console.print_json({"written": [str(path) for path in paths]})
    for path in paths:
        console.note(f"written: {path}")
