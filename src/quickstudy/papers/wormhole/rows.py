"""The trainings that Wormhole MAML's items are made of, as configurations at full scale."""

from collections.abc import Mapping
from typing import Any

from quickstudy.papers.runner.rows import Reported

STEPS = (1, 2, 5)

NEAR, SOME, WIDE = (0.4999, 0.5001), (0.4, 0.6), (0.0, 1.0)

PAPER: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "threshold": {"vanilla": (5.60, 5.08, 3.33), "tanh": (1.56, 1.41, 1.69), "diagonal": (2.53, 2.42, 2.17)},
    "wavelet": {"vanilla": (7.14, 7.63, 7.49), "tanh": (5.00, 6.05, 5.36)},
    "mnist": {"vanilla": (0.500, 0.463, 0.312), "tanh": (0.500, 0.141, 0.009)},
}
"""Table 1, by problem and method, for 1, 2 and 5 steps."""

LABELS = {
    "vanilla": "MAML (vanilla)",
    "fomaml": "MAML, first order",
    "tanh": "C = tanh(t), eq. 4 (Wormhole 1)",
    "diagonal": "C diagonal, eq. 5 (Wormhole d)",
    "scalar": "C = c, eq. 3",
    "per_layer": "C per layer, eq. 6",
    "low_rank": "C = I + UV', eq. 7",
    "coadapt": "tanh, C and theta together",
    "annealed": "tanh, the rate of t halved at every step",
    "literal": "tanh, eq. 2 as printed: C theta + Delta(theta)",
    "weak": "tanh, one step at rate 1, first order",
    "first_order_gain": "tanh, first order through C",
    "first_order": "tanh, first order throughout",
}

UNTRIED = ("scalar", "per_layer", "low_rank")
"""Charts that the paper names and never ran."""

BESIDE = ("coadapt", "annealed", "literal")
"""Other readings of the text."""

UNSAID = 'The paper does not say gamma, the steps on C and t0 ("typically around 1").'

THRESHOLD_GAIN = {"gain_lr": 5.0, "gain_steps": 5, "gain_first_order": True}
WAVELET_GAIN = {"gain_lr": 1.0, "gain_steps": 5}
MNIST_GAIN = {"gain_lr": 10.0, "gain_steps": 5}

SMALL = {"threads": 1, "chunk": 200}
"""Of linear models: their tasks fit any memory, and measuring how many do would take longer than the tasks."""

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "tanh": {},
    "diagonal": {"chart": "diagonal"},
    "scalar": {"chart": "scalar"},
    "per_layer": {"chart": "per_layer"},
    "low_rank": {"chart": "low_rank"},
    "coadapt": {"reading": "coadapt"},
    "annealed": {"gain_decay": 0.5},
    "literal": {"reading": "literal"},
    "weak": {"gain_lr": 1.0, "gain_steps": 1, "gain_first_order": True},
    "first_order_gain": {"gain_first_order": True},
    "first_order": {"gain_first_order": True, "first_order": True},
}
"""What each method has over the problem's own settings of the gain."""


def method(name: str, steps: int, *, inner_lr: float, gain: Mapping[str, Any], scope: str | None) -> dict[str, Any]:
    """A method by its name in `LABELS`."""
    plain = {"inner_lr": inner_lr, "inner_steps": steps}
    if name in ("vanilla", "fomaml"):
        return {"name": "fomaml" if name == "fomaml" else "maml"} | plain
    where = {} if scope is None else {"scope": scope}
    return {"name": "wormhole"} | where | dict(gain) | dict(VARIANTS[name]) | plain


def threshold(name: str, steps: int, tau: tuple[float, float]) -> dict[str, Any]:
    """Section 4.1: average-threshold."""
    probes = ["head.head.*"] if name == "vanilla" else ["head.head.*", "gain.*"]
    return {
        "tasks": {"name": "threshold", "shots": 10, "queries": 10, "tau_range": list(tau)},
        "model": {"name": "linear"},
        "method": method(name, steps, inner_lr=1.0, gain=THRESHOLD_GAIN, scope="*"),
        "train": {
            "steps": 1500,
            "meta_batch_size": 10,
            "optimizer": "sgd",
            "meta_lr": 0.1,
            "reduction": "sum",
            "validate_every": 0,
            "probes": probes,
            "probe_every": 15,
        },
        "compute": dict(SMALL),
    }


def wavelet(
    name: str,
    steps: int,
    points: int = 50,
    *,
    model: Mapping[str, Any] | None = None,
    gain: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Section 4.2: wavelets. The metric that is logged is the absolute error, as in figure 5."""
    return {
        "tasks": {"name": "wavelet", "points": points, "shots": 10, "queries": 10},
        "model": dict(model or {"name": "linear"}),
        "method": method(name, steps, inner_lr=0.05, gain=WAVELET_GAIN | dict(gain or {}), scope="*.weight"),
        "train": {"steps": 1500, "meta_batch_size": 10, "meta_lr": 0.001, "validate_every": 0},
        "evaluate": {"metric": "mae"},
        "compute": dict(SMALL),
    }


def mnist(name: str, steps: int, digits: tuple[str, ...] = ("0", "1")) -> dict[str, Any]:
    """Section 4.3: two digits of MNIST; the gain is on the last layer."""
    return {
        "tasks": {"name": "mnist", "split": "image", "only": list(digits), "ways": 2, "shots": 1, "queries": 5},
        "model": {"name": "lenet"},
        "method": method(name, steps, inner_lr=0.01, gain=MNIST_GAIN, scope=None),
        "train": {"steps": 500, "meta_batch_size": 16, "meta_lr": 0.005, "clip_norm": 10, "validate_every": 0},
        "evaluate": {"options": {"queries": 15}},
        "compute": {"threads": 1},
    }


def steps_said(steps: int) -> str:
    """A number of steps, in words."""
    return f"{steps} step" + ("s" if steps > 1 else "")


def reported(problem: str, method: str, steps: int, source: str = "table 1") -> tuple[Reported, ...]:
    """What table 1 says, if it has the method."""
    found = PAPER[problem].get(method)
    return () if found is None else (Reported(found[STEPS.index(steps)], source=source),)
