"""Rules made of rules: one after the other, or a weighted sum of their results."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.rules.base import Rule
from quickstudy.rules.objective import Objective
from quickstudy.rules.skipping import Skipping
from quickstudy.types import Params, Shape


class _Composite(Rule):
    """Several rules; each one's noise is named by its index."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        super().__init__()
        self.rules = nn.ModuleList(rules)
        if not self.rules:
            raise InputError(f"{type(self).__name__} was given no rules; it needs at least one.")

    def parts(self, objective: Objective) -> list[tuple[Rule, Objective]]:
        """Each rule with the objective that holds its own noise."""
        return [(cast(Rule, rule), objective.part(f"{i}")) for i, rule in enumerate(self.rules)]

    def noise(self, params: Params) -> dict[str, Shape]:
        rules = enumerate(cast(Rule, rule) for rule in self.rules)
        return {f"{i}.{name}": shape for i, rule in rules for name, shape in rule.noise(params).items()}


class Chain(_Composite):
    r"""One rule after the other: :math:`\phi = (a_n \circ \dots \circ a_1)(\theta)`. The last one has the endpoints."""

    def forward(self, params: Params, objective: Objective) -> Params:
        for rule, part in self.parts(objective):
            params = rule(params, part)
        return params

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        *before, (last, last_part) = self.parts(objective)
        for rule, part in before:
            params = rule(params, part)
        return last.endpoints(params, last_part)

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        observed: dict[str, Tensor] = {}
        for rule, part in self.parts(objective):
            observed |= rule.observe(params, part)
            params = rule(params, part)
        return observed


class Mix(_Composite, Skipping):
    r"""A weighted sum of the results of rules; the rest of the weight stays on the parameters as they were.

    .. math:: \phi = \sum_i w_i a_i(\theta) + (1 - \sum_i w_i)\,\theta

    HyperMAML's eq. 7 is `Mix([Emit(H), Descend(alpha, 1)], weights=[lam, 1 - lam])`; Wormhole's eq. 2 read literally,
    :math:`C\theta + \Delta(\theta)`, is `Mix([Rescale(...), Descend(...)], weights=[1, 1])`.

    Args:
        rules: The branches :math:`a_i`.
        weights: The weights :math:`w_i`, one per branch; a buffer, so that a schedule can change them by path.
    """

    weights: Tensor
    skips_by = "weights"

    def __init__(self, rules: Iterable[Rule], weights: Sequence[float]) -> None:
        super().__init__(rules)
        if len(weights) != len(self.rules):
            raise InputError(f"Mix was given {len(self.rules)} rules and {len(weights)} weights; one weight per rule.")
        self.register_buffer("weights", torch.tensor([float(w) for w in weights]), persistent=False)

    def branches(self, params: Params, objective: Objective) -> list[tuple[Tensor, Params]]:
        """The result of each branch whose weight is not 0, with the weight."""
        # A branch of weight 0 does not run: 0 * inf is NaN, and pure emission must not pay for second order.
        parts = zip(self.weights, self.zeros(), self.parts(objective), strict=True)
        return [(weight, rule(params, part)) for weight, zero, (rule, part) in parts if not zero]

    def forward(self, params: Params, objective: Objective) -> Params:
        branches = self.branches(params, objective)
        return {name: p + sum(w * (result[name] - p) for w, result in branches) for name, p in params.items()}

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        return {k: v for rule, part in self.parts(objective) for k, v in rule.observe(params, part).items()}


class MixLosses(Mix):
    r"""As `Mix`, but training adds up the branches' losses instead of averaging their parameters.

    .. math:: L = \sum_i w_i L_Q(a_i(\theta))

    Reference: HyperMAML, appendix B, which mixes two losses where eq. 7 and the released code mix one update. With one
    weight of 1 and the others 0 the two agree.
    """

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        return [*self.branches(params, objective)] or [(1.0, params)]
