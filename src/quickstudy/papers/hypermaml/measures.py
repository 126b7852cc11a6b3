"""HyperMAML's measurements: how far the classifier moves, what adapting costs, finetuning, figure 1's plane."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from itertools import product
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from quickstudy.engine.second_derivatives import twice_differentiable
from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import evaluate, task_batches
from quickstudy.evaluation.metrics import compute_spread
from quickstudy.methods.learner import Learner, Noise
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.papers.runner.measures import Reading, Settings, Trained, listed_tasks, measure, over_tasks
from quickstudy.tasks.base import TaskFamily
from quickstudy.training.config import Setup
from quickstudy.types import Examples, Params, Task, pick

RATE = 1e-4
"""Adam's step size in finetuning."""

CLASSIFIER = ("weight", "bias", "head.weight", "head.bias")
"""Names of the classifier's numbers in a learner that adapts the classifier alone, and in one that adapts the net."""


L = TypeVar("L", bound=Learner)


def classifier(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weight and bias of the last layer among what adapts.

    >>> classifier({"block0.conv.weight": torch.ones(3), "head.weight": torch.ones(1)})
    {'weight': tensor([1.])}
    """
    found = {name.removeprefix("head."): params[name] for name in CLASSIFIER if name in params}
    if not found:
        raise InputError(f"There is no classifier among what adapts: {', '.join(params)}. Its layer is called `head`.")
    return found


def setup_with_rule(one: Trained, settings: Settings = None) -> tuple[Setup, RuleLearner]:
    """A training's setup, and its learner, which moves parameters of the net; refused where it has none to move."""
    setup = one.setup(settings)
    if not isinstance(setup.learner, RuleLearner):
        raise InputError(f"{setup.config.method.name} moves no parameters in a task, so there is nothing to measure.")
    return setup, setup.learner


@contextmanager
def alone(learner: L) -> Iterator[L]:
    """A learner as an evaluation runs it: no outer graph, dropout off."""
    with torch.no_grad(), twice_differentiable():
        yield learner.evaluation_twin()


@measure("update_norm")
def update_norm(one: Trained, *, of: str = "weight", tasks: int = 600, settings: Settings = None) -> Reading:
    """The Frobenius norm of the change of the classifier's weight or bias in a task, mean over test tasks."""
    setup, learner = setup_with_rule(one, settings)
    listed, name = listed_tasks(setup.eval_family.of_split("test"), tasks)
    seen = map(learner.evaluation_twin().observe, listed)
    moved = [classifier({key.removeprefix("update."): norm for key, norm in one.items()})[of] for one in seen]
    each = torch.cat(moved).cpu().double().numpy()
    return over_tasks(each, name, {"tasks": len(each)})


def finetuned_copy(learner: L, support: Examples, noise: Noise, steps: int, rate: float) -> L:
    """A copy whose every trained parameter has taken Adam steps on the support loss after adaptation.

    The adaptation is computed anew in every step and differentiated: the hypernetwork is in the loop.
    """
    own = deepcopy(learner)
    criterion = own.inner_criterion if isinstance(own, RuleLearner) else own.criterion
    adam = torch.optim.Adam(own.meta_params().values(), lr=rate)
    with torch.enable_grad():
        for _ in range(steps):
            phi = own.update(support, noise, evaluating=True)
            loss = criterion(own.predict(phi, support.x), support.y)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    return own


@measure("finetuned")
def metric_after_finetuning(
    one: Trained, *, steps: int, rate: float = RATE, tasks: int = 600, times: float = 1.0, settings: Settings = None
) -> Reading:
    """The metric after Adam steps on each task's support loss, over all parameters, as HyperMAML's released code does.

    `steps` and `rate` are Adam's; each task starts from the trained learner.
    """
    setup = one.setup(settings)
    if not setup.learner.meta_params():
        raise InputError(f"{setup.config.method.name} has no trained parameters, so there is nothing to finetune.")
    listed, name = listed_tasks(setup.eval_family.of_split("test"), tasks)
    values = []
    with alone(setup.learner) as learner:
        for placed in map(learner.move_tasks, listed):
            learner.engine.settle(learner, placed.support.x)
            noise = learner.draw(placed, 0)
            for i in range(len(placed.key)):
                support, query, own = pick((placed.support, placed.query, noise), i)
                output = finetuned_copy(learner, support, own, steps, rate).evaluate(support, query, own).output
                values.append(setup.metric.measure(output, query.y).cpu())
    each = times * torch.stack(values).double().numpy()
    return over_tasks(each, name, {"finite": int(np.isfinite(each).sum()), "tasks": len(each)})


@measure("seconds")
def seconds(one: Trained, *, timed: int = 20, of: int = 600, finetuning: int = 0, settings: Settings = None) -> Reading:
    """Seconds to adapt to test tasks and answer their queries, one task after the other: the median task, times `of`.

    Drawing the tasks is not counted. `timed` tasks are timed, after one that is not; `finetuning` Adam steps follow the
    adaptation, as in `finetuned`.
    """
    setup = setup_with_rule(one, settings)[0] if finetuning else one.setup(settings)
    learner, listed = setup.learner, list(_one_by_one(setup.eval_family, timed + 1))

    def process(task: Task) -> None:
        if not isinstance(learner, RuleLearner) or not finetuning:
            learner(task, seed=0, evaluating=True)
            return
        placed = learner.move_tasks(task)
        support, query, noise = pick((placed.support, placed.query, learner.draw(placed, 0)), 0)
        finetuned_copy(learner, support, noise, finetuning, RATE).evaluate(support, query, noise)

    with alone(learner) as learner:
        learner(listed[0], seed=0, evaluating=True)
        each = [of * _timed(learner, process, task) for task in listed]
    return _median(each, {"timed": timed, "tasks": of})


@measure("forward_passes")
def forward_passes(one: Trained, *, timed: int = 20, settings: Settings = None) -> Reading:
    """What adapting to a support set costs, in forward passes of the net over that set: a median of ratios."""
    setup, learner = setup_with_rule(one, settings)
    passes: list[float] = []
    ratios: list[float] = []
    with alone(learner) as learner:
        for task in _one_by_one(setup.eval_family, timed + 1):
            placed = learner.move_tasks(task)
            support, own = pick((placed.support, learner.draw(placed, 0)), 0)
            if not passes:
                learner.engine.settle(learner, placed.support.x)
            passes.append(_timed(learner, lambda s: learner.predict(learner.params(), s.x), support))
            adapting = _timed(learner, lambda s, own=own: learner.update(s, own, evaluating=True), support)  # type: ignore[misc]
            ratios.append(adapting / passes[-1])
    return _median(ratios, {"forward pass, ms": 1e3 * float(np.median(passes[1:]))})


def _one_by_one(family: TaskFamily, tasks: int) -> Iterator[Task]:
    """The first tasks of the test's fixed list, each as a batch of one."""
    for batch in task_batches(family.of_split("test"), "test", tasks, 0):
        for i in range(len(batch.key)):
            yield pick(batch, slice(i, i + 1))


def _median(values: list[float], more: dict[str, Any]) -> Reading:
    """The median of times; the first is that of warming up."""
    each = np.array(values[1:])
    return Reading(float(np.median(each)), compute_spread(each).interval, each, "", more)


def _timed(learner: Learner, process: Callable[[Any], object], what: Any) -> float:
    """Seconds that a call takes."""
    start = perf_counter()
    process(what)
    if learner.device.type == "cuda":  # whose kernels are only queued so far
        torch.cuda.synchronize(learner.device)
    return perf_counter() - start


KINDS = ("top is class 0", "bottom is class 0", "right is class 0", "left is class 0")
"""The four tasks of `tasks.gaussians`, in its numbering."""


@measure("planar")
def planar(one: Trained, *, tasks: int = 600, worst: bool = False) -> Reading:
    """Accuracy on the four tasks in the plane, in %, with the lines that figure 1 shows; `worst` is of the worst task.

    The arrays `theta` [2, 3] and `phi` [4, 2, 3] hold a class's weights and bias in a row, before a task and after
    each; `support_x`, `support_y`, `query_x` and `query_y` are the first task of each kind; `by_kind` [4].
    """
    setup, learner = setup_with_rule(one)
    summary = evaluate(learner, setup.eval_family, setup.metric, n=tasks, seed=0)
    listed = list(task_batches(setup.eval_family, "test", tasks, 0))
    kinds = torch.cat([batch.about["kind"] for batch in listed]).tolist()
    missing = [name for kind, name in enumerate(KINDS) if kind not in kinds]
    if missing:
        raise InputError(f"Of {tasks} tasks none is of the kind '{missing[0]}'. Judge on more tasks.")
    single = [pick(batch, slice(i, i + 1)) for batch in listed for i in range(len(batch.key))]
    first = [single[kinds.index(kind)] for kind in range(len(KINDS))]
    with alone(learner) as learner:
        given = [pick((task.support, learner.draw(task, 0)), 0) for task in first]
        phis = [_rows_of_classes(learner.update(*own, evaluating=True)) for own in given]
    arrays = {"theta": _rows_of_classes(learner.params()), "phi": np.stack(phis)}
    for half, axis in product(("support", "query"), "xy"):
        arrays[f"{half}_{axis}"] = np.concatenate([getattr(getattr(task, half), axis).numpy() for task in first])
    each = 100 * np.asarray(summary.values, dtype=np.float64)
    arrays["by_kind"] = np.array([each[np.array(kinds) == kind].mean() for kind in range(len(KINDS))])
    if worst:
        return Reading(float(arrays["by_kind"].min()), arrays=arrays)
    return over_tasks(each, summary.hash, {"tasks": len(each)}, arrays)


def _rows_of_classes(params: Params) -> Any:
    own = classifier(params)
    return torch.cat([own["weight"], own["bias"][:, None]], dim=1).detach().numpy()
