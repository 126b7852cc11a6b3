"""The figures of the T-net and MT-net thesis, from what was found: errors, step sizes, update fractions, cells.

Figures 3.1-3.3 are diagrams there; here they show trained cells. Orange is what a task changes, blue what all share.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from quickstudy.papers.runner.items import Found, Missing
from quickstudy.reports.canvas import COLOURS, FAINT, INK, label_axes, new_figure
from quickstudy.storage.result import Array

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

SHARED, CHANGED = COLOURS[0], COLOURS[1]
MARKS = ("o", "s", "^", "D", "v", "P", "X")
TASKS_SHOWN = 3


def errors(found: Found) -> "matplotlib.figure.Figure":
    """Table 6.1 as points: each method's error by shots, ours with intervals beside the thesis's."""
    sheet, axes = new_figure(10.0, 3.6, columns=3)
    for panel, column in zip(axes, ("5-shot", "10-shot", "20-shot"), strict=True):
        rows = [row for row in found.item.rows if (row.name, column) in found.readings and row.name != "zero"]
        for place, row in enumerate(rows):
            seeds, over = found.each_seed(row.name, column), found.spread(row.name, column)
            panel.plot(seeds, [place - 0.12] * len(seeds), "|", color=SHARED, ms=7)
            panel.errorbar(
                found.value(row.name, column), place - 0.12, xerr=None if over is None else over.interval,
                fmt="o", color=SHARED, ms=5, capsize=2, label="here (short strokes: seeds)" if not place else None,
            )  # fmt: skip
            told = row.cells[column].reported[0]
            panel.errorbar(
                told.value, place + 0.16, xerr=told.interval,
                fmt="D", color=CHANGED, ms=4, capsize=2, label="thesis" if not place else None,
            )  # fmt: skip
        panel.set_yticks(range(len(rows)), [row.label for row in rows])
        panel.invert_yaxis()
        label_axes(panel, column, "squared error", "")
    sheet.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return sheet


def step_sizes(found: Found) -> "matplotlib.figure.Figure":
    """Table 6.2 as curves: error against the inner step size, both axes logarithmic, the thesis's numbers hollow."""
    sheet, (panel,) = new_figure(6.5, 4.2)
    methods = list(dict.fromkeys(row.name.partition("-")[0] for row in found.item.rows if row.name != "zero"))
    for method, colour, mark in zip(methods, COLOURS, MARKS, strict=False):
        rows = [row for row in found.item.rows if row.name.startswith(f"{method}-")]
        alphas = np.array([float(row.name.partition("-")[2]) for row in rows])
        told = [row.cells["10-shot"].reported[0].value for row in rows]
        panel.plot(alphas, told, mark, mfc="none", color=colour, ms=7, ls=":", lw=1)
        ran = [i for i, row in enumerate(rows) if (row.name, "10-shot") in found.readings]
        each = [found.each_seed(rows[i].name, "10-shot") for i in ran]
        means = np.array([np.mean(values) for values in each])
        label = rows[0].label.partition(",")[0]
        panel.plot(
            alphas[ran], np.where(np.isfinite(means), means, np.nan), mark, color=colour, ms=5, ls="-", label=label
        )
        for alpha, values in zip(alphas[ran], each, strict=True):
            panel.plot([alpha] * len(values), values, "_", color=colour, ms=7)
    if ("zero", "10-shot") in found.readings:
        panel.axhline(found.value("zero", "10-shot"), color=FAINT, lw=1, ls="--", label="always answering 0")
    panel.set_xscale("log")
    panel.set_yscale("log")
    label_axes(
        panel,
        "10-shot sine regression; ticks: seeds, hollow: thesis",
        "inner step size alpha, in training and test",
        "squared error",
    )
    panel.legend(fontsize=8, frameon=False)
    return sheet


