"""Gradient descent on the support loss, with step sizes as a separate part.

`Descend(Constant(a), k)` is MAML; with `first_order=True` it is FOMAML, with `Learned(...)` Meta-SGD or rates for each
layer and step, with `Masked(Constant(a), ...)` MT-net. The learner decides which parameters the steps move.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf, isfinite, nan
from typing import SupportsIndex, cast

import torch
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.rules.base import Rate, Rule, check_built_for, check_part, check_plain_numbers, join_observed
from quickstudy.rules.objective import Objective, identity
from quickstudy.rules.params import detach_params, dotted_params, layer_of, parameter_dict, with_prefix
from quickstudy.types import Params, Shape


def gradient_direction(gradient: Tensor) -> Tensor:
    """The direction of a step is that of the gradient."""
    return gradient


AtStep = Callable[[int], Objective]
"""From the number of a step to its objective."""
Steps = Callable[[Params, Objective, AtStep], Iterator[Params]]
"""What yields the iterates of gradient steps: `Descend.iterates`, or `Descend.trained_iterates`."""

MOST_STEPS = 1_000_000
"""More inner steps than this are a mistake: the rates of all of them are held in memory."""


def last(iterates: Iterator[Params]) -> Params:
    """The last of the iterates. The others are freed as the steps go on."""
    return deque(iterates, maxlen=1).pop()


class Descend(Rule):
    r"""Gradient steps on the support loss.

    .. math:: \theta_{k+1} = \theta_k - r_k \odot d(\nabla L_S(\theta_k))

    Reference: Finn, Abbeel & Levine, 2017, section 2.2 and algorithm 1 (https://arxiv.org/abs/1703.03400).

    Args:
        rate: The step sizes :math:`r_k`.
        steps: Inner steps in training.
        eval_steps: Inner steps in evaluation; by default as many as in training. More are not always better: a T-net
            that was trained with one step can diverge with five.
        first_order: Whether the inner gradient is a constant in the outer one.
        direction: The map :math:`d` on each gradient; `torch.sign` gives Sign-MAML.
    """

    def __init__(
        self,
        rate: Rate,
        steps: int,
        *,
        eval_steps: int | None = None,
        first_order: bool = False,
        direction: Callable[[Tensor], Tensor] = gradient_direction,
    ) -> None:
        super().__init__()
        check_part(rate, Rate, "The rate of gradient steps", "Constant(0.01)")
        for name, value in (("steps", steps), ("eval_steps", steps if eval_steps is None else eval_steps)):
            if not isinstance(value, SupportsIndex):
                raise InputError(f"`{name}` was {value!r}; it counts gradient steps, so give a whole number.")
            if value < 0:
                raise InputError(f"`{name}` was {value}; it counts gradient steps, so 0 or more.")
            if value > MOST_STEPS:
                raise InputError(f"`{name}` was {value}; give at most {MOST_STEPS} gradient steps.")
        self.rate = rate
        self.steps = steps
        self.eval_steps = steps if eval_steps is None else eval_steps
        self.first_order = first_order
        self.direction = direction

    def forward(self, params: Params, objective: Objective) -> Params:
        return last(self.iterates(params, objective))

    def iterates(
        self,
        params: Params,
        objective: Objective,
        at_step: AtStep | None = None,
        go_on: Callable[[Params], Params] = identity,
    ) -> Iterator[Params]:
        """theta_0, theta_1, ...: for accuracy against steps, and for losses at every step.

        Args:
            params: theta_0.
            objective: The task.
            at_step: The objective of each step, where it is not the same at all of them.
            go_on: Applied to the parameters before every step but the first.
        """
        steps = self.eval_steps if objective.evaluating else self.steps
        step = objective.autodiff.step(self.step)
        yield params
        for k, rate in enumerate(self.rate.of_steps(params, steps, objective.noise)):
            params = step(params if k == 0 else go_on(params), rate, objective if at_step is None else at_step(k))
            yield params

    def trained_iterates(self, params: Params, objective: Objective, at_step: AtStep | None = None) -> Iterator[Params]:
        """theta_0, theta_1, ... as `weigh` takes them: those of `iterates`, unless overridden."""
        return self.iterates(params, objective, at_step)

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        return self.weigh(self.trained_iterates(params, objective))

    def weigh(self, iterates: Iterator[Params]) -> list[tuple[Tensor | float, Params]]:
        """The iterates whose query losses are added up in training, with their weights: here the last alone."""
        return [(1.0, last(iterates))]

    def step(self, params: Params, rate: Params, objective: Objective) -> Params:
        """One step; pure."""
        grads = objective.gradient(params)
        if self.first_order:
            grads = detach_params(grads)
        # A rate and a parameter that are both one number have the type of the wider one together.
        return {name: (p - rate[name] * self.direction(grads[name])).to(p.dtype) for name, p in params.items()}

    def noise(self, params: Params) -> dict[str, Shape]:
        return self.rate.noise(params)

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        return self.rate.observe(params, objective.noise)


def check_steps(rule: Rule, what: str) -> Descend:
    """Refuse a rule that takes no gradient steps one by one, where each step has something of its own."""
    if not isinstance(rule, Descend):
        raise InputError(f"{what} need a rule of gradient steps, not a {type(rule).__name__}.")
    own = [name for name in ("forward", "endpoints") if getattr(type(rule), name) is not getattr(Descend, name)]
    if own:
        raise InputError(
            f"{what} call the steps of {type(rule).__name__} by `trained_iterates` and `weigh`, and it has a "
            f"`{own[0]}` of its own that would be passed by. Override `step`, `trained_iterates` or `weigh` instead."
        )
    return rule


class Constant(Rate):
    """One step size for every parameter and step.

    Args:
        value: The step size. A buffer, so that a schedule can change it by path.
        decay: The factor from one step to the next: step j uses `value * decay**j`. Below 1 the steps become smaller.
    """

    value: Tensor
    decay: Tensor

    def __init__(self, value: float, decay: float = 1.0) -> None:
        super().__init__()
        check_plain_numbers([value, decay], "A constant rate")
        try:
            value, decay = float(value), float(decay)
        except (TypeError, ValueError):
            raise InputError(f"A constant rate is a number, such as 0.01, not {value!r} (decay {decay!r}).") from None
        if not (isfinite(value) and isfinite(decay)):
            raise InputError(f"A constant rate is a finite number, such as 0.01, not {value} (decay {decay}).")
        if value < 0 or decay < 0:
            raise InputError(
                f"A constant rate is 0 or more, such as 0.01, not {value} (decay {decay}): below 0 a step would raise "
                "the support loss."
            )
        self.register_buffer("value", torch.tensor(value), persistent=False)
        self.register_buffer("decay", torch.tensor(decay), persistent=False)

    def forward(self, params: Params, steps: int, noise: Mapping[str, Tensor]) -> Sequence[Params]:
        del noise
        return [dict.fromkeys(params, self.value * self.decay**j) for j in range(steps)]


class ByName(Rate):
    """Different rates for different parameters: each uses the first rate whose prefix its name begins with.

    Args:
        rates: Rates by prefix, which is a beginning of a name and nothing more: "layer1." leaves "layer10." out, and
            "layer1" does not. The prefix "" matches every name. One that is left with no parameter is refused.
    """

    def __init__(self, rates: Mapping[str, Rate]) -> None:
        super().__init__()
        for prefix, rate in rates.items():
            check_part(rate, Rate, f"The rate of {prefix!r}", "Constant(0.01)")
        self.prefixes = list(rates)
        self.rates = nn.ModuleList(rates.values())

    def parts(self, params: Params) -> list[tuple[str, Rate, Params]]:
        """Each rate that is used, with the prefix of its noise and with its parameters."""
        groups: list[Params] = [{} for _ in self.prefixes]
        for name, p in params.items():
            index = next((i for i, prefix in enumerate(self.prefixes) if name.startswith(prefix)), None)
            if index is None:
                raise InputError(
                    f"No rate is given for {name!r}; prefixes are {self.prefixes}. The prefix '' matches every name."
                )
            groups[index][name] = p
        rates = zip(self.rates, groups, strict=True)
        return [(f"{i}.", cast(Rate, rate), own) for i, (rate, own) in enumerate(rates) if own]

    def forward(self, params: Params, steps: int, noise: Mapping[str, Tensor]) -> Sequence[Params]:
        every = [rate.of_steps(own, steps, with_prefix(noise, mark)) for mark, rate, own in self.parts(params)]
        return [{name: r for part in step for name, r in part.items()} for step in zip(*every, strict=True)]

    def noise(self, params: Params) -> dict[str, Shape]:
        parts = self.parts(params)
        used = {mark for mark, _, _ in parts}
        spare = [prefix for i, prefix in enumerate(self.prefixes) if prefix and f"{i}." not in used]
        if spare:
            raise InputError(
                f"The rate of {spare[0]!r} is left with no parameter: no name begins so, or a prefix before it has "
                f"taken them all. The prefixes are {self.prefixes}, and what adapts is: {', '.join(params)}."
            )
        return {mark + n: shape for mark, rate, own in parts for n, shape in rate.noise(own).items()}

    def observe(self, params: Params, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts = self.parts(params)
        return join_observed([(mark, rate.observe(own, with_prefix(noise, mark))) for mark, rate, own in parts])


class Learned(Rate):
    r"""Step sizes learned with the initialisation.

    Per parameter this is Meta-SGD's :math:`\alpha`, one number for each weight (Li et al., 2017, eq. 2,
    https://arxiv.org/abs/1707.09835). Steps beyond those with rates of their own use the rates of the last one.

    Args:
        params: The parameters that adapt; names, shapes and type are used.
        init: The first value, or the bounds of a uniform draw (Meta-SGD: 0.005 to 0.1).
        per: What has a rate of its own: "parameter" (every number in it), "layer" or "layer_step".
        steps: With "layer_step", the number of steps with rates of their own.
    """

    def __init__(
        self, params: Params, init: float | tuple[float, float], *, per: str = "parameter", steps: int = 1
    ) -> None:
        super().__init__()
        if per not in ("parameter", "layer", "layer_step"):
            raise InputError(f"Learned rates are per 'parameter', 'layer' or 'layer_step', not per {per!r}.")
        if steps < 1:
            raise InputError(f"`steps` was {steps}; it counts the steps with rates of their own, so give 1 or more.")
        self.names = list(params)
        shapes: dict[str, tuple[Tensor, Shape]]
        if per == "parameter":
            shapes = {name: (p, tuple(p.shape)) for name, p in params.items()}
        else:
            shapes = {layer_of(name): (p, (steps if per == "layer_step" else 1,)) for name, p in params.items()}
        try:
            low, high = map(float, init if isinstance(init, tuple | list) else (init, init))
        except (TypeError, ValueError):
            low = high = nan
        if not 0 <= low <= high < inf:
            raise InputError(
                f"A learned rate starts at a finite number or between two, the lower first, not at {init!r}; below 0 a "
                "step would raise the support loss."
            )
        self.per = per
        # Real numbers, also of a complex parameter.
        drawn = {name: like.detach().real.new_empty(shape) for name, (like, shape) in shapes.items()}
        self.values = parameter_dict({name: value.uniform_(low, high) for name, value in drawn.items()})

    def noise(self, params: Params) -> dict[str, Shape]:
        check_built_for(self.names, params, "A learned rate")
        return {}

    def forward(self, params: Params, steps: int, noise: Mapping[str, Tensor]) -> Sequence[Params]:
        del noise
        values = dotted_params(self.values)
        if self.per == "parameter":
            return [values] * steps
        own = {name: values[layer_of(name)] for name in params}
        return [{name: value[min(step, len(value) - 1)] for name, value in own.items()} for step in range(steps)]
