"""Replacing the modules of a model by others that keep all parameters, buffers and hooks."""

from torch import nn

from quickstudy.errors import InputError
from quickstudy.rules.torch_private import named_places


def with_class(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The module as one of another class, which shares all parameters, buffers and hooks with it."""
    twin = kind.__new__(kind)
    twin.__dict__ = module.__dict__
    return twin


def refuse_parameter_hooks(model: nn.Module) -> None:
    """Refuse a model with hooks on parameters: a copy has none, and what adapts is no parameter of it."""
    hooked = [name for name, p in model.named_parameters() if getattr(p, "_backward_hooks", None)]
    if hooked:
        raise InputError(
            f"{hooked[0]} has a hook (register_hook), which a learner cannot keep: it works on a copy of the model, "
            "and adapted values are other tensors. Compute in the forward what the hook does, for example "
            "weight * mask + (weight * (1 - mask)).detach()."
        )


def replace_modules(model: nn.Module, replace: dict[nn.Module, nn.Module]) -> nn.Module:
    """Replace modules of a model, which changes; a module that is used twice is replaced twice. Returns the model."""
    for parent in list(model.modules()):
        for name, child in named_places(parent):
            if child in replace:
                setattr(parent, name, replace[child])
    return replace.get(model, model)
