r"""HyperMAML: a hypernetwork computes the update of the classifier from the support set.

.. math:: \phi = \theta + \lambda\, H(S) - (1 - \lambda)\, \alpha \nabla L_S(\theta)

:math:`\theta` is the head, `weight [ways, features]` and `bias [ways]`; the body is the same for all tasks. H is a
`ClassHypernet`, S the support set as features, guesses and labels. :math:`\lambda` is `emission`, :math:`\alpha` is
`inner_lr`; training usually begins with gradient steps (:math:`\lambda = 0`) and ends with H alone.

Reference: Przewiezlikowski et al., 2022, eq. 5-7 and appendix B (https://arxiv.org/abs/2205.15745).

A head that is not linear or not last, an unknown `mixing` or unknown `labels` is an `InputError`.
"""

from typing import Unpack

from torch import nn

from quickstudy.errors import InputError
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import HeadOptions, make_rule_learner
from quickstudy.models.hypernet import ClassHypernet
from quickstudy.models.split import split_head
from quickstudy.rules.combine import Mix, MixLosses
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.emit import Emit
from quickstudy.rules.params import adaptable, trainable


def hypermaml(
    model: nn.Module,
    *,
    width: int = 256,
    hidden_layers: int = 2,
    enhance: bool = True,
    labels: str = "one_hot",
    emission: float = 1.0,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    mixing: str = "update",
    head: str | None = None,
    **options: Unpack[HeadOptions],
) -> Learner:
    """HyperMAML (Przewiezlikowski et al., 2022): a hypernetwork emits the head's update from the support set.

    `emission` is lambda of eq. 7: the weight of the emitted update, against `inner_steps` gradient steps. It is the
    buffer `rule.weights` = [lambda, 1 - lambda], which a schedule changes. `mixing` is "update" (eq. 7) or "loss"
    (appendix B).
    """
    if mixing not in ("update", "loss"):
        raise InputError(f"`mixing` is 'update' (eq. 7) or 'loss' (appendix B), not {mixing!r}.")
    body, last = split_head(model, head)
    network = ClassHypernet(
        adaptable(last, trainable), width=width, hidden_layers=hidden_layers, enhance=enhance, labels=labels
    )
    mix = Mix if mixing == "update" else MixLosses
    rule = mix([Emit(network), Descend(Constant(inner_lr), inner_steps)], weights=[emission, 1 - emission])
    return make_rule_learner(last, rule, body=body, **options)
