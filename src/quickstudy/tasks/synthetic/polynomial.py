r"""Polynomials: tasks whose complexity is set by their order.

.. math:: y = \sum_{i=0}^{p} c_i x^i, \qquad c_i \sim U[-1, 1] / d^i

Reference: Lee, 2018 (MT-net, section 6.3 and figure 6.1). The thesis states neither the range of x nor a scaling of the
coefficients. Both defaults, x in [-2, 2] and d = 2, come from the author's `poly_generator.py`. With them every term
has the same size at |x| = 2. `divisor=1` follows the text of the thesis.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.tasks.base import float_tensor
from quickstudy.tasks.draws import Draws, is_finite, store_integers
from quickstudy.tasks.synthetic.options import Formula, Interval, check_ranges, draw_within
from quickstudy.types import Examples, Integer


@dataclass(frozen=True)
class Polynomial(Formula):
    """A task is one polynomial. `about["coefficients"]` is `[T, order + 1]`: the c_i as used, constant first.

    >>> import torch
    >>> task = Polynomial(order=1).source("train", seed=0, size=2)(step=0)
    >>> constant, slope = task.about["coefficients"][0]
    >>> torch.testing.assert_close(task.query.y[0], constant + slope * task.query.x[0])

    Args:
        order: The highest power p; 0 gives constants.
        shots: Support points.
        queries: Query points (the plots of the thesis use 3990).
        divisor: The d of the formula; with 1 all coefficients are in [-1, 1].
        x: The range of inputs.
    """

    order: Integer = 2
    shots: Integer = 10
    queries: Integer = 10
    divisor: float = 2.0
    x: Interval = (-2.0, 2.0)

    name: ClassVar[str] = "polynomial"
    loss: ClassVar[str] = "mse"

    def __post_init__(self) -> None:
        store_integers(self, "order", least=0)
        store_integers(self, "shots", "queries", least=1)
        check_ranges(x=self.x)
        if not is_finite(self.divisor) or self.divisor <= 0:
            raise InputError(
                f"divisor={self.divisor!r} must be positive: the author's code has 2.0, the text of the thesis 1.0."
            )

    def sample(self, draws: Draws, size: int, part: slice) -> tuple[Examples, Examples, dict[str, Tensor]]:
        powers = np.arange(self.order + 1)
        drawn = draws.uniform("coefficients", size, self.order + 1)[part]
        coefficients = draw_within(drawn, (-1.0, 1.0)) / self.divisor**powers

        def examples(half: str, n: int) -> Examples:
            x = draw_within(draws.uniform(half, size, n, 1)[part], self.x)
            return Examples(float_tensor(x), float_tensor(x**powers @ coefficients[:, :, None]))

        about = {"coefficients": float_tensor(coefficients)}
        return examples("support", self.shots), examples("query", self.queries), about
