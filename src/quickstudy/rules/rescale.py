r"""Wormhole MAML's rule: find a per-task multiplier C of the parameters, then use C theta.

A chart says how a few numbers t act on the parameters: scalar, tanh, diagonal, per layer or low rank (eq. 3-7).
`Rescale` descends on t through the chart: it is `Descend` in other coordinates, `objective.pullback(chart)`. The outer
gradient flows through C in full when the inner rule is second order, and only through the product C theta when it is
`Descend(..., first_order=True)`. C that anneals is `Constant(value, decay=...)` or a schedule on the rate's buffer.

Reference: Chang, Gao & Lou, 2022, eq. 2-7 (https://arxiv.org/abs/2212.14094). Algorithm 1 as printed ascends and steps
from C theta by a gradient taken before C moved; the formulas here are the reading that reduces to MAML at C = 1.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.rules.base import Rule
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import dotted_params, layer_of
from quickstudy.types import Params, Shape


class Chart(nn.Module, ABC):
    """Coordinates t of a per-task change of the parameters: `chart(t, theta)` is C(t) theta."""

    if TYPE_CHECKING:  # nn.Module's own is untyped

        def __call__(self, t: Params, params: Params) -> Params: ...

    @abstractmethod
    def start(self, params: Params) -> Params:
        """t0, where every task starts: called once per task, on the parameters in scope."""

    @abstractmethod
    def forward(self, t: Params, params: Params) -> Params:
        """C(t) theta, with the names of `params`."""


class Rescale(Rule):
    r"""Parameters moved by a gain found on the support set.

    .. math:: t^* = \mathrm{descend}(t_0,\ t \mapsto L_S(C(t)\,\theta)), \qquad \phi = C(t^*)\,\theta

    Args:
        inner: The rule that finds t, usually `Descend(Constant(gamma), steps)`.
        chart: What t means.
        scope: Names of the parameters that C multiplies; the rest pass unchanged.
    """

    def __init__(self, inner: Rule, chart: Chart, scope: Sequence[str]) -> None:
        super().__init__()
        self.inner = inner
        self.chart = chart
        self.scope = tuple(scope)

    def forward(self, params: Params, objective: Objective) -> Params:
        return self.through(self.find(params, objective), params)

    def find(self, params: Params, objective: Objective) -> Params:
        """The task's t: what figures of the gain plot."""
        return self.inner(self.start(params), objective.pullback(lambda t: self.through(t, params)))

    def start(self, params: Params) -> Params:
        """t0."""
        return self.chart.start(select_scope(params, self.scope))

    def through(self, t: Params, params: Params) -> Params:
        """C(t) theta inside the scope, theta outside."""
        return params | self.chart(t, select_scope(params, self.scope))

    def noise(self, params: Params) -> dict[str, Shape]:
        return self.inner.noise(self.start(params))

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        return {f"gain.{name}".rstrip("."): value for name, value in self.find(params, objective).items()}


class Coadapt(Rule):
    r"""The gain and the parameters found together, each at its own rate.

    .. math:: (t, \theta) \leftarrow (t, \theta) - r \odot \nabla L_S(C(t)\,\theta), \qquad \phi = C(t)\,\theta

    Sections 4.1 and 5 of the paper suggest it and do not evaluate it. The inner rule sees t under names that start with
    `gain:` (no module's name holds a colon), so the two rates are
    `ByName({"gain:": Constant(gamma), "": Constant(alpha)})`.

    Args:
        inner: The rule that moves both.
        chart: What t means.
        scope: Names of the parameters that C multiplies.
    """

    def __init__(self, inner: Rule, chart: Chart, scope: Sequence[str]) -> None:
        super().__init__()
        self.inner = inner
        self.chart = chart
        self.scope = tuple(scope)

    def both(self, params: Params) -> Params:
        """The joint starting point."""
        return {f"gain:{n}": t for n, t in self.chart.start(select_scope(params, self.scope)).items()} | params

    def apart(self, both: Params) -> tuple[Params, Params]:
        """t and theta of a joint point."""
        t = {name.removeprefix("gain:"): v for name, v in both.items() if name.startswith("gain:")}
        return t, {name: p for name, p in both.items() if not name.startswith("gain:")}

    def through(self, both: Params) -> Params:
        """C(t) theta of a joint point."""
        t, params = self.apart(both)
        return params | self.chart(t, select_scope(params, self.scope))

    def find(self, params: Params, objective: Objective) -> Params:
        """The joint point that the inner rule ends at."""
        return self.inner(self.both(params), objective.pullback(self.through))

    def forward(self, params: Params, objective: Objective) -> Params:
        return self.through(self.find(params, objective))

    def noise(self, params: Params) -> dict[str, Shape]:
        return self.inner.noise(self.both(params))

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        t, _ = self.apart(self.find(params, objective))
        return {f"gain.{name}".rstrip("."): value for name, value in t.items()}


