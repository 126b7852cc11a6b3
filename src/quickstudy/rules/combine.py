"""Rules made of rules: one after the other, and weighted sums of where they lead."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.rules.base import Rule
from quickstudy.rules.objective import Objective
from quickstudy.types import Params, Shape


class _Composed(Rule):
    """Rules as parts: each part sees its own share of the noise under its number."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        super().__init__()
        self.rules = nn.ModuleList(rules)
        if not self.rules:
            raise InputError(f"{type(self).__name__} was given no rules; it needs at least one.")

    def parts(self, objective: Objective) -> list[tuple[Rule, Objective]]:
        """Each rule with its view of the objective."""
        return [(cast(Rule, rule), objective.part(f"{i}")) for i, rule in enumerate(self.rules)]

    def noise(self, params: Params) -> dict[str, Shape]:
        rules = enumerate(cast(Rule, rule) for rule in self.rules)
        return {f"{i}.{name}": shape for i, rule in rules for name, shape in rule.noise(params).items()}


class Chain(_Composed):
    r"""One rule after the other: :math:`\phi = (a_n \circ \dots \circ a_1)(\theta)`. Endpoints come from the last."""

    def forward(self, params: Params, objective: Objective) -> Params:
        for rule, own in self.parts(objective):
            params = rule(params, own)
        return params

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        *before, (last, its_own) = self.parts(objective)
        for rule, own in before:
            params = rule(params, own)
        return last.endpoints(params, its_own)

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        for rule, own in self.parts(objective):
            seen |= rule.observe(params, own)
            params = rule(params, own)
        return seen


class Mix(_Composed):
    r"""A weighted sum of where rules lead, the rest of the weight staying at home.

    .. math:: \phi = \sum_i w_i a_i(\theta) + (1 - \sum_i w_i)\,\theta

    HyperMAML's eq. 7 is `Mix([Emit(H), Descend(alpha, 1)], weights=[lam, 1 - lam])`; Wormhole's eq. 2 read literally,
    :math:`C\theta + \Delta(\theta)`, is `Mix([Rescale(...), Descend(...)], weights=[1, 1])`.

    Args:
        rules: The branches :math:`a_i`.
        weights: The weights :math:`w_i`, one per branch; a buffer, so that a schedule can move them by path.
    """

    weights: Tensor

    def __init__(self, rules: Iterable[Rule], weights: Sequence[float]) -> None:
        super().__init__(rules)
        if len(weights) != len(self.rules):
            raise InputError(f"Mix was given {len(self.rules)} rules and {len(weights)} weights; one weight per rule.")
        self.register_buffer("weights", torch.tensor([float(w) for w in weights]), persistent=False)

    def branches(self, params: Params, objective: Objective) -> list[tuple[Tensor, Params]]:
        """Each branch that counts, with its weight."""
        # A branch of weight 0 is not run: 0 * inf is NaN, and pure emission must not pay for second order.
        parts = zip(self.weights, self.weights.tolist(), self.parts(objective), strict=True)
        return [(weight, rule(params, own)) for weight, value, (rule, own) in parts if value != 0]

    def forward(self, params: Params, objective: Objective) -> Params:
        branches = self.branches(params, objective)
        return {name: p + sum(w * (leads[name] - p) for w, leads in branches) for name, p in params.items()}

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        return {k: v for rule, own in self.parts(objective) for k, v in rule.observe(params, own).items()}


class MixLosses(Mix):
    r"""As `Mix`, but training adds up the branches' losses instead of averaging their parameters.

    .. math:: L = \sum_i w_i L_Q(a_i(\theta))

    Reference: HyperMAML, appendix B, which mixes two losses where eq. 7 and the released code mix one update. With one
    weight of 1 and the others 0 the two agree.
    """

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        return [*self.branches(params, objective)] or [(1.0, params)]
