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
    from quickstudy.training.config import Setup


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
        opened: list[tuple[str, Setup]] = []
        for path, run in [(path, Run.open(path)) for path in self.runs]:
            with name_run_in_errors(path):
                opened.append((path, self.with_trust(console, partial(_open, run, self.checkpoint, overrides))))
        _check_comparable(opened)
        found = []
        for path, setup in opened:
            with name_run_in_errors(path):
                found.append((path, setup.config.method.name, _evaluate(path, setup)))
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


def _open(run: Run, checkpoint: str | None, overrides: Sequence[str], trust: bool) -> Setup:
    """The learner of a run, with its tasks and metric."""
    from quickstudy.training.restore import restore

    return restore(run, checkpoint, overrides, trust=trust)[0]


def _check_comparable(opened: Sequence[tuple[str, Setup]]) -> None:
    """Refuse runs whose tasks or metrics differ, before the work of evaluating them. Their first tasks are compared."""
    from quickstudy.evaluation.evaluate import task_batches, task_hash

    def facts(setup: Setup) -> tuple[str, str]:
        on = setup.config.evaluate
        family = setup.eval_family.of_split(on.split)
        first = next(task_batches(family, on.split, 1, on.seed))
        tasks = f"{on.tasks} of {on.split}, seed {on.seed}, the first is {task_hash(family, [first])}"
        return setup.metric.name, tasks

    known = []
    for path, setup in opened:
        with name_run_in_errors(path):
            known.append((path, *facts(setup)))
    (reference, metric, tasks), *others = known
    for path, its_metric, its_tasks in others:
        if its_metric != metric:
            raise InputError(
                f"{reference} is evaluated by {metric}, and {path} by {its_metric}, so they cannot be compared. If "
                "their tasks allow it, give both the same --evaluate.metric."
            )
        if its_tasks != tasks:
            raise InputError(
                f"{reference} and {path} are evaluated on different tasks ({tasks}; {its_tasks}), so they cannot be "
                "paired. Give both the same tasks, split, seed and number of tasks."
            )


def _evaluate(path: str, setup: Setup) -> Summary:
    """What a learner does on the tasks that its configuration names."""
    from quickstudy.engine.threads import use_threads
    from quickstudy.evaluation.evaluate import evaluate
    from quickstudy.training.evaluate_run import check_evaluation

    learner, family, on = setup.learner, setup.eval_family, setup.config.evaluate
    with use_threads(setup.config.compute.threads), UserErrors(lambda what: f"Evaluating {path} failed: {what}."):
        check_evaluation(setup)
        return evaluate(learner, family, setup.metric, split=on.split, n=on.tasks, seed=on.seed)


def _in_percent(spread: Spread) -> Spread:
    return replace(spread, mean=100 * spread.mean, interval=100 * spread.interval)


def _format_gap(difference: Difference, scale: Callable[[Spread], Spread]) -> str:
    gap = scale(difference.spread)
    doubt = "" if gap.sign else ", not distinguishable"
    lost = f", {difference.left_out} tasks left out" if difference.left_out else ""
    return f"{gap.format('+.4g')}{doubt}{lost}"
