"""MAML in JAX, as its users write it: the loss of a task is a pure function; `vmap`, `grad` and `jit` do the rest."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.bench.implementations import TINY_LR, Implementation
from quickstudy.errors import InputError


class Jax(Implementation):
    """The whole training step, with Adam, is one compiled function."""

    methods = ("maml",)

    def prepare(self) -> None:
        if find_spec("jax") is None:
            raise InputError("jax is not installed")
        import jax
        import jax.numpy as jnp

        double = next(self.learner.parameters()).dtype == torch.float64
        jax.config.update("jax_enable_x64", double)
        named = {n.removeprefix("head."): p.detach().numpy() for n, p in self.learner.meta_params().items()}
        self.weights: dict[str, Any] = {n: jnp.asarray(p) for n, p in named.items()}
        self.batch = tuple(jnp.asarray(a.numpy()) for half in (self.tasks.support, self.tasks.query) for a in half)
        load, steps = self.case.load, self.case.steps
        net = _conv4 if load.ways else _mlp

        def loss(w: Any, x: Any, y: Any) -> Any:
            out = net(w, x)
            if not load.ways:
                return jnp.mean((out - y) ** 2)
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(out), y[:, None], axis=1))

        def task(w: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
            for _ in range(steps):
                grads = jax.grad(loss)(w, xs, ys)
                w = {n: w[n] - load.inner_lr * grads[n] for n in w}
            return loss(w, xq, yq)

        def losses(w: Any, batch: Any) -> Any:
            return jax.vmap(task, in_axes=(None, 0, 0, 0, 0))(w, *batch)

        def mean(w: Any, batch: Any) -> Any:
            return jnp.mean(losses(w, batch))

        def adam(w: Any, state: Any, batch: Any) -> Any:
            grads = jax.grad(mean)(w, batch)
            t = state["t"] + 1
            m = {n: 0.9 * state["m"][n] + 0.1 * g for n, g in grads.items()}
            v = {n: 0.999 * state["v"][n] + 0.001 * g * g for n, g in grads.items()}
            scale = jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            w = {n: w[n] - TINY_LR * scale * m[n] / (jnp.sqrt(v[n]) + 1e-8) for n in w}
            return w, {"t": t, "m": m, "v": v}

        zeros = {n: jnp.zeros_like(p) for n, p in self.weights.items()}
        self.state: Any = {"t": 0.0, "m": zeros, "v": zeros}
        self.losses, self.gradient, self.adam = jax.jit(losses), jax.jit(jax.grad(mean)), jax.jit(adam)
        self.wait = jax.block_until_ready

    def gradients(self) -> list[Tensor]:
        grads = self.gradient(self.weights, self.batch)
        return [torch.from_numpy(np.array(grads[name])) for name in self.weights]

    def evaluate(self) -> Tensor:
        return torch.from_numpy(np.array(self.losses(self.weights, self.batch)))

    def train(self) -> None:
        self.weights, self.state = self.wait(self.adam(self.weights, self.state, self.batch))


def _mlp(w: Any, x: Any) -> Any:
    import jax

    x = jax.nn.relu(x @ w["layer0.weight"].T + w["layer0.bias"])
    x = jax.nn.relu(x @ w["layer1.weight"].T + w["layer1.bias"])
    return x @ w["head.weight"].T + w["head.bias"]


def _conv4(w: Any, x: Any) -> Any:
    import jax
    import jax.numpy as jnp
    from jax import lax

    def per_channel(v: Any) -> Any:
        return v[None, :, None, None]

    for i in range(4):
        own = {name: w[f"block{i}.{name}"] for name in ("conv.weight", "conv.bias", "norm.weight", "norm.bias")}
        x = lax.conv_general_dilated(
            x, own["conv.weight"], (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NCHW", "OIHW", "NCHW")
        ) + per_channel(own["conv.bias"])
        centred = x - x.mean((0, 2, 3), keepdims=True)
        x = centred / jnp.sqrt((centred**2).mean((0, 2, 3), keepdims=True) + 1e-5)
        x = jax.nn.relu(x * per_channel(own["norm.weight"]) + per_channel(own["norm.bias"]))
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return x.reshape(len(x), -1) @ w["head.weight"].T + w["head.bias"]
