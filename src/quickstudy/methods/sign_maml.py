r"""Sign-MAML: inner steps along the sign of the gradient, for which the second derivative is zero.

.. math:: \theta_{k+1} = \theta_k - \alpha\,\mathrm{sign}(\nabla L_S(\theta_k)), \qquad
    \frac{d L_Q(\phi)}{d\theta} = \nabla L_Q(\phi)

:math:`\alpha` is `inner_lr`, in the units of the parameters. The sign is constant almost everywhere, so
:math:`d\phi/d\theta = I`: the outer gradient is the query gradient at :math:`\phi`. It is computed as in first-order
MAML, but here it is exact.

Reference: Fan, Ram & Liu, 2021 (https://arxiv.org/abs/2109.07497). Where the gradient is zero, there is no step.
"""

from typing import Unpack

import torch
from torch import nn

from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Options, make_rule_learner
from quickstudy.rules.descend import Constant, Descend


def sign_maml(
    model: nn.Module,
    *,
    inner_lr: float = 0.01,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    **options: Unpack[Options],
) -> Learner:
    """Sign-MAML (Fan, Ram & Liu, 2021): each step changes every value by `inner_lr`, whatever the gradient's size."""
    rule = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps, direction=torch.sign, first_order=True)
    return make_rule_learner(model, rule, **options)
