"""One step of the head in closed form, for any loss."""

from collections.abc import Sequence

import torch
from torch import nn

from quickstudy.errors import check_finite
from quickstudy.rules.base import Rule, check_adapts
from quickstudy.rules.kernel import solve_in_kernel
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import log_parameter
from quickstudy.types import Params, Shape


class DampedNewton(Rule):
    r"""A damped step of a linear head: the gradient in the outputs, through the kernel of the features.

    .. math:: \phi = \theta - \alpha\, Z^T (Z Z^T + \lambda I)^{-1}\, n \nabla_{\!f} L_S(f_\theta)

    Z `[n, features + 1]` are the features of the support set with a column of ones for the bias that adapts; of a bias
    alone, Z is that column. :math:`n \nabla_{\!f} L_S` `[n, outputs]` is n times the gradient of the support loss in
    the outputs: p - y for "cross_entropy", and N (p - y) for "class_sum_cross_entropy" with N classes. "mse" is a mean
    over the m outputs too, so there it is 2 (f - y) / m. So for "mse" and :math:`\alpha = m/2` the step is the ridge
    regression that shrinks towards :math:`\theta` (see `Ridge`), which is a damped Gauss-Newton step. For another loss
    it is none: the curvature of the loss in the outputs is left out. :math:`\lambda` (as its logarithm) and
    :math:`\alpha` are learned. The system has n equations, whatever the number of features, and the step is
    differentiated.

    It reads features: put it into `OnFeatures` where the model has no body.

    Reference: the head of Bertinetto et al., 2019 (https://arxiv.org/abs/1805.08136), as a step from any start and for
    any loss; the damping is that of Levenberg, 1944.

    Args:
        names: The weight of the head, its bias, or both.
        damping: The first :math:`\lambda`, above 0.
        rate: The first :math:`\alpha`.
    """

    reads_labels = True

    def __init__(self, names: Sequence[str], *, damping: float = 1.0, rate: float = 0.5) -> None:
        super().__init__()
        self.names = tuple(names)
        self.log_damping = log_parameter("damping", damping, "it makes the system solvable")
        self.rate = nn.Parameter(torch.tensor(check_finite("rate", rate)))

    def forward(self, params: Params, objective: Objective) -> Params:
        z, y = objective.support
        f = objective.predict(params)
        slope = objective.autodiff.gradient(lambda at: len(y) * objective.criterion(at["f"], y))({"f": f})["f"]
        rows = solve_in_kernel(z, {name: params[name] for name in self.names}, self.log_damping.exp(), slope)
        return params | {name: params[name] - self.rate * row for name, row in rows.items()}

    def noise(self, params: Params) -> dict[str, Shape]:
        check_adapts(self.names, params, "The closed-form step moves", "Widen `adapts`.")
        return {}
