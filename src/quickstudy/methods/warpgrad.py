r"""WarpGrad: layers between a model's own shape its gradients; they are trained along the paths of tasks.

.. math:: y = \omega(W x + b), \qquad
          L = \frac{1}{K} \sum_{k=0}^{K-1} L_Q\big(\bar\theta_k - \alpha \nabla L_S(\bar\theta_k)\big)

A task adapts :math:`\theta = (W, b)`, at the rate :math:`\alpha` (`inner_lr`). The warp layers :math:`\omega` are the
same for all tasks (see `models.warp`). :math:`\bar\theta_k` are the points of a task's path, as constants: no
derivative is taken through the path (see `rules.along_path`). T-nets are the special case of linear warps
(`units=0`) and one step: then model, rule and loss are those of `tnet`.

Reference: Flennerhag et al., 2020, section 2 and algorithm 1 (https://arxiv.org/abs/1909.00025). There, theta_0 is
trained by any method beside the warps, from MAML to Leap; here by the first term of L. The paper draws the points from
the paths of many steps (100 on Omniglot); here all points of K steps are used.

A model without a Linear or Conv2d layer that trains, or norms="per_step", is an `InputError`.
"""

from typing import Unpack

from torch import nn

from quickstudy.methods.learner import Learner
from quickstudy.methods.mtnet import adaptable_cells
from quickstudy.methods.options import HeadOptions, make_rule_learner
from quickstudy.models.cells import with_metric
from quickstudy.models.norms import refuse_per_step
from quickstudy.models.warp import with_warp
from quickstudy.rules.along_path import AlongPath
from quickstudy.rules.descend import Constant


def warpgrad(
    model: nn.Module,
    *,
    units: int = 32,
    inner_lr: float = 0.1,
    inner_steps: int = 5,
    eval_inner_steps: int | None = None,
    **options: Unpack[HeadOptions],
) -> Learner:
    """WarpGrad (Flennerhag et al., 2020): warp layers shape the gradient, and are trained along each task's path.

    `units` are the hidden units of each warp layer; 0 is a linear one, which is the T of a T-net.
    """
    refuse_per_step(options.get("norms", "batch"), "WarpGrad trains every point of a path alone")
    names = adaptable_cells(with_metric(model))
    rule = AlongPath(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)
    return make_rule_learner(with_warp(model, units), rule, adapts=names, **options)
