"""Which modules of a model call which, as far as this can be traced without an input."""

from collections.abc import Iterable

import torch
from torch import fx, nn

from quickstudy.engine.twin import copy_module, logits_of
from quickstudy.rules.torch_private import AnyBatchNorm, AnyInstanceNorm


class _LeafTracer(fx.Tracer):
    """Traces the calls between modules.

    A module without children is not traced itself, nor is a Linear, nor the module of a given name.
    """

    def __init__(self, whole: str | None) -> None:
        super().__init__()
        self.whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_whole = module_qualified_name == self.whole or isinstance(m, nn.Linear) or not list(m.children())
        return is_whole or super().is_leaf_module(m, module_qualified_name)


def trace_calls(model: nn.Module, whole: str | None = None) -> fx.Graph | None:
    """The model's graph of module calls; None if its forward cannot be traced without an input.

    Args:
        model: The model.
        whole: The name of a module that is one call, whatever it is made of.
    """
    try:
        with torch.random.fork_rng(devices=[]):  # and on a copy: the user's model stays as it is
            return _LeafTracer(whole).trace(copy_module(model))
    except Exception:  # tracing runs the user's forward on proxies, which may fail in any way
        return None


def last_called(graph: fx.Graph, layers: Iterable[str]) -> str | None:
    """Which of the named layers is called last on the way to the output; None if none is.

    A layer that the output does not depend on, such as an auxiliary head,
    is not on the way. Of a module whose calls are not traced, such as torch's transformer layers, it is the layer
    defined last.
    """
    before: set[fx.Node] = set()
    fx.node.map_arg(logits_of(graph.output_node().args[0]), before.add)
    for node in reversed(graph.nodes):
        if node in before:
            before.update(node.all_input_nodes)
    names, found = list(layers), None
    for node in graph.nodes:
        if node in before and node.op == "call_module":
            inside = [name for name in names if name == node.target or name.startswith(f"{node.target}.")]
            found = inside[-1] if inside else found
    return found


def layers_before_norm(model: nn.Module, layers: Iterable[str], statistics: str = "batch") -> list[str]:
    """Those of the named layers whose output goes into norms only.

    The loss does not depend on the scale of such a layer, so one number that multiplies it has no effect. (It does
    depend on it under a batch norm with running statistics, which is a fixed affine map.)
    """
    graph = trace_calls(model)
    if graph is None:
        return []
    norms: tuple[type[nn.Module], ...]
    norms = (nn.LayerNorm, nn.RMSNorm, AnyInstanceNorm, nn.GroupNorm)
    if statistics != "running":
        norms += (AnyBatchNorm,)
    modules = dict(model.named_modules())

    def is_norm(node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(modules[str(node.target)], norms)

    calls = [node for node in graph.nodes if node.op == "call_module" and node.target in set(layers)]
    return [node.target for node in calls if node.users and all(map(is_norm, node.users))]
