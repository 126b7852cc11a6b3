"""`quickstudy compare`: runs on identical tasks, by their paired difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from quickstudy.cli.command import ConfigCommand, Flag, Name, RunFolders, name_run_in_errors
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError, UserErrors

if TYPE_CHECKING:
    from quickstudy.evaluation.evaluate import Difference, Summary
    from quickstudy.evaluation.metrics import Spread
    from quickstudy.storage.run import Run


@dataclass(frozen=True)
class Compare(ConfigCommand):
    """Compare runs on identical tasks: the paired difference to the first, with its 95% interval."""

    runs: RunFolders = ()
    """Two run directories or more; the first is the reference. What is evaluated is changed by --key.sub value:
    --evaluate.tasks 5000."""
    checkpoint: Name = None
    """`best` or `last` (default: best where there is one)."""
    drop_unequal: Flag = False
    """Leave out tasks on which only one of two diverged, instead of refusing."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Evaluate every run on the same tasks, and show the differences."""
        from quickstudy.evaluation.evaluate import compare
        from quickstudy.storage.run import Run

        if len(self.runs) < 2:
            raise InputError(f"Comparing takes two runs or more; {len(self.runs)} given.")
        found = []
        for path, run in [(path, Run.open(path)) for path in self.runs]:
            with name_run_in_errors(path):
                evaluate_with = partial(_evaluate, run, self.checkpoint, overrides)
                found.append((path, *self.with_trust(console, evaluate_with)))
        reference = found[0][2]
        rows: list[tuple[str, str, Summary, Difference | None]] = [(*found[0], None)]
        for path, method, summary in found[1:]:
            rows.append((path, method, summary, compare(reference, summary, drop_unequal=self.drop_unequal)))
        if console.json:
            for path, method, summary, difference in rows:
                gap = None if difference is None else vars(difference.spread) | {"left_out": difference.left_out}
                row = {"run": path, "method": method, **vars(summary.spread), "hash": summary.hash}
                console.print_json(row | {"metric": summary.metric.name, "difference": gap})
            return
        share = reference.metric.name == "accuracy"
        scale: Callable[[Spread], Spread] = _in_percent if share else lambda spread: spread
        console.table(
            "",
            ("run", "method", f"{reference.metric.name}{', %' * share}", f"paired difference{', points' * share}"),
            [
                (path, method, str(scale(s.spread)), "reference" if d is None else _format_gap(d, scale))
                for path, method, s, d in rows
            ],
            caption=f"{len(reference.values)} identical tasks, list {reference.hash}; ± is a 95% interval over tasks",
        )


def _evaluate(run: Run, checkpoint: str | None, overrides: Sequence[str], trust: bool) -> tuple[str, Summary]:
    """The method of a run, and its values on the tasks that the configuration names."""
    from quickstudy.engine.threads import use_threads
    from quickstudy.evaluation.dry_run import draw_first_tasks, dry_run
    from quickstudy.evaluation.evaluate import evaluate
    from quickstudy.training.restore import restore

    setup, _ = restore(run, checkpoint, overrides, trust=trust)
    learner, family, on = setup.learner, setup.eval_family, setup.config.evaluate
    with use_threads(setup.config.compute.threads), UserErrors(lambda what: f"Evaluating {run.path} failed: {what}."):
        dry_run(learner, family.of_split(on.split), draw_first_tasks(family, on.split, seed=on.seed))
        summary = evaluate(learner, family, setup.metric, split=on.split, n=on.tasks, seed=on.seed)
    return setup.config.method.name, summary


def _in_percent(spread: Spread) -> Spread:
    return replace(spread, mean=100 * spread.mean, interval=100 * spread.interval)


def _format_gap(difference: Difference, scale: Callable[[Spread], Spread]) -> str:
    gap = scale(difference.spread)
    doubt = "" if gap.sign else ", not distinguishable"
    lost = f", {difference.left_out} tasks left out" if difference.left_out else ""
    return f"{gap.format('+.4g')}{doubt}{lost}"
