"""Packing a run: its learner alone, as it serves, calibrated, in a directory that needs nothing else."""

from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch

from quickstudy.errors import InputError
from quickstudy.evaluation.calibration import (
    Calibration,
    calibrate,
    calibrate_on_tasks,
    collect_outputs,
    measure_error,
    with_sizes,
)
from quickstudy.evaluation.evaluate import compare, evaluate
from quickstudy.evaluation.metrics import METRIC_FOR_LOSS, get_metric
from quickstudy.everyday.bases import find_tasks, serve
from quickstudy.everyday.heads import nearest_mean_learner
from quickstudy.methods.learner import Learner
from quickstudy.models.encoders.encoder import Encoder
from quickstudy.storage.model_files import check_place, read_kind
from quickstudy.storage.run import Run
from quickstudy.tasks.base import TaskFamily
from quickstudy.tasks.episodes import Episodes
from quickstudy.training.config import Blueprint
from quickstudy.training.restore import load

PACK_WAYS, PACK_SHOTS = (2, 5, 10, 20), (1, 2, 5, 10)
"""What a packed learner is calibrated for; what a user has is served by the nearest."""
PACK_EPISODES = 100

Progress = Callable[[int, int], None]


class Packed(NamedTuple):
    """What was packed: where, the learner's blueprint, and remarks for the user."""

    path: Path
    blueprint: Blueprint
    notes: list[str]


def pack_run(
    run: str | Path | Run,
    path: str | Path,
    *,
    checkpoint: str | None = None,
    norms: str = "support",
    episodes: int = PACK_EPISODES,
    trust: bool = False,
    progress: Progress | None = None,
) -> Packed:
    """Save the learner of a run so that it can be moved, served and taught anywhere.

    Where the tasks of the run are at hand, the learner is calibrated on their validation tasks, and the cost of another
    norm policy is measured on them.

    Args:
        run: The run.
        path: The directory to write.
        checkpoint: "best" or "last"; by default "best" if there is one.
        norms: "support" (no answer depends on its neighbours) or "trained".
        episodes: The validation tasks of one calibration.
        trust: Whether to run code that the run names as `package.module:factory`.
        progress: Called with how many calibrations are done, and of how many.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if read_kind(Path(path)) in ("classifier", "regressor"):
        raise InputError(
            f"{path} holds a model that was taught, with its examples, and a learner would replace it. Give another "
            "directory."
        )
    check_place(Path(path))  # before the calibrations, which take minutes
    trained = load(run.path, checkpoint, trust=trust)
    served, remarks = serve(trained, norms, run.path.name)
    notes, family = list(remarks), find_tasks(run)
    assert served.blueprint is not None
    blueprint = Blueprint.model_validate(served.blueprint)
    if family is None:
        notes.append("the tasks of the run are not at hand, so nothing was calibrated: put their data back to do it")
    else:
        if served is not trained:
            cost = measure_norms(trained, served, family, 2 * episodes)
            notes.append(cost)
            blueprint = blueprint.model_copy(update={"norms_cost": cost})
        blueprint = blueprint.model_copy(update=_measure(served, family, episodes, progress))
    served.blueprint = blueprint.model_dump(mode="json")
    served.save(path)
    return Packed(Path(path), blueprint, notes)


def _measure(learner: Learner, family: TaskFamily, episodes: int, progress: Progress | None) -> dict[str, object]:
    """What a blueprint says of how far a learner can be trusted."""
    if family.loss != "cross_entropy":
        errors = {n: measure_error(learner, family, n, episodes=episodes) for n in PACK_SHOTS}
        return {"errors": {n: error for n, error in errors.items() if isfinite(error)}}  # one task may diverge
    outputs = learner.blueprint["tasks"]["outputs"] if learner.blueprint else 0
    sizes = [(w, k) for w in PACK_WAYS for k in PACK_SHOTS if learner.ways is not None or w <= outputs]
    found: dict[tuple[int, int], Calibration] = {}
    for number, (ways, shots) in enumerate(sizes):
        try:
            one = calibrate_on_tasks(learner, family, ways, shots, episodes=episodes)
        except InputError:  # a method may refuse some numbers of classes
            continue
        found[one.ways, one.shots] = one
        if progress is not None:
            progress(number + 1, len(sizes))
    return {"calibrations": tuple(found.values())}


def measure_encoder(encoder: Encoder, families: Sequence[Episodes], *, episodes: int = PACK_EPISODES) -> dict[str, Any]:
    """The calibrations of an encoder with nearest class means, on the validation classes of features of several sets.

    What is returned is what a file of `everyday/calibrations/` holds.
    """
    learner = nearest_mean_learner(encoder.features, 2)
    found = []
    for ways in PACK_WAYS:
        for shots in PACK_SHOTS:
            parts = [with_sizes(family, "val", ways, shots) for family in families]
            outputs, y = zip(*(collect_outputs(learner, part, "val", episodes) for part, _, _ in parts), strict=True)
            found.append(
                calibrate(
                    torch.cat([own.flatten(0, 1) for own in outputs]),
                    torch.cat([own.flatten() for own in y]),
                    shots=shots,
                    episodes=episodes * len(families),
                    source=" and ".join(family.name for family in families),
                )
            )
    rounded = [one.model_copy(update={"levels": tuple(round(p, 4) for p in one.levels)}) for one in found]
    return {"digest": encoder.digest, "calibrations": [one.model_dump(mode="json") for one in rounded]}


def measure_norms(trained: Learner, served: Learner, family: TaskFamily, episodes: int) -> str:
    """What another norm policy costs on validation tasks, in words."""
    metric = get_metric(METRIC_FOR_LOSS[family.loss])
    try:
        before, after = (evaluate(learner, family, metric, split="val", n=episodes) for learner in (trained, served))
    except InputError:
        return "what the change of norms costs was not measured: the run's tasks have no validation split"
    difference = compare(before, after, drop_unequal=True).spread
    share = metric.name == "accuracy"
    amount = (
        f"{100 * difference.mean:+.1f} ± {100 * difference.interval:.1f} points" if share else difference.format("+.3g")
    )
    return f"with these norms the {metric.name} changes by {amount}, on {len(before.values)} validation tasks"
