"""`quickstudy demo`: four methods, one kind of task on real drawings, one table and one report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from quickstudy.cli.command import Folder, ImageCommand
from quickstudy.cli.terminal import Console, TerminalWatcher
from quickstudy.errors import InputError, printable

if TYPE_CHECKING:
    from quickstudy.training.config import Config

ROWS = (
    # title in the table, configuration, overrides
    ("nearest neighbour on pixels", "digits-nearest", ()),
    ("untrained net, adapted as MAML", "digits-maml", ("--train.steps", "0")),
    ("MAML", "digits-maml", ()),
    ("MT-net", "digits-mtnet", ()),
    ("Wormhole MAML", "digits-wormhole", ()),
    ("HyperMAML", "digits-hypermaml", ()),
)
QUICK_TASKS = 100
"""Test tasks under `--steps`."""

OMNIGLOT_SETTINGS = (
    "--tasks",
    "{name: omniglot, split: lake, size: 14, ways: 5, shots: 1, queries: 5}",
    "--model",
    "{name: conv_net, filters: 32, blocks: 3, down: stride}",
    "--train.meta_batch_size",
    "3",
)
"""Alphabets that were not trained on, in place of the digits. The sizes are such that the demo takes three minutes."""


@dataclass(frozen=True)
class Demo(ImageCommand):
    """Train MAML, MT-net, Wormhole MAML and HyperMAML on real drawings: a table and a report in minutes."""

    out: Folder = None
    """Directory for the runs and the report (default: runs/demo, or the next free number)."""
    seed: int = 0
    """Seed of the models' start and of the training tasks."""
    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Train each method for at most so many steps and evaluate on 100 tasks, for a quick look at the output."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Train, evaluate, print the table, write the report."""
        from quickstudy.reports.report import write_report
        from quickstudy.storage.run import Run, free_path
        from quickstudy.training import config
        from quickstudy.training.evaluate_run import evaluate_run
        from quickstudy.training.train import train

        if self.steps is not None and self.steps < 1:
            raise InputError(f"`--steps` was {self.steps}; give 1 or more.")
        folder = Path(self.out) if self.out else free_path(Path("runs") / "demo")
        runs, summaries = [], []
        for title, name, changes in ROWS:
            settings = self._settings(name, changes)
            with console.decoding() as progress:
                setup = config.build(settings, progress)
            place = folder / title.lower().replace(" ", "-").replace(",", "")
            run = Run.create(place, setup.config.model_dump(mode="json"))
            with TerminalWatcher(console, setup.config.train.steps, title) as watcher:
                train(setup, run, watcher)
            summary = evaluate_run(run)
            runs.append(run)
            summaries.append((title, summary))
            if console.json:
                console.print_json({"row": title, **summary})
        page = write_report(runs, folder / "report")
        if console.json:
            console.print_json({"report": str(page)})
            return
        print_table(console, summaries)
        print(f"report: {printable(page)}")

    def _settings(self, name: str, changes: Sequence[str]) -> Config:
        """The configuration of a row: on Omniglot where it is there, and shortened by `--steps`."""
        from quickstudy.tasks.images.sets import IMAGE_SETS
        from quickstudy.training import config

        drawings: Sequence[str] = OMNIGLOT_SETTINGS if IMAGE_SETS["omniglot"].find_folder() else ()
        if name == "digits-nearest":  # which has no net and no training
            drawings = drawings[:2]
        settings = config.load_config(name, [*drawings, *changes, "--seed", str(self.seed)])
        if self.steps is None:
            return settings
        shorter = settings.train.model_copy(update={"steps": min(self.steps, settings.train.steps)})
        fewer = settings.evaluate.model_copy(update={"tasks": QUICK_TASKS})
        return settings.model_copy(update={"train": shorter, "evaluate": fewer})


def print_table(console: Console, summaries: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """The table that the README shows."""
    from quickstudy.reports.report import format_score

    first = summaries[0][1]
    data = first["data"]
    console.table(
        f"{data['ways']}-way {data['shots']}-shot {data['name']} ({data['split_rule']})",
        ("", "accuracy", "adapt ms", "train s"),
        [
            (title, format_score(s), f"{s['adapt_ms']:.1f}", f"{s['train_seconds']:.0f}" if s["train_seconds"] else "-")
            for title, s in summaries
        ],
        caption=f"Accuracy on {first['tasks']} test tasks of {data['queries']} queries a class, ± 95% interval over "
        f"tasks; list {first['hash']}. {_held_out(data['name'])} Norms: {summaries[2][1]['norms']}.",
    )


def _held_out(name: str) -> str:
    if name == "digits":
        return "Test pictures were never trained on; the digit classes were."
    return "The test's alphabets were never trained on."