def fractions(found: Found) -> "matplotlib.figure.Figure":
    """Figure 6.1 by both conventions, and by cell: means with 95% intervals over seeds, and every seed."""
    columns = [column for column in found.item.rows[0].cells if column != "error"]
    pooled, cells = columns[:2], columns[2:]
    sheet, axes = new_figure(10.0, 3.4, columns=3)
    for panel, column in zip(axes, pooled, strict=False):
        _by_order(panel, found, column, COLOURS[0], MARKS[0], seeds=True)
        label_axes(panel, column, "order of the polynomials", "fraction of all rows")
        panel.set_ylim(0, 1)
    for column, colour, mark in zip(cells, COLOURS, MARKS, strict=False):
        _by_order(axes[2], found, column, colour, mark)
    label_axes(axes[2], "adapts, by cell", "order of the polynomials", "fraction of the cell's rows")
    axes[2].set_ylim(0, 1)
    axes[2].legend(fontsize=8, frameon=False)
    return sheet


def _by_order(
    panel: "matplotlib.axes.Axes", found: Found, column: str, colour: str, mark: str, seeds: bool = False
) -> None:
    rows = [row for row in found.item.rows if (row.name, column) in found.readings]
    orders = np.array([int(row.name.partition("-")[2]) for row in rows])
    each = [np.array(found.each_seed(row.name, column)) for row in rows]
    means = [values.mean() for values in each]
    halves = [1.96 * values.std() / len(values) ** 0.5 for values in each]
    panel.errorbar(orders, means, yerr=halves, fmt=f"{mark}-", color=colour, ms=5, capsize=3, label=column)
    if seeds:
        for order, values in zip(orders, each, strict=True):
            panel.plot(order + np.linspace(0.05, 0.15, len(values)), values, ".", color=FAINT, ms=6)
    panel.set_xticks(orders)


def fractions_in_training(found: Found) -> "matplotlib.figure.Figure":
    """How the fraction that adapts moves in training: a line a seed, and one panel an order."""
    rows = [row for row in found.item.rows if row.name in found.trained]
    sheet, axes = new_figure(10.0, 3.2, columns=max(1, len(rows)))
    for panel, row in zip(axes, rows, strict=False):
        for seed in range(len(found.trained[row.name])):
            steps, values = _probed(found.logged(row.name, seed))
            panel.plot(steps, values, "-", lw=1.2, color=COLOURS[seed % len(COLOURS)], label=f"seed {seed}")
        label_axes(panel, row.label, "outer step", "adapts, all rows")
        panel.set_ylim(0, 1)
    axes[0].legend(fontsize=8, frameon=False)
    return sheet


def _probed(rows: list[dict[str, Any]]) -> tuple[list[int], list[float]]:
    """Steps, and the mean of sigmoid(zeta) over all logits at each."""
    held: dict[int, list[float]] = {}
    for row in rows:
        if row["kind"] == "probe" and ".logits." in row["name"]:
            held.setdefault(row["step"], []).extend(np.atleast_1d(row["value"]).tolist())
    return list(held), [float((1 / (1 + np.exp(-np.array(logits)))).mean()) for logits in held.values()]


def adaptation_tnet(found: Found) -> "matplotlib.figure.Figure":
    """Figure 3.1 from a trained T-net: what tasks share, and what each changes."""
    return _adaptation(found, "tnet", "T-net: every row of W moves, T does not")


def adaptation_mtnet(found: Found) -> "matplotlib.figure.Figure":
    """Figure 3.2 from a trained MT-net: rows whose mask is 0 stay."""
    return _adaptation(found, "mtnet", "MT-net: rows of W move where the task's mask is 1")


