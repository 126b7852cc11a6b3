"""HyperMAML's measurements: how far the classifier moves, what adapting costs, finetuning, figure 1's plane."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from quickstudy.engine.engine import twice_differentiable
from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import evaluate, task_batches, task_hash
from quickstudy.evaluation.metrics import compute_spread
from quickstudy.methods.learner import Learner, Noise
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.papers.runner.measures import Reading, Settings, Trained, measure, over_tasks
from quickstudy.training.config import Setup
from quickstudy.types import Examples, Params, Task, pick

RATE = 1e-4
"""Of Adam, in finetuning."""

CLASSIFIER = ("weight", "bias", "head.weight", "head.bias")
"""Names of the classifier's numbers in a learner that adapts the classifier alone, and in one that adapts the net."""


def classifier(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weight and bias of the last layer among what adapts.

    >>> classifier({"block0.conv.weight": torch.ones(3), "head.weight": torch.ones(1)})
    {'weight': tensor([1.])}
    """
    found = {name.removeprefix("head."): params[name] for name in CLASSIFIER if name in params}
    if not found:
        raise InputError(f"There is no classifier among what adapts: {', '.join(params)}. Its layer is called `head`.")
    return found


def rule_learner(setup: Setup) -> RuleLearner:
    """A learner that moves parameters of the net; refused where the method has none to move."""
    if not isinstance(setup.learner, RuleLearner):
        raise InputError(f"{setup.config.method.name} moves no parameters in a task, so there is nothing to measure.")
    return setup.learner


L = TypeVar("L", bound=Learner)


@contextmanager
def alone(learner: L) -> Iterator[L]:
    """A learner as an evaluation runs it: no outer graph, dropout off."""
    with torch.no_grad(), twice_differentiable():
        yield learner.evaluation_twin()


@measure("update_norm")
def update_norm(one: Trained, *, of: str = "weight", tasks: int = 600, settings: Settings = None) -> Reading:
    """The Frobenius norm of the change of the classifier's weight or bias in a task, mean over test tasks."""
    setup = one.setup(settings)
    learner = rule_learner(setup).evaluation_twin()
    family = setup.eval_family.of_split("test")
    drawn, norms = [], []
    for batch in task_batches(family, "test", tasks, 0):
        seen = learner.observe(batch, seed=0)
        moved = {name.removeprefix("update."): norm for name, norm in seen.items() if name.startswith("update.")}
        norms.append(classifier(moved)[of].cpu().double().numpy())
        drawn.append(batch)
    each = np.concatenate(norms)
    return over_tasks(each, task_hash(family, drawn), {"tasks": len(each)})


def finetuned_copy(learner: RuleLearner, support: Examples, noise: Noise, steps: int, rate: float) -> RuleLearner:
    """A copy whose every trained parameter has taken Adam steps on the support loss after adaptation.

    The adaptation is computed anew in every step and differentiated: the hypernetwork is in the loop.
    """
    own = deepcopy(learner)
    adam = torch.optim.Adam(own.meta_params().values(), lr=rate)
    with torch.enable_grad():
        for _ in range(steps):
            phi = own.update(support, noise, evaluating=True)
            loss = own.inner_criterion(own.predict(phi, support.x), support.y)
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
    learner = rule_learner(setup)
    family = setup.eval_family.of_split("test")
    drawn, values = [], []
    with alone(learner) as learner:
        for batch in task_batches(family, "test", tasks, 0):
            placed = learner.move_tasks(batch)
            learner.engine.settle(learner, placed.support.x)
            noise = learner.draw(placed, 0)
            for i in range(len(batch.key)):
                support, query, own = pick((placed.support, placed.query, noise), i)
                output = finetuned_copy(learner, support, own, steps, rate).evaluate(support, query, own).output
                values.append(setup.metric.measure(output, query.y).cpu())
            drawn.append(batch)
    each = times * torch.stack(values).double().numpy()
    more = {"finite": int(np.isfinite(each).sum()), "tasks": len(each)}
    return over_tasks(each, task_hash(family, drawn), more)


@measure("seconds")
def seconds(one: Trained, *, timed: int = 20, of: int = 600, finetuning: int = 0, settings: Settings = None) -> Reading:
    """Seconds to adapt to test tasks and answer their queries, one task after the other: the median task, times `of`.

    Drawing the tasks is not counted. `timed` tasks are timed, after one that is not; `finetuning` Adam steps follow the
    adaptation, as in `finetuned`.
    """
    setup = one.setup(settings)
    learner = setup.learner
    (batch,) = task_batches(setup.eval_family.of_split("test"), "test", timed + 1, 0)

    def process(task: Task) -> None:
        if not finetuning:
            learner(task, seed=0, evaluating=True)
            return
        moved = rule_learner(setup)
        placed = moved.move_tasks(task)
        support, query, noise = pick((placed.support, placed.query, moved.draw(placed, 0)), 0)
        finetuned_copy(moved, support, noise, finetuning, RATE).evaluate(support, query, noise)

    with alone(learner) as learner:
        learner(pick(batch, slice(0, 1)), seed=0, evaluating=True)
        each = of * np.array([_timed(learner, process, pick(batch, slice(i, i + 1))) for i in range(timed + 1)])[1:]
    return Reading(float(np.median(each)), compute_spread(each).interval, each, "", {"timed": timed, "tasks": of})


@measure("forward_passes")
def forward_passes(one: Trained, *, timed: int = 20, settings: Settings = None) -> Reading:
    """What adapting to a support set costs, in forward passes of the net over that set: a median of ratios."""
    setup = one.setup(settings)
    learner = rule_learner(setup)
    (batch,) = task_batches(setup.eval_family.of_split("test"), "test", timed + 1, 0)
    placed = learner.move_tasks(batch)
    noise = learner.draw(placed, 0)
    ratios, passes = [], []
    with alone(learner) as learner:
        learner.engine.settle(learner, placed.support.x)
        for i in range(timed + 1):
            support, own = pick((placed.support, noise), i)
            passes.append(_timed(learner, lambda s: learner.predict(learner.params(), s.x), support))
            adapting = _timed(learner, lambda s, own=own: learner.update(s, own, evaluating=True), support)  # type: ignore[misc]
            ratios.append(adapting / passes[-1])
    each = np.array(ratios[1:])
    milliseconds = 1e3 * float(np.median(passes[1:]))
    return Reading(float(np.median(each)), compute_spread(each).interval, each, "", {"forward pass, ms": milliseconds})


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
    """Accuracy on the four tasks in the plane, in %, with the lines that figure 1 shows.

    The arrays `theta` [2, 3] and `phi` [4, 2, 3] hold a class's weights and bias in a row, before a task and after
    each; `support_x`, `support_y`, `query_x` and `query_y` are the first task of each kind; `by_kind` [4].
    With `worst` the number is that of the kind which comes out worst, instead of all tasks' mean.
    """
    setup = one.setup()
    learner = rule_learner(setup)
    summary = evaluate(learner, setup.eval_family, setup.metric, n=tasks, seed=0)
    drawn = list(task_batches(setup.eval_family, "test", tasks, 0))
    kinds = torch.cat([batch.about["kind"] for batch in drawn]).numpy()
    each = 100 * np.asarray(summary.values, dtype=np.float64)
    by_kind = np.array([each[kinds == kind].mean() if (kinds == kind).any() else np.nan for kind in range(4)])
    arrays = _fit_lines(learner, drawn) | {"by_kind": by_kind}
    if worst:
        return Reading(float(np.nanmin(by_kind)), None, None, "", {}, arrays)
    return over_tasks(each, summary.hash, {"tasks": len(each)}, arrays)


def _fit_lines(learner: RuleLearner, drawn: list[Task]) -> dict[str, Any]:
    """Weights before and after the first task of each kind, and that task's points."""
    tasks = [pick(batch, slice(i, i + 1)) for batch in drawn for i in range(len(batch.key))]
    every = [int(task.about["kind"][0]) for task in tasks]
    missing = [name for kind, name in enumerate(KINDS) if kind not in every]
    if missing:
        raise InputError(f"Of {len(tasks)} tasks none is of the kind '{missing[0]}'. Judge on more tasks.")
    first = [tasks[every.index(kind)] for kind in range(4)]
    with alone(learner) as learner:
        phis = [
            _rows_of_classes(learner.update(*pick((task.support, learner.draw(task, 0)), 0), evaluating=True))
            for task in first
        ]
    points = {
        f"{half}_{axis}": np.concatenate([getattr(getattr(task, half), axis).numpy() for task in first])
        for half in ("support", "query")
        for axis in "xy"
    }
    return {"theta": _rows_of_classes(learner.params()), "phi": np.stack(phis)} | points


def _rows_of_classes(params: Params) -> Any:
    own = classifier(params)
    return torch.cat([own["weight"], own["bias"][:, None]], dim=1).detach().numpy()
