"""Parts that do not run what has weight 0, also where they are compiled."""

from typing import ClassVar

import torch


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
        return tuple(value == 0 for value in getattr(self, self.skips_by).reshape(-1).tolist())
