"""`quickstudy demo`: five methods side by side on alphabets that they have never seen, one table and one report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapreplace
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from quickstudy.cli.command import Command, Folder
from quickstudy.cli.job_processes import Job, JobProcesses, PipeWatcher
from quickstudy.cli.terminal import Console, TrainingBars
from quickstudy.errors import InputError, RunError, printable

if TYPE_CHECKING:
    from quickstudy.training.config import Config

ROWS = (
    # title in the table, configuration, overrides
    ("nearest neighbour on pixels", "drawings-nearest", ()),
    ("untrained net, adapted as MAML", "drawings-maml", ("--train.steps", "0")),
    ("MAML", "drawings-maml", ()),
    ("MT-net", "drawings-mtnet", ()),
    ("Wormhole MAML", "drawings-wormhole", ()),
    ("HyperMAML", "drawings-hypermaml", ()),
    ("ProtoNet", "drawings-protonet", ()),
)
QUICK_TASKS = 100
"""Test tasks under `--steps`."""
DEMO_SECONDS = 165.0
"""How long the demo may take. The end (evaluation, report) takes about as long as the start (imports, measurement)."""
LEAST_SECONDS = 30.0
"""How long the trainings may take together even where the start took long."""
MEASURED_STEPS = 12
"""Steps that are tried to measure the speed of a method, at equal distances over its training."""


@dataclass(frozen=True)
class Demo(Command):
    """Train five methods side by side on real drawings, test on new alphabets: a table and a report in minutes."""

    out: Folder = None
    """Directory for the runs and the report (default: runs/demo, or the next free number)."""
    seed: int = 0
    """Seed of the models' start and of the training tasks."""
    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Train each method for at most so many steps and evaluate on 100 tasks, for a quick look at the output."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Measure, train and evaluate side by side; print the table, write the report."""
        if self.steps is not None and self.steps < 1:
            raise InputError(f"`--steps` was {self.steps}; give 1 or more.")
        begun = perf_counter()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with JobProcesses(min(cores, len(ROWS)), console) as processes:
            # Imported while the processes import the same: both take seconds.
            from quickstudy.reports.report import write_report
            from quickstudy.storage.run import Run, free_path
            from quickstudy.training import config

            folder = Path(self.out) if self.out else free_path(Path("runs") / "demo")
            whole = {
                title: config.load_config(name, [*changes, "--seed", str(self.seed), "--compute.threads", "1"])
                for title, name, changes in ROWS
            }
            places = {title: folder / title.lower().replace(" ", "-").replace(",", "") for title in whole}
            if taken := next((place for place in places.values() if (place / "config.yaml").exists()), None):
                raise InputError(f"{taken} already holds a run. Give another directory.")
            seconds = {} if self.steps else measure(whole, processes)
            left = max(LEAST_SECONDS, DEMO_SECONDS - 2 * (perf_counter() - begun))
            settings = self._shorten(whole, seconds, cores, left)
            longest_first = sorted(settings, key=lambda title: seconds.get(title, 0.0), reverse=True)
            bars = TrainingBars(console)
            with bars.progress:
                steps = {title: bars.add(title, settings[title].train.steps) for title in settings}
                try:
                    summaries = processes.run(
                        [Job(title, _train_and_evaluate, (settings[title], places[title])) for title in longest_first],
                        lambda title, step, loss: steps[title](step, loss),
                    )
                except KeyboardInterrupt:
                    left_off = [
                        place
                        for title, place in places.items()
                        if whole[title].train.steps
                        and (place / "config.yaml").exists()
                        and not (place / "results").exists()
                    ]
                    if not left_off:
                        raise
                    raise RunError(
                        f"Stopped; what was trained is saved in {folder}. Continue a training with: quickstudy train "
                        f"--resume {left_off[0]}" + "".join(f" (or {place})" for place in left_off[1:])
                    ) from None
        for title in settings:
            if console.json:
                console.print_json({"row": title, **summaries[title]})
        page = write_report([Run.open(place) for place in places.values()], folder / "report")
        if console.json:
            console.print_json({"report": str(page)})
            return
        print_table(
            console,
            [(title, summaries[title], one.train.steps, whole[title].train.steps) for title, one in settings.items()],
        )
        print(f"report: {printable(page)}")

    def _shorten(
        self, whole: dict[str, Config], seconds: dict[str, float], cores: int, left: float
    ) -> dict[str, Config]:
        """The configurations with as many steps as there is time for on these cores, or as `--steps` says."""
        if self.steps is not None:
            return {title: shorten(one, min(self.steps, one.train.steps), QUICK_TASKS) for title, one in whole.items()}
        ends = [0.0] * cores
        for taken in sorted(seconds.values(), reverse=True):
            heapreplace(ends, ends[0] + taken)
        share = min(1.0, left / max(ends))
        return {title: shorten(one, ceil(share * one.train.steps), one.evaluate.tasks) for title, one in whole.items()}


