"""Parts that do not run what has weight 0, also where they are compiled."""

from typing import ClassVar

import torch
from torch import Tensor


class Skipping:
    """A module that skips what has weight 0 in one of its buffers.

    A compiled function cannot decide by the numbers in a tensor. So `note_zeros` is called before it, and where other
    weights are 0 than before, as when a phase of a schedule begins, it is compiled again. A graph that is recorded
    without a note, as by `torch.export`, runs everything.
    """

    skips_by: ClassVar[str]
    """The name of the buffer."""
    noted: tuple[bool, ...] = ()

    def note_zeros(self) -> None:
        """Note for the compiler which weights are 0 now."""
        self.noted = self._find_zeros()

    def zeros(self) -> tuple[bool, ...]:
        """Which weights are 0."""
        if not torch.compiler.is_compiling():
            return self._find_zeros()
        return self.noted or (False,) * getattr(self, self.skips_by).numel()

    def _find_zeros(self) -> tuple[bool, ...]:
        weights: Tensor = getattr(self, self.skips_by)
        if weights.requires_grad:  # of a subclass that learns them: one that is 0 has a gradient, and may leave 0
            return (False,) * weights.numel()
        return tuple(value == 0 for value in weights.reshape(-1).tolist())
