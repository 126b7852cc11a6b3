r"""Is the average of some numbers above a threshold? Every task has an exact opposite.

.. math:: x \sim U[0, 1]^d, \qquad y = 1[\, s \cdot \mathrm{avg}(x) > s \cdot \tau \,], \qquad s = \pm 1

Reference: Chang, Gao & Lou, 2022 (Wormhole MAML, section 4.1, https://arxiv.org/abs/2212.14094). The paper says only
that tau is in [0, 1]. The average of 5 uniform numbers has a standard deviation of .13. With tau from U[0, 1] one label
would therefore dominate most tasks, and a constant answer would be right in 88% of cases. Near 1/2 the labels are
balanced, as the paper's stability analysis assumes. Hence the default (.4, .6); `tau_range=(0.0, 1.0)` is the range of
the paper.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.tasks.base import float_tensor
from quickstudy.tasks.draws import Draws, store_integers
from quickstudy.tasks.synthetic.options import Formula, Interval, check_ranges, draw_signs, draw_within
from quickstudy.types import Examples, Integer, Shape


@dataclass(frozen=True)
class AverageThreshold(Formula):
    """A task is a threshold and a sign. Targets are `[n, 1]`, 0. or 1., for a model with one logit.

    >>> AverageThreshold().source("train", size=4)(step=0).support.y.shape
    torch.Size([4, 10, 1])

    Args:
        shots: Support points of both labels together: a task may have more points of one label than of the other.
        queries: Query points of both labels together.
        dimension: How many numbers are averaged.
        tau_range: The range of the threshold, inside [0, 1].
    """

    shots: Integer = 10
    queries: Integer = 10
    dimension: Integer = 5
    tau_range: Interval = (0.4, 0.6)

    name: ClassVar[str] = "threshold"
    loss: ClassVar[str] = "binary_cross_entropy"

    def __post_init__(self) -> None:
        store_integers(self, "shots", "queries", "dimension", least=1)
        check_ranges(tau_range=self.tau_range)
        if self.tau_range[0] < 0 or self.tau_range[1] > 1:
            raise InputError(
                f"tau_range={self.tau_range!r} leaves [0, 1]. All averages are inside, so a task with a threshold "
                "outside would have one label only. Give (0.4, 0.6), or at most (0.0, 1.0)."
            )

    @property
    def inputs(self) -> Shape:
        return (self.dimension,)

    def sample(self, draws: Draws, size: int, part: slice) -> tuple[Examples, Examples, dict[str, Tensor]]:
        threshold = draw_within(draws.uniform("threshold", size, 1, 1)[part], self.tau_range)
        sign = draw_signs(draws.uniform("sign", size, 1, 1)[part])

        def examples(half: str, n: int) -> Examples:
            x = draws.uniform(half, size, n, self.dimension)[part]
            above = sign * x.mean(-1, keepdims=True) > sign * threshold
            return Examples(float_tensor(x), float_tensor(above.astype(np.float64)))

        about = {"threshold": float_tensor(threshold[:, 0, 0]), "sign": float_tensor(sign[:, 0, 0])}
        return examples("support", self.shots), examples("query", self.queries), about
