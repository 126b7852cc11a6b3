"""Figures, drawn from what was found: dots beside the paper's numbers, and curves.

An item names its figures: `errors: {dots: {x: squared error}}`. What is neither dots nor curves is a function of the
paper's own `figures`, with the same arguments. Blue is what was found here, orange what the paper reports.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from quickstudy.papers.runner.estimate import Estimate
from quickstudy.papers.runner.found import Found, MissingError
from quickstudy.reports.canvas import COLOURS, FAINT, INK, label_axes, log_if_wide, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, PAPER = COLOURS[0], COLOURS[1]
MARKS = "osD^vPX*h"


def draw(found: Found, name: str) -> "Figure":
    """An item's figure by name."""
    ((kind, options),) = found.item.figures[name].items()
    module = __name__ if kind in ("dots", "curves") else f"quickstudy.papers.{found.item.paper}.figures"
    sheet: Figure = getattr(import_module(module), kind)(found, **options)
    stand_ins = list(filter(None, dict.fromkeys(found.stand_in(row) for row in found.item.rows)))
    notes = [f"Here: {'; '.join(stand_ins)}."] if stand_ins else []
    if kind == "curves" and any(cell.reported for row in found.item.rows for cell in row.cells.values()):
        notes.append("Hollow marks: the paper's numbers.")
    if notes:
        sheet.supxlabel(" ".join(notes), fontsize=8, color=INK)
    return sheet


def number_in(name: str) -> float:
    """The first number in a row's name, by which it has its place on an axis.

    >>> number_in("maml-0.01"), number_in("n20-tanh-5")
    (0.01, 20.0)
    """
    return float(re.findall(r"\d+(?:\.\d+)?", name)[0])


