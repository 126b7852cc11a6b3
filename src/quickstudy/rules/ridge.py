"""A linear head in closed form: ridge regression on the features of the support set."""

import torch
from torch import nn

from quickstudy.errors import InputError
from quickstudy.rules.base import Rule
from quickstudy.rules.objective import Objective
from quickstudy.types import Params


class Ridge(Rule):
    r"""The head that solves the support set as a ridge regression, for classes as for numbers.

    .. math:: \phi = \theta_0 + \alpha\, \Lambda, \qquad
              \Lambda = Z^T (Z Z^T + \lambda I)^{-1} (Y - Z \theta_0), \qquad b = b_0 + \beta

    Z `[n, features]` are the features of the support set, Y `[n, outputs]` its targets (of classes: 1 for the true one
    and 0 otherwise). :math:`\lambda` (as its logarithm), :math:`\alpha` and :math:`\beta` are learned. The system has n
    equations, whatever the number of features, and its solution is differentiated.

    Reference: Bertinetto et al., 2019, eq. 4-6 (https://arxiv.org/abs/1805.08136), with the prior :math:`\theta_0 = 0`.
    The "learned" prior is the head itself: the ridge then shrinks towards an initial head that meta-training finds.

    Args:
        outputs: The rows of the head.
        ridge: The first :math:`\lambda`, above 0.
        scale: The first :math:`\alpha`; cross-entropy needs outputs that differ by more than 1.
        prior: "zero" or "learned".
    """

    def __init__(self, outputs: int, *, ridge: float = 1.0, scale: float = 1.0, prior: str = "zero") -> None:
        super().__init__()
        if ridge <= 0:
            raise InputError(f"`ridge` was {ridge}; it makes the system solvable, so it must be above 0.")
        if prior not in ("zero", "learned"):
            raise InputError(f"`prior` is 'zero' or 'learned', not {prior!r}.")
        self.outputs = outputs
        self.prior = prior
        self.log_ridge = nn.Parameter(torch.tensor(float(ridge)).log())
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def forward(self, params: Params, objective: Objective) -> Params:
        z, y = objective.support
        z = z.flatten(1)
        # Not `zeros_like`: a head that is not used has a gradient of 0, and does not pass for one that was forgotten.
        theta = params if self.prior == "learned" else {name: 0 * p for name, p in params.items()}
        one_hot = torch.eye(self.outputs, dtype=z.dtype, device=z.device)
        target = y.reshape(len(z), -1) if y.is_floating_point() else one_hot[y]
        gram = z @ z.T + self.log_ridge.exp() * torch.eye(len(z), dtype=z.dtype, device=z.device)
        rows = z.T @ torch.linalg.solve(gram, target - objective.predict(theta))  # Lambda, [features, outputs]
        return {name: p + (self.scale * rows.T if p.ndim == 2 else self.offset) for name, p in theta.items()}
