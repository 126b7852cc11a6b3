"""The two ways a command can go wrong, and the nearest-name help that both use.

A message says what was given, what would have worked, and the next move.
"""

import sysconfig
import traceback
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from math import inf, isfinite, nan
from operator import index
from pathlib import Path
from typing import SupportsIndex


class InputError(ValueError):
    """What the user gave cannot be used: a name, a file, a shape, a setting. The command line exits with 2."""


class RunError(RuntimeError):
    """The work itself failed: the loss became NaN, the disk is full. The command line exits with 1."""


class UserErrors:
    """Turns whatever the user's code raises in a `with` block into a `RunError`, also what would end the program.

    A class and no generator: `contextlib` takes a RuntimeError that a StopIteration has caused for one of its own.

    Args:
        explain: Makes a message of the error in words.
    """

    def __init__(self, explain: Callable[[str], str]) -> None:
        self.explain = explain

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception | SystemExit) and not isinstance(error, InputError | RunError):
            raise RunError(self.explain(describe_error(error))) from error


def check_positive(name: str, value: float, why: str) -> None:
    """Refuse a number that is not above 0 and finite; NaN is neither.

    >>> check_positive("scale", 0.0, "it multiplies cosines")
    Traceback (most recent call last):
    quickstudy.errors.InputError: `scale` was 0.0; it multiplies cosines, so it must be above 0 and finite.
    """
    if not 0 < value < inf:
        raise InputError(f"`{name}` was {value}; {why}, so it must be above 0 and finite.")


def check_finite(name: str, value: float) -> float:
    """A number as a float; refused if it is none, NaN or infinite.

    >>> check_finite("start", float("nan"))
    Traceback (most recent call last):
    quickstudy.errors.InputError: `start` was nan; give a finite number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = nan
    if not isfinite(number):
        raise InputError(f"`{name}` was {value!r}; give a finite number.")
    return number


def is_count(value: object) -> bool:
    """Whether a value is a whole number of at least 1."""
    return isinstance(value, SupportsIndex) and index(value) >= 1


def check_count(name: str, value: SupportsIndex) -> int:
    """A number of things, of which there is one or more.

    >>> check_count("width", 2.5)
    Traceback (most recent call last):
    quickstudy.errors.InputError: `width` was 2.5; give a whole number of at least 1.
    """
    if not is_count(value):
        raise InputError(f"`{name}` was {value!r}; give a whole number of at least 1.")
    return index(value)


MOST_NAMES, FEW = 60, 10
"""More names than these are not listed in a message, but so many of them."""


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """The known name closest to `word`, as the end of an error message.

    >>> suggest_nearest("inner_lrr", ["inner_lr", "steps"])
    'Did you mean `inner_lr`? Known: inner_lr, steps.'
    >>> suggest_nearest("xyz", [])
    'None are known.'
    """
    names = sorted(known)
    if not names:
        return "None are known."
    close = get_close_matches(str(word), names, n=1, cutoff=0.5)
    listed = ", ".join(names) if len(names) <= MOST_NAMES else f"{', '.join(names[:FEW])} and {len(names) - FEW} more"
    return (f"Did you mean `{close[0]}`? " if close else "") + f"Known: {listed}."


def suggest_setting(key: str, known: Iterable[str], paths: Mapping[str, str]) -> str:
    """The nearest known setting, or the full path of a setting that has this name elsewhere.

    Args:
        key: What was given, with or without dashes in front.
        known: The names that are allowed here.
        paths: Full paths of settings by their last name, such as `train.steps` by `steps`.

    >>> suggest_setting("--steps", ["--train", "--out"], {"steps": "train.steps"})
    'Did you mean `train.steps`? Known here: --out, --train.'
    """
    if key.lstrip("-").partition(".")[0] == "search":
        return "`quickstudy sweep` takes it, with the same configuration; to train once, leave it out."
    names = sorted(known)
    close = get_close_matches(key.lstrip("-").replace("-", "_"), paths, n=1, cutoff=0.8)
    if close and close[0] not in names:
        return f"Did you mean `{paths[close[0]]}`? Known here: {', '.join(names)}."
    return suggest_nearest(key, names)


def printable(text: object) -> str:
    r"""A text on one line, with an escape for every character that would steer a terminal.

    >>> printable("a\nb\x1b[2J")
    'a b\\x1b[2J'
    """
    line = " ".join(str(text).splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def describe_error(error: BaseException) -> str:
    """An error that the user's own code raised, on one line, with the file and line in that code.

    Where no frame is in the user's code, the deepest frame of this package below the caller's is named.
    """
    ours = Path(__file__).parent
    looks_on = ours / "engine" / "second_derivatives.py"  # every call of a function of torch may pass through it
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    frames = [(Path(f.filename), f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    near = [(p, n) for p, n in frames if p.is_file() and not any(map(p.is_relative_to, (*installed, looks_on)))]
    place = ([(p, n) for p, n in near if not p.is_relative_to(ours)] or near[1:])[-1:]
    said = " ".join(str(error).split())
    return type(error).__name__ + (f": {said}" if said else "") + "".join(f" ({p.name}, line {n})" for p, n in place)
