"""Search spaces: the settings that a sweep varies, and their ranges.

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

from quickstudy.errors import InputError
from quickstudy.storage.files import dumps
from quickstudy.storage.yaml_text import parse_yaml
from quickstudy.training.config.overrides import parse_overrides

RANGE_KINDS = ("float", "int", "log", "logint")
RANGE_EXAMPLES = "log:1e-4..0.1, 0.1..0.9, int:1..5 or maml,mtnet"


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
    def check_values(self) -> tuple[int | float, ...]:
        """The values that are checked before the sweep begins.

        These are both ends and, unless only whole numbers are drawn, a number between them that is not whole.
        """
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
        """The values by their text. Optuna keeps no lists, so a study holds these texts."""
        return {value if isinstance(value, str) else dumps(value): value for value in self.values}

    @property
    def check_values(self) -> tuple[Any, ...]:
        """The values that are checked before the sweep begins: all."""
        return self.values


Dimension = Range | Choice
Space = Mapping[str, Dimension]


def parse_space(raw: Any, overrides: Sequence[str] = ()) -> dict[str, Dimension]:
    """The search space of a file's `search` and of `--search.key.sub RANGE`. The overrides win.

    `method` comes before `method.inner_lr`. In the other order a drawn method would replace the drawn step size.

    >>> space = parse_space({"method": {"inner_lr": "log:1e-3..0.5"}}, ["--search.method", "maml,mtnet"])
    >>> [f"{key} {dimension}" for key, dimension in space.items()]
    ['method maml,mtnet', 'method.inner_lr log:0.001..0.5']
    """
    given = _flatten_space({} if raw is None else raw)
    for keys, value in parse_overrides(overrides):
        given[".".join(keys[1:])] = value
    if not given:
        raise InputError(
            "Nothing is searched. Give the settings to vary, each with its range, for example "
            "--search.method.inner_lr log:0.001..0.5, or under `search` in the file."
        )
    for key in given:
        if key and not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):  # it becomes a word of a command line
            raise InputError(f"`search` has {key!r}, which is no setting. Write its path: method.inner_lr.")
    space = {key: parse_dimension(key, value) for key, value in given.items()}
    return dict(sorted(space.items(), key=lambda item: item[0].count(".")))


def _flatten_space(raw: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by their paths: `{"method": {"inner_lr": R}}` becomes `{"method.inner_lr": R}`."""
    if not isinstance(raw, Mapping):
        raise InputError(f"`search` holds a {type(raw).__name__}; give settings with their ranges: {RANGE_EXAMPLES}.")
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        flat |= _flatten_space(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def parse_dimension(key: str, value: Any) -> Dimension:
    """The range or the choice of one setting."""
    if not key:
        raise InputError("`--search` names no setting; write --search.method.inner_lr log:0.001..0.5.")
    if isinstance(value, str) and "," not in value and ".." in value:
        return _parse_range(key, value)
    listed = value
    if isinstance(value, str) and "," in value:
        if '"' in value and "\\" in value:  # an escape could hide what code a value names
            raise InputError(f"`search.{key}` is {value!r}. Write texts with a backslash as a list: [..., ...].")
        try:
            listed = parse_yaml(f"[{value}]")
        except ValueError:
            raise InputError(f"`search.{key}` is {value!r}, which is not readable as a list of values.") from None
    if not isinstance(listed, list) or len(listed) < 2:
        raise InputError(
            f"`search.{key}` is {_quote(value)}, which leaves nothing to search. Give a range or several values: "
            f"{RANGE_EXAMPLES}. A fixed value is set by --{key} VALUE."
        )
    choice = Choice(tuple(listed))
    if len(choice.labels) < len(listed):
        raise InputError(f"`search.{key}` is {_quote(value)}, which has a value twice. Give each once.")
    return choice


def _quote(value: Any) -> str:
    return repr(value) if isinstance(value, str) else dumps(value)


def _parse_range(key: str, text: str) -> Range:
    match = re.fullmatch(r"\s*(?:(\w*):)?\s*(\S+?)\s*\.\.\s*(\S+?)\s*", text)
    kind, *ends = match.groups() if match else ("", "", "")
    if match is None or (kind is not None and kind not in RANGE_KINDS):
        raise InputError(f"`search.{key}` is {text!r}, which is no range. Write it like these: {RANGE_EXAMPLES}.")
    low, high = (_parse_number(key, text, end) for end in ends)
    if low >= high:
        raise InputError(f"`search.{key}` is {text!r}, which does not go up. Give the smaller end first: 0.1..0.9.")
    if kind is None and isinstance(low, int) and isinstance(high, int):
        raise InputError(
            f"`search.{key}` is {text!r}. Are only whole numbers meant? Write int:{low}..{high} or float:{low}..{high}."
        )
    whole, log = kind in ("int", "logint"), kind in ("log", "logint")
    if whole and not (isinstance(low, int) and isinstance(high, int)):
        raise InputError(f"`search.{key}` is {text!r}, whose ends are not whole. Write for example int:1..5.")
    if log and low <= 0:
        raise InputError(
            f"`search.{key}` is {text!r}, and there is no logarithm of {low}. Begin above 0, as in log:1e-4..0.1."
        )
    return Range(low, high, True, log) if whole else Range(float(low), float(high), False, log)


def _parse_number(key: str, text: str, end: str) -> int | float:
    try:
        value = parse_yaml(end)
    except ValueError:
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise InputError(
            f"`search.{key}` is {text!r}, where {end!r} is no number. Write it like these: {RANGE_EXAMPLES}."
        )
    return value


def as_overrides(sample: Mapping[str, Any]) -> list[str]:
    """Drawn values as overrides of a configuration.

    >>> as_overrides({"method.inner_lr": 0.01, "model.hidden": [40, 40]})
    ['--method.inner_lr=0.01', '--model.hidden=[40, 40]']
    """
    return [f"--{key}={dumps(value)}" for key, value in sample.items()]
