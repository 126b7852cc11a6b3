"""How a batch of tasks is run: the one place that chooses.

Everything else is written for one task. `Engine.each` adds the task axis by `vmap`, in chunks, or by a plain loop; the
results agree, and tests hold them to it. Noise is part of the arguments, so nothing random happens in here.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from quickstudy.errors import InputError
from quickstudy.types import Outcome, pick, stack

BACKENDS = ("auto", "vmap", "loop")

THUMBNAIL = 10 * 10
"""Numbers in an image up to which `vmap` was the faster one for convolutions on a CPU."""

Gradients = list[Tensor | None]


class LoopFallback(UserWarning):
    """Said once per learner whose model `vmap` refuses."""


@dataclass
class Engine:
    """A choice of backend for one learner.

    Args:
        backend: "vmap" (all tasks of a chunk in one batched pass), "loop" (one task after the other, a backward each)
            or "auto", which becomes one of the two when first used.
        chunk: At most so many tasks at once under `vmap`; memory grows with it. None: all.
    """

    backend: str = "auto"
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise InputError(f"There is no backend {self.backend!r}. Backends are: {', '.join(BACKENDS)}.")
        if self.chunk is not None and self.chunk < 1:
            raise InputError(f"`chunk` was {self.chunk}; it counts tasks, so 1 or more, or None for all at once.")

    def settle(self, model: nn.Module, x: Tensor) -> None:
        """Replace "auto" by what suits the model and its inputs `[T, n, *input]`.

        On a CPU, convolutions over images beyond thumbnails are faster one task at a time.
        """
        if self.backend == "auto":
            conv = any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in model.modules())
            large = x[0, 0].numel() > THUMBNAIL
            self.backend = "loop" if conv and large and x.device.type == "cpu" else "vmap"

    def each(self, one: Callable[..., Any], *args: Any) -> Any:
        """`one` on every task of the batch; results stacked along a leading task axis."""
        with twice_differentiable():
            if self.backend != "loop":
                try:
                    return torch.vmap(one, randomness="different", chunk_size=self.chunk)(*args)
                except torch.OutOfMemoryError:
                    raise
                except (RuntimeError, ValueError, NotImplementedError) as refusal:
                    # If the loop fails too, its error is the user's own and the clearer one: it is the one raised.
                    result = self._loop(one, args)
                    self._fall_back(refusal)
                    return result
            return self._loop(one, args)

    def meta_gradient(
        self, one: Callable[..., Outcome], args: tuple[Any, ...], params: Sequence[Tensor], weight: float
    ) -> tuple[Outcome, Gradients]:
        """Outcomes of a batch (without graph) and the gradient of `weight * sum of losses` for each of `params`.

        Under `vmap` with a chunk, and on the loop, every chunk has a backward of its own: memory stays flat in tasks.
        """
        size = len(tree_leaves(args)[0])
        width = 1 if self.backend == "loop" else (self.chunk or size)
        outcomes: list[Outcome] = []
        total: Gradients = [None] * len(params)
        try:
            for start in range(0, size, width):
                outcome = self.each(one, *pick(args, slice(start, start + width)))
                loss = weight * outcome.loss.sum()
                grads = torch.autograd.grad(loss, params, allow_unused=True)
                total = [added([t, g]) for t, g in zip(total, grads, strict=True)]
                outcomes.append(tree_map(torch.detach, outcome))
        except (RuntimeError, NotImplementedError) as refusal:
            if self.backend == "loop" or isinstance(refusal, torch.OutOfMemoryError):
                raise
            looped = Engine("loop").meta_gradient(one, args, params, weight)
            self._fall_back(refusal)
            return looped
        return tree_map(lambda *parts: torch.cat(parts), *outcomes), total

    def _fall_back(self, refusal: Exception) -> None:
        self.backend = "loop"
        reason = str(refusal).strip().splitlines()[0]
        warnings.warn(
            f"vmap refuses this model, so its tasks run one after the other (slower, same results). Reason: {reason}",
            LoopFallback,
            stacklevel=4,
        )

    @staticmethod
    def _loop(one: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        size = len(tree_leaves(args)[0])
        return stack([one(*pick(args, i)) for i in range(size)])


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """So many threads for torch's kernels, and as many as before afterwards. None: leave them."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by its plain formula: the fused kernels and the encoder's fast path have no second derivative."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def added(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The sum of gradients, where a missing one counts as zero; None when all are missing."""
    given = [part for part in parts if part is not None]
    return torch.stack(given).sum(0) if len(given) > 1 else (given[0] if given else None)
