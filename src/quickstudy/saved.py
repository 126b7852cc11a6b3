"""From a run directory back to a learner."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from quickstudy import schedule
from quickstudy.checkpoints import check_matches
from quickstudy.config import Setup, build, parse
from quickstudy.errors import InputError
from quickstudy.runs import Run
from quickstudy.settings import pairs


def load_model(setup: Setup, tensors: Mapping[str, Tensor], what: str) -> None:
    """Put a checkpoint's model into the learner; refuse one of another method or other shapes."""
    own = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    check_matches(own, setup.learner.state_dict(), what)
    setup.learner.load_state_dict(own)


def part_of(described: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    """Of what tasks say of themselves, what concerns a split: tasks that join several have a description for each.

    >>> part_of({"name": "cross", "train": {"name": "batches", "data": "1f"}, "test": {"name": "digits"}}, "train")
    {'name': 'batches', 'data': '1f'}
    """
    while "data" not in described and isinstance(described.get(split), Mapping):
        described = described[split]
    return described


def restore(run: Run, checkpoint: str | None = None, overrides: Sequence[str] = ()) -> tuple[Setup, dict[str, Any]]:
    """The learner of a run as it will be used, and the checkpoint's state.

    Args:
        run: The run.
        checkpoint: "best" or "last"; by default best where there is one.
        overrides: `--key.sub value` pairs: other shots, more evaluation steps.
    """
    name = checkpoint or ("best" if "best" in run.checkpoints() else "last")
    for keys, _ in pairs(overrides):
        if keys[0] in ("train", "seed", "format", "init_from"):
            raise InputError(
                f"`--{'.'.join(keys)}` belongs to the training of {run.path}. Evaluations are changed by --evaluate.* "
                "(tasks, split, seed, metric, options), --method.* and --tasks.*."
            )
    setup = build(parse(run.config, overrides))
    saved = run.load(name)
    load_model(setup, saved.tensors, f"Checkpoint `{name}` of {run.path}")
    # A run stopped in its warm-up is judged as what it was to become: HyperMAML by its emission, say.
    schedules = setup.config.train.schedules
    schedule.apply(setup.learner, schedules, schedule.over(schedules))
    setup.learner.eval()
    return setup, {**saved.state, "checkpoint": name}
