"""Reading configurations: from a file, by the name of one that ships, or from plain data."""

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.models.encoders.photos import has_photos
from quickstudy.training.config.build import FACTORIES
from quickstudy.training.config.factories import check_finite, drop_foreign_options, walk
from quickstudy.training.config.messages import explain_mistaken_name, explain_validation
from quickstudy.training.config.overrides import apply_overrides, parse_overrides, read_file
from quickstudy.training.config.schema import CONFIG_FORMAT, Config
from quickstudy.training.config.trust import belongs_to_run, check_trust

LATER_OPTIONS: Mapping[str, Mapping[str, Any]] = {"folder": {"fit": "stretch"}}
"""Options that came after runs had been made, by the name of their part, with what was done before."""

RECORDED = {"format", "seed", "tasks", "model", "method", "train", "evaluate", "compute"}
"""What every run has recorded of its configuration. A file that a user writes leaves something out."""

PIXEL_PATHS = [["tasks", name] for name in ("name", "size", "channels", "ink", "recipe", "rotations", "fit")]
"""Paths of the options of `folder` that features do not have."""


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package, by name."""
    folder = Path(str(files("quickstudy"))) / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_config(source: str | Path, overrides: Sequence[str] = (), trust: bool = False) -> Config:
    """A configuration from a file, or a shipped one by name, with `--key.sub value` overrides.

    `folder` is `features` where the encoder `photos` is installed, unless the overrides are about pixels or the model.
    """
    chosen = "features" if source == "folder" and has_photos() and not is_about_pixels(overrides) else source
    return parse_config(read_config(chosen, trust), overrides)


def is_about_pixels(overrides: Sequence[str]) -> bool:
    """Whether overrides are about the pixels, or about the model that reads them."""
    named = [keys for keys, _ in parse_overrides(overrides)]
    return any(keys[0] == "model" or keys == ["tasks"] or keys[:2] in PIXEL_PATHS for keys in named)


def read_config(source: str | Path, trust: bool = False) -> dict[Any, Any]:
    """The data in a file, or in a shipped configuration by its name. It is not validated here.

    Args:
        source: The file or the name.
        trust: Whether the file may name code of others although it lies in a run directory.
    """
    path = shipped_configs().get(str(source), Path(source))
    if not os.path.exists(path):  # Path.exists raises where a name is too long for a path
        raise InputError(
            explain_mistaken_name(
                str(source), {name: read_file(path) for name, path in shipped_configs().items()}, FACTORIES
            )
            or f"There is no configuration {str(source)!r}: there is no such file, and none of that name ships. "
            f"{suggest_nearest(str(source), shipped_configs())}"
        )
    raw = read_file(path)
    if belongs_to_run(path):
        check_trust(path, raw, trust)
    return complete_run(raw) if set(raw) >= RECORDED else raw


def complete_run(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """A run's configuration with the options that did not exist when it was made, as things were done then.

    A run records every option, so one that is missing came later.
    """
    added = LATER_OPTIONS.get(str(settings.get("name")), {})
    own = {key: complete_run(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    return {**own, **{key: value for key, value in added.items() if key not in own}}


def parse_config(raw: Mapping[Any, Any], overrides: Sequence[str] = ()) -> Config:
    """A configuration from plain data and `--key.sub value` overrides."""
    data = apply_overrides(drop_foreign_options(raw, overrides, FACTORIES), overrides)
    if isinstance(data.get("format"), int) and data["format"] > CONFIG_FORMAT:
        raise InputError(
            f"The configuration has format {data['format']}; this version reads up to {CONFIG_FORMAT}. "
            "Upgrade quickstudy."
        )
    check_finite(data)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise InputError(explain_validation(error)) from None
    read = config.model_dump()
    check_finite(read)  # again: "inf" is a text before it is read
    _check_truth_values(data, read)
    return config


def _check_truth_values(given: Any, read: Any) -> None:
    """Refuse true and false where a number is read: they would be 1 and 0."""
    numbers = {path: value for path, value in walk(read) if isinstance(value, int | float)}
    for path, value in walk(given):
        if isinstance(value, bool) and path in numbers and not isinstance(numbers[path], bool):
            raise InputError(f"`{path}` is a number; {str(value).lower()} was given.")
