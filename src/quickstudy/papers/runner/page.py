"""A paper's page, from stored results alone: the same blocks as Markdown and as one HTML file that opens offline."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from quickstudy.papers.runner import tables
from quickstudy.reports.report import STYLE
from quickstudy.storage.files import check_format, read_json

PAPERS = {
    "mtnet": "T-net and MT-net (Lee, 2018)",
    "wormhole": "Wormhole MAML (Chang, Gao & Lou, 2022)",
    "hypermaml": "HyperMAML (Przewiezlikowski et al., 2022)",
    "beyond": "Beyond the papers",
}

HEADINGS = {
    (False, False): "What does not reproduce",
    (False, True): "What reproduces",
    (False, None): "What is not decided",
    (True, True): "Questions of this library: yes",
    (True, False): "Questions of this library: no",
    (True, None): "Questions of this library: not decided",
}
"""By whether it is this library's own question, and whether it holds; in the page's order."""


@dataclass(frozen=True)
class Block:
    """A piece of a page.

    Args:
        kind: "title", "heading", "text", "notes", "table", "code" or "picture".
        text: Of a title, heading, text or code; a picture's caption.
        lines: Of notes; a table's rows, the first of which are its columns.
        file: Of a picture, without its ending.
    """

    kind: str
    text: str = ""
    lines: Sequence[Any] = ()
    file: str = ""


def stored(folder: Path, paper: str) -> list[dict[str, Any]]:
    """Every result of a paper in a directory, in the order of their names."""
    found = []
    for path in sorted((folder / paper).glob("*.json")):
        held = read_json(path)
        check_format(held.get("format"), path)
        found.append(held)
    return found


def blocks(paper: str, results: Sequence[Mapping[str, Any]]) -> list[Block]:
    """The page of a paper."""
    made = [Block("title", f"{PAPERS[paper]}: what was found")]
    every = {key: [(r, c) for r in results for c in r["claims"] if (c["own"], c["holds"]) == key] for key in HEADINGS}
    made.append(
        Block(
            "text",
            f"{_counts(every)} ± is a 95% interval over tasks, each task's "
            "value being its mean over seeds: it knows nothing of the chance of training, which `seeds` shows by the "
            "lowest and the highest; a difference counts where every seed has its sign. The gap is ours minus the "
            "paper's. A data set in brackets stands in for the paper's: such numbers are not the paper's and have no "
            "gap.",
        )
    )
    for key, found in every.items():
        if found:
            made.append(Block("heading", HEADINGS[key]))
            made.append(Block("notes", lines=[_said(r, c) for r, c in found]))
    for one in results:
        made += _item(one)
    return made


def _counts(every: Mapping[tuple[bool, bool | None], Sequence[Any]]) -> str:
    """How many of the paper's claims hold, and how many of this library's questions."""
    paper, own = ({holds: len(every[of, holds]) for holds in (True, False, None)} for of in (False, True))
    said = []
    if any(paper.values()):
        said.append(
            f"Of the paper's claims {paper[True]} reproduce, {paper[False]} do not, {paper[None]} are not decided."
        )
    if any(own.values()):
        said.append(f"Questions of this library: yes {own[True]}, no {own[False]}, not decided {own[None]}.")
    return " ".join(said)


def _said(one: Mapping[str, Any], claim: Mapping[str, Any]) -> str:
    """A claim with its numbers, and what weakens them."""
    weak = [] if one["scale"] == "full" else [f"at `{one['scale']}` scale"]
    weak += ["on data that stand in for the paper's"] if any(line["stand_in"] for line in one["rows"]) else []
    where = f" ({', '.join(weak)})" if weak else ""
    return f"{one['title']}{where}: {claim['text']} {claim['evidence']}"


def _item(one: Mapping[str, Any]) -> list[Block]:
    rows, notes = tables.lines(one)
    machine = one["machine"]
    made = [
        Block("heading", one["title"]),
        Block("code", one["command"]),
        Block(
            "text",
            f"{one['unit'][:1].upper()}{one['unit'][1:]}. Seeds: {one['seeds']}. {machine['cores']} cores, "
            f"{machine['processor']}, torch {machine['torch']}; commit {', '.join(one['commits']) or 'unknown'}; "
            f"{one['seconds']:.0f} seconds of "
            "one process, trainings and readings.",
        ),
    ]
    if rows:
        used = [i for i in range(len(tables.COLUMNS)) if any(row[i] for row in rows)]
        picked = [[row[i] for i in used] for row in rows]
        made.append(Block("table", lines=[[tables.COLUMNS[i] for i in used], *picked]))
    if notes:
        made.append(Block("notes", lines=[f"[{i}] {sentence}" for i, sentence in enumerate(notes, start=1)]))
    if one["claims"]:
        made.append(Block("table", lines=[["claim", "source", "here", "evidence"], *tables.claims(one)]))
    stops = [f"{row}, seed {seed}: {why}." for row, whys in one["stopped"].items() for seed, why in whys.items()]
    if one["notes"] or stops:
        made.append(Block("notes", lines=[*one["notes"], *stops]))
    made += [Block("picture", f"{one['title']}: {name}", file=f"{one['item']}-{name}") for name in one["figures"]]
    return made


def markdown(paper: str, made: Sequence[Block]) -> str:
    """The page as Markdown, whose pictures lie in the paper's directory beside it."""
    parts = []
    for block in made:
        if block.kind == "title":
            parts.append(f"# {block.text}")
        elif block.kind == "heading":
            parts.append(f"## {block.text}")
        elif block.kind == "code":
            parts.append(f"    {block.text}")
        elif block.kind == "text":
            parts.append(block.text)
        elif block.kind == "notes":
            parts.append("\n".join(f"- {line}" for line in block.lines))
        elif block.kind == "table":
            parts.append(tables.markdown_table(block.lines[0], block.lines[1:]))
        else:
            parts.append(f"![{block.text}]({paper}/{block.file}.png)")
    return "\n\n".join(parts) + "\n"


def html(paper: str, made: Sequence[Block], folder: Path) -> str:
    """The page as one HTML file, with its pictures inside."""
    title = escape(made[0].text)
    body = "\n".join(_html(block, folder / paper) for block in made)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>\n{body}\n'
        "</body></html>\n"
    )


def _html(block: Block, folder: Path) -> str:
    if block.kind == "title":
        return f"<h1>{escape(block.text)}</h1>"
    if block.kind == "heading":
        return f"<h2>{escape(block.text)}</h2>"
    if block.kind == "code":
        return f"<pre>{escape(block.text)}</pre>"
    if block.kind == "text":
        return f"<p>{_words(block.text)}</p>"
    if block.kind == "notes":
        return "<ul>" + "".join(f"<li>{_words(line)}</li>" for line in block.lines) + "</ul>"
    if block.kind == "table":
        head, *rows = block.lines
        top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        lines = "".join(f"<tr>{''.join(f'<td>{_words(cell)}</td>' for cell in row)}</tr>" for row in rows)
        return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
    picture = folder / f"{block.file}.png"
    if not picture.exists():
        return f'<p class="soft">{escape(block.text)} was not drawn.</p>'
    source = base64.b64encode(picture.read_bytes()).decode()
    caption = escape(block.text)
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )


def _words(text: str) -> str:
    """Text in which `code` is marked."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
