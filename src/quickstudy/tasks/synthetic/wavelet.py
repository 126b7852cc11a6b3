r"""Linear functions whose weights are a shifted wavelet with either sign.

.. math:: x \sim U(0, 1)^n, \quad y = x \cdot f, \quad f_i = s\, \psi(g_i - m), \quad
          \psi(t) = \frac{2}{\sqrt 3\, \pi^{1/4}} (1 - t^2)\, e^{-t^2 / 2}

Reference: Chang, Gao & Lou, 2022 (Wormhole MAML, section 4.2 and figure 4, https://arxiv.org/abs/2212.14094). The paper
states neither the number of points n, nor the grid g, nor the translations m. Its figure has an axis from -.4 to .8,
which fixes the normalisation above (psi lies in [-.387, .867]). n = 50, g from -5 to 5 and m in (-2, 2) are our choice.
Gradient descent on the mean squared error at the paper's rate of .05 is stable for n < 80.
"""

from dataclasses import dataclass
from math import pi, sqrt
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.tasks.base import float_tensor
from quickstudy.tasks.draws import Draws, store_integers
from quickstudy.tasks.synthetic.options import Formula, Interval, check_ranges, draw_signs, draw_within
from quickstudy.types import Examples, Integer, Shape


def mexican_hat(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """The wavelet psi. The integral of its square is 1."""
    return np.asarray(2 / (sqrt(3) * pi**0.25) * (1 - t**2) * np.exp(-(t**2) / 2))


@dataclass(frozen=True)
class Wavelet(Formula):
    """A task is a translation and a sign. `about["weights"]` is the f `[T, points]` that a linear model should find.

    With the defaults, the constant answer 0 has a mean squared error of .41 and a mean absolute error of .51.

    >>> Wavelet(points=20).source("train", size=4)(step=0).support.x.shape
    torch.Size([4, 10, 20])

    Args:
        points: The number of grid points n, which is the size of x. The error of the answer 0 is proportional to it.
        shots: Support examples.
        queries: Query examples.
        translation: The range of m.
        grid: The first and last grid point.
    """

    points: Integer = 50
    shots: Integer = 10
    queries: Integer = 10
    translation: Interval = (-2.0, 2.0)
    grid: Interval = (-5.0, 5.0)

    name: ClassVar[str] = "wavelet"
    loss: ClassVar[str] = "mse"

    def __post_init__(self) -> None:
        store_integers(self, "points", "shots", "queries", least=1)
        check_ranges(translation=self.translation, grid=self.grid)

    @property
    def inputs(self) -> Shape:
        return (self.points,)

    def sample(self, draws: Draws, size: int, part: slice) -> tuple[Examples, Examples, dict[str, Tensor]]:
        translation = draw_within(draws.uniform("translation", size)[part], self.translation)
        sign = draw_signs(draws.uniform("sign", size)[part])
        weights = sign[:, None] * mexican_hat(np.linspace(*self.grid, self.points) - translation[:, None])

        def examples(half: str, n: int) -> Examples:
            x = draws.uniform(half, size, n, self.points)[part]
            return Examples(float_tensor(x), float_tensor(x @ weights[:, :, None]))

        about = {"translation": translation, "sign": sign, "weights": weights}
        about_tensors = {name: float_tensor(value) for name, value in about.items()}
        return examples("support", self.shots), examples("query", self.queries), about_tensors
