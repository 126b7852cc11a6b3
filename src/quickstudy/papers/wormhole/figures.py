"""Wormhole MAML's figures, drawn from what was found."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from quickstudy.papers.runner.items import Found
from quickstudy.papers.wormhole.rows import STEPS
from quickstudy.papers.wormhole.stability import FORMULAS, SWEEPS
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


def conflicting_gradients(found: Found) -> "Figure":
    """Tasks' gradients, of length 1 before surgery, in the plane that holds most of them; cosines; what is left."""
    figure, axes = canvas.new_figure(11.0, 6.6, rows=2, columns=3)
    read = {how: found.first("early", f"left, {how}").arrays for how in HOW}
    before = {how: read["plain" if how == "surgery" else how]["gradients"] for how in HOW}
    turned = {how: read[how]["gradients"] / np.linalg.norm(before[how], axis=1, keepdims=True) for how in HOW}
    plane = np.linalg.svd(np.concatenate(list(turned.values())), full_matrices=False)[2][:2]
    for place, (how, (label, colour)) in zip(axes, HOW.items(), strict=False):
        _arrows(place, turned[how] @ plane.T, read[how]["sign"], colour)
        canvas.label_axes(place, f"{label}: {found.value('early', f'left, {how}'):.2f} is left", "", "")
    for how, (label, colour) in HOW.items():
        cosines = read[how]["opposite"]
        axes[3].hist(
            cosines[np.isfinite(cosines)], bins=np.linspace(-1, 1, 41).tolist(), color=colour, alpha=0.55, label=label
        )
    canvas.label_axes(axes[3], "cosine of two tasks of opposite sign", "cosine", "pairs")
    axes[3].legend(frameon=False, fontsize=8)
    _what_surgery_leaves(axes[4], read["plain"]["opposite"])
    rows = [row.name for row in found.item.rows if row.name != "trap"]
    for how, (label, colour) in HOW.items():
        values = [found.value(row, f"left, {how}") for row in rows]
        axes[5].plot(range(len(rows)), values, color=colour, marker="o", ms=4, label=label)
    axes[5].set_xticks(range(len(rows)), rows)
    axes[5].set_ylim(0, 1)
    canvas.label_axes(axes[5], "share of the gradients left by adding up", "in training", "")
    return figure


