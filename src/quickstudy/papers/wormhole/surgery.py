r"""Gradient surgery (PCGrad): what of a task's gradient opposes another's is taken out before they are added up.

.. math:: g_i \leftarrow g_i - \frac{g_i \cdot g_j}{\lVert g_j \rVert^2}\, g_j
          \quad \text{for every } j \ne i \text{ in turn with } g_i \cdot g_j < 0

Reference: Yu, Kumar, Gupta, Levine, Hausman & Finn, 2020, algorithm 1 (https://arxiv.org/abs/2001.06782). There the
order of the j is drawn for each i; here it is given, so that the function is pure.
"""

from math import pi

import torch
from jaxtyping import Float, Int
from torch import Tensor


def operate(gradients: Float[Tensor, "T d"], order: Int[Tensor, "T T"]) -> Float[Tensor, "T d"]:
    """Every task's gradient after surgery, against the others' gradients as they were.

    Row i of `order` says in which order task i meets the tasks; it passes over itself.
    """
    own = []
    for i, row in enumerate(order.tolist()):
        g = gradients[i]
        for other in (gradients[j] for j in row if j != i):
            against = (g @ other).clamp(max=0.0)
            g = g - against / other.square().sum().clamp(min=torch.finfo(g.dtype).tiny) * other
        own.append(g)
    return torch.stack(own)


def orders(tasks: int, seed: int = 0) -> Int[Tensor, "T T"]:
    """A random order of the tasks for each of them."""
    draw = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(tasks, generator=draw) for _ in range(tasks)])


def cosines(gradients: Float[Tensor, "T d"]) -> Float[Tensor, "T T"]:
    """The cosine of every two tasks' gradients; a gradient of zero has none with any (NaN)."""
    unit = gradients / gradients.norm(dim=1, keepdim=True)
    return torch.matmul(unit, unit.T)


def resultant(gradients: Float[Tensor, "T d"], before: Float[Tensor, "T d"] | None = None) -> float:
    r"""What adding up leaves: :math:`\lVert \sum_i g_i \rVert / \sum_i \lVert g_i \rVert`; 1 if all point one way.

    `before` are the gradients whose lengths are below the line, where surgery has shortened those above it.
    """
    lengths = (gradients if before is None else before).norm(dim=1).sum()
    return float(gradients.sum(0).norm() / lengths)


def after_surgery(angles: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """What adding up leaves of two gradients of equal length at an angle, after surgery.

    Plainly added it is cos(a/2). Above a right angle surgery leaves each with length sin(a), at pi - a to the other.
    """
    plain = (angles / 2).cos()
    return torch.where(angles > pi / 2, angles.sin() * ((pi - angles) / 2).cos(), plain)
