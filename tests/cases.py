"""The table for the laws: every method, and some combinations that are in no paper, on small nets.

The table reads `RECIPES`, so a new recipe is in it at once. `EXACT` and `STILL` hold what differs between methods.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quickstudy import (
    RECIPES,
    Chain,
    ClassHypernet,
    Constant,
    Descend,
    Emit,
    Examples,
    Learner,
    Masked,
    Mix,
    PerStep,
    Rescale,
    RuleLearner,
    Scalar,
    Tanh,
    Task,
    with_metric,
)
from quickstudy.methods.wormhole import CHARTS
from quickstudy.models.cells import cell_param_names
from quickstudy.models.nets import conv_net, mlp
from quickstudy.models.split import split_head
from quickstudy.rules.criteria import cross_entropy
from quickstudy.rules.params import adaptable

WAYS, SHOTS, QUERIES, TASKS = 3, 2, 3, 3


class Tied(nn.Module):
    """A user's module: two layers share a weight, one layer is frozen, and the forward is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.norm = nn.LayerNorm(4)
        self.fc = nn.Linear(4, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.fc(self.norm(h + self.frozen(torch.tanh(self.second(h)))))


def layer_normed() -> nn.Module:
    """Linear layers with LayerNorm between."""
    parts = [("a", nn.Linear(4, 6)), ("norm", nn.LayerNorm(6)), ("act", nn.Tanh()), ("head", nn.Linear(6, WAYS))]
    return nn.Sequential(OrderedDict(parts))


@dataclass(frozen=True)
class Net:
    """A model and the shape of its inputs, or what draws them where they are several tensors: see `tasks`."""

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[int, ...] = ()
    draw: Callable[[Tensor, torch.Generator], Any] | None = None


NETS = [
    Net("mlp", lambda: mlp(4, WAYS, hidden=(5,), std=0.5), (4,)),
    Net("conv_batch_norm", lambda: conv_net((1, 4, 4), WAYS, filters=3, blocks=2), (1, 4, 4)),
    Net("layer_norm", layer_normed, (4,)),
    Net("conv_group_norm", lambda: conv_net((1, 4, 4), WAYS, filters=3, blocks=2, norm="group"), (1, 4, 4)),
    Net("tied_and_frozen", Tied, (4,)),
]


@dataclass(frozen=True)
class Method:
    """How a learner is built, and the options under which some laws hold.

    Args:
        name: In the table of tests.
        build: The method.
        exact: Options under which the outer gradient is the derivative of the outer loss; None where a stopped gradient
            is the method (it is then compared with its closed form).
        still: Options under which zeroing the rule's own numbers leaves the parameters as they were; None: none does.
    """

    name: str
    build: Callable[..., Learner]
    exact: dict[str, Any] | None = field(default_factory=dict)
    still: dict[str, Any] | None = field(default_factory=dict)


EXACT: dict[str, dict[str, Any] | None] = {
    "fomaml": None,
    "reptile": None,
    "mtnet": {"draw": "expected"},
    "mtnet_full": {"draw": "expected"},
    "mnet": {"draw": "expected"},
    "mnet_full": {"draw": "expected"},
    "hypermaml": {"enhance": False},
    "set_emit": {"enhance": False},
    "emit_maml": {"enhance": False},
    "emit_tnet": {"enhance": False},
    "emit_mtnet": {"enhance": False, "draw": "expected"},
    "emit_ridge": {"enhance": False},
    "amortised_gain": {"enhance": False},
    "gated_emission": {"enhance": False, "draw": "expected"},
    "sampled_sign": {"draw": "expected"},
    "warpgrad": {"inner_steps": 1},
    "bayes_hypermaml": {"enhance": False},
}
STILL: dict[str, dict[str, Any] | None] = {
    "wormhole": {"chart": "scalar"},
    "amortised_gain": {"chart": "scalar"},
    "sampled_sign": {"start": 100.0},
    "r2d2": None,  # alpha 0 fits outputs of 0; a strong ridge stays at its prior
    "bayes_hypermaml": {"log_variance": -float("inf")},
}
"""What the laws need to know about single recipes: see `Method`. The others obey them without options."""


def _method(name: str, label: str = "", **options: Any) -> Method:
    """A recipe, or a variant of it that has a label."""

    def build(model: nn.Module, **more: Any) -> Learner:
        return RECIPES[name](model, **options | more)

    return Method(f"{name}_{label}" if label else name, build, EXACT.get(name, {}), STILL.get(name, {}))


def masked_under_gain(model: nn.Module, draw: str = "hard", gain: str = "tanh") -> Learner:
    """MT-net's cells and masks under Wormhole's gain."""
    cells = with_metric(model)
    names = cell_param_names(cells)
    params = adaptable(cells, names)
    found = Rescale(Descend(Constant(0.5), 2), Tanh() if gain == "tanh" else Scalar(), names[-2:])
    rule = Chain([found, Descend(Masked(Constant(0.2), params, draw=draw), 2)])
    return RuleLearner(cells, rule, cross_entropy, adapts=names)


def emission_then_masked(model: nn.Module, draw: str = "hard", enhance: bool = True) -> Learner:
    """HyperMAML's emission followed by MT-net's masked descent on a T W cell."""
    body, head = split_head(model)
    cell = with_metric(head)
    names = cell_param_names(cell)
    params = adaptable(cell, names)
    emit = Emit(ClassHypernet(params, width=8, hidden_layers=1, enhance=enhance))
    rule = Chain([emit, Descend(Masked(Constant(0.2), params, draw=draw), 1)])
    return RuleLearner(cell, rule, cross_entropy, body=body, adapts=names)


def emission_beside_gain(model: nn.Module, enhance: bool = True) -> Learner:
    """0.3 of an emission, 0.3 of a gain, and 0.4 of the parameters as they were."""
    body, head = split_head(model)
    params = adaptable(head, "*")
    emit = Emit(ClassHypernet(params, width=8, hidden_layers=1, enhance=enhance))
    gain = Rescale(Descend(Constant(0.5), 2), Scalar(), list(params))
    return RuleLearner(head, Mix([emit, gain], weights=[0.3, 0.3]), cross_entropy, body=body)


def biases_per_step(model: nn.Module, steps: int = 3) -> Learner:
    """Gradient steps on the weights, with a bias of every layer for each step."""
    params = adaptable(model, "*")
    biases = {name: p for name, p in params.items() if name.endswith("bias")}
    return RuleLearner(model, PerStep(Descend(Constant(0.2), steps), biases), cross_entropy)


METHODS = [
    *map(_method, RECIPES),
    *(_method("wormhole", chart, chart=chart) for chart in CHARTS if chart != "tanh"),
    _method("wormhole", "literal", reading="literal"),
    _method("wormhole", "coadapted", reading="coadapt"),
    _method("wormhole", "algorithm_1", reading="algorithm_1", inner_steps=2),
    replace(
        _method("wormhole", "sharpened", sharpen=3.0, gain_steps=3), still={"chart": "scalar", "sharpen": 1.0}
    ),  # a tanh is never the identity
    _method("wormhole", "annealed", gain_decay=0.5),
    _method("meta_sgd", "layer_step", per="layer_step", inner_steps=2),
    _method("mtnet", "soft", draw="soft"),
    _method("hypermaml", "eq7", emission=0.5, labels="index", hidden_layers=3),
    _method("hypermaml", "appendix_b", emission=0.5, mixing="loss"),
    _method("set_emit", "set", summary="set"),
    _method("emit_mtnet", "set", summary="set"),
    _method("emit_ridge", "set", summary="set"),
    _method("gated_emission", "set", summary="set"),
    _method("amortised_gain", "diagonal", chart="diagonal"),
    _method("r2d2", "prior", prior="learned"),
    _method("bayes_hypermaml", "draws", draws=3),
    Method("masked_under_gain", masked_under_gain, {"draw": "expected"}, {"gain": "scalar"}),
    Method("emission_then_masked", emission_then_masked, {"draw": "expected", "enhance": False}, {}),
    Method("biases_per_step", biases_per_step, {}, {"steps": 1}),
    Method("emission_beside_gain", emission_beside_gain, {"enhance": False}, {}),
]


MLP, CONV_BATCH_NORM = NETS[:2]
ONE_OF_EACH_KIND = ("maml", "mtnet", "wormhole", "hypermaml")
"""Methods that use a net in different ways: steps on the whole model, masked cells, a gain on the head, and an emission
behind a body. Every other method uses it in one of these ways."""


def each_method_and_net(every_method_on: Net, of: Sequence[Method] = METHODS) -> Any:
    """A law over every method and every net; in the quick suite, over the pairs that run different code.

    These are all methods on one net, and one method of each kind on all nets. A rule works on named tensors and does
    not know the net, and a net is called by the same function whatever the rule is. So the other pairs run no further
    line of code; they are in the slow suite.

    Args:
        every_method_on: The net that all methods run on; its layers are those that matter most for the law.
        of: The methods.
    """
    return pytest.mark.parametrize(
        ("method", "net"),
        [
            pytest.param(
                method,
                net,
                id=f"{method.name}-{net.name}",
                marks=() if net is every_method_on or method.name in ONE_OF_EACH_KIND else pytest.mark.slow,
            )
            for method in of
            for net in NETS
        ],
    )


each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def learner(method: Method, net: Net, **options: Any) -> Learner:
    """A learner with seeded initial values."""
    torch.manual_seed(0)
    return method.build(net.build(), **options)


def tasks(net: Net, *, count: int = TASKS, seed: int = 1, shots: int = SHOTS, queries: int = QUERIES) -> Task:
    """A batch of random classification tasks."""
    draw = torch.Generator().manual_seed(seed)

    def examples(each: int) -> Examples:
        y = torch.arange(WAYS).repeat(each).expand(count, -1)
        if net.draw is not None:
            return Examples(net.draw(y, draw), y)
        x = torch.randn(count, WAYS * each, *net.inputs, generator=draw) + 0.3 * y.reshape(
            count, -1, *[1] * len(net.inputs)
        )
        return Examples(x, y)

    return Task(examples(shots), examples(queries), torch.arange(10, 10 + count), {})
