r"""Section 4.1 of Wormhole MAML: which gain c a batch asks for, when the model's threshold or the labels are off.

With :math:`z_i = W^T x_i` (the bias included) and labels y in {0, 1}, the loss in c is eq. 8,

.. math:: L(c) = -\sum_{y_i=1} \log \sigma(c z_i) - \sum_{y_i=0} \log(1 - \sigma(c z_i))

which is convex. Three ways to c*: the exact minimum; eq. 13 as printed; and what its expansion gives with the sign of
eq. 9 and the constant of eq. 10 put right (:math:`\sigma(u) \approx 1/2 + u/4`).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quickstudy.engine.threads import use_threads
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.storage.result import Array
from quickstudy.tasks import AverageThreshold
from quickstudy.training.config import Setup

DEVIATION = (1 / 12 / 5) ** 0.5
"""The standard deviation of the average of five uniform numbers: thresholds are off in units of it."""


def exact_c(z: Float[Tensor, "*t n"], y: Float[Tensor, "*t n"]) -> Float[Tensor, "*t"]:
    """Where eq. 8 is least, by halving; infinite where no c is the best."""
    agrees = (2 * y - 1) * z
    high = 1e6 / z.abs().amax(-1).clamp(min=1e-12)
    low = -high
    for _ in range(100):
        middle = (low + high) / 2
        beyond = (agrees * torch.sigmoid(-middle[..., None] * agrees)).sum(-1) < 0  # where the loss rises
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    least = (low + high) / 2
    # Where z tells the labels apart the loss falls for ever.
    least = torch.where((agrees >= 0).all(-1), torch.inf, least)
    return torch.where((agrees <= 0).all(-1), -torch.inf, least)


def printed_c(z: Float[Tensor, "*t n"], y: Float[Tensor, "*t n"]) -> Float[Tensor, "*t"]:
    r"""Eq. 13 as printed: :math:`\sum_i 1[y_i = 1] z_i / \sum_i z_i^2`."""
    return (y * z).sum(-1) / z.square().sum(-1)


def corrected_c(z: Float[Tensor, "*t n"], y: Float[Tensor, "*t n"]) -> Float[Tensor, "*t"]:
    r"""The same derivation put right: :math:`2 \sum_i (2 y_i - 1) z_i / \sum_i z_i^2`."""
    return 2 * ((2 * y - 1) * z).sum(-1) / z.square().sum(-1)


Formula = Callable[[Tensor, Tensor], Tensor]
FORMULAS: dict[str, Formula] = {"exact": exact_c, "printed": printed_c, "corrected": corrected_c}

SWEEPS = {
    "model": "the model's threshold is off, labels are balanced",
    "labels": "the model's threshold is right, labels are unbalanced",
    "both": "the tasks' threshold moves away from the model's",
}


def gains_off(setup: Setup, sweep: str, off: float, tasks: int) -> dict[str, Array]:
    """c by every way on tasks whose threshold is `off` standard deviations away, as `SWEEPS` has it.

    c is given the sign with which it should be positive: that of the task and of the trained weights.
    """
    moved = 0.5 + off * DEVIATION
    task, model = {"model": (0.5, moved), "labels": (moved, moved), "both": (moved, 0.5)}[sweep]
    learner = setup.learner
    assert isinstance(setup.family, AverageThreshold) and isinstance(learner, RuleLearner)
    [layer] = [module for module in learner.head.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        total = layer.weight.sum()
        layer.bias.fill_(-float(total) * model)  # so that it compares the average with the model's threshold
    batch = replace(setup.family, tau_range=(task, task)).source("test", seed=0, size=tasks)(0)
    with use_threads(setup.config.compute.threads), torch.no_grad():
        z = torch.stack([learner.head(x) for x in batch.support.x]).double()[..., 0]
        seen = learner.observe(batch)
    y = batch.support.y.double()[..., 0]
    right = float(total.sign()) * batch.about["sign"].double()
    c = {"found": seen["gain.t"].double().tanh()} | {name: way(z, y) for name, way in FORMULAS.items()}
    rarer = torch.minimum(y.mean(-1), 1 - y.mean(-1))
    return {name: (right * value).numpy() for name, value in c.items()} | {"rarer": rarer.numpy()}