def measure(whole: dict[str, Config], processes: JobProcesses) -> dict[str, float]:
    """Seconds that each whole training would take here, with a process on every core."""
    trained = {title: one for title, one in whole.items() if one.train.steps}
    steps = processes.run([Job(title, _measure_step, (one,)) for title, one in trained.items()], lambda *_: None)
    return {title: steps[title] * one.train.steps for title, one in trained.items()}


def shorten(settings: Config, steps: int, tasks: int) -> Config:
    """A configuration of fewer steps, whose milestones and schedules are at the same shares of the training."""
    from quickstudy.training.config.schedule import Ramp

    train = settings.train
    share = steps / max(train.steps, 1)
    schedules = dict(train.schedules)
    for path, schedule in train.schedules.items():
        if isinstance(schedule, Ramp):
            start, end = round(share * schedule.start), round(share * schedule.end)
            schedules[path] = schedule.model_copy(update={"start": start, "end": max(end, start + 1)})
    shorter = train.model_copy(
        update={
            "steps": steps,
            "milestones": tuple(round(share * milestone) for milestone in train.milestones),
            "validate_every": ceil(share * (train.validate_every or 0)),
            "schedules": schedules,
        }
    )
    return settings.model_copy(
        update={"train": shorter, "evaluate": settings.evaluate.model_copy(update={"tasks": tasks})}
    )


def _measure_step(watcher: PipeWatcher, settings: Config) -> float:
    """Seconds that a step of a training takes: the mean over its phases."""
    from quickstudy.engine.threads import use_threads
    from quickstudy.training import config
    from quickstudy.training.config.schedule import apply_schedules

    del watcher
    setup = config.build(settings)
    train = settings.train
    source = setup.family.source("train", seed=settings.seed, size=train.meta_batch_size)
    start = perf_counter()
    with use_threads(settings.compute.threads):
        for number in range(MEASURED_STEPS + 1):
            if number == 1:  # the first one warms up
                start = perf_counter()
            step = number * train.steps // (MEASURED_STEPS + 1)
            apply_schedules(setup.learner, train.schedules, step)
            setup.learner.meta_gradient(source(step), seed=settings.seed, reduction=train.reduction)
    return (perf_counter() - start) / MEASURED_STEPS


def _train_and_evaluate(watcher: PipeWatcher, settings: Config, place: Path) -> dict[str, Any]:
    from quickstudy.storage.run import Run
    from quickstudy.training import config
    from quickstudy.training.evaluate_run import evaluate_run
    from quickstudy.training.train import train

    setup = config.build(settings)
    run = Run.create(place, setup.config.model_dump(mode="json"))
    with watcher.in_training():
        train(setup, run, watcher)
    return evaluate_run(run)


def print_table(console: Console, rows: Sequence[tuple[str, dict[str, Any], int, int]]) -> None:
    """The table that the README shows: titles, results, the steps that were trained and those of a whole training."""
    from quickstudy.reports.report import format_score

    first = rows[0][1]
    data = first["data"]
    fewer = any(trained < whole for *_, trained, whole in rows)
    console.table(
        f"{data['ways']}-way {data['shots']}-shot {data['name']} ({data['split_rule']})",
        ("", "accuracy", "adapt ms", "train s", "steps"),
        [
            (
                title,
                format_score(summary),
                f"{summary['adapt_ms']:.1f}",
                f"{summary['train_seconds']:.0f}" if trained else "-",
                f"{trained} of {whole}" if trained < whole else str(whole or "-"),
            )
            for title, summary, trained, whole in rows
        ],
        caption=f"Accuracy on {first['tasks']} test tasks of {data['queries']} queries a class, ± 95% interval over "
        f"tasks; list {first['hash']}. The test's alphabets were never trained on. Norms: {rows[2][1]['norms']}."
        + (" Trainings took fewer steps than their configurations say." if fewer else ""),
    )
