"""The same methods by hand: `torch.autograd.grad` for one task, as one writes it without a library.

Every speed-up is measured against this. It uses none of quickstudy's rules, cells or engine, so it also checks them:
`agreement` compares the two. Parameters are dictionaries of leaf tensors by short names; networks are functions of
them. A method is a function that adapts to the support set of one task and returns how to predict then.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.types import Examples, Params

PlainNet = Callable[[Params, Tensor], Tensor]
PlainLoss = Callable[[Tensor, Tensor], Tensor]
Predict = Callable[[Tensor], Tensor]
"""A model after adaptation: from inputs to outputs."""
UniformDraws = Mapping[str, Tensor]

GAIN_STEPS, GAIN_LR, GAIN_START = 5, 1.0, 1.0


def plain_mlp(w: Params, x: Tensor) -> Tensor:
    """1-40-40-1 with ReLU."""
    x = F.relu(F.linear(x, w["layer0.weight"], w["layer0.bias"]))
    x = F.relu(F.linear(x, w["layer1.weight"], w["layer1.bias"]))
    return F.linear(x, w["head.weight"], w["head.bias"])


def plain_conv4_features(w: Params, x: Tensor) -> Tensor:
    """Four blocks of 3x3 convolution, batch norm by the batch's statistics, ReLU and 2x2 max-pooling."""
    for i in range(4):
        x = F.conv2d(x, w[f"block{i}.conv.weight"], w[f"block{i}.conv.bias"], padding=1)
        x = F.batch_norm(x, None, None, w[f"block{i}.norm.weight"], w[f"block{i}.norm.bias"], training=True)
        x = F.max_pool2d(F.relu(x), 2)
    return x.flatten(1)


def plain_conv4(w: Params, x: Tensor) -> Tensor:
    """Conv4 with its linear head."""
    return F.linear(plain_conv4_features(w, x), w["head.weight"], w["head.bias"])


@dataclass(frozen=True)
class Plain:
    """What a method by hand adapts."""

    leaves: Params  # every parameter that meta-training changes, by short name
    net: PlainNet
    criterion: PlainLoss  # of the support set
    lr: float
    steps: int

    def loss(self, support: Examples) -> Callable[[Params], Tensor]:
        """The support loss as a function of the parameters."""
        return lambda w: self.criterion(self.net(w, support.x), support.y)


def plain_descent(
    loss: Callable[[Params], Tensor], w: Params, rates: Mapping[str, float | Tensor], steps: int, create_graph: bool
) -> Params:
    """Gradient steps on the parameters that have a rate."""
    for _ in range(steps):
        grads = torch.autograd.grad(loss(w), [w[n] for n in rates], create_graph=create_graph)
        w = w | {n: w[n] - rate * g for (n, rate), g in zip(rates.items(), grads, strict=True)}
    return w


def plain_maml(one: Plain, support: Examples, u: UniformDraws, create_graph: bool) -> Predict:
    """Finn, Abbeel & Levine, 2017: gradient steps on everything."""
    del u
    w = plain_descent(one.loss(support), one.leaves, dict.fromkeys(one.leaves, one.lr), one.steps, create_graph)
    return lambda x: one.net(w, x)


def plain_mtnet(one: Plain, support: Examples, u: UniformDraws, create_graph: bool) -> Predict:
    """Lee & Choi, 2018: layers T W, and a mask over the rows of W for each task."""
    layers = [name.removesuffix(".metric") for name in one.leaves if name.endswith(".metric")]
    rates: dict[str, float | Tensor] = {}
    for layer in layers:
        soft = torch.sigmoid(one.leaves[f"{layer}.logit"] + torch.logit(u[f"{layer}.logit"]))
        mask = (soft > 0.5).to(soft.dtype) + soft - soft.detach()  # hard forward, soft backward
        for name in (f"{layer}.weight", f"{layer}.bias"):
            rates[name] = one.lr * mask.view(-1, *[1] * (one.leaves[name].ndim - 1))

    def net(w: Params, x: Tensor) -> Tensor:
        """With T W and T b in place of W and b."""
        moved = dict(w)
        for layer in layers:
            T, weight = w[f"{layer}.metric"], w[f"{layer}.weight"]
            moved[f"{layer}.weight"] = (T @ weight.flatten(1)).view_as(weight)
            moved[f"{layer}.bias"] = T @ w[f"{layer}.bias"]
        return one.net(moved, x)

    def loss(w: Params) -> Tensor:
        return one.criterion(net(w, support.x), support.y)

    w = plain_descent(loss, one.leaves, rates, one.steps, create_graph)
    return lambda x: net(w, x)


def plain_wormhole(one: Plain, support: Examples, u: UniformDraws, create_graph: bool) -> Predict:
    """Chang, Gao & Lou, 2022: first a gain tanh(t) on the last layer, then gradient steps from there."""
    del u
    head = {n: p for n, p in one.leaves.items() if n.startswith("head.")}
    loss = one.loss(support)

    def scale(found: Params) -> Params:
        return one.leaves | {n: torch.tanh(found["t"]) * p for n, p in head.items()}

    t = {"t": head["head.weight"].new_full((), GAIN_START).requires_grad_()}
    t = plain_descent(lambda found: loss(scale(found)), t, {"t": GAIN_LR}, GAIN_STEPS, create_graph)
    # Copies: t depends on the leaves, and a step's gradient must not run through how t was found.
    start = {n: p.clone() for n, p in scale(t).items()}
    w = plain_descent(loss, start, dict.fromkeys(start, one.lr), one.steps, create_graph)
    return lambda x: one.net(w, x)


def plain_hypermaml(one: Plain, support: Examples, u: UniformDraws, create_graph: bool) -> Predict:
    """Przewiezlikowski et al., 2022: a network reads the support features and emits the head's update."""
    del u
    w = one.leaves
    with torch.set_grad_enabled(create_graph):
        features = plain_conv4_features(w, support.x)
        guess = F.linear(features, w["head.weight"], w["head.bias"]).softmax(-1).detach()
        ways = guess.shape[-1]
        rows = torch.cat([features, guess, F.one_hot(support.y, ways).to(features.dtype)], dim=-1)
        h = torch.stack([rows[support.y == c].mean(0) for c in range(ways)])
        for i in (0, 2):
            h = F.relu(F.linear(h, w[f"hyper.{i}.weight"], w[f"hyper.{i}.bias"]))
        delta = F.linear(h, w["hyper.4.weight"], w["hyper.4.bias"])
        weight, bias = w["head.weight"] + delta[:, :-1], w["head.bias"] + delta[:, -1]
    return lambda x: F.linear(plain_conv4_features(w, x), weight, bias)


PLAIN_METHODS: dict[str, Callable[[Plain, Examples, UniformDraws, bool], Predict]] = {
    "maml": plain_maml,
    "mtnet": plain_mtnet,
    "wormhole": plain_wormhole,
    "hypermaml": plain_hypermaml,
}
