"""The nouns: parameters, examples, tasks, outcomes.

All are NamedTuples or dictionaries of tensors, hence pytrees: `vmap`, slicing and moving to a device need no code of
their own. Types are written for one task; a batch of tasks is the same type with a leading axis T.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils._pytree import tree_map

T = TypeVar("T")

Params = dict[str, Tensor]
"""Parameters by dotted name, as in `nn.Module.named_parameters()`."""

Shape = tuple[int, ...]

Criterion = Callable[[Tensor, Tensor], Tensor]
"""`criterion(output, target) -> loss`, a scalar for one set of examples."""


class Examples(NamedTuple):
    """Inputs with their targets: `x [n, *input]`, `y [n, *target]` (class numbers 0..ways-1 when classifying)."""

    x: Shaped[Tensor, "..."]
    y: Shaped[Tensor, "..."]


class Task(NamedTuple):
    """One problem: a support set to adapt on and a query set to be judged on.

    `key` names the task: everything random about its adaptation is a function of (seed, key).
    `about` is what generated it (class ids, or amplitude and phase, ...), for figures and for the hash of a task list.
    """

    support: Examples
    query: Examples
    key: Shaped[Tensor, "..."]
    about: dict[str, Tensor]


class Outcome(NamedTuple):
    """What a learner made of a task's query set: `loss []` and `output [n_q, *out]`, with a leading T for a batch."""

    loss: Float[Tensor, "..."]
    output: Float[Tensor, "..."]


def pick(tree: T, index: int | slice) -> T:
    """Task number `index`, or a slice of tasks, out of a batch.

    >>> batch = Examples(torch.zeros(4, 2, 3), torch.zeros(4, 2))
    >>> pick(batch, 0).x.shape, pick(batch, slice(0, 2)).x.shape
    (torch.Size([2, 3]), torch.Size([2, 2, 3]))
    """
    picked: T = tree_map(lambda leaf: leaf[index], tree)
    return picked


def stack(trees: list[T]) -> T:
    """Tasks of equal sizes as one batch; the inverse of picking each."""
    stacked: T = tree_map(lambda *leaves: torch.stack(leaves), *trees)
    return stacked


def move(tree: T, *args: Any, **kwargs: Any) -> T:
    """`Tensor.to` on every floating-point leaf; integers (labels, keys) change device but never type."""

    def to(leaf: Tensor) -> Tensor:
        moved = leaf.to(*args, **kwargs)
        return moved if leaf.is_floating_point() else moved.to(leaf.dtype)

    result: T = tree_map(to, tree)
    return result
