r"""R2-D2: a linear head that solves each task in closed form, on features that all tasks share.

.. math:: [W, b] = \alpha\, Z^T (Z Z^T + \lambda I)^{-1}\, Y + [0, \beta]

Z `[n, features + 1]` are the features of the support set with a column of ones, and Y `[n, outputs]` its targets: for
classes one-hot, for the loss binary_cross_entropy -1 or 1. The body, :math:`\lambda`, :math:`\alpha` and :math:`\beta`
are trained through the solution. It has no inner rate and no steps. A head without a bias has no column of ones.

Reference: Bertinetto et al., 2019, "Meta-learning with differentiable closed-form solvers", section 3.2
(https://arxiv.org/abs/1805.08136), and the authors' code, which has the column of ones. The code divides Z and Y by
:math:`\sqrt{n}`, so a :math:`\lambda` there is :math:`n \lambda` here. The paper's body is wider than Conv4 and reads
the last two blocks; here it is the model without its head. The first :math:`\alpha` is ours. `prior` "learned" is no
part of the paper: see `rules.ridge`.

A head that is not linear or not last, or an unknown `prior`, is an `InputError`.
"""

from typing import Unpack

from torch import nn

from quickstudy.methods.emission import find_linear_head
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import HeadOptions, make_rule_learner
from quickstudy.models.split import split_head
from quickstudy.rules.criteria import compares_classes, reads_logits
from quickstudy.rules.ridge import Ridge


def r2d2(
    model: nn.Module,
    *,
    ridge: float = 1.0,
    scale: float | None = None,
    prior: str = "zero",
    head: str | None = None,
    **options: Unpack[HeadOptions],
) -> Learner:
    """R2-D2 (Bertinetto et al., 2019): the head of a task is a ridge regression, solved in closed form.

    `ridge` and `scale` are the first values of lambda and alpha; `scale` is 10 for classes and 1 for numbers by
    default. `prior` is "zero" (the paper) or "learned": the ridge shrinks towards an initial head that is trained too.
    """
    outputs = find_linear_head(model, head).outputs
    body, last = split_head(model, head)
    loss = options.get("loss", "cross_entropy")
    if scale is None:
        scale = 1.0 if compares_classes(loss) is False else 10.0
    targets = "signs" if reads_logits(loss) else "given"
    rule = Ridge(outputs, ridge=ridge, scale=scale, prior=prior, targets=targets)
    return make_rule_learner(last, rule, body=body, **options)
