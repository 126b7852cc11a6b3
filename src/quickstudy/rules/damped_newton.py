"""One step of the head in closed form, for any loss."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.rules.base import Rule
from quickstudy.rules.objective import Objective
from quickstudy.types import Params, Shape


class DampedNewton(Rule):
    r"""A damped Gauss-Newton step of a linear head: the gradient in the outputs, through the kernel of the features.

    .. math:: \phi = \theta - \alpha\, Z^T (Z Z^T + \lambda I)^{-1}\, n \nabla_{\!f} L_S(f_\theta)

    Z `[n, features + 1]` are the features of the support set with a column of ones for the bias, and
    :math:`n \nabla_{\!f} L_S` `[n, outputs]` is the gradient of the summed loss in the outputs: 2 (f - y) for a squared
    error, p - y for a cross-entropy. So for a squared error and :math:`\alpha = 1/2` it is the ridge regression that
    shrinks towards :math:`\theta` (see `Ridge`). :math:`\lambda` (as its logarithm) and :math:`\alpha` are learned. The
    system has n equations, whatever the number of features, and the step is differentiated.

    It reads features: put it into `OnFeatures` where the model has no body.

    Reference: the head of Bertinetto et al., 2019 (https://arxiv.org/abs/1805.08136), as a step from any start and for
    any loss; the damping is that of Levenberg, 1944.

    Args:
        names: The weight of the head, and its bias if it has one.
        damping: The first :math:`\lambda`, above 0.
        rate: The first :math:`\alpha`.
    """

    def __init__(self, names: Sequence[str], *, damping: float = 1.0, rate: float = 0.5) -> None:
        super().__init__()
        if damping <= 0:
            raise InputError(f"`damping` was {damping}; it makes the system solvable, so it must be above 0.")
        self.names = tuple(names)
        self.log_damping = nn.Parameter(torch.tensor(float(damping)).log())
        self.rate = nn.Parameter(torch.tensor(float(rate)))

    def forward(self, params: Params, objective: Objective) -> Params:
        z, y = objective.support
        n = len(y)
        z = z.flatten(1) if len(self.names) == 1 else F.pad(z.flatten(1), (0, 1), value=1.0)
        f = objective.predict(params)
        slope = objective.autodiff.gradient(lambda at: n * objective.criterion(at["f"], y))({"f": f})["f"]
        gram = z @ z.T + self.log_damping.exp() * torch.eye(n, dtype=z.dtype, device=z.device)
        rows = self.rate * torch.linalg.solve(gram, slope).T @ z  # [outputs, features + 1]
        moved: dict[str, Tensor] = {}
        for name in self.names:
            p = params[name]
            moved[name] = p - (rows[:, : p.shape[1]] if p.ndim == 2 else rows[:, -1])
        return params | moved

    def noise(self, params: Params) -> dict[str, Shape]:
        missing = [name for name in self.names if name not in params]
        if missing:
            raise InputError(
                f"The closed-form step moves {', '.join(missing)}, which does not adapt. What adapts is: "
                f"{', '.join(params)}. Widen `adapts`."
            )
        return {}
