"""Parameters by name: choosing them, grouping them by layer, and keeping them in modules.

Names are dotted, as `named_parameters()` gives them. `nn.ParameterDict` forbids dots, so the one pair of functions
`parameter_dict` and `dotted_params` goes back and forth.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.errors import InputError
from quickstudy.types import Params, Shape

Selection = str | Sequence[str] | Callable[[str], bool]
"""A name pattern (`"head.*"`), several of them, or a predicate on names."""


def trainable(name: str) -> bool:
    """Every parameter that requires a gradient: the default choice of what adapts."""
    del name
    return True


def select(names: Iterable[str], selection: Selection, what: str) -> list[str]:
    """The names that a selection picks, in their order; an error when it picks none.

    >>> select(["conv.weight", "head.weight", "head.bias"], "head.*", what="adapts")
    ['head.weight', 'head.bias']
    """
    known = list(names)
    if callable(selection):
        chosen, given = [name for name in known if selection(name)], "the predicate"
    else:
        patterns = [selection] if isinstance(selection, str) else list(selection)
        chosen = [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]
        given = ", ".join(repr(pattern) for pattern in patterns) or "an empty list"
    if not chosen:
        raise InputError(
            f"`{what}` was {given} and matched none of the parameters, so nothing would adapt. "
            f"Names are: {', '.join(known) or '(none that require a gradient)'}."
        )
    return chosen


def adaptable(module: nn.Module, selection: Selection, what: str = "adapts") -> Params:
    """The parameters of `module` that a selection picks among those that require a gradient.

    Tied parameters appear once, under their first name.
    """
    params = {name: param for name, param in module.named_parameters() if param.requires_grad}
    return {name: params[name] for name in select(params, selection, what)}


def layer_of(name: str) -> str:
    """The layer a parameter belongs to.

    >>> layer_of("body.0.weight"), layer_of("weight")
    ('body.0', '')
    """
    return name.rpartition(".")[0]


def layers(params: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Parameter names by layer, in order of appearance."""
    groups: dict[str, list[str]] = {}
    for name in params:
        groups.setdefault(layer_of(name), []).append(name)
    return groups


def row_groups(params: Mapping[str, Tensor]) -> dict[str, str]:
    """For each parameter, the group whose rows it shares: same layer and same number of rows.

    A weight `[out, ...]` and the bias `[out]` of its layer fall in one group, so a unit adapts whole or not at all.
    (The rows of a transposed convolution are its inputs: there a row and a bias entry are not one unit.)
    """
    return {name: f"{layer_of(name)}.rows{len(p) if p.ndim else 1}".lstrip(".") for name, p in params.items()}


def broadcast_rows(value: Tensor, shape: Shape) -> Tensor:
    """One number per row, shaped to multiply a parameter of `shape`: `[out] -> [out, 1, ..., 1]`."""
    return value.reshape(shape[:1] + (1,) * (len(shape) - 1))


def parameter_dict(params: Mapping[str, Tensor]) -> nn.ParameterDict:
    """Meta-parameters by dotted name, in a module that a state dict can save.

    >>> import torch
    >>> list(dotted_params(parameter_dict({"head.weight": torch.zeros(2, 3)})))
    ['head.weight']
    """
    return nn.ParameterDict({_key(name): nn.Parameter(value) for name, value in params.items()})


def dotted_params(module: nn.ParameterDict) -> Params:
    """What `parameter_dict` keeps, by dotted name again."""
    return {key.removeprefix("/").replace("/", "."): value for key, value in module.items()}


def _key(name: str) -> str:
    key = name.replace(".", "/")
    return f"/{key}" if not key or hasattr(nn.ParameterDict, key) else key  # "values" is a method there


def parameter_paths(module: nn.Module, names: Iterable[str]) -> dict[str, list[str]]:
    """Every place that holds each of the named parameters: one path per module and attribute.

    A parameter can sit in several modules (tied weights), and a module in several places of its parent.
    """
    params = dict(module.named_parameters())
    held_at: dict[int, list[str]] = {}
    for path, part in module.named_modules():
        for leaf, param in part.named_parameters(recurse=False, remove_duplicate=False):
            held_at.setdefault(id(param), []).append(f"{path}.{leaf}".lstrip("."))
    return {name: held_at[id(params[name])] for name in names}


def with_prefix(values: Mapping[str, Tensor], mark: str) -> Params:
    """What stands under names that begin with `mark`, by the rest of its name.

    >>> import torch
    >>> list(with_prefix({"body:norm.mean": torch.zeros(2), "weight": torch.zeros(2, 3)}, "body:"))
    ['norm.mean']
    """
    return {name.removeprefix(mark): value for name, value in values.items() if name.startswith(mark)}


def call_with(module: nn.Module, params: Params, places: Mapping[str, Sequence[str]], x: Tensor) -> Tensor:
    """The module's output with `params` in the places of its own.

    Places are spelled out because `functional_call` finds tied ones itself by path: a module that is reachable by two
    paths is then swapped twice, and left with the wrong parameters.
    """
    swapped = {place: value for name, value in params.items() for place in places[name]}
    output: Tensor = functional_call(module, swapped, (x,), tie_weights=False)
    return output
