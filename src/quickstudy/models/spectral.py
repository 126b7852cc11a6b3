"""Spectral norms that keep up with their weights.

torch's spectral norm divides a weight W by an estimate of its largest singular value. The estimate comes from a power
iteration, of which each forward in training takes a step; its vectors are buffers. A task works on copies of buffers,
so what its forwards write there is dropped. So the iteration goes on here, on the learner's own buffers: a step after
each change of W, as often as a training loop in plain torch takes one.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from quickstudy.rules.torch_private import SpectralNorm, SpectralNormHook, count_changes

Changes = dict[str, tuple[int, ...]]
"""By the name of a weight: how often it had been changed when its iteration last went on."""


def advance_power_iterations(module: nn.Module, seen: Changes) -> None:
    """Take a step of the power iteration of every weight that was changed since; `seen` is updated."""
    if not _may_be_constrained(module):
        return
    for name, weights, step in _power_iterations(module):
        changes = tuple(map(count_changes, weights))
        if seen.get(name) != changes:
            seen[name] = changes
            with torch.no_grad():
                step()


def _power_iterations(module: nn.Module) -> Iterator[tuple[str, list[nn.Parameter], Callable[[], object]]]:
    """Each constrained weight in training: its name, what it is made of, and a step of its iteration."""
    for place, part in module.named_modules():
        if not part.training:
            continue
        for name, chain in getattr(part, "parametrizations", {}).items():
            if any(isinstance(one, SpectralNorm) for one in chain):
                yield f"{place}.{name}", [*chain.parameters()], chain
        for hook in part._forward_pre_hooks.values():
            if isinstance(hook, SpectralNormHook):
                step = partial(hook.compute_weight, part, do_power_iteration=True)
                yield f"{place}.{hook.name}", [getattr(part, f"{hook.name}_orig")], step


def _may_be_constrained(module: nn.Module) -> bool:
    """Whether a module has parametrizations or hooks. It is asked at every step, so it takes microseconds."""
    waiting: list[nn.Module | None] = [module]
    while waiting:
        part = waiting.pop()
        if part is not None:
            if part._forward_pre_hooks or "parametrizations" in part._modules:
                return True
            waiting.extend(part._modules.values())
    return False
