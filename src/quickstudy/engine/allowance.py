"""Building a net from a description that is not trusted, in no more memory than its saved tensors explain."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from quickstudy.errors import InputError

SPARE_BYTES = 64 << 20
"""What building may take beside four times what was saved: it copies a net, and tries it on a few inputs."""

CREATORS = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye})
"""The functions by which modules take memory. Copies are as large as what they copy."""


class Allowance(TorchFunctionMode):
    """Inside of it a net is built for tensors that were saved. A far larger one is an `InputError` before it is made.

    Args:
        saved: The bytes of the tensors.
        what: What holds them, for the message.
    """

    def __init__(self, saved: int, what: str) -> None:
        super().__init__()
        self.saved, self.what, self.taken = saved, what, 0

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
            self.taken += func(*args, **{**shape_alone, "device": "meta", "pin_memory": False}).nbytes
            if self.taken > SPARE_BYTES + 4 * self.saved:
                raise InputError(
                    f"{self.what} is of another net: its configuration describes one of {self.taken / 2**20:.0f} MiB "
                    f"or more, and {self.saved / 2**20:.1f} MiB were saved. Use the settings it was trained with, or "
                    "another copy."
                )
        return func(*args, **given)
