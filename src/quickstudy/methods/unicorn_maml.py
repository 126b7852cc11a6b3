r"""Unicorn-MAML: every task starts from one row of the head, copied to all of its classes.

.. math:: \phi = \mathrm{descend}(P\theta), \qquad (P\theta)_c = w, \quad (P\theta)_{\mathrm{body}} = \theta

c is a class and w `[features]` the shared row. MAML learns a row for each class number, although the number of a class
is random. With one row w (and one bias) for all, renaming the classes of a task permutes its outputs and changes
nothing else.

w is stored in the rows of the model's own head, which are all equal. P takes their mean, whose gradient is the same for
all rows, so an optimizer keeps them equal.

Reference: Ye & Chao, 2022 (https://arxiv.org/abs/2106.16245). Each of the N rows has 1/N of the gradient of w. This
does not change the steps of Adam; a step of SGD on w is N times smaller. The paper pre-trains its encoder on all
training classes and takes many inner steps; both are left to the user.

A head that is not linear, not last or frozen, or that does not adapt, is an `InputError`.
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from quickstudy.engine.twin import Twins, copy_module
from quickstudy.errors import InputError
from quickstudy.methods.emission import find_linear_head
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Options, make_rule_learner
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.rules.base import Rule, check_adapts
from quickstudy.rules.combine import Chain
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import adaptable
from quickstudy.rules.torch_private import outside_transforms
from quickstudy.types import Params, Shape


class ShareRows(Rule):
    """P: sets all rows of the named parameters to their mean.

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
            first = rows[:1].detach()  # subtracted first, so that equal rows stay equal to the last bit
            shared[name] = (first + (rows - first).mean(0, keepdim=True)).expand_as(rows)
        return params | shared

    def noise(self, params: Params) -> dict[str, Shape]:
        advice = "Widen `adapts`, or name another `head`."
        check_adapts(self.names, params, "The head that all classes share has", advice)
        return {}


class UnicornLearner(RuleLearner):
    """A learner whose head has one row for all classes, so that in evaluation tasks may have any number of them."""

    def for_labels(self, support: Tensor, *others: Tensor, evaluating: bool) -> "UnicornLearner":
        """In evaluation, the twin for the classes that the labels have; training has those that it was built for."""
        if not evaluating or not outside_transforms() or support.is_floating_point():
            return self
        ways = 1 + max(int(y.long().max()) for y in (support, *others))
        rows = self._rows()
        if ways == len(next(iter(rows.values()))):
            return self
        learner = copy_module(self)
        with torch.no_grad():
            for name, p in rows.items():
                place, _, last = name.rpartition(".")
                layer = learner.head.get_submodule(place)
                more = p[:1].expand(ways, *p.shape[1:]).clone()
                setattr(layer, last, nn.Parameter(more, requires_grad=p.requires_grad))
                layer.out_features = ways  # type: ignore[assignment]  # of a Linear
        learner.head_twins = Twins(learner.head)
        learner.engine = self.engine
        return learner

    def _rows(self) -> Params:
        """The parameters of the head with a row for each class."""
        shared = next(part for part in self.rule.modules() if isinstance(part, ShareRows))
        return {name: p for name, p in self.params().items() if name in shared.names}


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

    `head` is the Linear with a row for each class: by default the last one. All of its rows start at its first
    row.
    """
    names = find_linear_head(model, head).names  # of another head hidden units would start equal, and stay equal
    model = copy_module(model)
    rows = {name: p for name, p in adaptable(model, "*").items() if name in names}
    fixed = [name for name in names if name not in rows]
    if fixed:
        raise InputError(
            f"All classes share one row of the head, and {', '.join(fixed)} is frozen: its rows would differ. "
            "Unfreeze it, or give a head that has none."
        )
    with torch.no_grad():
        for p in rows.values():
            p.copy_(p[:1].expand_as(p).clone())
    rule = Chain([ShareRows(list(rows)), Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)])
    return make_rule_learner(model, rule, kind=UnicornLearner, **options)
