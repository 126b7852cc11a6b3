"""What HyperMAML's items share: how a training becomes a row, and how a number becomes a cell."""

from collections.abc import Mapping, Sequence
from typing import Any

from quickstudy.papers.hypermaml import setup as setups
from quickstudy.papers.hypermaml.setup import Domain, Training
from quickstudy.papers.runner.rows import Cell, Reported, Row, Scale

ACCURACY = "accuracy in %"
IMAGES = ("cub", "mini_imagenet")
LETTERS = ("omniglot", "emnist")
ALL = (
    "Tasks of the test have 15 queries a class, as the released code has; the paper says 16. Inner rates and steps, "
    "tasks in an update and updates in an epoch are the released code's: the paper does not say them."
)
REPEATS = (
    "The paper's ± is not explained: by the code it is a standard deviation over five repeats of 600 tasks. Here ± is "
    "a 95% interval over tasks."
)


def judged(reported: Sequence[Reported | None] = (), **options: Any) -> Cell:
    """Accuracy in %, beside what the paper reports."""
    return Cell("judged", {"times": 100.0, **options}, tuple(one for one in reported if one is not None))


def scales(tasks: int, quick: str, full: str, *, seeds: int = 3, smoke: str = "15 seconds") -> Mapping[str, Scale]:
    """An item's scales; what is trained less is said row by row."""
    few = {"tasks": 2, "timed": 1}
    return {
        "smoke": Scale(options=few, cost=smoke),
        "quick": Scale(options={"tasks": tasks}, cost=quick),
        "full": Scale(seeds=seeds, cost=full),
    }


def row(
    name: str, label: str, training: Training, cells: Mapping[str, Cell], stand_in: str, departs: Sequence[str] = ()
) -> Row:
    """A row of a training."""
    return Row(name, label, cells, training.config, (*training.departs, *departs), stand_in, training.scales)


LABELS = {"hypermaml": "HyperMAML", "maml": "MAML", "hypershot-ft": "HyperShot + finetuning"}
LABELS |= {name: label for name, (label, _, _) in setups.RULES.items()}
LABELS |= {name: label for name, (label, _) in setups.TRANSFER.items()}
FINETUNED = {"settings": {"method.eval_inner_steps": 10}}


def training(method: str, domain: Domain, shots: int, model: dict[str, Any] | None = None) -> Training:
    """Of a method by the name that its rows begin with."""
    if method == "hypermaml":
        return setups.hypermaml(domain, shots, model=model)
    if method == "maml":
        return setups.maml(domain, shots, model=model)
    return setups.other(method.removesuffix("-ft"), domain, shots, model)


def counted(steps: int) -> str:
    """A number of steps in words.

    >>> counted(1), counted(5)
    ('1 step', '5 steps')
    """
    return f"{steps} step{'' if steps == 1 else 's'}"


FINETUNING_DEPARTS = ("Not a row of the paper: finetuning is in the released code only.",)
