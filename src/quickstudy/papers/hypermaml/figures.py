"""Pictures of HyperMAML's tables and figures, drawn from what was found beside what the paper reports."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quickstudy.papers.hypermaml.measures import KINDS
from quickstudy.papers.hypermaml.quoted import Table
from quickstudy.papers.runner.items import Found
from quickstudy.reports.canvas import COLOURS, FAINT, INK, label_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, PAPER, OTHER = COLOURS[0], COLOURS[1], COLOURS[2]
Draw = Callable[[Found], "Figure"]
Array = NDArray[Any]


def _rows(found: Found, column: str) -> list[str]:
    return [row.name for row in found.item.rows if (row.name, column) in found.readings]


def _interval(found: Found, row: str, column: str) -> float:
    over = found.spread(row, column)
    return 0.0 if over is None else over.interval


def _dots(axes: "Axes", found: Found, column: str, label: bool) -> None:
    """Ours with their intervals and the paper's numbers, a line for each row that was run."""
    by_name = {row.name: row for row in found.item.rows}
    names = _rows(found, column)[::-1]
    for place, name in enumerate(names):
        axes.errorbar(
            found.value(name, column), place, xerr=_interval(found, name, column), fmt="o", color=OURS, ms=5, capsize=2,
            label="here" if label and place == 0 else None,
        )  # fmt: skip
        for said in by_name[name].cells[column].reported[:1]:
            axes.errorbar(
                said.value, place + 0.22, xerr=said.interval or 0.0, fmt="D", mfc="white", color=PAPER, ms=4, capsize=2,
                label="paper" if label and not axes.get_legend_handles_labels()[1].count("paper") else None,
            )  # fmt: skip
    axes.set_yticks(range(len(names)), [by_name[name].label for name in names])
    axes.set_ylim(-0.6, len(names) - 0.2)


def _legend(sheet: "Figure", axes: "Axes") -> None:
    """What the marks of one panel mean, above all of them."""
    handles, labels = axes.get_legend_handles_labels()
    sheet.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8, frameon=False)


