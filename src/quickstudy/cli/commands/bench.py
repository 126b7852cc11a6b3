"""What `quickstudy bench` does: measure, print as it goes, write numbers and plots."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

from quickstudy.bench.contenders import CONTENDERS, chosen_peers
from quickstudy.bench.measure import Measured
from quickstudy.bench.runner import BenchRun
from quickstudy.bench.suites import SUITES, suite
from quickstudy.bench.workloads import WORKLOADS, Case
from quickstudy.cli import command as verbs
from quickstudy.cli import terminal
from quickstudy.errors import InputError
from quickstudy.storage.files import explain_disk_errors


def bench(verb: verbs.Bench) -> None:
    """Measure a suite."""
    if verb.rounds < 1:
        raise InputError(f"--rounds was {verb.rounds}; at least one is needed, and 5 show a spread.")
    if not 0 < verb.seconds < inf:
        raise InputError(
            f"--seconds was {verb.seconds:g}; it is the time for the rounds of a case, so a number above 0."
        )
    chosen = suite(verb.suite or "quick").only(
        _words(verb.methods), chosen_peers(_words(verb.peers)), verb.cases or "*"
    )
    folder = None if verb.out is None else Path(verb.out)
    if folder is not None:
        with explain_disk_errors(folder, "Give a directory that can be made and written: --out DIRECTORY."):
            folder.mkdir(parents=True, exist_ok=True)  # refused here rather than when all is measured
    quiet = verb.quiet or verb.json
    one = BenchRun(chosen, verb.rounds, verb.seconds, say=(lambda text: None) if quiet else terminal.note)
    with _ending(), one.pool:
        machine = one.describe()
        if verb.json:
            terminal.print_json({"machine": machine})
        else:
            terminal.listing("machine", {name: _said(value) for name, value in machine.items()})
        for measured in one.cells():
            _show(measured, machine, verb)
            if folder is not None:
                one.written(folder, [])  # an interruption loses the case that was running, and no other
        for case, peaks in one.memory():
            _show_memory(case, peaks, verb)
        goals = one.goals()
        _show_goals(goals, verb)
    if folder is not None:
        _write(one, folder, goals, verb)


@contextmanager
def _ending() -> Iterator[None]:
    """A polite kill is an interruption: the contenders' processes end, and their folders go."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def suites() -> dict[str, str]:
    """Every suite in words."""
    return {name: make().about for name, make in SUITES.items()}


def _words(given: str | None) -> list[str] | None:
    return None if given is None else [word.strip() for word in given.split(",") if word.strip()]


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['matmul']:.0f} GFLOP/s matmul, {value['conv']:.0f} convolution, {value['threads']:.0f} threads"
    return "unknown" if value is None else str(value)


def _show(measured: Measured, machine: dict[str, Any], verb: verbs.Bench) -> None:
    rows = measured.rows()
    if verb.json:
        terminal.print_json({"case": str(measured.case), "baseline": measured.baseline, "contenders": rows})
        return
    kind = "conv" if measured.case.load.ways else "matmul"
    shown = []
    for name, row in rows.items():
        if "left_out" in row:
            continue
        peak = machine["peak, default" if CONTENDERS[name].threads is None else "peak, one thread"][kind]
        share = row["gflops"] / (peak * CONTENDERS[name].processes)
        gain = measured.faster(name)
        shown.append(
            (
                name,
                f"{1e3 * median(row['rounds']):.3g}",
                str(gain) if gain else "",
                f"{row['gflops']:.3g}",
                f"{share:.0%}",
                "-" if row["error"] is None else f"{row['error']:.0e}",
            )
        )
    what = "a training step" if measured.case.phase == "train" else "an evaluation"
    title = f"{measured.case}: {WORKLOADS[measured.case.workload].about}; {what} of {measured.case.tasks} tasks"
    columns = ("contender", "ms", f"times faster than {measured.baseline}", "GFLOP/s", "of peak", "error")
    terminal.table(title, columns, shown)
    if not verb.quiet:
        for name, reason in measured.left_out.items():
            terminal.note(f"{name} is left out: {reason}")


def _show_memory(case: Case, peaks: dict[str, int | str], verb: verbs.Bench) -> None:
    if verb.json:
        terminal.print_json({"case": str(case), "peak_bytes": peaks})
        return
    rows = [(name, f"{peak / 1e6:.1f}") for name, peak in peaks.items() if isinstance(peak, int)]
    terminal.table(f"{case}: peak memory above the level before", ("contender", "MB"), rows)
    if not verb.quiet:
        for name, reason in peaks.items():
            if isinstance(reason, str):
                terminal.note(f"{name} is left out: {reason}")


def _show_goals(goals: list[dict[str, Any]], verb: verbs.Bench) -> None:
    if verb.json:
        for goal in goals:
            terminal.print_json(goal)
        return
    words = {True: "met", False: "MISSED", None: "not measured"}
    rows = [
        (g["goal"], f"{g['sign']} {g['limit']:g}", "-" if g["value"] is None else f"{g['value']:.3g}", words[g["met"]])
        for g in goals
    ]
    if rows:
        terminal.table("targets", ("target", "asked", "measured", ""), rows)


def _write(one: BenchRun, folder: Path, goals: list[dict[str, Any]], verb: verbs.Bench) -> None:
    paths = [one.written(folder, goals)]
    try:
        from quickstudy.bench.plots import draw_plots

        paths += draw_plots(one.found, folder)
    except InputError as missing:  # the numbers are there all the same
        terminal.note(str(missing))
    if verb.json:
        terminal.print_json({"written": [str(path) for path in paths]})
    elif not verb.quiet:
        for path in paths:
            terminal.note(f"written: {path}")
