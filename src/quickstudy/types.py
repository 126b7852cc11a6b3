"""The types of the data: parameters, examples, tasks, outcomes.

All are NamedTuples or dictionaries of tensors, hence pytrees: `vmap`, slicing and moving to a device work on them
without more code. The shapes are those of one task; a batch of tasks is the same type with a leading axis T.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

# Private, and used everywhere: the documented module came after torch 2.6. Checked on torch 2.13.
from torch.utils._pytree import tree_map

T = TypeVar("T")

Params = dict[str, Tensor]
"""Parameters by dotted name, as in `nn.Module.named_parameters()`."""

Shape = tuple[int, ...]

InputShapes = Any
"""The shape of one input; of several, their shapes in the same tuple or dictionary: `{"words": (12,)}`."""

if TYPE_CHECKING:
    Integer = int
else:
    Integer = int | SupportsIndex
"""A whole number as a user gives it. NumPy's and torch's integers are taken too, and become Python's."""

Inputs = Any
"""Inputs of a model: a tensor; a tuple of tensors, its arguments; or a dictionary of them, its keywords. Nested too."""

Criterion = Callable[[Tensor, Tensor], Tensor]
"""`criterion(output, target) -> loss`: a scalar for one set of examples."""


class Examples(NamedTuple):
    """Inputs with their targets: `x [n, *input]`, `y [n, *target]` (in classification, class numbers 0..ways-1).

    x may be several tensors of n examples: see `Inputs`.
    """

    x: Inputs
    y: Shaped[Tensor, "..."]


class Task(NamedTuple):
    """One task: a support set to adapt on, and a query set to evaluate on.

    `key` identifies the task: all randomness of its adaptation is a function of (seed, key).
    `about` holds what generated it (class ids, amplitude and phase, ...), for figures and for the hash of a task list.
    """

    support: Examples
    query: Examples
    key: Shaped[Tensor, "..."]
    about: dict[str, Tensor]


class Outcome(NamedTuple):
    """A learner's result on a task's query set: `loss []` and `output [n_q, *out]`, with a leading T for a batch."""

    loss: Float[Tensor, "..."]
    output: Float[Tensor, "..."]


def pick(tree: T, index: int | slice) -> T:
    """One task of a batch by its index, or several by a slice.

    >>> batch = Examples(torch.zeros(4, 2, 3), torch.zeros(4, 2))
    >>> pick(batch, 0).x.shape, pick(batch, slice(0, 2)).x.shape
    (torch.Size([2, 3]), torch.Size([2, 2, 3]))
    """
    picked: T = tree_map(lambda leaf: leaf[index], tree)
    return picked


def stack(trees: list[T]) -> T:
    """Tasks of equal sizes as one batch."""
    stacked: T = tree_map(lambda *leaves: torch.stack(leaves), *trees)
    return stacked


def move(tree: T, *args: Any, **kwargs: Any) -> T:
    """`Tensor.to` on every tensor; integers (labels, keys) change their device but not their type."""

    def to(leaf: Tensor) -> Tensor:
        moved = leaf.to(*args, **kwargs)
        return moved if leaf.is_floating_point() else moved.to(leaf.dtype)

    result: T = tree_map(to, tree)
    return result
