"""Wormhole MAML's figures that are neither dots nor curves, drawn from what was found."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from quickstudy.papers.runner.found import Found
from quickstudy.papers.wormhole.stability import SWEEPS
from quickstudy.papers.wormhole.surgery import after_surgery
from quickstudy.reports import canvas
from quickstudy.reports.canvas import COLOURS, FAINT, INK
from quickstudy.storage.result import Array
from quickstudy.tasks import Wavelet
from quickstudy.tasks.synthetic.wavelet import mexican_hat

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VANILLA, GAIN, SURGERY = COLOURS[1], COLOURS[0], COLOURS[2]
HOW = {"plain": ("without the gain", VANILLA), "surgery": ("after gradient surgery", SURGERY), "gain": ("with C", GAIN)}
ARMS = {"vanilla": ("without C", VANILLA, "-"), "tanh": ("with C", GAIN, "-"), "slow": ("gamma .01", SURGERY, "--")}
WAYS = {
    "found": ("C found by 5 steps on t", GAIN, "-"),
    "exact": ("exact c*", "#000000", "--"),
    "printed": ("eq. 13 as printed", COLOURS[1], "-."),
    "corrected": ("as corrected", COLOURS[2], ":"),
}


def _label(axes: "Axes", title: str, x: str, y: str, **legend: Any) -> None:
    canvas.label_axes(axes, title, x, y)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(**{"frameon": False, "fontsize": 8, **legend})


def conflicting_gradients(found: Found) -> "Figure":
    """Tasks' gradients, of length 1 before surgery, in the plane that holds most of them; cosines; what is left."""
    figure, axes = canvas.new_figure(11.0, 6.6, rows=2, columns=3)
    read = {how: found.first("learning", f"left, {how}").arrays for how in HOW}
    before = {how: read["plain" if how == "surgery" else how]["gradients"] for how in HOW}
    turned = {how: read[how]["gradients"] / np.linalg.norm(before[how], axis=1, keepdims=True) for how in HOW}
    plane = np.linalg.svd(np.concatenate(list(turned.values())), full_matrices=False)[2][:2]
    rows = [row.name for row in found.item.rows if row.name != "trap"]
    for place, (how, (label, colour)) in zip(axes, HOW.items(), strict=False):
        _arrows(place, turned[how] @ plane.T, read[how]["sign"], colour)
        _label(place, f"{label}: {found.value('learning', f'left, {how}'):.2f} is left", "", "", loc="upper right")
        cosines = read[how]["opposite"]
        bins = np.linspace(-1, 1, 41).tolist()
        axes[3].hist(cosines[np.isfinite(cosines)], bins=bins, color=colour, alpha=0.55, label=label)
        left = [found.value(row, f"left, {how}") for row in rows]
        axes[5].plot(range(len(rows)), left, color=colour, marker="o", ms=4)
    _label(axes[3], "cosine of two tasks of opposite sign", "cosine", "pairs")
    _what_surgery_leaves(axes[4], read["plain"]["opposite"])
    axes[5].set_xticks(range(len(rows)), rows)
    axes[5].set_ylim(0, 1)
    _label(axes[5], "share of the gradients left by adding up", "in training", "")
    return figure


