"""MT-net's masks: which rows of a weight a task may move, decided by one draw per task."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.rules.base import Rate, check_built_for
from quickstudy.rules.params import broadcast_rows, dotted_params, parameter_dict, row_groups
from quickstudy.types import Params, Shape


class Masked(Rate):
    r"""Rates switched on or off by row, one draw per task, the same for all of its steps.

    .. math:: m_j \sim \mathrm{Bern}(\sigma(\zeta_j)), \qquad r = m \odot r_0

    The rows of a weight and the matching bias entries share one logit, so a unit adapts whole or not at all.
    Sampled as :math:`s = \sigma((\zeta + \mathrm{logit}\,u) / c)` with u uniform (the difference of two Gumbel draws is
    logistic); the hard mask is :math:`1[s > 1/2]` forward and s backward (straight-through).

    Reference: Lee, 2018 (thesis), eq. 3.6-3.9; ICML version: Lee & Choi, https://arxiv.org/abs/1801.05558. The thesis
    writes the soft relaxation and calls the mask binary; the released code, whose tables are published, is hard. Hence
    "hard" is the default.

    Args:
        rate: The rate :math:`r_0` that is masked.
        params: Parameters to be adapted; names and shapes are used.
        temperature: The constant c of eq. 3.9 (1 in the released code). Smaller is closer to Bernoulli, with noisier
            gradients.
        draw: "hard", "soft" (the relaxation itself) or "expected" (:math:`\sigma(\zeta)` without a draw).
        per_weight: One logit for each number instead of each row: the paper's "-full" variants.
        logit: The first value of every :math:`\zeta`; 0 is the paper's, a mask that is on half of the time.
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
        if draw not in ("hard", "soft", "expected"):
            raise InputError(f"A mask is drawn 'hard', 'soft' or 'expected', not {draw!r}.")
        if temperature <= 0:
            raise InputError(f"`temperature` was {temperature}; it divides the logits, so it must be above 0.")
        self.rate = rate
        self.temperature = temperature
        self.draw = draw
        self.group = {name: name for name in params} if per_weight else row_groups(params)
        shapes: dict[str, Shape] = {}
        for name, p in params.items():
            shapes[self.group[name]] = tuple(p.shape) if per_weight else (len(p) if p.ndim else 1,)
        like = next(iter(params.values())).detach()
        self.logits = parameter_dict({group: like.new_full(shape, logit) for group, shape in shapes.items()})

    def noise(self, params: Params) -> dict[str, Shape]:
        check_built_for(self.group, params, "A mask")
        own = self.rate.noise(params)
        if self.draw == "expected":
            return own
        return own | {f"mask.{group}": tuple(logit.shape) for group, logit in dotted_params(self.logits).items()}

    def probabilities(self) -> dict[str, Tensor]:
        """How likely each row is to adapt: sigma(zeta), by group. (The paper's section 6.3 prints the complement.)"""
        return {group: logit.sigmoid() for group, logit in dotted_params(self.logits).items()}

    def masks(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The masks of one task, by group."""
        if self.draw == "expected":
            return self.probabilities()
        soft = {
            group: ((zeta + noise[f"mask.{group}"].logit()) / self.temperature).sigmoid()
            for group, zeta in dotted_params(self.logits).items()
        }
        if self.draw == "soft":
            return soft
        return {group: (s > 0.5).to(s.dtype) + (s - s.detach()) for group, s in soft.items()}

    def forward(self, params: Params, steps: int, noise: Mapping[str, Tensor]) -> Sequence[Params]:
        masks = self.masks(noise)
        own = {name: broadcast_rows(m, tuple(params[name].shape)) if m.ndim < 2 else m for name, m in self.named(masks)}
        return [{name: own[name] * r for name, r in rate.items()} for rate in self.rate(params, steps, noise)]

    def named(self, masks: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
        """Each parameter with the mask of its group."""
        return [(name, masks[group]) for name, group in self.group.items()]

    def observe(self, params: Params, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen = self.rate.observe(params, noise)
        return seen | {f"mask.{group}": probability for group, probability in self.probabilities().items()}
