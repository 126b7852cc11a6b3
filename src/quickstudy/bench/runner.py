"""Running a suite: agreement, then times, then memory. Each result is handed out as soon as it is there."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quickstudy.bench import command
from quickstudy.bench.agreement import explain_disagreement, shrink_case
from quickstudy.bench.contenders import CONTENDERS
from quickstudy.bench.goals import BenchResult
from quickstudy.bench.measure import ContenderError, Processes, ProcessPool, Timing, measure_in_turns
from quickstudy.bench.suites import Comparison, Suite
from quickstudy.bench.workloads import Case
from quickstudy.errors import RunError
from quickstudy.storage.files import dump_pretty, write_atomic
from quickstudy.storage.versions import describe_machine

CHECKER = "plain tuned"
"""The contender whose process also checks the others and counts operations, before anything is timed in it."""


@dataclass
class BenchRun:
    """One run of a suite."""

    suite: Suite
    rounds: int  # of each case
    seconds: float  # for all rounds of a case
    say: Callable[[str], None]  # called with a line about each piece of work
    result: BenchResult = field(default_factory=BenchResult)  # what was measured so far
    machine: dict[str, Any] = field(default_factory=dict)  # what `describe` found
    # The error of each contender on each shrunken case, or why there is none.
    agreement: dict[tuple[Case, str], float | str] = field(default_factory=dict)
    pool: ProcessPool = field(default_factory=ProcessPool)

    def describe(self) -> dict[str, Any]:
        """The machine, and its measured peak speed with torch's default threads and with one."""
        self.machine = describe_machine()
        for name, contender in (("default", "plain"), ("one thread", CHECKER)):
            try:
                self.machine[f"peak, {name}"] = self.pool[contender].ask("peaks")
            except ContenderError as error:
                raise RunError(f"No process can be started to measure in: {error}.") from error
        self.result.peak = self.machine["peak, default"]["matmul"]
        return self.machine

    def time_cases(self) -> Iterator[Timing]:
        """Time every case of the suite."""
        for i, comparison in enumerate(self.suite.speed):
            self.say(f"{i + 1} of {len(self.suite.speed)}: {comparison.case}")
            timing = self._time(comparison)
            self.result.timings[comparison.case] = timing
            yield timing

    def _time(self, comparison: Comparison) -> Timing:
        case, names = comparison.case, comparison.names
        errors = self._check_agreement(case, names)
        reasons = {n: reason for n, error in errors.items() if (reason := explain_disagreement(error)) is not None}
        running = {name: self.pool[name] for name in names if name not in reasons}
        rounds, failed = measure_in_turns(running, case, rounds=self.rounds, seconds=self.seconds)
        left_out = {name: (reasons | failed)[name] for name in names if name in reasons | failed}
        right = {name: error for name, error in errors.items() if name in rounds and isinstance(error, float)}
        try:
            flops = int(self.pool[CHECKER].ask("flops", case=asdict(case)))
        except ContenderError as error:
            raise RunError(f"The operations of {case} could not be counted: {error}.") from None
        return Timing(case, names[0], rounds, left_out, right, flops)

    def _check_agreement(self, case: Case, names: tuple[str, ...]) -> Mapping[str, float | str]:
        """The error of each of these contenders. Cases with the same shrunken case are checked once.

        A forward pass computes something else, on purpose, and is not checked.
        """
        keys = {name: (shrink_case(case), name) for name in names if CONTENDERS[name].implementation != "forward"}
        unchecked = [name for name, key in keys.items() if key not in self.agreement]
        if unchecked:
            try:
                errors = self.pool[CHECKER].ask("check", case=asdict(case), names=unchecked)
            except ContenderError as error:
                errors = dict.fromkeys(unchecked, f"the check failed: {error}")
            self.agreement |= {keys[name]: error for name, error in errors.items()}
        return {name: self.agreement[key] for name, key in keys.items()}

    def measure_memory(self) -> Iterator[tuple[Case, dict[str, int | str]]]:
        """The peak memory of every case that asks for it, each measured in a new process."""
        for comparison in self.suite.memory:
            case = comparison.case
            errors = self._check_agreement(case, comparison.names)
            peaks: dict[str, int | str] = {}
            for name in comparison.names:
                self.say(f"memory: {case}, {name}")
                reason = explain_disagreement(errors[name]) if name in errors else None
                peaks[name] = self._measure_peak(case, name) if reason is None else reason
            self.result.memory[case] = peaks
            yield case, peaks

    @staticmethod
    def _measure_peak(case: Case, name: str) -> int | str:
        with closing(Processes(name)) as processes:
            try:
                processes.ask("build", case=asdict(case))
                return int(processes.ask("memory"))
            except ContenderError as error:
                return str(error)

    def check_goals(self) -> list[dict[str, Any]]:
        """Compare the goals of the suite with what was measured. Where it is one, the whole command is timed here."""
        if any(goal.case is None for goal in self.suite.goals):
            self.say("the whole command `quickstudy train sine-mtnet`, twice: some minutes")
            self.result.command = command.time_command()
        return [goal.check(self.result) for goal in self.suite.goals]

    def write(self, folder: Path, goals: list[dict[str, Any]]) -> Path:
        """Write everything into bench.json."""
        content = {
            "machine": self.machine,
            "contenders": {name: contender.about for name, contender in CONTENDERS.items()},
            "cells": [
                asdict(timing.case) | {"baseline": timing.baseline, "flops": timing.flops, "contenders": timing.rows()}
                for timing in self.result.timings.values()
            ],
            "memory": [asdict(case) | {"contenders": peaks} for case, peaks in self.result.memory.items()],
            "command": self.result.command,
            "goals": goals,
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "bench.json"
        write_atomic(path, dump_pretty(content))
        return path