def _arrows(axes: "Axes", ends: Array, sign: Array, colour: str) -> None:
    styles: dict[int, dict[str, Any]] = {1: {"color": colour, "ls": "-"}, -1: {"color": INK, "ls": "--"}}
    for end, s in zip(ends, np.sign(sign), strict=True):
        axes.plot([0, end[0]], [0, end[1]], lw=1, alpha=0.7, **styles[int(s)])
    for s, style in styles.items():
        axes.plot([], [], label=f"s = {s:+d}", **style)
    axes.annotate("", ends.mean(0).tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": "black", "lw": 2.4})
    axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")


def _what_surgery_leaves(axes: "Axes", cosines: Array) -> None:
    angles = torch.linspace(0, torch.pi, 200)
    axes.plot(angles.rad2deg(), (angles / 2).cos(), color=VANILLA, label="added up as they are")
    axes.plot(angles.rad2deg(), after_surgery(angles), color=SURGERY, label="after surgery")
    measured = np.degrees(np.arccos(np.clip(cosines[np.isfinite(cosines)], -1, 1)))
    axes.plot(measured, np.full(len(measured), -0.04), "|", color=INK, ms=7, alpha=0.4, label="measured angles")
    _label(axes, "two gradients of equal length", "angle between them, degrees", "left by adding up")


def optima(found: Found) -> "Figure":
    """The outer loss over the two parameters, without and with the gain; stars are the tasks' own optima."""
    figure, axes = canvas.new_figure(9.4, 4.4, columns=2)
    titles = {"vanilla": "(a) vanilla MAML", "wormhole": "(b) Wormhole MAML"}
    for place, (row, title) in zip(axes, titles.items(), strict=True):
        read = found.first(row, "outer loss").arrays
        drawn = place.contourf(read["at"], read["at"], np.sqrt(read["loss"]), levels=20, cmap="cividis")
        figure.colorbar(drawn, ax=place, label="root of the outer loss")
        place.plot(*read["stars"].T, "*", color="white", mec=INK, ms=16, ls="", label="the tasks' optima")
        if row == "wormhole":
            line = np.outer(np.array([-1, 1]), read["end"]) * np.abs(read["at"]).max() / np.abs(read["end"]).max()
            place.plot(*line.T, color="white", lw=1.2, ls="--", label="reached by C alone")
        place.plot(*read["end"], "o", color=COLOURS[1], mec="white", ms=9, label="the trained theta")
        place.set_aspect("equal")
        _label(place, title, "theta, first number", "theta, second number", frameon=True, loc="upper left")
    return figure


def training(found: Found) -> "Figure":
    """Parameters, gains and losses in training: (a) without the gain, (b) with it."""
    figure, axes = canvas.new_figure(11.0, 6.0, rows=2, columns=3)
    axes[1].set_axis_off()
    for theta, loss, row, mark in ((axes[0], axes[2], "vanilla", "(a)"), (axes[3], axes[5], "tanh", "(b)")):
        step, weight = found.probed(row, "head.head.weight")
        theta.plot(step, weight, color=GAIN, lw=1.1, label=["weights", *[""] * (weight.shape[1] - 1)])
        theta.plot(*found.probed(row, "head.head.bias"), color=COLOURS[1], lw=1.4, ls="--", label="bias")
        _label(theta, f"{mark} theta", "step", "")
        loss.plot(*found.logged(row, "loss"), color=INK, lw=1.1)
        loss.axhline(np.log(2), color=FAINT, ls=":")
        loss.set_ylim(0, 0.95)
        _label(loss, f"{mark} query cross-entropy (dotted: chance)", "step", "")
    step, t = found.probed("tanh", "gain.t")
    c = np.tanh(t)
    axes[4].plot(np.repeat(step, t.shape[1]), c.ravel(), ".", color=FAINT, ms=3, label="each task")
    axes[4].plot(step, np.abs(c).mean(1), color=GAIN, label="mean of |C|")
    axes[4].plot(step, c.mean(1), color=COLOURS[1], ls="--", lw=1, label="mean of C")
    _label(axes[4], "(b) C = tanh(t)", "step", "", frameon=True, loc="center")
    for place in axes:
        canvas.whole_steps(place)
    return figure


def mexican_hats(found: Found) -> "Figure":
    """The wavelets at several translations, of both signs."""
    figure, axes = canvas.new_figure(8.6, 3.4, columns=2)
    read = found.first("wavelets", "largest").arrays
    for place, sign in zip(axes, (1, -1), strict=True):
        for moved, curve, colour in zip(read["translations"], read["wavelets"], COLOURS, strict=False):
            place.plot(read["at"], sign * curve, color=colour, label=f"m = {moved:g}")
        canvas.label_axes(place, f"sign {sign:+d}", "grid", "f")
        place.set_ylim(-1, 1)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def meta_wavelets(found: Found) -> "Figure":
    """The meta-parameters w at the end, how their numbers lie, and the absolute error in training; a row a start."""
    starts = list(dict.fromkeys(row.partition("-")[0] for row, _ in found.readings))
    figure, axes = canvas.new_figure(11.5, 3.0 * len(starts), rows=len(starts), columns=3)
    for place, start in enumerate(starts):
        shape, spread, error = axes[3 * place : 3 * place + 3]
        for arm, (label, colour, dash) in ARMS.items():
            row = f"{start}-{arm}"
            if (row, "largest |w|") in found.readings:
                w = found.first(row, "largest |w|").arrays["weights"]
                at = np.linspace(*Wavelet().grid, len(w))
                shape.plot(at, w, color=colour, ls=dash, label=label)
                spread.hist(w, bins=15, color=colour, alpha=0.45)
                error.plot(*found.logged(row, "metric"), color=colour, ls=dash, lw=1.1)
        shape.plot(at, mexican_hat(at), color=FAINT, ls=":", label="a wavelet (m = 0)")
        _label(shape, f"meta-w, {found.item.label(f'{start}-vanilla').partition(', ')[2]}", "grid", "w")
        _label(spread, "its numbers", "w", "points")
        _label(error, "absolute error of queries", "step", "L1")
        canvas.whole_steps(error)
        error.set_ylim(bottom=0)
    return figure


def gain_against_error(found: Found) -> "Figure":
    """c against what is off: medians with quartiles, and how often its sign is right."""
    figure, axes = canvas.new_figure(12.0, 6.6, rows=2, columns=len(SWEEPS))
    read = found.first("curves", "places").arrays
    for high, low, (sweep, title) in zip(axes[:3], axes[3:], SWEEPS.items(), strict=True):
        for way, (label, colour, dash) in WAYS.items():
            quartiles = np.clip(read[f"{sweep}.{way}"].T, -9, 9)
            high.fill_between(read["off"], quartiles[0], quartiles[2], color=colour, alpha=0.12, lw=0)
            high.plot(read["off"], quartiles[1], color=colour, ls=dash, lw=1.8, label=label)
            low.plot(read["off"], 100 * read[f"{sweep}.{way}.right"], color=colour, ls=dash, lw=1.8)
        low.fill_between(read["off"], 0, 100 * read[f"{sweep}.rarer"], color=FAINT, alpha=0.35, lw=0)
        high.axhline(0, color=FAINT, lw=0.8)
        high.set_ylim(-2, 6)
        low.set_ylim(0, 103)
        canvas.label_axes(high, title, "", "c (positive is right)")
        canvas.label_axes(low, "", "off by, standard deviations of the average", "%")
    axes[0].legend(frameon=False, fontsize=8)
    axes[3].set_title("right sign (grey: share of the rarer label)", fontsize=9, loc="left", color=INK)
    return figure
