"""What is read from a training: a measure maps a trained row to a reading.

A measure is a function with a name in `MEASURES`; its options are a cell's. New ones are entered by `@measure`. Many
share the options `tasks`, how many of the test's fixed list; `times`, what the number is multiplied by; and `settings`,
see `Trained.setup`.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.resources import files
from typing import Any

import numpy as np
import torch

from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import Summary, evaluate, task_batches, task_hash, time_adaptation
from quickstudy.evaluation.metrics import METRICS, compute_spread
from quickstudy.storage.result import Array
from quickstudy.storage.run import Run
from quickstudy.tasks import Sine, Wavelet
from quickstudy.tasks.base import TaskFamily
from quickstudy.training.config import Setup
from quickstudy.training.progress import read_progress
from quickstudy.training.restore import restore
from quickstudy.types import Task

Settings = Mapping[str, Any] | None


@dataclass(frozen=True)
class Reading:
    """What a measure returns."""

    value: float  # the number of the cell
    interval: float | None = None  # half of its 95% interval, usually over tasks
    each: Array | None = None  # of each task, by which rows on the same tasks are paired
    tasks: str = ""  # a name of the task list
    more: Mapping[str, Any] = field(default_factory=dict)  # further numbers and words by name, plain values
    arrays: Mapping[str, Array] = field(default_factory=dict)  # what figures need


@dataclass(frozen=True)
class Trained:
    """A row's training, as a measure sees it."""

    run: Run | None  # None for a row without a configuration
    seed: int  # of the training; a measure without one draws from it
    made: dict[str, Summary] = field(default_factory=dict, compare=False, repr=False)  # evaluations by what they are of

    def setup(self, settings: Settings = None, checkpoint: str | None = None) -> Setup:
        """The learner at its best checkpoint where it was validated, else at its last, with its tasks.

        `settings` are what differs from the training, by dotted name: {"tasks.shots": 5}. `checkpoint` names another.
        """
        if self.run is None:
            raise InputError("A measure asked for a training, and its row has no configuration.")
        return restore(self.run, checkpoint, overrides(settings or {}))[0]

    def evaluate(self, tasks: int, settings: Settings = None, checkpoint: str | None = None) -> Summary:
        """What the learner does on the test's first tasks: evaluated once, however many columns show numbers of it."""
        asked = json.dumps([tasks, settings or {}, checkpoint], sort_keys=True)
        if asked not in self.made:
            setup = self.setup(settings, checkpoint)
            self.made[asked] = evaluate(setup.learner, setup.eval_family, setup.metric, split="test", n=tasks, seed=0)
        return self.made[asked]


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings by dotted name, as the command line has them."""
    return [f"--{key}={json.dumps(value)}" for key, value in settings.items()]


Measure = Callable[..., Reading]
MEASURES: dict[str, Measure] = {}
TIMES = frozenset({"milliseconds", "seconds", "forward_passes"})
"""Those that measure what a computation costs. They do not depend on how far a training has come."""


def measure(name: str) -> Callable[[Measure], Measure]:
    """Enter a function into `MEASURES`: `function(one: Trained, **options) -> Reading`."""

    def enter(function: Measure) -> Measure:
        MEASURES[name] = function
        return function

    return enter


def find_measure(name: str) -> Measure:
    """A measure by name; those of the papers are imported when one is asked for."""
    if name not in MEASURES:
        for folder in files("quickstudy.papers").iterdir():
            if (folder / "measures.py").is_file() and folder.name != "runner":
                import_module(f"quickstudy.papers.{folder.name}.measures")
    return MEASURES[name]


def known_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some options that a measure has."""
    known = inspect.signature(find_measure(name)).parameters
    return {key: value for key, value in options.items() if key in known}


def over_tasks(
    values: Array, tasks: str = "", more: Mapping[str, Any] | None = None, arrays: Mapping[str, Array] | None = None
) -> Reading:
    """The mean of per-task values with its interval."""
    over = compute_spread(values)
    return Reading(over.mean, over.interval, values, tasks, more or {}, arrays or {})


def listed_tasks(family: TaskFamily, tasks: int) -> tuple[list[Task], str]:
    """The first tasks of the test's fixed list, in batches, and a name for them."""
    listed = list(task_batches(family, "test", tasks, 0))
    return listed, task_hash(family, listed)


@measure("predicting_zero")
@measure("answering_zero")
def zero_error(
    one: Trained, *, points: int = 0, shots: int = 10, metric: str = "mse", times: float = 1.0, tasks: int = 600
) -> Reading:
    """The error of always answering 0, on wavelets of so many points or on sine waves. Nothing is trained."""
    del one
    listed, name = listed_tasks(Wavelet(points=points) if points else Sine(shots=shots), tasks)
    each = [METRICS[metric].measure(torch.zeros_like(task.query.y), task.query.y) for task in listed]
    return over_tasks(times * torch.cat(each).double().numpy(), name)


@measure("judged")
def evaluate_metric(
    one: Trained, *, tasks: int = 600, of: str = "metric", times: float = 1.0, settings: Settings = None,
    checkpoint: str | None = None,
) -> Reading:  # fmt: skip
    """The metric (or the query loss) on fixed tasks, the same for every row; `of` is "metric" or "loss"."""
    found = one.evaluate(tasks, settings, checkpoint)
    values = times * np.asarray(found.losses if of == "loss" else found.values, dtype=np.float64)
    over = compute_spread(values)
    return over_tasks(values, found.hash, {"finite": over.finite, "tasks": over.tasks, "loss": found.loss.mean})


@measure("validation")
def best_validation(one: Trained) -> Reading:
    """The score on validation tasks at the best checkpoint, larger is better; NaN where there is none."""
    if one.run is None or "best" not in one.run.checkpoints():
        return Reading(float("nan"))
    best = read_progress(one.run.load("best"), f"Checkpoint `best` of {one.run.path}").best
    return Reading(best[1], more={"finite": int(best[0])})


@measure("milliseconds")
def milliseconds(one: Trained, *, settings: Settings = None) -> Reading:
    """Milliseconds to adapt to one task alone, the median of several."""
    setup = one.setup(settings)
    return Reading(time_adaptation(setup.learner, setup.eval_family, "test", seed=0))
