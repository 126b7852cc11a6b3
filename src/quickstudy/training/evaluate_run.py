"""Evaluating a run, and writing the result into its directory."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from quickstudy.engine.distributed import SINGLE_WORKER, World
from quickstudy.engine.threads import use_threads
from quickstudy.errors import UserErrors
from quickstudy.evaluation.dry_run import dry_run_evaluation
from quickstudy.evaluation.evaluate import Protocol, evaluate, get_protocol, time_adaptation
from quickstudy.evaluation.thumbnails import collect_thumbnails
from quickstudy.storage.files import to_plain_or_text
from quickstudy.storage.result import INTERVAL
from quickstudy.storage.run import Run, check_name
from quickstudy.training.config import Setup
from quickstudy.training.restore import restore


def evaluate_run(
    run: Run,
    checkpoint: str | None = None,
    protocol: str | None = None,
    overrides: Sequence[str] = (),
    name: str = "test",
    world: World = SINGLE_WORKER,
    *,
    trust: bool = False,
) -> dict[str, Any]:
    """Evaluate a checkpoint, and write the result into the run under `name`. Returned is the result's summary.

    Args:
        run: The run.
        checkpoint: "best" or "last". By default "best" if the run has it, else "last".
        protocol: The name of a protocol. By default the configuration's number of tasks, once.
        overrides: `--key.sub value` pairs for the evaluation.
        name: The name of the result.
        world: The workers that share the tasks. The first writes the result.
        trust: Whether the run may run code that its configuration names, wherever it comes from.
    """
    check_name(name)
    setup, state = restore(run, checkpoint, overrides, world, trust=trust)
    learner, family, metric, asked = setup.learner, setup.eval_family, setup.metric, setup.config.evaluate
    plan = get_protocol(protocol) if protocol else Protocol("tasks", asked.tasks)
    with (
        use_threads(world.threads(setup.config.compute.threads)),
        UserErrors(lambda what: f"Evaluating {run.path} failed: {what}."),
    ):
        world.agree(partial(check_evaluation, setup))
        repeats = [
            evaluate(learner, family, metric, split=asked.split, n=plan.tasks, seed=asked.seed + i, world=world)
            for i in range(plan.repeats)
        ]
        adapt_ms = world.from_first(partial(time_adaptation, learner, family, asked.split, asked.seed))
    first = repeats[0]
    if plan.repeats == 1:
        mean, interval, spread = first.spread.mean, first.spread.interval, INTERVAL
    else:
        means = np.array([repeat.spread.mean for repeat in repeats])
        mean, interval = float(means.mean()), float(means.std(ddof=1))
        spread = f"standard deviation over {plan.repeats} task lists"
    summary = {
        "name": name,
        "method": setup.config.method.name,
        "metric": metric.name,
        "mean": mean,
        "interval": interval,
        "spread": spread,
        "tasks": plan.tasks * plan.repeats,
        "finite": sum(repeat.spread.finite for repeat in repeats),
        "loss": first.loss.mean,
        "hash": "+".join(repeat.hash for repeat in repeats),
        "split": asked.split,
        "seed": asked.seed,
        "adapt_ms": adapt_ms,
        "train_seconds": state["seconds"],
        "step": state["step"],
        "checkpoint": state["checkpoint"],
        "init_from": state.get("initial"),
        "protocol": plan.name,
        "data": to_plain_or_text(family.describe()),
        "notes": list(family.notes),
        "norms": learner.norms,
        "parameters": sum(p.numel() for p in learner.meta_params().values()),
    }
    pictures = collect_thumbnails(family, asked.split, first.example, [repeat.confusion for repeat in repeats])
    arrays = {"metric": first.values, "loss": first.losses, **pictures}
    world.from_first(partial(run.write_result, name, summary, arrays))
    return summary


def check_evaluation(setup: Setup) -> None:
    """Refuse tasks that the learner does not fit, before the evaluation begins."""
    dry_run_evaluation(setup.learner, setup.eval_family, setup.config.evaluate.split, setup.config.evaluate.seed)
