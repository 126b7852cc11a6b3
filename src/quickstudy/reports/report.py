"""Reports: runs side by side as one HTML page that opens without a network, with its figures beside it as PNGs.

Everything comes from the run directories; no learner is built and no data set is read. What a run lacks (it was never
tested, it logged nothing) is said on the page instead of being an error, so a report can be made at any time.
"""

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from quickstudy.errors import InputError, RunError
from quickstudy.reports import canvas, figures, image_figures
from quickstudy.storage.files import write_atomic
from quickstudy.storage.result import Result
from quickstudy.storage.run import Run

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5d6670; --line: #dde1e6; --page: #fff; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a0a8b2; --line: #363c44; --page: #15181c; --card: #1e2227; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 2rem 0 .5rem; }
p, figcaption, caption { max-width: 75ch; } p.soft, figcaption, caption, td small { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; padding-bottom: .6rem; caption-side: top; }
th, td { text-align: left; vertical-align: top; padding: .5rem .9rem .5rem 0; border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; white-space: nowrap; border-bottom: 2px solid var(--line); }
tbody th { font-weight: 600; } td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.wide { min-width: 14rem; } td small { display: block; white-space: normal; }
figure { margin: 1rem 0 2rem; } figcaption { font-size: .9rem; margin-top: .5rem; }
figure img { max-width: 100%; height: auto; background: #fff; padding: .75rem; border: 1px solid var(--line);
  border-radius: 6px; }
