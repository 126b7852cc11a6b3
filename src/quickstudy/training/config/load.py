"""Configurations from files, from the names of those that ship, and from plain data."""

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quickstudy.errors import InputError, nearest
from quickstudy.training.config.build import KNOWN
from quickstudy.training.config.factories import without_strangers
from quickstudy.training.config.messages import explain, mistaken
from quickstudy.training.config.overrides import overlaid, read_file
from quickstudy.training.config.schema import FORMAT, Config


def shipped() -> dict[str, Path]:
    """The configurations that come with the package, by name."""
    folder = Path(str(files("quickstudy"))) / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A configuration from a file, or a shipped one by name, with `--key.sub value` overrides."""
    return parse(read(source), overrides)


def read(source: str | Path) -> dict[Any, Any]:
    """What a file says, or a shipped configuration by name; not yet looked at."""
    path = shipped().get(str(source), Path(source))
    if not os.path.exists(path):  # unlike Path.exists, False also for a name too long to be one
        raise InputError(
            mistaken(str(source), {name: read_file(path) for name, path in shipped().items()}, KNOWN)
            or f"There is no configuration {str(source)!r}: no such file, and none of that name ships. "
            f"{nearest(str(source), shipped())}"
        )
    return read_file(path)


def parse(raw: Mapping[Any, Any], overrides: Sequence[str] = ()) -> Config:
    """A configuration from plain data and overrides."""
    data = overlaid(without_strangers(raw, overrides, KNOWN), overrides)
    if isinstance(data.get("format"), int) and data["format"] > FORMAT:
        raise InputError(
            f"The configuration has format {data['format']}; this version reads up to {FORMAT}. Upgrade quickstudy."
        )
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise InputError(explain(error)) from None
