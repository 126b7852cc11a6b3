"""What calls what inside a model, as far as it can be traced without an input."""

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import fx, nn

from quickstudy.models.norms import _BATCH


class _LeafTracer(fx.Tracer):
    """Traces calls between modules and never looks inside one that has no children."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or not list(m.children())


def trace_calls(model: nn.Module) -> fx.Graph | None:
    """The model's graph of module calls, or None where its forward cannot be traced without an input."""
    try:
        with torch.random.fork_rng(devices=[]):  # a copy, and its own dice: the user's model must not notice
            return _LeafTracer().trace(deepcopy(model))
    except Exception:  # tracing runs the user's forward on proxies, which may fail in any way
        return None


def feeds_norm(model: nn.Module, layers: Iterable[str], statistics: str = "batch") -> list[str]:
    """Those of the named layers whose output goes into a norm and nowhere else.

    The loss does not depend on the scale of such a layer, so one number that multiplies it can do nothing. (A
    batch norm with running statistics is a fixed affine map and does depend on it.)
    """
    graph = trace_calls(model)
    if graph is None:
        return []
    norms: tuple[type[nn.Module], ...]
    norms = (nn.LayerNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)
    if statistics != "running":
        norms += (_BATCH,)
    modules = dict(model.named_modules())
    blind = []
    for node in graph.nodes:
        if node.op == "call_module" and node.target in set(layers) and node.users:
            if all(u.op == "call_module" and isinstance(modules[u.target], norms) for u in node.users):
                blind.append(node.target)
    return blind
