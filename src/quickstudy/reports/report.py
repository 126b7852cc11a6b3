"""Reports: several runs on one HTML page that opens without a network, with its figures beside it as PNGs.

Everything comes from the run directories; no learner is built and no data set is read. What a run lacks (it was not
tested, it logged nothing) is said on the page instead of being an error, so a report can be made at any time.

The page is `report.html.jinja`; Jinja escapes every value. This file computes the values.
"""

import base64
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from quickstudy.errors import InputError, RunError
from quickstudy.reports import canvas, figures, image_figures
from quickstudy.storage.files import write_atomic
from quickstudy.storage.result import INTERVAL, Array, EvaluationResult
from quickstudy.storage.run import Run

UNTESTED = "This run has no results yet: it was not tested."
DASH = "\N{EN DASH}"
"""Stands for a value that is not there."""

T = TypeVar("T")

Results = Mapping[str, Mapping[str, EvaluationResult]]
"""The results of each run: by the run's label, then by their name."""


def read_templates(*folders: str) -> Environment:
    """The templates in folders of this package. What goes into HTML is escaped; a misspelt name is an error."""
    return Environment(
        loader=ChoiceLoader([PackageLoader("quickstudy", folder) for folder in folders]),
        autoescape=lambda name: bool(name and ".html" in name),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


HEAD_BYTES = 2000
"""So far from the beginning of a page is its title, which tells whose it is."""


def refuse_foreign_page(folder: Path) -> None:
    """Refuse a folder with a page that is not a report's: it would be replaced."""
    page = folder / "index.html"
    if not page.is_file():
        return
    with page.open("rb") as file:
        begins = file.read(HEAD_BYTES)
    if begins and b"<title>quickstudy" not in begins:
        raise InputError(f"{page} is a page of your own, and a report would replace it. Give another directory.")


def write_report(runs: Sequence[Run], out: str | Path) -> Path:
    """Write `out/index.html` and its PNGs from what is in the runs, and return the path of the page."""
    out = Path(out)
    if not runs:
        raise InputError("A report needs at least one run, and none was given. Give run directories.")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, and a report is a directory. Give another path.")
    refuse_foreign_page(out)
    labelled = _label_runs(runs)
    results = {label: run.results() for label, run in labelled.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        page = _render_page(labelled, results, _Figures(out))
        write_atomic(out / "index.html", page.encode())
    except OSError as error:
        raise RunError(
            f"The report could not be written to {out}: {error.strerror or error}. "
            "Free some space or give another directory; the runs are not affected."
        ) from error
    return out / "index.html"


@dataclass(frozen=True)
class _Figure:
    """A PNG of the page as a data URL, its size in CSS pixels, and a sentence about it; empty where it is missing."""

    source: str = ""
    width: int = 0
    height: int = 0
    caption: str = ""


class _Figures:
    """Writes figures beside the page, each under a file name of its own."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.stems: set[str] = set()
        self.sheets: list[tuple[str, dict[str, Array]]] = []

    def find_same_classes(self, label: str, result: EvaluationResult) -> str:
        """The label of an earlier run whose classes and images of them are the same; empty if there is none."""
        parts = {n: v for n, v in result.arrays.items() if n.startswith("sheet_") or n in ("labels", "names")}
        for earlier, others in self.sheets:
            if parts.keys() == others.keys() and all(np.array_equal(v, others[n]) for n, v in parts.items()):
                return earlier
        if "sheet_x" in parts:
            self.sheets.append((label, parts))
        return ""

    def add(self, name: str, png: bytes | None, caption: str = "") -> _Figure:
        if png is None:
            return _Figure(caption=caption)
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
        numbered = (f"{stem}-{i}" if i else stem for i in range(len(self.stems) + 1))
        stem = next(one for one in numbered if one not in self.stems)
        self.stems.add(stem)
        write_atomic(self.out / f"{stem}.png", png)
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        # A PNG has its width and height as 4 bytes each at 16 and 20. At 96 dots an inch its text has the page's size.
        width, height = (int.from_bytes(png[at : at + 4], "big") * 96 // canvas.DPI for at in (16, 20))
        return _Figure(source, width, height, caption)


def _render_page(labelled: Mapping[str, Run], results: Results, drawn: _Figures) -> str:
    data_lines = {_describe_data(result.summary) for own in results.values() for result in own.values()}
    shared_data = data_lines.pop() if len(data_lines) == 1 else ""
    return (
        read_templates("reports")
        .get_template("report.html.jinja")
        .render(
            labels=list(labelled),
            untested=UNTESTED,
            shared_data=shared_data,
            rows=[row for label, own in results.items() for row in _table_rows(label, own, shared_data)],
            unequal_lists=_find_unequal_lists(results),
            curves=drawn.add("learning", figures.draw_learning_curves(labelled)),
            spreads=_draw_spreads(results, drawn),
            runs=[_describe_run(label, run, results[label], drawn) for label, run in labelled.items()],
        )
    )


def _describe_run(label: str, run: Run, results: Mapping[str, EvaluationResult], drawn: _Figures) -> dict[str, Any]:
    """The section of one run: an example task, its classes, its probes, its settings and versions."""
    names = _sort_names(results)
    examples = ((name, found) for name in names if (found := _draw(figures.draw_example_task, results[name])))
    name, (png, caption) = next(examples, ("", (None, "")))
    section: dict[str, Any] = {"label": label, "tested": bool(results), "confusion": None, "classes": None}
    section |= {"classes_of": "", "task": drawn.add(f"task-{label}", png, caption), "task_name": name}
    section["task_result"] = _describe_result(name, results)
    if names:  # confusions and a contact sheet are those of the first result, if it has them
        first = results[names[0]]
        data = first.summary.get("data")
        section |= {"first_name": names[0], "first_result": _describe_result(names[0], results)}
        section["split_rule"] = (data.get("split_rule") if isinstance(data, dict) else None) or "as given"
        if "confusion" in first.arrays:
            section["confusion"] = drawn.add(
                f"confusion-{label}", *(_draw(image_figures.draw_confusion, first) or (None, ""))
            )
        section["classes_of"] = drawn.find_same_classes(label, first)
        if "sheet_x" in first.arrays and not section["classes_of"]:
            section["classes"] = drawn.add(
                f"classes-{label}", *(_draw(image_figures.draw_contact_sheet, first) or (None, ""))
            )
    section["probes"] = drawn.add(f"probes-{label}", figures.draw_probes(run))
    for part, held in (("settings", run.config), ("versions", run.versions)):
        section[part] = yaml.safe_dump(held, sort_keys=False, allow_unicode=True) if held else "not recorded"
    return section


def _draw(draw: Callable[..., T | None], *of: Any) -> T | None:
    """A figure of results; None where their arrays do not fit together, in whichever of many ways."""
    try:
        return draw(*of)
    except InputError:  # matplotlib is missing
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None


def _describe_result(name: str, results: Mapping[str, EvaluationResult]) -> str:
    """A result's name with its split and its list of tasks."""
    summary = results[name].summary if name in results else {}
    parts = [f"{summary['split']} split"] if summary.get("split") else []
    parts += [f"list {_format_setting(summary['hash'])}"] if summary.get("hash") else []
    return f"`{name}`" + (f" ({', '.join(parts)})" if parts else "")


def _describe_data(summary: Mapping[str, Any]) -> str:
    data = summary.get("data") or {}
    if not isinstance(data, dict):
        return str(data)
    return " · ".join(f"{key}: {_format_setting(value)}" for key, value in data.items())


def _table_rows(label: str, own: Mapping[str, EvaluationResult], shared_data: str) -> list[dict[str, str]]:
    """The rows of one run: a row for each result, or one that says that there is none."""
    if not own:
        return [{"title": label, "untested": UNTESTED}]
    return [_table_row(_title(label, name), own[name].summary, shared_data) for name in _sort_names(own)]


def _table_row(title: str, summary: Mapping[str, Any], shared_data: str) -> dict[str, str]:
    return {
        "title": title,
        "untested": "",
        "method": _format_setting(summary.get("method")),
        "norms": _format_setting(summary.get("norms")),
        "score": format_score(summary),
        "metric": str(summary.get("metric", "metric")),
        "finite": _format_setting(summary.get("finite")),
        "tasks": _format_setting(summary.get("tasks")),
        "adapt_ms": _format_number(summary.get("adapt_ms"), 2),
        "train_seconds": _format_number(summary.get("train_seconds"), 0),
        "parameters": _format_number(summary.get("parameters"), 0),
        "data": "as above" if shared_data else _describe_data(summary) or DASH,
        "protocol": _format_setting(summary.get("protocol")),
        "hash": _name_lists(summary.get("hash")),
        "spread": "" if summary.get("spread") in (None, INTERVAL) else f"± is the {summary['spread']}",
    }


def _name_lists(tasks: Any) -> str:
    """The hash of a list of tasks; of several lists, the first, and how many there are."""
    first, *more = _format_setting(tasks).split("+")
    return first[:12] + (f" and {len(more)} more" if more else "")


def format_amount(mean: float, interval: float, metric: str) -> str:
    """A mean with its 95% interval, to the interval's leading digits: one for accuracy in percent, else two.

    >>> format_amount(0.9712, 0.0041, "accuracy"), format_amount(0.5271, 0.0558, "mse")
    ('97.1 ± 0.4 %', '0.527 ± 0.056')
    >>> format_amount(0.5, float("nan"), "mse")
    '0.500'
    """
    percent = metric == "accuracy"
    least, lead, unit = (1, 1, " %") if percent else (0, 2, "")
    mean, spread = (100 * mean, 100 * interval) if percent else (mean, interval)
    known = math.isfinite(spread)
    if max(abs(mean), abs(spread) if known else 0.0) >= 1e6:
        return f"{mean:.3g}" + (f" ± {spread:.2g}" if known else "") + unit
    digits = lead - 1 - math.floor(math.log10(spread)) if known and spread > 0 else 2 * lead - 1
    digits = min(max(digits, least), 8)
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if known else "") + unit


def format_score(summary: Mapping[str, Any]) -> str:
    """A result in one line.

    >>> format_score({"metric": "accuracy", "mean": 0.9712, "interval": 0.0041, "tasks": 600, "finite": 600})
    '97.1 ± 0.4 %'
    >>> format_score({"metric": "mse", "mean": 0.61, "interval": 0.05, "tasks": 600, "finite": 597})
    '0.610 ± 0.050 (3 of 600 diverged)'
    """
    mean, interval = summary.get("mean"), summary.get("interval")
    tasks, finite = summary.get("tasks"), summary.get("finite")
    diverged = tasks - finite if isinstance(tasks, int) and isinstance(finite, int) else 0
    if diverged and not finite:
        return f"all {tasks} tasks diverged"
    if not isinstance(mean, int | float):
        return DASH
    # A result of an earlier version has the interval 0 where there was one task.
    spread = interval if isinstance(interval, int | float) and finite != 1 else math.nan
    amount = format_amount(mean, spread, str(summary.get("metric", ""))) + (" (one task)" if finite == 1 else "")
    return f"{amount} ({diverged} of {tasks} diverged)" if diverged else amount


def _find_unequal_lists(results: Results) -> list[dict[str, str]]:
    """Results of one name and metric that come from several lists of tasks: they cannot be compared task by task."""
    lists: dict[tuple[str, str], dict[str, list[str]]] = {}
    for label, own in results.items():
        for name, result in own.items():
            by_hash = lists.setdefault((name, str(result.summary.get("metric"))), {})
            by_hash.setdefault(_format_setting(result.summary.get("hash")), []).append(label)
    return [
        {
            "result": name,
            "groups": "; ".join(f"{_name_lists(key)}: {', '.join(labels)}" for key, labels in by_hash.items()),
        }
        for (name, _), by_hash in sorted(lists.items())
        if len(by_hash) > 1
    ]


def _draw_spreads(results: Results, drawn: _Figures) -> list[dict[str, Any]]:
    """How the metric of single tasks is spread: a figure for each metric."""
    by_metric: dict[str, dict[str, EvaluationResult]] = {}
    for label, own in results.items():
        for name in _sort_names(own):
            metric = str(own[name].summary.get("metric", "metric"))
            several = "+" in str(own[name].summary.get("hash"))
            title = _title(label, name) + (" (the first list of tasks)" if several else "")
            by_metric.setdefault(metric, {})[title] = own[name]
    return [
        {
            "metric": metric,
            "titles": list(of_metric),
            "figure": drawn.add(f"spread-{metric}", _draw(figures.draw_spread, of_metric, metric)),
        }
        for metric, of_metric in sorted(by_metric.items())
    ]


def _title(label: str, name: str) -> str:
    """What a result of a run is called: the usual one, `test`, by the run alone."""
    return label if name == "test" else f"{label} · {name}"


def _sort_names(results: Mapping[str, EvaluationResult]) -> list[str]:
    """The names of results, `test` first."""
    return sorted(results, key=lambda name: (name != "test", name))


def _label_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the shortest end of their paths that tells them apart. A run that is given twice is there once."""
    distinct = {run.path.resolve(): run for run in runs}
    depth = 1
    while len({path.parts[-depth:] for path in distinct}) < len(distinct):
        depth += 1
    return {"/".join(path.parts[-depth:]): run for path, run in distinct.items()}


def _format_number(value: Any, digits: int) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else DASH


def _format_setting(value: Any) -> str:
    if value is None or value == "":
        return DASH
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
