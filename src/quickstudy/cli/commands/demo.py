"""The demonstration: four methods, one kind of task on real drawings, one table and one report."""

from pathlib import Path
from typing import Any

from quickstudy.cli import terminal
from quickstudy.errors import InputError
from quickstudy.reports.report import format_score, write_report
from quickstudy.storage.run import Run, free_path
from quickstudy.tasks.images.sets import IMAGE_SETS
from quickstudy.training import config
from quickstudy.training.evaluate_run import evaluate_run
from quickstudy.training.train import train

ROWS = (
    # name in the table, configuration, overrides
    ("nearest neighbour on pixels", "digits-nearest", ()),
    ("untrained net, adapted as MAML", "digits-maml", ("--train.steps", "0")),
    ("MAML", "digits-maml", ()),
    ("MT-net", "digits-mtnet", ()),
    ("Wormhole MAML", "digits-wormhole", ()),
    ("HyperMAML", "digits-hypermaml", ()),
)
QUICK_TASKS = 100
OMNIGLOT = (
    "--tasks",
    "{name: omniglot, split: lake, size: 14, ways: 5, shots: 1, queries: 5}",
    "--model",
    "{name: conv_net, filters: 32, blocks: 3, down: stride}",
    "--train.meta_batch_size",
    "3",
)
"""In place of the digits: alphabets never seen, made small; net and batch fit three minutes in all."""


def demo(out: str | None, seed: int, *, steps: int | None = None, quiet: bool, as_json: bool) -> None:
    """Train, evaluate, print the table, write the report.

    Args:
        out: Directory for the runs and the report; by default a free one.
        seed: Of the models' start and of the training tasks.
        steps: Train at most so many steps each, and judge on 100 tasks, for a quick look.
        quiet: Print the table only.
        as_json: Print JSON lines instead.
    """
    if steps is not None and steps < 1:
        raise InputError(f"`--steps` was {steps}; give 1 or more.")
    folder = Path(out) if out else free_path(Path("runs") / "demo")
    drawings = OMNIGLOT if IMAGE_SETS["omniglot"].held() else ()
    shown = not (quiet or as_json)
    runs, summaries = [], []
    for title, name, overrides in ROWS:
        swapped = drawings if name != "digits-nearest" else drawings[:2]  # which has no net and no training
        asked = config.load_config(name, [*swapped, *overrides, "--seed", str(seed)])
        if steps is not None:
            trained = asked.train.model_copy(update={"steps": min(steps, asked.train.steps)})
            judged = asked.evaluate.model_copy(update={"tasks": QUICK_TASKS})
            asked = asked.model_copy(update={"train": trained, "evaluate": judged})
        with terminal.decoding(shown=shown) as decoded:
            setup = config.build(asked, decoded)
        run = Run.create(
            folder / title.lower().replace(" ", "-").replace(",", ""), setup.config.model_dump(mode="json")
        )
        with terminal.TerminalWatcher(setup.config.train.steps, title, bar=shown, rows=False) as watcher:
            train(setup, run, watcher)
        summary = evaluate_run(run)
        runs.append(run)
        summaries.append((title, summary))
        if as_json:
            terminal.print_json({"row": title, **summary})
    page = write_report(runs, folder / "report")
    if as_json:
        terminal.print_json({"report": str(page)})
        return
    print_table(summaries)
    print(f"report: {page}")


def print_table(summaries: list[tuple[str, dict[str, Any]]]) -> None:
    """The table the README shows."""
    first = summaries[0][1]
    data = first["data"]
    terminal.table(
        f"{data['ways']}-way {data['shots']}-shot {data['name']} ({data['split_rule']})",
        ("", "accuracy", "adapt ms", "train s"),
        [
            (title, format_score(s), f"{s['adapt_ms']:.1f}", f"{s['train_seconds']:.0f}" if s["train_seconds"] else "-")
            for title, s in summaries
        ],
        f"Accuracy on {first['tasks']} test tasks of {data['queries']} queries a class, ± 95% interval over tasks; "
        f"list {first['hash']}. {_held_out(data['name'])} Norms: "
        f"{summaries[2][1]['norms']}.",
    )


def _held_out(name: str) -> str:
    if name == "digits":
        return "Test pictures were never trained on; the digit classes were."
    return "The test's alphabets were never trained on."
