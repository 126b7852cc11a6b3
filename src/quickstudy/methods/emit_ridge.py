r"""Emission, and then the head in closed form.

.. math:: \theta' = \theta + H(S), \qquad
          W = W' - \alpha\, Z^T (Z Z^T + \lambda I)^{-1}\, n \nabla_{\!f} L_S(f_{\theta'})

H is the hypernetwork of `methods.set_emit`. Z `[n, features + 1]` are the features of the support set at
:math:`\theta'`, W' is the emitted head with its bias, and :math:`\nabla_{\!f} L_S` is the gradient in the outputs (see
`DampedNewton`). So for a squared error the emission is the prior of a ridge regression: the hypernetwork finds the
region of a task, and the solution fits the support set from there. For another loss the step is like it, without the
curvature of the loss. :math:`\alpha` and :math:`\lambda` are learned.

HyperMAML (https://arxiv.org/abs/2205.15745) times R2-D2 (https://arxiv.org/abs/1805.08136); in no paper that we know.

A head that is not linear or not last, or an unknown `summary`, is an `InputError`.
"""

from typing import Unpack

from torch import nn

from quickstudy.methods.emission import choose_summary, emit_then, find_linear_head
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Loss, Options, make_rule_learner
from quickstudy.rules.criteria import class_sum_cross_entropy, get_criterion, is_squared_error, one_hot_mse
from quickstudy.rules.damped_newton import DampedNewton
from quickstudy.rules.params import adaptable, trainable


def first_rate(inner_loss: Loss, outputs: int) -> float:
    """Half the gradient of the squared error of an example, or ten times that of another loss.

    `DampedNewton` multiplies the support loss by the number of examples. What is left of the loss's own reduction, a
    mean over the outputs or a sum over the classes, is undone here. A function that is none of ours counts as a mean
    over the examples.
    """
    criterion = get_criterion(inner_loss)
    if is_squared_error(criterion):
        return 0.5 * outputs
    if criterion is class_sum_cross_entropy:
        return 10.0 / outputs
    return 10.0 * outputs if criterion is one_hot_mse else 10.0


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

    `damping` and `rate` are the first values of lambda and alpha. By default, `rate` makes the step the ridge
    regression itself where the support loss is a squared error, and otherwise 10 times the gradient of each example's
    loss: see `first_rate`. `summary`, `width` and `enhance` are those of `set_emit`.
    """
    params = adaptable(model, options.get("adapts", trainable))
    loss = options.get("loss", "cross_entropy")
    read = find_linear_head(model, head)
    summary = choose_summary(summary, loss)
    if rate is None:
        rate = first_rate(options.get("inner_loss") or loss, read.outputs)
    names = [name for name in read.names if name in params] or read.names
    solve = DampedNewton(names, damping=damping, rate=rate)
    # An emission by class leaves the body as it is, so its features serve the solution too.
    after = solve if summary == "class" else read.open_to(solve)
    rule = emit_then([after], model, params, summary=summary, width=width, enhance=enhance, head=head)
    return make_rule_learner(model, rule, **options)
