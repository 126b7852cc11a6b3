"""The figure of a sweep: the values of its trials, in order and against each searched setting."""

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
"""The marker and colour of trials without a final value. They are drawn on the upper edge."""


def draw_sweep(trials: Sequence[Trial], space: Space, metric: str, larger_is_better: bool) -> bytes | None:
    """The value of each trial with the best so far, then the value against each searched setting.

    None if no trial is complete.
    """
    complete = [t for t in trials if t.state == "complete"]
    if not complete:
        return None
    values = np.array([t.value for t in complete])
    panels = 1 + len(space)
    columns = 2 if panels == 4 else min(3, panels)
    rows = math.ceil(panels / columns)
    figure, grid = canvas.new_figure((5.5, 9.2, 11.2)[columns - 1], 0.5 + 3 * rows, rows, columns)
    for axes in grid[panels:]:
        axes.set_axis_off()
    number = [t.number for t in complete]
    best_so_far = list(accumulate(values, max if larger_is_better else min))
    grid[0].step(number, best_so_far, where="post", color=INK, lw=1.4, label="best so far")
    _integer_ticks(grid[0])
    _plot_complete(grid[0], number, values)
    _plot_cut_short(grid[0], trials, {t.number: t.number for t in trials})
    for axes, (key, dimension) in zip(grid[1:], space.items(), strict=False):
        x: dict[int, Any] = {t.number: t.params[key] for t in trials if key in t.params}
        if isinstance(dimension, Choice):
            labels, choices = list(dimension.labels), list(dimension.values)
            x = {number: choices.index(value) for number, value in x.items()}
            axes.set_xticks(range(len(labels)), labels)
            axes.set_xlim(-0.5, len(labels) - 0.5)
        elif dimension.log:
            _log_axis(axes, dimension)
        elif dimension.whole:
            _integer_ticks(axes)
        _plot_complete(axes, [x[t.number] for t in complete], values)
        _plot_cut_short(axes, trials, x)
    for axes, title in zip(grid, ["trial", *space], strict=False):
        canvas.label_axes(axes, "", title, f"validation {metric}")
        canvas.percent_if(axes, metric)
        if metric != "accuracy":
            canvas.log_if_wide(axes, [values])
    handles = {text: line for axes in grid for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return canvas.to_png(figure)


def _integer_ticks(axes: "matplotlib.axes.Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _log_axis(axes: "matplotlib.axes.Axes", dimension: Range) -> None:
    """A logarithmic axis over the whole range. Its labels are set here: matplotlib's overlap on one or two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    ratio = dimension.high / dimension.low
    margin = ratio**0.05
    axes.set_xscale("log")
    axes.set_xlim(dimension.low / margin, dimension.high * margin)
    subs = (1.0, 2.0, 5.0) if ratio <= 100 else (1.0,)
    axes.xaxis.set_major_locator(MaxNLocator(4) if ratio < 5 else LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _plot_complete(axes: "matplotlib.axes.Axes", x: Sequence[Any], y: Array) -> None:
    axes.plot(x, y, "o", color=COLOURS[0], ms=5, alpha=0.75, mec="white", mew=0.5, label="complete")


def _plot_cut_short(axes: "matplotlib.axes.Axes", trials: Sequence[Trial], x: dict[int, Any]) -> None:
    for state, (marker, colour) in CUT_SHORT.items():
        own = [x[t.number] for t in trials if t.state == state and t.number in x]
        if own:
            top = axes.get_xaxis_transform()  # y counts from 0 at the lower edge to 1 at the upper
            axes.plot(own, [1.0] * len(own), marker, color=colour, ms=7, transform=top, clip_on=False, label=state)
