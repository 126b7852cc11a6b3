"""Figures of runs: learning curves, spreads over tasks, probes and example tasks.

Each function draws one figure from the files of runs. It returns PNG bytes, or None if there is nothing to draw.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from quickstudy.reports import canvas, image_figures
from quickstudy.reports.canvas import COLOURS, DASHES, MARKERS
from quickstudy.storage.result import Array, EvaluationResult, is_images
from quickstudy.storage.run import Run

LOSS_BINS = 100
"""Points of a curve of training loss. A line of 60 000 noisy points would hide its own trend."""


def draw_learning_curves(runs: Mapping[str, Run]) -> bytes | None:
    """Training loss of all runs in one axes, and validation with its 95% band in one axes per metric."""
    rows = {label: run.metrics() for label, run in runs.items()}
    train = {label: of for label in runs if (of := [row for row in rows[label] if row.get("kind") == "train"])}
    val = {label: of for label in runs if (of := [row for row in rows[label] if row.get("kind") == "val"])}
    metrics = {label: metric_name(run, rows[label]) for label, run in runs.items()}
    panels = (["loss"] if train else []) + sorted({metrics[label] for label in val})
    if not panels:
        return None
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows_of_axes = math.ceil(len(panels) / columns)
    figure, grid = canvas.new_figure((5.5, 9.2, 11.2)[columns - 1], 0.5 + 3 * rows_of_axes, rows_of_axes, columns)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    colours = dict(zip(runs, cycle(COLOURS), strict=False))
    dashes = {label: DASHES[i // len(COLOURS) % len(DASHES)] for i, label in enumerate(runs)}
    if train:
        for label, own in train.items():
            step, loss = _average_in_bins(_column(own, "step"), _column(own, "loss"))
            grid[0].plot(step, loss, color=colours[label], ls=dashes[label], lw=1.6, label=label)
        canvas.label_axes(grid[0], "training loss", "step", "")
        canvas.whole_steps(grid[0])
        canvas.log_if_wide(grid[0], [_column(own, "loss") for own in train.values()])
    for axes, metric in zip(grid[bool(train) :], panels[bool(train) :], strict=False):
        for label, own in val.items():
            if metrics[label] == metric:
                step, mean, spread = (_column(own, key) for key in ("step", "metric", "interval"))
                marker = "o" if len(own) <= 25 else ""
                (line,) = axes.plot(step, mean, color=colours[label], ls=dashes[label], lw=1.6, label=label)
                line.set(marker=marker, markersize=3.5)
                axes.fill_between(step, mean - spread, mean + spread, color=colours[label], alpha=0.18, lw=0)
        canvas.label_axes(axes, f"validation {metric}", "step", "")
        canvas.whole_steps(axes)
        canvas.percent_if(axes, metric)
        if metric != "accuracy":
            canvas.log_if_wide(axes, [_column(own, "metric") for label, own in val.items() if metrics[label] == metric])
    if len(runs) > 1:
        handles = {text: line for axes in grid for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return canvas.to_png(figure)


def draw_spread(results: Mapping[str, EvaluationResult], metric: str) -> bytes | None:
    """Histograms of the metric of single tasks: one for each result, one below the other, on the same x axis."""
    values = {label: np.ravel(result.arrays["metric"]) for label, result in results.items() if _has_task_values(result)}
    values = {label: of[np.isfinite(of)] for label, of in values.items()}
    values = {label: of for label, of in values.items() if of.size}
    if not values:
        return None
    every_value = np.concatenate(list(values.values()))
    low, high = float(every_value.min()), float(every_value.max())
    if metric != "accuracy":  # one very large value must not press the others into a single bar
        high = max(_axis_end(of) for of in values.values())
    edges = _bin_edges(every_value, low, high)
    figure, grid = canvas.new_figure(6.4, 0.9 + 1.15 * len(values), rows=len(values), share_x=True)
    for axes, (label, of), colour in zip(grid, values.items(), cycle(COLOURS), strict=False):
        axes.hist(of, bins=edges.tolist(), color=colour, alpha=0.55, edgecolor="white", lw=0.4)
        axes.axvline(float(of.mean()), color=colour, lw=2)
        beyond = int((of > edges[-1]).sum())
        canvas.label_axes(
            axes, label + (f"   ({beyond} tasks lie beyond the right edge)" if beyond else ""), "", "tasks"
        )
        axes.grid(False)
        canvas.percent_if(axes, metric, of_x=True)
        axes.set_xlim(edges[0], edges[-1])
    grid[-1].set_xlabel(f"{metric} of one task")
    return canvas.to_png(figure)


def draw_probes(run: Run) -> bytes | None:
    """The probes of a run against the step: one small panel for each."""
    series: dict[str, list[tuple[float, Array]]] = {}
    for row in run.metrics():
        if row.get("kind") == "probe":
            series.setdefault(row["name"], []).append((row["step"], np.ravel(np.asarray(row["value"], dtype=float))))
    series = {name: of for name, of in series.items() if of[-1][1].size}
    if not series:
        return None
    columns = min(3, len(series))
    rows = math.ceil(len(series) / columns)
    figure, grid = canvas.new_figure(max(3.4 * columns, 4.6), 0.3 + 2.4 * rows, rows=rows, columns=columns)
    for axes in grid[len(series) :]:
        axes.set_axis_off()
    for axes, (name, points) in zip(grid, sorted(series.items()), strict=False):
        size = points[-1][1].size  # a probe may change its size; only values of the last size are drawn
        step = np.array([at for at, value in points if value.size == size])
        value = np.stack([value for _, value in points if value.size == size])
        if size > 12:
            axes.fill_between(step, value.min(1), value.max(1), color=COLOURS[0], alpha=0.15, lw=0)
            axes.plot(step, np.median(value, 1), color=COLOURS[0], lw=1.6)
            title = f"{name}  (median and range of {size})"
        else:
            title = name
            for i, colour in zip(range(size), cycle(COLOURS), strict=False):
                dash = DASHES[i // len(COLOURS)]
                axes.plot(step, value[:, i], color=colour, ls=dash, lw=1.6, marker="o" if len(step) < 3 else "", ms=4)
                if size > 1:
                    axes.annotate(str(i), (step[-1], value[-1, i]), (3, 0), textcoords="offset points", fontsize=8)
        canvas.label_axes(axes, title, "step", "")
        canvas.whole_steps(axes)
    return canvas.to_png(figure)


def draw_example_task(result: EvaluationResult) -> tuple[bytes, str] | None:
    """The example task of a result with the learner's predictions, and a caption; None if it cannot be drawn."""
    wanted = ("support_x", "support_y", "query_x", "query_y", "output")
    if not all(name in result.arrays for name in wanted):
        return None
    support_x, support_y, query_x, query_y, output = (result.arrays[name] for name in wanted)
    if not len(query_x) or len(output) != len(query_y):
        return None
    classes = query_y.ndim == 1 and query_y.dtype.kind in "iu" and output.ndim == 2
    if classes and is_images(support_x.shape[1:]):
        return image_figures.draw_task(result)
    if classes and support_x.ndim == 2 and support_x.shape[1] == 2:
        return _draw_plane_task(support_x, support_y, query_x, query_y, output)
    if not classes and support_x.ndim == 2 and support_x.shape[1] == 1 and query_y.dtype.kind == "f":
        return _draw_curve_task(support_x, support_y, query_x, query_y, output)
    return None


