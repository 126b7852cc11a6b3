"""Judging learners: the same tasks for everyone, intervals over tasks, and paired differences.

A task list is fixed by (family, split, seed, n) and named by a hash, whatever is being evaluated. No outer graph is
built: adaptation takes its own inner gradients under `torch.no_grad`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_map

from quickstudy.engine.distributed import ALONE, World
from quickstudy.engine.engine import twice_differentiable
from quickstudy.engine.memory import explain_out_of_memory
from quickstudy.errors import InputError, suggest_nearest
from quickstudy.evaluation.dry_run import draw_tasks
from quickstudy.evaluation.metrics import Metric, Spread, spread
from quickstudy.evaluation.thumbnails import Counts, count_confusions, predict_classes
from quickstudy.methods.learner import Learner, evaluation_mode
from quickstudy.tasks import Episodes, TaskFamily
from quickstudy.types import Task, move, pick

BATCH = 50  # a constant: how a list is cut into batches must not decide what is in it
TIMED = 20

Values = NDArray[np.floating]


@dataclass(frozen=True)
class Protocol:
    """How published numbers are made: so many tasks, so many times over.

    With one repeat the spread is the 95% interval over tasks; with several it is the standard deviation of the repeats'
    means (seeds s, s+1, ... of the task list), as the papers that repeat report it.
    """

    name: str
    tasks: int
    repeats: int = 1


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("finn", 600),
        Protocol("closerlook", 600),
        Protocol("hypermaml", 600, 5),
        Protocol("libfewshot", 2000, 5),
    )
}


def protocol(name: str) -> Protocol:
    """A protocol by name."""
    if name not in PROTOCOLS:
        raise InputError(f"There is no protocol {name!r}. {suggest_nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


@dataclass(frozen=True)
class Summary:
    """One learner on one list of tasks; `count_confusions` is there for `Episodes`, whose classes outlive a task."""

    metric: Metric
    values: Values
    losses: Values
    hash: str
    example: dict[str, NDArray[np.generic]] = field(repr=False)
    confusion: Counts | None = field(default=None, repr=False)

    @property
    def spread(self) -> Spread:
        """Mean and 95% interval of the metric over tasks."""
        return spread(self.values)

    @property
    def loss(self) -> Spread:
        """Mean and 95% interval of the query loss over tasks."""
        return spread(self.losses)


def task_batches(family: TaskFamily, split: str, n: int, seed: int, part: slice = slice(None)) -> Iterator[Task]:
    """The fixed list of n tasks, in batches, or a part of these."""
    if n < 1:
        raise InputError(f"`tasks` was {n}; an evaluation needs at least one task.")
    source = family.source(split, seed=seed, size=BATCH).judged()
    for step in range(-(-n // BATCH))[part]:
        yield draw_tasks(source, step, slice(0, min(BATCH, n - step * BATCH)))


def task_hash(family: TaskFamily, tasks: list[Task]) -> str:
    """Twelve hexadecimal digits that name a task list: what it was drawn from, its sizes, and every draw."""
    digest = sha256(json.dumps(family.describe(), sort_keys=True, default=str).encode())
    for task in tasks:
        digest.update(str([list(part.shape[1:]) for part in (*task.support, *task.query)]).encode())
        digest.update(task.key.numpy().tobytes())
        for name in sorted(task.about):
            digest.update(name.encode() + task.about[name].numpy().tobytes())
    return digest.hexdigest()[:12]


class _Evaluated(NamedTuple):
    """A batch of the list; of its tasks, what the hash reads."""

    values: Values
    losses: Values
    listed: Task
    answer: tuple[torch.Tensor, ...] | None
    example: dict[str, NDArray[np.generic]]


def evaluate(
    learner: Learner,
    family: TaskFamily,
    metric: Metric,
    *,
    split: str = "test",
    n: int = 600,
    seed: int = 0,
    world: World = ALONE,
) -> Summary:
    """A learner on n fixed tasks of a split, whose batches the workers share; each of them returns the whole."""
    family = family.of_split(split)

    def part() -> list[_Evaluated]:
        own: list[_Evaluated] = []
        with torch.no_grad(), evaluation_mode(learner):
            for tasks in task_batches(family, split, n, seed, world.turns()):
                own.append(_evaluate_batch(tasks, learner, family, metric, seed, first=world.first and not own))
        return own

    parts = world.gather(world.agree(part))
    # Whole batches are dealt out in turn, so that each is computed as one worker alone would compute it.
    done = [parts[i % world.size][i // world.size] for i in range(sum(map(len, parts)))]
    answers = [one.answer for one in done if one.answer is not None]
    return Summary(
        metric=metric,
        values=np.concatenate([one.values for one in done]),
        losses=np.concatenate([one.losses for one in done]),
        hash=task_hash(family, [one.listed for one in done]),
        example=done[0].example,
        confusion=count_confusions(*map(torch.cat, zip(*answers, strict=True))) if answers else None,
    )


def _evaluate_batch(
    tasks: Task, learner: Learner, family: TaskFamily, metric: Metric, seed: int, *, first: bool
) -> _Evaluated:
    with explain_out_of_memory(f"Evaluating {len(tasks.key)} tasks"):
        outcome = move(learner(tasks, seed=seed, evaluating=True), "cpu")
    tasks = tasks._replace(support=move(tasks.support, "cpu"), query=move(tasks.query, "cpu"))
    # Copied: a view without elements still holds, and would send, the storage of the whole batch.
    support, query = tree_map(torch.clone, pick((tasks.support, tasks.query), slice(0, 0)))
    answer = None
    if isinstance(family, Episodes):
        answer = tasks.about["classes"], tasks.query.y, predict_classes(outcome.output, family.ways)
    return _Evaluated(
        metric.measure(outcome.output, tasks.query.y).numpy(),
        outcome.loss.numpy(),
        Task(support, query, tasks.key, tasks.about),
        answer,
        _example(tasks, outcome.output) if first else {},
    )


def _example(tasks: Task, output: torch.Tensor) -> dict[str, NDArray[np.generic]]:
    first = pick((tasks.support, tasks.query), 0)
    arrays = {
        f"{half}_{part}": getattr(ex, part)
        for half, ex in zip(("support", "query"), first, strict=True)
        for part in "xy"
    }
    numbered = {name: tasks.about[name][0] for name in ("classes",) if name in tasks.about}
    return {name: value.numpy() for name, value in (arrays | numbered | {"output": output[0]}).items()}


def adaptation_ms(learner: Learner, family: TaskFamily, split: str, seed: int) -> float:
    """Milliseconds to adapt to one task alone, the median of several (the first ones, which warm up, left out)."""
    tasks = learner.placed(family.source(split, seed=seed, size=BATCH).judged()(0, slice(0, TIMED)))
    noise = learner.draw(tasks, seed)
    times = []
    with torch.no_grad(), evaluation_mode(learner), twice_differentiable():
        for i in range(TIMED):
            support, own = pick((tasks.support, noise), i)
            start = perf_counter()
            learner.update(support, own, evaluating=True)
            if learner.device.type == "cuda":  # whose kernels are only queued so far
                torch.cuda.synchronize(learner.device)
            times.append(perf_counter() - start)
    return float(np.median(times[3:]) * 1e3)


@dataclass(frozen=True)
class Difference:
    """Second minus first, over the tasks on which both are finite, with the 95% interval of the paired difference."""

    spread: Spread
    left_out: int


def compare(first: Summary, second: Summary, *, drop_unequal: bool = False) -> Difference:
    """The paired difference of two learners on identical tasks.

    Args:
        first: The reference.
        second: What is compared with it.
        drop_unequal: Leave out tasks on which one of the two diverged, instead of refusing.
    """
    if first.hash != second.hash:
        raise InputError(
            f"The two were evaluated on different tasks (lists {first.hash} and {second.hash}), so they cannot be "
            "paired. Evaluate both with the same tasks, split, seed and number of tasks."
        )
    if first.metric.name != second.metric.name:
        raise InputError(
            f"One is judged by {first.metric.name}, the other by {second.metric.name}; compare like with like."
        )
    finite = np.isfinite(first.values), np.isfinite(second.values)
    unequal = int((finite[0] != finite[1]).sum())
    if unequal and not drop_unequal:
        raise InputError(
            f"On {unequal} of {len(first.values)} tasks one of the two diverged and the other did not; leaving them "
            "out would favour the one that diverged. Pass --drop-unequal to do so all the same."
        )
    both = finite[0] & finite[1]
    return Difference(spread((second.values - first.values)[both]), len(both) - int(both.sum()))