def accuracies(found: Found) -> "Figure":
    """Every column's own rows beside the paper's numbers for them."""
    columns = list(dict.fromkeys(column for _, column in found.readings))
    most = max(len(_rows(found, column)) for column in columns)
    across = min(2, len(columns))
    sheet, every = new_figure(
        5.2 * across, (0.8 + 0.3 * most) * -(-len(columns) // across), -(-len(columns) // across), across
    )
    for place, (axes, column) in enumerate(zip(every, columns, strict=False)):
        label_axes(axes, column, "accuracy, %", "")
        _dots(axes, found, column, label=place == 0)
    for spare in every[len(columns) :]:
        spare.set_visible(False)
    _legend(sheet, every[0])
    _tell(sheet, found)
    return sheet


def _tell(sheet: "Figure", found: Found) -> None:
    """Name the data that stand in for the paper's, where some do."""
    if names := list(filter(None, dict.fromkeys(found.stand_in(row) for row in found.item.rows))):
        sheet.supxlabel(f"Here: {'; '.join(names)}.", fontsize=8, color=INK)


def ablation(found: Found) -> "Figure":
    """Table 5's cells, those at equal rates, and the variants."""
    sheet, (axes,) = new_figure(7.0, 0.9 + 0.36 * len(_rows(found, "accuracy")))
    label_axes(axes, "Switch and enhancement", "accuracy, %", "")
    _dots(axes, found, "accuracy", label=True)
    _legend(sheet, axes)
    _tell(sheet, found)
    return sheet


def norms(found: Found) -> "Figure":
    """Norms of the classifier's update on a logarithmic axis."""
    sheet, every = new_figure(10.0, 2.6, 1, 2)
    by_name = {row.name: row for row in found.item.rows}
    for axes, part in zip(every, ("weight", "bias"), strict=True):
        label_axes(axes, part, "norm of the update", "")
        names = _rows(found, part)[::-1]
        for place, name in enumerate(names):
            axes.plot(found.value(name, part), place, "o", color=OURS, label="here" if place == 0 else None)
            for said in by_name[name].cells[part].reported:
                axes.plot(said.value, place, "D", mfc="white", color=PAPER, label="paper" if place == 0 else None)
        axes.set_xscale("log")
        axes.set_yticks(range(len(names)), [by_name[name].label for name in names])
        axes.set_ylim(-0.5, len(names) - 0.5)
    _legend(sheet, every[0])
    _tell(sheet, found)
    return sheet


def costs(panels: Mapping[str, tuple[str, str]], reported: Table) -> Draw:
    """Seconds and accuracy against steps; `panels` are titles and columns' first words by rows' first words."""

    def draw(found: Found) -> "Figure":
        sheet, every = new_figure(9.0, 3.2 * len(panels), len(panels), 2)
        for place, (prefix, (before, title)) in enumerate(panels.items()):
            for axes, what, unit in zip(
                every[2 * place : 2 * place + 2], ("seconds", "accuracy"), ("seconds for 600 tasks", "accuracy, %"),
                strict=True,
            ):  # fmt: skip
                label_axes(axes, f"{title}: {what}", "steps", unit)
                _curve(axes, found, f"{prefix}maml-", f"{before}{what}", ("o-", OURS, "MAML, by inner steps"))
                style = ("s--", OTHER, "HyperMAML, by finetuning steps")
                _curve(axes, found, f"{prefix}finetuned-", f"{before}{what}", style)
                own = f"{prefix}hypermaml", f"{before}{what}"
                if own in found.readings:
                    axes.axhline(found.value(*own), color=OTHER, lw=1.4, label="HyperMAML, emission alone")
                steps = sorted(int(k) for k in reported if k != "HyperMAML")
                theirs = [reported[str(k)][f"{before}{what}"].value for k in steps]
                axes.plot(steps, theirs, ":", marker="D", mfc="white", ms=3.5, color=PAPER, label="paper, MAML")
                said = reported["HyperMAML"][f"{before}{what}"].value
                axes.axhline(said, color=PAPER, ls="-.", lw=1, label="paper, HyperMAML")
                if what == "seconds":
                    axes.set_yscale("log")
                if max(steps) > 20:
                    axes.set_xscale("symlog", linthresh=5)
                    axes.set_xticks(steps, [str(k) for k in steps])
                    axes.set_xlim(-0.3, 1.15 * max(steps))
        _legend(sheet, every[0])
        _tell(sheet, found)
        return sheet

    return draw


def _curve(axes: "Axes", found: Found, prefix: str, column: str, style: tuple[str, str, str]) -> None:
    names = [name for name in _rows(found, column) if name.startswith(prefix)]
    if not names:
        return
    steps = [int(name.removeprefix(prefix)) for name in names]
    bars = [_interval(found, name, column) for name in names] if column.endswith("accuracy") else None
    mark, colour, label = style
    axes.errorbar(
        steps, [found.value(name, column) for name in names], yerr=bars, fmt=mark, color=colour, ms=4, capsize=2,
        lw=1.2, label=label,
    )  # fmt: skip


def plane(rows: Sequence[str]) -> Draw:
    """The data and the four tasks of the first seed, a row of panels a method: universal and updated classifiers.

    A line is where both classes get the same output; the arrow from its foot, as long for every classifier, points to
    the side of class 0. The norm of the update is below each task.
    """

    def draw(found: Found) -> "Figure":
        labels = {row.name: row.label for row in found.item.rows}
        sheet, every = new_figure(13.0, 2.8 * len(rows), len(rows), 5)
        for place, name in enumerate(rows):
            arrays = found.first(name, "accuracy").arrays
            panels = every[5 * place : 5 * place + 5]
            data, queries = panels[0], arrays["query_x"].reshape(-1, 2)
            label_axes(data, f"{labels[name]}: data", "", "")
            data.scatter(queries[:, 0], queries[:, 1], s=6, color=FAINT)
            _line(data, arrays["theta"], COLOURS[0], "universal")
            for kind, axes in enumerate(panels[1:]):
                label_axes(axes, f"{KINDS[kind]}: {arrays['by_kind'][kind]:.0f}%", "", "")
                for label, colour, mark in ((0, COLOURS[2], "o"), (1, COLOURS[4], "^")):
                    points = arrays["query_x"][kind][arrays["query_y"][kind] == label]
                    axes.scatter(
                        points[:, 0], points[:, 1], s=10, color=colour, marker=mark, alpha=0.7, label=f"class {label}"
                    )
                _line(axes, arrays["theta"], COLOURS[0], "universal")
                _line(axes, arrays["phi"][kind], COLOURS[1], "updated")
                moved = np.linalg.norm(arrays["phi"][kind] - arrays["theta"])
                axes.set_xlabel(f"the update's norm: {moved:.2g}", fontsize=8, color=INK)
            for axes in panels:
                axes.set_xlim(-2, 2)
                axes.set_ylim(-2, 2)
                axes.set_aspect("equal")
        every[1].legend(fontsize=7, frameon=False, loc="upper left", ncols=2)
        sheet.suptitle("Blue: universal weights; red: after the update. Inner rate .1, seed 0.", fontsize=9, color=INK)
        return sheet

    return draw


def _line(axes: "Axes", rows: Array, colour: str, label: str) -> None:
    """Where two classes get the same output, and the way to class 0."""
    *normal, offset = rows[0] - rows[1]
    normal = np.asarray(normal)
    length = float(np.linalg.norm(normal))
    if length < 1e-12:  # an untrained classifier of equal rows separates nothing
        return
    unit, foot = normal / length, -offset * normal / length**2
    along = np.array([-unit[1], unit[0]])
    ends = np.stack([foot - 6 * along, foot + 6 * along])
    axes.plot(*ends.T, color=colour, lw=1.6, ls="--" if label == "universal" else "-", label=label)
    axes.annotate("", foot + 0.8 * unit, foot, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6})


def kinds(found: Found) -> "Figure":
    """The accuracy on each of the four tasks, for every seed."""
    names = _rows(found, "accuracy")
    labels = {row.name: row.label for row in found.item.rows}
    sheet, every = new_figure(9.0, 2.8, 1, 4)
    for kind, axes in enumerate(every):
        label_axes(axes, KINDS[kind], "accuracy, %", "")
        for place, name in enumerate(names[::-1]):
            values = [one.arrays["by_kind"][kind] for one in found.all(name, "accuracy")]
            axes.plot(values, [place] * len(values), "o", color=OURS, mfc="none", ms=6)
        axes.set_xlim(0, 104)
        axes.set_yticks(range(len(names)), [labels[name] for name in names[::-1]] if kind == 0 else [])
        axes.set_ylim(-0.5, len(names) - 0.5)
    return sheet
