"""From a run directory back to a learner."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from quickstudy.engine.distributed import ALONE, World
from quickstudy.errors import InputError
from quickstudy.evaluation.leakage import check_unseen
from quickstudy.methods.learner import Learner
from quickstudy.storage.checkpoints import check_matches
from quickstudy.storage.run import Run
from quickstudy.tasks import TaskFamily
from quickstudy.training.config import Setup, build, build_tasks, parse_config, schedule
from quickstudy.training.config.overrides import parse_overrides


def load_model(setup: Setup, tensors: Mapping[str, Tensor], what: str) -> None:
    """Put a checkpoint's model into the learner; refuse one of another method or other shapes."""
    own = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    check_matches(own, setup.learner.state_dict(), what)
    setup.learner.load_state_dict(own)


def load(path: str | Path, checkpoint: str | None = None) -> Learner:
    """The trained learner of a run: `load("runs/first").adapt(Examples(x, y))` is a classifier.

    The run's tasks are built for it, so their data must be where they were.

    Args:
        path: The run directory.
        checkpoint: "best" or "last"; by default best where there is one.
    """
    return restore(Run.open(path), checkpoint)[0].learner


def restore(
    run: Run, checkpoint: str | None = None, overrides: Sequence[str] = (), world: World = ALONE
) -> tuple[Setup, dict[str, Any]]:
    """The learner of a run as it will be used, and the checkpoint's state.

    Args:
        run: The run.
        checkpoint: "best" or "last"; by default best where there is one.
        overrides: `--key.sub value` pairs: other shots, more evaluation steps.
        world: Of several workers, the first reads the run.
    """
    name = checkpoint or world.from_first(lambda: "best" if "best" in run.checkpoints() else "last")
    for keys, _ in parse_overrides(overrides):
        if keys[0] in ("train", "seed", "format", "init_from"):
            raise InputError(
                f"`--{'.'.join(keys)}` belongs to the training of {run.path}. Evaluations are changed by --evaluate.* "
                "(tasks, split, seed, metric, options), --method.* and --tasks.*."
            )
    setup = world.agree(lambda: build(parse_config(run.config, overrides)))
    saved = world.from_first(lambda: run.load(name))
    asked_for = any(keys[0] == "tasks" or keys[:2] == ["evaluate", "options"] for keys, _ in parse_overrides(overrides))
    trained = _trained(run, setup) if asked_for else setup.family
    told, split = saved.state.get("tasks", {}), setup.config.evaluate.split
    check_unseen(str(run.path), told, trained, setup.judged, split, asked_for=asked_for)
    load_model(setup, saved.tensors, f"Checkpoint `{name}` of {run.path}")
    # A run stopped in its warm-up is judged as what it was to become: HyperMAML by its emission, say.
    schedules = setup.config.train.schedules
    schedule.apply_schedules(setup.learner, schedules, schedule.last_step(schedules))
    setup.learner.eval()
    return setup, {**saved.state, "checkpoint": name}


def _trained(run: Run, setup: Setup) -> TaskFamily:
    """The tasks of training; where their files are elsewhere by now, those that were asked for."""
    try:
        return build_tasks(parse_config(run.config).tasks)[0]
    except InputError:
        return setup.family
