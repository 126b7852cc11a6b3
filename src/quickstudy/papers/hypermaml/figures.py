"""HyperMAML's figures 1 and 3: four tasks in the plane, with classifiers before and after adaptation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from quickstudy.papers.hypermaml.measures import KINDS
from quickstudy.papers.runner.figures import dots
from quickstudy.papers.runner.found import Found
from quickstudy.papers.runner.items import Cell
from quickstudy.papers.runner.measures import Reading
from quickstudy.reports.canvas import COLOURS, FAINT, INK, label_axes, new_figure
from quickstudy.storage.result import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plane(found: Found, *, rows: Sequence[str]) -> "Figure":
    """The data and the four tasks of the first seed, a row of panels a method: universal and updated classifiers.

    A line is where both classes get the same output; the arrow from its foot, as long for every classifier, points to
    the side of class 0. The norm of the update is below each task.
    """
    sheet, every = new_figure(13.0, 2.8 * len(rows), len(rows), 5)
    for place, name in enumerate(rows):
        arrays = found.first(name, "accuracy").arrays
        panels = every[5 * place : 5 * place + 5]
        data, queries = panels[0], arrays["query_x"].reshape(-1, 2)
        label_axes(data, f"{found.item.label(name)}: data", "", "")
        data.scatter(queries[:, 0], queries[:, 1], s=6, color=FAINT)
        _draw_line(data, arrays["theta"], COLOURS[0], "universal")
        for kind, axes in enumerate(panels[1:]):
            label_axes(axes, f"{KINDS[kind]}: {arrays['by_kind'][kind]:.0f}%", "", "")
            for label, colour, mark in ((0, COLOURS[2], "o"), (1, COLOURS[4], "^")):
                x, y = arrays["query_x"][kind][arrays["query_y"][kind] == label].T
                axes.scatter(x, y, s=10, color=colour, marker=mark, alpha=0.7, label=f"class {label}")
            _draw_line(axes, arrays["theta"], COLOURS[0], "universal")
            _draw_line(axes, arrays["phi"][kind], COLOURS[1], "updated")
            moved = np.linalg.norm(arrays["phi"][kind] - arrays["theta"])
            axes.set_xlabel(f"the update's norm: {moved:.2g}", fontsize=8, color=INK)
        for axes in panels:
            axes.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
    every[1].legend(fontsize=7, frameon=False, loc="upper left", ncols=2)
    sheet.suptitle("Blue: universal weights; red: after the update. Inner rate .1, seed 0.", fontsize=9, color=INK)
    return sheet


def _draw_line(axes: "Axes", rows: Array, colour: str, label: str) -> None:
    """Where two classes get the same output, and the way to class 0."""
    normal, offset = rows[0, :-1] - rows[1, :-1], rows[0, -1] - rows[1, -1]
    length = float(np.linalg.norm(normal))
    if length < 1e-12:  # an untrained classifier of equal rows separates nothing
        return
    unit, foot = normal / length, -offset * normal / length**2
    ends = foot + np.outer((-6, 6), (-unit[1], unit[0]))
    axes.plot(*ends.T, color=colour, lw=1.6, ls="--" if label == "universal" else "-", label=label)
    axes.annotate("", foot + 0.8 * unit, foot, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6})


def accuracy_by_task(found: Found) -> "Figure":
    """The accuracy on each of the four tasks, for every seed: dots, with a task for a column."""
    of_kind = {
        (row, name): tuple(Reading(float(one.arrays["by_kind"][kind])) for one in found.all(row, "accuracy"))
        for row, column in found.readings if column == "accuracy"
        for kind, name in enumerate(KINDS)
    }  # fmt: skip
    rows = tuple(replace(row, cells=dict.fromkeys(KINDS, Cell())) for row in found.item.rows)
    return dots(replace(found, item=replace(found.item, rows=rows), readings=of_kind), x="accuracy, %")
