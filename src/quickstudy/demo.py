"""The demonstration: four methods, one kind of task on real digits, one table and one report."""

from pathlib import Path
from typing import Any

from quickstudy import config, terminal
from quickstudy.judge import judge
from quickstudy.report import report, score
from quickstudy.runs import Run, free
from quickstudy.train import train

ROWS = (
    # name in the table, configuration, overrides
    ("nearest neighbour on pixels", "digits-nearest", ()),
    ("untrained net, adapted as MAML", "digits-maml", ("--train.steps", "0")),
    ("MAML", "digits-maml", ()),
    ("MT-net", "digits-mtnet", ()),
    ("Wormhole MAML", "digits-wormhole", ()),
    ("HyperMAML", "digits-hypermaml", ()),
)


def demo(out: str | None, seed: int, *, quiet: bool, as_json: bool) -> None:
    """Train, evaluate, print the table, write the report."""
    folder = Path(out) if out else free(Path("runs") / "demo")
    runs, summaries = [], []
    for title, name, overrides in ROWS:
        setup = config.build(config.load(name, [*overrides, "--seed", str(seed)]))
        run = Run.create(
            folder / title.lower().replace(" ", "-").replace(",", ""), setup.config.model_dump(mode="json")
        )
        shown = not (quiet or as_json)
        with terminal.TerminalWatcher(setup.config.train.steps, title, bar=shown, rows=False) as watcher:
            train(setup, run, watcher)
        summary = judge(run)
        runs.append(run)
        summaries.append((title, summary))
        if as_json:
            terminal.print_json({"row": title, **summary})
    page = report(runs, folder / "report")
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
        f"{data['ways']}-way {data['shots']}-shot handwritten digits ({data['split_rule']})",
        ("", "accuracy", "adapt ms", "train s"),
        [
            (title, score(s), f"{s['adapt_ms']:.1f}", f"{s['train_seconds']:.0f}" if s["train_seconds"] else "-")
            for title, s in summaries
        ],
        f"Accuracy on {first['tasks']} test tasks of {data['queries']} queries a class, ± 95% interval over tasks; "
        f"list {first['hash']}. Test pictures were never trained on; the digit classes were. Norms: "
        f"{summaries[2][1]['norms']}.",
    )
