"""Trains with a compiled meta-gradient, in pieces and step by step, from the start and later on: run as a program.

It prints which pairs of runs are equal, and has a process of its own, because the tests check the shapes of every call
at run time, which cannot be compiled.
"""

import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from quickstudy.storage.run import Run
from quickstudy.training import config
from quickstudy.training.compile_ahead import CompileAhead
from quickstudy.training.train import StoppedError, train
from quickstudy.training.watcher import Watcher

CONFIG = {
    "tasks": {"name": "sine", "shots": 3, "queries": 3},
    "model": {"name": "mlp", "hidden": [4]},
    "method": {"name": "mtnet"},
    "train": {"steps": 23, "meta_batch_size": 2, "log_every": 23, "validate_every": 0, "checkpoint_every": 23},
    "compute": {"threads": 1, "compile": True},
}


class StopAfter(Watcher):
    """Asks for a stop, so that the step after `steps` is the last: in the middle of a piece."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def step(self, step: int, loss: float) -> None:
        self.stopping = step >= self.steps


class StopWhenCompiled(Watcher):
    """Asks for a stop as soon as steps are compiled."""

    def row(self, row: dict[str, Any]) -> None:
        self.stopping = row["kind"] == "compile"


def begin(place: Path, watch: Watcher | None = None, compile: bool | str = True, **settings: object) -> Run:  # noqa: A002
    """Train a new run."""
    changed = {"train": {**CONFIG["train"], **settings}, "compute": {"threads": 1, "compile": compile}}
    setup = config.build(config.parse_config(CONFIG | changed))
    run = Run.create(place, setup.config.model_dump(mode="json"))
    return go_on(run, watch)


def go_on(run: Run, watch: Watcher | None = None) -> Run:
    """Train a run to its end, or to where a watcher stops it."""
    with suppress(StoppedError):
        train(config.build(config.parse_config(run.config)), run, watch)
    return run


def found(run: Run) -> tuple[dict[str, list[float]], list[float]]:
    """The tensors at the end, and the mean loss and metric of all steps."""
    checkpoint, rows = run.load("last"), [row for row in run.metrics() if row["kind"] == "train"]
    means = [sum(row[name] for row in rows) / len(rows) for name in ("loss", "metric")]
    return {name: value.flatten().tolist() for name, value in checkpoint.tensors.items()}, means


def pieces(place: Path) -> dict[str, object]:
    """In pieces, step by step, and with a stop: all three must be equal."""
    whole, single = found(begin(place / "whole")), found(begin(place / "single", log_every=1))
    run = begin(place / "stopped", StopAfter(9))
    stopped_at = run.load("last").state["step"]
    resumed = found(go_on(run))
    return {
        "stopped at": stopped_at,
        "single": single[0] == whole[0],
        "means": max(abs(a - b) for a, b in zip(single[1], whole[1], strict=True)),
        "resumed": resumed == whole,
    }


def auto(place: Path) -> dict[str, object]:
    """A long run goes over to compiled steps. From there it goes on in one go, and with a stop."""
    first = begin(place / "first", StopWhenCompiled(), "auto", steps=10**7, log_every=10**7, checkpoint_every=10**7)
    switch = first.load("last").state["compiled_from"]
    (row,) = [row for row in first.metrics() if row["kind"] == "compile"]
    shutil.copytree(first.path, place / "second")
    second = Run.open(place / "second")
    go_on(first, StopAfter(switch + 30))
    go_on(second, StopAfter(switch + 12))
    go_on(second, StopAfter(switch + 30))
    ends = [run.load("last") for run in (first, second)]
    one, other = (end.tensors for end in ends)
    return {
        "row": row["step"] == switch and row["compiled"],
        "steps": [end.state["step"] - switch for end in ends],
        "compiled from": [end.state["compiled_from"] == switch for end in ends],
        "equal": all(bool((one[name] == other[name]).all()) for name in one),
    }


def abandon(place: Path) -> None:
    """Begin to compile beside a training, and die."""
    print(json.dumps(CompileAhead(config.parse_config(CONFIG), 0).pid), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    print(json.dumps({"pieces": pieces, "auto": auto, "abandon": abandon}[sys.argv[1]](Path(sys.argv[2]))))
