"""HyperMAML's experiments as configurations: what the paper trains at full scale, and what the other scales change.

Everything that two tables share is made by the same call, so that they have the same training.

Reference: Przewiezlikowski et al., 2022 (https://arxiv.org/abs/2205.15745), section 4 and tables 9 and 10; what these
leave open comes from the released code (gmum/few-shot-hypernets-public) or from Chen et al., 2019
(https://arxiv.org/abs/1904.04232), whose protocol both follow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Settings = dict[str, Any]

BIRDS = "cub_200_2010_84px in place of CUB-200-2011"
TINY = "mini_imagenet_tiny64 in place of mini-ImageNet"
HAND_DRAWN = "chars74k_hnd in place of EMNIST"

GREY = "Pictures have one channel, not three equal ones."
LAST = "The last checkpoint is judged; the released code keeps the best of validations."
SCRATCH = "From scratch: the paper starts from a backbone pretrained on 64 classes."
FEWER_QUERIES = "15 queries a class in 5-shot training, not 16: the smallest class has 20 pictures."


@dataclass(frozen=True)
class Domain:
    """Where an experiment trains and tests.

    Args:
        name: In the names of rows.
        title: As the tables head it.
        train: The tasks of training, as a part of a configuration.
        test: The tasks of the test.
        stand_in: The data that stand for the paper's, where these are not at hand.
        epochs: Of the paper's meta-learners.
        updates: In an epoch.
        batch: Tasks in an update.
        inner: Rate and number of MAML's steps.
        departs: What differs from the paper.
        photographs: Whether the small scales shrink pictures and net.
        scarce: Whether its smallest class has 20 pictures, fewer than 5-shot training with 16 queries needs.
    """

    name: str
    title: str
    train: Settings
    test: Settings
    stand_in: str
    epochs: int = 4000
    updates: int = 25
    batch: int = 4
    inner: tuple[float, int] = (0.01, 5)
    departs: tuple[str, ...] = (LAST,)
    photographs: bool = True
    scarce: bool = False

    def column(self, shots: int) -> str:
        """As the tables head it."""
        return f"{self.title} {shots}-shot"


_LETTERS = {"recipe": "closerlook"}
_CUB = {"name": "cub", "split": "alternating", "recipe": "closerlook", "size": 84}
_MINI = {"name": "mini_imagenet", "recipe": "closerlook", "size": 84}

CHARACTERS = Domain(
    "characters",
    "Omniglot to EMNIST",
    {"name": "omniglot", "split": "no_latin", **_LETTERS},
    {"name": "emnist", "split": "even_odd", **_LETTERS},
    HAND_DRAWN,
    epochs=2048,
    updates=3,
    batch=32,
    inner=(0.1, 1),
    departs=(GREY, LAST),
    photographs=False,
    scarce=True,
)
CUB = Domain("cub", "CUB", _CUB, _CUB, BIRDS, scarce=True)
MINI = Domain(
    "mini", "mini-ImageNet", _MINI | {"split": "ravi"}, _MINI | {"split": "ravi"}, TINY, departs=(SCRATCH, LAST)
)
MINI_TO_CUB = Domain(
    "mini-cub", "mini-ImageNet to CUB", _MINI | {"split": "all"}, _CUB, f"{TINY}, {BIRDS}", departs=(SCRATCH, LAST)
)


@dataclass(frozen=True)
class Schedule:
    """The outer rate of HyperMAML, the width of its hypernetwork, and its switch (tables 9 and 10), in epochs."""

    rate: float
    width: int
    warm_up: int
    switch: int


SLOW, FAST = Schedule(0.001, 256, 100, 1000), Schedule(0.01, 512, 50, 500)


def schedule(domain: Domain, shots: int) -> Schedule:
    """Of an experiment."""
    return FAST if domain is CHARACTERS or (domain is CUB and shots == 1) else SLOW


@dataclass(frozen=True)
class Training:
    """A configuration at full scale, what the other scales change in it, and what departs from the paper."""

    config: Settings
    scales: Mapping[str, Settings]
    departs: tuple[str, ...] = field(default=())


QUICK_STEPS = {1: 600, 5: 300}
"""Updates of a quick training, by shots."""
MAML_ON_CHARACTERS, HYPERMAML_ON_CHARACTERS = {1: 1200, 5: 400}, {1: 1500, 5: 1000}
"""The same for characters, where these two are looked at more closely."""


def _base(domain: Domain, shots: int, method: Settings, train: Settings, model: Settings | None = None) -> Settings:
    queries = 15 if shots == 5 and domain.scarce else 16
    tasks = {
        "name": "cross",
        "train": {**domain.train, "ways": 5, "shots": shots, "queries": queries},
        "test": {**domain.test, "ways": 5, "shots": shots, "queries": 15},
    }
    return {
        "format": 1,
        "tasks": tasks,
        "model": model or {"name": "conv4"},
        "method": method,
        "train": {"validate_every": 0, **train},
        "compute": {"threads": 1},
    }


def _departs(domain: Domain, shots: int) -> tuple[str, ...]:
    return (*domain.departs, FEWER_QUERIES) if shots == 5 and domain.scarce else domain.departs


def _small(domain: Domain, filters: bool = True) -> tuple[Settings, Settings]:
    """What quick and smoke change in any training: pictures, net and tasks."""
    quick: Settings = {"train.meta_batch_size": 4, "tasks.train.queries": 5}
    smoke: Settings = {"train.meta_batch_size": 1, "tasks.train.queries": 1, "train.steps": 1, "train.milestones": []}
    if domain.photographs:
        sizes = {"tasks.train.size": 32, "tasks.test.size": 32}
        quick |= sizes
        smoke |= sizes
    if filters:
        smoke |= {"model.filters": 4}
        quick |= {"model.filters": 32} if domain.photographs else {}
    return quick, smoke


def hypermaml(
    domain: Domain,
    shots: int,
    *,
    switch: bool = True,
    enhance: bool = True,
    mixing: str = "update",
    rate: float | None = None,
    stepwise: bool = True,
    model: Settings | None = None,
) -> Training:
    """HyperMAML.

    Args:
        domain: Where.
        shots: Of its tasks.
        switch: Whether gradient steps come first and give way to the emission (eq. 7).
        enhance: Whether the hypernetwork reads the classifier's guesses.
        mixing: "update" (eq. 7) or "loss" (appendix B).
        rate: The outer rate, where it is not the paper's.
        stepwise: Whether the rate falls at the epochs where the switch begins and ends.
        model: Another net.
    """
    own = schedule(domain, shots)
    lr, steps = domain.inner
    ends = (own.warm_up + 1, own.warm_up + own.switch)
    method: Settings = {
        "name": "hypermaml",
        "width": own.width,
        "hidden_layers": 2,
        "inner_lr": lr,
        "inner_steps": steps,
    }
    method |= {} if enhance else {"enhance": False}
    method |= {} if mixing == "update" else {"mixing": mixing}
    method |= {"emission": 0} if switch else {}
    train: Settings = {
        "steps": domain.epochs * domain.updates,
        "meta_batch_size": domain.batch,
        "meta_lr": own.rate if rate is None else rate,
        "reduction": "sum",
    }
    total = train["steps"]
    quick, smoke = _small(domain, model is None)
    quick_steps = (QUICK_STEPS if domain.photographs else HYPERMAML_ON_CHARACTERS)[shots]
    quick["train.steps"] = quick_steps
    if stepwise:
        train["milestones"] = [epoch * domain.updates for epoch in ends]
        quick["train.milestones"] = [round(quick_steps * at / total) for at in train["milestones"]]
    if domain.photographs:
        quick |= {"method.inner_lr": 0.2, "method.inner_steps": 1, "method.width": 256, "train.meta_lr": 0.002}
        quick["train.milestones"] = [quick_steps * 2 // 3, quick_steps * 13 // 15]
    smoke |= {"method.width": 8, "method.inner_steps": 1}
    if switch:
        ramp = {"kind": "ramp", "before": [0, 1], "after": [1, 0]}
        epochs = {"start": own.warm_up - 1, "end": own.warm_up + own.switch, "every": domain.updates}
        train["schedules"] = {"rule.weights": {**ramp, **epochs}}
        share = (0.1, 0.4) if domain.photographs else (epochs["start"] / domain.epochs, epochs["end"] / domain.epochs)
        start, end = (round(part * quick_steps) for part in share)
        quick["train.schedules"] = {"rule.weights": {**ramp, "start": start, "end": end}}
        smoke["train.schedules"] = {"rule.weights": {**ramp, "start": 0, "end": 1}}
    return Training(
        _base(domain, shots, method, train, model), {"quick": quick, "smoke": smoke}, _departs(domain, shots)
    )


MAML_RATE = "The outer rate of MAML is not reported; Adam at .001."


def maml(domain: Domain, shots: int, *, name: str = "maml", model: Settings | None = None) -> Training:
    """MAML as the paper's code base trains it, or a method that differs from it by its name alone."""
    lr, steps = domain.inner
    method = {"name": name, "inner_lr": lr, "inner_steps": steps}
    total = domain.epochs * domain.updates
    train = {"steps": total, "meta_batch_size": domain.batch, "meta_lr": 0.001, "reduction": "sum"}
    quick, smoke = _small(domain, model is None)
    quick_steps = (QUICK_STEPS if domain.photographs else MAML_ON_CHARACTERS)[shots]
    quick |= {"train.steps": quick_steps, "train.milestones": [quick_steps * 2 // 3, quick_steps * 13 // 15]}
    if domain.photographs:
        quick |= {"method.inner_lr": 0.2, "method.inner_steps": 1, "train.meta_lr": 0.002}
    smoke |= {"method.inner_steps": 1}
    departs = (*_departs(domain, shots), MAML_RATE)
    return Training(_base(domain, shots, method, train, model), {"quick": quick, "smoke": smoke}, departs)


THEIR_BUDGET = "Budget and rate are those of Chen et al., 2019: the paper quotes this row."
RULES: Mapping[str, tuple[str, Settings, Settings]] = {
    "mamlpp": ("MAML++", {"name": "mamlpp", "inner_lr": 0.01, "inner_steps": 5}, {"inner_lr": 0.2, "inner_steps": 2}),
    "sign-maml": ("SignMAML", {"name": "sign_maml", "inner_lr": 0.01, "inner_steps": 5}, {"inner_steps": 1}),
    "unicorn": ("Unicorn-MAML", {"name": "unicorn_maml", "inner_lr": 0.01, "inner_steps": 5},
                {"inner_lr": 0.2, "inner_steps": 1}),
    "matchingnet": ("MatchingNet", {"name": "matchingnet"}, {}),
    "protonet": ("ProtoNet", {"name": "protonet"}, {}),
    "relationnet": ("RelationNet", {"name": "relationnet"}, {}),
    "hypershot": ("HyperShot", {"name": "hypershot"}, {}),
}  # fmt: skip
"""Methods that learn from tasks: as the tables call them, their options, and the quick scale's."""
TRANSFER = {"feature-transfer": ("Feature Transfer", "feature_transfer"), "baseline-pp": ("Baseline++", "baseline_pp")}
"""Methods that learn from batches of all training classes."""


def other(which: str, domain: Domain, shots: int, model: Settings | None = None) -> Training:
    """A method that the paper compares with, by its name in `RULES` or `TRANSFER`."""
    if which in TRANSFER:
        return _transfer(TRANSFER[which][1], domain, shots)
    _, method, quicker = RULES[which]
    steps = 60_000 if shots == 1 else 40_000
    gradual = "inner_steps" in method
    train = {"steps": steps, "meta_batch_size": 4 if gradual else 1, "meta_lr": 0.001}
    quick, smoke = _small(domain, model is None)
    quick_steps = QUICK_STEPS[shots]
    quick |= {"train.steps": quick_steps, "train.milestones": [quick_steps * 2 // 3, quick_steps * 13 // 15]}
    quick |= {"train.meta_lr": 0.002} | {f"method.{name}": value for name, value in quicker.items()}
    smoke |= {"method.inner_steps": 1} if gradual else {}
    departs = (*_departs(domain, shots), THEIR_BUDGET)
    return Training(_base(domain, shots, dict(method), train, model), {"quick": quick, "smoke": smoke}, departs)


def _transfer(method: str, domain: Domain, shots: int) -> Training:
    """Supervised batches of the training classes, then a new head for each task."""
    config = _base(domain, shots, {"name": method}, {"steps": 60_000, "meta_batch_size": 1, "meta_lr": 0.001})
    of = {**domain.train, "ways": 5}
    config["tasks"]["train"] = {"name": "batches", "of": of, "size": 16, "hold_out": 0}
    quick: Settings = {"train.steps": 400, "tasks.train.size": 64, "train.meta_lr": 0.002}
    smoke: Settings = {"train.steps": 1, "tasks.train.size": 2, "model.filters": 4, "method.eval_inner_steps": 1}
    if domain.photographs:
        sizes = {"tasks.train.of.size": 32, "tasks.test.size": 32}
        quick |= {**sizes, "model.filters": 32}
        smoke |= sizes
    departs = (*_departs(domain, 1), "60 000 batches of 16 pictures; its authors train 400 epochs of them.")
    return Training(config, {"quick": quick, "smoke": smoke}, departs)


RESNET = {"name": "resnet12", "widths": [64, 160, 320, 640]}


def resnet(training: Training) -> Training:
    """The same with narrower residual blocks at the small scales."""
    quick = {**training.scales["quick"], "model.widths": [16, 40, 80, 160]}
    quick |= {"train.steps": 200, "train.milestones": [130, 170]}
    if "train.schedules" in quick:
        ramp = quick["train.schedules"]["rule.weights"]
        quick["train.schedules"] = {"rule.weights": {**ramp, "start": 20, "end": 80}}
    merged = {"quick": quick, "smoke": {**training.scales["smoke"], "model.widths": [2, 2, 2, 2]}}
    return Training(training.config, merged, training.departs)


def toy(method: Settings) -> Training:
    """The four tasks in the plane: the paper gives no numbers, so these are ours."""
    config = {
        "format": 1,
        "tasks": {"name": "gaussians", "shots": 5, "queries": 15},
        "model": {"name": "linear"},
        "method": method,
        "train": {"steps": 1000, "meta_batch_size": 4, "meta_lr": 0.01, "validate_every": 0},
        "compute": {"threads": 1},
    }
    return Training(config, {"smoke": {"train.steps": 2}})
