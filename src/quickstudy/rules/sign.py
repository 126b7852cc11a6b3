"""A gain that is -1 or +1, drawn for each task with a probability that the task finds."""

from collections.abc import Sequence

from torch import Tensor

from quickstudy.errors import check_finite
from quickstudy.rules.base import Rule, check_part
from quickstudy.rules.mask import check_draw, draw_switch
from quickstudy.rules.objective import Objective
from quickstudy.rules.on_features import refuse_features_inside
from quickstudy.rules.rescale import check_scope, select_scope
from quickstudy.types import Params, Shape


class SampledSign(Rule):
    r"""Parameters times a sign that is drawn, with a logit that is found on the support set.

    .. math:: C = 2 s - 1, \quad s \sim \mathrm{Bern}(\sigma(t)), \qquad
              t^* = \mathrm{descend}(t_0,\ t \mapsto L_S(C(t)\,\theta)), \qquad \phi = C(t^*)\,\theta

    One uniform number is drawn per task and serves all of its steps, so C is a fixed step function of t whose gradient
    is that of the soft switch (straight-through, as in `Masked`). Where a wrong sign is drawn, the steps move t until
    the sign flips. The expected draw, :math:`C = 2\sigma(t) - 1 = \tanh(t/2)`, is Wormhole's eq. 4.

    Args:
        inner: The rule that finds t, usually `Descend(Constant(gamma), steps)`.
        scope: Names of the parameters that C multiplies; the others do not change.
        start: t0; at 0 both signs are as likely.
        temperature: The constant c of MT-net's eq. 3.9.
        draw: "hard", "soft" (the relaxation itself) or "expected" (no draw).
    """

    def __init__(
        self, inner: Rule, scope: Sequence[str], *, start: float = 0.0, temperature: float = 1.0, draw: str = "hard"
    ) -> None:
        super().__init__()
        check_draw(draw, temperature)
        check_part(inner, Rule, "What finds the logit of a sign", "Descend(Constant(1.0), 1)")
        self.inner = inner
        self.scope = check_scope(scope)
        self.t0 = check_finite("start", start)
        self.temperature = temperature
        self.draw = draw

    def sign(self, t: Params, objective: Objective) -> Tensor:
        """C, one number."""
        if self.draw == "expected":
            return 2 * t["t"].sigmoid() - 1
        return 2 * draw_switch(t["t"], objective.noise["sign"], self.temperature, self.draw) - 1

    def scale(self, t: Params, params: Params, objective: Objective) -> Params:
        """C theta inside the scope, theta outside."""
        C = self.sign(t, objective)
        return params | {name: C * p for name, p in select_scope(params, self.scope).items()}

    def start(self, params: Params) -> Params:
        """t0."""
        return {"t": next(iter(params.values())).new_full((), self.t0)}

    def find(self, params: Params, objective: Objective) -> Params:
        """The t of the task."""
        return self.inner(self.start(params), self.on_t(params, objective))

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        ends = self.inner.endpoints(self.start(params), self.on_t(params, objective))
        return [(weight, self.scale(t, params, objective)) for weight, t in ends]

    def on_t(self, params: Params, objective: Objective) -> Objective:
        """The objective as a function of t, with the noise of the inner rule."""
        return objective.part("inner").pullback(lambda t: self.scale(t, params, objective))

    def forward(self, params: Params, objective: Objective) -> Params:
        return self.scale(self.find(params, objective), params, objective)

    def noise(self, params: Params) -> dict[str, Shape]:
        select_scope(params, self.scope)
        refuse_features_inside(self, self.inner)
        own: dict[str, Shape] = {} if self.draw == "expected" else {"sign": ()}
        return own | {f"inner.{name}": shape for name, shape in self.inner.noise(self.start(params)).items()}

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        t = self.find(params, objective)
        return {"sign.logit": t["t"], "sign": self.sign(t, objective)}
