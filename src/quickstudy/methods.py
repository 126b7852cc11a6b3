"""Recipes: every method of the papers, on any module, in a few lines each.

A recipe takes a model and options and returns a learner. `@recipe` enters it into `RECIPES`, which the command line
and the law tests iterate: a new method is one function. What is true of a method and not of all (which options make
its outer gradient exact, say) is in that line too, so that no test needs an exception of its own.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from quickstudy.cells import cell_params, with_metric
from quickstudy.criteria import criterion
from quickstudy.errors import InputError, nearest
from quickstudy.heads import last_linear, split_head
from quickstudy.hypernet import ClassHypernet
from quickstudy.learner import Learner, RuleLearner
from quickstudy.norms import feeds_norm, per_step_params
from quickstudy.params import Selection, adaptable, layer_of, trainable
from quickstudy.rules.base import Rule
from quickstudy.rules.combine import Chain, Mix, MixLosses
from quickstudy.rules.descend import ByName, Constant, Descend, Learned
from quickstudy.rules.emit import Emit
from quickstudy.rules.mask import Masked
from quickstudy.rules.rescale import Chart, Coadapt, Diagonal, LowRank, PerLayer, Rescale, Scalar, Tanh
from quickstudy.types import Criterion, Params

Loss = str | Criterion


@dataclass(frozen=True)
class Recipe:
    """A method by name, with what the laws need to know of it.

    Args:
        build: The function.
        exact: Options under which the outer gradient is the derivative of the outer loss; None where a stopped gradient
            is the method (it is then compared with its closed form).
        still: Options under which zeroing the rule's own numbers leaves the parameters as they were.
    """

    build: Callable[..., Learner]
    exact: Mapping[str, Any] | None = field(default_factory=dict)
    still: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, model: nn.Module, **options: Any) -> Learner:
        return self.build(model, **options)


RECIPES: dict[str, Recipe] = {}


def recipe(**traits: Any) -> Callable[[Callable[..., Learner]], Callable[..., Learner]]:
    """Enter a function into `RECIPES` under its name."""

    def enter(build: Callable[..., Learner]) -> Callable[..., Learner]:
        RECIPES[build.__name__] = Recipe(build, **traits)
        return build

    return enter


def moved(model: nn.Module, adapts: Selection, norms: str) -> Params:
    """What gradient steps move: all that adapts, but not what has a value for every step."""
    still = per_step_params(model) if norms == "per_step" else {}
    return {name: p for name, p in adaptable(model, adapts).items() if name not in still}


@recipe()
def maml(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    loss: Loss = "cross_entropy",
    inner_loss: Loss | None = None,
    adapts: Selection = trainable,
    norms: str = "batch",
) -> Learner:
    """MAML (Finn, Abbeel & Levine, 2017): gradient steps on every parameter, differentiated through."""
    rule = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)
    return _learner(model, rule, loss, inner_loss, adapts=adapts, norms=norms)


@recipe(exact=None)
def fomaml(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    loss: Loss = "cross_entropy",
    inner_loss: Loss | None = None,
    adapts: Selection = trainable,
    norms: str = "batch",
) -> Learner:
    """First-order MAML: the outer gradient is the query gradient at the adapted parameters."""
    rule = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps, first_order=True)
    return _learner(model, rule, loss, inner_loss, adapts=adapts, norms=norms)


@recipe()
def anil(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    loss: Loss = "cross_entropy",
    inner_loss: Loss | None = None,
    head: str | None = None,
    norms: str = "batch",
) -> Learner:
    """ANIL (Raghu et al., 2020): MAML on the head; the body runs once per set of examples."""
    body, last = split_head(model, head)
    rule = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)
    return _learner(last, rule, loss, inner_loss, body=body, norms=norms)


@recipe()
def meta_sgd(
    model: nn.Module,
    *,
    inner_lr: float | tuple[float, float] = (0.005, 0.1),
    per: str = "parameter",
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    loss: Loss = "cross_entropy",
    inner_loss: Loss | None = None,
    adapts: Selection = trainable,
    norms: str = "batch",
) -> Learner:
    """Meta-SGD (Li et al., 2017): a learned step size for each parameter, or for each layer (and step)."""
    rate = Learned(moved(model, adapts, norms), inner_lr, per=per, steps=inner_steps)
    return _learner(
        model, Descend(rate, inner_steps, eval_steps=eval_inner_steps), loss, inner_loss, adapts=adapts, norms=norms
    )


@recipe()
def tnet(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    loss: Loss = "cross_entropy",
    inner_loss: Loss | None = None,
    norms: str = "batch",
) -> Learner:
    """T-net (Lee & Choi, 2018, algorithm 1): each layer is T W; a task moves W and its bias only."""
    cells = with_metric(model)
    rule = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)
    return _learner(cells, rule, loss, inner_loss, adapts=_cells(cells), norms=norms)


def _masked(name: str, doc: str, *, metric: bool, per_weight: bool) -> Callable[..., Learner]:
    """One of the four masked methods: with the metric T or without, a mask per row or per weight."""

    def build(
        model: nn.Module,
        *,
        inner_lr: float = 0.1,
        inner_steps: int = 1,
        eval_inner_steps: int | None = None,
        draw: str = "hard",
        temperature: float = 1.0,
        loss: Loss = "cross_entropy",
        inner_loss: Loss | None = None,
        norms: str = "batch",
    ) -> Learner:
        cells = with_metric(model) if metric else model
        names = _cells(cells)
        params = adaptable(cells, names)
        rate = Masked(Constant(inner_lr), params, draw=draw, temperature=temperature, per_weight=per_weight)
        rule = Descend(rate, inner_steps, eval_steps=eval_inner_steps)
        return _learner(cells, rule, loss, inner_loss, adapts=names, norms=norms)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = doc
    return recipe(exact={"draw": "expected"})(build)


mtnet = _masked(
    "mtnet",
    "MT-net (Lee & Choi, 2018, algorithm 2): a T-net whose rows adapt or not by one draw per task.",
    metric=True,
    per_weight=False,
)
mtnet_full = _masked(
    "mtnet_full", "MT-net-full: one mask logit per weight instead of one per row.", metric=True, per_weight=True
)
mnet = _masked("mnet", "M-net: MT-net's masks without the metric T.", metric=False, per_weight=False)
mnet_full = _masked(
    "mnet_full", "M-net-full: one mask logit per weight, without the metric T.", metric=False, per_weight=True
)


CHARTS = {
    "scalar": "C = c (eq. 3)",
    "tanh": "C = tanh(t) (eq. 4)",
    "diagonal": "C diagonal (eq. 5)",
    "per_layer": "one number per layer (eq. 6)",
    "low_rank": "C = I + U V' (eq. 7, with the identity as its start)",
    "low_rank_literal": "C = U V' (eq. 7 as printed)",
}


def chart(name: str, params: Params, *, start: float = 1.0, rank: int = 1) -> Chart:
    """Wormhole's parametrisations of C by name (eq. 3-7), for the parameters in scope."""
    if name not in CHARTS:
        raise InputError(f"There is no chart {name!r}. {nearest(name, CHARTS)}")
    if name.startswith("low_rank"):
        return LowRank(params, rank, literal=name.endswith("literal"))
    plain: dict[str, Callable[[], Chart]] = {"scalar": Scalar, "diagonal": Diagonal, "per_layer": PerLayer}
    return Tanh(start) if name == "tanh" else plain[name]()


