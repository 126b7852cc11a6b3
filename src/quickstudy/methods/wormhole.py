r"""Wormhole MAML: each task first finds a gain C, so that tasks of opposite sign can share one theta.

.. math:: t \leftarrow t - \gamma \nabla_t L_S(C(t)\,\theta), \qquad
          \phi = C\theta - \alpha \nabla L_S(C\theta)

:math:`\gamma` is `gain_lr`, :math:`\alpha` is `inner_lr`. C acts on the parameters in `scope`; `chart` says how the
numbers t define it (eq. 3-7): one number, one per layer `[layers]`, one per parameter, or a matrix of low rank for each
tensor of d numbers (t is U `[d, rank]`). See `rules.rescale`.

Reference: Chang, Gao & Lou, 2022, eq. 2-7 (https://arxiv.org/abs/2212.14094).

An unknown `chart` or `reading`, or a `scope` of layers whose output goes straight into norms, is an `InputError`.
"""

from collections.abc import Callable
from math import inf
from typing import Unpack

from torch import nn

from quickstudy.errors import InputError, check_count, check_finite, suggest_nearest
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Options, make_rule_learner
from quickstudy.models.split import last_linear
from quickstudy.models.trace import layers_before_norm
from quickstudy.rules.base import Rule
from quickstudy.rules.combine import Chain, Mix
from quickstudy.rules.descend import ByName, Constant, Descend
from quickstudy.rules.params import Selection, adaptable, layer_of, trainable
from quickstudy.rules.rescale import (
    Anneal,
    Chart,
    Coadapt,
    Diagonal,
    GainAndShift,
    LowRank,
    PerLayer,
    Rescale,
    Scalar,
    Tanh,
)
from quickstudy.types import Params

CHARTS = {
    "scalar": "C = c (eq. 3)",
    "tanh": "C = tanh(t) (eq. 4)",
    "diagonal": "C diagonal (eq. 5)",
    "per_layer": "one number per layer (eq. 6)",
    "low_rank": "C = I + U V' (eq. 7, with the identity as its start)",
    "low_rank_literal": "C = U V' (eq. 7 as printed)",
}

READINGS = ("recommended", "literal", "coadapt", "algorithm_1")
"""Of the paper's text: which steps are taken, and from where."""


def make_chart(name: str, params: Params, *, start: float = 1.0, rank: int = 1) -> Chart:
    """A parametrisation of C by name (eq. 3-7), for the parameters in scope."""
    if name not in CHARTS:
        raise InputError(f"There is no chart {name!r}. {suggest_nearest(name, CHARTS)}")
    start, rank = check_finite("start", start), check_count("rank", rank)  # also where the chart does not use them
    if name.startswith("low_rank"):
        return LowRank(params, rank, literal=name.endswith("literal"))
    plain: dict[str, Callable[[], Chart]] = {"scalar": Scalar, "diagonal": Diagonal, "per_layer": PerLayer}
    return Tanh(start) if name == "tanh" else plain[name]()


def chart_in_scope(
    model: nn.Module,
    params: Params,
    chart: str,
    scope: Selection | None = None,
    *,
    start: float = 1.0,
    rank: int = 1,
    norms: str = "batch",
) -> tuple[Chart, list[str]]:
    """A chart by name, and the names of what it multiplies; refused if all of it feeds norms, which undo a scale."""
    names = list(adaptable(model, last_linear(model) if scope is None else scope, "scope"))
    one_number = chart in ("scalar", "tanh", "per_layer")  # other charts also rotate, which a norm does not undo
    unaffected = layers_before_norm(model, dict.fromkeys(map(layer_of, names)), norms) if one_number else []
    if unaffected and set(unaffected) == set(map(layer_of, names)):
        raise InputError(
            f"`scope` is {', '.join(unaffected)}, whose outputs go straight into a norm: the loss does not depend on "
            "their scale, so a gain there has no effect. Leave `scope` out (the last linear layer) or add other layers."
        )
    known = {n: params[n] for n in names if n in params} or adaptable(model, names)
    return make_chart(chart, known, start=start, rank=rank), names


def wormhole(
    model: nn.Module,
    *,
    gain_lr: float = 1.0,
    gain_steps: int = 5,
    gain_first_order: bool = False,
    gain_decay: float = 1.0,
    sharpen: float = 1.0,
    chart: str = "tanh",
    start: float = 1.0,
    rank: int = 1,
    scope: Selection | None = None,
    reading: str = "recommended",
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    first_order: bool = False,
    **options: Unpack[Options],
) -> Learner:
    """Wormhole MAML (Chang, Gao & Lou, 2022, eq. 2-7): first find the gain C, then descend from C theta.

    `scope` selects the parameters that C multiplies: by default the last linear layer with its bias. `reading` is
    "recommended", "literal" (eq. 2 as printed: C theta + Delta(theta)), "coadapt" (C and theta together, at their two
    rates) or "algorithm_1" (C and a shift of C theta together: `inner_steps` of algorithm 1's lines 6 to 8). The last
    two have no steps of their own on C: `inner_steps` counts the steps, `first_order` decides about their derivatives,
    and `gain_steps` and `gain_first_order` are not used. `start` is the t0 of the tanh chart, `rank` that of the
    low-rank charts. With `sharpen` above 1 the tanh is annealed: step j on t has tanh(beta_j t), where beta rises
    evenly from 1 to `sharpen` over two steps or more.
    """
    if reading not in READINGS:
        raise InputError(f"There is no reading {reading!r}. {suggest_nearest(reading, READINGS)}")
    if not 0 < sharpen < inf or (sharpen != 1 and (chart != "tanh" or reading not in ("recommended", "literal"))):
        raise InputError(
            f"`sharpen` was {sharpen}. It is above 0 and finite, and needs the chart 'tanh' and a reading in which C "
            "is found first: 'recommended' or 'literal'."
        )
    if sharpen != 1 and gain_steps < 2:
        raise InputError(
            f"`sharpen` was {sharpen} and `gain_steps` {gain_steps}. The slope rises from 1 at the first step on t to "
            "`sharpen` at the last, so it needs 2 steps or more. Take more `gain_steps`, or leave `sharpen` out."
        )
    params = adaptable(model, options.get("adapts", trainable))
    norms = options.get("norms", "batch")
    C, names = chart_in_scope(model, params, chart, scope, start=start, rank=rank, norms=norms)
    descend = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps, first_order=first_order)
    on_t = Descend(Constant(gain_lr, gain_decay), gain_steps, first_order=gain_first_order)
    gain = Rescale(on_t, C, names)
    if sharpen != 1:
        slopes = [1 + (sharpen - 1) * step / (gain_steps - 1) for step in range(gain_steps)]
        gain = Anneal(on_t, [Tanh(start, beta) for beta in slopes], names)
    rule: Rule
    if reading == "recommended":
        rule = Chain([gain, descend])
    elif reading == "literal":
        rule = Mix([gain, descend], weights=[1.0, 1.0])
    else:
        rates = ByName({"gain:": Constant(gain_lr, gain_decay), "": Constant(inner_lr)})
        both = Descend(rates, inner_steps, eval_steps=eval_inner_steps, first_order=first_order)
        rule = Coadapt(both, C, names) if reading == "coadapt" else GainAndShift(both, C, names)
    return make_rule_learner(model, rule, **options)