def _adaptation(found: Found, row: str, title: str) -> "matplotlib.figure.Figure":
    held = _cell(found, row)
    chosen = _different(held["mask"])
    sheet, axes = new_figure(10.0, 3.4, rows=1, columns=2 + len(chosen))
    limit = float(np.abs(held["weight"]).max()) or 1.0
    moved = float(np.abs(held["weight_change"][chosen]).max()) or 1.0
    _heat(axes[0], held["weight"].T, limit, "PuOr", "W, shared start", "input")
    _heat(axes[1], held["metric"].T, float(np.abs(held["metric"]).max()), "PuOr", "T, shared, fixed", "row of W x")
    axes[1].set_yticks(range(len(held["metric"])))
    for panel, task in zip(axes[2:], chosen, strict=True):
        mask = "".join(str(int(m)) for m in held["mask"][task])
        _heat(panel, held["weight_change"][task].T, moved, "RdBu", f"task {task}: change of W\nmask {mask}", "input")
    sheet.suptitle(
        f"{title} (the cell of 3 outputs; changes in a scale of their own, ±{moved:.1g})", fontsize=10, color=INK
    )
    return sheet


def _heat(panel: "matplotlib.axes.Axes", values: Array, limit: float, colours: str, title: str, y: str) -> None:
    panel.imshow(values, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    panel.set_title(title, fontsize=9, color=INK)
    panel.set_xticks(range(values.shape[1]))
    panel.tick_params(labelsize=7.5, length=2, colors=INK)
    panel.set_xlabel("output", fontsize=8, color=INK)
    panel.set_ylabel(y, fontsize=8, color=INK)


def _different(masks: Array) -> list[int]:
    """The first tasks with masks unlike each other's, then the first of the rest."""
    _, first = np.unique(masks, axis=0, return_index=True)
    order = [*sorted(int(i) for i in first if masks[i].any()), *range(len(masks))]
    return list(dict.fromkeys(order))[:TASKS_SHOWN]


def subspace(found: Found) -> "matplotlib.figure.Figure":
    """Figure 3.3 from trained cells: output changes of many tasks, and the plane of T's columns where the mask is 1."""
    sheet, axes = new_figure(10.0, 4.4, columns=2)
    for place, row in zip(axes, ("tnet", "mtnet"), strict=True):
        held = _cell(found, row)
        panel: Any = sheet.add_subplot(place.get_subplotspec(), projection="3d")
        place.remove()
        mask = _usual(held["mask"])
        same = (held["mask"] == mask).all(1)
        points, columns = held["output"][same], held["metric"][:, mask > 0.5]
        reach = float(np.abs(points).max()) or 1.0
        panel.scatter(*points.T, c=held["phase"][same], cmap="viridis", s=14, depthshade=False)
        panel.plot([0], [0], [0], "+", color=INK, ms=8)
        for j in range(columns.shape[1]):
            end = columns[:, j] / np.linalg.norm(columns[:, j]) * reach * 0.7
            panel.plot(*np.stack([np.zeros(3), end], axis=1), color=CHANGED, lw=1.6)
        if columns.shape[1] == 2:
            _plane(panel, columns, reach)
        panel.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
        words = {1: "a line", 2: "a plane", 3: "all of space"}[columns.shape[1]]
        label = "T-net" if row == "tnet" else f"MT-net, mask {''.join(str(int(m)) for m in mask)}"
        told = f"{same.sum()} tasks, coloured by phase; lines: T's columns"
        panel.set_title(f"{label}: changes span {words}\n{told}", fontsize=9, color=INK)
        panel.tick_params(labelsize=7)
    return sheet


def _usual(masks: Array) -> Array:
    """Of the masks with two ones, the most frequent; else of all that have any."""
    every, counts = np.unique(masks, axis=0, return_counts=True)
    rows = every.sum(1)
    wanted = rows == 2 if (rows == 2).any() else rows > 0
    if not wanted.any():
        raise Missing("No task's mask lets a row of the drawn cell adapt, so there is nothing to draw.")
    mask: Array = every[np.where(wanted, counts, -1).argmax()]
    return mask


def _plane(panel: Any, columns: Array, reach: float) -> None:
    basis = np.linalg.qr(columns)[0] * reach
    s, t = np.meshgrid((-1, 1), (-1, 1))
    sheet = basis[:, 0, None, None] * s + basis[:, 1, None, None] * t
    panel.plot_surface(*sheet, alpha=0.18, color=SHARED)


def _cell(found: Found, row: str) -> dict[str, Array]:
    return dict(found.first(row, "outside the plane").arrays)
