r"""MAML++: the query loss after every inner step, and step sizes learned for each layer and step.

.. math:: L = \sum_{k=1}^{K} w_k L_Q(\theta_k), \qquad
    \theta_{k+1} = \theta_k - \alpha_k^{\mathrm{layer}} \nabla L_S(\theta_k)

K is the number of inner steps and :math:`w_k` the weight of the query loss after step k. All weights are equal at
first; then they move to the last step, with which training is that of MAML. The paper begins with first derivatives,
for speed, and adds second ones later. Both are buffers for schedules: `rule.weights` from (1/K, ..., 1/K) to (0, ...,
0, 1), and `rule.direction.second` from 0 to 1. With K = 2,

    schedules: {rule.weights: {kind: ramp, start: 0, end: 300, before: [.5, .5], after: [0, 1]},
      rule.direction.second: {kind: ramp, start: 99, end: 100, before: 0, after: 1}}

Reference: Antoniou, Edwards & Storkey, 2019, section 4 (https://arxiv.org/abs/1810.09502). The paper's sum is over
steps 0 to K; in the released code it is over steps 1 to K, as here. That code keeps the earlier weights at 0.03/K or
more: the same ramp with another end. With norms="per_step" each step has a scale and a bias of its own in every batch
norm, as in the paper (but without running statistics for each step), and the query loss after a step uses those of that
step. The cosine schedule of the outer rate is set in the training configuration.
"""

from collections.abc import Iterator, Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from quickstudy.errors import InputError, check_finite
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Options, make_rule_learner, select_moved_params
from quickstudy.rules.base import Rate
from quickstudy.rules.descend import Descend, Learned
from quickstudy.rules.skipping import Skipping
from quickstudy.types import Params


class DerivativeOrder(nn.Module, Skipping):
    """A direction: the gradient itself, with a share of its derivative.

    With the share 0 it is a constant in the outer gradient (first order); with 1 it is differentiated (second order).

    Args:
        second: The share; a buffer, so that a schedule can change it by path.
    """

    any_layout = True
    second: Tensor
    skips_by = "second"

    def __init__(self, second: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("second", torch.tensor(float(second)), persistent=False)

    def forward(self, gradient: Tensor) -> Tensor:
        constant = gradient.detach()
        if self.zeros()[0]:  # no cost of second order at 0, where 0 * inf would be NaN
            return constant
        return constant + self.second * (gradient - constant)


class MultiStep(Descend, Skipping):
    r"""Gradient steps whose training adds up the query losses after each step.

    .. math:: L = \sum_{k=1}^{K} w_k L_Q(\theta_k)

    Args:
        rate: The step sizes.
        weights: :math:`w_1, \dots, w_K`, one for each step in training; a buffer, so that a schedule can change them.
        eval_steps: Inner steps in evaluation; by default K.
        second: The share of second derivatives in the outer gradient: see `DerivativeOrder`.
    """

    weights: Tensor
    skips_by = "weights"

    def __init__(
        self, rate: Rate, weights: Sequence[float], *, eval_steps: int | None = None, second: float = 1.0
    ) -> None:
        if not weights:
            raise InputError("`weights` is empty; a query loss after every step needs one for each, so 1 or more.")
        super().__init__(
            rate, len(weights), eval_steps=eval_steps, direction=DerivativeOrder(check_finite("second", second))
        )
        self.register_buffer("weights", torch.tensor([check_finite("weights", w) for w in weights]), persistent=False)

    def weigh(self, iterates: Iterator[Params]) -> list[tuple[Tensor | float, Params]]:
        _, *steps = iterates
        ends = list(zip(self.weights, self.zeros(), steps, strict=True))
        # A step of weight 0 needs no query pass, except the last: its outputs are those of the task.
        return [(weight, theta) for weight, zero, theta in ends[:-1] if not zero] + [(ends[-1][0], ends[-1][2])]


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
    """MAML++ (Antoniou et al., 2019): query losses after every step, rates learned for each layer and step.

    `step_weights` are the weights of the query losses, by default all 1/K, and `second_order` is the share of second
    derivatives; a schedule changes them as the buffers `rule.weights` and `rule.direction.second`. `inner_lr` is the
    first value of every learned rate.
    """
    if inner_steps < 1:
        raise InputError(f"`inner_steps` was {inner_steps}; a query loss after every step needs 1 or more.")
    weights = [1 / inner_steps] * inner_steps if step_weights is None else step_weights
    if len(weights) != inner_steps:
        raise InputError(f"`step_weights` has {len(weights)} weights for {inner_steps} inner steps; give one per step.")
    rate = Learned(select_moved_params(model, **options), inner_lr, per="layer_step", steps=inner_steps)
    rule = MultiStep(rate, weights, eval_steps=eval_inner_steps, second=second_order)
    return make_rule_learner(model, rule, **options)