def metric_name(run: Run, rows: Sequence[Mapping[str, Any]]) -> str:
    """The metric of a run's validations, by the rows of its log. Those of old runs do not say it; their results do."""
    names = [row["name"] for row in rows if row.get("kind") == "val" and "name" in row]
    names = names or [result.summary["metric"] for result in run.results().values() if "metric" in result.summary]
    return str((names or ["metric"])[0])


def _draw_plane_task(
    support_x: Array, support_y: Array, query_x: Array, query_y: Array, output: Array
) -> tuple[bytes, str]:
    """Points of the plane: colour and marker show the class, a cross shows a mistake."""
    guess = canvas.predicted_classes(output)
    figure, (axes,) = canvas.new_figure(5.4, 4.4)
    for label, colour, marker in zip(np.unique(support_y), cycle(COLOURS), cycle(MARKERS), strict=False):
        query, support = query_x[guess == label], support_x[support_y == label]
        axes.scatter(query[:, 0], query[:, 1], s=20, color=colour, marker=marker, alpha=0.6, lw=0)
        large = axes.scatter(support[:, 0], support[:, 1], s=75, color=colour, marker=marker, label=f"class {label}")
        large.set(edgecolor="black", linewidth=1.1, zorder=3)
    wrong = query_x[guess != query_y]
    axes.scatter(wrong[:, 0], wrong[:, 1], s=42, marker="x", color="black", lw=1.1, label="query, wrong", zorder=2)
    canvas.label_axes(axes, "", "", "")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    about = "Large outlined points are the support set; small ones are queries, drawn as the class predicted for them."
    return canvas.to_png(figure), f"{canvas.count_right(guess, query_y)} {about}"


