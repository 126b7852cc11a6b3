r"""MAML and its closest variants: gradient steps on all parameters or on the head, at given or learned rates.

.. math:: \theta_{k+1} = \theta_k - \alpha \odot \nabla L_S(\theta_k), \qquad
          \min_\theta \; \mathbb{E}_{\text{tasks}}\, L_Q(\theta_K)

:math:`L_S` and :math:`L_Q` are the losses on the support and the query set, K is `inner_steps` and :math:`\alpha` is
`inner_lr`, in units of a parameter per unit of the gradient; both losses are means over examples by default.

- MAML: the outer gradient is taken through all steps. Finn, Abbeel & Levine, 2017, algorithm 1
  (https://arxiv.org/abs/1703.03400).
- FOMAML: the inner gradients are constants in the outer gradient. The same paper, section 5.2.
- ANIL: theta is the head; the body is the same for all tasks. Raghu et al., 2020 (https://arxiv.org/abs/1909.09157).
- Meta-SGD: :math:`\alpha` is learned, with the shape of theta. Li et al., 2017, eq. 2
  (https://arxiv.org/abs/1707.09835).

Each refuses what it cannot adapt by an `InputError` when it is built: no parameter that `adapts` picks, or a head that
is not the model's last layer.
"""

from typing import Unpack

from torch import nn

from quickstudy.methods.learner import Learner
from quickstudy.methods.options import HeadOptions, Options, make_rule_learner, select_moved_params
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
    return make_rule_learner(model, rule, **options)


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
    return make_rule_learner(model, rule, **options)


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
    return make_rule_learner(last, rule, body=body, **options)


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
    rate = Learned(select_moved_params(model, **options), inner_lr, per=per, steps=inner_steps)
    return make_rule_learner(model, Descend(rate, inner_steps, eval_steps=eval_inner_steps), **options)