def select_scope(params: Params, scope: Sequence[str]) -> Params:
    """The parameters in scope; an error that names what is missing."""
    missing = [name for name in scope if name not in params]
    if missing:
        raise InputError(
            f"`scope` names {', '.join(missing)}, which does not adapt. What adapts is: {', '.join(params)}. "
            "Widen `adapts` or narrow `scope`."
        )
    return {name: params[name] for name in scope}


class Scalar(Chart):
    """Eq. 3: C = c, one number for all parameters in scope; c starts at 1."""

    def start(self, params: Params) -> Params:
        return {"c": next(iter(params.values())).new_ones(())}

    def forward(self, t: Params, params: Params) -> Params:
        return {name: t["c"] * p for name, p in params.items()}


class FlatStart(UserWarning):
    """A gain that starts where its chart is flat."""


class Tanh(Chart):
    """Eq. 4: C = tanh(t), one number between -1 and 1: a sign that can be found by gradient steps.

    Args:
        start: t0. At 1, C starts at .76; beyond 2 the tanh is flat and t hardly moves.
    """

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        if abs(start) > 2:
            warnings.warn(
                f"tanh is flat at t = {start:g}, so the gain will hardly move from {torch.tensor(start).tanh():.3g}. "
                "A start between -2 and 2 lets it find its sign.",
                FlatStart,
                stacklevel=2,
            )
        self.t0 = float(start)

    def start(self, params: Params) -> Params:
        return {"t": next(iter(params.values())).new_full((), self.t0)}

    def forward(self, t: Params, params: Params) -> Params:
        return {name: t["t"].tanh() * p for name, p in params.items()}


class Diagonal(Chart):
    """Eq. 5: C is diagonal, one number per number in scope, all starting at 1 (the paper's "Wormhole d")."""

    def start(self, params: Params) -> Params:
        return {name: torch.ones_like(p) for name, p in params.items()}

    def forward(self, t: Params, params: Params) -> Params:
        return {name: t[name] * p for name, p in params.items()}


class PerLayer(Chart):
    """Eq. 6: one number per layer, shared by its weight and bias, all starting at 1."""

    def start(self, params: Params) -> Params:
        return {layer_of(name): p.new_ones(()) for name, p in params.items()}

    def forward(self, t: Params, params: Params) -> Params:
        return {name: t[layer_of(name)] * p for name, p in params.items()}


class LowRank(Chart):
    r"""Eq. 7: C of low rank, acting on each tensor as one flat vector of d numbers.

    .. math:: C = I + U V^T, \qquad U = 0, \quad V \sim N(0, 1/d) \text{ fixed}

    Read literally, eq. 7 asks rank(C) below a threshold, which excludes the identity, and :math:`U = V = 0` has zero
    gradient; hence this form. `literal=True` is :math:`C = U V^T` with both factors found, from fixed random starts.

    Args:
        params: Parameters in scope; names and sizes are used.
        rank: The rank r of the correction.
        literal: Use the printed form, which is not the identity at the start.
    """

    def __init__(self, params: Params, rank: int, *, literal: bool = False) -> None:
        super().__init__()
        if rank < 1:
            raise InputError(f"`rank` was {rank}; a low-rank gain needs a rank of at least 1.")
        self.literal = literal
        self.v = self._factor(params, rank)
        self.u = self._factor(params, rank) if literal else None

    @staticmethod
    def _factor(params: Params, rank: int) -> nn.ParameterDict:
        return nn.ParameterDict(
            {
                name.replace(".", "/"): nn.Parameter(
                    p.detach().new_empty(p.numel(), rank).normal_() / p.numel() ** 0.5, requires_grad=False
                )
                for name, p in params.items()
            }
        )

    def start(self, params: Params) -> Params:
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
