"""What a configuration names, as Python finds it: importing it, reading its options, fitting values to them."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from quickstudy.errors import InputError, nearest, told


def imported(path: str, what: str) -> Callable[..., Any]:
    """`package.module:factory`, imported; errors in the user's module are shown as one line with their place."""
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module may fail in any way while it is imported
        raise InputError(
            f"`{what}` is {path!r}, but importing {module_name!r} failed: {told(error)}. "
            "It must be importable from the current directory or installed."
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise InputError(
            f"`{what}` is {path!r}, but {module_name!r} has no callable {name!r}. "
            f"{nearest(name, [n for n, v in vars(module).items() if callable(v) and not n.startswith('_')])}"
        )
    chosen: Callable[..., Any] = factory
    return chosen


def options_of(factory: Callable[..., Any], name: str, what: str) -> Mapping[str, inspect.Parameter]:
    """Parameters with annotations evaluated, as far as that is possible: some exist for type checkers only."""
    for evaluate in (True, False):
        try:
            return inspect.signature(factory, eval_str=evaluate).parameters
        except Exception:  # an annotation is any expression
            continue
    raise InputError(f"`{what}` {name!r} does not tell its options. Wrap it in a function that names them.")


def fitted(value: Any, annotation: Any) -> Any:
    """The value as the annotation wants it; as it is, where there is none or it is beyond pydantic.

    >>> fitted("cats, dogs", tuple[str, ...]), fitted("cats", tuple[str, ...]), fitted("8,16", list[int])
    (('cats', 'dogs'), ('cats',), [8, 16])
    """
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return value
    for config in (ConfigDict(arbitrary_types_allowed=True), None):  # a dataclass brings a config and refuses another
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=config)
        except Exception:  # an annotation may be anything
            continue
        try:
            return adapter.validate_python(value)
        except ValidationError:
            items = _listed(value, adapter.validate_python)
            if items is None:
                raise
            return items
    return value


def _listed(value: Any, validated: Callable[[Any], Any]) -> Any:
    """`cats,dogs` as the list that is wanted; None where it is no such text, or no list is wanted."""
    try:
        items = validated([item.strip() for item in value.split(",")]) if isinstance(value, str) else None
    except ValidationError:
        return None
    return items if isinstance(items, list | tuple) else None


def plain(value: Any) -> bool:
    """Whether a value can stand in a configuration file as it is."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    return value is None or isinstance(value, str | int | float | bool)
