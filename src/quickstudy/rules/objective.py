"""A task's support set, seen as a function of the parameters being adapted.

This is all that a rule knows of the task. `pullback` re-expresses it in other coordinates, so that a per-task parameter
found by gradient steps (a gain, a context, a code) is the same descent as any other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from quickstudy.types import Criterion, Examples, Params

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")


def identity(thing: T) -> T:
    """A step is run by calling it; images stay in the layout in which they came."""
    return thing


@dataclass(frozen=True)
class Autodiff:
    """How the engine has the arithmetic of one task done. Results are the same up to rounding.

    Args:
        gradient: A scalar function of parameters -> its gradient as a function of them, differentiable in its turn.
        step: A pure step -> the same step, which the backward pass may replay instead of having it remembered.
        images: Inputs `[n, C, H, W]` -> the same in another layout, faster where no second derivative is taken.
    """

    gradient: Callable[[Callable[[Params], Tensor]], Callable[[Params], Params]] = torch.func.grad
    step: Callable[[F], F] = identity
    images: Callable[[Tensor], Tensor] = identity


@dataclass(frozen=True)
class Objective:
    """The support loss of one task.

    Args:
        predict: The head's output on the support inputs, as a function of the adapted parameters.
        criterion: The inner loss; whether it is a mean or a sum is its own affair and is named where it is chosen.
        support: The support set; `x` is what the head sees: features, when the learner has a body.
        noise: Uniform noise in (0, 1) for this task, named and shaped by the rule, drawn before the rule runs.
        evaluating: Whether evaluation steps apply. Never `nn.Module.training`, which belongs to the user's dropout.
        means: How gradients and steps are computed: the engine's affair.
    """

    predict: Callable[[Params], Tensor]
    criterion: Criterion
    support: Examples
    noise: Mapping[str, Tensor] = field(default_factory=dict)
    evaluating: bool = False
    means: Autodiff = Autodiff()

    def loss(self, params: Params) -> Float[Tensor, ""]:
        """The support loss at `params`."""
        return self.criterion(self.predict(params), self.support.y)

    def gradient(self, params: Params) -> Params:
        """The gradient of the support loss at `params`, by name."""
        return self.means.gradient(self.loss)(params)

    def pullback(self, chart: Callable[[Params], Params]) -> "Objective":
        """The same objective as a function of `t`, where the parameters are `chart(t)`."""
        return replace(self, predict=lambda t: self.predict(chart(t)))

    def part(self, prefix: str) -> "Objective":
        """The objective of one part of a composed rule: it sees only its own share of the noise."""
        mark = f"{prefix}."
        return replace(self, noise={n[len(mark) :]: v for n, v in self.noise.items() if n.startswith(mark)})
