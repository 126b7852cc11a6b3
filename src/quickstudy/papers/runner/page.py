"""A paper's page, from stored results: what was claimed and found in one table, then item by item with its figures.

The same content as Markdown and as one HTML file that opens offline; `page.md.jinja` and `page.html.jinja` say it.
"""

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from quickstudy.errors import RunError
from quickstudy.papers.catalog import PAPERS, items
from quickstudy.papers.runner import tables
from quickstudy.papers.runner.items import SCALES, Claim, Item
from quickstudy.papers.runner.results import Result, StoredResult, result_name
from quickstudy.reports.report import read_templates
from quickstudy.storage.files import check_format, read_json
from quickstudy.storage.records import check_shape

SIGNS = {True: "✓", False: "✗", None: "?"}


def read_results(folder: Path, paper: str) -> list[dict[str, Any]]:
    """Every stored result of a paper in a directory, in the order of their names."""
    found = {path: read_json(path) for path in sorted((folder / paper).glob("*.json"))}
    for path, held in found.items():
        check_format(held.get("format"), path)
        try:
            check_shape(held, StoredResult)
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}). Run its item again, or delete it.") from error
    return list(found.values())


def render(paper: str, results: Sequence[Result], folder: Path, kind: str) -> str:
    """The page of a paper, as "md" or "html"; its figures are `PAPER/ITEM-FIGURE.svg` in the folder."""
    known = items(paper)
    environment = read_templates("papers/runner", "reports")
    environment.filters["code"] = mark_code
    return environment.get_template(f"page.{kind}.jinja").render(
        paper=paper,
        title=f"{PAPERS[paper]}: what was found",
        counts=_count_claims(results, {one.text for item in known.values() for one in item.claims if one.takes}),
        heading=_heading,
        results=results,
        about=_describe_origin,
        overview_columns=("item", "claim", "says", "paper", "here", "scale and data", "holds"),
        overview=[line for one in results for line in _overview(one, known.get(one["item"]), _shown(one, results))],
        evidence_columns=("", "claim", "source", "evidence"),
        evidence=lambda one: [(_sign(c, one), c["text"], c["source"], c["evidence"]) for c in one["claims"]],
        figures=lambda one: _figures(one, folder / paper),
        lines=tables.lines,
    )


def mark_code(text: str) -> Markup:
    """Text as HTML, in which `code` is marked."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _count_claims(results: Sequence[Result], out_of_reach: Collection[str] = ()) -> str:
    """How many of the paper's claims hold, and how many of this library's questions are answered yes.

    Of those that are not decided, the texts in `out_of_reach` take what two cores do not have. A claim of the paper
    that several items test, such as a table and its longer version, counts once. A question of this library is asked of
    each item anew.
    """
    shown = [(number, claim) for number, one in enumerate(results) for claim in _shown(one, results)]
    found: dict[tuple[Any, ...], list[bool | None]] = {}
    for number, claim in shown:
        where = number if claim["own"] else None
        found.setdefault((claim["own"], where, claim["source"], claim["text"]), []).append(claim["holds"])
    verdicts = {key: _agree(holds) for key, holds in found.items()}
    of = Counter((own, holds) for (own, *_), holds in verdicts.items())
    paper, own = ([of[asked, holds] for holds in (True, False, None)] for asked in (False, True))
    once = " A claim that stands under several items counts once." if len(found) < len(shown) else ""
    far = sum(not own and holds is None and text in out_of_reach for (own, *_, text), holds in verdicts.items())
    more = f", {far} of which take data or a machine that are not here" if far else ""
    sentences = (
        (paper, f"Of the paper's claims {{}} reproduce, {{}} do not, {{}} are not decided{more}.{once}"),
        (own, "Questions of this library: yes {}, no {}, not decided {}."),
    )
    return " ".join(sentence.format(*counts) for counts, sentence in sentences if any(counts))


def _agree(holds: Sequence[bool | None]) -> bool | None:
    """The verdict of several items on one claim: of those that decide it, where they agree."""
    decided = set(holds) - {None}
    return decided.pop() if len(decided) == 1 else None


def _shown(one: Result, results: Sequence[Result]) -> list[dict[str, Any]]:
    """The claims of a result that count: an item at two scales has each claim once, at the scale that decides it.

    Where both decide it, or none does, that is the larger scale.
    """
    same = [other for other in results if other["item"] == one["item"]]
    order = list(SCALES)
    shown = []
    for claim in one["claims"]:
        ranked = [
            (held["holds"] is not None, order.index(other["scale"]), other["scale"])
            for other in same
            for held in other["claims"]
            if held["text"] == claim["text"]
        ]
        if max(ranked)[2] == one["scale"]:
            shown.append(claim)
    return shown


def _heading(one: Result) -> str:
    return f"{one['title']}, at `cpu` scale" if one["scale"] == "cpu" else str(one["title"])


def _sign(claim: Mapping[str, Any], one: Result) -> str:
    """A claim's sign; at the scale that is no paper's budget it says so."""
    sign = SIGNS[claim["holds"]]
    return f"at cpu scale {sign}" if one["scale"] == "cpu" and claim["holds"] is not None else sign


def _describe_origin(one: Result) -> str:
    """The unit of an item's numbers, and how they came to be."""
    machine = one["machine"]
    return (
        f"{one['unit'][:1].upper()}{one['unit'][1:]}. Seeds: {one['seeds']}{_list_fewer(one)}. "
        f"{machine['cores']} cores, {machine['processor']}, torch {machine['torch']}; "
        f"commit {', '.join(one['commits']) or 'unknown'}; "
        f"{one['seconds']:.0f} seconds of one process, trainings and readings."
    )


