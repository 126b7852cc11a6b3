"""Dry runs: try the first tasks before anything is written, and refuse what does not fit in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from quickstudy.engine.memory import explain_out_of_memory
from quickstudy.errors import InputError, RunError, describe_error
from quickstudy.methods.learner import Learner
from quickstudy.methods.misfits import ModelError
from quickstudy.rules.torch_private import tree_leaves, tree_map
from quickstudy.tasks.base import TaskFamily, TaskSource
from quickstudy.tasks.batches import Batches
from quickstudy.tasks.check import check_task
from quickstudy.types import Inputs, InputShapes, Integer, Outcome, Task, pick


def draw_tasks(source: TaskSource, step: Integer, part: slice = slice(None)) -> Task:
    """Draw the tasks of a step. An error in a user's own family becomes one line."""
    try:
        with explain_out_of_memory(f"Drawing the {source.split} tasks of step {step}"):
            return source(step, part)
    except (InputError, RunError):
        raise
    except (Exception, SystemExit) as error:  # the user's family may fail in any way
        raise InputError(f"Drawing the {source.split} tasks of step {step} failed: {describe_error(error)}.") from error


def is_ours(family: TaskFamily) -> bool:
    """Whether a family is of this library: its tasks follow from its description and their draws."""
    return type(family).__module__.startswith("quickstudy.")


def draw_first_tasks(family: TaskFamily, split: str, *, seed: Integer = 0, size: Integer = 1) -> Task:
    """Draw the first batch of a split, and check its shapes, labels and targets."""
    family = family.of_split(split)
    tasks = draw_tasks(family.source(split, seed=seed, size=size), 0)
    check_task(tasks, family.outputs if family.loss == "cross_entropy" else None)
    for half, x in (("support", tasks.support.x), ("query", tasks.query.x)):
        found, announced = input_shapes(x), family.inputs
        if found != (announced if isinstance(announced, dict) else tuple(announced)):
            raise InputError(
                f"{half}.x of the {split} tasks has the shape {_show(found)} per example, and the family announces "
                f"inputs {_show(announced)}. Make the two agree."
            )
    if family.loss != "cross_entropy":
        _check_targets(family, tasks)
    if not is_ours(family):
        _check_draws(family, split, seed, tasks)
    return tasks


def _check_draws(family: TaskFamily, split: str, seed: Integer, tasks: Task) -> None:
    """Refuse a user's own family whose tasks are others when they are drawn again, or when some of them are drawn."""
    size = len(tasks.key)
    source = family.source(split, seed=seed, size=size)
    name = type(family).__name__
    if not _are_equal(draw_tasks(source, 0), tasks):
        raise InputError(
            f"{name} gives other tasks when the same step is drawn again, so no run could be resumed and no result be "
            "compared. Take all random numbers in `sample` from its `draws`, none from torch, NumPy or `random`."
        )
    if size > 1 and not _are_equal(draw_tasks(source, 0, slice(0, 1)), pick(tasks, slice(0, 1))):
        raise InputError(
            f"{name} gives other tasks when a part of a step is drawn, as each of several workers does. Draw for all "
            "`size` tasks in `sample`, and return those of `part`."
        )


def _are_equal(one: Task, other: Task) -> bool:
    """Whether two batches have the same examples; NaN equals NaN."""
    pairs = zip(tree_leaves((one.support, one.query)), tree_leaves((other.support, other.query)), strict=True)
    return all(a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all()) for a, b in pairs)


def input_shapes(x: Inputs) -> InputShapes:
    """The shapes of one example, as a family announces them: of a tensor, or of each in a tuple or a dictionary."""
    shapes: InputShapes = tree_map(lambda value: tuple(value.shape[2:]), x)
    return shapes


def _show(shapes: InputShapes) -> object:
    plain = not isinstance(shapes, dict) and all(isinstance(size, int) for size in shapes)
    return list(shapes) if plain else shapes


def _check_targets(family: TaskFamily, tasks: Task) -> None:
    """Refuse targets of regression or of yes-no questions that have another shape or other values than they should."""
    for half, y in (("support", tasks.support.y), ("query", tasks.query.y)):
        if list(y.shape[2:]) != [family.outputs]:  # the difference of [n] and [n, 1] has the shape [n, n]: a wrong loss
            raise InputError(
                f"{half}.y has the shape {list(y.shape[2:])} per example, and the family announces "
                f"{family.outputs} outputs: give [T, n, {family.outputs}]."
            )
        if family.loss == "binary_cross_entropy" and not ((y == 0) | (y == 1)).all():
            raise InputError(f"{half}.y has values other than 0 and 1, and the family's loss is binary_cross_entropy.")


def dry_run_evaluation(learner: Learner, family: TaskFamily, split: str, seed: Integer) -> None:
    """Try the first task of an evaluation. Batches, which pretraining has in the place of tasks, are refused."""
    part = family.of_split(split)
    if isinstance(part, Batches) and not isinstance(family, Batches):
        raise InputError(
            f"The {split!r} of these tasks are batches for pretraining, and a learner is not evaluated on these. "
            "Evaluate on 'test'."
        )
    dry_run(learner, part, draw_first_tasks(family, split, seed=seed))


def dry_run(learner: Learner, family: TaskFamily, tasks: Task, *, training: bool = False) -> None:
    """Run one task as evaluation does, or as training does, and refuse a model that does not fit the tasks.

    The learner and torch's random generator are left as they were, so a run is the same with and without a dry run.
    """
    one = pick(tasks, slice(0, 1))
    with restoring_buffers(learner), without_compiling(learner):
        try:
            outcome: Outcome
            with explain_out_of_memory("One task alone"):
                if training:
                    outcome, _ = learner.meta_gradient(one)
                else:
                    with torch.no_grad():
                        outcome = learner(one, evaluating=True)
        except (ModelError, SystemExit) as error:  # the user's model may fail in any way
            cause = error.__cause__ or error
            raise InputError(
                f"The model fails on these tasks, whose inputs are {_show(family.inputs)} and which need "
                f"{family.outputs} outputs: {describe_error(cause)}. Change the model or the tasks."
            ) from cause
    wanted = [tasks.query.y.shape[1], family.outputs]
    if list(outcome.output.shape[1:]) != wanted:
        raise InputError(
            f"The model's output for {wanted[0]} queries has the shape {list(outcome.output.shape[1:])}; the tasks "
            f"want {wanted}. Give the model {family.outputs} outputs."
        )


@contextmanager
def without_compiling(learner: Learner) -> Iterator[None]:
    """Turn off `torch.compile` in a `with` block: compiling for one task takes a minute and is of no use later."""
    engine = learner.engine
    learner.engine = engine.replace(compile=False)
    try:
        yield
    finally:
        found, learner.engine = learner.engine.backend, engine
        if found == "vmap" or not engine.compile:  # else the batch itself will say why nothing is compiled
            engine.backend = found


@contextmanager
def restoring_buffers(learner: Learner) -> Iterator[None]:
    """Restore the learner's buffers and torch's random generator after a `with` block."""
    before = {name: buffer.clone() for name, buffer in learner.named_buffers()}
    with torch.random.fork_rng(devices=[learner.device] if learner.device.type == "cuda" else []):
        yield
    with torch.no_grad():
        for name, buffer in learner.named_buffers():
            if name in before:
                buffer.copy_(before[name])
