"""The two abstractions the library stands on: a rule, and the step sizes a descending rule uses.

A rule maps parameters to parameters, given one task's objective. Rules compose (`Chain`) and average (`Mix`).
MAML is `Descend(Constant(0.01), steps=5)`. Wormhole MAML is `Chain([Rescale(Descend(Constant(1.0), 5), chart),
Descend(Constant(0.01), 1)])`. HyperMAML in warm-up (eq. 7) is `Mix([Emit(network), Descend(...)], weights)`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.rules.objective import Objective
from quickstudy.types import Params, Shape


class Rule(nn.Module, ABC):
    """A map from parameters to parameters, given one task. Meta-parameters live in the module; `forward` is pure."""

    if TYPE_CHECKING:  # nn.Module's own is untyped

        def __call__(self, params: Params, objective: Objective) -> Params: ...

    @abstractmethod
    def forward(self, params: Params, objective: Objective) -> Params:
        """Adapt: called once per task, under `vmap` or in a loop, with gradients on or off.

        It may assume that `params` holds exactly the parameters that adapt and must return the same names.
        """

    def noise(self, params: Params) -> dict[str, Shape]:
        """What the rule will read from `objective.noise`: called before the task runs, with unbatched parameters."""
        del params
        return {}

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        """The points whose query losses are added up in training, with their weights. Called instead of `forward`."""
        return [(1.0, self(params, objective))]

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        """Quantities of one task worth logging (a gain, a mask), by name. Called by probes, never by training."""
        del params, objective
        return {}


def check_built_for(own: Iterable[str], params: Params, what: str) -> None:
    """Refuse parameters that a part was not built for."""
    missing, spare = sorted(set(params) - set(own)), sorted(set(own) - set(params))
    if missing or spare:
        raise InputError(
            f"{what} was built for other parameters than those that adapt: it lacks {', '.join(missing) or 'none'} and "
            f"has {', '.join(spare) or 'none'} to spare. Build it from `adaptable(model, adapts)` of the same model."
        )


class Rate(nn.Module, ABC):
    """Step sizes: one `Params`-shaped set of multipliers per step, asked once per task."""

    if TYPE_CHECKING:

        def __call__(self, params: Params, steps: int, noise: Mapping[str, Tensor]) -> Sequence[Params]: ...

    @abstractmethod
    def forward(self, params: Params, steps: int, noise: Mapping[str, Tensor]) -> Sequence[Params]:
        """The multipliers of each of `steps` steps; each broadcasts against its parameter."""

    def noise(self, params: Params) -> dict[str, Shape]:
        """What the rate will read from the noise; none unless overridden. A rate that was built for certain parameters
        checks here, before any task runs, that these are the ones."""
        del params
        return {}

    def observe(self, params: Params, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Quantities worth logging, by name; none unless overridden."""
        del params, noise
        return {}
