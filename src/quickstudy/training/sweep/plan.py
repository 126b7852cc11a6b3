"""What a sweep is asked to do, checked before it begins, and the trials that it made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import task_batches
from quickstudy.evaluation.metrics import METRICS
from quickstudy.rules.torch_private import tree_leaves
from quickstudy.training import config
from quickstudy.training.config import Setup
from quickstudy.training.init_from import find_start
from quickstudy.training.sweep.space import Space, as_overrides
from quickstudy.training.train import VALIDATIONS, check_training

COMPARED = 4
"""By so many of their first validation tasks two trials are compared."""


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is asked to do.

    Args:
        name: The name of the study.
        settings: The configuration as given. Drawn values are put into it.
        space: The settings to vary, and their ranges.
        folder: Where the trials are written.
        trials: The number of trials that the study shall have.
        storage: The URL of a database; None for a file in the folder.
        prune: Whether bad trials are stopped early.
        threads: Threads of a trial, unless `settings` gives their number.
        metric: The metric that the trials are compared by.
        steps: Outer steps of a trial.
        trust: Whether trials that were begun elsewhere may run code that their configurations name.
    """

    name: str
    settings: Mapping[Any, Any]
    space: Space
    folder: Path
    trials: int
    storage: str | None
    prune: bool
    threads: int | None
    metric: str
    steps: int
    trust: bool = False

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger metric is better."""
        return METRICS[self.metric].larger_is_better

    @property
    def journal(self) -> Path:
        """The file of a study without a database."""
        return self.folder / "journal.log"

    @property
    def url(self) -> str | None:
        """The URL of the study's database; None if the study is in the journal.

        Sweeps of earlier versions have a SQLite database in their folder, and go on in it.
        """
        database = self.folder / "study.db"
        return self.storage or (f"sqlite:///{database.as_posix()}" if database.is_file() else None)


@checked_dataclass(frozen=True, config=ConfigDict(strict=True))
class Trial:
    """One trial of a sweep, as the study has it. What has another shape is a ValueError.

    Args:
        number: Its number, from 0.
        state: "complete", "pruned", "failed", "running" or "waiting".
        value: Its validation metric, if it is complete.
        params: The settings that were drawn for it.
        error: Why it failed.
        run: The directory of its run.
    """

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    error: str | None
    run: str


def rank_trials(trials: Sequence[Trial], larger_is_better: bool) -> list[Trial]:
    """The complete trials, the best first."""
    complete = [(t.value, t) for t in trials if t.state == "complete" and t.value is not None]
    ranked = sorted(complete, key=lambda pair: (-pair[0] if larger_is_better else pair[0], pair[1].number))
    return [t for _, t in ranked]


def check_space(settings: Mapping[Any, Any], space: Space) -> Setup:
    """Refuse a space that cannot be searched, before anything is written. Returned is the setup of the lower ends.

    Each setting is tried at its ends, or at each of its values, while the others have their first value.
    """
    first = {key: dimension.check_values[0] for key, dimension in space.items()}
    setup = _build_with_validation(settings, first)
    check_training(setup)
    if setup.config.init_from:
        find_start(setup.config.init_from, setup.learner, setup.model_shapes)
    tasks = _validation_tasks(setup)
    for key, dimension in space.items():
        for value in dimension.check_values[1:]:
            try:
                other = _build_with_validation(settings, first | {key: value})
            except InputError as error:
                raise InputError(f"With `{key}` at {value!r}, which is searched: {error}") from error
            if other.metric.name != setup.metric.name:
                raise InputError(
                    f"With `{key}` at {value!r} the metric of a run is {other.metric.name}, at {first[key]!r} it is "
                    f"{setup.metric.name}. These cannot be compared. Search one of them, or set `evaluate.metric`."
                )
            same_number = other.config.train.validate_tasks == setup.config.train.validate_tasks
            if not (same_number and _are_equal(tasks, _validation_tasks(other))):
                raise InputError(
                    f"With `{key}` at {value!r} a trial is validated on other tasks than at {first[key]!r}, so the "
                    "trials cannot be compared. Search what only training has (`tasks.train.*`, where the tasks of the "
                    "splits are given one by one), or make one sweep for each value."
                )
    return setup


def _validation_tasks(setup: Setup) -> list[Tensor]:
    """The examples of the first tasks that trials are validated on."""
    tasks = task_batches(setup.family, "val", COMPARED, 0)
    return [leaf for task in tasks for leaf in tree_leaves((task.support, task.query))]


def _are_equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def _build_with_validation(settings: Mapping[Any, Any], sample: Mapping[str, Any]) -> Setup:
    """The setup with drawn values; refused if its training has no validation."""
    setup = config.build(config.parse_config(settings, as_overrides(sample)))
    asked = setup.config.train
    if not asked.steps or not asked.interval(asked.validate_every, VALIDATIONS):
        raise InputError(
            "A sweep compares trials by their validation, and there is none without training (`train.steps` 0) or with "
            "`train.validate_every` 0. Leave `train.validate_every` out for 20 validations over a run."
        )
    return setup
