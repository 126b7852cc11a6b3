"""Four clusters in the plane, separated in one of two directions: the 2-D toy problem of HyperMAML.

The clusters are at (+-1, +-1). A task separates top from bottom or left from right, and either side may be class 0. So
there are four different tasks, and no single classifier solves all of them.

Reference: Przewiezlikowski et al., 2022 (HyperMAML, figures 1 and 3, https://arxiv.org/abs/2205.15745). The paper gives
no numbers; the standard deviation, shots and queries are ours.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.tasks.base import float_tensor
from quickstudy.tasks.draws import Draws, is_finite, store_integers
from quickstudy.tasks.synthetic.options import Formula, draw_signs
from quickstudy.types import Examples, Integer, Shape


@dataclass(frozen=True)
class Gaussians(Formula):
    """2-way tasks with as many points of either class. A point comes from one of its class's two clusters.

    `about["kind"]`: 0 top is class 0, 1 bottom is class 0, 2 right is class 0, 3 left is class 0.

    >>> task = Gaussians(shots=3).source("train", size=4)(step=0)
    >>> task.support.x.shape, sorted(task.support.y[0].tolist())
    (torch.Size([4, 6, 2]), [0, 0, 0, 1, 1, 1])

    Args:
        shots: Support points per class. One is ambiguous: a single corner does not show which axis separates.
        queries: Query points per class.
        sd: Standard deviation of a cluster in each direction.
    """

    shots: Integer = 5
    queries: Integer = 15
    sd: float = 0.25

    name: ClassVar[str] = "gaussians"
    loss: ClassVar[str] = "cross_entropy"

    def __post_init__(self) -> None:
        store_integers(self, "shots", "queries", least=1)
        if not is_finite(self.sd) or self.sd < 0:
            raise InputError(f"sd={self.sd!r} is not a standard deviation: give 0 or more, for example 0.25.")

    @property
    def inputs(self) -> Shape:
        return (2,)

    @property
    def outputs(self) -> int:
        return 2

    def sample(self, draws: Draws, size: int, part: slice) -> tuple[Examples, Examples, dict[str, Tensor]]:
        kind = (4 * draws.uniform("kind", size)[part]).astype(np.int64)
        first_side = np.where(kind % 2 == 0, 1.0, -1.0)[:, None]
        by_height = (kind < 2)[:, None]

        def examples(half: str, n: int) -> Examples:
            label = np.repeat([0, 1], n)
            side = first_side * np.where(label == 0, 1.0, -1.0)
            other = draw_signs(draws.uniform(f"{half} cluster", size, 2 * n)[part])
            centre = np.stack([np.where(by_height, other, side), np.where(by_height, side, other)], axis=-1)
            x = centre + self.sd * draws.normal(half, size, 2 * n, 2)[part]
            return Examples(float_tensor(x), torch.from_numpy(label).repeat(len(kind), 1))

        about = {"kind": torch.from_numpy(kind)}
        return examples("support", self.shots), examples("query", self.queries), about
