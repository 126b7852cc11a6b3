"""The same methods by hand: `torch.autograd.grad` in a Python loop over tasks, with a backward pass for each.

This is what one writes without a library; every speed-up is measured against it. It uses none of quickstudy's rules,
cells or engine, so it also checks them: `agreement` compares the two. Parameters are dictionaries of leaf tensors by
short names; networks are functions of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.types import Examples, Params, pick

PlainNet = Callable[[Params, Tensor], Tensor]
PlainLoss = Callable[[Tensor, Tensor], Tensor]
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


def plain_descent(
    loss: Callable[[Params], Tensor], w: Params, names: Iterable[str], lr: float, steps: int, create_graph: bool
) -> Params:
    """Gradient steps on the parameters of these names."""
    names = list(names)
    for _ in range(steps):
        grads = torch.autograd.grad(loss(w), [w[n] for n in names], create_graph=create_graph)
        w = w | {n: w[n] - lr * g for n, g in zip(names, grads, strict=True)}
    return w


class Plain:
    """A method by hand.

    Args:
        leaves: Every parameter that meta-training changes, by short name.
        net: The network.
        loss: The inner and the outer loss.
        lr: The inner step size.
        steps: Inner steps.
    """

    def __init__(self, leaves: Params, net: PlainNet, loss: PlainLoss, lr: float, steps: int) -> None:
        self.leaves, self.net, self.loss, self.lr, self.steps = leaves, net, loss, lr, steps

    def uniform(self) -> UniformDraws:
        """The random draws of one task; none unless a method overrides this."""
        return {}

    def output(self, support: Examples, x: Tensor, u: UniformDraws, create_graph: bool) -> Tensor:
        """Adapt to the support set of one task, and predict for `x`."""
        raise NotImplementedError

    def gradients(
        self, support: Examples, query: Examples, noise: Sequence[UniformDraws] | None = None
    ) -> list[Tensor]:
        """The gradient of the mean query loss over a batch of tasks."""
        for leaf in self.leaves.values():
            leaf.grad = None
        for loss in self._query_losses(support, query, noise, create_graph=True):
            (loss / len(support.x)).backward()  # type: ignore[no-untyped-call]
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.leaves.values()]

    def evaluate(self, support: Examples, query: Examples, noise: Sequence[UniformDraws] | None = None) -> Tensor:
        """The query loss of each task."""
        return torch.stack([loss.detach() for loss in self._query_losses(support, query, noise, create_graph=False)])

    def _query_losses(
        self, support: Examples, query: Examples, noise: Sequence[UniformDraws] | None, create_graph: bool
    ) -> Iterator[Tensor]:
        for i in range(len(support.x)):
            u = self.uniform() if noise is None else noise[i]
            yield self.loss(self.output(pick(support, i), query.x[i], u, create_graph), query.y[i])


class Maml(Plain):
    """Finn, Abbeel & Levine, 2017: gradient steps on everything."""

    def output(self, support: Examples, x: Tensor, u: UniformDraws, create_graph: bool) -> Tensor:
        del u

        def loss(w: Params) -> Tensor:
            return self.loss(self.net(w, support.x), support.y)

        w = plain_descent(loss, self.leaves, self.leaves, self.lr, self.steps, create_graph)
        with torch.set_grad_enabled(create_graph):
            return self.net(w, x)


class MTNet(Plain):
    """Lee & Choi, 2018: layers T W, and a mask over the rows of W for each task."""

    def uniform(self) -> UniformDraws:
        return {n: torch.rand_like(p) for n, p in self.leaves.items() if n.endswith(".logit")}

    def mask(self, layer: str, u: UniformDraws) -> Tensor:
        """Hard forward, soft backward."""
        soft = torch.sigmoid(self.leaves[f"{layer}.logit"] + torch.logit(u[f"{layer}.logit"]))
        return (soft > 0.5).to(soft.dtype) + soft - soft.detach()

    def transformed(self, w: Params) -> Params:
        """T W and T b in place of W and b."""
        moved = dict(w)
        for name in w:
            if name.endswith(".metric"):
                layer = name.removesuffix(".metric")
                weight = w[f"{layer}.weight"]
                moved[f"{layer}.weight"] = (w[name] @ weight.flatten(1)).view_as(weight)
                moved[f"{layer}.bias"] = w[name] @ w[f"{layer}.bias"]
        return moved

    def output(self, support: Examples, x: Tensor, u: UniformDraws, create_graph: bool) -> Tensor:
        w = dict(self.leaves)
        layers = [n.removesuffix(".metric") for n in w if n.endswith(".metric")]
        names = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
        masks = {layer: self.mask(layer, u) for layer in layers}
        for _ in range(self.steps):
            loss = self.loss(self.net(self.transformed(w), support.x), support.y)
            grads = torch.autograd.grad(loss, [w[n] for n in names], create_graph=create_graph)
            for n, g in zip(names, grads, strict=True):
                m = masks[n.rpartition(".")[0]].view(-1, *[1] * (g.ndim - 1))
                w[n] = w[n] - self.lr * m * g
        with torch.set_grad_enabled(create_graph):
            return self.net(self.transformed(w), x)


class Wormhole(Plain):
    """Chang, Gao & Lou, 2022: first a gain tanh(t) on the last layer, then gradient steps from there."""

    def output(self, support: Examples, x: Tensor, u: UniformDraws, create_graph: bool) -> Tensor:
        del u
        head = {n: p for n, p in self.leaves.items() if n.startswith("head.")}

        def loss(w: Params) -> Tensor:
            return self.loss(self.net(w, support.x), support.y)

        def scaled(t: Tensor) -> Params:
            return self.leaves | {n: torch.tanh(t) * p for n, p in head.items()}

        t = head["head.weight"].new_full((), GAIN_START).requires_grad_()
        for _ in range(GAIN_STEPS):
            (slope,) = torch.autograd.grad(loss(scaled(t)), t, create_graph=create_graph)
            t = t - GAIN_LR * slope
        # Copies: t depends on the leaves, and a step's gradient must not run through how t was found.
        start = {n: p.clone() for n, p in scaled(t).items()}
        w = plain_descent(loss, start, start, self.lr, self.steps, create_graph)
        with torch.set_grad_enabled(create_graph):
            return self.net(w, x)


class HyperMaml(Plain):
    """Przewiezlikowski et al., 2022: a network reads the support features and emits the head's update."""

    def output(self, support: Examples, x: Tensor, u: UniformDraws, create_graph: bool) -> Tensor:
        del u
        w = self.leaves
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
            return F.linear(plain_conv4_features(w, x), weight, bias)


PLAIN_METHODS: dict[str, type[Plain]] = {"maml": Maml, "mtnet": MTNet, "wormhole": Wormhole, "hypermaml": HyperMaml}
