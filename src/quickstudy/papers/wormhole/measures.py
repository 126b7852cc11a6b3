"""What is read from Wormhole MAML's trainings: errors, gains, conflicts between tasks, and the outer loss as a map."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.engine.engine import use_threads
from quickstudy.evaluation.evaluate import task_batches, task_hash
from quickstudy.evaluation.metrics import METRICS
from quickstudy.methods.learner import Learner
from quickstudy.papers.runner.measures import Reading, Trained, evaluate_metric, measure, over_tasks
from quickstudy.papers.wormhole.stability import FORMULAS, SWEEPS, gains_off
from quickstudy.papers.wormhole.surgery import cosines, operate, orders, resultant
from quickstudy.storage.result import Array
from quickstudy.tasks import Wavelet
from quickstudy.tasks.synthetic.wavelet import mexican_hat
from quickstudy.training.config import Setup, build
from quickstudy.types import Task

GRADIENTS = 40
"""Tasks whose gradients are compared: all their pairs are looked at."""


@measure("error_rate")
def error_rate(one: Trained, *, tasks: int = 600) -> Reading:
    """The share of wrong answers: 1 - accuracy."""
    found = evaluate_metric(one, tasks=tasks)
    assert found.each is not None
    return replace(found, value=1 - found.value, each=1 - found.each)


@measure("answering_zero")
def answering_zero(one: Trained, *, points: int, metric: str = "mse", times: float = 1.0, tasks: int = 2000) -> Reading:
    """The error on wavelets of always answering 0: what a model that learned nothing makes."""
    del one
    family = Wavelet(points=points)
    listed = list(task_batches(family, "test", tasks, 0))
    each = [METRICS[metric].measure(torch.zeros_like(b.query.y), b.query.y) for b in listed]
    return over_tasks(times * torch.cat(each).double().numpy(), task_hash(family, listed))


@measure("gains")
def gains(one: Trained, *, of: str = "flipped", times: float = 1.0, tasks: int = 600) -> Reading:
    """What gains were found on test tasks: C = tanh(t), or C itself where the chart has one number.

    `of` says what is the value: "flipped" (the share of tasks with C < 0), "agreed" (the share whose sign of C is the
    task's sign, up to one sign for all), "size" (mean |C|) or "mean" (mean C).
    """
    setup = one.setup()
    seen = [(_gain(setup, batch), batch.about) for batch in task_batches(setup.eval_family, "test", tasks, 0)]
    c = torch.cat([gain for gain, _ in seen]).double().numpy()
    each = {"flipped": c < 0, "size": np.abs(c), "mean": c}
    arrays = {"gain": c}
    if "sign" in seen[0][1]:
        arrays["sign"] = torch.cat([about["sign"] for _, about in seen]).double().numpy()
        same = np.sign(c) == arrays["sign"]
        each["agreed"] = same if same.mean() >= 0.5 else ~same
    more = {name: float(values.mean()) for name, values in each.items()}
    return over_tasks(times * each[of].astype(np.float64), more=more, arrays=arrays)


def _gain(setup: Setup, tasks: Task) -> Tensor:
    """C of every task, for charts of one number `[T]`."""
    seen = setup.learner.observe(tasks)
    [(name, value)] = [(name, value) for name, value in seen.items() if name.startswith("gain.")]
    return value.tanh() if name.endswith(".t") else value


@measure("weights")
def weights(one: Trained, *, of: str = "largest", pattern: str = "weight") -> Reading:
    """The meta-parameters at the end of training.

    The value is the largest absolute value or the norm of those whose names contain `pattern`; `more` has the same of
    their start.
    """
    setup = one.setup()

    def read(learner: Learner) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for n, p in learner.meta_params().items() if pattern in n]).double()

    def summed(values: Tensor) -> float:
        return float(values.abs().max() if of == "largest" else values.norm())

    end, start = read(setup.learner), read(build(setup.config).learner)
    return Reading(summed(end), more={"start": summed(start)}, arrays={"weights": end.numpy()})


def without_gain(setup: Setup) -> dict[str, Any]:
    """The settings under which the same meta-parameters are used by MAML."""
    options = setup.config.method.options
    return {"method": {"name": "maml", "inner_lr": options["inner_lr"], "inner_steps": options["inner_steps"]}}


@measure("conflict")
def conflict(one: Trained, *, how: str = "plain", of: str = "left", tasks: int = GRADIENTS) -> Reading:
    r"""How tasks' meta-gradients stand to one another, at the training's meta-parameters.

    `how` is "plain" (as MAML, without a gain), "surgery" (the same after PCGrad) or "gain" (as trained). `of` is what
    the value is: "left", what adding up leaves, :math:`\lVert \sum g_i \rVert / \sum \lVert g_i \rVert` with the
    lengths before surgery; "conflicting", the share of pairs with a negative cosine; "opposite", the mean cosine of two
    tasks of opposite sign; "signs", the cosine of the two signs' mean gradients.
    """
    setup = one.setup()
    settings = {} if how == "gain" else without_gain(setup)
    learner = one.setup(settings).learner if settings else setup.learner
    batch = setup.family.source("train", seed=one.seed + 1, size=tasks)(0)
    with use_threads(setup.config.compute.threads):
        named = learner.task_gradients(batch)
    before = torch.cat([g.reshape(tasks, -1) for g in named.values()], dim=1).detach().double()
    after = operate(before, orders(tasks, one.seed)) if how == "surgery" else before
    sign = batch.about["sign"].sign()
    pairs = cosines(after)
    one_of_each = torch.triu(torch.ones_like(pairs, dtype=torch.bool), diagonal=1)
    opposite = one_of_each & (sign[:, None] != sign[None])
    known = {
        "left": resultant(after, before),
        "conflicting": float((pairs[one_of_each] < 0).double().mean()),
        "opposite": float(pairs[opposite].nanmean()),
        "signs": float(cosines(torch.stack([after[sign > 0].mean(0), after[sign < 0].mean(0)]))[0, 1]),
    }
    arrays = {"gradients": after, "sign": sign, "cosines": pairs[one_of_each], "opposite": pairs[opposite]}
    return Reading(known[of], more=known, arrays={name: a.numpy() for name, a in arrays.items()})


@measure("outer_map")
def outer_map(one: Trained, *, reach: float = 1.2, grid: int = 41, tasks: int = 200) -> Reading:
    """The outer loss as a function of a model's two meta-parameters; the value is the loss where training ended.

    The map goes from -reach to reach in both, in `grid` places, over the same tasks everywhere.
    """
    setup = one.setup()
    batch = setup.family.source("test", seed=0, size=tasks)(0)
    [param] = setup.learner.meta_params().values()
    learner = setup.learner.evaluation_twin()
    trained = param.detach().clone()
    at = np.linspace(-reach, reach, grid)

    def loss(x: float, y: float) -> float:
        with torch.no_grad():
            param.copy_(torch.tensor([x, y]).reshape(param.shape))
            return float(learner(batch, evaluating=True).loss.mean())

    with use_threads(setup.config.compute.threads):
        table = np.array([[loss(x, y) for x in at] for y in at])
        end = trained.reshape(-1).tolist()
        value = loss(*end)
    stars = np.unique(batch.about["weights"].numpy(), axis=0)
    arrays = {"loss": table, "at": at, "end": np.array(end), "stars": stars}
    away = float(np.linalg.norm(stars - arrays["end"], axis=1).min())
    more = {"least": float(table.min()), "from a task's own": away, "size": float(np.linalg.norm(end))}
    return Reading(value, more=more, arrays=arrays)


@measure("wavelets")
def wavelets(one: Trained, *, of: str = "largest", points: int = 400) -> Reading:
    """The wavelets of both signs over the grid; the value is the largest or the smallest number of the positive one."""
    del one
    family = Wavelet(points=points)
    at = np.linspace(*family.grid, points)
    moved = np.linspace(*family.translation, 5)
    table = mexican_hat(at - moved[:, None])
    value = table.max() if of == "largest" else table.min()
    return Reading(float(value), arrays={"at": at, "translations": moved, "wavelets": table})


@measure("stability")
def right_signs(one: Trained, *, way: str, sweep: str = "model", off: float = 0.0, tasks: int = 600) -> Reading:
    """The share of batches whose c has the right sign.

    `way` is "found" (by the steps on t) or one of `FORMULAS`; `sweep` says what is off, by `off` standard deviations of
    the average. `more` has the median of c, the share of batches where it is infinite, the median of its relative
    distance from the exact c* where that is finite, and the share of the rarer label.
    """
    c = gains_off(one.setup(), sweep, off, tasks)
    finite = np.isfinite(c["exact"])
    best = c["exact"][finite]
    away = np.abs(c[way][finite] - best) / np.abs(best)
    more: dict[str, Any] = {
        "median": float(np.median(c[way])),
        "infinite": 1 - float(np.isfinite(c[way]).mean()),
        "from exact": float(np.median(away)) if len(away) else float("nan"),
        "rarer": float(c["rarer"].mean()),
    }
    return over_tasks((c[way] > 0).astype(np.float64), f"{sweep} {off:g}", more)


@measure("stability_curves")
def gain_quartiles(one: Trained, *, tasks: int = 200, places: int = 17, reach: float = 2.5) -> Reading:
    """Quartiles of c against how far something is off, by every way and in every sweep; the value is their number."""
    setup = one.setup()
    off = np.linspace(-reach, reach, places)
    arrays: dict[str, Array] = {"off": off}
    for sweep in SWEEPS:
        found = [gains_off(setup, sweep, float(at), tasks) for at in off]
        for way in ("found", *FORMULAS):
            arrays[f"{sweep}.{way}"] = np.stack([_quartiles(c[way]) for c in found])
            arrays[f"{sweep}.{way}.right"] = np.array([(c[way] > 0).mean() for c in found])
        arrays[f"{sweep}.rarer"] = np.array([c["rarer"].mean() for c in found])
    return Reading(float(len(off) * len(SWEEPS)), arrays=arrays)


def _quartiles(values: Array) -> Array:
    """25, 50 and 75%, by the nearest value: between two infinite ones there is no interpolating."""
    return np.asarray(np.quantile(values, [0.25, 0.5, 0.75], method="nearest"))
