"""Giving the modules of a model other forwards, while they keep all parameters, buffers and hooks."""

from functools import cache
from typing import Any

from torch import nn

from quickstudy.errors import InputError
from quickstudy.rules.params import check_module
from quickstudy.rules.torch_private import leave_fast_path


def change_class(module: nn.Module, kind: type[nn.Module]) -> None:
    """Give a module the forward of another class, wherever it is used: its parent's list of layers holds it too.

    It stays an instance of its own class. So it has what a subclass of the user's adds, and `isinstance` in the user's
    code says what it said. Changed again, it has the last of these forwards.
    """
    own = _own_class(type(module))
    try:
        module.__class__ = _joint_class(kind, own)
    except Exception as error:  # the user's metaclass may raise anything
        raise InputError(
            f"{own.__name__} cannot have the forward of a {kind.__name__}, as it allows no subclass: {error}. Give a "
            "module of torch's own class instead."
        ) from error


def _own_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that a module had before another forward was given to it."""
    return kind.__bases__[-1] if _Unannounced in kind.__bases__ else kind


def _joint_class(kind: type[nn.Module], own: type[nn.Module]) -> type[nn.Module]:
    """A class that does what `kind` does, and has whatever else `own` has; always the same one for these two."""
    if issubclass(kind, own):
        return kind
    made: type[nn.Module] = _join(kind, own)  # type: ignore[arg-type]  # mypy doubts that a class can be hashed
    return made


class _Unannounced:
    """The first base of a joint class. What the user's `__init_subclass__` does is for classes of the user's."""

    def __init_subclass__(cls, **options: Any) -> None:
        pass


@cache
def _join(kind: type[nn.Module], own: type[nn.Module]) -> type[nn.Module]:
    def reduce(self: nn.Module, protocol: Any) -> Any:  # this class has no name by which it could be found
        if type(self) is not joint:  # but one that was made of it has a name, or a way of its own
            return object.__reduce_ex__(self, protocol)
        return _empty, (kind, own), self.__getstate__()  # type: ignore[no-untyped-call]  # object's, or the user's

    body = {
        "any_layout": vars(kind).get("any_layout", False),  # that of the forward that runs
        "keeps_buffers": vars(kind).get("keeps_buffers", False) and own.__module__.startswith("torch.nn.modules."),
        "__doc__": own.__doc__,
        "__module__": own.__module__,  # whoever asks whether it is a stranger's
        "__reduce_ex__": reduce,
    }
    joint: type[nn.Module] = type(own.__name__, (_Unannounced, kind, own), body)
    return joint


def _empty(kind: type[nn.Module], own: type[nn.Module]) -> nn.Module:
    """A module of the class above that holds nothing yet: what a copy, or a pickle, of one begins with."""
    joint = _joint_class(kind, own)
    return joint.__new__(joint)


def leave_fast_paths(model: nn.Module) -> None:
    """Make every layer of a transformer call its sublayers: its fast path reads their weights past their forwards."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            leave_fast_path(module)


def refuse_parameter_hooks(model: nn.Module) -> None:
    """Refuse a model with hooks on parameters: a copy has none, and what adapts is no parameter of it."""
    check_module(model)
    kinds = {"_backward_hooks": "register_hook", "_post_accumulate_grad_hooks": "register_post_accumulate_grad_hook"}
    hooked = [
        (name, kind) for name, p in model.named_parameters() for held, kind in kinds.items() if getattr(p, held, 0)
    ]
    if hooked:
        raise InputError(
            f"{hooked[0][0]} has a hook ({hooked[0][1]}), which a learner cannot keep: it works on a copy of the "
            "model, and adapted values are other tensors. Compute in the forward what the hook does, for example "
            "weight * mask + (weight * (1 - mask)).detach()."
        )
