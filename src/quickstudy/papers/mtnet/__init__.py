"""The tables and figures of the T-net and MT-net thesis (Lee, 2018), as rows.

Protocol, where the thesis is silent, from its released code: hard masks drawn once per task, in the evaluation too, at
temperature 1; as many inner steps in the evaluation of regressions as in training; Adam on the mean over tasks, four
of them in an outer step of regressions; 60 000 outer steps.
"""

from typing import Any

import quickstudy.papers.mtnet.measures  # measures are entered by being imported
import quickstudy.papers.mtnet.propositions  # noqa: F401
from quickstudy.papers.mtnet import claims, figures
from quickstudy.papers.mtnet.images import IMAGE_ITEMS
from quickstudy.papers.mtnet.reported import ALPHAS, LABELS, SHOTS, SINE, STEP_SIZES, reported
from quickstudy.papers.runner.items import ASKED, Claim, Item
from quickstudy.papers.runner.rows import Cell, Reported, Row, Scale

EQUATIONS = ("equation-4.3", "equation-4.3-bias")
EAGER = {"compute.compile": False}
MASKS = (
    "Masks are hard, as in the released code (eq. 3.9 is a soft relaxation of what the text calls binary), drawn once "
    "per task, also in the evaluation; their temperature is 1. The output cell has a T and a mask."
)
UNSAID = (
    "The thesis says that it follows MAML's protocol for sines, whose code has 25 tasks an outer step and 70 000 "
    "steps; the thesis's own released code has 4 and 60 000, which are run."
)