@recipe(still={"chart": "scalar"})
def wormhole(
    model: nn.Module,
    *,
    gain_lr: float = 1.0,
    gain_steps: int = 5,
    gain_first_order: bool = False,
    gain_decay: float = 1.0,
    chart: str = "tanh",
    start: float = 1.0,
    rank: int = 1,
    scope: Selection | None = None,
    reading: str = "recommended",
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    first_order: bool = False,
    loss: Loss = "cross_entropy",
    inner_loss: Loss | None = None,
    adapts: Selection = trainable,
    norms: str = "batch",
) -> Learner:
    """Wormhole MAML (Chang, Gao & Lou, 2022, eq. 2-7): first find the gain C, then descend from C theta.

    `scope` is what C multiplies: by default the last linear layer with its bias. `reading` is "recommended",
    "literal" (eq. 2 as printed: C theta + Delta(theta)) or "coadapt" (C and theta together, at their two rates).
    """
    params = adaptable(model, adapts)
    names = list(adaptable(model, last_linear(model) if scope is None else scope, "scope"))
    one_number = chart in ("scalar", "tanh", "per_layer")  # others can turn a layer, which a norm does see
    blind = feeds_norm(model, dict.fromkeys(map(layer_of, names)), norms) if one_number else []
    if blind and set(blind) == set(map(layer_of, names)):
        raise InputError(
            f"`scope` is {', '.join(blind)}, whose outputs go straight into a norm: the loss does not depend on their "
            "scale, so a gain there can do nothing. Leave `scope` out (the last linear layer) or add other layers."
        )
    C = _chart(chart, {n: params[n] for n in names if n in params} or adaptable(model, names), start=start, rank=rank)
    descend = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps, first_order=first_order)
    gain = Rescale(Descend(Constant(gain_lr, gain_decay), gain_steps, first_order=gain_first_order), C, names)
    rule: Rule
    if reading == "recommended":
        rule = Chain([gain, descend])
    elif reading == "literal":
        rule = Mix([gain, descend], weights=[1.0, 1.0])
    elif reading == "coadapt":
        rates = ByName({"gain:": Constant(gain_lr, gain_decay), "": Constant(inner_lr)})
        rule = Coadapt(Descend(rates, inner_steps, eval_steps=eval_inner_steps, first_order=first_order), C, names)
    else:
        raise InputError(f"`reading` is 'recommended', 'literal' or 'coadapt', not {reading!r}.")
    return _learner(model, rule, loss, inner_loss, adapts=adapts, norms=norms)


