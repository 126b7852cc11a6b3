r"""Unicorn-MAML: every task starts from one head row, copied to all of its classes.

.. math:: \phi = \mathrm{descend}(P\theta), \qquad (P\theta)_c = w, \quad (P\theta)_{\mathrm{body}} = \theta

MAML learns a row for each class number, although which class has which number is chance. With one row w (and one bias)
for all, relabelling a task's classes permutes its outputs and changes nothing else.

w is kept as the rows of the model's own head, all equal: P takes their mean, whose gradient reaches every row alike, so
an optimizer keeps them equal, and what is saved is the start that tasks are given.

Reference: Ye & Chao, 2022 (https://arxiv.org/abs/2106.16245). Each of the N rows receives 1/N of the gradient of w,
which Adam does not notice and SGD does: its outer rate for w is the given one over N. The paper pre-trains its encoder
on all training classes and takes many inner steps; both are left to the user.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Unpack

import torch
from torch import nn

from quickstudy.errors import InputError
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Options, rule_learner
from quickstudy.models.split import last_linear, split_head
from quickstudy.rules.base import Rule
from quickstudy.rules.combine import Chain
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import adaptable
from quickstudy.types import Params, Shape


class ShareRows(Rule):
    """P: each of the named parameters with all of its rows at their mean; the rest as they are.

    Args:
        names: The parameters of the head, `weight [ways, features]` and `bias [ways]`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)

    def forward(self, params: Params, objective: Objective) -> Params:
        del objective
        shared = {}
        for name in self.names:
            rows = params[name]
            about = rows[:1].detach()  # a mean about one of the rows: those that are equal stay so to the last bit
            shared[name] = (about + (rows - about).mean(0, keepdim=True)).expand_as(rows)
        return params | shared

    def noise(self, params: Params) -> dict[str, Shape]:
        missing = [name for name in self.names if name not in params]
        if missing:
            raise InputError(
                f"The head that all classes share has {', '.join(missing)}, which does not adapt. What adapts is: "
                f"{', '.join(params)}. Widen `adapts`, or name another `head`."
            )
        return {}


def unicorn_maml(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    head: str | None = None,
    **options: Unpack[Options],
) -> Learner:
    """Unicorn-MAML (Ye & Chao, 2022): MAML whose tasks start from one head row, the same for all classes.

    `head` is the module with a row for each class: by default the last linear layer. Its rows start at its first.
    """
    split_head(model, head)  # refuses a layer that is not last: units that start equal would stay equal
    model = deepcopy(model)
    rows = adaptable(model, last_linear(model) if head is None else f"{head}.*", "head")
    with torch.no_grad():
        for p in rows.values():
            p.copy_(p[:1].expand_as(p).clone())
    rule = Chain([ShareRows(list(rows)), Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)])
    return rule_learner(model, rule, **options)
