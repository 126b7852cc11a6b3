"""HyperMAML's rule: a hypernetwork reads the support set and emits the update."""

from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor, nn

from quickstudy.rules.base import Rule, check_built_for
from quickstudy.rules.objective import Objective
from quickstudy.types import Params


class Emitter(Protocol):
    """What `Emit` calls: a support set with the head's guesses -> an update with the head's names and shapes."""

    def __call__(self, x: Float[Tensor, "n features"], guess: Float[Tensor, "n ways"], y: Int[Tensor, "n"]) -> Params:
        """One update per parameter that adapts."""


class Emit(Rule):
    r"""An emitted update, in one shot.

    .. math:: \phi = \theta + H(\{(e_i, p_i, y_i)\}), \qquad p_i = \mathrm{softmax}(f_\theta(e_i))

    The guesses :math:`p_i` are those of the universal head :math:`\theta` and carry no gradient; :math:`\theta` still
    receives one through the sum, and the encoder through :math:`e_i`.

    Reference: Przewiezlikowski et al., 2022, eq. 5 and 6 (https://arxiv.org/abs/2205.15745). The released code
    subtracts, which is the same up to the sign of H's last layer, and reads guesses of the
    previous task's head, a mistake.

    Args:
        network: The hypernetwork H, built for the parameters that adapt: see `ClassHypernet`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, params: Params, objective: Objective) -> Params:
        x, y = objective.support
        guess = objective.predict(params).softmax(-1).detach()
        delta = self.network(x, guess, y)
        check_built_for(delta, params, "The hypernetwork")
        return {name: p + delta[name] for name, p in params.items()}
