"""Modules put in other modules' places, with every parameter, buffer and hook kept."""

from torch import nn


def with_class(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The same module under another class: it shares every parameter, buffer and hook."""
    twin = kind.__new__(kind)
    twin.__dict__ = module.__dict__
    return twin


def replace_modules(model: nn.Module, replace: dict[nn.Module, nn.Module]) -> nn.Module:
    """Swap modules for others, in place, wherever they appear (a module used twice is swapped in both places)."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children() gives a module's first place only
            if child in replace:
                setattr(parent, name, replace[child])
    return replace.get(model, model)
