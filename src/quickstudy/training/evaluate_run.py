"""A run, evaluated, and the result written into it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from quickstudy.engine.distributed import ALONE, World
from quickstudy.engine.engine import use_threads
from quickstudy.evaluation.dry_run import dry_run, first_tasks
from quickstudy.evaluation.evaluate import Protocol, adaptation_ms, evaluate, protocol
from quickstudy.evaluation.thumbnails import collect_thumbnails
from quickstudy.storage.files import to_plain_or_text
from quickstudy.storage.run import Run, check_name
from quickstudy.training.config import Setup
from quickstudy.training.restore import restore


def evaluate_run(
    run: Run,
    checkpoint: str | None = None,
    named: str | None = None,
    overrides: Sequence[str] = (),
    name: str = "test",
    world: World = ALONE,
) -> dict[str, Any]:
    """Evaluate a checkpoint and keep the result in the run under `name`.

    Args:
        run: The run.
        checkpoint: "best" or "last"; by default best where there is one.
        named: A protocol; by default the configuration's number of tasks, once.
        overrides: `--key.sub value` pairs for the evaluation.
        name: Of the result.
        world: The workers that share the tasks; the first writes the result.
    """
    check_name(name)
    setup, state = restore(run, checkpoint, overrides, world)
    asked = setup.config.evaluate
    made = protocol(named) if named else Protocol("tasks", asked.tasks)
    with use_threads(world.threads(setup.config.compute.threads)):
        world.agree(lambda: _rehearse(setup))
        repeats = [
            evaluate(
                setup.learner,
                setup.judged,
                setup.metric,
                split=asked.split,
                n=made.tasks,
                seed=asked.seed + i,
                world=world,
            )
            for i in range(made.repeats)
        ]
        adapt_ms = world.from_first(lambda: adaptation_ms(setup.learner, setup.judged, asked.split, asked.seed))
    first = repeats[0]
    if made.repeats == 1:
        mean, interval, what = first.spread.mean, first.spread.interval, "95% interval over tasks"
    else:
        means = np.array([summary.spread.mean for summary in repeats])
        mean, interval = float(means.mean()), float(means.std())
        what = f"standard deviation over {made.repeats} task lists"
    summary = {
        "name": name,
        "method": setup.config.method.name,
        "metric": setup.metric.name,
        "mean": mean,
        "interval": interval,
        "spread": what,
        "tasks": made.tasks * made.repeats,
        "finite": sum(one.spread.finite for one in repeats),
        "loss": first.loss.mean,
        "hash": "+".join(one.hash for one in repeats),
        "split": asked.split,
        "seed": asked.seed,
        "adapt_ms": adapt_ms,
        "train_seconds": state["seconds"],
        "step": state["step"],
        "checkpoint": state["checkpoint"],
        "init_from": state.get("initial"),
        "protocol": made.name,
        "data": to_plain_or_text(setup.judged.describe()),
        "notes": list(setup.judged.notes),
        "norms": setup.learner.norms,
        "parameters": sum(p.numel() for p in setup.learner.meta_params().values()),
    }
    pictures = collect_thumbnails(setup.judged, asked.split, first.example, [one.confusion for one in repeats])
    arrays = {"metric": first.values, "loss": first.losses, **pictures}
    world.from_first(lambda: run.write_result(name, summary, arrays))
    return summary


def _rehearse(setup: Setup) -> None:
    asked = setup.config.evaluate
    tasks = first_tasks(setup.judged, asked.split, seed=asked.seed)
    dry_run(setup.learner, setup.judged.of_split(asked.split), tasks)
