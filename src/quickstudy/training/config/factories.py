"""Factories that a configuration names: importing them, reading their options, converting values for them."""

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from quickstudy.errors import InputError, describe_error, suggest_nearest
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Default
from quickstudy.storage.trust import FACTORY
from quickstudy.tasks.base import TaskFamily
from quickstudy.training.config.overrides import parse_overrides

ROOMS = (["methods"], ["models"], ["tasks"], ["papers"])
"""The rooms of this package whose functions a configuration may name."""


def import_factory(path: str, what: str) -> Callable[..., Any]:
    """Import `package.module:factory`. An error in the user's module becomes one line with its file and line."""
    if not FACTORY.fullmatch(path):
        raise InputError(f"`{what}` is {path!r}. Your own is given as package.module:factory, in letters and digits.")
    module_name, _, name = path.partition(":")
    module_name = module_name.replace("quickstudy.reproduce.", "quickstudy.papers.")  # older runs have the old name
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
    imported: Callable[..., Any] = factory
    if module_name.partition(".")[0] == "quickstudy" and not _is_offered(imported, what):
        raise InputError(f"`{what}` is {path!r}, which is not for configurations. `quickstudy list` shows what is.")
    return imported


def _is_offered(factory: Callable[..., Any], what: str) -> bool:
    """Whether a function or class of this package makes such a part.

    The package's names need no trust. So what a configuration can call with options of its own is tasks, models and
    methods only, not what writes files, restores runs or starts programs.
    """
    wanted = {"model": nn.Module, "method": Learner}.get(what, TaskFamily)
    home = str(getattr(factory, "__module__", "")).split(".")
    try:
        made = factory if isinstance(factory, type) else inspect.signature(factory, eval_str=True).return_annotation
    except (NameError, TypeError, ValueError):
        return False
    made = get_origin(made) or made
    return home[0] == "quickstudy" and home[1:2] in ROOMS and isinstance(made, type) and issubclass(made, wanted)


def options_of(factory: Callable[..., Any], name: str, what: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of a factory by name, with their annotations evaluated where possible.

    Some annotations exist for type checkers only and cannot be evaluated. The options of a `TypedDict`
    (`**options: Unpack[SomeTypedDict]`) are listed one by one, with their defaults.
    """
    for evaluate in (True, False):
        try:
            parameters = inspect.signature(factory, eval_str=evaluate).parameters
        except Exception:  # evaluating an annotation runs any expression, which may fail in any way
            continue
        return {p.name: p for parameter in parameters.values() for p in _expand_unpacked(parameter)}
    raise InputError(
        f"`{what}` {name!r} has no signature, so its options are unknown. Wrap it in a function that names them."
    )


def _expand_unpacked(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """The options of `**options: Unpack[SomeTypedDict]` one by one; any other parameter as it is."""
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
    """Convert a value to the type that a parameter is annotated with.

    A value stays as it is where there is no annotation, or none that pydantic understands.

    >>> fit_value("cats, dogs", tuple[str, ...]), fit_value("cats", tuple[str, ...]), fit_value("8,16", list[int])
    (('cats', 'dogs'), ('cats',), [8, 16])
    """
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return value
    for config in (ConfigDict(arbitrary_types_allowed=True), None):  # pydantic accepts no config beside a dataclass's
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=config)
        except Exception:  # an annotation may be any object
            continue
        try:
            return adapter.validate_python(value)
        except ValidationError:
            items = _split_text(value, adapter.validate_python)
            if items is None:
                raise
            return items
    return value


def _split_text(value: Any, validate: Callable[[Any], Any]) -> Any:
    """The text `cats,dogs` as a list or tuple; None for any other value, or where no list is wanted."""
    if not isinstance(value, str):
        return None
    try:
        items = validate([item.strip() for item in value.split(",")])
    except ValidationError:
        return None
    return items if isinstance(items, list | tuple) else None


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A value and all its parts at any depth, each with its path.

    >>> [path for path, _ in walk({"method": {"inner_lr": [0.1, 0.2]}})]
    ['', 'method', 'method.inner_lr', 'method.inner_lr.0', 'method.inner_lr.1']
    """
    yield path, value
    parts = dict(enumerate(value)) if isinstance(value, list | tuple) else value
    for key, part in parts.items() if isinstance(parts, Mapping) else ():
        yield from walk(part, f"{path}.{key}" if path else str(key))


def check_finite(settings: Any, whose: str = "") -> None:
    """Refuse infinity and NaN at any depth: one such setting makes every number of a run so, and many pass a bound.

    >>> check_finite({"method": {"inner_lr": [0.1, float("nan")]}})
    Traceback (most recent call last):
    quickstudy.errors.InputError: `method.inner_lr.1` is nan; every number of a configuration must be finite.
    """
    for path, value in walk(settings):
        if isinstance(value, float) and not isfinite(value):
            raise InputError(f"`{path}` is {value}{whose}; every number of a configuration must be finite.")


def is_plain(value: Any) -> bool:
    """Whether a value can be written to a configuration file."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


FactoriesByKind = Mapping[str, Mapping[str, Callable[..., Any]]]
"""For `tasks`, `model` and `method`: the factories by name."""


class DroppedOptions(UserWarning):
    """Options in a file that were dropped, because an override chose another part which does not have them."""


def drop_foreign_options(raw: Mapping[Any, Any], overrides: Sequence[str], known: FactoriesByKind) -> dict[Any, Any]:
    """Drop options that belong to a part which an override replaces.

    With `--method protonet` the file's options of `maml` are dropped, except those that `protonet` has too. Options in
    the overrides themselves are never dropped: an unknown one is refused later.
    """
    data = dict(raw)
    for (what, *deeper), name in parse_overrides(overrides):
        part = data.get(what)
        if deeper or what not in known or not isinstance(name, str) or not isinstance(part, dict):
            continue
        factory = import_factory(name, what) if ":" in name else known[what].get(name)
        if factory is None or name == part.get("name"):
            continue
        takes = options_of(factory, name, what)
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values()):
            continue
        dropped = [option for option in part if option != "name" and option not in takes]
        if dropped:
            listed = ", ".join(f"`{option}`" for option in dropped)
            warnings.warn(
                f"--{what} {name}: {name} has no {listed}; the values for {part.get('name')} are left out.",
                DroppedOptions,
                stacklevel=4,
            )
        data[what] = {option: value for option, value in part.items() if option not in dropped}
    return data
