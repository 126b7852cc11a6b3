"""Evaluating learners: the same tasks for every learner, intervals over tasks, and paired differences.

A task list depends on (family, split, seed, n) alone, never on the learner, and a hash names it. No outer graph is
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

from quickstudy.engine.distributed import SINGLE_WORKER, World
from quickstudy.engine.memory import explain_out_of_memory
from quickstudy.errors import InputError, suggest_nearest
from quickstudy.evaluation.dry_run import draw_tasks, is_ours
from quickstudy.evaluation.metrics import Metric, Spread, compute_spread
from quickstudy.evaluation.thumbnails import Counts, count_confusions, predict_classes
from quickstudy.methods.learner import Learner
from quickstudy.rules.torch_private import tree_leaves, tree_map
from quickstudy.storage.checkpoints import hash_tensors
from quickstudy.tasks import Episodes, TaskFamily
from quickstudy.tasks.base import TASK_FORMAT
from quickstudy.tasks.draws import as_integer
from quickstudy.types import Integer, Task, move, pick

BATCH = 50
"""Tasks in a batch of an evaluation. A constant, because the tasks of a list depend on it."""

TIMED_TASKS = 20
WARM_UP_TASKS = 3
"""The first of the timed tasks are slower and do not count."""

TaskValues = NDArray[np.floating]


@dataclass(frozen=True)
class Protocol:
    """How a published number is made: the number of tasks, and how often the evaluation is repeated.

    With one repeat the spread is the 95% interval over tasks. With several it is the standard deviation of the repeats'
    means (task lists of seeds s, s+1, ...), as the papers that repeat report it.
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


