"""How a batch of tasks is run: the one place that chooses.

Everything else is written for one task. `Engine.each` adds the task axis by `vmap`, in chunks, or by a plain loop; the
results agree, and tests hold them to it. Noise is part of the arguments, so nothing random happens in here.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from quickstudy.devices import sized
from quickstudy.errors import InputError
from quickstudy.memory import Need, measured, out_of_memory
from quickstudy.precision import KINDS, gradient, rounding
from quickstudy.types import Outcome, pick, stack

BACKENDS = ("auto", "vmap", "loop")

THUMBNAIL = 10 * 10
"""Numbers in an image up to which `vmap` was the faster one for convolutions on a CPU."""

Gradients = list[Tensor | None]


class LoopFallback(UserWarning):
    """Said once per learner whose model `vmap` refuses."""


class Chunked(UserWarning):
    """Said when a batch of tasks does not fit the memory it may use, and is run in parts."""


@dataclass
class Engine:
    """A choice of backend for one learner.

    Args:
        backend: "vmap" (all tasks of a chunk in one batched pass), "loop" (one task after the other, a backward each)
            or "auto", which becomes one of the two when first used.
        chunk: At most so many tasks at once under `vmap`; memory grows with it. None: all, or as many as fit `room`.
        autocast: "bf16" or "fp16": products in half precision (see `precision`). None: all in the parameters' own.
        room: Bytes that a batch may take where `chunk` is None; None: as many as it needs.
    """

    backend: str = "auto"
    chunk: int | None = None
    autocast: str | None = None
    room: int | None = None
    _needs: dict[Any, Need] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise InputError(f"There is no backend {self.backend!r}. Backends are: {', '.join(BACKENDS)}.")
        if self.chunk is not None and self.chunk < 1:
            raise InputError(f"`chunk` was {self.chunk}; it counts tasks, so 1 or more, or None for all at once.")
        if self.autocast not in (None, *KINDS):
            raise InputError(f"There is no autocast {self.autocast!r}. Give one of {', '.join(KINDS)}, or None.")

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
        with twice_differentiable(), rounding(self.autocast):
            if self.backend != "loop":
                try:
                    return torch.vmap(one, randomness="different", chunk_size=self._apart(one, args))(*args)
                except (RuntimeError, ValueError, NotImplementedError) as refusal:
                    if out_of_memory(refusal):
                        raise
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
        width = 1 if self.backend == "loop" else (self._fitting(one, args, (params, weight)) or size)
        outcomes: list[Outcome] = []
        total: Gradients = [None] * len(params)
        try:
            for start in range(0, size, width):
                outcome = self.each(one, *pick(args, slice(start, start + width)))
                loss = weight * outcome.loss.sum()
                grads = gradient(loss, params, self.autocast)
                total = [added([t, g]) for t, g in zip(total, grads, strict=True)]
                outcomes.append(tree_map(torch.detach, outcome))
        except (RuntimeError, NotImplementedError) as refusal:
            if self.backend == "loop" or out_of_memory(refusal):
                raise
            looped = replace(self, backend="loop").meta_gradient(one, args, params, weight)
            self._fall_back(refusal)
            return looped
        return tree_map(lambda *parts: torch.cat(parts), *outcomes), total

    def _apart(self, one: Callable[..., Any], args: tuple[Any, ...]) -> int | None:
        """How many tasks `vmap` takes at once: where a graph is built, cutting frees nothing before its backward."""
        return self.chunk if torch.is_grad_enabled() else self._fitting(one, args)

    def _fitting(self, one: Callable[..., Any], args: tuple[Any, ...], outer: tuple[Any, ...] = ()) -> int | None:
        """How many tasks at once fit; None: all. Measured when such tasks are first seen.

        Args:
            one: What is done with a task.
            args: Of the batch.
            outer: The last arguments of `meta_gradient`, where its backward belongs to what is done.
        """
        leaves = tree_leaves(args)
        size = len(leaves[0])
        if self.chunk is not None or self.room is None or size == 1:
            return self.chunk
        kind = (getattr(one, "__qualname__", one), bool(outer), *(leaf.shape[1:] for leaf in leaves))
        if kind not in self._needs:
            whole = replace(self, chunk=size)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LoopFallback)  # the batch itself will say so
                self._needs[kind] = measured(
                    lambda n: (
                        whole.meta_gradient(one, pick(args, slice(n)), *outer)
                        if outer
                        else whole.each(one, *pick(args, slice(n)))
                    )
                )
            need, fits = self._needs[kind], self._needs[kind].fitting(self.room)
            if fits < size:
                warnings.warn(
                    f"{size} tasks at once would take {sized(need.of(size))}, and `compute.memory` allows "
                    f"{sized(self.room)}, so {fits} are run at once. `compute.chunk` {fits} keeps it so.",
                    Chunked,
                    stacklevel=4,
                )
        return min(self._needs[kind].fitting(self.room), size)

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
