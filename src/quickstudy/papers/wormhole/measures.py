"""What is read from Wormhole MAML's trainings: errors, gains, conflicts between tasks, and the outer loss as a map."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from quickstudy.engine.threads import use_threads
from quickstudy.evaluation.evaluate import task_batches
from quickstudy.papers.runner.measures import Reading, Trained, evaluate_metric, measure, over_tasks
from quickstudy.papers.wormhole.stability import FORMULAS, SWEEPS, gains_off
from quickstudy.papers.wormhole.surgery import cosines, operate, orders, resultant
from quickstudy.storage.result import Array
from quickstudy.tasks import Wavelet
from quickstudy.tasks.synthetic.wavelet import mexican_hat
from quickstudy.training.config import build

GRADIENTS = 40
"""Tasks whose gradients are compared: all their pairs are looked at."""


@measure("error_rate")
def error_rate(one: Trained, *, tasks: int = 600) -> Reading:
    """The share of wrong answers: 1 - accuracy."""
    found = evaluate_metric(one, tasks=tasks)
    assert found.each is not None
    return replace(found, value=1 - found.value, each=1 - found.each)


@measure("gains")
def gains(one: Trained, *, of: str = "flipped", times: float = 1.0, tasks: int = 600) -> Reading:
    """What gains were found on test tasks: C = tanh(t), or C itself, for charts of one number.

    `of` says what is the value: "flipped" (the share of tasks with C < 0), "agreed" (the share whose sign of C is the
    task's sign, up to one sign for all), "size" (mean |C|) or "mean" (mean C).
    """
    setup = one.setup()
    listed = list(task_batches(setup.eval_family, "test", tasks, 0))
    found = []
    for batch in listed:
        [(name, value)] = [one for one in setup.learner.observe(batch).items() if one[0].startswith("gain.")]
        found.append(value.tanh() if name.endswith(".t") else value)
    c = torch.cat(found).double().numpy()
    each = {"flipped": c < 0, "size": np.abs(c), "mean": c}
    arrays = {"gain": c}
    if "sign" in listed[0].about:
        arrays["sign"] = torch.cat([batch.about["sign"] for batch in listed]).double().numpy()
        same = np.sign(c) == arrays["sign"]
        each["agreed"] = same if same.mean() >= 0.5 else ~same
    more = {name: float(values.mean()) for name, values in each.items()}
    return over_tasks(times * each[of].astype(np.float64), more=more, arrays=arrays)


@measure("weights")
def weights(one: Trained, *, of: str = "largest", pattern: str = "weight") -> Reading:
    """The largest absolute value, or the norm, of what `pattern` names at the end of training; `more`: at its start."""
    setup = one.setup()
    ends = [
        torch.cat([p.detach().reshape(-1) for name, p in learner.meta_params().items() if pattern in name]).double()
        for learner in (setup.learner, build(setup.config).learner)
    ]
    end, start = (float(values.abs().max() if of == "largest" else values.norm()) for values in ends)
    return Reading(end, more={"start": start}, arrays={"weights": ends[0].numpy()})


@measure("conflict")
def conflict(one: Trained, *, how: str = "plain", of: str = "left", tasks: int = GRADIENTS) -> Reading:
    r"""How much tasks' meta-gradients conflict, at the training's meta-parameters.

    `how` is "plain" (as MAML, without a gain), "surgery" (the same after PCGrad) or "gain" (as trained). `of` is what
    the value is: "left", what adding up leaves, :math:`\lVert \sum g_i \rVert / \sum \lVert g_i \rVert` with the
    lengths before surgery; "conflicting", the share of pairs with a negative cosine; "opposite", the mean cosine of two
    tasks of opposite sign.
    """
    before, sign = _meta_gradients(one, how, tasks)
    after = operate(before, orders(tasks, one.seed)) if how == "surgery" else before
    pairs = cosines(after)
    one_of_each = torch.triu(torch.ones_like(pairs, dtype=torch.bool), diagonal=1)
    opposite = one_of_each & (sign[:, None] != sign[None])
    known = {
        "left": resultant(after, before),
        "conflicting": float((pairs[one_of_each] < 0).double().mean()),
        "opposite": float(pairs[opposite].nanmean()),
    }
    arrays = {"gradients": after, "sign": sign, "cosines": pairs[one_of_each], "opposite": pairs[opposite]}
    return Reading(known[of], more=known, arrays={name: a.numpy() for name, a in arrays.items()})


@measure("alignment")
def alignment(one: Trained, *, how: str = "plain", tasks: int = 4000) -> Reading:
    """The cosine of the mean meta-gradients of the two signs' tasks, as MAML ("plain") or as trained ("gain").

    A task's gradient is mostly that of its ten points, so the means are over thousands of tasks.
    """
    gradients, sign = _meta_gradients(one, how, tasks)
    means = torch.stack([gradients[sign > 0].mean(0), gradients[sign < 0].mean(0)])
    return Reading(float(cosines(means)[0, 1]), more={"tasks": tasks})


def _meta_gradients(one: Trained, how: str, tasks: int) -> tuple[Tensor, Tensor]:
    """Training tasks' meta-gradients `[tasks, numbers]` at the training's meta-parameters, and the tasks' signs."""
    setup = one.setup()
    learner = setup.learner
    if how != "gain":  # the same meta-parameters, used by MAML
        own = setup.config.method.options
        learner = one.setup({"method": {"name": "maml", **{k: own[k] for k in ("inner_lr", "inner_steps")}}}).learner
    batch = setup.family.source("train", seed=one.seed + 1, size=tasks)(0)
    with use_threads(setup.config.compute.threads):
        named = learner.task_gradients(batch)
    flat = torch.cat([g.reshape(tasks, -1) for g in named.values()], dim=1)
    return flat.detach().double(), batch.about["sign"].sign()


@measure("outer_map")
def outer_map(one: Trained, *, reach: float = 1.2, grid: int = 41, tasks: int = 200) -> Reading:
    """The outer loss as a function of a model's two meta-parameters; the value is the loss where training ended.

    The map goes from -reach to reach in both, in `grid` places, over the same tasks everywhere.
    """
    setup = one.setup()
    batch = setup.family.source("test", seed=0, size=tasks)(0)
    [param] = setup.learner.meta_params().values()
    learner = setup.learner.evaluation_twin()
    end = param.detach().reshape(-1).tolist()
    at = np.linspace(-reach, reach, grid)

    def loss(x: float, y: float) -> float:
        param.copy_(torch.tensor([x, y]).reshape(param.shape))
        return float(learner(batch, evaluating=True).loss.mean())

    with torch.no_grad(), use_threads(setup.config.compute.threads):
        table = np.array([[loss(x, y) for x in at] for y in at])
        value = loss(*end)
    stars = np.unique(batch.about["weights"].numpy(), axis=0)
    arrays = {"loss": table, "at": at, "end": np.array(end), "stars": stars}
    away = float(np.linalg.norm(stars - arrays["end"], axis=1).min())
    more = {"least": float(table.min()), "from a task's own": away, "size": float(np.linalg.norm(end))}
    return Reading(value, more=more, arrays=arrays)


@measure("wavelets")
def wavelets(one: Trained, *, of: str = "largest", points: int = 400) -> Reading:
    """Wavelets over the grid; the value is the largest or the smallest number of a positive one."""
    del one
    family = Wavelet(points=points)
    at, moved = np.linspace(*family.grid, points), np.linspace(*family.translation, 5)
    table = mexican_hat(at - moved[:, None])
    value = float(table.max() if of == "largest" else table.min())
    return Reading(value, arrays={"at": at, "translations": moved, "wavelets": table})


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
    more = {"median": float(np.median(c[way])), "infinite": 1 - float(np.isfinite(c[way]).mean())}
    more |= {"from exact": float(np.median(away)) if len(away) else float("nan"), "rarer": float(c["rarer"].mean())}
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
            # By the nearest value: between two infinite ones there is no interpolating.
            quartiles = [np.quantile(c[way], [0.25, 0.5, 0.75], method="nearest") for c in found]
            arrays[f"{sweep}.{way}"] = np.stack(quartiles)
            arrays[f"{sweep}.{way}.right"] = np.array([(c[way] > 0).mean() for c in found])
        arrays[f"{sweep}.rarer"] = np.array([c["rarer"].mean() for c in found])
    return Reading(float(len(off) * len(SWEEPS)), arrays=arrays)
