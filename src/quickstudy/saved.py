"""From a run directory back to a learner."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from quickstudy import schedule
from quickstudy.config import Setup, build, parse
from quickstudy.errors import InputError, RunError
from quickstudy.runs import Run, check_matches
from quickstudy.types import Task, pick


def load_model(setup: Setup, tensors: Mapping[str, Tensor], what: str) -> None:
    """Put a checkpoint's model into the learner; refuse one of another method or other shapes."""
    own = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    check_matches(own, setup.learner.state_dict(), what)
    setup.learner.load_state_dict(own)


def restore(run: Run, checkpoint: str | None = None, overrides: Sequence[str] = ()) -> tuple[Setup, dict[str, Any]]:
    """The learner of a run as it will be used, and the checkpoint's state.

    Args:
        run: The run.
        checkpoint: "best" or "last"; by default best where there is one.
        overrides: `--key.sub value` pairs: other shots, more evaluation steps.
    """
    name = checkpoint or ("best" if "best" in run.checkpoints() else "last")
    setup = build(parse(run.config, overrides))
    saved = run.load(name)
    load_model(setup, saved.tensors, f"Checkpoint `{name}` of {run.path}")
    # A run stopped in its warm-up is judged as what it was to become: HyperMAML by its emission, say.
    schedules = setup.config.train.schedules
    schedule.apply(setup.learner, schedules, schedule.over(schedules))
    setup.learner.eval()
    return setup, {**saved.state, "checkpoint": name}


def rehearse(setup: Setup, tasks: Task) -> None:
    """Run one task, so that a model that does not fit the tasks is refused before anything is written."""
    shape = list(tasks.support.x.shape[2:])
    try:
        with torch.no_grad():
            outcome = setup.learner(pick(tasks, slice(0, 1)), evaluating=True)
    except (InputError, RunError):
        raise
    except Exception as error:  # the user's model may fail in any way
        raise InputError(
            f"The model fails on these tasks, whose inputs are {shape} and which want {setup.family.outputs} outputs: "
            f"{type(error).__name__}: {' '.join(str(error).split())}. Change the model or the tasks."
        ) from error
    wanted = (1, tasks.query.y.shape[1], setup.family.outputs)
    if tuple(outcome.output.shape) != wanted:
        raise InputError(
            f"The model's output for {wanted[1]} queries has the shape {list(outcome.output.shape[1:])}; the tasks "
            f"want {list(wanted[1:])}. Give the model {setup.family.outputs} outputs."
        )
