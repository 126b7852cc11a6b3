"""Plots of times and memory against the number of tasks, inner steps or shots."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median

from quickstudy.bench.goals import BenchResult
from quickstudy.bench.workloads import Case
from quickstudy.reports.canvas import COLOURS, DASHES, MARKERS, label_axes, new_figure, to_png
from quickstudy.storage.files import write_atomic

SWEPT_AXES = {"tasks": "tasks", "steps": "inner steps K", "shots": "shots"}

Series = dict[str, list[tuple[int, float]]]


def draw_plots(result: BenchResult, folder: Path) -> list[Path]:
    """Draw a plot for every group of cases that differ in one axis only. Returned are the files."""
    times = {
        case: {name: 1e3 * median(rounds) for name, rounds in timing.rounds.items()}
        for case, timing in result.timings.items()
    }
    memory = {
        case: {name: peak / 1e6 for name, peak in peaks.items() if isinstance(peak, int)}
        for case, peaks in result.memory.items()
    }
    paths = []
    for kind, values in (("milliseconds", times), ("peak memory in MB", memory)):
        for axis in SWEPT_AXES:
            for title, series in group_curves(values, axis).items():
                paths.append(_draw(folder, title, axis, kind, series))
    return paths


def group_curves(values: Mapping[Case, Mapping[str, float]], axis: str) -> dict[str, Series]:
    """Curves of two or more points. They are grouped by what their cases have in common, which is their title."""
    groups: dict[str, Series] = {}
    for case, by_name in values.items():
        at = asdict(case)
        x = at.pop(axis)
        title = ", ".join(str(v) if k in ("workload", "method", "phase") else f"{k} {v}" for k, v in at.items())
        for name, value in by_name.items():
            groups.setdefault(title, {}).setdefault(name, []).append((x, value))
    several = {t: {n: sorted(c) for n, c in s.items() if len(c) > 1} for t, s in groups.items()}
    return {title: series for title, series in several.items() if series}


def _draw(folder: Path, title: str, axis: str, kind: str, series: Series) -> Path:
    sheet, (axes,) = new_figure(6.4, 4.0)
    for i, (name, curve) in enumerate(series.items()):
        xs, ys = zip(*curve, strict=True)
        marker, dash = MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)]
        axes.plot(xs, ys, label=name, lw=1.6, ms=5, color=COLOURS[i % len(COLOURS)], marker=marker, ls=dash)
    axes.set_xscale("log")
    axes.set_yscale("log")
    points = sorted({x for curve in series.values() for x, _ in curve})
    axes.set_xticks(points, [str(x) for x in points])
    axes.set_xticks([], minor=True)
    label_axes(axes, title, SWEPT_AXES[axis], kind)
    axes.legend(fontsize=8, frameon=False)
    words = title.replace(", ", "-").replace(" ", "") + ("-memory" if "memory" in kind else "")
    path = folder / f"{axis}-{words}.png"
    write_atomic(path, to_png(sheet))
    return path
