"""Does a model's meta-gradient survive `vmap`? The pieces behind `learner.check(tasks)`.

A native kernel can be silently wrong in second order under `vmap` (see `norms`), and a user's model can hold one that
no pass knows. So the vectorised meta-gradient is compared with the looped one in float64, where correct
implementations agree to rounding, and the modules are then tried one by one to name the one at fault.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.utils._pytree import tree_leaves

from quickstudy.types import Params

TOLERANCE = 1e-8
"""Relative. Rounding gives 1e-15 to 1e-12 in float64; the wrong kernels give 1e-4 to 3e-2."""


@dataclass(frozen=True)
class Check:
    """What `learner.check` found.

    Args:
        errors: Relative error of the vectorised meta-gradient, by parameter.
        modules: The smallest modules that disagree when tried on their own.
        refused: Why `vmap` refuses the model (its tasks then run on the loop); empty when it does not.
    """

    errors: Mapping[str, float]
    modules: Sequence[str]
    refused: str = ""

    @property
    def ok(self) -> bool:
        """Whether every parameter's meta-gradient agrees."""
        return all(error < TOLERANCE for error in self.errors.values())

    def __str__(self) -> str:
        if self.refused:
            return f"vmap refuses this model, so its tasks run one after the other. Reason: {self.refused}"
        worst = max(self.errors, key=lambda name: self.errors[name])
        if self.ok:
            return f"vmap agrees with the loop: the largest relative error is {self.errors[worst]:.1e} ({worst})."
        blame = f"On its own, {', '.join(self.modules)} disagrees." if self.modules else "No module disagrees alone."
        return (
            f"vmap gives a wrong meta-gradient: the relative error is {self.errors[worst]:.1e} for {worst}. {blame} "
            'Use engine=Engine("loop"), or replace the module.'
        )


def relative_errors(
    names: Sequence[str], given: Sequence[Tensor | None], right: Sequence[Tensor | None]
) -> dict[str, float]:
    """Norm of the difference over the norm of the whole right gradient's largest part, by parameter."""
    scale = max((float(r.norm()) for r in right if r is not None), default=0.0) or 1.0
    errors = {}
    for name, g, r in zip(names, given, right, strict=True):
        gap = g if r is None else r if g is None else g - r  # a missing gradient counts as zero
        errors[name] = 0.0 if gap is None else float(gap.norm()) / scale
    return errors


def suspects(model: nn.Module, run: Callable[[], object]) -> list[str]:
    """The smallest modules whose second-order gradient under `vmap` differs from the loop's.

    `run` calls the model once on an example, so that every module's own input is seen.
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
    wrong = [name for name, module in model.named_modules() if name in seen and _disagrees(module, seen[name])]
    return [
        name for name in wrong if not any(other != name and other.startswith(f"{name}.") for other in wrong if name)
    ]


def _disagrees(module: nn.Module, x: Tensor) -> bool:
    params = {name: p.detach().requires_grad_() for name, p in module.named_parameters()}
    draw = torch.Generator().manual_seed(0)

    def noise(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(x.device)

    floating = x.is_floating_point()
    xs = torch.stack([x + 0.1 * noise(x.shape) if floating else x for _ in range(3)]).detach()
    weights: list[Tensor] = []

    def value(point: Params) -> Tensor:
        own = {name: p for name, p in point.items() if name != "x"}
        out = tree_leaves(functional_call(module, own, (point["x"],)))[0]
        if not weights:
            weights.append(noise(out.shape))
        total: Tensor = (out.tanh() * weights[0]).sum()  # not a square: norms make its sum a constant
        return total

    def one(own: Params, x: Tensor) -> Tensor:
        def inner(point: Params) -> Tensor:
            return value(point if floating else point | {"x": x})

        start = own | {"x": x} if floating else own
        moved = {name: start[name] - 0.1 * g for name, g in grad(inner)(start).items()}
        return inner(moved)

    leaves = [*params.values(), *([xs.requires_grad_()] if floating else [])]
    if not leaves:
        return False
    try:
        looped = torch.stack([one(params, x_i) for x_i in xs]).sum()
        right = torch.autograd.grad(looped, leaves, allow_unused=True)
        together = torch.vmap(one, in_dims=(None, 0))(params, xs).sum()
        given = torch.autograd.grad(together, leaves, allow_unused=True)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return False  # a module that cannot be run alone, or that vmap refuses, is not silently wrong
    names = [str(i) for i in range(len(leaves))]
    return any(error >= TOLERANCE for error in relative_errors(names, given, right).values())
