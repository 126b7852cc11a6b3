"""What a sweep is to do, refused early where it cannot be done, and what a trial came to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickstudy.errors import InputError
from quickstudy.evaluation.metrics import METRICS
from quickstudy.training import config
from quickstudy.training.config import Setup
from quickstudy.training.init_from import find_start
from quickstudy.training.sweep.space import Space, as_overrides
from quickstudy.training.train import VALIDATIONS, check_training


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is to do.

    `settings` is the configuration that the samples are put into, as it was given. `metric` and `steps` are those of
    the runs; `metric` judges them. Without `storage` the study is a file in `folder`. With `threads`, runs take so many
    unless `settings` says how many.
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

    @property
    def larger_is_better(self) -> bool:
        """Which way the metric is judged."""
        return METRICS[self.metric].larger_is_better

    @property
    def url(self) -> str:
        """Where the study is."""
        return self.storage or f"sqlite:///{(self.folder / 'study.db').as_posix()}"


@dataclass(frozen=True)
class Trial:
    """One trial: `value` is its validation metric, where it came to the end; `error` says why it failed."""

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    error: str | None
    run: str


def rank_trials(tried: Sequence[Trial], larger_is_better: bool) -> list[Trial]:
    """The trials that came to the end, the best first."""
    done = [(t.value, t) for t in tried if t.state == "complete" and t.value is not None]
    return [t for _, t in sorted(done, key=lambda pair: (-pair[0] if larger_is_better else pair[0], pair[1].number))]


def try_ends(settings: Mapping[Any, Any], over: Space) -> Setup:
    """Refuse a space that cannot be searched, before anything is written; the setup at its lower end.

    Each setting is tried at its ends, or at each of its values, with the others at their first.
    """
    first = {key: dimension.probes[0] for key, dimension in over.items()}
    setup = _validated(settings, first)
    check_training(setup)
    if setup.config.init_from:
        find_start(setup.config.init_from, setup.learner, setup.named)
    for key, dimension in over.items():
        for value in dimension.probes[1:]:
            try:
                other = _validated(settings, first | {key: value})
            except InputError as error:
                raise InputError(f"With `{key}` at {value!r}, which is searched: {error}") from error
            if other.metric.name != setup.metric.name:
                raise InputError(
                    f"With `{key}` at {value!r} runs are judged by {other.metric.name}, at {first[key]!r} by "
                    f"{setup.metric.name}, which cannot be compared. Search one of them, or set `evaluate.metric`."
                )
    return setup


def _validated(settings: Mapping[Any, Any], sample: Mapping[str, Any]) -> Setup:
    setup = config.build(config.parse_config(settings, as_overrides(sample)))
    asked = setup.config.train
    if not asked.steps or not asked.often(asked.validate_every, VALIDATIONS):
        raise InputError(
            "A sweep is judged by validation, and there is none without training (`train.steps` 0) or with "
            "`train.validate_every` 0. Leave `train.validate_every` out for 20 validations over a run."
        )
    return setup
