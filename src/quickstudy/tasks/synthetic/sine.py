r"""Sine waves: the usual first regression problem for MAML and its successors.

.. math:: y = A \sin(\omega x + b)

Reference: Lee, 2018 (MT-net, section 6.1), after Finn et al., 2017 (https://arxiv.org/abs/1703.03400), who fix the
frequency. The code of the thesis subtracts the phase. The range of x is symmetric, so that is the same family up to
(x, y) -> (-x, -y).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from quickstudy.tasks.base import float_tensor
from quickstudy.tasks.draws import Draws, store_integers
from quickstudy.tasks.synthetic.options import Formula, Interval, check_ranges, draw_within
from quickstudy.types import Examples, Integer


@dataclass(frozen=True)
class Sine(Formula):
    r"""A task is one wave: amplitude, frequency (radians per unit of x) and phase (radians), each uniform in its range.

    With the default ranges, the constant answer 0 has a mean squared error of :math:`E[A^2]/2 = 4.25`.

    >>> task = Sine(shots=5).source("train", seed=0, size=4)(step=0)
    >>> task.support.x.shape, task.query.y.shape, sorted(task.about)
    (torch.Size([4, 5, 1]), torch.Size([4, 10, 1]), ['amplitude', 'frequency', 'phase'])

    Args:
        shots: Support points.
        queries: Query points.
        amplitude: The range of the amplitude; this and the other defaults are those of the thesis.
        frequency: The range of the frequency.
        phase: The range of the phase.
        x: The range of inputs.
    """

    shots: Integer = 10
    queries: Integer = 10
    amplitude: Interval = (0.1, 5.0)
    frequency: Interval = (0.8, 1.2)
    phase: Interval = (0.0, 3.141592653589793)
    x: Interval = (-5.0, 5.0)

    name: ClassVar[str] = "sine"
    loss: ClassVar[str] = "mse"

    def __post_init__(self) -> None:
        store_integers(self, "shots", "queries", least=1)
        check_ranges(amplitude=self.amplitude, frequency=self.frequency, phase=self.phase, x=self.x)

    def sample(self, draws: Draws, size: int, part: slice) -> tuple[Examples, Examples, dict[str, Tensor]]:
        amplitude = draw_within(draws.uniform("amplitude", size, 1, 1)[part], self.amplitude)
        frequency = draw_within(draws.uniform("frequency", size, 1, 1)[part], self.frequency)
        phase = draw_within(draws.uniform("phase", size, 1, 1)[part], self.phase)

        def examples(half: str, n: int) -> Examples:
            x = draw_within(draws.uniform(half, size, n, 1)[part], self.x)
            return Examples(float_tensor(x), float_tensor(amplitude * np.sin(frequency * x + phase)))

        wave = {"amplitude": amplitude, "frequency": frequency, "phase": phase}
        about = {name: float_tensor(value[:, 0, 0]) for name, value in wave.items()}
        return examples("support", self.shots), examples("query", self.queries), about
