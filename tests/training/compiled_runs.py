"""Trains with a compiled meta-gradient in pieces of several steps, step by step, and with a stop: run as a program.

It prints which pairs of runs are equal, and has a process of its own, because the tests check the shapes of every call
at run time, which cannot be compiled.
"""

import json
import sys
from pathlib import Path

from quickstudy.storage.run import Run
from quickstudy.training import config
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
    """Asks for a stop in the middle of a piece."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def step(self, step: int, loss: float) -> None:
        self.stopping = step >= self.steps


def begin(place: Path, watch: Watcher | None = None, **settings: object) -> Run:
    """Train a new run."""
    setup = config.build(config.parse_config({**CONFIG, "train": {**CONFIG["train"], **settings}}))
    run = Run.create(place, setup.config.model_dump(mode="json"))
    train(setup, run, watch)
    return run


def found(run: Run) -> tuple[dict[str, list[float]], list[float]]:
    """The tensors at the end, and the mean loss and metric of all steps."""
    checkpoint, rows = run.load("last"), [row for row in run.metrics() if row["kind"] == "train"]
    means = [sum(row[name] for row in rows) / len(rows) for name in ("loss", "metric")]
    return {name: value.flatten().tolist() for name, value in checkpoint.tensors.items()}, means


def main(place: Path) -> None:
    """Three runs that must be equal."""
    pieces, single = found(begin(place / "pieces")), found(begin(place / "single", log_every=1))
    try:
        begin(place / "stopped", StopAfter(9))
    except StoppedError:
        stopped = Run.open(place / "stopped")
        at = stopped.load("last").state["step"]
        train(config.build(config.parse_config(stopped.config)), stopped)
    resumed = found(stopped)
    print(
        json.dumps(
            {
                "stopped at": at,
                "single": single[0] == pieces[0],
                "means": max(abs(a - b) for a, b in zip(single[1], pieces[1], strict=True)),
                "resumed": resumed == pieces,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