@recipe(exact={"enhance": False})
def hypermaml(
    model: nn.Module,
    *,
    width: int = 256,
    hidden_layers: int = 2,
    enhance: bool = True,
    labels: str = "one_hot",
    emission: float = 1.0,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    mixing: str = "update",
    loss: Loss = "cross_entropy",
    inner_loss: Loss | None = None,
    head: str | None = None,
    norms: str = "batch",
) -> Learner:
    """HyperMAML (Przewiezlikowski et al., 2022): a hypernetwork emits the head's update from the support set.

    `emission` is eq. 7's lambda, the share of the emitted update beside `inner_steps` gradient steps; it is the buffer
    `rule.weights` = [lambda, 1 - lambda], which a schedule moves. `mixing` is "update" (eq. 7) or "loss" (appendix B).
    """
    if mixing not in ("update", "loss"):
        raise InputError(f"`mixing` is 'update' (eq. 7) or 'loss' (appendix B), not {mixing!r}.")
    body, last = split_head(model, head)
    network = ClassHypernet(
        adaptable(last, trainable), width=width, hidden_layers=hidden_layers, enhance=enhance, labels=labels
    )
    mix = Mix if mixing == "update" else MixLosses
    rule = mix([Emit(network), Descend(Constant(inner_lr), inner_steps)], weights=[emission, 1 - emission])
    return _learner(last, rule, loss, inner_loss, body=body, norms=norms)


_chart = chart  # `wormhole` has an option of that name


def _learner(model: nn.Module, rule: Rule, loss: Loss, inner_loss: Loss | None, **options: Any) -> Learner:
    inner = None if inner_loss is None else criterion(inner_loss)
    return RuleLearner(model, rule, criterion(loss), inner_criterion=inner, **options)


class SharedLayers(UserWarning):
    """Layers that T and masks do not act on."""


def _cells(model: nn.Module) -> Sequence[str]:
    names = cell_params(model)
    if not names:
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
        raise InputError(f"Masks act on Linear and Conv2d layers that train; this model has none, only: {kinds}.")
    others = {
        layer_of(name)
        for name, p in model.named_parameters()
        if p.requires_grad and p.ndim > 1 and name not in names and not name.endswith("metric")
    }
    if others:
        warnings.warn(
            f"T and masks act on plain Linear and Conv2d layers; all tasks will share {', '.join(sorted(others))}.",
            SharedLayers,
            stacklevel=4,
        )
    return names
