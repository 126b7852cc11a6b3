"""MAML++'s batch norms: every inner step has a scale and a bias of its own."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from quickstudy.rules.params import dotted_params, parameter_dict
from quickstudy.types import Params


class PerStep(nn.Module):
    r"""Parameters with another value at every inner step, which are learned across tasks and which no step moves.

    .. math:: \theta_{k+1} = \theta_k - r_k \odot d(\nabla_\theta L_S(\theta_k, \beta_{\min(k, K-1)}))

    :math:`\beta_0` is the model's own value of these parameters, :math:`\beta_1, \dots, \beta_{K-1}` are kept here, K
    being the steps of training. Queries after step k are judged by the values of the step just taken,
    :math:`(\theta_{k+1}, \beta_k)`; steps beyond K use the last. With K = 1 nothing is new.

    Reference: Antoniou, Edwards & Storkey, 2019, section 4, "per-step batch normalization weights and biases"
    (https://arxiv.org/abs/1810.09502). Their running statistics for each step are left out: statistics are the batch's.

    Args:
        own: The parameters with a value for every step; names, shapes and first values are used.
        steps: K.
    """

    if TYPE_CHECKING:  # nn.Module's own is untyped

        def __call__(self, params: Params) -> tuple[Params, list[Params]]: ...

    def __init__(self, own: Params, steps: int) -> None:
        super().__init__()
        self.later = parameter_dict(
            {name: p.detach().repeat(max(steps - 1, 0), *[1] * p.ndim) for name, p in own.items()}
        )

    def forward(self, params: Params) -> tuple[Params, list[Params]]:
        """What the steps move, and the values of the rest at each step."""
        later = dotted_params(self.later)
        theta = {name: p for name, p in params.items() if name not in later}
        first = {name: params[name] for name in later}
        return theta, [first, *(dict(zip(later, step, strict=True)) for step in zip(*later.values(), strict=True))]

    def begin(self, params: Params) -> None:
        """Start all steps from the model's own values, where these have changed since this was built."""
        with torch.no_grad():
            for name, value in dotted_params(self.later).items():
                value.copy_(params[name].expand_as(value))
