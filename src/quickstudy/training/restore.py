"""Restoring the learner of a run from its configuration and a checkpoint."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from quickstudy.engine.distributed import SINGLE_WORKER, World
from quickstudy.errors import InputError
from quickstudy.evaluation.leakage import check_leakage
from quickstudy.methods.learner import Learner
from quickstudy.storage.checkpoints import Checkpoint, check_matches
from quickstudy.storage.run import Run
from quickstudy.tasks import TaskFamily
from quickstudy.training.config import Setup, build, build_tasks, check_trust, complete_run, parse_config, schedule
from quickstudy.training.config.overrides import parse_overrides
from quickstudy.training.progress import read_progress


def check_model(setup: Setup, tensors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """A checkpoint's model, for `load_state_dict`. That of another method, of other shapes or types is refused."""
    own = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    check_matches(own, setup.learner.state_dict(), what)
    return own


def load(path: str | Path, checkpoint: str | None = None, *, trust: bool = False) -> Learner:
    """The trained learner of a run: `load("runs/first").adapt(Examples(x, y))` is a classifier.

    The tasks of the run are built too, so their data must still be where they were in training.

    Args:
        path: The run directory.
        checkpoint: "best" or "last". By default "best" if the run has it, else "last".
        trust: Whether the run may run code that its configuration names as `package.module:factory`. The library's own
            names need no trust, and neither does a run that was made here.
    """
    return restore(Run.open(path), checkpoint, trust=trust)[0].learner


def restore(
    run: Run,
    checkpoint: str | None = None,
    overrides: Sequence[str] = (),
    world: World = SINGLE_WORKER,
    *,
    trust: bool = False,
) -> tuple[Setup, dict[str, Any]]:
    """The learner of a run, ready for evaluation, and the state in its checkpoint.

    Args:
        run: The run.
        checkpoint: "best" or "last". By default "best" if the run has it, else "last".
        overrides: `--key.sub value` pairs: other shots, more steps in evaluation.
        world: The workers. The first reads the checkpoint and sends it to the others.
        trust: Whether the run may run code that its configuration names, wherever it comes from.
    """
    changed = [keys for keys, _ in parse_overrides(overrides)]
    for keys in changed:
        if keys[0] in ("train", "seed", "format", "init_from"):
            raise InputError(
                f"`--{'.'.join(keys)}` belongs to the training of {run.path}. Evaluations are changed by --evaluate.* "
                "(tasks, split, seed, metric, options), --method.* and --tasks.*."
            )
    setup = rebuild(run, overrides, world, trust=trust)
    name, saved = world.from_first(partial(_read_checkpoint, run, checkpoint))
    progress = read_progress(saved, f"Checkpoint `{name}` of {run.path}")
    other_tasks = any(keys[0] == "tasks" or keys[:2] == ["evaluate", "options"] for keys in changed)
    check_leakage(
        str(run.path),
        saved.state.get("tasks", {}),
        _build_training_tasks(run, setup) if other_tasks else setup.family,
        setup.eval_family,
        setup.config.evaluate.split,
        other_tasks=other_tasks,
    )
    setup.learner.load_state_dict(check_model(setup, saved.tensors, f"Checkpoint `{name}` of {run.path}"))
    # A run that was stopped during its warm-up is evaluated at its schedules' final values: HyperMAML by its emission.
    schedules = setup.config.train.schedules
    schedule.apply_schedules(setup.learner, schedules, schedule.last_step(schedules))
    setup.learner.eval()
    return setup, {**progress.model_dump(), "checkpoint": name}


def rebuild(run: Run, overrides: Sequence[str] = (), world: World = SINGLE_WORKER, *, trust: bool = False) -> Setup:
    """Build what a run's configuration describes, with overrides. Arguments are those of `restore`."""
    world.from_first(partial(check_trust, run.path, run.config, trust))
    return world.agree(lambda: build(parse_config(complete_run(run.config), overrides)))


def _read_checkpoint(run: Run, name: str | None) -> tuple[str, Checkpoint]:
    name = name or ("best" if "best" in run.checkpoints() else "last")
    return name, run.load(name)


def _build_training_tasks(run: Run, setup: Setup) -> TaskFamily:
    """The tasks of training. Where their files have gone, the tasks of the overrides stand for them."""
    try:
        return build_tasks(parse_config(complete_run(run.config)).tasks)[0]
    except InputError:
        return setup.family
