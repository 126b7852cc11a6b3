"""What all figures share: making them, their colours, markers and axes.

Only matplotlib's objects are used, never pyplot, so drawing does not change the state of the caller's pyplot. Colours
are Okabe and Ito's, which colour-blind readers can tell apart. Where a colour has a meaning, a marker or a dash has the
same meaning.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from quickstudy.errors import InputError
from quickstudy.storage.result import Array

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c00", "#444444")
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X"
RIGHT, WRONG = "#009e73", "#d55e00"
INK, FAINT = "#333333", "#b8b8b8"
DPI = 160


def predicted_classes(output: Array) -> Array:
    """The predicted class of each query, -1 where an output is NaN. A class that is ruled out has minus infinity."""
    guess: Array = np.where(np.isnan(output).any(1), -1, output.argmax(1))
    return guess


def count_right(guess: Array, truth: Array) -> str:
    """A sentence with the number of right predictions."""
    return f"{int((guess == truth).sum())} of {len(truth)} queries of this task are right."


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, share_x: bool = False
) -> "tuple[matplotlib.figure.Figure, list[matplotlib.axes.Axes]]":
    """A figure of a width and a height in inches, and its axes row by row."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as missing:
        raise InputError('Figures need matplotlib. Install it: pip install "quickstudy[plot]"') from missing
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharex=share_x).flat)


def label_axes(axes: "matplotlib.axes.Axes", title: str, x: str, y: str) -> None:
    """Set the title and the labels, and give the axes the look of this library."""
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=8.5, colors=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e8e8e8", lw=0.7)
    axes.set_axisbelow(True)


def percent_if(axes: "matplotlib.axes.Axes", metric: str, of_x: bool = False) -> None:
    """Show the values of an axis in percent if the metric is the accuracy."""
    if metric == "accuracy":
        from matplotlib.ticker import PercentFormatter

        (axes.xaxis if of_x else axes.yaxis).set_major_formatter(PercentFormatter(1.0))
        if not of_x:  # an interval may reach below 0 or above 1, an accuracy cannot
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, -0.02), min(high, 1.02))


def whole_steps(axes: "matplotlib.axes.Axes") -> None:
    """Put the ticks of x at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def log_if_wide(axes: "matplotlib.axes.Axes", series: Sequence[Array]) -> None:
    """Make y logarithmic if all values are positive and the largest is more than 100 times the smallest."""
    values = np.concatenate(series)
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > 100 * values.min():
        axes.set_yscale("log")


def to_png(figure: "matplotlib.figure.Figure") -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: "matplotlib.figure.Figure") -> bytes:
    """The figure as an SVG. The same figure gives the same bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "quickstudy", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
