"""The figure of a sweep: its values trial by trial, and against each setting that was searched."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from quickstudy.reports import canvas
from quickstudy.reports.canvas import COLOURS, INK, WRONG
from quickstudy.storage.result import Array
from quickstudy.training.sweep.plan import Trial
from quickstudy.training.sweep.space import Choice, Range, Space

if TYPE_CHECKING:
    import matplotlib.axes

CUT_SHORT = {"pruned": ("|", INK), "failed": ("x", WRONG)}
"""Trials without a final value stand on the upper edge."""


def draw_values(tried: Sequence[Trial], over: Space, metric: str, larger_is_better: bool) -> bytes | None:
    """Value against trial with the best so far, then against each searched setting; None when no trial ended well."""
    done = [t for t in tried if t.state == "complete"]
    if not done:
        return None
    measured = np.array([t.value for t in done])
    panels = 1 + len(over)
    columns = 2 if panels == 4 else min(3, panels)
    rows = math.ceil(panels / columns)
    figure, grid = canvas.new_figure((5.5, 9.2, 11.2)[columns - 1], 0.5 + 3 * rows, rows, columns)
    for axes in grid[panels:]:
        axes.set_axis_off()
    number = [t.number for t in done]
    so_far = list(accumulate(measured, max if larger_is_better else min))
    grid[0].step(number, so_far, where="post", color=INK, lw=1.4, label="best so far")
    _whole(grid[0])
    _points(grid[0], number, measured)
    _edge(grid[0], tried, {t.number: t.number for t in tried})
    for axes, (key, dimension) in zip(grid[1:], over.items(), strict=False):
        place: dict[int, Any] = {t.number: t.params[key] for t in tried if key in t.params}
        if isinstance(dimension, Choice):
            labels, held = list(dimension.labels), list(dimension.values)
            place = {number: held.index(value) for number, value in place.items()}
            axes.set_xticks(range(len(labels)), labels)
            axes.set_xlim(-0.5, len(labels) - 0.5)
        elif dimension.log:
            _log(axes, dimension)
        elif dimension.whole:
            _whole(axes)
        _points(axes, [place[t.number] for t in done], measured)
        _edge(axes, tried, place)
    for axes, title in zip(grid, ["trial", *over], strict=False):
        canvas.label_axes(axes, "", title, f"validation {metric}")
        canvas.percent_if(axes, metric)
        if metric != "accuracy":
            canvas.log_if_wide(axes, [measured])
    handles = {text: line for axes in grid for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return canvas.to_png(figure)


def _whole(axes: "matplotlib.axes.Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _log(axes: "matplotlib.axes.Axes", over: Range) -> None:
    """The whole range, with as many labels as there is room for: matplotlib's for a decade or two overlap."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    wide = over.high / over.low
    margin = wide**0.05
    axes.set_xscale("log")
    axes.set_xlim(over.low / margin, over.high * margin)
    subs = (1.0, 2.0, 5.0) if wide <= 100 else (1.0,)
    axes.xaxis.set_major_locator(MaxNLocator(4) if wide < 5 else LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _points(axes: "matplotlib.axes.Axes", x: Sequence[Any], y: Array) -> None:
    axes.plot(x, y, "o", color=COLOURS[0], ms=5, alpha=0.75, mec="white", mew=0.5, label="complete")


def _edge(axes: "matplotlib.axes.Axes", tried: Sequence[Trial], place: dict[int, Any]) -> None:
    for state, (mark, colour) in CUT_SHORT.items():
        x = [place[t.number] for t in tried if t.state == state and t.number in place]
        if x:
            y = [1.0] * len(x)
            over = axes.get_xaxis_transform()
            axes.plot(x, y, mark, color=colour, ms=7, transform=over, clip_on=False, label=state)
