"""A task's support set, seen as a function of the parameters being adapted.

This is all that a rule knows of the task. `pullback` re-expresses it in other coordinates, so that a per-task parameter
found by gradient steps (a gain, a context, a code) is the same descent as any other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from quickstudy.types import Criterion, Examples, Params


@dataclass(frozen=True)
class Objective:
    """The support loss of one task.

    Args:
        predict: The head's output on the support inputs, as a function of the adapted parameters.
        criterion: The inner loss; whether it is a mean or a sum is its own affair and is named where it is chosen.
        support: The support set; `x` is what the head sees: features, when the learner has a body.
        noise: Uniform noise in (0, 1) for this task, named and shaped by the rule, drawn before the rule runs.
        evaluating: Whether evaluation steps apply. Never `nn.Module.training`, which belongs to the user's dropout.
    """

    predict: Callable[[Params], Tensor]
    criterion: Criterion
    support: Examples
    noise: Mapping[str, Tensor] = field(default_factory=dict)
    evaluating: bool = False

    def loss(self, params: Params) -> Float[Tensor, ""]:
        """The support loss at `params`."""
        return self.criterion(self.predict(params), self.support.y)

    def pullback(self, chart: Callable[[Params], Params]) -> "Objective":
        """The same objective as a function of `t`, where the parameters are `chart(t)`."""
        return replace(self, predict=lambda t: self.predict(chart(t)))

    def part(self, prefix: str) -> "Objective":
        """The objective of one part of a composed rule: it sees only its own share of the noise."""
        mark = f"{prefix}."
        return replace(self, noise={n[len(mark) :]: v for n, v in self.noise.items() if n.startswith(mark)})
