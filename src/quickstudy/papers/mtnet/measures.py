r"""What the thesis's figures are read from: update fractions, and how the output of a trained cell moves.

A cell is y = T (W x + b). A step on W and b, masked by m, moves A = T W (and T b) by

.. math:: \Delta A = -\alpha\, T\,\mathrm{diag}(m)\,T^\top \nabla_A L

which is eq. 4.3 where m is all ones: the metric is :math:`(T T^\top)^{-1}`, and what moves lies in the span of the
columns of T where m = 1 (proposition 1). It is checked in float64, on what the library's own rule does.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import log10

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from quickstudy.engine.engine import twice_differentiable
from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import task_batches, task_hash
from quickstudy.evaluation.metrics import spread
from quickstudy.methods.learner import evaluation_mode
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.papers.runner.measures import Array, Reading, Trained, measure
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.mask import Masked
from quickstudy.tasks import FAMILIES
from quickstudy.types import Examples, Params, Task, move

SMALLEST = 2.0**-53
"""Errors below a double's rounding are reported as that."""


@measure
def predicting_zero(one: Trained, *, family: str = "sine", shots: int = 10, tasks: int = 600, seed: int = 0) -> Reading:
    """The squared error of always answering 0, on the tasks that the other rows are judged on.

    Args:
        one: Not used: nothing is trained.
        family: Whose tasks.
        shots: Of these.
        tasks: How many.
        seed: Of the task list.
    """
    del one
    drawn_from = FAMILIES[family](shots=shots)
    drawn = list(task_batches(drawn_from, "test", tasks, seed))
    values = np.concatenate([task.query.y.flatten(1).square().mean(1).numpy() for task in drawn]).astype(np.float64)
    over = spread(values)
    return Reading(over.mean, over.interval, values, task_hash(drawn_from, drawn))


@measure
def update_fraction(one: Trained, *, cell: str = "", sign: int = 1) -> Reading:
    r"""The mean over logits of :math:`\sigma(\pm\zeta)`: how much of a masked learner adapts, or (-) does not.

    Args:
        one: The training.
        cell: Of one layer by name; by default over the logits of all.
        sign: 1 is the probability of adapting by eq. 3.7; -1 is the formula that section 6.3 prints.
    """
    rate = masks_of(one.setup().learner)
    held = {group.rpartition(".")[0]: p.detach().double().numpy() for group, p in rate.probabilities().items()}
    if cell and cell not in held:
        raise InputError(f"There is no cell {cell!r}. Cells are: {', '.join(held)}.")
    chosen = held[cell] if cell else np.concatenate([p.ravel() for p in held.values()])
    arrays = {f"cell.{name}": p for name, p in held.items()}
    return Reading(float(chosen.mean() if sign > 0 else 1 - chosen.mean()), arrays=arrays)


def masks_of(learner: nn.Module) -> Masked:
    """The masks of a learner that has some."""
    rule = getattr(learner, "rule", None)
    if not isinstance(rule, Descend) or not isinstance(rule.rate, Masked):
        raise InputError("Update fractions are those of masks: mtnet, mtnet_full, mnet and mnet_full have them.")
    return rule.rate


@measure
def closed_form(one: Trained, *, tasks: int = 50, seed: int = 0) -> Reading:
    r"""How far trained cells are from :math:`\Delta A = -\alpha T\,\mathrm{diag}(m)\,T^\top\nabla_A L`, as log10.

    The gradient on the right is that of a plain network with the weights A = T W, in which no T is left.

    Args:
        one: The training of a T-net or an MT-net with one inner step.
        tasks: How many.
        seed: Of the task list.
    """
    moved = movements(one, tasks, seed)
    errors = [gap(found, wanted) for cell in moved for found, wanted in zip(cell.change, cell.predicted, strict=True)]
    condition = {f"condition of T, {cell.name}": float(np.linalg.cond(cell.metric)) for cell in moved}
    return Reading(decades(largest(errors)), more={"tasks": tasks, "cells": len(moved), **condition})


@measure
def outside_plane(one: Trained, *, tasks: int = 200, cell: str = "", x: float = 1.0, seed: int = 0) -> Reading:
    """The largest share of a task's change that lies outside the span of T's columns where m = 1, as log10.

    Over all cells and every input at once, as the change of A = T W and of T b. `more` counts ranks: that of a change
    cannot be above the number of rows that adapt.

    Args:
        one: The training of an MT-net.
        tasks: How many.
        cell: The layer whose output changes are kept for figures.
        x: Of the input at which they are taken.
        seed: Of the task list.
    """
    moved = movements(one, tasks, seed)
    shares, ranks, rows = [], [], []
    for part in moved:
        for change, mask in zip(part.change, part.mask, strict=True):
            shares.append(outside(change, part.metric[:, mask > 0.5]))
            ranks.append(int(np.linalg.matrix_rank(change)) if change.any() else 0)
            rows.append(int(mask.sum()))
    more = {
        "tasks": tasks,
        "ranks above the rows that adapt": int(np.sum(np.array(ranks) > np.array(rows))),
        "ranks equal to them": int(np.sum(np.array(ranks) == np.array(rows))),
        "changes": len(ranks),
    }
    drawn = next((part for part in moved if part.name == cell), None)
    return Reading(decades(largest(shares)), more=more, arrays={} if drawn is None else drawn.drawn(x))


