"""Replacing the modules of a model by others that keep all parameters, buffers and hooks."""

from torch import nn

from quickstudy.rules.torch_private import named_places


def with_class(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The module as one of another class, which shares all parameters, buffers and hooks with it."""
    twin = kind.__new__(kind)
    twin.__dict__ = module.__dict__
    return twin


def replace_modules(model: nn.Module, replace: dict[nn.Module, nn.Module]) -> nn.Module:
    """Replace modules of a model, which changes; a module that is used twice is replaced twice. Returns the model."""
    for parent in list(model.modules()):
        for name, child in named_places(parent):
            if child in replace:
                setattr(parent, name, replace[child])
    return replace.get(model, model)
