"""Parameters by name: selecting them, grouping them by layer, and storing them in modules.

Names are dotted, as `named_parameters()` gives them. `nn.ParameterDict` forbids dots, so `parameter_dict` and
`dotted_params` translate in both directions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from quickstudy.errors import InputError, check_positive, suggest_nearest
from quickstudy.types import Params, Shape

Selection = str | Sequence[str] | Callable[[str], bool]
"""A name pattern (`"head.*"`), several of them, or a predicate on names."""


def trainable(name: str) -> bool:
    """Accepts every name: by default, all parameters that require a gradient adapt."""
    del name
    return True


def log_parameter(name: str, value: float, why: str, like: Tensor | None = None) -> nn.Parameter:
    """The logarithm of a number that trains and stays above 0, in the type and on the device of `like`.

    What is not above 0 and finite in that type, where a tiny number may be 0, is refused as `check_positive` says it.
    """
    like = torch.zeros(()) if like is None else like
    first = torch.tensor(float(value), dtype=like.dtype, device=like.device)
    check_positive(name, first.item(), why)
    return nn.Parameter(first.log())


def matches(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern. `*` and `?` stand for characters; `[ab]` is one of a and b, or is itself.

    A module may be called `fc[0]`, and a pattern may be copied from its name.

    >>> matches("fc.0.weight", "fc.[01].*"), matches("fc[0].weight", "fc[0].*"), matches("fc[0].weight", "fc[0].weight")
    (True, True, True)
    """
    return name == pattern or fnmatchcase(name, pattern) or fnmatchcase(name, pattern.replace("[", "[[]"))


def is_name(pattern: str) -> bool:
    """Whether a pattern can only match one name."""
    return not any(mark in pattern for mark in "*?[")


def select(names: Iterable[str], selection: Selection, what: str) -> list[str]:
    """The names that a selection picks, in their order; an error if it picks none.

    >>> select(["conv.weight", "head.weight", "head.bias"], "head.*", what="adapts")
    ['head.weight', 'head.bias']
    """
    known = list(names)
    if not callable(selection) and not isinstance(selection, Iterable):
        raise InputError(
            f"`{what}` was {selection!r}; give a pattern such as 'head.*', a list of names, or a predicate."
        )
    if callable(selection):
        selected, given = [name for name in known if selection(name)], "the predicate"
    else:
        patterns = [selection] if isinstance(selection, str) else list(selection)
        selected = [name for name in known if any(matches(name, pattern) for pattern in patterns)]
        given = ", ".join(repr(pattern) for pattern in patterns) or "an empty list"
        strange = [pattern for pattern in patterns if is_name(pattern) and pattern not in known]
        if selected and strange:
            raise InputError(
                f"`{what}` has {strange[0]!r}, which is no parameter. {suggest_nearest(strange[0], known)}"
            )
    if not selected:
        raise InputError(
            f"`{what}` was {given} and matched none of the parameters, so nothing would adapt. "
            f"Names are: {', '.join(known) or '(none that require a gradient)'}."
        )
    return selected


def check_module(model: object) -> None:
    """Refuse what is no module as a model."""
    if not isinstance(model, nn.Module):
        given = f"the class {model.__name__} itself" if isinstance(model, type) else f"a {type(model).__name__}"
        raise InputError(
            f"The model is {given}: give an nn.Module, such as the object that the class makes when called."
        )


def adaptable(module: nn.Module, selection: Selection, what: str = "adapts") -> Params:
    """The parameters of `module` that require a gradient and that a selection picks.

    Tied parameters are listed once, under their first name; a pattern may pick them by any of their names.
    """
    check_module(module)
    params = {name: param for name, param in module.named_parameters() if param.requires_grad}
    if callable(selection):
        return {name: params[name] for name in select(params, selection, what)}
    places = {name: id(p) for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    picked = {places[name] for name in select(places, selection, what)}
    return {name: p for name, p in params.items() if id(p) in picked}


def layer_of(name: str) -> str:
    """The name of the layer that a parameter belongs to.

    >>> layer_of("body.0.weight"), layer_of("weight")
    ('body.0', '')
    """
    return name.rpartition(".")[0]


def row_groups(params: Mapping[str, Tensor]) -> dict[str, str]:
    """The group of each parameter: those of one layer with the same number of rows are in one group.

    A weight `[out, ...]` and the bias `[out]` of its layer are in one group, so that a unit adapts as a whole or not.
    (The rows of a transposed convolution are its inputs: there a row and a bias entry are not one unit.)
    """
    return {name: f"{layer_of(name)}.rows{len(p) if p.ndim else 1}".lstrip(".") for name, p in params.items()}


def broadcast_rows(value: Tensor, shape: Shape) -> Tensor:
    """One number per row, shaped to multiply a parameter of `shape`: `[out] -> [out, 1, ..., 1]`."""
    return value.reshape(shape[:1] + (1,) * (len(shape) - 1))


def parameter_dict(params: Mapping[str, Tensor]) -> nn.ParameterDict:
    """Meta-parameters by dotted name, in a module that a state dict includes.

    >>> import torch
    >>> list(dotted_params(parameter_dict({"head.weight": torch.zeros(2, 3)})))
    ['head.weight']
    """
    return nn.ParameterDict({_dict_key(name): nn.Parameter(value) for name, value in params.items()})


def dotted_params(module: nn.ParameterDict) -> Params:
    """The parameters of a `parameter_dict`, by dotted name."""
    return {_name(key): value for key, value in module.items()}


def _dict_key(name: str) -> str:
    """A key without dots; a slash that the name has itself is written `~s`, and `~` is `~~`.

    >>> [_dict_key(name) for name in ("fc.weight", "enc/fc.weight", "a~s.b", "values")]
    ['fc/weight', 'enc~sfc/weight', 'a~~s/b', '/values']
    >>> all(_name(_dict_key(name)) == name for name in ("fc.weight", "enc/fc.weight", "a~s.b", "values", "~~/.~s"))
    True
    """
    key = name.replace("~", "~~").replace("/", "~s").replace(".", "/")
    return f"/{key}" if not key or hasattr(nn.ParameterDict, key) else key  # "values" is a method there


def _name(key: str) -> str:
    parts = key.removeprefix("/").replace("/", ".").split("~~")
    return "~".join(part.replace("~s", "/") for part in parts)


def parameter_paths(module: nn.Module, names: Iterable[str]) -> dict[str, list[str]]:
    """All paths of each of the named parameters.

    A parameter can be in several modules (tied weights), and a module under several names of its parent.
    """
    params = dict(module.named_parameters())
    paths: dict[int, list[str]] = {}
    for path, part in module.named_modules():
        for leaf, param in part.named_parameters(recurse=False, remove_duplicate=False):
            paths.setdefault(id(param), []).append(f"{path}.{leaf}".lstrip("."))
    return {name: paths[id(params[name])] for name in names}


def detach_params(params: Mapping[str, Tensor]) -> Params:
    """The same numbers without a tape."""
    return {name: p.detach() for name, p in params.items()}


def with_prefix(values: Mapping[str, Tensor], prefix: str) -> Params:
    """The values whose names begin with `prefix`, by the rest of their names.

    >>> import torch
    >>> list(with_prefix({"body:norm.mean": torch.zeros(2), "weight": torch.zeros(2, 3)}, "body:"))
    ['norm.mean']
    """
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
