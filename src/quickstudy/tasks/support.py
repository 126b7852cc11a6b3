"""A support set as a user hands it over: what cannot be one is refused in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from quickstudy.errors import InputError, RunError, describe_error
from quickstudy.types import Examples

FITS = (
    "Give x [n, *input] like the inputs of training, and y [n]: class numbers from 0 to one less than the classes of "
    "a task, as int64. For regression y is [n, outputs], of x's type."
)


@contextmanager
def explain_misfit(support: Examples) -> Iterator[None]:
    """Adapt in here: what torch says of a support set that does not fit becomes an `InputError` that says what does.

    Refused before that are sets that torch would take in silence: no examples, or negative class numbers, which
    cross-entropy passes over.
    """
    for name, value in zip(("x", "y"), support, strict=True):
        if not isinstance(value, Tensor):
            raise InputError(f"{name} of the support set is a {type(value).__name__}: give a tensor. {FITS}")
    x, y = support
    if not (x.ndim and y.ndim) or len(x) != len(y) or not len(x):
        raise InputError(
            f"A support set has an x and a y for each of one or more examples; given: {_shapes(x, y)}. {FITS}"
        )
    if y.ndim == 1 and not y.is_floating_point() and y.min() < 0:
        raise InputError(f"The support set has the class number {int(y.min())}. {FITS}")
    try:
        yield
    except (InputError, RunError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's model may fail in any way, and torch has its own words for a wrong shape
        labels = f" (class numbers {int(y.min())} to {int(y.max())})" if not y.is_floating_point() else ""
        raise InputError(
            f"The support set does not fit: {_shapes(x, y)}{labels}. {describe_error(error)}. {FITS}"
        ) from error


def _shapes(x: Tensor, y: Tensor) -> str:
    """Shapes and types in words.

    >>> _shapes(torch.zeros(5, 2), torch.arange(5))
    'x [5, 2] of float32, y [5] of int64'
    """
    kinds = [f"{list(value.shape)} of {str(value.dtype).removeprefix('torch.')}" for value in (x, y)]
    return f"x {kinds[0]}, y {kinds[1]}"
