"""What is read from a training: a measure maps a trained row to a reading.

A measure is a function with a name in `MEASURES`; its options are a cell's. New ones are entered by `@measure`.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import adaptation_ms, evaluate
from quickstudy.evaluation.metrics import spread
from quickstudy.storage.run import Run
from quickstudy.training.config import Setup
from quickstudy.training.restore import restore

Array = NDArray[Any]


@dataclass(frozen=True)
class Reading:
    """What a measure returns.

    Args:
        value: The number of the cell.
        interval: Half of its 95% interval, usually over tasks.
        each: Of each task, by which rows on the same tasks are paired.
        tasks: A name of the task list.
        more: Further numbers and words by name, plain values.
        arrays: What figures need.
    """

    value: float
    interval: float | None = None
    each: Array | None = None
    tasks: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """A row's training, as a measure sees it.

    Args:
        run: Its directory; None for a row without a configuration.
        seed: Of the training; a measure without one draws from it.
    """

    run: Run | None
    seed: int

    def setup(self, settings: Mapping[str, Any] | None = None, checkpoint: str | None = "last") -> Setup:
        """The trained learner with its tasks, as they are to be used.

        Args:
            settings: What is judged otherwise than trained, by dotted name: {"tasks.shots": 5}.
            checkpoint: "last" as the papers have it, or "best"; None is best where there is one.
        """
        if self.run is None:
            raise InputError("A measure asked for a training, and its row has no configuration.")
        return restore(self.run, checkpoint, overrides(settings or {}))[0]


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings by dotted name, as the command line has them."""
    return [f"--{key}={json.dumps(value)}" for key, value in settings.items()]


Measure = Callable[..., Reading]
MEASURES: dict[str, Measure] = {}


def taken(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of some options, those that a measure has."""
    known = inspect.signature(MEASURES[name]).parameters
    return {key: value for key, value in options.items() if key in known}


def measure(function: Measure) -> Measure:
    """Enter a function into `MEASURES` under its name: `measured(one: Trained, **options) -> Reading`."""
    MEASURES[function.__name__] = function
    return function


@measure
def judged(
    one: Trained,
    *,
    tasks: int = 600,
    split: str = "test",
    of: str = "metric",
    times: float = 1.0,
    seed: int = 0,
    checkpoint: str | None = "last",
    settings: Mapping[str, Any] | None = None,
) -> Reading:
    """The metric (or the query loss) on fixed tasks, the same for every row.

    Args:
        one: The training.
        tasks: How many.
        split: Of which classes.
        of: "metric" or "loss".
        times: What the number is multiplied by: 100 for percent.
        seed: Of the task list, not of the training.
        checkpoint: See `Trained.setup`.
        settings: See `Trained.setup`.
    """
    setup = one.setup(settings, checkpoint)
    found = evaluate(setup.learner, setup.judged, setup.metric, split=split, n=tasks, seed=seed)
    values = times * np.asarray(found.losses if of == "loss" else found.values, dtype=np.float64)
    over = spread(values)
    more = {"finite": over.finite, "tasks": over.tasks, "loss": found.loss.mean}
    return Reading(over.mean, over.interval, values, found.hash, more)


@measure
def milliseconds(one: Trained, *, split: str = "test", settings: Mapping[str, Any] | None = None) -> Reading:
    """Milliseconds to adapt to one task alone, the median of several.

    Args:
        one: The training.
        split: Of which classes.
        settings: See `Trained.setup`.
    """
    setup = one.setup(settings)
    return Reading(adaptation_ms(setup.learner, setup.judged, split, seed=0))
