r"""Is the average above a threshold? Pairs of tasks that are each other's exact opposite.

.. math:: x \sim U[0, 1]^d, \qquad y = 1[\, s \cdot \mathrm{avg}(x) > s \cdot \tau \,], \qquad s = \pm 1

Reference: Chang, Gao & Lou, 2022 (Wormhole MAML, section 4.1, https://arxiv.org/abs/2212.14094). The paper says only
that tau is in [0, 1]. The average of 5 uniforms has a standard deviation of .13, so with tau from U[0, 1] one label
dominates most tasks and a constant answer is right 88% of the time; near 1/2 the labels are balanced, as the paper's
own stability analysis asks. Hence the default (.4, .6); `tau_range=(0.0, 1.0)` is the wide reading.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.tasks.base import TaskFamily, float_tensor
from quickstudy.tasks.draws import Draws
from quickstudy.tasks.synthetic.options import Interval, check_counts, check_ranges, draw_signs, draw_within
from quickstudy.types import Examples, Shape


@dataclass(frozen=True)
class AverageThreshold(TaskFamily):
    """A task is a threshold and a sign. Targets are `[n, 1]`, 0. or 1., to match one logit.

    >>> AverageThreshold().source("train", size=4)(step=0).support.y.shape
    torch.Size([4, 10, 1])

    Args:
        shots: Points to adapt on, of both labels together: a task may hold more of one than of the other.
        queries: Points to be judged on, likewise.
        dimension: Numbers that are averaged.
        tau_range: Range of the threshold, inside [0, 1].
    """

    shots: int = 10
    queries: int = 10
    dimension: int = 5
    tau_range: Interval = (0.4, 0.6)

    loss: ClassVar[str] = "binary_cross_entropy"

    def __post_init__(self) -> None:
        check_counts(shots=self.shots, queries=self.queries, dimension=self.dimension)
        check_ranges(tau_range=self.tau_range)
        if self.tau_range[0] < 0 or self.tau_range[1] > 1:
            raise InputError(
                f"tau_range={self.tau_range!r} leaves [0, 1], where all averages lie: beyond it a task has one label. "
                "Try (0.4, 0.6), or (0.0, 1.0) at the widest."
            )

    @property
    def inputs(self) -> Shape:
        return (self.dimension,)

    @property
    def outputs(self) -> int:
        return 1

    def sample(self, draws: Draws, size: int, part: slice) -> tuple[Examples, Examples, dict[str, Tensor]]:
        threshold = draw_within(draws.uniform("threshold", size, 1, 1)[part], self.tau_range)
        sign = draw_signs(draws.uniform("sign", size, 1, 1)[part])

        def examples(half: str, n: int) -> Examples:
            x = draws.uniform(half, size, n, self.dimension)[part]
            above = sign * x.mean(-1, keepdims=True) > sign * threshold
            return Examples(float_tensor(x), float_tensor(above.astype(np.float64)))

        about = {"threshold": float_tensor(threshold[:, 0, 0]), "sign": float_tensor(sign[:, 0, 0])}
        return examples("support", self.shots), examples("query", self.queries), about

    def describe(self) -> dict[str, Any]:
        return {"name": "threshold"} | asdict(self)
