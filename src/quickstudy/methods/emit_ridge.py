r"""Emission, and then the head in closed form.

.. math:: \theta' = \theta + H(S), \qquad
          W = W' - \alpha\, Z^T (Z Z^T + \lambda I)^{-1}\, n \nabla_{\!f} L_S(f_{\theta'})

H is the hypernetwork of `methods.set_emit`. Z `[n, features + 1]` are the features of the support set at
:math:`\theta'`, W' is the emitted head with its bias, and :math:`\nabla_{\!f} L_S` is the gradient in the outputs (see
`DampedNewton`). So the emission is the prior of a ridge regression: the hypernetwork finds the region of a task, and
the solution fits the support set from there. :math:`\alpha` and :math:`\lambda` are learned.

HyperMAML (https://arxiv.org/abs/2205.15745) times R2-D2 (https://arxiv.org/abs/1805.08136); in no paper that we know.

A head that is not linear or not last, or an unknown `summary`, is an `InputError`.
"""

from typing import Unpack

from torch import nn

from quickstudy.methods.emission import choose_summary, emit_then, find_linear_head
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Options, make_rule_learner
from quickstudy.rules.damped_newton import DampedNewton
from quickstudy.rules.params import adaptable, trainable


def emit_ridge(
    model: nn.Module,
    *,
    summary: str | None = None,
    width: int = 64,
    enhance: bool = True,
    head: str | None = None,
    damping: float = 1.0,
    rate: float | None = None,
    **options: Unpack[Options],
) -> Learner:
    """Emission, and then a ridge regression of the head that shrinks towards what was emitted (HyperMAML x R2-D2).

    `damping` and `rate` are the first values of lambda and alpha; `rate` is by default 1/2 for a squared error, with
    which the step is the ridge regression itself, and 5 for other losses. `summary`, `width` and `enhance` are those
    of `set_emit`.
    """
    params = adaptable(model, options.get("adapts", trainable))
    loss = options.get("loss", "cross_entropy")
    read = find_linear_head(model, head)
    summary = choose_summary(summary, loss)
    if rate is None:
        rate = 0.5 if loss == "mse" else 5.0
    names = [name for name in read.names if name in params] or read.names
    solve = DampedNewton(names, damping=damping, rate=rate)
    # An emission by class leaves the body as it is, so its features serve the solution too.
    after = solve if summary == "class" else read.open_to(solve)
    rule = emit_then([after], model, params, summary=summary, width=width, enhance=enhance, head=head)
    return make_rule_learner(model, rule, **options)
