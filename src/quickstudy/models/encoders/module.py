"""Any module as an encoder of arrays."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from quickstudy.engine.twin import copy_module
from quickstudy.errors import InputError, describe_error
from quickstudy.models.encoders.cache import hash_content
from quickstudy.models.encoders.encoder import Encoder, digest_module
from quickstudy.storage.checkpoints import hash_tensors


class ModuleEncoder(Encoder):
    """A user's module, which reads a batch of inputs and gives `[n, features]`. It is copied and frozen.

    Its features are not kept on disk: the code of the module may change without a sign.
    """

    takes = "arrays"
    caches = False
    is_pure = False  # it may keep features on itself for a moment, as forward hooks do

    def __init__(self, module: nn.Module) -> None:
        self.name = type(module).__name__
        self.module = copy_module(module).eval().requires_grad_(False)
        saved = self.module.state_dict()
        others = {name: b.cpu() for name, b in self.module.named_buffers() if name not in saved}
        buffers = {"buffers": hash_tensors(others, "")} if others else {}
        self.digest = digest_module(self.module, {"kind": repr(module)} | buffers)
        self._like = _widest(self.module)
        self._size: int | None = None

    @property
    def features(self) -> int:
        if self._size is None:
            raise InputError(f"The size of the features of {self.name} is known once it has encoded something.")
        return self._size

    def key(self, item: Any) -> bytes:
        values = torch.as_tensor(item)
        return hash_content(f"{values.dtype} {tuple(values.shape)}".encode(), values.contiguous().numpy().tobytes())

    def encode_one(self, item: Any) -> Float[Tensor, " features"]:
        x = torch.as_tensor(np.asarray(item) if not isinstance(item, Tensor) else item)
        try:
            output = self._run(x)
        except Exception as error:  # the user's module may fail in any way
            raise ValueError(
                f"{self.name} fails on an input of shape {list(x.shape)}: {describe_error(error)}"
            ) from error
        if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != 1:
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"{self.name} gives {shape} for one input; an encoder gives [1, features]")
        if output.is_complex():
            raise ValueError(f"{self.name} gives complex numbers; an encoder gives real ones, such as their sizes")
        self._size = output[0].numel()
        return output[0].flatten()

    def _run(self, x: Tensor) -> Any:
        """The module's output. Integers are given as such, as numbers of words are, to a module that takes them.

        It gets a copy, which it may change.
        """
        if not x.is_floating_point():
            try:
                return self.module(x[None].clone())
            except RuntimeError:  # of the types that torch's layers do not take
                pass
        return self.module(x[None].to(self._like, copy=True))


def _widest(module: nn.Module) -> Tensor:
    """A tensor of the module's widest floating-point type, on its device."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    return max(tensors, key=lambda t: t.element_size(), default=torch.zeros(()))
