"""A model in two: the body that all tasks share, and the head that adapts."""

from copy import deepcopy
from dataclasses import dataclass

from torch import Tensor, nn

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.models.trace import trace_calls


def last_linear(model: nn.Module) -> str:
    """The pattern of the parameters of the last Linear in module order: the default head and gain scope."""
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise InputError(
            "The model has no Linear layer, so there is no default head or scope. "
            f"Name one; modules are: {', '.join(name for name, _ in model.named_modules() if name)}."
        )
    return f"{linears[-1]}.*".lstrip(".")


class Features(nn.Module):
    """Stands where the head was: features pass as they are, and it is remembered that they did."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x


@dataclass(frozen=True)
class _Forget:
    """Before the body runs: nothing has been seen. A hook finds its module by name, so that copies have their own."""

    head: str

    def __call__(self, body: nn.Module, args: object) -> None:
        del args
        features = body.get_submodule(self.head)
        assert isinstance(features, Features)
        features.seen.clear()


@dataclass(frozen=True)
class _Insist:
    """After the body ran: its output must be what the head was given, and once; else the split is wrong."""

    head: str

    def __call__(self, body: nn.Module, args: object, output: Tensor) -> None:
        del args
        features = body.get_submodule(self.head)
        assert isinstance(features, Features)
        once = len(features.seen) == 1 and features.seen[0] is output
        features.seen.clear()
        if not once:
            raise InputError(_NOT_LAST.format(self.head))


_NOT_LAST = (
    "`head` is {!r}, but the model does more after it, so features and head cannot be told apart. "
    "Name the module whose output is the model's output, or move what follows into the loss."
)


def split_head(model: nn.Module, head: str | None = None) -> tuple[nn.Module, nn.Module]:
    """The model in two: a body that yields features, and the layer that reads them last.

    That the head is last is checked here where the model can be traced, and at every run of the body.

    Args:
        model: Any module whose output is its head's output.
        head: The head's name, such as "fc"; by default the last Linear of the model.
    """
    name = head if head is not None else last_linear(model).removesuffix("*").removesuffix(".")
    modules = dict(model.named_modules())
    if name not in modules:
        raise InputError(f"The model has no module {name!r} to use as `head`. {suggest_nearest(name, modules)}")
    if name == "":
        return nn.Identity(), deepcopy(model)
    graph = trace_calls(model)
    if graph is not None:
        heads = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
        if [user.op for node in heads for user in node.users] != ["output"]:
            raise InputError(_NOT_LAST.format(name))
    body = deepcopy(model)
    last = body.get_submodule(name)
    body.set_submodule(name, Features())
    body.register_forward_pre_hook(_Forget(name))
    body.register_forward_hook(_Insist(name))
    shared = {id(p) for p in body.parameters()} & {id(p) for p in last.parameters()}
    if shared:
        raise InputError(f"The head {name!r} shares parameters with the body, so it cannot adapt alone.")
    return body, last
