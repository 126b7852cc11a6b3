r"""Wormhole MAML's rule: find a per-task multiplier C of the parameters, then use C theta.

A chart defines how a few numbers t act on the parameters: scalar, tanh, diagonal, per layer or low rank (eq. 3-7).
`Rescale` descends on t through the chart: it is `Descend` in other coordinates, `objective.pullback(chart)`. If the
inner rule is second order, the outer gradient includes how C depends on theta; with `Descend(..., first_order=True)` it
includes the product C theta only. A rate of C that decreases is `Constant(value, decay=...)`, or a schedule on its
buffer.

Reference: Chang, Gao & Lou, 2022, eq. 2-7 (https://arxiv.org/abs/2212.14094). Algorithm 1 as printed ascends, and steps
from C theta by a gradient that was taken before C moved. `Rescale` is the reading that is MAML at C = 1; `GainAndShift`
is the printed order of steps.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import tanh
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quickstudy.errors import InputError, check_count, check_finite
from quickstudy.rules.base import Rule, check_adapts, check_built_for, check_part
from quickstudy.rules.descend import Descend, Steps, check_steps, last
from quickstudy.rules.objective import Objective
from quickstudy.rules.on_features import refuse_features_inside
from quickstudy.rules.params import dotted_params, layer_of, parameter_dict, with_prefix
from quickstudy.types import Params, Shape


class Chart(nn.Module, ABC):
    """Coordinates t of a per-task change of the parameters: `chart(t, theta)` is C(t) theta."""

    if TYPE_CHECKING:  # nn.Module's own is untyped

        def __call__(self, t: Params, params: Params) -> Params: ...

    @abstractmethod
    def start(self, params: Params) -> Params:
        """t0, the start of every task. Called once per task, with the parameters in scope."""

    @abstractmethod
    def forward(self, t: Params, params: Params) -> Params:
        """C(t) theta, by the names of `params`."""


class Rescale(Rule):
    r"""Parameters times a gain that is found on the support set.

    .. math:: t^* = \mathrm{descend}(t_0,\ t \mapsto L_S(C(t)\,\theta)), \qquad \phi = C(t^*)\,\theta

    Args:
        inner: The rule that finds t, usually `Descend(Constant(gamma), steps)`.
        chart: What t means.
        scope: Names of the parameters that C multiplies; the others do not change.
    """

    def __init__(self, inner: Rule, chart: Chart, scope: Sequence[str]) -> None:
        super().__init__()
        check_part(inner, Rule, "What finds a gain", "Descend(Constant(1.0), 1)")
        check_part(chart, Chart, "What a gain means", "Tanh()")
        self.inner, self.chart, self.scope = inner, chart, check_scope(scope)

    def forward(self, params: Params, objective: Objective) -> Params:
        return self.scale(self.find(params, objective), params)

    def find(self, params: Params, objective: Objective) -> Params:
        """The t of the task: what the figures of the gain show."""
        return self.inner(self.start(params), self.on_t(params, objective))

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        ends = self.inner.endpoints(self.start(params), self.on_t(params, objective))
        return [(weight, self.scale(t, params)) for weight, t in ends]

    def on_t(self, params: Params, objective: Objective) -> Objective:
        """The objective as a function of t."""
        return objective.pullback(lambda t: self.scale(t, params))

    def start(self, params: Params) -> Params:
        """t0."""
        return self.chart.start(select_scope(params, self.scope))

    def scale(self, t: Params, params: Params) -> Params:
        """C(t) theta inside the scope, theta outside."""
        return params | apply_chart(self.chart, t, params, self.scope)

    def noise(self, params: Params) -> dict[str, Shape]:
        refuse_features_inside(self, self.inner)
        return self.inner.noise(self.start(params))

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        return {f"gain.{name}".rstrip("."): value for name, value in self.find(params, objective).items()}


class Anneal(Rescale):
    r"""A gain whose chart changes from step to step, from soft to sharp.

    .. math:: t_{j+1} = t_j - \gamma \nabla L_S(C_j(t_j)\,\theta), \qquad \phi = C_K(t_K)\,\theta

    With :math:`C_j(t) = \tanh(\beta_j t)` and rising :math:`\beta_j`, C is driven towards -1 or 1: the annealing that
    the paper names in sections 3, 4.1 and 5, and does not evaluate.

    Args:
        inner: The steps on t, a `Descend`.
        charts: The chart of each step, and the last one for what is found. A step beyond them uses the last.
        scope: Names of the parameters that C multiplies.
    """

    inner: Descend

    def __init__(self, inner: Rule, charts: Sequence[Chart], scope: Sequence[str]) -> None:
        if not charts:
            raise InputError("`charts` is empty; an annealed gain needs a chart for each of its steps, one at least.")
        super().__init__(check_steps(inner, "Charts that change from step to step"), charts[-1], scope)
        self.charts = nn.ModuleList(charts)

    def find(self, params: Params, objective: Objective) -> Params:
        return last(self.iterates(params, objective, self.inner.iterates))

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        iterates = self.iterates(params, objective, self.inner.trained_iterates)
        return [(weight, self.scale(t, params)) for weight, t in self.inner.weigh(iterates)]

    def iterates(self, params: Params, objective: Objective, steps: Steps) -> Iterator[Params]:
        """t_0, t_1, ..., each step by its own chart; `steps` is what yields the iterates of the inner rule."""
        each = [objective.pullback(partial(self.scale_by, chart, params)) for chart in self.charts]
        return steps(self.start(params), each[-1], lambda step: each[min(step, len(each) - 1)])

    def scale_by(self, chart: nn.Module, params: Params, t: Params) -> Params:
        """C(t) theta by the chart of one step."""
        return params | apply_chart(chart, t, params, self.scope)


class Coadapt(Rescale):
    r"""The gain and the parameters found together, each at a rate of its own.

    .. math:: (t, \theta) \leftarrow (t, \theta) - r \odot \nabla L_S(C(t)\,\theta), \qquad \phi = C(t)\,\theta

    Sections 4.1 and 5 of the paper suggest it and do not evaluate it. The coordinates are t, under names that begin
    with `gain:` (the name of a module contains no colon), and :math:`\theta`. So the two rates are
    `ByName({"gain:": Constant(gamma), "": Constant(alpha)})`. The arguments are those of `Rescale`.
    """

    def start(self, params: Params) -> Params:
        return {f"gain:{name}": t for name, t in super().start(params).items()} | params

    def scale(self, t: Params, params: Params) -> Params:
        theta = {name: t[name] for name in params}
        return theta | apply_chart(self.chart, with_prefix(t, "gain:"), theta, self.scope)

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        t = with_prefix(self.find(params, objective), "gain:")
        return {f"gain.{name}".rstrip("."): value for name, value in t.items()}


class GainAndShift(Coadapt):
    r"""The gain and a shift found together: algorithm 1 of the paper, in the order of its lines 6 to 8.

    .. math:: (t, \Delta) \leftarrow (t, \Delta) - r \odot \nabla L_S(C(t)\,\theta + \Delta), \qquad
              \phi = C(t)\,\theta + \Delta, \qquad \Delta_0 = 0

    In the first step both gradients are those at :math:`C_0 \theta`, before C moves (line 6); then C moves (line 7),
    and the result is the new :math:`C \theta` less a step along that gradient (line 8). Two things are chosen here: as
    printed, line 8 ascends, and it has no :math:`\alpha`. The gradient of the shift is that at :math:`\phi`, not that
    at :math:`\theta`: unlike in `Coadapt`, the sign of C does not turn the step.
    """

    def start(self, params: Params) -> Params:
        return super().start(params) | {name: torch.zeros_like(p) for name, p in params.items()}

    def scale(self, t: Params, params: Params) -> Params:
        scaled = params | apply_chart(self.chart, with_prefix(t, "gain:"), params, self.scope)
        return {name: scaled[name] + t[name] for name in params}


def check_scope(scope: Sequence[str]) -> tuple[str, ...]:
    """The names in scope, each once. None at all are refused: nothing would change."""
    if not scope:
        raise InputError("`scope` is empty, so the gain would change nothing. Name parameters that adapt.")
    return tuple(dict.fromkeys(scope))


def apply_chart(chart: Callable[[Params, Params], Params], t: Params, params: Params, scope: Sequence[str]) -> Params:
    """C(t) theta inside the scope. A chart that gives other names than these is refused."""
    scaled = chart(t, select_scope(params, scope))
    if scaled.keys() != set(scope):
        spare, missing = sorted(set(scaled) - set(scope)), sorted(set(scope) - set(scaled))
        raise InputError(
            f"{type(chart).__name__} gave C(t) theta for other parameters than those in scope: "
            + " and ".join([f"{', '.join(spare)} too"] * bool(spare) + [f"{', '.join(missing)} not"] * bool(missing))
            + ". Return one tensor for each name that the chart is given, and no other."
        )
    return scaled


def select_scope(params: Params, scope: Sequence[str]) -> Params:
    """The parameters in scope; an error if one of them does not adapt."""
    check_adapts(scope, params, "`scope` names", "Widen `adapts` or narrow `scope`.")
    return {name: params[name] for name in scope}


class Scalar(Chart):
    """Eq. 3: C = c, one number for all parameters in scope, which starts at 1."""

    def start(self, params: Params) -> Params:
        return {"c": next(iter(params.values())).new_ones(())}

    def forward(self, t: Params, params: Params) -> Params:
        return {name: t["c"] * p for name, p in params.items()}


class FlatStartWarning(UserWarning):
    """Warns that a gain starts where its chart is flat."""


class Tanh(Chart):
    """Eq. 4: C = tanh(t), one number between -1 and 1: gradient steps can find its sign.

    Args:
        start: t0. At 1, C starts at 0.76; beyond 2 the tanh is flat and C hardly changes.
        slope: The factor beta of C = tanh(beta t).
    """

    def __init__(self, start: float = 1.0, slope: float = 1.0) -> None:
        super().__init__()
        self.slope, self.t0 = check_finite("slope", slope), check_finite("start", start)
        if abs(self.t0) > 2:
            warnings.warn(
                f"tanh is flat at t = {self.t0:g}, so the gain will hardly change from {tanh(self.t0):.3g}. "
                "Choose a start between -2 and 2.",
                FlatStartWarning,
                stacklevel=2,
            )

    def start(self, params: Params) -> Params:
        return {"t": next(iter(params.values())).new_full((), self.t0)}

    def forward(self, t: Params, params: Params) -> Params:
        return {name: (self.slope * t["t"]).tanh() * p for name, p in params.items()}


class Diagonal(Chart):
    """Eq. 5: C is diagonal, with one entry for each number in scope; all start at 1 (the paper's "Wormhole d")."""

    def start(self, params: Params) -> Params:
        return {name: torch.ones_like(p) for name, p in params.items()}

    def forward(self, t: Params, params: Params) -> Params:
        return {name: t[name] * p for name, p in params.items()}


class PerLayer(Chart):
    """Eq. 6: one number for each layer, shared by its weight and bias; all start at 1."""

    def start(self, params: Params) -> Params:
        return {layer_of(name): p.new_ones(()) for name, p in params.items()}

    def forward(self, t: Params, params: Params) -> Params:
        return {name: t[layer_of(name)] * p for name, p in params.items()}


class LowRank(Chart):
    r"""Eq. 7: C of low rank, which acts on each tensor as on one vector of d numbers.

    .. math:: C = I + U V^T, \qquad U = 0, \quad V \sim N(0, 1/d) \text{ fixed}

    Eq. 7 as printed asks for a rank of C below a threshold. That excludes the identity, and at :math:`U = V = 0` the
    gradient is zero; hence this form. `literal=True` is :math:`C = U V^T`: both factors are found, from fixed random
    starts.

    Args:
        params: The parameters in scope; names and sizes are used.
        rank: The rank r of the correction.
        literal: Whether to use the printed form, which is not the identity at the start.
    """

    def __init__(self, params: Params, rank: int, *, literal: bool = False) -> None:
        super().__init__()
        rank = check_count("rank", rank)
        self.literal = literal
        self.names = tuple(params)
        self.v = self._factor(params, rank)
        self.u = self._factor(params, rank) if literal else None

    @staticmethod
    def _factor(params: Params, rank: int) -> nn.ParameterDict:
        sizes = {name: p.detach().new_empty(p.numel(), rank) for name, p in params.items()}
        return parameter_dict({name: v.normal_() / len(v) ** 0.5 for name, v in sizes.items()}).requires_grad_(False)

    def start(self, params: Params) -> Params:
        check_built_for([name for name in self.names if name in params], params, "A low-rank gain")
        v = dotted_params(self.v)
        if self.u is None:
            return {name: torch.zeros_like(v[name]) for name in params}
        u = dotted_params(self.u)
        return {f"u.{name}": u[name] for name in params} | {f"v.{name}": v[name] for name in params}

    def forward(self, t: Params, params: Params) -> Params:
        v = dotted_params(self.v)
        flat = {name: p.reshape(-1) for name, p in params.items()}
        if self.literal:
            moved = {name: t[f"u.{name}"] @ (t[f"v.{name}"].T @ p) for name, p in flat.items()}
        else:
            moved = {name: p + t[name] @ (v[name].T @ p) for name, p in flat.items()}
        return {name: moved[name].reshape(p.shape) for name, p in params.items()}
