"""`quickstudy info`: the machine, a run, a model, or what a configuration would take."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

import quickstudy
from quickstudy.cli.command import ConfigCommand
from quickstudy.cli.terminal import Console, describe_pairs, describe_values
from quickstudy.errors import InputError, RunError, suggest_nearest

if TYPE_CHECKING:
    from quickstudy.engine.engine import Engine
    from quickstudy.engine.memory import MemoryNeed
    from quickstudy.storage.run import Run
    from quickstudy.training.config import Config, Setup
    from quickstudy.types import Task

COPIES = {"adam": 4, "sgd": 2}
"""Numbers in memory for each number that is trained: itself, its gradient, and the averages of the optimizer."""

Rows = dict[str, Any]
"""What is shown, by name. An int inside a row is an amount of memory in bytes."""


@dataclass(frozen=True)
class Info(ConfigCommand):
    """Show versions and devices, what is in a run or a model, or what memory a configuration would take."""

    target: Positional[Annotated[str | None, arg(metavar="RUN_MODEL_OR_CONFIG", help_behavior_hint="")]] = None
    """A run or a model; or a YAML file or the name of a configuration that ships, with --key.sub value overrides."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Find out what was named, and describe it."""
        rows = self._describe(console, overrides)
        if console.json:
            console.print_json(rows)
        else:
            if isinstance(counts := rows.get("classes"), dict):
                rows["classes"] = describe_pairs(counts)
            console.listing("", {name: _format_row(value) for name, value in rows.items()})

    def _describe(self, console: Console, overrides: Sequence[str]) -> Rows:
        from quickstudy.storage.model_files import is_model
        from quickstudy.storage.run import Run
        from quickstudy.training import config

        name = self.target
        is_run = name is not None and (Path(name) / "config.yaml").is_file()
        is_config = name is not None and (bool(overrides) or name in config.shipped_configs() or Path(name).is_file())
        if name is not None and is_config and not is_run:
            return describe_config(self.with_trust(console, partial(config.load_config, name, overrides)))
        if overrides:
            raise InputError(f"`{' '.join(overrides)}` changes a configuration, so give one: quickstudy info CONFIG.")
        if name is None:
            return describe_environment()
        if is_model(Path(name)):
            return self.with_trust(console, partial(describe_saved, Path(name)))
        try:
            return describe_run(Run.open(name))
        except InputError as error:
            if is_run:  # and a damaged one
                raise
            raise InputError(
                f"{error} Nor is it a configuration. {suggest_nearest(name, config.shipped_configs())}"
            ) from error


def _format_row(value: Any) -> str:
    from quickstudy.engine.devices import format_bytes

    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {format_bytes(part) if isinstance(part, int) else part}" for name, part in value.items())


def describe_environment() -> Rows:
    """Versions, devices and extras."""
    import numpy as np
    import torch

    from quickstudy.engine import devices
    from quickstudy.storage.versions import list_extras

    return {
        "quickstudy": quickstudy.__version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": np.__version__,
        **devices.list_devices(),
        "extras": ", ".join(f"{extra} {'yes' if there else 'no'}" for extra, there in list_extras().items()),
    }


def describe_run(run: Run) -> Rows:
    """How far a run has come, and what it holds."""
    from quickstudy.reports.report import format_score
    from quickstudy.training import config

    settings = config.parse_config(config.complete_run(run.config))
    rows = run.metrics()
    return {
        "run": str(run.path),
        "method": settings.method.name,
        "tasks": settings.tasks.name,
        "steps": f"{max((row.get('step', 0) for row in rows), default=0)} of {settings.train.steps} logged",
        "checkpoints": ", ".join(f"{name} ({_checkpoint_state(run, name)})" for name in run.checkpoints()) or "none",
        **{f"result {name}": format_score(result.summary) for name, result in run.results().items()},
        "started with": describe_pairs(run.versions) or "not recorded",
    }


def _checkpoint_state(run: Run, name: str) -> str:
    from quickstudy.storage.checkpoints import describe_step

    try:
        return describe_step(run.load(name))
    except (InputError, RunError):
        return "damaged"


def describe_saved(path: Path, trust: bool = False) -> Rows:
    """What a saved model or learner is, and what is known of its probabilities."""
    from quickstudy.cli.taught import describe_model
    from quickstudy.everyday.classifier import FewShotClassifier
    from quickstudy.everyday.opening import open as open_model
    from quickstudy.methods.learner import Learner
    from quickstudy.training.config import Blueprint

    opened = open_model(path, trust=trust)
    rows: Rows = {"model": str(path), "kind": type(opened).__name__}
    if isinstance(opened, FewShotClassifier):
        about = describe_model(opened)
        notes = about.pop("notes")
        about["calibration"] = about["calibration"] or "none"
        return rows | about | {f"note {number + 1}": note for number, note in enumerate(notes)}
    if not isinstance(opened, Learner):
        usual = opened.deviation_ if isinstance(opened.deviation_, float) else opened.deviation_.tolist()
        return rows | {"base": opened._base.regression, "examples": len(opened._x), "usual error": usual}
    blueprint = Blueprint.model_validate(opened.blueprint)
    rows["norms"] = opened.norms
    if blueprint.method is not None:
        rows |= {"method": blueprint.method.name, "model of": blueprint.model.name if blueprint.model else "none"}
    if blueprint.trained_norms is not None:
        rows["norms of training"] = blueprint.trained_norms
    if blueprint.norms_cost is not None:
        rows["cost of norms"] = blueprint.norms_cost
    rows |= {f"trained {name}": str(value) for name, value in blueprint.trained.items() if name != "tasks"}
    rows |= {f"calibration {number + 1}": str(one) for number, one in enumerate(blueprint.calibrations)}
    return rows | {f"error of {shots}": str(error) for shots, error in blueprint.errors.items()}


