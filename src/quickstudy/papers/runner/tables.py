"""Results as tables: columns and words, for the terminal, pages and CSV alike."""

import csv
import io
from collections.abc import Mapping
from math import isfinite
from typing import Any

COLUMNS = ("row", "", "paper", "here", "seeds", "gap", "departs")
VERDICTS = {True: "reproduces", False: "DOES NOT REPRODUCE", None: "not decided"}
ANSWERS = {True: "yes", False: "no", None: "not decided"}
"""To what no paper claims."""


def lines(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]], list[str]]:
    """The columns that say something, the table's lines, and the footnotes that its last column numbers."""
    notes: list[str] = []
    made: list[tuple[str, ...]] = []
    digits = result["digits"]
    for line in result["rows"]:
        notes += [sentence for sentence in dict.fromkeys(line["departs"]) if sentence not in notes]
        marks = " ".join(map(str, sorted({notes.index(sentence) + 1 for sentence in line["departs"]})))
        several = len(line["reported"]) > 1
        paper = "; ".join(paper_number(one, digits, with_source=several) for one in line["reported"]) or "-"
        ours = line["ours"]
        here = "quoted" if line["quoted"] else "not run" if ours is None else our_number(ours, digits, line["stand_in"])
        over = ""
        if ours is not None and len(ours["seeds"]) > 1:
            over = f"{len(ours['seeds'])}: {ours['low']:.{digits}f} to {ours['high']:.{digits}f}"
        gap = f"{line['gap']:+.{digits}f}" if "gap" in line and isfinite(line["gap"]) else ""
        made.append((line["label"], line["column"], paper, here, over, gap, marks))
    used = [i for i in range(len(COLUMNS)) if any(line[i] for line in made)]
    footnotes = [f"[{i}] {sentence}" for i, sentence in enumerate(notes, start=1)]
    columns = ["here, at `cpu` scale" if name == "here" and result["scale"] == "cpu" else name for name in COLUMNS]
    return [columns[i] for i in used], [[line[i] for i in used] for line in made], footnotes


def verdict(claim: Mapping[str, Any], scale: str) -> str:
    """A verdict in words."""
    words = (ANSWERS if claim["own"] else VERDICTS)[claim["holds"]]
    return f"{words} at cpu scale" if scale == "cpu" and claim["holds"] is not None else words


def paper_number(one: Mapping[str, Any], digits: int, *, with_source: bool = False) -> str:
    """A number of the paper."""
    source = f" ({one['source']})" if with_source and one["source"] else ""
    return amount(one["value"], one["interval"], digits) + source


def our_number(ours: Mapping[str, Any], digits: int, stand_in: str = "") -> str:
    """A number of this library, with what it lacks."""
    if not isfinite(ours["value"]):
        return "diverged"
    lost = ours.get("tasks", 0) - ours.get("finite", 0)
    words = amount(ours["value"], ours["interval"], digits)
    words += " (one task)" if ours.get("finite") == 1 else ""
    words += f" ({lost} of {ours['tasks']} tasks diverged)" if lost else ""
    return f"{words} [{stand_in}]" if stand_in else words


def amount(value: float, interval: float | None, digits: int) -> str:
    """A number with its interval; large ones in short.

    >>> amount(0.4912, 0.0512, 2), amount(171.92, 25.04, 2), amount(123456.0, None, 2)
    ('0.49 ± 0.05', '171.92 ± 25.04', '1.23e+05')
    """
    known = interval is not None and isfinite(interval)
    if abs(value) >= 1e4:
        return f"{value:.3g}" + (f" ± {interval:.2g}" if known else "")
    return f"{value:.{digits}f}" + (f" ± {interval:.{digits}f}" if known else "")


def as_csv(result: Mapping[str, Any]) -> str:
    """Every number, a line each."""
    columns = ("row", "column", "paper", "paper interval", "source", "here", "interval", "low", "high", "seeds", "gap")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*columns, "stand-in", "departs"])
    for line in result["rows"]:
        paper = (line["reported"] or [{}])[0]
        ours = line["ours"] or {"seeds": []}
        numbers = [paper.get(key) for key in ("value", "interval", "source")]
        numbers += [ours.get(key) for key in ("value", "interval", "low", "high")]
        about = [len(ours["seeds"]) or "", line.get("gap"), line["stand_in"], " ".join(line["departs"])]
        writer.writerow([line["row"], line["column"], *numbers, *about])
    return out.getvalue()
