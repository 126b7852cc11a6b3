"""Checks of the batches that come from a user's source: what does not fit is refused in one line."""

import torch
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.rules.torch_private import named_leaves
from quickstudy.types import Examples, Inputs, Task

_EXPECTED_TASK = (
    "A source gives Task(support=Examples(x, y), query=Examples(x, y), key=..., about={...}) from quickstudy.types"
)


def check_task(task: object, ways: int | None) -> None:
    """Refuse a batch of tasks that a learner cannot use, or from which it would learn nonsense without an error.

    The trainer calls this once, on the first batch. For T tasks it expects what `check_layout` expects, T of at least
    1, and numbers that are finite.

    Args:
        task: What the source returned.
        ways: The number of classes of a classification, whose y is `[T, n]` int64 in 0..ways-1. None for a regression,
            whose y is floating.
    """
    task = check_layout(task)
    if len(task.key) == 0:
        raise InputError("The source gave a batch without tasks: give at least one, with a key for each.")
    for half, examples in (("support", task.support), ("query", task.query)):
        _check_x(half, examples.x)
        if ways is None:
            _check_floats(half, examples.y)
        else:
            _check_labels(half, examples.y, ways)
    for part, support, query in (
        ("inputs", task.support.x, task.query.x),
        ("targets", task.support.y, task.query.y),
    ):
        one, other = ({name: list(v.shape[2:]) for name, v in named_leaves("", half)} for half in (support, query))
        if one != other:
            raise InputError(
                f"Support {part} have the shape {one.get('', one)} each, query {part} {other.get('', other)}: one "
                "model reads both, so give them the same shape."
            )
    if ways is not None:
        _check_all_classes(task.support.y, ways)


def check_layout(task: object) -> Task:
    """Refuse a batch whose types or sizes are not those of `Task`. It is cheap: every batch of a source is checked.

    For T tasks, which may be none, it expects key `[T]` int64, x `[T, n, *input]` floating and y `[T, n, ...]` with n
    of at least 1, and an `about` of tensors `[T, ...]`. Where x is a tuple or a dictionary, each of its tensors is
    `[T, n, ...]`, and may have integers, such as the numbers of words.
    """
    if not isinstance(task, Task):
        raise InputError(f"The source gave a {type(task).__name__}, not a Task. {_EXPECTED_TASK}.")
    _check_key(task.key)
    for half, examples in (("support", task.support), ("query", task.query)):
        if not isinstance(examples, Examples):
            raise InputError(f"The {half} is a {type(examples).__name__}, not Examples. {_EXPECTED_TASK}.")
        _check_sizes(half, examples, len(task.key))
    _check_about(task)
    return task


def _check_key(key: object) -> None:
    if not isinstance(key, Tensor) or key.dtype != torch.int64 or key.ndim != 1:
        raise InputError(
            f"key is {_describe_value(key)}: give one int64 number per task, [T], for example draws.keys(T)."
        )


def _check_sizes(half: str, examples: Examples, tasks: int) -> None:
    inputs = named_leaves(f"{half}.x", examples.x)
    if not inputs:
        raise InputError(f"{half}.x is {_describe_value(examples.x)} without tensors: give at least one.")
    for name, value in [*inputs, (f"{half}.y", examples.y)]:
        if not isinstance(value, Tensor):
            raise InputError(f"{name} is {_describe_value(value)}: give a tensor, for example torch.as_tensor(value).")
        if value.ndim < 2 or value.shape[0] != tasks or value.shape[1] == 0:
            raise InputError(
                f"{name} is {_describe_value(value)}, with {tasks} task(s) by key: give [T, n, ...] with "
                f"T={tasks} and n of at least 1, also for a single task or example."
            )
    for name, value in inputs:
        if value.shape[1] != examples.y.shape[1]:
            part = "" if isinstance(examples.x, Tensor) else f" in {name}"
            raise InputError(
                f"The {half} has {value.shape[1]} inputs{part} and {examples.y.shape[1]} targets per task: give one "
                "target per input."
            )


def _check_x(half: str, x: Inputs) -> None:
    if isinstance(x, Tensor) and not x.is_floating_point():
        raise InputError(f"{half}.x is {_describe_value(x)}: give floating inputs, for example x.float().")
    for name, value in named_leaves(f"{half}.x", x):
        if value.is_floating_point():
            _check_finite(name, value)


def _check_floats(half: str, y: Tensor) -> None:
    if not y.is_floating_point():
        raise InputError(
            f"{half}.y is {_describe_value(y)}, but these tasks are a regression: give y.float(), or a family whose "
            "loss is 'cross_entropy'."
        )
    _check_finite(f"{half}.y", y)


def _check_labels(half: str, y: Tensor, ways: int) -> None:
    if y.dtype != torch.int64 or y.ndim != 2:
        raise InputError(f"{half}.y is {_describe_value(y)}: give class numbers as [T, n] int64, for example y.long().")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= ways:
        raise InputError(
            f"{half}.y has labels from {low} to {high}, and a {ways}-way task numbers its classes 0 to {ways - 1}: "
            "number the classes from 0 in every task."
        )


def _check_finite(name: str, value: Tensor) -> None:
    finite = value.isfinite().flatten(2).all(2) if value.ndim > 2 else value.isfinite()
    if not finite.all():
        task, example = (~finite).nonzero()[0].tolist()
        raise InputError(
            f"{name} holds NaN or infinity in {int((~finite).any(1).sum())} of {len(finite)} tasks, first in task "
            f"{task}, example {example}: repair the source."
        )


def _check_all_classes(y: Tensor, ways: int) -> None:
    present = (y[:, :, None] == torch.arange(ways, device=y.device)).any(1)
    if not present.all():
        number, missing = (~present).nonzero()[0].tolist()
        raise InputError(
            f"The support set of task {number} has no example of class {missing} of {ways}: give every class at least "
            "one shot, or lower ways."
        )


def _check_about(task: Task) -> None:
    about: object = task.about
    entries = about.items() if isinstance(about, dict) else [("about", about)]
    for name, value in entries:
        half = str(name).rpartition("_")[2]
        examples = getattr(task, half).y.shape[1:2] if half in ("support", "query") and isinstance(about, dict) else ()
        wanted = (len(task.key), *examples)
        if not isinstance(about, dict) or not isinstance(value, Tensor) or value.shape[: len(wanted)] != wanted:
            shape = ", ".join(map(str, wanted))
            raise InputError(
                f"about ({name!r}) is {_describe_value(value)}: give a dictionary of tensors, this one with a shape "
                f"that begins with [{shape}], or {{}}."
            )


def _describe_value(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"
