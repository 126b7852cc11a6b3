"""HyperMAML's rule: a hypernetwork computes the update from the support set."""

from torch import nn

from quickstudy.rules.base import Rule, check_built_for
from quickstudy.rules.objective import Objective
from quickstudy.types import Params


class Emit(Rule):
    r"""An update that a network emits at once.

    .. math:: \phi = \theta + H(\{(e_i, p_i, y_i)\}), \qquad p_i = \mathrm{softmax}(f_\theta(e_i))

    with e the features and y the labels of the support set. The guesses :math:`p_i` are those of the universal head
    :math:`\theta` and pass no gradient on; :math:`\theta` has a gradient through the sum, the encoder through
    :math:`e_i`.

    Reference: Przewiezlikowski et al., 2022, eq. 5 and 6 (https://arxiv.org/abs/2205.15745). The released code
    subtracts the update, which is the same up to the sign of H's last layer. It also takes the guesses of the previous
    task's head, which is a mistake.

    Args:
        network: The hypernetwork H, built for the parameters that adapt: see `ClassHypernet`.
    """

    reads_labels = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, params: Params, objective: Objective) -> Params:
        x, y = objective.support
        guess = objective.predict(params).softmax(-1).detach()
        delta = self.network(x, guess, y)
        check_built_for(delta, params, "The hypernetwork")
        return {name: p + delta[name].to(p.dtype) for name, p in params.items()}
