r"""Sign-MAML: inner steps along the sign of the gradient, so that no second derivative is left to take.

.. math:: \theta_{k+1} = \theta_k - \alpha\,\mathrm{sign}(\nabla L_S(\theta_k)), \qquad
    \frac{d L_Q(\phi)}{d\theta} = \nabla L_Q(\phi)

The sign is constant almost everywhere, so :math:`d\phi/d\theta = I`: the outer gradient is the query gradient at
:math:`\phi`, as in first-order MAML, but here it is exact. That is why the inner gradient may be held fixed.

Reference: Fan, Ram & Liu, 2021 (https://arxiv.org/abs/2109.07497). Here a gradient of exactly zero takes no step.
"""

from typing import Unpack

import torch
from torch import nn

from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Options, rule_learner
from quickstudy.rules.descend import Constant, Descend


def sign_maml(
    model: nn.Module,
    *,
    inner_lr: float = 0.01,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    **options: Unpack[Options],
) -> Learner:
    """Sign-MAML (Fan, Ram & Liu, 2021): every number moves by `inner_lr` at each step, whatever its gradient's size."""
    rule = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps, direction=torch.sign, first_order=True)
    return rule_learner(model, rule, **options)
