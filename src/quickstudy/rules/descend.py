"""Gradient descent on the support loss, with step sizes as a separate part.

`Descend(Constant(a), k)` is MAML, with `first_order=True` FOMAML, with `Learned(...)` Meta-SGD or per-layer-per-step
rates, with `Masked(Constant(a), ...)` MT-net. The learner decides which parameters it moves.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.rules.base import Rate, Rule, check_built_for
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import dotted_params, layer_of, parameter_dict, with_prefix
from quickstudy.rules.per_step import PerStep
from quickstudy.types import Params, Shape


def steepest(gradient: Tensor) -> Tensor:
    """The direction of steepest descent is the gradient."""
    return gradient


class Descend(Rule):
    r"""Gradient steps on the support loss.

    .. math:: \theta_{k+1} = \theta_k - r_k \odot d(\nabla L_S(\theta_k))

    `per_step`, which a learner sets under its norms="per_step", holds parameters that no step moves and that have
    another value at each.

    Reference: Finn, Abbeel & Levine, 2017, section 2.2 and algorithm 1 (https://arxiv.org/abs/1703.03400).

    Args:
        rate: The step sizes :math:`r_k`.
        steps: Inner steps in training.
        eval_steps: Inner steps in evaluation; by default those that were trained. A T-net trained with one step can
            diverge when evaluated with five, so more steps are a choice.
        first_order: Whether to treat the inner gradient as a constant in the outer one.
        direction: The map :math:`d` on each gradient; `torch.sign` gives Sign-MAML.
    """

    per_step: PerStep | None

    def __init__(
        self,
        rate: Rate,
        steps: int,
        *,
        eval_steps: int | None = None,
        first_order: bool = False,
        direction: Callable[[Tensor], Tensor] = steepest,
    ) -> None:
        super().__init__()
        for name, value in (("steps", steps), ("eval_steps", steps if eval_steps is None else eval_steps)):
            if value < 0:
                raise InputError(f"`{name}` was {value}; it counts gradient steps, so 0 or more.")
        self.rate = rate
        self.steps = steps
        self.eval_steps = steps if eval_steps is None else eval_steps
        self.first_order = first_order
        self.direction = direction
        self.per_step = None

    def forward(self, params: Params, objective: Objective) -> Params:
        return deque(self.iterates(params, objective), maxlen=1).pop()  # the last; earlier ones may be freed

    def iterates(self, params: Params, objective: Objective) -> Iterator[Params]:
        """theta_0, theta_1, ...: for accuracy against steps, and for losses at every step."""
        steps = self.eval_steps if objective.evaluating else self.steps
        theta, own = self.apart(params)
        step = objective.means.step(self.step)
        yield params
        for k, rate in enumerate(self.rate(theta, steps, objective.noise)):
            beta = own[min(k, len(own) - 1)]
            theta = step(theta, rate, _under(objective, beta))
            yield theta | beta

    def apart(self, params: Params) -> tuple[Params, list[Params]]:
        """What the steps move, and the values of the rest at each step."""
        return (params, [{}]) if self.per_step is None else self.per_step(params)

    def step(self, params: Params, rate: Params, objective: Objective) -> Params:
        """One step; pure."""
        grads = objective.gradient(params)
        if self.first_order:
            grads = {name: g.detach() for name, g in grads.items()}
        return {name: p - rate[name] * self.direction(grads[name]) for name, p in params.items()}

    def noise(self, params: Params) -> dict[str, Shape]:
        return self.rate.noise(self.apart(params)[0])

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        return self.rate.observe(self.apart(params)[0], objective.noise)


def _under(objective: Objective, beta: Params) -> Objective:
    """The objective as a function of theta alone."""
    return objective.pullback(lambda theta: theta | beta)


def with_own(rule: Rule, own: Params) -> Descend:
    """A copy of a rule of gradient steps, in which these parameters have a value for every step."""
    if not isinstance(rule, Descend):
        raise InputError(
            f"Parameters per step need a rule of gradient steps, and this one is a {type(rule).__name__}. Of the "
            "methods, maml, fomaml, meta_sgd, mamlpp, sign_maml, tnet and the masked ones have one; else use "
            "norms='support'."
        )
    rule = deepcopy(rule)
    rule.per_step = PerStep(own, rule.steps)
    return rule


class Constant(Rate):
    """One step size for every parameter and step.

    Args:
        value: The step size. A buffer, so that a schedule can move it by path.
        decay: Factor from one step to the next: step j uses `value * decay**j`. Below 1 the steps anneal.
    """

    value: Tensor
    decay: Tensor

    def __init__(self, value: float, decay: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(float(value)), persistent=False)
        self.register_buffer("decay", torch.tensor(float(decay)), persistent=False)

    def forward(self, params: Params, steps: int, noise: Mapping[str, Tensor]) -> Sequence[Params]:
        del noise
        return [dict.fromkeys(params, self.value * self.decay**j) for j in range(steps)]


class ByName(Rate):
    """Different rates for different parameters: the first whose pattern matches a name gives its step sizes.

    Args:
        rates: Name prefix -> rate. The prefix "" matches every name.
    """

    def __init__(self, rates: Mapping[str, Rate]) -> None:
        super().__init__()
        self.prefixes = list(rates)
        self.rates = nn.ModuleList(rates.values())

    def parts(self, params: Params) -> list[tuple[str, Rate, Params]]:
        """Each rate with its number and the parameters that are its own."""
        chosen: list[Params] = [{} for _ in self.prefixes]
        for name, p in params.items():
            index = next((i for i, prefix in enumerate(self.prefixes) if name.startswith(prefix)), None)
            if index is None:
                raise InputError(
                    f"No rate is given for {name!r}; prefixes are {self.prefixes}. The prefix '' takes the rest."
                )
            chosen[index][name] = p
        rates = zip(self.rates, chosen, strict=True)
        return [(f"{i}.", cast(Rate, rate), own) for i, (rate, own) in enumerate(rates) if own]

    def forward(self, params: Params, steps: int, noise: Mapping[str, Tensor]) -> Sequence[Params]:
        every = [rate(own, steps, with_prefix(noise, mark)) for mark, rate, own in self.parts(params)]
        return [{name: r for part in step for name, r in part.items()} for step in zip(*every, strict=True)]

    def noise(self, params: Params) -> dict[str, Shape]:
        return {mark + n: shape for mark, rate, own in self.parts(params) for n, shape in rate.noise(own).items()}

    def observe(self, params: Params, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts = self.parts(params)
        return {n: v for mark, rate, own in parts for n, v in rate.observe(own, with_prefix(noise, mark)).items()}


class Learned(Rate):
    r"""Step sizes learned with the initialisation.

    Per parameter this is Meta-SGD's :math:`\alpha`, one number for each weight (Li et al., 2017, eq. 2,
    https://arxiv.org/abs/1707.09835). Beyond the steps that have rates of their own, the last one repeats.

    Args:
        params: Parameters to be adapted; names, shapes and type are used.
        init: The first value, or the bounds of a uniform draw (Meta-SGD: .005 to .1).
        per: What shares a rate: "parameter" (each number its own), "layer", or "layer_step".
        steps: With "layer_step", how many steps have rates of their own.
    """

    def __init__(
        self, params: Params, init: float | tuple[float, float], *, per: str = "parameter", steps: int = 1
    ) -> None:
        super().__init__()
        if per not in ("parameter", "layer", "layer_step"):
            raise InputError(f"Learned rates are per 'parameter', 'layer' or 'layer_step', not per {per!r}.")
        like = next(iter(params.values())).detach()
        self.names = list(params)
        shapes: dict[str, Shape]
        if per == "parameter":
            shapes = {name: tuple(p.shape) for name, p in params.items()}
        else:
            shapes = {layer_of(name): (steps if per == "layer_step" else 1,) for name in params}
        low, high = (init, init) if isinstance(init, float | int) else init
        self.per = per
        self.values = parameter_dict({n: like.new_empty(s).uniform_(low, high) for n, s in shapes.items()})

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
