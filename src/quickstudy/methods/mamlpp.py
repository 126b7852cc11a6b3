r"""MAML++: the query loss after every inner step, and step sizes learned for each layer and step.

.. math:: L = \sum_{k=1}^{K} w_k L_Q(\theta_k), \qquad
    \theta_{k+1} = \theta_k - \alpha_k^{\mathrm{layer}} \nabla L_S(\theta_k)

At first all steps weigh the same; then the weight moves to the last, where training ends as MAML. Both that and the
order of the derivatives, which begins at one for speed, are buffers for schedules:
`rule.weights` from (1/K, ..., 1/K) to (0, ..., 0, 1), and `rule.direction.second` from 0 to 1. With K = 2,

    schedules: {rule.weights: {kind: ramp, start: 0, end: 300, before: [.5, .5], after: [0, 1]},
      rule.direction.second: {kind: ramp, start: 99, end: 100, before: 0, after: 1}}

Reference: Antoniou, Edwards & Storkey, 2019, section 4 (https://arxiv.org/abs/1810.09502). The sum there is over steps
0 to K, in the released code 1 to K as here; that code stops the earlier weights at .03/K, which is the same ramp with
another end. Batch norm is as `norms` says. Under "per_step" it has a scale and a bias for each step, as in the paper
(without the running statistics that are there kept for each), and the loss after a step is taken under those of that
step. The cosine of the outer rate belongs to the training configuration.
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Options, descending, rule_learner
from quickstudy.rules.base import Rate
from quickstudy.rules.descend import Descend, Learned
from quickstudy.rules.objective import Objective
from quickstudy.types import Params


class DerivativeOrder(nn.Module):
    """A direction: the gradient as it is, with a share of its derivative.

    At 0 it is a constant in the outer gradient (first order), at 1 it is differentiated (second order).

    Args:
        second: The share; a buffer, so that a schedule can move it by path.
    """

    second: Tensor

    def __init__(self, second: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("second", torch.tensor(float(second)), persistent=False)

    def forward(self, gradient: Tensor) -> Tensor:
        held = gradient.detach()
        if self.second.item() == 0:  # at 0 the second order must not be paid for, and 0 * inf is NaN
            return held
        return held + self.second * (gradient - held)


class MultiStep(Descend):
    r"""Descent whose training adds up the query losses after each step.

    .. math:: L = \sum_{k=1}^{K} w_k L_Q(\theta_k)

    Args:
        rate: The step sizes.
        weights: :math:`w_1, \dots, w_K`, one per inner step in training; a buffer, so that a schedule can move them.
        eval_steps: Inner steps in evaluation; by default K.
        second: Share of the second order in the outer gradient: see `DerivativeOrder`.
    """

    weights: Tensor

    def __init__(
        self, rate: Rate, weights: Sequence[float], *, eval_steps: int | None = None, second: float = 1.0
    ) -> None:
        if not weights:
            raise InputError("`weights` is empty; a query loss after every step needs one for each, so 1 or more.")
        super().__init__(rate, len(weights), eval_steps=eval_steps, direction=DerivativeOrder(second))
        self.register_buffer("weights", torch.tensor([float(w) for w in weights]), persistent=False)

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        _, *steps = self.iterates(params, objective)
        ends = list(zip(self.weights, self.weights.tolist(), steps, strict=True))
        # A step of weight 0 costs no query pass; the last is kept, since its outputs are those of the task.
        return [(weight, theta) for weight, value, theta in ends[:-1] if value != 0] + [(ends[-1][0], ends[-1][2])]


def mamlpp(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 5,
    eval_inner_steps: int | None = None,
    step_weights: Sequence[float] | None = None,
    second_order: float = 1.0,
    **options: Unpack[Options],
) -> Learner:
    """MAML++ (Antoniou et al., 2019): query losses at every step, rates learned per layer and step.

    `step_weights` are the weights of the steps' query losses, equal shares by default, and `second_order` the share of
    the second derivatives; a schedule moves them as the buffers `rule.weights` and `rule.direction.second`. `inner_lr`
    is where every learned rate starts.
    """
    if inner_steps < 1:
        raise InputError(f"`inner_steps` was {inner_steps}; a query loss after every step needs 1 or more.")
    given = [1 / inner_steps] * inner_steps if step_weights is None else step_weights
    if len(given) != inner_steps:
        raise InputError(f"`step_weights` has {len(given)} weights for {inner_steps} inner steps; give one per step.")
    rate = Learned(descending(model, **options), inner_lr, per="layer_step", steps=inner_steps)
    rule = MultiStep(rate, given, eval_steps=eval_inner_steps, second=second_order)
    return rule_learner(model, rule, **options)
