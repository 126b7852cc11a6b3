"""`quickstudy evaluate`: runs on fixed tasks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from quickstudy.cli.command import Name, RunFolders, SharedCommand, name_run_in_errors, share_run
from quickstudy.cli.terminal import Console, describe_values
from quickstudy.errors import InputError, RunError

if TYPE_CHECKING:
    from quickstudy.engine.distributed import World
    from quickstudy.storage.run import Run


@dataclass(frozen=True)
class Evaluate(SharedCommand):
    """Evaluate runs on fixed tasks: mean and 95% interval over tasks."""

    runs: RunFolders = ()
    """Run directories. What is evaluated is changed by --key.sub value: --evaluate.tasks 5000, --tasks.shots 5,
    --method.eval_inner_steps 10."""
    checkpoint: Name = None
    """`best` or `last` (default: best where there is one)."""
    protocol: Name = None
    """finn, closerlook (600 tasks), hypermaml (5 x 600) or libfewshot (5 x 2000); default: evaluate.tasks, once."""
    name: str = "test"
    """Name of the result inside the run."""

    def run_worker(self, console: Console, overrides: Sequence[str], world: World) -> None:
        """Evaluate one run after the other, and show a table of all."""
        from quickstudy.reports.report import format_score
        from quickstudy.storage.run import Run
        from quickstudy.training.config.overrides import parse_overrides
        from quickstudy.training.evaluate_run import evaluate_run

        if not self.runs:
            raise InputError("Give one or more run directories to evaluate.")
        if self.protocol and any(keys == ["evaluate", "tasks"] for keys, _ in parse_overrides(overrides)):
            raise InputError(
                "`--protocol` says how many tasks there are, and so does `--evaluate.tasks`. Give one of them."
            )
        summaries = []
        runs = [(path, share_run(world, partial(Run.open, path))) for path in self.runs]
        for path, run in runs:
            with name_run_in_errors(path):
                before = _find_list(run, self.name)
                work = partial(evaluate_run, run, self.checkpoint, self.protocol, overrides, self.name, world)
                summary = self.with_trust(console, work)
            summaries.append((path, summary))
            if before not in (None, summary["hash"]):
                console.note(
                    f"{path}: the result {self.name!r} of other tasks (list {before}) was replaced. To keep both, give "
                    "one a --name."
                )
            if console.json:
                console.print_json({"run": path, **summary})
        if console.json:
            return
        for path, summary in summaries:
            console.note(f"{path}: {describe_values(summary['data'])}; {summary['norms']}")
        rows = [
            (
                path,
                s["method"],
                format_score(s),
                f"{s['tasks']} of {s['split']}",
                s["hash"],
                f"{s['adapt_ms']:.2f}",
                s["checkpoint"],
            )
            for path, s in summaries
        ]
        metrics = "/".join(dict.fromkeys(s["metric"] for _, s in summaries))
        columns = ("run", "method", metrics, "tasks", "list", "adapt ms", "checkpoint")
        console.table("", columns, rows, caption=f"±: {summaries[0][1]['spread']}")


def _find_list(run: Run, name: str) -> str | None:
    """The list of tasks of a result that is there; None if there is none, or none that can be read."""
    with suppress(RunError, InputError):
        found = run.results().get(name)
        return None if found is None else found.summary.get("hash")
    return None
