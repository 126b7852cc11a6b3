"""MT-net's masks: one draw per task decides which rows of a weight adapt."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from quickstudy.errors import InputError, check_positive
from quickstudy.rules.base import Rate, check_built_for, check_part, join_observed
from quickstudy.rules.params import broadcast_rows, dotted_params, parameter_dict, row_groups, with_prefix
from quickstudy.types import Params, Shape


def check_draw(draw: str, temperature: float) -> None:
    """Refuse a draw or a temperature that does not exist."""
    if draw not in ("hard", "soft", "expected"):
        raise InputError(f"`draw` is 'hard', 'soft' or 'expected', not {draw!r}.")
    check_positive("temperature", temperature, "it divides the logits")


def draw_switch(zeta: Tensor, uniform: Tensor, temperature: float, draw: str) -> Tensor:
    r"""A switch that is 1 with the probability sigma(zeta), and else 0, by uniform noise of the same shape.

    .. math:: s = \sigma((\zeta + \mathrm{logit}\,u) / c)

    A "soft" switch is s itself. A "hard" one is :math:`1[s > 1/2]`, with the gradient of s (straight-through).
    """
    s = ((zeta + uniform.logit().to(zeta.dtype)) / temperature).sigmoid()
    return s if draw == "soft" else (s > 0.5).to(s.dtype) + (s - s.detach())


class Masked(Rate):
    r"""Rates that are on or off for each row of a weight, by one draw per task, the same for all of its steps.

    .. math:: m_j \sim \mathrm{Bern}(\sigma(\zeta_j)), \qquad r = m \odot r_0

    A row of a weight and its entry in the bias share one logit :math:`\zeta_j`, so a unit adapts as a whole or not.
    The draw is :math:`s = \sigma((\zeta + \mathrm{logit}\,u) / c)` with u uniform in (0, 1): the difference of two
    Gumbel variables is logistic. The hard mask is :math:`1[s > 1/2]` in the forward pass and has the gradient of s in
    the backward pass (straight-through).

    Reference: Lee, 2018 (thesis), eq. 3.6-3.9; ICML version: Lee & Choi, https://arxiv.org/abs/1801.05558. The thesis
    writes the soft relaxation and calls the mask binary. The released code, which gave the published tables, uses the
    hard mask; so "hard" is the default.

    Args:
        rate: The rate :math:`r_0` that is masked.
        params: The parameters that adapt; names and shapes are used.
        temperature: The constant c of eq. 3.9 (1 in the released code). Smaller is closer to Bernoulli, with noisier
            gradients.
        draw: "hard", "soft" (the relaxation itself) or "expected" (:math:`\sigma(\zeta)` without a draw).
        per_weight: Whether every number has a logit of its own instead of every row: the paper's "-full" variants.
        logit: The first value of every :math:`\zeta`; at the paper's 0, a mask is on with probability 1/2.
    """

    def __init__(
        self,
        rate: Rate,
        params: Params,
        *,
        temperature: float = 1.0,
        draw: str = "hard",
        per_weight: bool = False,
        logit: float = 0.0,
    ) -> None:
        super().__init__()
        check_draw(draw, temperature)
        check_part(rate, Rate, "What is masked", "Constant(0.01)")
        self.rate = rate
        self.temperature = temperature
        self.draw = draw
        self.group = {name: name for name in params} if per_weight else row_groups(params)
        logits: Params = {}
        for name, p in params.items():
            shape = tuple(p.shape) if per_weight else (len(p) if p.ndim else 1,)
            logits[self.group[name]] = p.detach().new_full(shape, logit)
        self.logits = parameter_dict(logits)

    def noise(self, params: Params) -> dict[str, Shape]:
        check_built_for(self.group, params, "A mask")
        own: dict[str, Shape] = {f"rate.{name}": shape for name, shape in self.rate.noise(params).items()}
        if self.draw == "expected":
            return own
        return own | {f"mask.{group}": tuple(logit.shape) for group, logit in dotted_params(self.logits).items()}

    def probabilities(self) -> dict[str, Tensor]:
        """The probability that a row adapts, sigma(zeta), by group; section 6.3 of the paper prints 1 minus it."""
        return {group: logit.sigmoid() for group, logit in dotted_params(self.logits).items()}

    def masks(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The masks of one task, by group."""
        if self.draw == "expected":
            return self.probabilities()
        return {
            group: draw_switch(zeta, noise[f"mask.{group}"], self.temperature, self.draw)
            for group, zeta in dotted_params(self.logits).items()
        }

    def forward(self, params: Params, steps: int, noise: Mapping[str, Tensor]) -> Sequence[Params]:
        masks = self.masks(noise)
        own = {name: broadcast_rows(m, tuple(params[name].shape)) if m.ndim < 2 else m for name, m in self.named(masks)}
        rates = self.rate.of_steps(params, steps, with_prefix(noise, "rate."))
        return [{name: own[name] * r for name, r in rate.items()} for rate in rates]

    def named(self, masks: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
        """Each parameter with the mask of its group."""
        return [(name, masks[group]) for name, group in self.group.items()]

    def observe(self, params: Params, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = {f"mask.{group}": probability for group, probability in self.probabilities().items()}
        return join_observed([("rate.", self.rate.observe(params, with_prefix(noise, "rate."))), ("", own)])
