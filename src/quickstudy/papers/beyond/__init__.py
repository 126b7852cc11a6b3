"""Questions that the papers leave open: which parts combine, how much the step size matters, and what shots, ways and
steps do to accuracy and cost."""

from collections.abc import Mapping
from functools import partial
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np

from quickstudy.evaluation.metrics import Z95
from quickstudy.papers.beyond.combined import PARTS
from quickstudy.papers.beyond.figures import against
from quickstudy.papers.runner.items import QUESTION, Claim, Found, Item, Verdict, all_hold
from quickstudy.papers.runner.rows import Cell, Row, Scale

Config = dict[str, Any]

ONE = {"threads": 1}
COMPILED = {"threads": 1, "compile": True}


def _sine(method: Config, **train: Any) -> Config:
    """The thesis's sine waves: one inner step, 60 000 outer ones."""
    return {
        "tasks": {"name": "sine", "shots": 10, "queries": 10},
        "model": {"name": "mlp", "hidden": [40, 40], "std": 0.01},
        "method": method,
        "train": {"steps": 60_000, "meta_batch_size": 4, "meta_lr": 0.001, "validate_every": 0, **train},
        "compute": COMPILED,
    }


def _wavelet(method: Config) -> Config:
    return {
        "tasks": {"name": "wavelet", "points": 50, "shots": 10, "queries": 10},
        "model": {"name": "linear"},
        "method": method,
        "train": {"steps": 1500, "meta_batch_size": 10, "meta_lr": 0.001, "validate_every": 0},
        "compute": ONE,
    }


def _omniglot(method: Config, ways: int = 5, shots: int = 1) -> Config:
    """Alphabets never seen, at 14 pixels, behind a small net, so that two cores do it in minutes."""
    return {
        "tasks": {"name": "omniglot", "split": "lake", "size": 14, "ways": ways, "shots": shots, "queries": 5},
        "model": {"name": "conv_net", "filters": 32, "blocks": 3, "down": "stride"},
        "method": method,
        "train": {"steps": 4000, "meta_batch_size": 4, "meta_lr": 0.001, "validate_every": 0},
        "compute": ONE,
    }


# (a) combinations


def _named(parts: tuple[str, ...]) -> str:
    return "+".join(parts) or "none"


