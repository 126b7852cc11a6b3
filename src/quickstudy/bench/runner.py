"""A suite, run: checks, then rounds, then memory, and a row for whoever listens as soon as it is there."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quickstudy.bench import command
from quickstudy.bench.agreement import explain_fault, shrink_case
from quickstudy.bench.contenders import CONTENDERS
from quickstudy.bench.goals import BenchResult
from quickstudy.bench.measure import Fault, Measured, Processes, ProcessPool, measure_in_turns
from quickstudy.bench.suites import Meeting, Suite
from quickstudy.bench.workloads import Case
from quickstudy.errors import RunError
from quickstudy.storage.files import dump_pretty, write_atomic
from quickstudy.storage.versions import describe_machine

CHECKS = "plain tuned"
"""Whose process checks and counts as well, before anything is timed in it."""


@dataclass
class BenchRun:
    """One run of a suite.

    Args:
        suite: What is measured.
        rounds: Of each case.
        seconds: For the rounds of each case.
        say: Told what is being done.
    """

    suite: Suite
    rounds: int
    seconds: float
    say: Callable[[str], None]
    found: BenchResult = field(default_factory=BenchResult)
    about: dict[str, Any] = field(default_factory=dict)
    agreed: dict[tuple[Case, str], float | str] = field(default_factory=dict)
    pool: ProcessPool = field(default_factory=ProcessPool)

    def describe(self) -> dict[str, Any]:
        """The machine, and its peaks with torch's default threads and with one; measured here."""
        self.about = describe_machine()
        for name, who in (("default", "plain"), ("one thread", CHECKS)):
            try:
                self.about[f"peak, {name}"] = self.pool[who].ask("peaks")
            except Fault as fault:
                raise RunError(f"No process can be started to measure in: {fault}.") from fault
        return self.about

    def cells(self) -> Iterator[Measured]:
        """Every timed case of the suite."""
        for i, cell in enumerate(self.suite.cells):
            self.say(f"{i + 1} of {len(self.suite.cells)}: {cell.case}")
            measured = self._measure(cell)
            self.found.measured[cell.case] = measured
            yield measured

    def _measure(self, cell: Meeting) -> Measured:
        case = cell.case
        errors = self._agreement(case, cell.names)
        faults = {name: said for name, one in errors.items() if (said := explain_fault(one)) is not None}
        running = {name: self.pool[name] for name in cell.names if name not in faults}
        rounds, failed = measure_in_turns(running, case, rounds=self.rounds, seconds=self.seconds)
        left_out = {name: (faults | failed)[name] for name in cell.names if name in faults | failed}
        right = {name: one for name, one in errors.items() if name in rounds and isinstance(one, float)}
        try:
            flops = int(self.pool[CHECKS].ask("flops", case=asdict(case)))
        except Fault as fault_of_counting:
            raise RunError(f"The operations of {case} could not be counted: {fault_of_counting}.") from None
        return Measured(case, cell.names[0], rounds, left_out, right, flops)

    def _agreement(self, case: Case, names: tuple[str, ...]) -> Mapping[str, float | str]:
        """What the checks of these contenders came to; cases that are checked alike are checked once.

        A plain forward pass computes something else, on purpose, and is not checked.
        """
        keys = {name: (shrink_case(case), name) for name in names if CONTENDERS[name].maker != "forward"}
        waiting = [name for name, key in keys.items() if key not in self.agreed]
        if waiting:
            try:
                errors = self.pool[CHECKS].ask("check", case=asdict(case), names=waiting)
            except Fault as gone:
                errors = dict.fromkeys(waiting, f"the check failed: {gone}")
            self.agreed |= {keys[name]: one for name, one in errors.items()}
        return {name: self.agreed[key] for name, key in keys.items()}

    def memory(self) -> Iterator[tuple[Case, dict[str, int | str]]]:
        """Peak memory of every case of the suite that asks for it, each in a process that has done nothing else."""
        for cell in self.suite.memory:
            errors = self._agreement(cell.case, cell.names)
            peaks: dict[str, int | str] = {}
            for name in cell.names:
                self.say(f"memory: {cell.case}, {name}")
                wrong = explain_fault(errors[name]) if name in errors else None
                peaks[name] = self._peak(cell.case, name) if wrong is None else wrong
            self.found.memory[cell.case] = peaks
            yield cell.case, peaks

    @staticmethod
    def _peak(case: Case, name: str) -> int | str:
        with Processes(name) as fresh:
            try:
                fresh.ask("build", case=asdict(case))
                return int(fresh.ask("memory"))
            except Fault as fault:
                return str(fault)

    def goals(self) -> list[dict[str, Any]]:
        """What is read off at the end; the whole command runs here, where the suite asks for it."""
        if self.suite.goals:
            self.say("the whole command `quickstudy train sine-mtnet`, twice")
            self.found.command = command.timed()
        return [goal.judged(self.found) for goal in self.suite.goals]

    def written(self, folder: Path, goals: list[dict[str, Any]]) -> Path:
        """Everything in bench.json."""
        whole = {
            "machine": self.about,
            "contenders": {name: who.about for name, who in CONTENDERS.items()},
            "cells": [
                asdict(m.case) | {"baseline": m.baseline, "flops": m.flops, "contenders": m.rows()}
                for m in self.found.measured.values()
            ],
            "memory": [asdict(case) | {"contenders": peaks} for case, peaks in self.found.memory.items()],
            "command": self.found.command,
            "goals": goals,
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "bench.json"
        write_atomic(path, dump_pretty(whole))
        return path
