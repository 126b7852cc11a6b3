"""The change that a rule makes, under a rate: a mask on an emission, for one."""

from collections.abc import Callable

from torch import Tensor

from quickstudy.rules.base import Rate, Rule, check_part, join_observed
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import with_prefix
from quickstudy.types import Params, Shape


class Gated(Rule):
    r"""What a rule changes, times a rate.

    .. math:: \phi = \theta + r \odot (a(\theta) - \theta)

    With `Masked(Constant(1), params)` as r, the rule changes those rows only whose mask is on. `Gated` of one gradient
    step at the rate 1 is that step at the rate r. Where training adds up the losses at several endpoints of the rule,
    all of them are gated by the same r.

    Args:
        rule: The rule a.
        rate: The multipliers r, as those of a first step.
    """

    def __init__(self, rule: Rule, rate: Rate) -> None:
        super().__init__()
        check_part(rule, Rule, "What is gated", "Emit(network)")
        check_part(rate, Rate, "The gate", "Masked(Constant(1.0), params)")
        self.rule = rule
        self.rate = rate

    def forward(self, params: Params, objective: Objective) -> Params:
        return self.gate(params, objective)(self.rule(params, objective.part("rule")))

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        gate = self.gate(params, objective)
        return [(weight, gate(end)) for weight, end in self.rule.endpoints(params, objective.part("rule"))]

    def gate(self, params: Params, objective: Objective) -> Callable[[Params], Params]:
        """From what the rule makes of the parameters to the same change times r."""
        (r,) = self.rate.of_steps(params, 1, with_prefix(objective.noise, "rate."))
        return lambda changed: {name: p + r[name] * (changed[name] - p) for name, p in params.items()}

    def noise(self, params: Params) -> dict[str, Shape]:
        rule, rate = self.rule.noise(params), self.rate.noise(params)
        return {f"rule.{n}": s for n, s in rule.items()} | {f"rate.{n}": s for n, s in rate.items()}

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        rate = self.rate.observe(params, with_prefix(objective.noise, "rate."))
        return join_observed([("rule.", self.rule.observe(params, objective.part("rule"))), ("rate.", rate)])
