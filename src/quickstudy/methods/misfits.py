"""What a learner refuses of the tasks that it is given: examples that do not fit together, or that it cannot use.

`adapt`, `forward` and `meta_gradient` share these checks. They refuse first what torch would compute with, without an
error: examples without numbers, negative class numbers (which cross-entropy ignores), and NaN.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from traceback import extract_tb
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.engine.memory import is_out_of_memory
from quickstudy.errors import InputError, RunError, describe_error
from quickstudy.rules import criteria
from quickstudy.rules.torch_private import is_tracing, named_leaves, outside_transforms, tree_leaves
from quickstudy.types import Criterion, Examples, Task

EXAMPLES_FORMAT = (
    "Give x [n, *input] with the input shape of training, and y [n]: class numbers from 0 to one less than the number "
    "of classes in a task, as integers. For regression y is [n, outputs], with the type of x."
)
BATCH_FORMAT = f"A batch of T tasks has a leading axis T on each of these, and keys [T]. {EXAMPLES_FORMAT}"


def list_tasks(tasks: object) -> list[Task]:
    """The tasks of a sequence, each without a task axis."""
    listed = list(tasks) if isinstance(tasks, Sequence) else []
    if not listed or not all(isinstance(task, Task) for task in listed):
        raise InputError(
            f"A learner takes a batch of tasks, Task(support, query, key, about), or a list of one or more tasks; "
            f"given is {_describe(tasks)}" + (f" of {_describe(listed[0])}." if listed else ", which is empty or none.")
        )
    batches = [number for number, task in enumerate(listed) if isinstance(task.key, Tensor) and task.key.ndim]
    if batches:
        raise InputError(
            f"Item {batches[0]} of the list is a batch of tasks, whose keys have the shape "
            f"{list(listed[batches[0]].key.shape)}. Give the batch itself, or tasks without a task axis: "
            "[pick(batch, 0), pick(batch, 1)]."
        )
    return listed


def as_class_numbers(examples: Examples, axes: int, losses: Sequence[Criterion]) -> Examples:
    """Examples with class numbers of any integer type as int64, the only type that every loss of torch takes.

    Truth values stay as they are if one of the losses is the user's own: it may index by them, or invert them.
    """
    y = examples.y
    integers = y.ndim == axes and not y.is_floating_point() and not y.is_complex()
    stay = y.dtype == torch.bool and not all(map(_takes_class_numbers, losses))
    return examples._replace(y=y.long()) if integers and not stay else examples


def _takes_class_numbers(criterion: Criterion) -> bool:
    """Whether a criterion is torch's or this library's, and so takes truth values as class numbers."""
    criterion = criteria.without_options(criterion)
    owner = type(criterion) if isinstance(criterion, nn.Module) else criterion
    return owner.__module__.startswith(("torch.", "quickstudy."))


@contextmanager
def explain_support_misfit(support: Examples, ignored: Collection[int] = ()) -> Iterator[None]:
    """Refuse a support set that does not fit, and turn an error of the adaptation inside into an `InputError`.

    `ignored` are the class numbers that the loss leaves out, and which may be below 0.
    """
    _check_examples("the support set", support, EXAMPLES_FORMAT, 1, ignored)
    with _explain_failure({"support": support}, EXAMPLES_FORMAT):
        yield


@contextmanager
def explain_batch_misfit(tasks: Task, ignored: Collection[int] = ()) -> Iterator[None]:
    """The same for a batch of tasks, whose tensors have a leading task axis."""
    for half in ("support", "query"):
        _check_examples(half, getattr(tasks, half), BATCH_FORMAT, 2, ignored)
    key = tasks.key
    sizes = {f"{half}.{name}": len(v) for half in ("support", "query") for name, v in _named(getattr(tasks, half))}
    if not isinstance(key, Tensor) or key.ndim != 1 or key.is_floating_point() or {*sizes.values()} != {len(key)}:
        raise InputError(
            f"The parts of a batch have unequal numbers of tasks: {_join(sizes)}, key {_describe(key)}. {BATCH_FORMAT}"
        )
    with _explain_failure({"support": tasks.support, "query": tasks.query}, BATCH_FORMAT):
        yield


def _check_examples(name: str, examples: Any, wanted: str, axes: int, ignored: Collection[int]) -> None:
    """Refuse inputs and targets that do not belong together, or that hold NaN or negative class numbers."""
    if not isinstance(examples, Examples):
        raise InputError(f"{name} is {_describe(examples)}: give Examples(x, y). {wanted}")
    for part, value in _named(examples):
        if not isinstance(value, Tensor):
            raise InputError(f"{part} of {name} is {_describe(value)}: give a tensor. {wanted}")
    x, y = examples
    sizes = {value.shape[:axes] if value.ndim >= axes else None for _, value in _named(examples)}
    if not tree_leaves(x) or sizes != {y.shape[:axes]} or y.ndim < axes or not y.shape[:axes].numel():
        raise InputError(f"Each of one or more examples has an x and a y; {name} has {_shapes(examples)}. {wanted}")
    if is_tracing() or not outside_transforms():
        return  # values are not known there
    for part, value in _named(examples):
        if not (value.is_floating_point() or value.is_complex()) or isfinite(value.detach().sum().abs()):
            continue
        finite = value.isfinite().reshape(len(value), -1).all(1)
        if not finite.all():  # the sum alone may have overflowed
            bad = (~finite).nonzero().flatten().tolist()
            unit = "example" if axes == 1 else "task"
            raise InputError(
                f"{part} of {name} holds NaN or infinity in {len(bad)} of {len(finite)} {unit}s, first in {unit} "
                f"{bad[0]}. Repair these, or leave them out."
            )
    if y.ndim == axes and not (y.is_floating_point() or y.is_complex()) and y.long().min() < 0:
        below = {*y[y < 0].tolist()} - {*ignored}
        if below:
            raise InputError(
                f"{name} has the class number {min(below)}. {wanted} Integers of a loss of your own that are no class "
                "numbers are told by one more axis: y [n, 1]."
            )


class ModelError(InputError):
    """The model, the rule or the loss raised an error on examples; its cause is that error."""


@contextmanager
def _explain_failure(given: dict[str, Examples], wanted: str) -> Iterator[None]:
    """Turn an error of the model, the rule or the loss into an `InputError` that also says what they were given."""
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:  # the user's model may raise anything, and torch has several errors for a wrong shape
        if is_out_of_memory(error):
            raise
        if _took_no_tensor(error):
            wanted = (
                "The losses that ship take one tensor. Return the logits alone, or a dictionary or an object with "
                "`logits`; or give a loss of your own that takes what the model returns."
            )
        if "is not implemented" in str(error) and "derivative" in str(error):
            wanted = (
                "A part of the model has no second derivative in torch. Use a method of first order, such as fomaml or "
                "reptile, let that part not adapt, or write it by other functions of torch: an EmbeddingBag as an "
                "Embedding and a mean."
            )
        if "double backward" in str(error):
            wanted = "A compiled function has no second derivative: give the module as it was before torch.compile."
        parts = "; ".join(f"{half} {_shapes(examples)}" for half, examples in given.items())
        raise ModelError(f"The model or its loss failed: {describe_error(error)}. Given: {parts}. {wanted}") from error


def _took_no_tensor(error: Exception) -> bool:
    """Whether a loss that ships was given a tuple or the like in place of a tensor."""
    inside = any(frame.filename == criteria.__file__ for frame in extract_tb(error.__traceback__))
    return inside and re.search(r"(not |')(tuple|list|dict|NoneType)\b", str(error)) is not None


def _named(examples: Examples) -> list[tuple[str, Any]]:
    return [*named_leaves("x", examples.x), ("y", examples.y)]


def _join(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _shapes(examples: Examples) -> str:
    """Shapes and types in words.

    >>> from torch import arange, zeros
    >>> _shapes(Examples(zeros(5, 2), arange(5)))
    'x [5, 2] of float32, y [5] of int64 (0 to 4)'
    """
    x, y = examples
    known = y.numel() and not (y.is_floating_point() or y.is_complex()) and not is_tracing() and outside_transforms()
    inputs = ", ".join(f"{name} {_describe(value)}" for name, value in named_leaves("x", x)) or f"x {_describe(x)}"
    return f"{inputs}, y {_describe(y)}" + (f" ({int(y.long().min())} to {int(y.long().max())})" if known else "")


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"
