"""How the tasks of a long training run fastest on this machine: measured on its first batch, and remembered.

A rule chooses for everything else (see `Engine.settle`). It is right for most nets; by how much one way is faster
depends on the processor, on its number of cores, and on the sizes of layers and batches.
"""

import hashlib
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from quickstudy.engine.engine import Engine, Way
from quickstudy.errors import RunError
from quickstudy.evaluation.dry_run import restoring_buffers
from quickstudy.methods.learner import Learner
from quickstudy.rules.torch_private import tree_leaves
from quickstudy.storage.files import dump_pretty, dumps, explain_disk_errors, read_json, write_atomic
from quickstudy.storage.versions import identify_machine
from quickstudy.tasks.images.store import cache_root
from quickstudy.types import Task

WORTH_MEASURING = 60.0
"""Seconds that a training must take for a measurement."""

ROUNDS = 3
"""How often each way has a turn. The median counts."""


def find_fastest_way(
    learner: Learner, tasks: Task, steps: int, clock: Callable[[], float] = perf_counter
) -> tuple[Way, dict[Way, float]] | None:
    """The fastest way of a learner's engine, and the seconds of a meta-gradient by way; none where it was remembered.

    Args:
        learner: The learner, whose engine has settled.
        tasks: A batch as in training.
        steps: How many steps are left.
        clock: Reads seconds.

    Returns:
        None where there is no choice, or where the training is too short for one.
    """
    ways = learner.engine.ways()
    if len(ways) < 2 or len(tasks.key) < 2:
        return None
    place = _entry(learner, tasks)
    remembered = _read(place)
    if known := [way for way in ways if way == remembered]:
        return known[0], {}
    engine = learner.engine
    seconds: dict[Way, list[float]] = {}
    with restoring_buffers(learner), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a way that is refused here
        try:
            if _time_way(learner, engine, tasks, 2, clock)[-1] * steps < WORTH_MEASURING:
                return None
            ready = {}
            for way in ways:
                one = engine.replace()
                one.take(way)
                learner.engine = one
                learner.meta_gradient(tasks)  # fills caches
                if one.way == way:  # else it was refused, and the engine has left it
                    ready[way] = one
            for way, one in list(ready.items()) * ROUNDS:
                seconds.setdefault(way, []).extend(_time_way(learner, one, tasks, 1, clock))
        finally:
            learner.engine = engine
    found = {way: median(times) for way, times in seconds.items()}
    fastest = min(found, key=lambda way: found[way])
    with suppress(RunError, OSError), explain_disk_errors(place, "It is measured again next time."):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, dump_pretty({"way": fastest, "seconds": found}))
    return fastest, found


def _time_way(learner: Learner, engine: Engine, tasks: Task, times: int, clock: Callable[[], float]) -> list[float]:
    learner.engine = engine
    seconds = []
    for _ in range(times):
        start = clock()
        learner.meta_gradient(tasks)
        seconds.append(clock() - start)
    return seconds


def _read(place: Path) -> Any:
    """What is remembered there; None where nothing is, or nothing that can be read."""
    with suppress(RunError, OSError):
        return read_json(place).get("way")
    return None


def _entry(learner: Learner, tasks: Task) -> Path:
    """The file of a learner and of batches of these shapes, on this machine."""
    same = [
        repr(learner),
        [(name, list(p.shape), str(p.dtype)) for name, p in learner.named_parameters()],
        [list(leaf.shape) for leaf in tree_leaves((tasks.support, tasks.query))],
        repr(learner.engine.settings),
        torch.get_num_threads(),
        identify_machine(),
    ]
    return cache_root() / "ways" / f"{hashlib.sha256(dumps(same).encode()).hexdigest()}.json"