def _arrows(axes: "Axes", ends: Array, sign: Array, colour: str) -> None:
    for end, s in zip(ends, sign, strict=True):
        axes.plot([0, end[0]], [0, end[1]], color=colour if s > 0 else INK, ls="-" if s > 0 else "--", lw=1, alpha=0.7)
    axes.plot([], [], color=colour, label="s = +1")
    axes.plot([], [], color=INK, ls="--", label="s = -1")
    total = ends.mean(0)
    axes.annotate("", total.tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": "black", "lw": 2.4})
    axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def _what_surgery_leaves(axes: "Axes", cosines: Array) -> None:
    angles = torch.linspace(0, torch.pi, 200)
    axes.plot(angles.rad2deg(), (angles / 2).cos(), color=VANILLA, label="added up as they are")
    axes.plot(angles.rad2deg(), after_surgery(angles), color=SURGERY, label="after surgery")
    measured = np.degrees(np.arccos(np.clip(cosines[np.isfinite(cosines)], -1, 1)))
    axes.plot(measured, np.full(len(measured), -0.04), "|", color=INK, ms=7, alpha=0.4, label="measured angles")
    canvas.label_axes(axes, "two gradients of equal length", "angle between them, degrees", "left by adding up")
    axes.legend(frameon=False, fontsize=8)


def optima(found: Found) -> "Figure":
    """The outer loss over the two parameters, without and with the gain; stars are the tasks' own optima."""
    figure, axes = canvas.new_figure(9.4, 4.4, columns=2)
    for place, (row, title) in zip(
        axes, {"vanilla": "(a) vanilla MAML", "wormhole": "(b) Wormhole MAML"}.items(), strict=True
    ):
        read = found.first(row, "outer loss").arrays
        drawn = place.contourf(read["at"], read["at"], np.sqrt(read["loss"]), levels=20, cmap="cividis")
        figure.colorbar(drawn, ax=place, label="root of the outer loss")
        place.plot(*read["stars"].T, "*", color="white", mec=INK, ms=16, ls="", label="the tasks' optima")
        if row == "wormhole":
            line = np.outer(np.array([-1, 1]), read["end"]) * np.abs(read["at"]).max() / np.abs(read["end"]).max()
            place.plot(*line.T, color="white", lw=1.2, ls="--", label="reached by C alone")
        place.plot(*read["end"], "o", color=COLOURS[1], mec="white", ms=9, label="the trained theta")
        place.set_aspect("equal")
        canvas.label_axes(place, title, "theta, first number", "theta, second number")
        place.legend(fontsize=8, loc="upper left")
    return figure


def curves(found: Found) -> "Figure":
    """Parameters, gains and losses in training: (a) without the gain, (b) with it."""
    figure, axes = canvas.new_figure(11.0, 6.0, rows=2, columns=3)
    axes[1].set_axis_off()
    for theta, loss, row, mark in ((axes[0], axes[2], "vanilla", "(a)"), (axes[3], axes[5], "tanh", "(b)")):
        logged = found.logged(row)
        step, weight = probe(logged, "head.head.weight")
        theta.plot(step, weight, color=GAIN, lw=1.1)
        theta.plot(*probe(logged, "head.head.bias"), color=COLOURS[1], lw=1.4, ls="--")
        theta.plot([], [], color=GAIN, label="weights")
        theta.plot([], [], color=COLOURS[1], ls="--", label="bias")
        theta.legend(frameon=False, fontsize=8)
        canvas.label_axes(theta, f"{mark} theta", "step", "")
        train = [one for one in logged if one["kind"] == "train"]
        loss.plot([one["step"] for one in train], [one["loss"] for one in train], color=INK, lw=1.1)
        loss.axhline(np.log(2), color=FAINT, ls=":")
        loss.set_ylim(0, 0.95)
        canvas.label_axes(loss, f"{mark} query cross-entropy (dotted: chance)", "step", "")
    step, t = probe(found.logged("tanh"), "gain.t")
    axes[4].plot(np.repeat(step, t.shape[1]), np.tanh(t).ravel(), ".", color=FAINT, ms=3, label="each task")
    axes[4].plot(step, np.abs(np.tanh(t)).mean(1), color=GAIN, label="mean of |C|")
    axes[4].plot(step, np.tanh(t).mean(1), color=COLOURS[1], ls="--", lw=1, label="mean of C")
    axes[4].legend(fontsize=8, loc="center")
    canvas.label_axes(axes[4], "(b) C = tanh(t)", "step", "")
    for place in axes:
        canvas.whole_steps(place)
    return figure


def probe(logged: Sequence[Mapping[str, Any]], name: str) -> tuple[Array, Array]:
    """Steps `[n]` and values `[n, size]` of a quantity."""
    rows = [row for row in logged if row["kind"] == "probe" and row["name"] == name]
    values = np.stack([np.ravel(np.asarray(row["value"], dtype=float)) for row in rows])
    return np.array([row["step"] for row in rows], dtype=float), values


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


STARTS: Mapping[str, str] = {
    "default": "started at U[-.14, .14]",
    "paper": "started at U[-2, 3]",
    "faster": "started at U[-2, 3], outer rate .01",
}
METHODS: Mapping[str, tuple[str, str, str]] = {
    "vanilla": ("without C", VANILLA, "-"),
    "tanh": ("with C", GAIN, "-"),
    "slow": ("with C, gamma .01", SURGERY, "--"),
}


def meta_wavelets(found: Found) -> "Figure":
    """The meta-parameters w at the end, how their numbers lie, and the absolute error in training."""
    figure, axes = canvas.new_figure(11.5, 9.0, rows=len(STARTS), columns=3)
    have = {row.name for row in found.item.rows}
    for (shape, spread, error), (start, title) in zip((axes[:3], axes[3:6], axes[6:]), STARTS.items(), strict=True):
        rows = {f"{start}-{method}": look for method, look in METHODS.items() if f"{start}-{method}" in have}
        for row, (label, colour, dash) in rows.items():
            w = found.first(row, "largest |w|").arrays["weights"]
            at = np.linspace(*Wavelet().grid, len(w))
            shape.plot(at, w, color=colour, ls=dash, label=label)
            spread.hist(w, bins=15, color=colour, alpha=0.45, label=label)
            train = [one for one in found.logged(row) if one["kind"] == "train"]
            error.plot([one["step"] for one in train], [one["metric"] for one in train], color=colour, ls=dash, lw=1.1)
        shape.plot(at, mexican_hat(at), color=FAINT, ls=":", label="a wavelet (m = 0)")
        shape.legend(frameon=False, fontsize=8)
        canvas.label_axes(shape, f"meta-w, {title}", "grid", "w")
        canvas.label_axes(spread, "its numbers", "w", "points")
        canvas.label_axes(error, "absolute error of queries", "step", "L1")
        canvas.whole_steps(error)
        error.set_ylim(bottom=0)
    return figure


WAYS = {
    "found": ("C found by 5 steps on t", GAIN, "-"),
    "exact": ("exact c*", "#000000", "--"),
    "printed": ("eq. 13 as printed", COLOURS[1], "-."),
    "corrected": ("as corrected", COLOURS[2], ":"),
}


def stability(found: Found) -> "Figure":
    """c against what is off: medians with quartiles, and how often its sign is right."""
    figure, axes = canvas.new_figure(12.0, 6.6, rows=2, columns=len(SWEEPS))
    read = found.first("curves", "places").arrays
    off = read["off"]
    for above, below, (sweep, title) in zip(axes[:3], axes[3:], SWEEPS.items(), strict=True):
        for way, (label, colour, dash) in WAYS.items():
            low, middle, high = np.clip(read[f"{sweep}.{way}"].T, -9, 9)
            above.fill_between(off, low, high, color=colour, alpha=0.12, lw=0)
            above.plot(off, middle, color=colour, ls=dash, lw=1.8, label=label)
            below.plot(off, 100 * read[f"{sweep}.{way}.right"], color=colour, ls=dash, lw=1.8)
        below.fill_between(off, 0, 100 * read[f"{sweep}.rarer"], color=FAINT, alpha=0.35, lw=0)
        above.axhline(0, color=FAINT, lw=0.8)
        above.set_ylim(-2, 6)
        below.set_ylim(0, 103)
        canvas.label_axes(above, title, "", "c (positive is right)")
        canvas.label_axes(below, "", "off by, standard deviations of the average", "%")
    axes[0].legend(frameon=False, fontsize=8)
    axes[3].set_title("right sign (grey: share of the rarer label)", fontsize=9, loc="left", color=INK)
    assert set(WAYS) == {"found", *FORMULAS}
    return figure


def error_against_size(found: Found) -> "Figure":
    """MSE and L1 against the number of points, vanilla and tanh, at every number of inner steps."""
    figure, axes = canvas.new_figure(9.0, 4.0, columns=2)
    sizes = sorted({int(row.name.split("-")[0][1:]) for row in found.item.rows})
    for place, column in zip(axes, ("MSE", "L1"), strict=True):
        place.plot(sizes, [found.value(f"n{n}-zero", column) for n in sizes], color=INK, ls=":", label="answering 0")
        every = []
        for name, colour in (("vanilla", VANILLA), ("tanh", GAIN)):
            for steps, mark in zip(STEPS, "osD", strict=True):
                values = [found.value(f"n{n}-{name}-{steps}", column) for n in sizes]
                place.plot(sizes, values, color=colour, marker=mark, ms=4, lw=1.2, label=f"{name}, {steps}")
                every.append(np.array(values))
        canvas.label_axes(place, f"{column} against n", "points n", column)
        canvas.log_if_wide(place, every)
        if place.get_yscale() == "linear":
            place.set_ylim(0, None)
    axes[0].legend(frameon=False, fontsize=8, title="method, inner steps")
    return figure