@dataclass(frozen=True)
class Movement:
    """What one inner step changed in a cell, of each task.

    Args:
        name: Of the layer.
        weight: W before, `[out, in]`.
        metric: T, `[out, out]`.
        mask: Rows that adapt, `[T, out]`.
        change: Of A = T W with T b as a last column, `[T, out, in + 1]`.
        predicted: The same by the closed form.
        inputs: What the cell's input is at theta, as a function of the network's.
        about: Of the tasks.
    """

    name: str
    weight: Array
    metric: Array
    mask: Array
    change: Array
    predicted: Array
    inputs: "Seen"
    about: Mapping[str, Array]

    def drawn(self, x: float) -> dict[str, Array]:
        """What figures show of it: output changes at x, and where they come from."""
        return {
            "output": self.change @ self.inputs(self.name, x),
            "metric": self.metric,
            "mask": self.mask,
            "weight": self.weight,
            "weight_change": np.linalg.solve(self.metric, self.change[:, :, :-1]),
            **{name: value for name, value in self.about.items() if value.ndim == 1},
        }


class Seen:
    """The input of each layer of a network, with a 1 behind it for the bias."""

    def __init__(self, head: nn.Module) -> None:
        self.head = head

    def __call__(self, layer: str, x: float) -> Array:
        seen: list[Tensor] = []
        hook = self.head.get_submodule(layer).register_forward_hook(lambda _, given, __: seen.append(given[0]))
        try:
            with torch.no_grad():
                self.head(torch.full((1, 1), x, dtype=torch.float64))
        finally:
            hook.remove()
        return np.append(seen[0][0].numpy(), 1.0)


def movements(one: Trained, tasks: int, seed: int) -> list[Movement]:
    """Every cell's change by one inner step, of the first tasks of the test list, in float64."""
    setup = one.setup()
    learner = setup.learner.double()
    if not isinstance(learner, RuleLearner) or not isinstance(learner.rule, Descend) or learner.rule.eval_steps != 1:
        raise InputError("The closed form is that of one gradient step: a T-net or an MT-net with inner_steps 1.")
    listed = list(task_batches(setup.judged, "test", tasks, seed))
    drawn: Task = move(tree_map(lambda *parts: torch.cat(parts), *listed), torch.float64)
    noise = learner.draw(drawn, 0)
    with evaluation_mode(learner), twice_differentiable(), torch.no_grad():
        learner.engine.settle(learner, drawn.support.x)
        phi: Params = learner.engine.each(
            lambda support, own: learner.update(support, own, evaluating=True), drawn.support, noise
        )
    return _cells(learner, drawn, phi, noise)


def _cells(learner: RuleLearner, drawn: Task, phi: Params, noise: Mapping[str, Tensor]) -> list[Movement]:
    assert isinstance(learner.rule, Descend)
    rate, head = learner.rule.rate, learner.head
    gradients = _gradients(head, learner, drawn.support)
    masks = rate.masks(noise) if isinstance(rate, Masked) else {}
    base = rate.rate if isinstance(rate, Masked) else rate
    assert isinstance(base, Constant)
    found = []
    for name in [n.removesuffix(".metric") for n, _ in head.named_parameters() if n.endswith(".metric")]:
        layer = head.get_submodule(name)
        T, W, b = (getattr(layer, part).detach() for part in ("metric", "weight", "bias"))
        shifts = phi[f"{name}.weight"] - W, phi[f"{name}.bias"] - b
        group = f"{name}.rows{len(W)}"
        m = masks[group] if group in masks else torch.ones(len(drawn.key), len(W), dtype=W.dtype)
        change = T @ torch.cat([shifts[0], shifts[1][:, :, None]], dim=2)
        slope = torch.cat([gradients[f"{name}.weight"], gradients[f"{name}.bias"][:, :, None]], dim=2)
        predicted = -base.value * T @ (m.detach()[:, :, None] * (T.mT @ slope))
        about = {key: value.numpy() for key, value in drawn.about.items()}
        before, metric, rows, after, formula = (part.detach().numpy() for part in (W, T, m, change, predicted))
        found.append(Movement(name, before, metric, rows, after, formula, Seen(head), about))
    return found


def _gradients(head: nn.Module, learner: RuleLearner, support: Examples) -> Params:
    """The gradient of each task's support loss for A = T W and T b, taken where T is the identity."""
    plain = deepcopy(head)
    values: Params = {}
    for name, layer in plain.named_modules():
        if isinstance(metric := getattr(layer, "metric", None), Tensor):
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            values |= {f"{name}.weight": (metric @ weight).detach(), f"{name}.bias": (metric @ bias).detach()}
            metric.data = torch.eye(len(metric), dtype=metric.dtype)

    def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return learner.inner_criterion(functional_call(plain, params, (x,)), y)

    each = [torch.func.grad(loss)(values, x, y) for x, y in zip(*support, strict=True)]
    return {name: torch.stack([one[name] for one in each]).detach() for name in values}


def gap(found: Array, wanted: Array) -> float:
    """The distance of two arrays, relative to the second one's size."""
    return float(np.linalg.norm(found - wanted)) / max(float(np.linalg.norm(wanted)), SMALLEST)


def outside(change: Array, columns: Array) -> float:
    """The share of a change's columns outside the span of others."""
    size = np.linalg.norm(change)
    if size == 0:
        return 0.0
    basis = np.linalg.qr(columns)[0]
    return float(np.linalg.norm(change - basis @ (basis.T @ change)) / size)


def largest(errors: Sequence[float]) -> float:
    """The largest, NaN where one is: `max` may pass over it.

    >>> largest([0.0, float("nan")])
    nan
    """
    return float(np.max(errors))


def decades(error: float) -> float:
    """An error as log10."""
    return log10(max(error, SMALLEST))