def _list_fewer(one: Result) -> str:
    """The rows with fewer seeds than the rest, and the options that make these; nothing where all have as many."""
    by_count: dict[int, dict[str, None]] = {}  # the rows in their order, each once: a row has several columns
    for line in one["rows"]:
        count = len(line["ours"]["seeds"]) if line["ours"] else 0
        if 0 < count < one["seeds"]:
            by_count.setdefault(count, {})[line["row"]] = None
    told = [f"`--seeds {count} --rows {','.join(rows)}`" for count, rows in sorted(by_count.items())]
    return f", and fewer by {' and '.join(told)}" if told else ""


def _overview(one: Result, item: Item | None, shown: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A line a claim: in a few words, with the numbers that it is about first of all."""
    known = {claim.text: claim for claim in item.claims} if item else {}
    digits, stand_in = one["digits"], any(line["stand_in"] for line in one["rows"])
    lines: list[tuple[str, ...]] = []
    for said in shown:
        paper, ours, short, seeds = "", "", "", one["seeds"]
        if claim := known.get(said["text"]):
            cells, options, parts = _lines_of_claim(claim, one), claim.parts[0][1], len(claim.parts)
            told = [(cell["label"], cell["reported"][0]) for cell in cells if cell["reported"]]
            paper = "; ".join(f"{label}: {tables.paper_number(number, digits)}" for label, number in told)
            found = [f"{cell['label']}: {_format_ours(claim, cell, digits)}" for cell in cells if cell["ours"]]
            place = options.get("more") or options["column"]
            place += f"; first of {parts} parts" if parts > 1 else ""
            ours, short = f"{'; '.join(found)} ({place})" if found else "", claim.short
            seeds = min((len(cell["ours"]["seeds"]) for cell in cells if cell["ours"]), default=seeds)
        ran = f"{one['scale']}, {seeds} seed{'s'[: seeds > 1]}{', stand-in data' if stand_in else ''}"
        asker = "asked here" if said["own"] else "paper"
        lines.append((one["item"], short or said["text"], asker, paper or "-", ours or "-", ran, _sign(said, one)))
    return lines


def _lines_of_claim(claim: Claim, one: Result) -> list[dict[str, Any]]:
    """The lines of a result that a claim's first part is about, two at most: as it names their rows, or extremes."""
    word, options = claim.parts[0]
    names = ["rows"] if word == "spread_of" else ["row", "rows", "than", "over", "rising", "falling", "vanilla", "gain"]
    patterns = [pattern for key in names for pattern in np.ravel(options.get(key, [])).tolist()]
    patterns += list(options.get("numbers", ()))
    lines = [line for line in one["rows"] if line["column"] == options.get("column")]
    chosen = [line for pattern in patterns for line in lines if fnmatchcase(line["row"], pattern)]
    if word == "spread_of":
        chosen.sort(key=lambda line: -line["ours"]["value"] if line["ours"] else 0.0)
    return chosen[:1] + chosen[1:][-1:]


def _format_ours(claim: Claim, line: Mapping[str, Any], digits: int) -> str:
    """The number of this library that a claim is about: a row's own, or another of the same reading."""
    more = claim.parts[0][1].get("more", "")
    if not more:
        return tables.our_number(line["ours"], digits)
    number = line["ours"]["more"].get(more)
    return f"{number:.3g}" if isinstance(number, int | float) else "-"


def _figures(one: Result, folder: Path) -> list[dict[str, str]]:
    """A result's figures."""
    return [_figure(name, folder / f"{result_name(one)}-{name}.svg") for name in one["figures"]]


def _figure(name: str, picture: Path) -> dict[str, str]:
    """A figure by name and file, and as a data address, which is empty where it was not drawn."""
    data = f"data:image/svg+xml;base64,{b64encode(picture.read_bytes()).decode()}" if picture.exists() else ""
    return {"name": name, "file": picture.name, "data": data}
