"""The two abstractions of the library: a rule, and the step sizes that a rule of gradient steps uses.

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
    """A map from parameters to parameters, given one task. The module holds meta-parameters; `forward` is pure."""

    reads_labels = False
    """Whether it reads the labels of the support set itself, and not by its loss alone."""

    if TYPE_CHECKING:  # nn.Module's own is untyped

        def __call__(self, params: Params, objective: Objective) -> Params: ...

    @abstractmethod
    def forward(self, params: Params, objective: Objective) -> Params:
        """The adapted parameters. Called once per task, under `vmap` or in a loop, with gradients on or off.

        `params` holds exactly the parameters that adapt; the result has the same names.
        """

    def noise(self, params: Params) -> dict[str, Shape]:
        """Names and shapes of what the rule reads from `objective.noise`. Called before a task, without a task axis."""
        del params
        return {}

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        """The parameters whose query losses are added up in training, with their weights. Replaces `forward` there."""
        return [(1.0, self(params, objective))]

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        """Quantities of one task for the log (a gain, a mask), by name. Called by probes, never by training."""
        del params, objective
        return {}


def check_built_for(own: Iterable[str], params: Params, what: str) -> None:
    """Refuse parameters other than those that a part was built for."""
    missing, spare = sorted(set(params) - set(own)), sorted(set(own) - set(params))
    if missing or spare:
        raise InputError(
            f"{what} was built for other parameters than those that adapt. It has no part for: "
            f"{', '.join(missing) or '(none)'}. It has parts for others: {', '.join(spare) or '(none)'}. Build it from "
            "`adaptable(model, adapts)` of the same model."
        )


def check_adapts(names: Iterable[str], params: Params, what: str, advice: str) -> None:
    """Refuse names that are not among the parameters that adapt. `what` begins the message, `advice` ends it."""
    missing = [name for name in names if name not in params]
    if missing:
        raise InputError(
            f"{what} {', '.join(missing)}, which does not adapt. What adapts is: {', '.join(params)}. {advice}"
        )


def check_part(part: object, kind: type, what: str, example: str) -> None:
    """Refuse a value that is not of the class that is needed."""
    if not isinstance(part, kind):
        given = f"a {type(part).__name__}" if isinstance(part, nn.Module) else getattr(part, "__name__", repr(part))
        raise InputError(f"{what} is a {kind.__name__}, such as {example}; {given} was given.")


def check_plain_numbers(numbers: object, what: str) -> None:
    """Refuse tensors that should be learned where a part keeps a copy of their numbers, which no training moves."""
    parts = numbers if isinstance(numbers, list | tuple) else [numbers]
    if any(isinstance(part, Tensor) and part.requires_grad for part in parts):
        raise InputError(
            f"{what} takes a copy of the numbers that it is given, so they would not be learned. Give plain numbers; "
            "for learned ones write a class of your own that holds the nn.Parameter (for a rate there is `Learned`)."
        )


def join_observed(parts: Sequence[tuple[str, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """What several parts observe, each with its mark: a name that more than one of them has gets the mark before it."""
    names = [name for _, observed in parts for name in observed]
    return {
        f"{mark}{name}" if names.count(name) > 1 else name: value
        for mark, observed in parts
        for name, value in observed.items()
    }


class Rate(nn.Module, ABC):
    """Step sizes: for each step, one multiplier per parameter, of a shape that broadcasts. Called once per task."""

    if TYPE_CHECKING:

        def __call__(self, params: Params, steps: int, noise: Mapping[str, Tensor]) -> Sequence[Params]: ...

    @abstractmethod
    def forward(self, params: Params, steps: int, noise: Mapping[str, Tensor]) -> Sequence[Params]:
        """The multipliers of each step, by the names of `params`."""

    def of_steps(self, params: Params, steps: int, noise: Mapping[str, Tensor]) -> Sequence[Params]:
        """The multipliers of so many steps, one dictionary for each; another number, or a missing name, is refused."""
        each = list(self(params, steps, noise))
        if len(each) != steps:
            raise InputError(
                f"{type(self).__name__} gave rates for {len(each)} steps, and the rule takes {steps}: return one "
                "dictionary of multipliers for each step that is asked for."
            )
        if missing := sorted({name for rates in each for name in params if name not in rates}):
            raise InputError(f"{type(self).__name__} gave no rate for {', '.join(missing)}, which the rule moves.")
        return each

    def noise(self, params: Params) -> dict[str, Shape]:
        """Names and shapes of what the rate reads from the noise; nothing unless overridden.

        A rate that was built for certain parameters checks here, before any task runs, that they are these.
        """
        del params
        return {}

    def observe(self, params: Params, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Quantities for the log, by name; none unless overridden."""
        del params, noise
        return {}
