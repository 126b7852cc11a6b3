"""Building a net from a description that is not trusted, in no more memory than its saved tensors explain."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from quickstudy.errors import InputError

SPARE_BYTES, SPARE_TENSORS = 64 << 20, 1000
"""What building may take beside four times what was saved: it copies a net, and tries it on a few inputs."""

CREATORS = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye})
"""The functions by which modules take memory. Copies are as large as what they copy."""


class Allowance(TorchFunctionMode):
    """Inside of it a net is built for tensors that were saved. A far larger one is an `InputError` before it is made.

    Args:
        saved: The bytes of each tensor.
        what: What holds them, for the message.
    """

    def __init__(self, saved: Sequence[int], what: str) -> None:
        super().__init__()
        self.number, self.bytes, self.what = len(saved), sum(saved), what
        self.made = self.taken = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func in CREATORS:
            shape_alone = {name: value for name, value in given.items() if name not in ("generator", "out")}
            self.made += 1
            self.taken += func(*args, **{**shape_alone, "device": "meta", "pin_memory": False}).nbytes
            if self.taken > SPARE_BYTES + 4 * self.bytes or self.made > SPARE_TENSORS + 4 * self.number:
                raise InputError(
                    f"{self.what} is of another net: its configuration describes one of {self.taken / 2**20:.0f} MiB "
                    f"in {self.made} tensors or more, and {self.number} tensors of {self.bytes / 2**20:.1f} MiB were "
                    "saved. Use the settings it was trained with, or another copy."
                )
        return func(*args, **given)
