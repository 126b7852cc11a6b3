"""Giving the modules of a model other forwards, while they keep all parameters, buffers and hooks."""

from functools import cache
from typing import Any

from torch import nn

from quickstudy.errors import InputError


def change_class(module: nn.Module, kind: type[nn.Module]) -> None:
    """Give a module the forward of another class, wherever it is used: its parent's list of layers holds it too.

    It stays an instance of its own class. So it has what a subclass of the user's adds, and `isinstance` in the user's
    code says what it said.
    """
    module.__class__ = joint_class(kind, type(module))


def joint_class(kind: type[nn.Module], own: type[nn.Module]) -> type[nn.Module]:
    """A class that does what `kind` does, and has whatever else `own` has; always the same one for these two."""
    if issubclass(kind, own):
        return kind
    made: type[nn.Module] = _join(kind, own)  # type: ignore[arg-type]  # mypy doubts that a class can be hashed
    return made


@cache
def _join(kind: type[nn.Module], own: type[nn.Module]) -> type[nn.Module]:
    earlier, whole = vars(own).get("joined", (None, None))
    if whole is not None and issubclass(kind, earlier):  # replaced before, and now by a finer kind
        return joint_class(kind, whole)

    def reduce(self: nn.Module, protocol: object) -> Any:  # this class has no name by which it could be found
        return _empty, (kind, own), self.__dict__

    body = {
        "joined": (kind, own),
        "any_layout": vars(kind).get("any_layout", False),  # that of the forward that runs
        "keeps_buffers": vars(kind).get("keeps_buffers", False) and own.__module__.startswith("torch.nn.modules."),
        "__doc__": kind.__doc__,
        "__module__": __name__,
        "__reduce_ex__": reduce,
    }
    return type(own.__name__, (kind, own), body)


def _empty(kind: type[nn.Module], own: type[nn.Module]) -> nn.Module:
    """A module of the class above that holds nothing yet: what a copy, or a pickle, of one begins with."""
    joint = joint_class(kind, own)
    return joint.__new__(joint)


def refuse_parameter_hooks(model: nn.Module) -> None:
    """Refuse a model with hooks on parameters: a copy has none, and what adapts is no parameter of it."""
    hooked = [name for name, p in model.named_parameters() if getattr(p, "_backward_hooks", None)]
    if hooked:
        raise InputError(
            f"{hooked[0]} has a hook (register_hook), which a learner cannot keep: it works on a copy of the model, "
            "and adapted values are other tensors. Compute in the forward what the hook does, for example "
            "weight * mask + (weight * (1 - mask)).detach()."
        )
