"""Gradient steps whose every point is trained one step ahead, without a derivative through the path to it."""

from collections.abc import Iterator

from torch import Tensor

from quickstudy.rules.descend import AtStep, Descend
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import detach_params
from quickstudy.types import Params


class AlongPath(Descend):
    r"""Gradient steps as `Descend`; training adds up the query losses one step after each point of the path.

    .. math:: L = \frac{1}{K} \sum_{k=0}^{K-1} L_Q\big(\bar\theta_k - r_k \odot \nabla L_S(\bar\theta_k)\big), \qquad
              \bar\theta_0 = \theta, \quad \bar\theta_{k+1} = \mathrm{stop}(\bar\theta_k - r_k \odot \nabla L_S)

    The points after the first are constants. So the cost of second derivatives is that of one step at a time, and what
    is trained (the warp layers of the model) does not depend on how the path came about. The first point is not
    stopped: theta is trained by the first term, as in MAML with one step. With K = 1 this is `Descend`.

    Reference: Flennerhag et al., 2020, eq. 7 and algorithm 1 (https://arxiv.org/abs/1909.00025).
    """

    def trained_iterates(self, params: Params, objective: Objective, at_step: AtStep | None = None) -> Iterator[Params]:
        return self.iterates(params, objective, at_step, go_on=detach_params)

    def weigh(self, iterates: Iterator[Params]) -> list[tuple[Tensor | float, Params]]:
        start, *ahead = iterates
        return [(1 / len(ahead), params) for params in ahead] or [(1.0, start)]