def describe_config(settings: Config) -> Rows:
    """What training and evaluating by a configuration would take, measured on a few of its tasks."""
    from quickstudy.engine import devices
    from quickstudy.engine.engine import Engine, LoopFallbackWarning
    from quickstudy.engine.threads import use_threads
    from quickstudy.evaluation.dry_run import draw_first_tasks, dry_run
    from quickstudy.evaluation.evaluate import BATCH
    from quickstudy.training import config

    setup = config.build(settings)
    learner, engine = setup.learner, setup.learner.engine
    every = {name: p.numel() for name, p in learner.named_parameters()}
    moved = sum(p.numel() for p in learner.meta_params().values())
    rows: Rows = {
        "tasks": describe_values(setup.family.describe()),
        "learner": f"{settings.method.name}, {sum(every.values())} parameters, {moved} meta-trained",
    }
    family, on = setup.family.of_split("train"), setup.config.evaluate
    batch = settings.train.meta_batch_size
    with use_threads(settings.compute.threads), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", LoopFallbackWarning)
        tasks = draw_first_tasks(setup.family, "train", seed=settings.seed, size=max(batch, 2))
        judged = draw_first_tasks(setup.eval_family, on.split, seed=on.seed, size=BATCH)
        dry_run(learner, family, tasks, training=bool(moved))
        room, engine = engine.memory, engine.replace(chunk=None)
        learner.engine, engine.memory = engine, None  # the whole batch is measured, not cut into chunks
        steps = _measure_training(setup, tasks) if moved else None
        judging = _measure_evaluation(setup, judged)
    rows["backend"] = f"{engine.backend}: {_explain_backend(settings, engine, [str(w.message) for w in said])}"
    rows["model"] = {"parameters, gradient and optimizer": moved * 4 * COPIES[settings.train.optimizer]}
    for name, need, size in (("training", steps, batch), ("evaluation", judging, BATCH)):
        if need is not None:
            rows[name] = _memory_row(need, size, engine, settings.compute.chunk, room)
    if steps is not None and isinstance(inner := setup.config.method.options.get("inner_steps"), int):
        longer = {**settings.method.model_dump(), "inner_steps": inner + 1}
        other = config.build(settings.model_copy(update={"method": config.Part.model_validate(longer)}))
        other.learner.engine = Engine(engine.backend)
        rows["an inner step more"] = {"for each task": max(_measure_training(other, tasks).of(1) - steps.of(1), 0)}
    rows["memory"] = {"compute.memory allows": "unknown" if room is None else room, **devices.list_devices()}
    return rows


def _measure_training(setup: Setup, tasks: Task) -> MemoryNeed:
    from quickstudy.engine.memory import measure_memory
    from quickstudy.evaluation.dry_run import restoring_buffers
    from quickstudy.types import pick

    with restoring_buffers(setup.learner):
        return measure_memory(lambda n: setup.learner.meta_gradient(pick(tasks, slice(n))))


def _measure_evaluation(setup: Setup, tasks: Task) -> MemoryNeed:
    import torch

    from quickstudy.engine.memory import measure_memory
    from quickstudy.evaluation.dry_run import restoring_buffers
    from quickstudy.types import pick

    with restoring_buffers(setup.learner), torch.no_grad():
        return measure_memory(lambda n: setup.learner(pick(tasks, slice(n)), evaluating=True))


def _memory_row(need: MemoryNeed, size: int, engine: Engine, chunk: int | None, room: int | None) -> Rows:
    """Under `vmap` the memory of all tasks of a chunk is held at once; on the loop, that of one task."""
    one = need.of(1)
    over: Rows = {} if room is None or one <= room else {"too much": "one task takes more than compute.memory allows"}
    if engine.backend == "loop":
        return {"tasks": f"{size}, one at a time", "in all": one, **over}
    fits = min(chunk or (size if room is None else need.tasks_in(room)), size)
    taken = f"{size}, all at once" if fits == size else f"{size}, {fits} at once"
    return {"tasks": taken, "in all": need.of(fits), "a task": need.task, "and once": need.fixed, **over}


def _explain_backend(settings: Config, engine: Engine, said: Sequence[str]) -> str:
    if said:
        return said[0]
    if settings.compute.backend != "auto":
        return "as asked for"
    if engine.backend == "loop":
        return "convolutions over pictures of this size are faster one task at a time on a CPU"
    return "all tasks in one pass are fastest here"
