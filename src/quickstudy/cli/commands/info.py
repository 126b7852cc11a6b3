"""What `quickstudy info` shows: the machine, a run, or what a configuration would take."""

import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quickstudy.cli import command as verbs
from quickstudy.cli import terminal
from quickstudy.engine import devices
from quickstudy.engine.devices import format_bytes
from quickstudy.engine.engine import Engine, LoopFallback, use_threads
from quickstudy.engine.memory import Need, measure_memory
from quickstudy.errors import InputError, RunError, suggest_nearest
from quickstudy.evaluation.dry_run import dry_run, first_tasks, restoring_buffers
from quickstudy.evaluation.evaluate import BATCH
from quickstudy.reports.report import format_score
from quickstudy.storage.run import Run
from quickstudy.training import config
from quickstudy.training.config import Config, Setup
from quickstudy.types import Task, pick

COPIES = {"adam": 4, "sgd": 2}
"""Of what is trained: itself, its gradient, and the averages that an optimizer keeps (momentum is one more)."""

Rows = dict[str, Any]
"""What is shown, by name; within a row, whole numbers are bytes."""


def info(verb: verbs.Info, rest: Sequence[str]) -> None:
    """Show versions and devices; of a run, where it stands; of a configuration, what it would take."""
    held = verb.run is not None and (Path(verb.run) / "config.yaml").is_file()
    if verb.run is not None and not held and (rest or verb.run in config.shipped_configs() or Path(verb.run).is_file()):
        rows = of_config(config.load_config(verb.run, rest))
    elif rest:
        raise InputError(f"`{' '.join(rest)}` changes a configuration, so give one: quickstudy info CONFIG.")
    elif verb.run is None:
        rows = machine()
    else:
        try:
            rows = of_run(Run.open(verb.run))
        except InputError as error:
            if held:  # a run, and a damaged one
                raise
            raise InputError(
                f"{error} Nor is it a configuration. {suggest_nearest(verb.run, config.shipped_configs())}"
            ) from error
    if verb.json:
        terminal.print_json(rows)
    else:
        terminal.listing("", {name: _worded(value) for name, value in rows.items()})


def _worded(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {format_bytes(part) if isinstance(part, int) else part}" for name, part in value.items())


def machine() -> Rows:
    """Versions, devices and extras."""
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": np.__version__,
        **devices.list_devices(),
        "extras": ", ".join(
            f"{extra} {'yes' if find_spec(module) else 'no'}"
            for extra, module in (
                ("plot", "matplotlib"),
                ("data", "sklearn"),
                ("track", "tensorboard"),
                ("sweep", "optuna"),
            )
        ),
    }


def of_run(run: Run) -> Rows:
    """Where a run stands."""
    settings = config.parse_config(run.config)
    rows = run.metrics()
    return {
        "run": str(run.path),
        "method": settings.method.name,
        "tasks": settings.tasks.name,
        "steps": f"{max((row.get('step', 0) for row in rows), default=0)} of {settings.train.steps} logged",
        "checkpoints": ", ".join(f"{name} ({_state(run, name)})" for name in run.checkpoints()) or "none",
        **{f"result {name}": format_score(result.summary) for name, result in run.results().items()},
        "started with": ", ".join(f"{k} {v}" for k, v in run.versions.items()),
    }


def _state(run: Run, name: str) -> str:
    try:
        return f"step {run.load(name).state['step']}"
    except (InputError, RunError):
        return "damaged"


def of_config(asked: Config) -> Rows:
    """What training and evaluating by a configuration would take, measured on two of its tasks."""
    setup = config.build(asked)
    learner, engine = setup.learner, setup.learner.engine
    every = {name: p.numel() for name, p in learner.named_parameters()}
    moved = sum(p.numel() for p in learner.meta_params().values())
    rows: Rows = {
        "tasks": terminal.described(setup.family.describe()),
        "learner": f"{asked.method.name}, {sum(every.values())} parameters, {moved} meta-trained",
    }
    family, on = setup.family.of_split("train"), setup.config.evaluate
    batch = asked.train.meta_batch_size
    with use_threads(asked.compute.threads), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", LoopFallback)
        tasks = first_tasks(setup.family, "train", seed=asked.seed, size=max(batch, 2))
        judged = first_tasks(setup.judged, on.split, seed=on.seed, size=BATCH)
        dry_run(learner, family, tasks, training=bool(moved))
        room, engine.room = engine.room, None  # what a batch takes is asked here, not how it is cut
        engine.chunk = None
        steps = _training(setup, tasks) if moved else None
        judging = _judging(setup, judged)
    rows["backend"] = f"{engine.backend}: {_why(asked, engine, [str(w.message) for w in said])}"
    rows["model"] = {"parameters, gradient and optimizer": moved * 4 * COPIES[asked.train.optimizer]}
    for name, need, size in (("training", steps, batch), ("evaluation", judging, BATCH)):
        if need is not None:
            rows[name] = _row(need, size, engine, asked.compute.chunk, room)
    if steps is not None and isinstance(inner := setup.config.method.options.get("inner_steps"), int):
        longer = {**asked.method.model_dump(), "inner_steps": inner + 1}
        other = config.build(asked.model_copy(update={"method": config.Part.model_validate(longer)}))
        other.learner.engine = Engine(engine.backend)
        rows["an inner step more"] = {"for each task": max(_training(other, tasks).of(1) - steps.of(1), 0)}
    rows["memory"] = {"compute.memory allows": "unknown" if room is None else room, **devices.list_devices()}
    return rows


def _training(setup: Setup, tasks: Task) -> Need:
    with restoring_buffers(setup.learner):
        return measure_memory(lambda n: setup.learner.meta_gradient(pick(tasks, slice(n))))


def _judging(setup: Setup, tasks: Task) -> Need:
    with restoring_buffers(setup.learner), torch.no_grad():
        return measure_memory(lambda n: setup.learner(pick(tasks, slice(n)), evaluating=True))


def _row(need: Need, size: int, engine: Engine, chunk: int | None, room: int | None) -> Rows:
    """Under `vmap` the memory of all tasks of a chunk is held at once; on the loop, that of one task."""
    one = need.of(1)
    over: Rows = {} if room is None or one <= room else {"too much": "one task takes more than compute.memory allows"}
    if engine.backend == "loop":
        return {"tasks": f"{size}, one at a time", "in all": one, **over}
    fits = min(chunk or (size if room is None else need.fitting(room)), size)
    taken = f"{size}, all at once" if fits == size else f"{size}, {fits} at once"
    return {"tasks": taken, "in all": need.of(fits), "a task": need.task, "and once": need.fixed, **over}


def _why(asked: Config, engine: Engine, said: Sequence[str]) -> str:
    if said:
        return said[0]
    if asked.compute.backend != "auto":
        return "as asked for"
    if engine.backend == "loop":
        return "convolutions over pictures of this size are faster one task at a time on a CPU"
    return "all tasks in one pass are fastest here"