def _sets(known: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [(), *((part,) for part in known), *combinations(known, 2)]


def _helps(found: Found, pair: tuple[str, str], comparisons: int, sign: float) -> Verdict:
    """Whether a pair beats both of its parts, at 95% over all comparisons of its problem (Bonferroni)."""
    wide = NormalDist().inv_cdf(1 - 0.025 / comparisons) / Z95
    held: list[bool | None] = []
    said = []
    for part in pair:
        sure, over = found.surely(part, _named(pair), "query")
        low, high = (sign * over.mean + side * wide * over.interval for side in (-1, 1))
        held.append(None if not sure or low <= 0 <= high else low > 0)
        said.append(f"over {part} alone {sign * over.mean:.3g} ({low:.3g} to {high:.3g})")
    return Verdict(all_hold(held), f"Better by, paired: {'; '.join(said)}.")


def _combinations(problem: str, title: str, make: Any, known: tuple[str, ...], **more: Any) -> Item:
    accuracy = problem == "omniglot"
    head = "head" if accuracy else "all"
    options: dict[str, Any] = {"times": 100.0} if accuracy else {}
    name = "quickstudy.papers.beyond.combined:combined"
    steps = {"sine": (0.01, 1), "wavelet": (0.05, 1), "omniglot": (0.1, 3)}[problem]
    rows = tuple(
        Row(
            _named(parts),
            " with ".join(parts) or "gradient steps alone",
            {"query": Cell("judged", {"tasks": 2000, **options})},
            make({"name": name, "parts": list(parts), "adapted": head, "inner_lr": steps[0], "inner_steps": steps[1]}),
        )
        for parts in _sets(known)
    )
    pairs = list(combinations(known, 2))
    claims = tuple(
        Claim(
            f"Is {first} with {second} better than each of the two alone?",
            QUESTION,
            partial(_helps, pair=(first, second), comparisons=2 * len(pairs), sign=1.0 if accuracy else -1.0),
        )
        for first, second in pairs
    )
    return Item(
        "beyond", f"combinations-{problem}", f"Which parts combine: {title}", rows,
        unit="accuracy in %" if accuracy else "squared error on query points",
        larger_is_better=accuracy, digits=1 if accuracy else 3, claims=claims,
        notes=(
            "Every method is gradient steps with a set of parts; a pair is compared with each of its two parts on "
            f"identical tasks, and intervals are widened for {2 * len(pairs)} comparisons (Bonferroni).",
        ),
        **more,
    )  # fmt: skip


# (b) the inner step size

ALPHAS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
ROBUST = {
    "maml": "MAML", "fomaml": "FOMAML", "anil": "ANIL", "mnet": "M-net", "mnet_full": "M-net-full", "tnet": "T-net",
    "mtnet": "MT-net", "mtnet_full": "MT-net-full", "wormhole": "Wormhole MAML",
}  # fmt: skip


def _flat(found: Found, method: str) -> Verdict:
    rows = [f"{method}-{alpha:g}" for alpha in ALPHAS if alpha < 1]
    errors = np.array([found.value(row, "query") for row in rows])
    ratio = float(errors.max() / errors.min())  # NaN where one is
    lost = sum(one.more.get("tasks", 0) - one.more.get("finite", 0) for row in rows for one in found.all(row, "query"))
    said = f"Largest over smallest {ratio:.2f}: {', '.join(f'{e:.3g}' for e in errors)}"
    return Verdict(ratio <= 1.8 and not lost, f"{said}{f' ({lost} tasks diverged)' if lost else ''}.")


def _rates() -> Item:
    rows = tuple(
        Row(
            f"{method}-{alpha:g}",
            f"{label}, step size {alpha:g}",
            {"query": Cell("judged", {"tasks": 2000})},
            # A training that diverges is read where it was last well: that may be early.
            _sine(
                {"name": method, "inner_lr": alpha, "inner_steps": 1},
                **({"checkpoint_every": 250} if alpha >= 1 else {}),
            ),
        )
        for method, label in ROBUST.items()
        for alpha in ALPHAS
    )
    claims = tuple(
        Claim(
            f"Does {label}'s error change by a factor of no more than 1.8 between step sizes .1 and .0001?",
            QUESTION,
            partial(_flat, method=method),
        )
        for method, label in ROBUST.items()
    )
    curves = {label: [(f"{method}-{alpha:g}", alpha) for alpha in ALPHAS] for method, label in ROBUST.items()}
    return Item(
        "beyond", "step-size", "How much the inner step size matters: sine waves, 10-shot", rows,
        {
            "smoke": Scale({"train.steps": 3, "compute": ONE}, {"tasks": 8}, cost="about 15 seconds"),
            "quick": Scale({"train.steps": 4000, "compute": ONE}, {"tasks": 1000}, cost="about 8 minutes"),
            "full": Scale(seeds=1, cost="about 40 minutes"),
        },
        unit="squared error on query points", larger_is_better=False, digits=3, claims=claims,
        figures={"error": partial(against, curves=curves, column="query", x="inner step size", y="squared error")},
        decides="full",  # what has learned little at every step size is flat, too
        notes=("Predicting 0 everywhere has an error of 4.25.", "Table 6.2's question for every method."),
    )  # fmt: skip


# (c) shots, ways and steps

TRIED: Mapping[str, Config] = {
    "maml": {"name": "maml", "inner_lr": 0.1, "inner_steps": 3},
    "mtnet": {"name": "mtnet", "inner_lr": 0.1, "inner_steps": 3},
    "wormhole": {"name": "wormhole", "inner_lr": 0.1, "inner_steps": 3},
    "hypermaml": {"name": "hypermaml", "width": 64},
}
LABELS = {"maml": "MAML", "mtnet": "MT-net", "wormhole": "Wormhole MAML", "hypermaml": "HyperMAML"}


def _growth(name: str, title: str, rows: tuple[Row, ...], curves: Any, x: str) -> Item:
    quick, full = ("4 minutes", "an hour and a half") if name == "steps" else ("10 minutes", "4 hours")
    return Item(
        "beyond", name, title, rows,
        {
            "smoke": Scale({"train.steps": 2}, {"tasks": 5}, cost="about 15 seconds"),
            "quick": Scale({"train.steps": 600}, {"tasks": 300}, cost=f"about {quick}"),
            "full": Scale(seeds=3, cost=f"about {full}"),
        },
        unit="accuracy in % (columns of ms: milliseconds to adapt to one task alone)", larger_is_better=True, digits=1,
        figures={
            "accuracy": partial(against, curves=curves, column="accuracy", x=x, y="accuracy in %"),
            "cost": partial(against, curves=curves, column="ms", x=x, y="milliseconds to adapt to a task"),
        },
        needs=("omniglot",),
        notes=("Omniglot at 14 pixels, alphabets never seen in training, a net of three layers.",),
    )  # fmt: skip


def _cells(settings: Config) -> dict[str, Cell]:
    asked = {"settings": settings} if settings else {}
    return {
        "accuracy": Cell("judged", {"tasks": 1000, "times": 100.0, **asked}),
        "ms": Cell("milliseconds", asked),
    }


def _grown(what: str, values: tuple[int, ...], title: str) -> Item:
    """Rows for each method and value; ways and shots are trained with, steps changed in evaluation only."""
    rows, curves = [], {}
    for method, options in TRIED.items():
        if what == "steps" and method == "hypermaml":
            continue  # it takes none
        curves[LABELS[method]] = [(f"{method}-{value}", float(value)) for value in values]
        for value in values:
            config = _omniglot(dict(options), **({what: value} if what != "steps" else {}))
            settings = {"method.eval_inner_steps": value} if what == "steps" else {}
            rows.append(Row(f"{method}-{value}", f"{LABELS[method]}, {value} {what}", _cells(settings), config))
    return _growth(f"{what}", title, tuple(rows), curves, what if what != "steps" else "inner steps in evaluation")


_SHORT = {"train.steps": 2}

ITEMS: tuple[Item, ...] = (
    _combinations(
        "sine", "sine waves, 10-shot", _sine, PARTS[:4],
        scales={
            "smoke": Scale({**_SHORT, "compute": ONE}, {"tasks": 10}, cost="about 5 seconds"),
            "quick": Scale({"train.steps": 6000, "compute": ONE}, {"tasks": 1000}, cost="about 4 minutes"),
            "full": Scale(seeds=3, cost="about 35 minutes"),
        },
    ),
    _combinations(
        "wavelet", "Mexican-hat wavelets, 10-shot", _wavelet, PARTS[:4],
        scales={
            "smoke": Scale(_SHORT, {"tasks": 10}, cost="about 5 seconds"),
            "quick": Scale({"train.steps": 1000}, {"tasks": 1000}, cost="about half a minute"),
            "full": Scale(seeds=3, cost="about 3 minutes"),
        },
    ),
    _combinations(
        "omniglot", "Omniglot, 5-way 1-shot, the head alone adapts", _omniglot, PARTS,
        scales={
            "smoke": Scale(_SHORT, {"tasks": 5}, cost="about 15 seconds"),
            "quick": Scale({"train.steps": 600}, {"tasks": 600}, cost="about 4 minutes"),
            "full": Scale(seeds=3, cost="about 2 hours"),
        },
        needs=("omniglot",),
    ),
    _rates(),
    _grown("shots", (1, 2, 5, 10), "Accuracy and cost against shots, 5-way"),
    _grown("ways", (2, 5, 10, 20), "Accuracy and cost against ways, 1-shot"),
    _grown("steps", (0, 1, 2, 3, 5, 10, 20), "Accuracy and cost against inner steps, 5-way 1-shot"),
)  # fmt: skip
