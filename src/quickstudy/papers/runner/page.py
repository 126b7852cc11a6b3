"""A paper's page, from stored results: what was claimed and found in one table, then item by item with its figures.

The same content as Markdown and as one HTML file that opens offline.
"""

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from quickstudy.papers.catalog import PAPERS, items
from quickstudy.papers.runner import tables
from quickstudy.papers.runner.items import Claim, Item
from quickstudy.papers.runner.results import Result
from quickstudy.reports.report import STYLE
from quickstudy.storage.files import check_format, read_json

SIGNS = {True: "✓", False: "✗", None: "?"}
OVERVIEW = ("item", "claim", "says", "paper", "here", "scale and data", "")
EVIDENCE = ("", "claim", "source", "evidence")


def read_results(folder: Path, paper: str) -> list[dict[str, Any]]:
    """Every stored result of a paper in a directory, in the order of their names."""
    found = []
    for path in sorted((folder / paper).glob("*.json")):
        held = read_json(path)
        check_format(held.get("format"), path)
        found.append(held)
    return found


def render(paper: str, results: Sequence[Result], folder: Path, kind: str) -> str:
    """The page of a paper, as "md" or "html"; its figures are `PAPER/ITEM-FIGURE.svg` in the folder."""
    known = items(paper)
    content: dict[str, Any] = {
        "paper": paper,
        "title": f"{PAPERS[paper]}: what was found",
        "counts": _counts(results),
        "overview": [line for one in results for line in _overview(one, known.get(one["item"]))],
        "items": [_section(one, folder / paper) for one in results],
        "columns": {"overview": OVERVIEW, "evidence": EVIDENCE},
        "style": Markup(STYLE),
    }
    return _environment().get_template(f"page.{kind}.jinja").render(content)


@cache
def _environment() -> Environment:
    """Templates beside this file; what goes into HTML is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = mark_code
    environment.globals["markdown_table"] = tables.markdown_table
    return environment


def mark_code(text: str) -> Markup:
    """Text as HTML, in which `code` is marked.

    >>> print(mark_code("`a < b`"))
    <code>a &lt; b</code>
    """
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _counts(results: Sequence[Result]) -> str:
    """How many of the paper's claims hold, and how many of this library's questions are answered yes."""
    of = Counter((claim["own"], claim["holds"]) for one in results for claim in one["claims"])
    paper, own = ([of[asked, holds] for holds in (True, False, None)] for asked in (False, True))
    parts = []
    if any(paper):
        parts.append("Of the paper's claims {} reproduce, {} do not, {} are not decided.".format(*paper))
    if any(own):
        parts.append("Questions of this library: yes {}, no {}, not decided {}.".format(*own))
    return " ".join(parts)


def _overview(one: Result, item: Item | None) -> list[tuple[str, ...]]:
    """A line a claim: in a few words, with the numbers that it is about first of all."""
    known = {claim.text: claim for claim in item.claims} if item else {}
    lines: list[tuple[str, ...]] = []
    for said in one["claims"]:
        claim = known.get(said["text"])
        cells = _format_cells(claim, one) if claim else []
        digits = one["digits"]
        paper = [f"{row} {tables.paper_number(cell['reported'][0], digits)}" for row, cell in cells if cell["reported"]]
        ours = [f"{row} {_format_ours(claim, cell, digits)}" for row, cell in cells if claim and cell["ours"]]
        parts = len(claim.parts) if claim and ours else 1
        stand_in = any(line["stand_in"] for line in one["rows"])
        lines.append(
            (
                one["item"],
                claim.short if claim and claim.short else said["text"],
                "asked here" if said["own"] else "paper",
                ", ".join(paper) or "-",
                (", ".join(ours) or "-") + (f" (first of {parts})" if parts > 1 else ""),
                f"{one['scale']}, {one['seeds']} seed{'s'[: one['seeds'] > 1]}{', stand-in data' if stand_in else ''}",
                SIGNS[said["holds"]],
            )
        )
    return lines


def _format_cells(claim: Claim, one: Result) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a result that a claim's first part is about, two at most, by row: as it names them, or extremes."""
    word, options = claim.parts[0]
    names = (
        ("rows",) if word == "spread_of" else ("row", "rows", "than", "over", "rising", "falling", "vanilla", "gain")
    )
    patterns = [pattern for key in names for pattern in _names_of_items(options.get(key))]
    lines = [line for line in one["rows"] if line["column"] == options.get("column")]
    chosen = [line for pattern in patterns for line in lines if fnmatchcase(line["row"], pattern)]
    if word == "spread_of":
        chosen.sort(key=lambda line: -line["ours"]["value"] if line["ours"] else 0.0)
    return [(line["row"], line) for line in chosen[:1] + chosen[1:][-1:]]


def _format_ours(claim: Claim, line: Mapping[str, Any], digits: int) -> str:
    """The number of this library that a claim is about: a row's own, or another of the same reading."""
    more = claim.parts[0][1].get("more", "")
    return f"{line['ours']['more'][more]:.3g}" if more else tables.our_number(line["ours"], digits)


def _names_of_items(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def _section(one: Result, folder: Path) -> dict[str, Any]:
    """What a page shows of an item."""
    rows, notes = tables.lines(one)
    used = [i for i in range(len(tables.COLUMNS)) if any(row[i] for row in rows)]
    machine = one["machine"]
    return {
        "name": one["item"],
        "title": one["title"],
        "command": one["command"],
        "about": f"{one['unit'][:1].upper()}{one['unit'][1:]}. Seeds: {one['seeds']}. {machine['cores']} cores, "
        f"{machine['processor']}, torch {machine['torch']}; commit {', '.join(one['commits']) or 'unknown'}; "
        f"{one['seconds']:.0f} seconds of one process, trainings and readings.",
        "columns": [tables.COLUMNS[i] for i in used],
        "rows": [[row[i] for i in used] for row in rows],
        "footnotes": [f"[{i}] {sentence}" for i, sentence in enumerate(notes, start=1)],
        "claims": [[SIGNS[c["holds"]], c["text"], c["source"], c["evidence"]] for c in one["claims"]],
        "notes": [
            *one["notes"],
            *(f"{row}, seed {seed}: {why}." for row, whys in one["stopped"].items() for seed, why in whys.items()),
        ],
        "figures": [
            {"name": name, "file": file, "data": _data_address(folder / file)}
            for name in one["figures"]
            for file in [f"{one['item']}-{name}.svg"]
        ],
    }


def _data_address(picture: Path) -> str:
    """A figure as a data address; empty where it was not drawn."""
    return f"data:image/svg+xml;base64,{b64encode(picture.read_bytes()).decode()}" if picture.exists() else ""
