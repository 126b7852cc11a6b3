"""Settings as plain data: a strict YAML reader, and `--key.sub value` overrides."""

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from quickstudy.errors import InputError


class _Loader(yaml.SafeLoader):
    """YAML without two traps of PyYAML: here 1e-3 is a number, and a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as text: it wants a decimal point before an exponent.
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def read_text(text: str) -> Any:
    """The value of a YAML text.

    >>> read_text("{lr: 1e-3, hidden: [40, 40]}")
    {'lr': 0.001, 'hidden': [40, 40]}
    """
    return yaml.load(text, _Loader)


def read_file(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file."""
    if path.is_dir():
        run = (path / "config.yaml").is_file()
        raise InputError(
            f"{path} is a run. Go on with it by --resume {path}, or give its config.yaml to start another like it."
            if run
            else f"{path} is a directory. Give a YAML file."
        )
    try:
        raw = read_text(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: the bytes are no text, or 2020-99-99
        raise InputError(f"{path} is not readable as YAML: {_describe_yaml_error(error)}") from None
    if not isinstance(raw, dict):
        content = "is empty" if raw is None else f"holds a {type(raw).__name__}"
        raise InputError(f"{path} {content}; a configuration is a mapping with tasks, model and method.")
    return raw


def _describe_yaml_error(error: Exception) -> str:
    """The error with its line and column, on one line."""
    return " ".join(str(error).replace(' in "<unicode string>",', " in").split())


def parse_overrides(words: Sequence[str]) -> list[tuple[list[str], Any]]:
    """Parse `--key.sub value` and `--key.sub=value` into paths and values.

    >>> parse_overrides(["--train.meta-lr", "1e-3", "--model.hidden=[8]"])
    [(['train', 'meta_lr'], 0.001), (['model', 'hidden'], [8])]
    """
    parsed = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise InputError(
                f"{word!r} stands alone; an override is written --key.sub value, for example --train.steps 100."
            )
        key, equals, value = word[2:].partition("=")
        keys = key.replace("-", "_").split(".")
        if not all(keys):
            raise InputError(f"{word!r} names no setting; an override is written --key.sub value.")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise InputError(f"--{key} has no value; write --{key} VALUE.")
            value = rest.pop(0)
        try:
            parsed.append((keys, read_text(value)))
        except (yaml.YAMLError, ValueError, RecursionError):
            raise InputError(f"--{key} was {value!r}, which is not readable as a value. Quote it.") from None
    return parsed


def apply_overrides(raw: Mapping[Any, Any], overrides: Sequence[str]) -> dict[Any, Any]:
    """A copy of the data with the overrides put in."""
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
    for keys, value in parse_overrides(overrides):
        _set_value(data, keys, value)
    return data


def _set_value(data: dict[Any, Any], keys: list[str], value: Any) -> None:
    *parents, last = keys
    for depth, key in enumerate(parents):
        child = data.get(key)
        if isinstance(child, str) and depth == 0:  # `method: maml` is short for `method: {name: maml}`
            child = {"name": child}
        elif child is None:
            child = {}
        elif not isinstance(child, dict):
            raise InputError(f"--{'.'.join(keys)} goes into {key!r}, which is a value and has no settings of its own.")
        data[key] = dict(child)
        data = data[key]
    if isinstance(data.get(last), dict) and "name" in data[last] and isinstance(value, str):
        value = {**data[last], "name": value}  # --method mtnet replaces the name and keeps the options
    data[last] = value
