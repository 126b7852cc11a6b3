"""The support loss of a task as a function of the parameters that adapt.

A rule knows nothing else of the task. `pullback` expresses the loss in other coordinates, so that finding a gain, a
context or a code for a task is gradient descent like any other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from quickstudy.rules.params import with_prefix
from quickstudy.types import Criterion, Examples, Params

Function = TypeVar("Function", bound=Callable[..., object])
T = TypeVar("T")


def identity(value: T) -> T:
    """Returns its argument: a step that is called as it is, images that keep their layout."""
    return value


@dataclass(frozen=True)
class Autodiff:
    """How the engine computes gradients and steps of one task. The results are the same up to rounding.

    Args:
        gradient: From a scalar function of parameters to its gradient, which is again a differentiable function.
        step: From a pure step to the same step; the new one may be computed again in the backward pass, not stored.
        images: From inputs `[n, C, H, W]` to the same in another layout, in which norms and pooling are faster.
    """

    gradient: Callable[[Callable[[Params], Tensor]], Callable[[Params], Params]] = torch.func.grad
    step: Callable[[Function], Function] = identity
    images: Callable[[Tensor], Tensor] = identity


@dataclass(frozen=True)
class Objective:
    """The support loss of one task.

    Args:
        predict: The head's output on the support inputs, as a function of the adapted parameters.
        criterion: The inner loss, with its own reduction.
        support: The support set; `x` is the input of the head: features, if the learner has a body.
        noise: Uniform noise in (0, 1) for this task, with the names and shapes that the rule asked for.
        evaluating: Whether the steps of evaluation apply. `nn.Module.training` is another switch: the user's dropout.
        autodiff: How gradients and steps are computed; the engine chooses.
    """

    predict: Callable[[Params], Tensor]
    criterion: Criterion
    support: Examples
    noise: Mapping[str, Tensor] = field(default_factory=dict)
    evaluating: bool = False
    autodiff: Autodiff = Autodiff()

    def loss(self, params: Params) -> Float[Tensor, ""]:
        """The support loss at `params`."""
        return self.criterion(self.predict(params), self.support.y)

    def gradient(self, params: Params) -> Params:
        """The gradient of the support loss at `params`, by name."""
        return self.autodiff.gradient(self.loss)(params)

    def pullback(self, chart: Callable[[Params], Params]) -> "Objective":
        """The same objective as a function of `t`, where the parameters are `chart(t)`."""
        return replace(self, predict=lambda t: self.predict(chart(t)))

    def part(self, prefix: str) -> "Objective":
        """The objective for one part of a composed rule: with the noise of that part only."""
        return replace(self, noise=with_prefix(self.noise, f"{prefix}."))
