"""What a configuration names, as Python finds it: importing it, reading its options, fitting values to them."""

import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from quickstudy.errors import InputError, describe_error, suggest_nearest
from quickstudy.methods.options import Default
from quickstudy.training.config.overrides import parse_overrides


def import_factory(path: str, what: str) -> Callable[..., Any]:
    """`package.module:factory`, imported; errors in the user's module are shown as one line with their place."""
    module_name, _, name = path.partition(":")
    module_name = module_name.replace("quickstudy.reproduce.", "quickstudy.papers.")  # its name in older runs
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module may fail in any way while it is imported
        raise InputError(
            f"`{what}` is {path!r}, but importing {module_name!r} failed: {describe_error(error)}. "
            "It must be importable from the current directory or installed."
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise InputError(
            f"`{what}` is {path!r}, but {module_name!r} has no callable {name!r}. "
            f"{suggest_nearest(name, [n for n, v in vars(module).items() if callable(v) and not n.startswith('_')])}"
        )
    chosen: Callable[..., Any] = factory
    return chosen


def options_of(factory: Callable[..., Any], name: str, what: str) -> Mapping[str, inspect.Parameter]:
    """Parameters with annotations evaluated, as far as that is possible: some exist for type checkers only.

    Options that are collected by `**options: Unpack[SomeTypedDict]` are listed one by one, with their defaults.
    """
    for evaluate in (True, False):
        try:
            parameters = inspect.signature(factory, eval_str=evaluate).parameters
        except Exception:  # an annotation is any expression
            continue
        return {p.name: p for parameter in parameters.values() for p in _listed_one_by_one(parameter)}
    raise InputError(f"`{what}` {name!r} does not tell its options. Wrap it in a function that names them.")


def _listed_one_by_one(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    if parameter.kind is not parameter.VAR_KEYWORD or get_origin(parameter.annotation) is not Unpack:
        return [parameter]
    hints = get_type_hints(get_args(parameter.annotation)[0], include_extras=True)
    listed = []
    for name, hint in hints.items():
        defaults = [extra.value for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Default)]
        default = defaults[0] if defaults else parameter.empty
        listed.append(inspect.Parameter(name, parameter.KEYWORD_ONLY, default=default, annotation=hint))
    return listed


def fit_value(value: Any, annotation: Any) -> Any:
    """The value as the annotation wants it; as it is, where there is none or it is beyond pydantic.

    >>> fit_value("cats, dogs", tuple[str, ...]), fit_value("cats", tuple[str, ...]), fit_value("8,16", list[int])
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


def is_plain(value: Any) -> bool:
    """Whether a value can stand in a configuration file as it is."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


Known = Mapping[str, Mapping[str, Callable[..., Any]]]
"""Factories by name, by what they make: tasks, model or method."""


class Dropped(UserWarning):
    """Options that went with the part they belonged to."""


def drop_foreign_options(raw: Mapping[Any, Any], overrides: Sequence[str], known: Known) -> dict[Any, Any]:
    """The data without those options of a part that the one put in its place by `--method protonet` does not know.

    What the overrides themselves give is not touched, and is refused later where it does not fit.
    """
    data = dict(raw)
    for (what, *below), name in parse_overrides(overrides):
        part = data.get(what)
        if below or what not in known or not isinstance(name, str) or not isinstance(part, dict):
            continue
        factory = import_factory(name, what) if ":" in name else known[what].get(name)
        if factory is None or name == part.get("name"):
            continue
        takes = options_of(factory, name, what)
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values()):
            continue
        lost = [option for option in part if option != "name" and option not in takes]
        if lost:
            listed = ", ".join(f"`{option}`" for option in lost)
            warnings.warn(
                f"--{what} {name}: {listed} of {part.get('name')} left out, no option of {name}.", Dropped, stacklevel=4
            )
        data[what] = {option: value for option, value in part.items() if option not in lost}
    return data
