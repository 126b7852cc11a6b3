r"""Meta-Curvature: MAML whose gradients are transformed by learned matrices, one along each axis of a weight.

.. math:: \theta_{k+1} = \theta_k - \alpha\, M(\nabla L_S(\theta_k)), \qquad
          M(G) = G \times_1 M_o \times_2 M_i \times_3 M_f

:math:`M_o` `[out, out]`, :math:`M_i` `[in, in]` and :math:`M_f` `[positions, positions]` act on the outputs, the inputs
and the kernel positions of each layer; meta-training changes them together with theta. :math:`\alpha` is `inner_lr`.
A T-net with one layer and no bias is the case :math:`M_o = T T^T` for the parameter :math:`T W`.

Reference: Park & Oliva, 2019, section 3 (https://arxiv.org/abs/1902.03356). The paper says nothing of biases: here they
have one factor for each entry. norms="per_step" keeps the norms out of the matrices.

A model without a parameter that adapts is an `InputError`.
"""

from typing import Unpack

from torch import nn

from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Options, make_rule_learner, select_moved_params
from quickstudy.rules.curvature import Curved
from quickstudy.rules.descend import Constant


def meta_curvature(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    **options: Unpack[Options],
) -> Learner:
    """Meta-Curvature (Park & Oliva, 2019): learned matrices transform the gradient along outputs, inputs, positions."""
    params = select_moved_params(model, **options)
    rule = Curved(Constant(inner_lr), params, inner_steps, eval_steps=eval_inner_steps)
    return make_rule_learner(model, rule, **options)
