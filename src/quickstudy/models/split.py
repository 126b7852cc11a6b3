"""A model in two parts: the body, which all tasks share, and the head, which adapts."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from quickstudy.engine.twin import copy_module, logits_of
from quickstudy.errors import InputError, suggest_nearest
from quickstudy.models.surgery import refuse_parameter_hooks
from quickstudy.models.trace import last_called, trace_calls


def last_linear(model: nn.Module) -> str:
    """The name pattern of the last Linear's parameters: the default head, and the default scope of a gain.

    It is the one that is called last on the way to the output; where calls cannot be traced, the one defined last.
    """
    return f"{_name_last_linear(model, trace_calls(model))}.*".lstrip(".")


def _name_last_linear(model: nn.Module, graph: fx.Graph | None) -> str:
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise InputError(
            "The model has no Linear layer, so there is no default head or scope. "
            f"Name one; modules are: {', '.join(name for name, _ in model.named_modules() if name)}."
        )
    return (last_called(graph, linears) if graph else None) or linears[-1]


class HeadPlaceholder(nn.Module):
    """Replaces the head in the body: returns the features as they are, and records them."""

    any_layout = True

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.recorded.append(x)
        return x

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(
                f"`{name}` of the head is read by the body, and the head is no part of it. Keep what the forward needs "
                "of it (a type, a size) as an attribute of the model, or use a method that adapts the whole model"
            ) from None


@dataclass(frozen=True)
class _ClearRecord:
    """A hook before the body runs: clears the record. It finds the placeholder by name, also in a copy of the body."""

    head: str

    def __call__(self, body: nn.Module, args: object) -> None:
        del args
        placeholder = body.get_submodule(self.head)
        assert isinstance(placeholder, HeadPlaceholder)
        placeholder.recorded.clear()


@dataclass(frozen=True)
class _CheckSplit:
    """A hook after the body has run: an error unless the head ran once and its input is the body's output."""

    head: str

    def __call__(self, body: nn.Module, args: object, output: Any) -> None:
        del args
        placeholder = body.get_submodule(self.head)
        assert isinstance(placeholder, HeadPlaceholder)
        calls = len(placeholder.recorded)
        is_last = calls == 1 and placeholder.recorded[0] is logits_of(output)
        placeholder.recorded.clear()
        if not is_last:
            raise _not_last(self.head, calls)


def _not_last(head: str, calls: int) -> InputError:
    fault = (
        "computes more after it" if calls == 1 else "calls it more than once" if calls else "does not call it by itself"
    )
    return InputError(
        f"`head` is {head!r}, but the model {fault}, so it cannot be split into features and a head. "
        "Name the module whose output is the model's output, or move what follows into the loss."
    )


def split_head(model: nn.Module, head: str | None = None) -> tuple[nn.Module, nn.Module]:
    """The model in two parts: a body that computes features, and the last layer, which reads them.

    The head must be last. This is checked here if the model can be traced, and whenever the body runs.

    Args:
        model: Any module whose output is its head's output.
        head: The name of the head, such as "fc"; by default the last Linear of the model.
    """
    refuse_parameter_hooks(model)
    graph = trace_calls(model) if head is None else None
    name = _name_last_linear(model, graph) if head is None else head
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        raise InputError(f"The model has no module {name!r} to use as `head`. {suggest_nearest(name, modules)}")
    if name == "":
        return nn.Identity(), copy_module(model)
    names = [other for other, module in modules.items() if module is modules[name]]
    name = names[0]  # by which a trace knows it
    if head is not None:
        graph = trace_calls(model, name)
    if graph is not None:
        heads = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
        if [user.op for node in heads for user in node.users] != ["output"]:
            raise _not_last(name, len(heads))
    body = copy_module(model)
    last = body.get_submodule(name)
    placeholder = HeadPlaceholder()
    for each in names:
        body.set_submodule(each, placeholder)
    body.register_forward_pre_hook(_ClearRecord(name))
    body.register_forward_hook(_CheckSplit(name))
    shared = {id(p) for p in body.parameters()} & {id(p) for p in last.parameters()}
    if shared:
        raise InputError(f"The head {name!r} shares parameters with the body, so it cannot adapt alone.")
    return body, last
