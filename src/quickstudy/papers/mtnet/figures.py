"""The thesis's figures that are neither dots nor curves: update fractions in training, and cells.

Figures 3.1-3.3 are diagrams there; here they show trained cells. Orange is what a task changes, blue what all share.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from quickstudy.papers.runner.found import Found, MissingError
from quickstudy.reports.canvas import COLOURS, INK, label_axes, new_figure
from quickstudy.storage.result import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARED, CHANGED = COLOURS[0], COLOURS[1]
TASKS_SHOWN = 3


def fractions_in_training(found: Found) -> "Figure":
    """How the fraction that adapts moves in training: a line a seed, and one panel an order."""
    rows = [row for row in found.item.rows if row.name in found.trained]
    sheet, axes = new_figure(10.0, 3.2, columns=max(1, len(rows)))
    for panel, row in zip(axes, rows, strict=False):
        for seed in range(len(found.trained[row.name])):
            steps, logits = found.probed(row.name, "*.logits.*", seed)
            adapts, colour = (1 / (1 + np.exp(-logits))).mean(1), COLOURS[seed % len(COLOURS)]
            panel.plot(steps, adapts, "-", lw=1.2, color=colour, label=f"seed {seed}")
        label_axes(panel, row.label, "outer step", "adapts, all rows")
        panel.set_ylim(0, 1)
    axes[0].legend(fontsize=8, frameon=False)
    return sheet


def cell_changes(found: Found, *, row: str, title: str) -> "Figure":
    """Figures 3.1 and 3.2 from a trained cell: what tasks share, and what each changes."""
    held = found.first(row, "outside the plane").arrays
    # The first tasks with masks unlike each other's, then the first of the rest.
    _, first = np.unique(held["mask"], axis=0, return_index=True)
    unlike = sorted(int(i) for i in first if held["mask"][i].any())
    chosen = list(dict.fromkeys([*unlike, *range(len(held["mask"]))]))[:TASKS_SHOWN]
    sheet, axes = new_figure(10.0, 3.4, rows=1, columns=2 + len(chosen))
    moved = float(np.abs(held["weight_change"][chosen]).max()) or 1.0
    _heat(axes[0], held["weight"].T, float(np.abs(held["weight"]).max()) or 1.0, "PuOr", "W, shared start", "input")
    _heat(axes[1], held["metric"].T, float(np.abs(held["metric"]).max()), "PuOr", "T, shared, fixed", "row of W x")
    axes[1].set_yticks(range(len(held["metric"])))
    for panel, task in zip(axes[2:], chosen, strict=True):
        words = f"task {task}: change of W\nmask {''.join(map(str, held['mask'][task].astype(int)))}"
        _heat(panel, held["weight_change"][task].T, moved, "RdBu", words, "input")
    about = f"{title} (the cell of 3 outputs; changes in a scale of their own, ±{moved:.1g})"
    sheet.suptitle(about, fontsize=10, color=INK)
    return sheet


def _heat(panel: "Axes", values: Array, limit: float, colours: str, title: str, y: str) -> None:
    panel.imshow(values, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    panel.set_title(title, fontsize=9, color=INK)
    panel.set_xticks(range(values.shape[1]))
    panel.tick_params(labelsize=7.5, length=2, colors=INK)
    panel.set_xlabel("output", fontsize=8, color=INK)
    panel.set_ylabel(y, fontsize=8, color=INK)


def subspace(found: Found, *, rows: Sequence[str]) -> "Figure":
    """Figure 3.3 from trained cells: output changes of many tasks, and the plane of T's columns where the mask is 1."""
    sheet, axes = new_figure(10.0, 4.4, columns=2)
    for place, row in zip(axes, rows, strict=True):
        held = found.first(row, "outside the plane").arrays
        panel: Any = sheet.add_subplot(place.get_subplotspec(), projection="3d")
        place.remove()
        # Of the masks with two ones, the most frequent; else of all that have any.
        masks, counts = np.unique(held["mask"], axis=0, return_counts=True)
        ones = masks.sum(1)
        if not ones.any():
            raise MissingError("No task's mask lets a row of the drawn cell adapt, so there is nothing to draw.")
        mask = masks[np.where(ones == 2 if (ones == 2).any() else ones > 0, counts, -1).argmax()]
        same = (held["mask"] == mask).all(1)
        points, columns = held["output"][same], held["metric"][:, mask > 0.5]
        reach = float(np.abs(points).max()) or 1.0
        panel.scatter(*points.T, c=held["phase"][same], cmap="viridis", s=14, depthshade=False)
        panel.plot([0], [0], [0], "+", color=INK, ms=8)
        for column in columns.T:
            end = column / np.linalg.norm(column) * reach * 0.7
            panel.plot(*np.stack([np.zeros(3), end], axis=1), color=CHANGED, lw=1.6)
        if columns.shape[1] == 2:
            plane = np.tensordot(np.linalg.qr(columns)[0] * reach, np.meshgrid((-1, 1), (-1, 1)), axes=1)
            panel.plot_surface(*plane, alpha=0.18, color=SHARED)
        panel.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
        words = {1: "a line", 2: "a plane", 3: "all of space"}[columns.shape[1]]
        label = "T-net" if row == "tnet" else f"MT-net, mask {''.join(map(str, mask.astype(int)))}"
        about = f"{same.sum()} tasks, coloured by phase; lines: T's columns"
        panel.set_title(f"{label}: changes span {words}\n{about}", fontsize=9, color=INK)
        panel.tick_params(labelsize=7)
    return sheet
