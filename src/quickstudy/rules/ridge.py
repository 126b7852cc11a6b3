"""A linear head in closed form: ridge regression on the features of the support set."""

import torch
from torch import nn

from quickstudy.errors import InputError, check_finite
from quickstudy.rules.base import Rule
from quickstudy.rules.criteria import one_hot
from quickstudy.rules.kernel import solve_in_kernel
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import log_parameter
from quickstudy.types import Params


class Ridge(Rule):
    r"""The head that solves the support set as a ridge regression, for classes as for numbers.

    .. math:: W = W_0 + \Lambda_W, \qquad b = b_0 + \Lambda_b + \beta, \qquad
              [\Lambda_W, \Lambda_b] = Z^T (Z Z^T + \lambda I)^{-1} (\alpha Y - f_{W_0, b_0})

    Z `[n, features + 1]` are the features of the support set with a column of ones for the bias, Y `[n, outputs]` its
    targets, and :math:`f_{W_0, b_0}` the outputs at the prior. :math:`\lambda` (as its logarithm), :math:`\alpha` and
    :math:`\beta` are learned. The system has n equations, whatever the number of features, and its solution is
    differentiated.

    Reference: Bertinetto et al., 2019, eq. 4-6 (https://arxiv.org/abs/1805.08136), with the prior
    :math:`W_0 = 0, b_0 = 0`; the column of ones is that of the authors' code. The "learned" prior is the head itself:
    the ridge then shrinks towards an initial head that meta-training finds.

    A bias that does not adapt, or that the head does not have, gets no column and no :math:`\beta`. A fixed bias is a
    part of the outputs at the prior, so the weight fits what it leaves of alpha Y.

    Args:
        outputs: The rows of the head.
        ridge: The first :math:`\lambda`, above 0.
        scale: The first :math:`\alpha`; cross-entropy needs outputs that differ by more than 1.
        prior: "zero" or "learned".
        targets: What Y is. "given": the targets themselves, and of classes 1 for the true one and 0 otherwise. "signs":
            2 y - 1 of targets 0 and 1, for outputs that are logits.
    """

    reads_labels = True

    def __init__(
        self, outputs: int, *, ridge: float = 1.0, scale: float = 1.0, prior: str = "zero", targets: str = "given"
    ) -> None:
        super().__init__()
        if prior not in ("zero", "learned"):
            raise InputError(f"`prior` is 'zero' or 'learned', not {prior!r}.")
        if targets not in ("given", "signs"):
            raise InputError(f"`targets` are 'given' or 'signs', not {targets!r}.")
        self.outputs = outputs
        self.prior = prior
        self.targets = targets
        self.log_ridge = log_parameter("ridge", ridge, "it makes the system solvable")
        self.scale = nn.Parameter(torch.tensor(check_finite("scale", scale)))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def forward(self, params: Params, objective: Objective) -> Params:
        z, y = objective.support
        # Not `zeros_like`: a head that is not used has a gradient of 0, and does not pass for one that was forgotten.
        theta = params if self.prior == "learned" else {name: 0 * p for name, p in params.items()}
        target = y.reshape(len(y), -1) if y.is_floating_point() else one_hot(y, self.outputs, z)
        if self.targets == "signs":
            target = 2 * target - 1
        left = self.scale * target - objective.predict(theta)
        rows = solve_in_kernel(z, theta, self.log_ridge.exp(), left)
        phi = {name: p + rows[name] for name, p in theta.items()}
        return {name: p if p.ndim == 2 else p + self.offset for name, p in phi.items()}
