"""MAML and its nearest relatives: gradient steps, on all parameters or on the head, at given or learned rates."""

from typing import Unpack

from torch import nn

from quickstudy.methods.learner import Learner
from quickstudy.methods.options import HeadOptions, Options, descending, rule_learner
from quickstudy.models.split import split_head
from quickstudy.rules.descend import Constant, Descend, Learned


def maml(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    **options: Unpack[Options],
) -> Learner:
    """MAML (Finn, Abbeel & Levine, 2017): gradient steps on every parameter, differentiated through."""
    rule = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)
    return rule_learner(model, rule, **options)


def fomaml(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    **options: Unpack[Options],
) -> Learner:
    """First-order MAML: the outer gradient is the query gradient at the adapted parameters."""
    rule = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps, first_order=True)
    return rule_learner(model, rule, **options)


def anil(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    head: str | None = None,
    **options: Unpack[HeadOptions],
) -> Learner:
    """ANIL (Raghu et al., 2020): MAML on the head; the body runs once per set of examples."""
    body, last = split_head(model, head)
    rule = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)
    return rule_learner(last, rule, body=body, **options)


def meta_sgd(
    model: nn.Module,
    *,
    inner_lr: float | tuple[float, float] = (0.005, 0.1),
    per: str = "parameter",
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    **options: Unpack[Options],
) -> Learner:
    """Meta-SGD (Li et al., 2017): a learned step size for each parameter, or for each layer (and step)."""
    rate = Learned(descending(model, **options), inner_lr, per=per, steps=inner_steps)
    return rule_learner(model, Descend(rate, inner_steps, eval_steps=eval_inner_steps), **options)
