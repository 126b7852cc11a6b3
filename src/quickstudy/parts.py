"""Parts of a configuration by name: one put in another's place, and a name that is a part's and no configuration's."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quickstudy.factories import imported, options_of
from quickstudy.settings import pairs

Known = Mapping[str, Mapping[str, Callable[..., Any]]]
"""Factories by name, by what they make: tasks, model or method."""


class Dropped(UserWarning):
    """Options that went with the part they belonged to."""


def without_strangers(raw: Mapping[Any, Any], overrides: Sequence[str], known: Known) -> dict[Any, Any]:
    """The data without those options of a part that the one put in its place by `--method protonet` does not know.

    What the overrides themselves give is not touched, and is refused later where it does not fit.
    """
    data = dict(raw)
    for (what, *below), name in pairs(overrides):
        part = data.get(what)
        if below or what not in known or not isinstance(name, str) or not isinstance(part, dict):
            continue
        factory = imported(name, what) if ":" in name else known[what].get(name)
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


def mistaken(name: str, configurations: Mapping[str, Mapping[Any, Any]], known: Known) -> str | None:
    """What to say of a name that is a part's, where a configuration's was wanted; None where it is no part's either."""
    for what, makers in known.items():
        if name not in makers:
            continue
        using = [one for one, raw in configurations.items() if _name(raw.get(what)) == name]
        kind = "a family of tasks" if what == "tasks" else f"a {what}"
        advice = f"Configurations with it: {', '.join(using)}." if using else f"Put it into one: --{what} {name}."
        return f"{name!r} is {kind}, not a configuration. {advice}"
    return None


def _name(part: Any) -> Any:
    return part.get("name") if isinstance(part, dict) else part
