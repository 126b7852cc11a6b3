r"""How the output of a trained cell moves in one inner step.

A cell is y = T (W x + b). A step on W and b, masked by m, moves A = T W (and T b) by

.. math:: \Delta A = -\alpha\, T\,\mathrm{diag}(m)\,T^\top \nabla_A L

which is eq. 4.3 where m is all ones: the metric is :math:`(T T^\top)^{-1}`, and what moves lies in the span of the
columns of T where m = 1 (proposition 1). It is checked in float64, on what the library's own rule does.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.engine.second_derivatives import twice_differentiable
from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import task_batches
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.papers.runner.measures import Trained
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.mask import Masked
from quickstudy.rules.torch_private import tree_map
from quickstudy.storage.result import Array
from quickstudy.types import Examples, Params, Task, move

SMALLEST = 2.0**-53
"""Errors below a double's rounding are reported as that."""


@dataclass(frozen=True)
class Movement:
    """What one inner step changed in a cell, of each task."""

    name: str  # of the layer
    metric: Array  # T, `[out, out]`
    mask: Array  # rows that adapt, `[T, out]`
    change: Array  # of A = T W with T b as a last column, `[T, out, in + 1]`
    predicted: Array  # the same by the closed form
    drawn: Mapping[str, Array]  # for figures: output changes at an input of the network, and where they come from


def movements(one: Trained, tasks: int, x: float = 1.0) -> list[Movement]:
    """Every cell's change by one inner step, of the first tasks of the test list, in float64; drawn at the input x."""
    setup = one.setup()
    learner = setup.learner.double()
    if not isinstance(learner, RuleLearner) or not isinstance(learner.rule, Descend) or learner.rule.eval_steps != 1:
        raise InputError("The closed form is that of one gradient step: a T-net or an MT-net with inner_steps 1.")
    listed = list(task_batches(setup.eval_family, "test", tasks, 0))
    drawn: Task = move(tree_map(lambda *parts: torch.cat(parts), *listed), torch.float64)
    noise = learner.draw(drawn, 0)
    learner = learner.evaluation_twin()
    with twice_differentiable(), torch.no_grad():
        learner.engine.settle(learner, drawn.support.x)
        phi: Params = learner.engine.each(
            lambda support, own: learner.update(support, own, evaluating=True), drawn.support, noise
        )
    rate, head = learner.rule.rate, learner.head
    masks, base = (rate.masks(noise), rate.rate) if isinstance(rate, Masked) else ({}, rate)
    assert isinstance(base, Constant)
    slopes = _gradients(head, learner, drawn.support)
    about = {key: value.numpy() for key, value in drawn.about.items() if value.ndim == 1}
    found = []
    for name in [n.removesuffix(".metric") for n, _ in head.named_parameters() if n.endswith(".metric")]:
        layer, of = head.get_submodule(name), (f"{name}.weight", f"{name}.bias")
        T, W, b = (getattr(layer, part).detach() for part in ("metric", "weight", "bias"))
        m = masks.get(f"{name}.rows{len(W)}", torch.ones(len(drawn.key), len(W), dtype=W.dtype)).detach()
        change = (T @ _join(phi[of[0]] - W, phi[of[1]] - b)).detach().numpy()
        predicted = -base.value * T @ (m[:, :, None] * (T.mT @ _join(slopes[of[0]], slopes[of[1]])))
        shown = {"output": change @ _input(head, layer, x), "metric": T.numpy(), "mask": m.numpy(), "weight": W.numpy()}
        shown["weight_change"] = np.linalg.solve(T.numpy(), change[:, :, :-1])
        found.append(Movement(name, T.numpy(), m.numpy(), change, predicted.detach().numpy(), shown | about))
    return found


def _join(weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([weight, bias[..., None]], dim=-1)


def _input(head: nn.Module, layer: nn.Module, x: float) -> Array:
    """A cell's input at theta, with a 1 behind it for the bias, where the network's is x."""
    seen: list[Tensor] = []
    with layer.register_forward_hook(lambda _, given, __: seen.append(given[0])), torch.no_grad():
        head(torch.full((1, 1), x, dtype=torch.float64))
    return np.append(seen[0][0].numpy(), 1.0)


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


def masks_of(learner: nn.Module) -> Masked:
    """The masks of a learner that has some."""
    rule = getattr(learner, "rule", None)
    if not isinstance(rule, Descend) or not isinstance(rule.rate, Masked):
        raise InputError("Update fractions are those of masks: mtnet, mtnet_full, mnet and mnet_full have them.")
    return rule.rate