def _draw_curve_task(
    support_x: Array, support_y: Array, query_x: Array, query_y: Array, output: Array
) -> tuple[bytes, str]:
    """A function of one number: the support points, the true query points and the predictions."""
    order = np.argsort(query_x[:, 0])
    x = query_x[order, 0]
    support, truth, predicted = (values.reshape(len(values), -1)[:, 0] for values in (support_y, query_y, output))
    truth, predicted = truth[order], predicted[order]
    figure, (axes,) = canvas.new_figure(6.4, 3.4)
    marker = "o" if len(x) <= 40 else ""
    axes.plot(x, truth, color=canvas.FAINT, lw=3, marker=marker, ms=5, label="query, true")
    axes.plot(x, predicted, color=COLOURS[0], lw=1.8, ls="--", marker=marker and "D", ms=3.5, label="query, predicted")
    axes.plot(support_x[:, 0], support, "^", color=COLOURS[1], mec="black", ms=8, label="support", zorder=3)
    low, high = min(truth.min(), support.min()), max(truth.max(), support.max())
    extent = max(float(high - low), 1e-6)
    finite = predicted[np.isfinite(predicted)]
    # Far predictions are cut off: else the true curve would look like a straight line.
    bottom = max(min([low, *finite]), low - extent) - 0.08 * extent
    top = min(max([high, *finite]), high + extent) + 0.08 * extent
    axes.set_ylim(bottom, top)
    canvas.label_axes(axes, "", "x", "y")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    error = float(np.mean((truth - predicted) ** 2))
    part = " Only the first of several outputs is drawn." if np.size(query_y) > len(query_y) else ""
    return canvas.to_png(figure), f"Mean squared error on this task: {error:.3g}.{part}"


def _has_task_values(result: EvaluationResult) -> bool:
    """Whether a result has the metric of each task, as numbers."""
    return "metric" in result.arrays and result.arrays["metric"].dtype.kind in "fiub"


def _axis_end(values: Array) -> float:
    """Where to end the axis of values with a long tail: at the 99th percentile, or at ten interquartile ranges."""
    low, middle, high, most = np.quantile(values, [0.25, 0.5, 0.75, 0.99])
    return float(min(most, middle + 10 * (high - low)) if high > low else most)


def _bin_edges(values: Array, low: float, high: float) -> Array:
    """One bar for each value if the metric takes few values (75 queries: 76 accuracies), else 30 equal bars."""
    distinct = np.unique(values[values <= high].round(9))
    if 1 < distinct.size <= 50:
        half = float(np.diff(distinct).min()) / 2
        if (high - low) / half < 400:
            return np.arange(low - half, high + 1.5 * half, 2 * half)
    margin = 0.0 if high > low else 0.5
    return np.linspace(low - margin, high + margin, 31)


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> Array:
    """One value for each row; NaN where it is missing or infinite, which makes a gap in a line."""
    values = np.array([float(value) if (value := row.get(key)) is not None else math.nan for row in rows])
    return np.where(np.isfinite(values), values, math.nan)


def _average_in_bins(step: Array, value: Array) -> tuple[Array, Array]:
    """The means of steps and values over at most `LOSS_BINS` stretches of steps."""
    pieces = np.array_split(np.arange(len(step)), min(LOSS_BINS, len(step)))

    def mean(values: Array) -> float:
        known = values[np.isfinite(values)]
        return float(known.mean()) if known.size else math.nan

    return np.array([mean(step[piece]) for piece in pieces]), np.array([mean(value[piece]) for piece in pieces])
