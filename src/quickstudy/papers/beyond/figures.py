"""Curves of one column against a number that the rows are named by."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from quickstudy.papers.runner.items import Found, Missing
from quickstudy.reports.canvas import COLOURS, label_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKS = "osD^vPX*h"


def against(
    found: Found, *, curves: Mapping[str, Sequence[tuple[str, float]]], column: str, x: str, y: str
) -> "Figure":
    """A line for each label through its rows, with the interval over tasks where there is one.

    Args:
        found: What was found.
        curves: By label: rows, each with its place on the x axis.
        column: What is drawn.
        x: The x axis, in words.
        y: The y axis, in words.
    """
    sheet, (axes,) = new_figure(6.4, 4.2)
    places = sorted({at for points in curves.values() for _, at in points})
    drawn = False
    for i, (label, points) in enumerate(curves.items()):
        here = [(row, at) for row, at in points if (row, column) in found.readings]
        if not here:
            continue
        drawn = True
        values = np.array([found.value(row, column) for row, _ in here])
        over = [found.spread(row, column) for row, _ in here]
        bars = np.array([0.0 if one is None else one.interval for one in over])
        # Several lines at one place hide each other's intervals, so each is moved a little aside.
        at = [places.index(p) + 0.02 * (i - len(curves) / 2) for _, p in here]
        again, colour = divmod(i, len(COLOURS))
        axes.errorbar(
            at, values, bars, label=label, lw=1.5, ms=4.5, capsize=2, color=COLOURS[colour], marker=MARKS[i],
            ls="--" if again else "-",
        )  # fmt: skip
    if not drawn:
        raise Missing(f"No row of {found.item.name} was run.")
    axes.set_xticks(range(len(places)), [f"{place:g}" for place in places])
    if not found.item.larger_is_better and column != "ms":
        axes.set_yscale("log")
    label_axes(axes, "", x, y)
    axes.legend(fontsize=8, frameon=False)
    return sheet
