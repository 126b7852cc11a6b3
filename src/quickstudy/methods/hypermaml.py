"""HyperMAML (Przewiezlikowski et al., 2022): a hypernetwork emits the update of the classifier from the support set."""

from typing import Unpack

from torch import nn

from quickstudy.errors import InputError
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import HeadOptions, rule_learner
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

    `emission` is eq. 7's lambda, the share of the emitted update beside `inner_steps` gradient steps; it is the buffer
    `rule.weights` = [lambda, 1 - lambda], which a schedule moves. `mixing` is "update" (eq. 7) or "loss" (appendix B).
    """
    if mixing not in ("update", "loss"):
        raise InputError(f"`mixing` is 'update' (eq. 7) or 'loss' (appendix B), not {mixing!r}.")
    body, last = split_head(model, head)
    network = ClassHypernet(
        adaptable(last, trainable), width=width, hidden_layers=hidden_layers, enhance=enhance, labels=labels
    )
    mix = Mix if mixing == "update" else MixLosses
    rule = mix([Emit(network), Descend(Constant(inner_lr), inner_steps)], weights=[emission, 1 - emission])
    return rule_learner(last, rule, body=body, **options)