def dots(found: Found, *, x: str, columns: Sequence[str] = (), but: Sequence[str] = (), log: bool = False) -> "Figure":
    """A panel a column: each row's mean with its interval and its seeds, beside the paper's number.

    `columns` are all that were run by default; `but` are rows that are left out; `x` is the axis in words.
    """
    ran = [key for key in found.readings if key[0] not in but]
    chosen = list(columns) or list(dict.fromkeys(column for _, column in ran))
    rows = {column: [row for row in found.item.rows if (row.name, column) in ran][::-1] for column in chosen}
    short = max(len(row.label) for row in found.item.rows) < 20  # enough for three panels side by side
    most, across = max(map(len, rows.values())), min(3 if short else 2, len(chosen))
    down = -(-len(chosen) // across)
    sheet, panels = new_figure(5.2 * across, (0.9 + 0.3 * most) * down, down, across)
    style: dict[str, Any]
    where: dict[str, Any]
    for axes, column in zip(panels, chosen, strict=False):
        label_axes(axes, column, x, "")
        for place, row in enumerate(rows[column]):
            for said in row.cells[column].reported[:1]:
                style = {"fmt": "D", "mfc": "white", "color": PAPER, "ms": 4, "label": "paper"}
                axes.errorbar(said.value, place + 0.2, xerr=said.interval or np.nan, capsize=2, **style)
            seeds, half = found.each_seed(row.name, column), interval(found, row.name, column)
            axes.plot(seeds, [place] * len(seeds), "|", color=OURS, ms=7)
            style = {"fmt": "o", "color": OURS, "ms": 5, "label": "here"}
            axes.errorbar(found.value(row.name, column), place, xerr=half, capsize=2, **style)
        axes.set_yticks(range(len(rows[column])), [row.label for row in rows[column]])
        axes.set(ylim=(-0.6, len(rows[column]) - 0.2), xscale="log" if log else "linear")
    for spare in panels[len(chosen) :]:
        spare.set_visible(False)
    # What the marks of all panels mean, each once, above them.
    named = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    where = {"loc": "outside upper right", "ncols": len(named) or 1}
    sheet.legend(list(named.values()), list(named), fontsize=8, frameon=False, **where)
    return sheet


def curves(found: Found, *, panels: Sequence[Mapping[str, Any]], **shared: Any) -> "Figure":
    """Columns against the first number in the rows' names, with intervals, beside the paper's numbers (hollow).

    Each of `panels` has `x` and `y` in words, and a `column`, or `columns` by label. What follows is a panel's own or
    `shared` by all. `lines` are, by label, patterns of the names of the rows on a line; `levels`, by label, rows that
    are a horizontal line. `log` are the logarithmic axes: "x", "y", "xy", or "y?" where numbers span more than two
    decades. With `even` places on the x axis are evenly spaced.
    """
    across = min(2, len(panels)) if len(panels) != 3 else 3
    down = -(-len(panels) // across)
    sheet, grid = new_figure(max(6.4, 4.6 * across), 3.6 * down, down, across)
    defaults = {"lines": {}, "levels": {}, "log": "", "even": False, "column": ""}
    for axes, panel in zip(grid, ({**defaults, **shared, **one} for one in panels), strict=False):
        columns = panel.get("columns", {"": panel["column"]})
        every = product(panel["lines"].items(), columns.items())
        named = [(part or label, pattern, column) for (label, pattern), (part, column) in every]
        rows = [row.name for row in found.item.rows if any(fnmatchcase(row.name, pattern) for _, pattern, _ in named)]
        places = sorted({number_in(row) for row in rows})
        for i, (label, pattern, column) in enumerate(named):
            names = [row for row in rows if fnmatchcase(row, pattern) and (row, column) in found.readings]
            # Several lines at one place hide each other's intervals, so each is moved a little aside.
            aside = 0.02 * (i - len(named) / 2)
            at = {row: places.index(number_in(row)) + aside if panel["even"] else number_in(row) for row in names}
            _draw_series(axes, found, column, at, label, i)
        for i, (label, row) in enumerate(panel["levels"].items()):
            if (row, panel["column"]) in found.readings:
                level = found.value(row, panel["column"])
                axes.axhline(level, color=FAINT, lw=1.4, ls=("--", ":")[i % 2], label=label)
            for printed in next(one.cells[panel["column"]].reported for one in found.item.rows if one.name == row)[:1]:
                axes.axhline(printed.value, color=PAPER, lw=1, ls="-.", label=f"paper, {label}")
        if panel["even"]:
            axes.set_xticks(range(len(places)), [f"{place:g}" for place in places])
        if "x" in panel["log"]:
            axes.set_xscale("log")
        if panel["log"] == "y?":
            ran = [(row, column) for column in columns.values() for row in rows if (row, column) in found.readings]
            log_if_wide(axes, [np.array([found.value(*one) for one in ran])])
        elif "y" in panel["log"]:
            axes.set_yscale("log")
        label_axes(axes, panel["column"], panel["x"], panel["y"])
        axes.legend(fontsize=8, frameon=False)
    if not any(axes.containers for axes in grid):
        raise MissingError(f"No row of {found.item.name} was run.")
    return sheet


def _draw_series(axes: "Axes", found: Found, column: str, at: Mapping[str, float], label: str, i: int) -> None:
    """Rows' means through their places, with intervals, and what the paper reports of them."""
    if not at:
        return
    again, colour = divmod(i, len(COLOURS))
    means = np.array([found.value(row, column) for row in at])
    axes.errorbar(
        list(at.values()), np.where(np.isfinite(means), means, np.nan), [interval(found, row, column) for row in at],
        label=label, lw=1.5, ms=4.5, capsize=2, color=COLOURS[colour], marker=MARKS[i], ls="--" if again else "-",
    )  # fmt: skip
    cells = {row.name: row.cells[column] for row in found.item.rows if row.name in at}
    printed = {place: cells[row].reported[0].value for row, place in at.items() if cells[row].reported}
    axes.plot(list(printed), list(printed.values()), MARKS[i], mfc="none", color=COLOURS[colour], ms=7, ls=":", lw=1)


def interval(found: Found, row: str, column: str) -> float:
    """Half of the interval over tasks and seeds; NaN where there is neither."""
    over = found.spread(row, column)
    tasks = over.interval if over is not None and over.finite > 1 else 0.0
    return Estimate(tuple(found.each_seed(row, column)), tasks).half or np.nan
