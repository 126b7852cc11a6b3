"""Search spaces: which settings a sweep varies, and over what.

    log:1e-4..0.5    a number between the two, drawn by its logarithm
    0.1..0.9         a number between the two; float:0..1 where both ends are whole
    int:1..5         a whole number, both ends included
    logint:8..512    a whole number, drawn by its logarithm
    maml,mtnet       one of these; or a list, as in [[8], [40, 40]]

A setting is named by its path, as everywhere: `method.inner_lr`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, pi
from typing import Any

import yaml

from quickstudy.errors import InputError
from quickstudy.storage.files import dumps
from quickstudy.training.config.overrides import parse_overrides, read_text

SCALES = ("float", "int", "log", "logint")
EXAMPLES = "log:1e-4..0.1, 0.1..0.9, int:1..5 or maml,mtnet"


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included."""

    low: int | float
    high: int | float
    whole: bool
    log: bool

    def __str__(self) -> str:
        kind = ("logint" if self.log else "int") if self.whole else ("log" if self.log else "float")
        return f"{kind}:{self.low}..{self.high}"

    @property
    def probes(self) -> tuple[int | float, ...]:
        """What is tried before the sweep begins: both ends, and between them a number that is not whole."""
        if self.whole:
            return (self.low, self.high)
        return (self.low, self.high, self.low + (self.high - self.low) / pi)


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ",".join(self.labels)

    @property
    def labels(self) -> dict[str, Any]:
        """The values by what a study calls them; it can hold no lists, so text stands for every value."""
        return {value if isinstance(value, str) else dumps(value): value for value in self.values}

    @property
    def probes(self) -> tuple[Any, ...]:
        """Every value."""
        return self.values


Dimension = Range | Choice
Space = Mapping[str, Dimension]


def parse_space(raw: Any, overrides: Sequence[str] = ()) -> dict[str, Dimension]:
    """The search space that a file's `search` and `--search.key.sub RANGE` describe together; the latter win.

    Settings above come before those below them: a sampled `method` must not wipe out a sampled `method.inner_lr`.

    >>> found = parse_space({"method": {"inner_lr": "log:1e-3..0.5"}}, ["--search.method", "maml,mtnet"])
    >>> [f"{key} {over}" for key, over in found.items()]
    ['method maml,mtnet', 'method.inner_lr log:0.001..0.5']
    """
    given = _flat({} if raw is None else raw)
    for keys, value in parse_overrides(overrides):
        given[".".join(keys[1:])] = value
    if not given:
        raise InputError(
            "Nothing is searched. Give the settings to vary, each with its range, for example "
            "--search.method.inner_lr log:0.001..0.5, or under `search` in the file."
        )
    found = {key: parse_dimension(key, value) for key, value in given.items()}
    return dict(sorted(found.items(), key=lambda item: item[0].count(".")))


def _flat(raw: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise InputError(f"`search` holds a {type(raw).__name__}; give settings with their ranges: {EXAMPLES}.")
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def parse_dimension(key: str, value: Any) -> Dimension:
    """What one setting is searched over."""
    if not key:
        raise InputError("`--search` names no setting; write --search.method.inner_lr log:0.001..0.5.")
    if isinstance(value, str) and "," not in value and ".." in value:
        return _range(key, value)
    listed = value
    if isinstance(value, str) and "," in value:
        try:
            listed = read_text(f"[{value}]")
        except (yaml.YAMLError, ValueError, RecursionError):
            raise InputError(f"`search.{key}` is {value!r}, which is not readable as a list of values.") from None
    if not isinstance(listed, list) or len(listed) < 2:
        raise InputError(
            f"`search.{key}` is {_said(value)}, which leaves nothing to search. Give a range or several values: "
            f"{EXAMPLES}. A fixed value is set by --{key} VALUE."
        )
    choice = Choice(tuple(listed))
    if len(choice.labels) < len(listed):
        raise InputError(f"`search.{key}` is {_said(value)}, which has a value twice. Give each once.")
    return choice


def _said(value: Any) -> str:
    return repr(value) if isinstance(value, str) else dumps(value)


def _range(key: str, text: str) -> Range:
    match = re.fullmatch(r"\s*(?:(\w*):)?\s*(\S+?)\s*\.\.\s*(\S+?)\s*", text)
    kind, *ends = match.groups() if match else ("", "", "")
    if match is None or (kind is not None and kind not in SCALES):
        raise InputError(f"`search.{key}` is {text!r}, which is no range. Write it like these: {EXAMPLES}.")
    low, high = (_number(key, text, end) for end in ends)
    if low >= high:
        raise InputError(f"`search.{key}` is {text!r}, which does not go up. Give the smaller end first: 0.1..0.9.")
    if kind is None and isinstance(low, int) and isinstance(high, int):
        raise InputError(
            f"`search.{key}` is {text!r}: whole numbers, or all between? Write int:{low}..{high} or "
            f"float:{low}..{high}."
        )
    whole, log = kind in ("int", "logint"), kind in ("log", "logint")
    if whole and not (isinstance(low, int) and isinstance(high, int)):
        raise InputError(f"`search.{key}` is {text!r}, whose ends are not whole. Write for example int:1..5.")
    if log and low <= 0:
        raise InputError(
            f"`search.{key}` is {text!r}, and there is no logarithm of {low}. Begin above 0, as in log:1e-4..0.1."
        )
    return Range(low, high, True, log) if whole else Range(float(low), float(high), False, log)


def _number(key: str, text: str, end: str) -> int | float:
    try:
        value = read_text(end)
    except (yaml.YAMLError, ValueError):
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise InputError(f"`search.{key}` is {text!r}, where {end!r} is no number. Write it like these: {EXAMPLES}.")
    return value


def as_overrides(sample: Mapping[str, Any]) -> list[str]:
    """Sampled values as overrides of a configuration.

    >>> as_overrides({"method.inner_lr": 0.01, "model.hidden": [40, 40]})
    ['--method.inner_lr=0.01', '--model.hidden=[40, 40]']
    """
    return [f"--{key}={dumps(value)}" for key, value in sample.items()]
