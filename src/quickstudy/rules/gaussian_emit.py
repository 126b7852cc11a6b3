"""An emitted distribution of the update instead of the update itself."""

from collections.abc import Mapping
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.rules.base import Rule, check_built_for
from quickstudy.rules.objective import Objective
from quickstudy.types import Params, Shape


class GaussianEmit(Rule):
    r"""Parameters drawn from a normal distribution whose mean and variance networks emit.

    .. math:: \phi = \mu + \sigma \odot \epsilon, \qquad \mu = \theta + H_\mu(S), \qquad
              \log \sigma^2 = v_0 + H_\sigma(S), \qquad \epsilon \sim N(0, I)

    Training adds up the query losses of several draws, with equal weights; in evaluation :math:`\phi` is the mean.

    Reference: Borycki et al., 2022, section 3 (https://arxiv.org/abs/2210.02796). The authors' code evaluates by the
    mean, or by the votes of many draws.

    Args:
        mean: H for the mean, built for the parameters that adapt: see `ClassHypernet`.
        spread: H for the logarithm of the variance.
        log_variance: :math:`v_0`, 0 in the paper.
        draws: How many draws of a task training uses.
    """

    reads_labels = True

    def __init__(self, mean: nn.Module, spread: nn.Module, *, log_variance: float = 0.0, draws: int = 1) -> None:
        super().__init__()
        if draws < 1:
            raise InputError(f"`draws` was {draws}; training needs 1 or more draws of the parameters of a task.")
        self.mean = mean
        self.spread = spread
        if not log_variance < inf:  # minus infinity is no spread at all
            raise InputError(f"`log_variance` was {log_variance}; give a number that is finite, or minus infinity.")
        self.log_variance = float(log_variance)
        self.draws = draws

    def posterior(self, params: Params, objective: Objective) -> tuple[Params, Params]:
        """The mean and the logarithm of the variance, by name."""
        x, y = objective.support
        guess = objective.predict(params).softmax(-1).detach()
        shift, spread = self.mean(x, guess, y), self.spread(x, guess, y)
        check_built_for(shift, params, "The hypernetwork")
        mean = {name: p + shift[name] for name, p in params.items()}
        return mean, {name: self.log_variance + spread[name] for name in params}

    def sample(self, mean: Params, log_variance: Params, noise: Mapping[str, Tensor]) -> list[Params]:
        """The draws of the parameters, from uniform noise."""
        normal = {name: _as_normal(noise[f"normal.{name}"]) for name in mean}
        sigma = {name: (0.5 * v).exp() for name, v in log_variance.items()}
        return [{name: mu + sigma[name] * normal[name][i] for name, mu in mean.items()} for i in range(self.draws)]

    def forward(self, params: Params, objective: Objective) -> Params:
        mean, log_variance = self.posterior(params, objective)
        return mean if objective.evaluating else self.sample(mean, log_variance, objective.noise)[0]

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        drawn = self.sample(*self.posterior(params, objective), objective.noise)
        return [(1 / self.draws, phi) for phi in drawn]

    def noise(self, params: Params) -> dict[str, Shape]:
        return {f"normal.{name}": (self.draws, *p.shape) for name, p in params.items()}

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        _, log_variance = self.posterior(params, objective)
        return {f"sigma.{name}": (0.5 * v).exp().mean() for name, v in log_variance.items()}


def _as_normal(uniform: Tensor) -> Tensor:
    """Uniform numbers in (0, 1) as normal ones; torch has the function for 32 and 64 bits only."""
    wide = uniform if uniform.dtype == torch.float64 else uniform.float()
    normal: Tensor = torch.special.ndtri(wide)
    return normal.to(uniform)


def divergence_from_standard(mean: Params, log_variance: Params) -> Float[Tensor, ""]:
    r"""The Kullback-Leibler divergence of normal distributions from N(0, 1), summed over all numbers.

    .. math:: \tfrac{1}{2} \sum (\sigma^2 + \mu^2 - 1 - \log \sigma^2)
    """
    terms = [(v.exp() + mean[name].square() - 1 - v).sum() for name, v in log_variance.items()]
    return 0.5 * torch.stack(terms).sum()