.note { border-left: 4px solid #d55e00; background: var(--card); padding: .6rem 1rem; max-width: 75ch; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; }
summary { cursor: pointer; padding: .5rem .9rem; } pre { margin: 0; padding: .75rem .9rem; overflow-x: auto;
  background: var(--card); font-size: .82rem; border-radius: 0 0 6px 6px; }
"""

_COLUMNS = ("run", "method", "metric, 95% interval", "adapt (ms)", "training (s)", "parameters", "data", "task list")


def write_report(runs: Sequence[Run], out: str | Path) -> Path:
    """Write `out/index.html` and its PNGs from what is in the runs, and return the path of the page."""
    out = Path(out)
    if not runs:
        raise InputError("A report needs at least one run, and none was given. Give run directories.")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, and a report is a directory. Give another path.")
    named = _named(runs)
    results = {label: run.results() for label, run in named.items()}
    page = _Page(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        body = _body(named, results, page)
        write_atomic(out / "index.html", body.encode())
    except OSError as error:
        raise RunError(
            f"The report could not be written to {out}: {error.strerror or error}. "
            "Free some space or give another directory; the runs are not affected."
        ) from error
    return out / "index.html"


class _Page:
    """Writes figures beside the page and hands back the markup that embeds them."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.names: set[str] = set()

    def figure(self, name: str, png: bytes | None, alt: str, caption: str, missing: str) -> str:
        if png is None:
            return f'<p class="soft">{escape(missing)}</p>'
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
        stem = next(own for i in range(len(self.names) + 1) if (own := f"{stem}-{i}" if i else stem) not in self.names)
        self.names.add(stem)
        write_atomic(self.out / f"{stem}.png", png)
        source = base64.b64encode(png).decode()
        # A PNG opens with its size: 4 bytes each at 16 and 20. Shown at 96 dots an inch, its text is the page's size.
        width, height = (int.from_bytes(png[at : at + 4], "big") * 96 // canvas.DPI for at in (16, 20))
        return (
            f'<figure><img width="{width}" height="{height}" src="data:image/png;base64,{source}" alt="{escape(alt)}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )


def _body(named: Mapping[str, Run], results: Mapping[str, Mapping[str, Result]], page: _Page) -> str:
    heading = f"{len(named)} runs compared" if len(named) > 1 else next(iter(named))
    parts = [
        f"<h1>quickstudy report: {escape(heading)}</h1>",
        '<p class="soft">Made from the run directories alone. Every interval is a 95% interval over tasks of one '
        "trained learner, not over training seeds.</p>",
        "<h2>Results</h2>",
        _table(results),
        _hash_note(results),
        "<h2>Learning curves</h2>",
        page.figure(
            "learning",
            figures.draw_learning_curves(named),
            f"Training loss and validation metric against the step, for {', '.join(named)}.",
            "Left to right: training loss, averaged over at most 100 stretches of steps, then the validation metric. "
            "The band is the 95% interval over validation tasks.",
            "No run has logged training or validation yet.",
        ),
        "<h2>Single tasks</h2>",
        *_spreads(results, page),
        *(_section(label, run, results[label], page) for label, run in named.items()),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>quickstudy report: {escape(heading)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _section(label: str, run: Run, results: Mapping[str, Result], page: _Page) -> str:
    """What is a run's own: an example task, its classes, its probes, its settings and versions."""
    drawn = next(
        ((name, found) for name in _ordered(results) if (found := figures.draw_example_task(results[name]))), None
    )
    name, (png, caption) = drawn or ("", (None, ""))
    config = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    versions = yaml.safe_dump(run.versions, sort_keys=False, allow_unicode=True)
    return "\n".join(
        [
            f"<h2>Run {escape(label)}</h2>",
            page.figure(
                f"task-{label}",
                png,
                f"One task of result {name} of run {label}: its support set and its queries with the predictions.",
                f"One task of {_tasks_in_words(name, results)} after adaptation. {caption}",
                "No example task that can be drawn was saved with its results." if results else _UNTESTED,
            ),
            *_classes(label, results, page),
            page.figure(
                f"probes-{label}",
                figures.draw_probes(run),
                f"Probes of run {label} against the step.",
                "Probes: quantities the method recorded while training. Numbers at the right end are positions.",
                "The method recorded no probes.",
            ),
            f"<details><summary>Settings</summary><pre>{escape(config)}</pre></details>",
            f"<details><summary>Versions</summary><pre>{escape(versions)}</pre></details>",
        ]
    )


def _classes(label: str, results: Mapping[str, Result], page: _Page) -> list[str]:
    """Which classes were confused, and what the data look like: of the first result that kept them, if any did."""
    parts = []
    for name in _ordered(results)[:1]:
        arrays = results[name].arrays
        if "confusion" in arrays:
            png, caption = image_figures.draw_confusion(results[name]) or (None, "")
            what = f"Confusions in result {name} of run {label}: true classes and what they were taken for."
            told = f"Confusions over all tasks of {_tasks_in_words(name, results)}. {caption}"
            parts.append(page.figure(f"confusion-{label}", png, what, told, caption or _DAMAGED.format("confusions")))
        if "sheet_x" in arrays:
            png, caption = image_figures.draw_contact_sheet(results[name]) or (None, "")
            what = f"One image of each class of every split of the data of run {label}, with its name."
            data = results[name].summary.get("data")
            rule = data.get("split_rule") if isinstance(data, dict) else None
            told = f"The classes of every split, divided {rule or 'as given'}. {caption}"
            parts.append(page.figure(f"classes-{label}", png, what, told, _DAMAGED.format("images of classes")))
    return parts


def _tasks_in_words(name: str, results: Mapping[str, Result]) -> str:
    """A result with the tasks that it is over."""
    summary = results[name].summary if name in results else {}
    said = [f"{summary['split']} split"] if summary.get("split") else []
    said += [f"list {_text(summary['hash'])}"] if summary.get("hash") else []
    return f"`{name}`" + (f" ({', '.join(said)})" if said else "")


_DAMAGED = "The {} saved with its results do not fit together, so they are not drawn. Evaluate the run again."
_UNTESTED = "This run has no results yet: it was not tested."


def _table(results: Mapping[str, Mapping[str, Result]]) -> str:
    rows = []
    lines = {_data_line(result.summary) for own in results.values() for result in own.values()}
    shared = lines.pop() if len(lines) == 1 else ""
    for label, own in results.items():
        for name in _ordered(own):
            title = label if name == "test" else f"{label} · {name}"
            rows.append(_row(title, own[name].summary, "as above" if shared else _data_line(own[name].summary)))
        if not own:
            rows.append(
                f'<tr><th scope="row">{escape(label)}</th><td colspan="{len(_COLUMNS) - 1}">{_UNTESTED}</td></tr>'
            )
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in _COLUMNS)
    return (
        '<div class="scroll"><table><caption>Mean over tasks, ± the half-width of its 95% interval over tasks. Tasks '
        "whose outcome is not finite have no part in the mean and are counted. Below the method: how it normalises."
        f"{f'<br>Data: {escape(shared)}.' if shared else ''}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _data_line(summary: Mapping[str, Any]) -> str:
    data = summary.get("data") or {}
    return " · ".join(f"{key}: {_text(value)}" for key, value in data.items()) if isinstance(data, dict) else str(data)


def _row(title: str, summary: Mapping[str, Any], line: str) -> str:
    metric = str(summary.get("metric", "metric"))
    tasks, finite = summary.get("tasks"), summary.get("finite")
    counted = f"{metric}, {_text(finite)} of {_text(tasks)} tasks finite"
    cells = [
        ("", f"{escape(_text(summary.get('method')))}<small>{escape(_text(summary.get('norms')))}</small>"),
        ("number", f"{escape(format_score(summary))}<small>{escape(counted)}</small>"),
        ("number", escape(_number(summary.get("adapt_ms"), 2))),
        ("number", escape(_number(summary.get("train_seconds"), 0))),
        ("number", escape(_number(summary.get("parameters"), 0))),
        ("wide", f"{escape(line or '–')}<small>protocol: {escape(_text(summary.get('protocol')))}</small>"),
        ("", f"<code>{escape(_text(summary.get('hash'))[:12])}</code>"),
    ]
    columns = "".join(f'<td class="{kind}">{text}</td>' if kind else f"<td>{text}</td>" for kind, text in cells)
    return f'<tr><th scope="row">{escape(title)}</th>{columns}</tr>'


def format_amount(mean: float, interval: float, metric: str) -> str:
    """A mean with its 95% interval, to the interval's leading digits: one for accuracy in percent, else two.

    >>> format_amount(0.9712, 0.0041, "accuracy"), format_amount(0.5271, 0.0558, "mse"), format_amount(0.5, float("nan"), "mse")
    ('97.1 ± 0.4 %', '0.527 ± 0.056', '0.500')
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
    lost = tasks - finite if isinstance(tasks, int) and isinstance(finite, int) else 0
    if lost and not finite:
        return f"all {tasks} tasks diverged"
    if not isinstance(mean, int | float):
        return "–"
    spread = interval if isinstance(interval, int | float) else math.nan
    shown = format_amount(mean, spread, str(summary.get("metric", "")))
    return f"{shown} ({lost} of {tasks} diverged)" if lost else shown


def _hash_note(results: Mapping[str, Mapping[str, Result]]) -> str:
    """Numbers are comparable task by task only on the same list of tasks, so a difference is said aloud."""
    kinds: dict[tuple[str, str], dict[str, list[str]]] = {}
    for label, own in results.items():
        for name, result in own.items():
            lists = kinds.setdefault((name, str(result.summary.get("metric"))), {})
            lists.setdefault(_text(result.summary.get("hash")), []).append(label)
    notes = []
    for (name, _), lists in sorted(kinds.items()):
        if len(lists) > 1:
            groups = "; ".join(f"{which[:12]}: {', '.join(labels)}" for which, labels in lists.items())
            notes.append(
                f"Result `{name}` comes from different task lists ({groups}). Runs on different lists met other tasks, "
                "perhaps easier ones: compare them with care, and never task by task."
            )
    return "".join(f'<p class="note" role="note">{escape(note)}</p>' for note in notes)


def _spreads(results: Mapping[str, Mapping[str, Result]], page: _Page) -> list[str]:
    groups: dict[str, dict[str, Result]] = {}
    for label, own in results.items():
        for name in _ordered(own):
            title = label if name == "test" else f"{label} · {name}"
            groups.setdefault(str(own[name].summary.get("metric", "metric")), {})[title] = own[name]
    missing = "No run has results yet, so there are no single tasks to show."
    return [
        page.figure(
            f"spread-{metric}",
            figures.draw_spread(of, metric),
            f"Histograms of the {metric} of single tasks, for {', '.join(of)}.",
            f"How the {metric} falls over tasks; the vertical line is the mean. It is the spread of single tasks, "
            "which is far wider than the 95% interval of their mean.",
            f"No {metric} of single tasks was saved.",
        )
        for metric, of in sorted(groups.items())
    ] or [f'<p class="soft">{missing}</p>']


def _ordered(results: Mapping[str, Result]) -> list[str]:
    """Names of results, `test` first."""
    return sorted(results, key=lambda name: (name != "test", name))


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the shortest tail of their path that tells them apart; the same run given twice stands once."""
    distinct = {run.path.resolve(): run for run in runs}
    depth = 1
    while len({path.parts[-depth:] for path in distinct}) < len(distinct):
        depth += 1
    return {"/".join(path.parts[-depth:]): run for path, run in distinct.items()}


def _number(value: Any, digits: int) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else "–"


def _text(value: Any) -> str:
    if value is None or value == "":
        return "–"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
