"""Settings as plain data: from a YAML file, with `--key.sub value` overrides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quickstudy.errors import InputError
from quickstudy.storage.yaml_text import MAX_YAML_BYTES, parse_yaml


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
        with path.open("rb") as file:  # which may be a link or a pipe: the user has named it
            text = file.read(MAX_YAML_BYTES + 1)
        if len(text) > MAX_YAML_BYTES:
            raise InputError(f"{path} holds more than {MAX_YAML_BYTES} bytes, so it is no configuration.")
        raw = parse_yaml(text.decode())
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise InputError(f"{path} is not readable as YAML: {error}") from None
    if not isinstance(raw, dict):
        content = "is empty" if raw is None else f"holds a {type(raw).__name__}"
        raise InputError(f"{path} {content}; a configuration is a mapping with tasks, model and method.")
    return raw


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
            parsed.append((keys, parse_yaml(value)))
        except ValueError as error:
            shown = repr(value) if len(value) <= 80 else f"{value[:77]!r}..."
            raise InputError(f"--{key} was {shown}, which is not readable as a value ({error}). Quote it.") from None
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
