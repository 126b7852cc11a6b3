"""Messages about mistakes in a configuration: what was given, and the nearest setting that exists."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from quickstudy.errors import suggest_setting
from quickstudy.training.config.factories import FactoriesByKind
from quickstudy.training.config.schedule import SCHEDULES
from quickstudy.training.config.schema import Config, EvaluateSettings, TrainSettings

PATHS = {
    name: f"{part}.{name}"
    for part, settings in (("evaluate", EvaluateSettings), ("train", TrainSettings))
    for name in settings.model_fields
}
"""Full paths of the settings that are most often given without one, by their last name."""


def explain_validation(error: ValidationError, place: str = "") -> str:
    """One sentence for each mistake. For an unknown setting it names the nearest known one.

    Args:
        error: pydantic's error.
        place: The setting that was validated; by default a whole configuration.
    """
    sentences = []
    for item in error.errors():
        steps = [str(step) for step in item["loc"]]
        where = ".".join([place] if place else steps)
        given = " ".join(repr(item["input"]).split())
        given = given if len(given) <= 80 else given[:77] + "..."
        if item["type"] == "extra_forbidden":
            advice = suggest_setting(steps[-1], _known_settings(item["loc"][:-1]), PATHS)
            sentences.append(f"`{where}` is no setting. {advice}")
        elif item["type"] == "missing" and isinstance(item["loc"][-1], int):  # of a list, and not of the settings
            needed = item["loc"][-1] + 1
            sentences.append(
                f"`{place or '.'.join(steps[:-1])}` has too few values: it has {needed} or more (given: {given})."
            )
        elif item["type"] == "missing":
            part = "" if place or len(steps) > 1 else " `quickstudy train NAME --print-config` prints a whole example."
            sentences.append(f"`{where}` is missing.{part}")
        elif item["type"] == "union_tag_not_found":
            sentences.append(_explain_kind(where, item["input"]))
        else:
            message = item["msg"].removeprefix("Value error, ")
            wants_list = "tuple" in message or "list" in message or "Sequence" in message
            value = given.strip("'")
            example = f"{value}, {value}" if "tuple" in message and steps[0] == "tasks" else value  # of tasks: a range
            hint = f" Write a list: '[{example}]'." if wants_list and not isinstance(item["input"], dict) else ""
            sentences.append(f"`{where}`: {message[:1].lower()}{message[1:]} (given: {given}).{hint}")
    return " ".join(dict.fromkeys(sentences))


def _explain_kind(where: str, given: Any) -> str:
    """The message for a schedule that does not say of which kind it is."""
    if isinstance(given, Mapping) and given and all(isinstance(value, Mapping) for value in given.values()):
        return (
            f"`{where}` is no schedule. The path of a buffer is one key: --train.schedules '{{rule.rate.value: {{kind: "
            "ramp, start: 0, end: 100, before: 0.1, after: 0.01}}'."
        )
    kinds = [f"{kind} ({', '.join(n for n in of.model_fields if n != 'kind')})" for kind, of in SCHEDULES.items()]
    return f"`{where}` does not say its `kind`: {' or '.join(kinds)}."


def _known_settings(path: Sequence[Any]) -> list[str]:
    """The settings that exist at a path, sorted."""
    if path and path[-1] in SCHEDULES:  # pydantic ends the path to a schedule with its kind
        return sorted(SCHEDULES[path[-1]].model_fields)
    model: Any = Config
    for step in path:
        field = getattr(model, "model_fields", {}).get(step)
        model = field.annotation if field is not None else None
        model = next((kind for kind in get_args(model) if hasattr(kind, "model_fields")), model)  # InitFrom | None
    return sorted(getattr(model, "model_fields", {}))


def explain_mistaken_name(
    name: str, configurations: Mapping[str, Mapping[Any, Any]], known: FactoriesByKind
) -> str | None:
    """A message for the name of a method, model or tasks where a configuration was wanted; None for any other name."""
    for what, factories in known.items():
        if name not in factories:
            continue
        using = [config for config, raw in configurations.items() if _part_name(raw.get(what)) == name]
        kind = "a family of tasks" if what == "tasks" else f"a {what}"
        advice = f"Configurations with it: {', '.join(using)}." if using else f"Put it into one: --{what} {name}."
        return f"{name!r} is {kind}, not a configuration. {advice}"
    return None


def _part_name(part: Any) -> Any:
    return part.get("name") if isinstance(part, dict) else part