def get_protocol(name: str) -> Protocol:
    """A protocol by name."""
    if name not in PROTOCOLS:
        raise InputError(f"There is no protocol {name!r}. {suggest_nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


@dataclass(frozen=True)
class Summary:
    """The result of one learner on one list of tasks.

    Args:
        metric: What `values` measure.
        values: The metric of each task.
        losses: The query loss of each task.
        hash: Names the list of tasks.
        example: The first task and the learner's output for it.
        confusion: How often each class was taken for which; for `Episodes` only, which give classes lasting labels.
    """

    metric: Metric
    values: TaskValues
    losses: TaskValues
    hash: str
    example: dict[str, NDArray[np.generic]] = field(repr=False)
    confusion: Counts | None = field(default=None, repr=False)

    @property
    def spread(self) -> Spread:
        """Mean and 95% interval of the metric over tasks."""
        return compute_spread(self.values)

    @property
    def loss(self) -> Spread:
        """Mean and 95% interval of the query loss over tasks."""
        return compute_spread(self.losses)


def task_batches(
    family: TaskFamily, split: str, n: Integer, seed: Integer, part: slice = slice(None)
) -> Iterator[Task]:
    """The fixed list of n tasks in batches, or some of these batches."""
    n = as_integer("tasks", n, least=1)
    source = family.source(split, seed=seed, size=BATCH).without_augmentation()
    for step in range(-(-n // BATCH))[part]:
        yield draw_tasks(source, step, slice(0, min(BATCH, n - step * BATCH)))


def task_hash(family: TaskFamily, tasks: list[Task]) -> str:
    """Twelve hexadecimal digits that name a task list. They depend on the family, on all sizes and on all draws.

    Of a user's own family, whose description may leave something out, they also depend on the examples.
    """
    digest = sha256(json.dumps([TASK_FORMAT, family.describe()], sort_keys=True, default=str).encode())
    for task in tasks:
        leaves = tree_leaves((task.support, task.query))
        digest.update(str([list(leaf.shape[1:]) for leaf in leaves]).encode())
        digest.update(task.key.numpy().tobytes())
        for name in sorted(task.about):
            digest.update(name.encode() + task.about[name].numpy().tobytes())
    return digest.hexdigest()[:12]


class _BatchResult(NamedTuple):
    """The results of a batch. `tasks` have no examples any more, only what the hash needs."""

    values: TaskValues
    losses: TaskValues
    tasks: Task
    predictions: tuple[torch.Tensor, ...] | None
    example: dict[str, NDArray[np.generic]]


def evaluate(
    learner: Learner,
    family: TaskFamily,
    metric: Metric,
    *,
    split: str = "test",
    n: Integer = 600,
    seed: Integer = 0,
    world: World = SINGLE_WORKER,
) -> Summary:
    """Evaluate a learner on n fixed tasks of a split. Workers share the batches, and each returns the whole result."""
    family, seed = family.of_split(split), as_integer("seed", seed)

    def evaluate_share() -> list[_BatchResult]:
        own: list[_BatchResult] = []
        twin = learner.evaluation_twin()
        with torch.no_grad():
            for tasks in task_batches(family, split, n, seed, world.turns()):
                own.append(_evaluate_batch(tasks, twin, family, metric, seed, first=world.first and not own))
        return own

    shares = world.gather(world.agree(evaluate_share))
    # Worker i has the batches i, i + size, ...: whole batches, so each is computed as one worker alone computes it.
    batches = [shares[i % world.size][i // world.size] for i in range(sum(map(len, shares)))]
    predictions = [batch.predictions for batch in batches if batch.predictions is not None]
    return Summary(
        metric=metric,
        values=np.concatenate([batch.values for batch in batches]),
        losses=np.concatenate([batch.losses for batch in batches]),
        hash=task_hash(family, [batch.tasks for batch in batches]),
        example=batches[0].example,
        confusion=count_confusions(*map(torch.cat, zip(*predictions, strict=True))) if predictions else None,
    )


def _evaluate_batch(
    tasks: Task, learner: Learner, family: TaskFamily, metric: Metric, seed: int, *, first: bool
) -> _BatchResult:
    with explain_out_of_memory(f"Evaluating {len(tasks.key)} tasks"):
        outcome = move(learner(tasks, seed=seed, evaluating=True), "cpu")
    tasks = tasks._replace(support=move(tasks.support, "cpu"), query=move(tasks.query, "cpu"))
    # Clones: an empty view would keep the whole batch alive, and send it to the other workers.
    support, query = tree_map(torch.clone, pick((tasks.support, tasks.query), slice(0, 0)))
    predictions = None
    if isinstance(family, Episodes) and "classes" in tasks.about:  # of a user's own kind they may have none
        predictions = tasks.about["classes"], tasks.query.y, predict_classes(outcome.output, family.ways)
    return _BatchResult(
        metric.measure(outcome.output, tasks.query.y).numpy(),
        outcome.loss.numpy(),
        Task(support, query, tasks.key, tasks.about | ({} if is_ours(family) else _hash_examples(tasks))),
        predictions,
        _example_arrays(tasks, outcome.output) if first else {},
    )


def _hash_examples(tasks: Task) -> dict[str, torch.Tensor]:
    """A hash of the examples, as one more entry of `about`."""
    leaves = tree_leaves((tasks.support, tasks.query))
    digest = hash_tensors({str(number): leaf for number, leaf in enumerate(leaves)}, "")
    return {"examples": torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)}


def _example_arrays(tasks: Task, output: torch.Tensor) -> dict[str, NDArray[np.generic]]:
    """The first task of a batch and its output, as a result keeps them; without inputs of several tensors."""
    (support_x, support_y), (query_x, query_y) = pick((tasks.support, tasks.query), 0)
    arrays = {"support_x": support_x, "support_y": support_y, "query_x": query_x, "query_y": query_y}
    arrays = {name: value for name, value in arrays.items() if isinstance(value, torch.Tensor)}
    if "classes" in tasks.about:
        arrays["classes"] = tasks.about["classes"][0]
    return {name: value.numpy() for name, value in (arrays | {"output": output[0]}).items()}


def time_adaptation(learner: Learner, family: TaskFamily, split: str, seed: Integer) -> float:
    """Milliseconds to adapt to one task alone: the median over several tasks, after a warm-up."""
    tasks = learner.move_tasks(
        family.source(split, seed=seed, size=BATCH).without_augmentation()(0, slice(0, TIMED_TASKS))
    )
    noise = learner.draw(tasks, seed)
    times = []
    twin = learner.evaluation_twin()
    with torch.no_grad(), learner.engine.kernels():
        for i in range(TIMED_TASKS):
            support, own_noise = pick((tasks.support, noise), i)
            start = perf_counter()
            twin.update(support, own_noise, evaluating=True)
            if learner.device.type == "cuda":  # `update` returns before the GPU has finished
                torch.cuda.synchronize(learner.device)
            times.append(perf_counter() - start)
    return float(np.median(times[WARM_UP_TASKS:]) * 1e3)


@dataclass(frozen=True)
class Difference:
    """The second learner's metric minus the first's, over the tasks on which both are finite.

    Args:
        spread: The mean of the paired differences, and its 95% interval.
        left_out: The number of tasks on which one of the two is not finite.
    """

    spread: Spread
    left_out: int


def compare(first: Summary, second: Summary, *, drop_unequal: bool = False) -> Difference:
    """The paired difference of two learners on the same tasks.

    Args:
        first: The reference.
        second: What is compared with the reference.
        drop_unequal: Leave out tasks on which only one of the two diverged. Otherwise they are an error.
    """
    if first.hash != second.hash:
        raise InputError(
            f"The two were evaluated on different tasks (lists {first.hash} and {second.hash}), so they cannot be "
            "paired. Evaluate both with the same tasks, split, seed and number of tasks."
        )
    if first.metric.name != second.metric.name:
        raise InputError(
            f"The metrics differ: {first.metric.name} and {second.metric.name}. Evaluate both with the same metric."
        )
    finite = np.isfinite(first.values), np.isfinite(second.values)
    unequal = int((finite[0] != finite[1]).sum())
    if unequal and not drop_unequal:
        raise InputError(
            f"On {unequal} of {len(first.values)} tasks one of the two diverged and the other did not. Leaving these "
            "tasks out would favour the one that diverged. To do it all the same, pass --drop-unequal."
        )
    both = finite[0] & finite[1]
    return Difference(compute_spread((second.values - first.values)[both]), len(both) - int(both.sum()))
