"""Whether a model's meta-gradient is right under `vmap`: the functions behind `learner.check(tasks)`.

The second derivative of a torch kernel can be wrong without an error: under `vmap` (see `norms`), or everywhere (the
fused kernel of weight norm). A user's model can contain a kernel that this package does not know. So the vectorised
meta-gradient is compared with the looped one in float64, where correct implementations agree up to rounding. Then every
module is tried alone, also against central differences, to name the one that is wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad

from quickstudy.engine.twin import Twins
from quickstudy.rules.torch_private import tree_leaves
from quickstudy.types import Params

TOLERANCE = 1e-8
"""Relative. Rounding gives 1e-15 to 1e-12 in float64; the wrong kernels give 1e-4 to 3e-2."""


SLOPE_TOLERANCE = 1e-4
"""Relative, between a gradient and a central difference in float64: truncation and rounding stay below 1e-6."""


@dataclass(frozen=True)
class GradientCheck:
    """The result of `learner.check`.

    Args:
        errors: The relative error of the vectorised meta-gradient against the looped one, by parameter; empty where the
            looped one is not finite, so that there is nothing to compare with.
        modules: The smallest modules whose second-order gradient is wrong when they are tried alone: "under vmap", or
            "everywhere" when the plain gradient too differs from central differences (a wrong double backward).
        refused: Why `vmap` refuses the model (its tasks then run on the loop); empty if it does not.
    """

    errors: Mapping[str, float]
    modules: Mapping[str, str]
    refused: str = ""

    @property
    def vmap_ok(self) -> bool:
        """Whether the vectorised meta-gradient equals the looped one, or `vmap` refuses the model."""
        return all(error < TOLERANCE for error in self.errors.values())

    @property
    def ok(self) -> bool:
        """Whether no error was found."""
        return self.vmap_ok and not self.modules

    def __str__(self) -> str:
        worst = max(self.errors, key=lambda name: self.errors[name], default="")
        sentences = []
        if self.refused:
            sentences.append(f"vmap refuses this model, so its tasks run one after the other. Reason: {self.refused}")
        elif not self.errors:
            sentences.append("The meta-gradient of these tasks is not finite, so vmap and the loop cannot be compared.")
        elif self.vmap_ok:
            sentences.append(
                f"vmap agrees with the loop: the largest relative error is {self.errors[worst]:.1e} ({worst})."
            )
        else:
            sentences.append(
                f"vmap gives a wrong meta-gradient: the relative error is {self.errors[worst]:.1e} for {worst}."
            )
        sentences += [f"The second-order gradient of {name} is wrong {where}." for name, where in self.modules.items()]
        if not self.vmap_ok:
            sentences.append('Use engine=Engine("loop"), or replace the module.')
        if "everywhere" in self.modules.values():
            sentences.append("Where it is wrong everywhere, replace the module or use a first-order method.")
        return " ".join(sentences)


def relative_errors(
    names: Sequence[str], given: Sequence[Tensor | None], right: Sequence[Tensor | None]
) -> dict[str, float]:
    """The norm of the difference over the largest norm of a right gradient, by parameter.

    Empty where a right gradient is not finite: there is no scale then.
    """
    if not all(r.isfinite().all() for r in right if r is not None):
        return {}
    scale = max((float(r.norm()) for r in right if r is not None), default=0.0) or 1.0
    errors = {}
    for name, g, r in zip(names, given, right, strict=True):
        gap = g if r is None else r if g is None else g - r  # a missing gradient is zero
        errors[name] = 0.0 if gap is None else float(gap.norm()) / scale
    return errors


def find_suspects(model: nn.Module, run: Callable[[], object]) -> dict[str, str]:
    """The smallest modules whose second-order gradient is wrong, and where: "under vmap" or "everywhere".

    Args:
        model: The model whose modules are tried.
        run: Calls the model once on an example, so that the input of every module is recorded.
    """
    seen: dict[str, Tensor] = {}

    def remember(name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def hook(module: nn.Module, args: tuple[object, ...]) -> None:
            del module
            if args and isinstance(args[0], Tensor):
                seen[name] = args[0].detach()

        return hook

    handles = [m.register_forward_pre_hook(remember(name)) for name, m in model.named_modules()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    tried = {name: _check_module(module, seen[name]) for name, module in model.named_modules() if name in seen}
    wrong = {name: where for name, where in tried.items() if where}
    return {name: w for name, w in wrong.items() if not any(other.startswith(f"{name}.") for other in wrong)}


def _check_module(module: nn.Module, x: Tensor) -> str:
    """Where one module is wrong on one of its inputs: "under vmap", "everywhere", or "" for nowhere."""
    own = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    twins = Twins(module)
    draw = torch.Generator().manual_seed(0)

    def noise(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(x.device)

    floating = x.is_floating_point()
    xs = torch.stack([x + 0.1 * noise(x.shape) if floating else x for _ in range(3)]).detach()
    leaves = [*own.values(), *([xs.requires_grad_()] if floating else [])]
    weights: list[Tensor] = []

    def value(params: Params, x: Tensor) -> Tensor:
        out = next(leaf for leaf in tree_leaves(twins.call(params, x)) if isinstance(leaf, Tensor))
        if not weights:
            weights.append(noise(out.shape))
        total: Tensor = (out.tanh() * weights[0]).sum()  # not a square: after a norm, the sum of squares is a constant
        return total

    def one(params: Params, x: Tensor) -> Tensor:
        """MAML in one line: the value after a gradient step on parameters and input."""
        if not floating:
            moved = {n: params[n] - 0.1 * g for n, g in grad(value)(params, x).items()}
            return value(moved, x)
        g_params, g_x = grad(value, argnums=(0, 1))(params, x)
        return value({n: params[n] - 0.1 * g for n, g in g_params.items()}, x - 0.1 * g_x)

    def on_the_tape(params: Params, x: Tensor) -> Tensor:
        """The same by the tape, which also takes functions that `torch.func` refuses."""
        inputs = [*params.values(), *([x] if floating else [])]
        found = torch.autograd.grad(value(params, x), inputs, create_graph=True, allow_unused=True)
        moved = [p if g is None else p - 0.1 * g for p, g in zip(inputs, found, strict=True)]
        return value(dict(zip(params, moved, strict=False)), moved[-1] if floating else x)

    def looped() -> Tensor:
        return torch.stack([on_the_tape(own, x_i) for x_i in xs]).sum()

    if not leaves:
        return ""
    try:
        total = looped()
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return ""  # a module that cannot run alone is not wrong without an error
    if not total.requires_grad:
        return ""
    try:
        # Not `grad`: it skips a part that leads to none of the leaves, and a function that can be differentiated only
        # once is such a part. `backward` raises its error.
        torch.autograd.backward(total)
    except (RuntimeError, NotImplementedError):
        return "everywhere"
    plain = [leaf.grad for leaf in leaves]
    if _differs_from_slope(looped, leaves, plain, [noise(leaf.shape) for leaf in leaves]):
        return "everywhere"
    try:
        together = torch.vmap(one, in_dims=(None, 0))(own, xs).sum()
        given = torch.autograd.grad(together, leaves, allow_unused=True)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return ""  # what vmap refuses runs on the loop
    errors = relative_errors([str(i) for i in range(len(leaves))], given, plain)
    return "under vmap" if any(error >= TOLERANCE for error in errors.values()) else ""


def _differs_from_slope(
    function: Callable[[], Tensor], leaves: Sequence[Tensor], grads: Sequence[Tensor | None], way: Sequence[Tensor]
) -> bool:
    """Whether the gradient along a direction differs from the central difference at every step size.

    There are several step sizes because a large step may cross a kink of a ReLU or a pooling, where the inner gradient
    jumps; the more units a module has, the smaller the step must be.

    Args:
        function: The value.
        leaves: The tensors that it depends on; they are moved and moved back.
        grads: Its gradients for `leaves`.
        way: The direction, one tensor for each of `leaves`.
    """
    slope = sum(float((g * w).sum()) for g, w in zip(grads, way, strict=True) if g is not None)
    scale = sum(float((g * w).abs().sum()) for g, w in zip(grads, way, strict=True) if g is not None) + 1e-6
    for step in (1e-5, 1e-7, 1e-9):
        ends = []
        for sign in (1.0, -2.0, 1.0):
            with torch.no_grad():
                for leaf, w in zip(leaves, way, strict=True):
                    leaf.add_(w, alpha=sign * step)
            with torch.enable_grad():  # the inner gradient is part of the function
                ends.append(float(function().detach()))
        if abs((ends[0] - ends[1]) / (2 * step) - slope) < SLOPE_TOLERANCE * scale:
            return False
    return True
