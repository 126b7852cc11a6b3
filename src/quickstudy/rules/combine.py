"""Rules made of rules: one after the other, or a weighted sum of their results."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from quickstudy.errors import InputError, check_finite
from quickstudy.rules.base import Rule, check_part, check_plain_numbers, join_observed
from quickstudy.rules.objective import Objective
from quickstudy.rules.skipping import Skipping
from quickstudy.types import Params, Shape


class _Composite(Rule):
    """Several rules; each one's noise is named by its index."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        super().__init__()
        name = type(self).__name__
        if isinstance(rules, nn.Module) and not isinstance(rules, Iterable):
            raise InputError(f"{name} takes a list of rules: {name}([rule, ...]); a {type(rules).__name__} was given.")
        every = list(rules)
        if not every:
            raise InputError(f"{name} was given no rules; it needs at least one.")
        for rule in every:
            check_part(rule, Rule, f"Each part of a {name}", "Descend(Constant(0.01), 1)")
        self.rules = nn.ModuleList(every)

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
        observed = []
        for i, (rule, part) in enumerate(self.parts(objective)):
            observed.append((f"{i}.", rule.observe(params, part)))
            params = rule(params, part)
        return join_observed(observed)


class Mix(_Composite, Skipping):
    r"""A weighted sum of the results of rules; the rest of the weight stays on the parameters as they were.

    .. math:: \phi = \sum_i w_i a_i(\theta) + (1 - \sum_i w_i)\,\theta

    It has one result, in training too: of a branch with several endpoints, such as `AlongPath`, the result is averaged.

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
        weights = list(weights.reshape(-1) if isinstance(weights, Tensor) else weights)
        check_plain_numbers(weights, "A Mix")
        if len(weights) != len(self.rules):
            raise InputError(f"Mix was given {len(self.rules)} rules and {len(weights)} weights; one weight per rule.")
        self.register_buffer("weights", torch.tensor([check_finite("weights", w) for w in weights]), persistent=False)

    def branches(self, objective: Objective) -> list[tuple[Tensor, Rule, Objective]]:
        """Each branch whose weight is not 0: the weight, the rule and its objective."""
        # A branch of weight 0 does not run: 0 * inf is NaN, and pure emission must not pay for second order.
        parts = zip(self.weights, self.zeros(), self.parts(objective), strict=True)
        return [(weight, rule, part) for weight, zero, (rule, part) in parts if not zero]

    def forward(self, params: Params, objective: Objective) -> Params:
        branches = [(weight, rule(params, part)) for weight, rule, part in self.branches(objective)]
        return {name: p + sum(w * (result[name] - p) for w, result in branches) for name, p in params.items()}

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        parts = enumerate(self.parts(objective))
        return join_observed([(f"{i}.", rule.observe(params, part)) for i, (rule, part) in parts])


class MixLosses(Mix):
    r"""As `Mix`, but training adds up the branches' losses instead of averaging their parameters.

    .. math:: L = \sum_i w_i L_Q(a_i(\theta))

    A branch that has several endpoints itself gives the weighted sum of their losses, and no weight at all a loss of 0.

    Reference: HyperMAML, appendix B, which mixes two losses where eq. 7 and the released code mix one update. With one
    weight of 1 and the others 0 the two agree.
    """

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        ends: list[tuple[Tensor | float, Params]] = [
            (weight * own, end)
            for weight, rule, part in self.branches(objective)
            for own, end in rule.endpoints(params, part)
        ]
        return ends or [(0.0, params)]