def regression(method: dict[str, Any], tasks: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    """Section 6.1: a 1-40-40-1 net, weights of std .01, Adam at .001; four tasks a step, 60 000 steps: the code's."""
    return {
        "tasks": {"name": "sine", "shots": 10, "queries": 10} if tasks is None else tasks,
        "model": {"name": "mlp", "hidden": [40, 40], "std": 0.01},
        "method": method,
        "train": {"steps": 60000, "meta_batch_size": 4, "meta_lr": 0.001, "validate_every": 0, **train},
        "compute": {"threads": 1, "compile": True},
    }


def stepping(name: str, alpha: float = 0.01) -> dict[str, Any]:
    """A method with one inner step; Meta-SGD learns its step sizes from where its paper starts them."""
    rate = [0.005, 0.1] if name == "meta_sgd" else alpha
    return {"name": name, "inner_lr": rate, "inner_steps": 1}


def _judged(tasks: int, **settings: Any) -> dict[str, Any]:
    return {"tasks": tasks, **({"settings": settings} if settings else {})}


def _sources(name: str, index: int) -> tuple[Reported, ...]:
    source = "table 6.1, from Meta-SGD's paper" if name in ("maml", "meta_sgd") else "table 6.1"
    return reported(SINE, name, index, source)


def _sine_row(name: str) -> Row:
    cells = {
        f"{shots}-shot": Cell("judged", _judged(5000, **{"tasks.shots": shots}), _sources(name, i))
        for i, shots in enumerate(SHOTS)
    }
    cells["10-shot, 600 tasks"] = Cell("judged", _judged(600), _sources(name, 1))
    departs = {
        "mnet_full": ("Logits start at 0, as the thesis says; the released code draws them with std .1.",),
        "mtnet_full": ("Logits start at 0, as the thesis says; the released code draws them with std .1.",),
        "meta_sgd": (
            "The thesis quotes this row; here it is trained as the others are, its step sizes from U[.005, .1].",
        ),
    }
    return Row(name, LABELS[name], cells, regression(stepping(name)), departs.get(name, ()))


def _zero_row(columns: dict[str, tuple[int, int]]) -> Row:
    cells = {name: Cell("predicting_zero", {"shots": shots, "tasks": n}) for name, (shots, n) in columns.items()}
    return Row("zero", "always answering 0", cells)


TABLE_6_1 = Item(
    paper="mtnet",
    name="table-6.1",
    title="Table 6.1: sine regression, trained 10-shot, tested 5-, 10- and 20-shot",
    rows=(
        *(_sine_row(name) for name in SINE),
        _zero_row({**{f"{shots}-shot": (shots, 5000) for shots in SHOTS}, "10-shot, 600 tasks": (10, 600)}),
    ),
    scales={
        "smoke": Scale({**EAGER, "train.steps": 4}, {"tasks": 20}, cost="about 5 seconds"),
        "quick": Scale({**EAGER, "train.steps": 10000}, {"tasks": 600}, cost="about 3 minutes"),
        "full": Scale(seeds=3, cost="about 18 minutes (one seed: 6)"),
    },
    unit="mean squared error after one inner step",
    larger_is_better=False,
    digits=3,
    claims=(
        Claim(
            "MT-nets outperform MAML, Meta-SGD and all variations of MT-nets.",
            "section 6.1",
            claims.all_above([name for name in SINE if name != "mtnet"], "mtnet", [f"{shots}-shot" for shots in SHOTS]),
        ),
        Claim(
            "Masks on rows do better than masks on single weights (in the thesis's own table M-net's 20-shot error is "
            "above M-net-full's).",
            "section 6.1 and table 6.1",
            claims.pairs_above((("mnet_full", "mnet"), ("mtnet_full", "mtnet")), [f"{shots}-shot" for shots in SHOTS]),
        ),
        Claim(
            "Each of the parts, T and M, lowers the error: MAML is above T-net and M-net, and both are above MT-net.",
            "section 6.1 and table 6.1",
            claims.pairs_above((("maml", "tnet"), ("maml", "mnet"), ("tnet", "mtnet"), ("mnet", "mtnet")), ["10-shot"]),
        ),
        Claim(
            "MAML > T-net > MT-net 10-shot, each by more than the paired interval.",
            ASKED,
            claims.falling(("maml", "tnet", "mtnet"), "10-shot"),
        ),
        Claim(
            "MAML, T-net and MT-net are within .06 of the thesis, or better, 10-shot on 5 000 tasks.",
            ASKED,
            claims.levels,
            decides="full",
        ),
        Claim(
            "Every method is below always answering 0, which costs E[A^2]/2 = 4.25.", ASKED, claims.below_zero_predictor
        ),
    ),
    figures={"errors": figures.errors},
    notes=(
        "One inner step in the test as in training: the thesis does not say how many, and only one step gives errors "
        "of its size (ten steps give MAML a third of it).",
        "The thesis's intervals are those of 600 tasks; here 5 000 are used, of which the column of 600 has the first.",
        "The footnote says that MAML's row was reported by Meta-SGD; that was not checked against its paper. The "
        "intervals look like the thesis's own 600 tasks.",
        UNSAID,
        MASKS,
    ),
)


def _alpha_row(method: str, index: int) -> Row:
    alpha = ALPHAS[index]
    # A training that diverges is read where it was last well: that may be early.
    often: dict[str, Any] = {"checkpoint_every": 250} if alpha >= 1 else {}
    return Row(
        claims.at(method, alpha),
        f"{LABELS[method]}, alpha {alpha:g}",
        {"10-shot": Cell("judged", _judged(5000), reported(STEP_SIZES, method, index, "table 6.2"))},
        regression(stepping(method, alpha), **often),
    )


TABLE_6_2 = Item(
    paper="mtnet",
    name="table-6.2",
    title="Table 6.2: sine regression 10-shot, by the inner step size",
    rows=(
        *(_alpha_row(method, i) for method in STEP_SIZES for i in range(len(ALPHAS))),
        _zero_row({"10-shot": (10, 5000)}),
    ),
    scales={
        "smoke": Scale({**EAGER, "train.steps": 4}, {"tasks": 20}, cost="about 10 seconds"),
        "quick": Scale({**EAGER, "train.steps": 6000}, {"tasks": 600}, cost="about 4 minutes"),
        "full": Scale(seeds=3, cost="about 2 hours"),
    },
    unit="mean squared error after one inner step",
    larger_is_better=False,
    digits=3,
    claims=(
        Claim(
            "T-nets and MT-nets are more robust to the step size than MAML: T alters the effective one.",
            "section 6.2 and table 6.2",
            claims.more_robust,
        ),
        Claim("At alpha 1 MT-net still learns (.61), where MAML and T-net do not.", "table 6.2", claims.still_learns),
        Claim(
            "At alpha 1 and 10 MAML is worse than always answering 0; T-net and MT-net are near that, or better.",
            ASKED,
            claims.failures,
        ),
        Claim(
            "Largest over smallest error for alpha from 1e-4 to 1e-1: MAML at least 3, T-net at most 1.5, MT-net at "
            "most 1.8.",
            ASKED,
            claims.robustness,
            decides="full",
        ),
    ),
    figures={"step-sizes": figures.step_sizes},
    notes=(
        "Trained and tested with the same alpha. The rows of alpha .01 are trainings of table 6.1.",
        "Section 6.2's text speaks of both MAML and MT-nets; its table has T-nets too.",
        "Where a training diverges, its last checkpoint is judged.",
        UNSAID,
        MASKS,
    ),
)

PROBED = {"probes": ["rule.rate.logits.*"], "probe_every": 1000}
FRACTION = {
    "adapts, sigmoid(zeta)": Cell("update_fraction"),
    "as printed, sigmoid(-zeta)": Cell("update_fraction", {"sign": -1}),
    **{
        f"adapts, {words}": Cell("update_fraction", {"cell": cell})
        for cell, words in (("layer0", "cell 1"), ("layer1", "cell 2"), ("head", "output cell"))
    },
    "error": Cell("judged", _judged(600)),
}

FIGURE_6_1 = Item(
    paper="mtnet",
    name="figure-6.1",
    title="Figure 6.1: how much of an MT-net adapts, by the order of the polynomials it learns",
    rows=tuple(
        Row(
            f"order-{order}",
            f"order {order}",
            FRACTION,
            regression(stepping("mtnet"), {"name": "polynomial", "order": order, "shots": 10, "queries": 10}, **PROBED),
            departs=(
                "Coefficient i is divided by 2^i and x is from [-2, 2], as in the released code; the thesis states "
                "neither.",
            ),
        )
        for order in range(3)
    ),
    scales={
        "smoke": Scale({**EAGER, "train.steps": 4, "train.probe_every": 2}, {"tasks": 20}, cost="about 3 seconds"),
        "quick": Scale({**EAGER, "train.steps": 10000}, {"tasks": 200}, seeds=3, cost="about 5 minutes"),
        "full": Scale(seeds=5, cost="about 15 minutes"),
    },
    unit="fraction of the logits' rows; error: mean squared error",
    digits=3,
    claims=(
        Claim(
            "MT-nets update a larger fraction of weights as tasks get more complex, with sigmoid(zeta), the "
            "probability of adapting by eq. 3.7.",
            "figure 6.1 and section 6.3",
            claims.fraction_grows("adapts, sigmoid(zeta)"),
        ),
        Claim(
            "The same with the formula that section 6.3 prints, sigmoid(-zeta): the probability of not adapting.",
            "section 6.3",
            claims.fraction_grows("as printed, sigmoid(-zeta)"),
        ),
    ),
    figures={"fractions": figures.fractions, "training": figures.fractions_in_training},
    notes=(
        "Section 6.3 computes the fraction as E[e^-zeta / (e^-zeta + 1)] = sigmoid(-zeta); under eq. 3.7 that is the "
        "probability of NOT being updated, and the released code logs it as such. Both are shown; they add up to 1.",
        "The figure has no numbers in the text.",
        "alpha is .01 as in section 6.1, which the thesis says is used; the released code's default is .001.",
        "The interval of a difference is over seeds.",
        UNSAID,
        MASKS,
    ),
)

CELLS = {
    **regression({"name": "", "inner_lr": 0.01, "inner_steps": 1}),
    "model": {"name": "mlp", "hidden": [40, 3, 40], "std": None},
}


def _cell_row(name: str) -> Row:
    cells = {
        "eq. 4.3": Cell("closed_form"),
        "outside the plane": Cell("outside_plane", {"cell": "layer1", "x": 1.0}),
    }
    return Row(
        name,
        f"{LABELS[name]}, trained on sines, a cell of 3 outputs",
        cells,
        {**CELLS, "method": stepping(name)},
        departs=(
            "The figures are diagrams without data. The net is 1-40-3-40-1 with torch's own start of the weights, so "
            "that one cell has the three activations drawn.",
        ),
    )


def _shown(name: str, label: str, measure: str, **options: Any) -> Row:
    return Row(name, label, {"error": Cell(measure, options)})


FIGURE_3 = Item(
    paper="mtnet",
    name="figure-3",
    title="Figures 3.1-3.3, propositions 1 and 2: where the output of a cell can move",
    rows=(
        _cell_row("tnet"),
        _cell_row("mtnet"),
        _shown("equation-4.3", "eq. 4.3, one cell, one example", "equation_4_3"),
        _shown("equation-4.3-bias", "eq. 4.3 with the released code's bias", "equation_4_3", bias=True),
        _shown("proposition-1", "proposition 1, by its construction", "proposition_1"),
        _shown("proposition-2", "proposition 2, in closed form", "proposition_2"),
    ),
    scales={
        "smoke": Scale({**EAGER, "train.steps": 4}, {"tasks": 10, "draws": 3}, cost="about 3 seconds"),
        "quick": Scale({**EAGER, "train.steps": 6000}, cost="about a minute"),
        "full": Scale(seeds=1, cost="about 3 minutes"),
    },
    unit="log10 of the largest relative error, in double precision",
    digits=1,
    claims=(
        Claim(
            "A T-net's step changes y by -alpha T T' times the gradient of a network without T (with masks: "
            "T diag(m) T'), in trained cells.",
            "eq. 4.3 and 4.5",
            claims.exact(("tnet", "mtnet"), "eq. 4.3"),
        ),
        Claim(
            "The activation of a task-specific learner only changes within a subspace: the span of T's columns where "
            "the mask is 1, in trained cells.",
            "figure 3.3 (b)",
            claims.ranks,
        ),
        Claim("Eq. 4.3 with one example, without and with a bias.", "eq. 4.3", claims.exact(EQUATIONS, "error")),
        Claim(
            "T, W and zeta exist whose output changes span a given subspace U.",
            "proposition 1",
            claims.spans,
        ),
        Claim(
            "T, W and zeta exist whose step is steepest descent in U by a given metric: V G^-1 V' times the gradient.",
            "proposition 2",
            claims.exact(("proposition-2",), "error"),
        ),
        Claim("No other direction in U descends more per length in the metric.", "proposition 2", claims.steepest),
        Claim(
            "T diag(m) T' only has nonzero elements in rows and columns where m is 1.",
            "section 4.2, after eq. 4.5",
            claims.block,
        ),
    ),
    figures={"3.1": figures.adaptation_tnet, "3.2": figures.adaptation_mtnet, "3.3": figures.subspace},
    notes=(
        "Figures 3.1-3.3 are diagrams. Here they are drawn from trained cells: what is shared, what a task changes, "
        "and where the output of a cell with three activations moves.",
        "Eq. 4.4 lacks -alpha; eq. 4.5 calls M_T m x m, and it is n x n. Eq. 3.4's T'T is the metric on W x, eq. 4.3's "
        "TT' the inverse metric on y. Proposition 2's basis of R^n has n vectors, not d. The propositions need an "
        "invertible T, which nothing in training enforces.",
        "Of a T-net the span is all of the space: its number there is rounding.",
        "Fixed x: outputs are taken at one input of the trained cell, as in proposition 1.",
    ),
)

ITEMS: tuple[Item, ...] = (TABLE_6_1, TABLE_6_2, *IMAGE_ITEMS, FIGURE_6_1, FIGURE_3)
