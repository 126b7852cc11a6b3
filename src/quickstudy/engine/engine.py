"""How a batch of tasks is run: the one place that chooses.

Everything else is written for one task. `Engine.each` adds the task axis by `vmap`, in chunks, or by a plain loop; the
results agree, and tests hold them to it. Noise is part of the arguments, so nothing random happens in here.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from quickstudy.engine.autodiff import (
    Compiler,
    CompileRefused,
    detach_params,
    outcome_and_gradient,
    outside_transforms,
    replay_step,
    tape_gradient,
)
from quickstudy.engine.devices import format_bytes
from quickstudy.engine.memory import Need, is_out_of_memory, measure_memory
from quickstudy.engine.precision import AUTOCAST_KINDS, autocast_products, scaled_gradient
from quickstudy.errors import InputError
from quickstudy.rules.objective import Autodiff, identity
from quickstudy.types import Outcome, pick, stack

BACKENDS = ("auto", "vmap", "loop")

THUMBNAIL = 10 * 10
"""Numbers in an image up to which `vmap` was the faster one for convolutions on a CPU."""

PIXELWISE = {nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterDict, nn.ParameterList, nn.Identity, nn.Dropout}
PIXELWISE |= {nn.Conv2d, nn.Linear, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Flatten}
PIXELWISE |= {nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d}
"""Modules that are known to be right when images have their channels last. torch's group norm is not: its second
derivative ends the process there. What a module of the user's own calls is not known."""

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
        compile: Whether torch.compile makes machine code of the meta-gradient first, which takes seconds to minutes.
            Under `vmap` only, all of it in one piece: compiled step by step, torch 2.13 gets the second derivative of
            convolutions with pooling wrong (by up to a third).
        recompute: Whether inner steps are computed a second time in the backward pass, so that memory does not grow
            with their number. On the loop only.
        autocast: "bf16" or "fp16": products in half precision (see `precision`). None: all in the parameters' own.
        room: Bytes that a batch may take where `chunk` is None; None: as many as it needs.
    """

    backend: str = "auto"
    chunk: int | None = None
    compile: bool = False
    recompute: bool = False
    autocast: str | None = None
    room: int | None = None
    _needs: dict[Any, Need] = field(default_factory=dict, init=False, repr=False, compare=False)
    _pixelwise: bool = field(default=False, init=False, repr=False, compare=False)
    _compiler: Compiler = field(default_factory=Compiler, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise InputError(f"There is no backend {self.backend!r}. Backends are: {', '.join(BACKENDS)}.")
        if self.chunk is not None and self.chunk < 1:
            raise InputError(f"`chunk` was {self.chunk}; it counts tasks, so 1 or more, or None for all at once.")
        if self.autocast not in (None, *AUTOCAST_KINDS):
            raise InputError(
                f"There is no autocast {self.autocast!r}. Give one of {', '.join(AUTOCAST_KINDS)}, or None."
            )
        if self.recompute and self.backend == "vmap":
            raise InputError('`recompute` works on one task at a time: use it with backend "loop" or "auto".')
        for other, given in (
            ("recompute", self.recompute),
            ("autocast", self.autocast),
            ("loop", self.backend == "loop"),
        ):
            if self.compile and given:
                raise InputError(f"`compile` and `{other}` do not work together. Choose one of them.")
        if self.recompute and self.autocast:  # a replayed step would not be rounded
            raise InputError("`recompute` and `autocast` do not work together. Choose one of them.")

    def __deepcopy__(self, memo: dict[int, Any]) -> "Engine":
        return replace(self)  # what was compiled or measured belongs to another learner

    def settle(self, model: nn.Module, x: Tensor) -> None:
        """Replace "auto" by what suits the model and its inputs `[T, n, *input]`.

        On a CPU, convolutions over images beyond thumbnails are faster one task at a time.
        """
        if self.backend == "auto":
            conv = any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in model.modules())
            large = x[0, 0].numel() > THUMBNAIL
            alone = self.recompute or (conv and large and x.device.type == "cpu")
            if alone and self.compile:
                warnings.warn(
                    "`compile` is left aside: convolutions on a CPU run task by task, which is faster and cannot be "
                    'compiled. With backend "vmap" they are compiled all the same.',
                    CompileRefused,
                    stacklevel=3,
                )
            if alone:
                self.leave_vmap()
            else:
                self.backend = "vmap"
        self._pixelwise = self.backend == "loop" and all(type(m) in PIXELWISE or _ours(m) for m in model.modules())

    def leave_vmap(self) -> None:
        """From here on task by task, and so uncompiled."""
        self.backend, self.compile = "loop", False

    @property
    def means(self) -> Autodiff:
        """How one task's gradients and steps are computed: `torch.func`'s way wherever `vmap` looks.

        Elsewhere by the tape, also where `vmap` has refused: `torch.func` may be what refuses.
        """
        if not outside_transforms():
            return Autodiff()
        means = Autodiff(gradient=tape_gradient, images=channels_last if self._pixelwise else identity)
        return replace(means, step=replay_step) if self.recompute else means

    def each(self, one: Callable[..., Any], *args: Any) -> Any:
        """`one` on every task of the batch; results stacked along a leading task axis."""
        with twice_differentiable(), autocast_products(self.autocast):
            if self.backend != "loop":
                try:
                    together = torch.vmap(one, randomness="different", chunk_size=self._apart(one, args))
                    return together(*args)
                except (RuntimeError, ValueError, NotImplementedError) as refusal:
                    if is_out_of_memory(refusal):
                        raise
                    # If the loop fails too, its error is the user's own and the clearer one: it is the one raised.
                    result = self._loop(one, args)
                    self._fall_back(refusal)
                    return result
            return self._loop(one, args)

    def meta_gradient(
        self,
        owner: nn.Module,
        one: Callable[..., Outcome],
        args: tuple[Any, ...],
        params: Mapping[str, Tensor],
        weight: float,
    ) -> tuple[Outcome, Gradients]:
        """Outcomes of a batch (without graph) and the gradient of `weight * sum of losses` for each of `params`.

        Under `vmap` with a chunk, and on the loop, every chunk has a backward of its own: memory stays flat in tasks.

        Args:
            owner: The module that `one` is a method of, and whose parameters `params` are, by name.
            one: What is done with a task.
            args: Of the batch.
            params: What the gradient is for.
            weight: Of every task's loss.
        """
        size = len(tree_leaves(args)[0])
        width = 1 if self.backend == "loop" else (self._fitting(one, args, (owner, params, weight)) or size)
        outcomes: list[Outcome] = []
        total: Gradients = [None] * len(params)
        try:
            if width >= size:
                outcome, grads = self._differentiated(owner, one, args, params, weight)
                return outcome, list(grads)
            for start in range(0, size, width):
                outcome, grads = self._differentiated(
                    owner, one, pick(args, slice(start, start + width)), params, weight
                )
                total = [sum_gradients([t, g]) for t, g in zip(total, grads, strict=True)]
                outcomes.append(outcome)
        except (RuntimeError, NotImplementedError) as refusal:
            if self.backend == "loop" or is_out_of_memory(refusal):
                raise
            looped = replace(self, backend="loop", compile=False).meta_gradient(owner, one, args, params, weight)
            self._fall_back(refusal)
            return looped
        return tree_map(lambda *parts: torch.cat(parts), *outcomes), total

    def _differentiated(
        self,
        owner: nn.Module,
        one: Callable[..., Outcome],
        args: tuple[Any, ...],
        params: Mapping[str, Tensor],
        weight: float,
    ) -> tuple[Outcome, Sequence[Tensor | None]]:
        """`meta_gradient` of tasks that are run at once."""

        def plain() -> tuple[Outcome, Sequence[Tensor | None]]:
            outcome = self.each(one, *args)
            with twice_differentiable():  # steps may be replayed
                grads = scaled_gradient(weight * outcome.loss.sum(), list(params.values()), self.autocast)
            outcome = tree_map(torch.detach, outcome)  # with its graph it would hold all steps while others are run
            return outcome, grads

        if not self.compile or self.backend != "vmap":
            return plain()
        share = next(iter(params.values())).new_tensor(weight)
        names = tuple(params)
        whole = partial(outcome_and_gradient, owner, one, names)
        with twice_differentiable():
            ran: tuple[Outcome, Sequence[Tensor | None]]
            ran = self._compiler.run((one, names), whole, plain, share, detach_params(params), *args)
        return ran

    def _apart(self, one: Callable[..., Any], args: tuple[Any, ...]) -> int | None:
        """How many tasks `vmap` takes at once: where a graph is built, cutting frees nothing before its backward."""
        return self.chunk if torch.is_grad_enabled() else self._fitting(one, args)

    def _fitting(self, one: Callable[..., Any], args: tuple[Any, ...], outer: tuple[Any, ...] = ()) -> int | None:
        """How many tasks at once fit; None: all. Measured when such tasks are first seen.

        Args:
            one: What is done with a task.
            args: Of the batch.
            outer: The other arguments of `meta_gradient`, where its backward belongs to what is done.
        """
        leaves = tree_leaves(args)
        size = len(leaves[0])
        if self.chunk is not None or self.room is None or size == 1:
            return self.chunk
        kind = (getattr(one, "__qualname__", one), bool(outer), *(leaf.shape[1:] for leaf in leaves))
        if kind not in self._needs:
            whole = replace(self, chunk=size, compile=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LoopFallback)  # the batch itself will say so
                self._needs[kind] = measure_memory(
                    lambda n: (
                        whole.meta_gradient(outer[0], one, pick(args, slice(n)), *outer[1:])
                        if outer
                        else whole.each(one, *pick(args, slice(n)))
                    )
                )
            need, fits = self._needs[kind], self._needs[kind].fitting(self.room)
            if fits < size:
                warnings.warn(
                    f"{size} tasks at once would take {format_bytes(need.of(size))}, and `compute.memory` allows "
                    f"{format_bytes(self.room)}, so {fits} are run at once. `compute.chunk` {fits} keeps it so.",
                    Chunked,
                    stacklevel=4,
                )
        return min(self._needs[kind].fitting(self.room), size)

    def _fall_back(self, refusal: Exception) -> None:
        self.leave_vmap()
        reason = str(refusal).strip().splitlines()[0]
        warnings.warn(
            f"vmap refuses this model, so its tasks run one after the other (slower, same results). Reason: {reason}",
            LoopFallback,
            stacklevel=4,
        )

    @staticmethod
    def _loop(one: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return stack([one(*pick(args, i)) for i in range(len(tree_leaves(args)[0]))])


def _ours(module: nn.Module) -> bool:
    norms = nn.GroupNorm | nn.LayerNorm | nn.modules.instancenorm._InstanceNorm
    return type(module).__module__.startswith("quickstudy.") and not isinstance(module, norms)


def channels_last(leaf: Tensor) -> Tensor:
    """Images `[n, C, H, W]` on a CPU with a pixel's channels side by side in memory.

    The layout carries through a net. Norms and pooling are several times faster in it, convolutions as fast.
    """
    if leaf.ndim != 4 or not leaf.is_floating_point() or leaf.device.type != "cpu":
        return leaf
    leaf = leaf.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = leaf.shape
    # With one channel both layouts are the same numbers in the same order; the strides tell a net which is meant.
    return leaf.as_strided(leaf.shape, (channels * height * width, 1, channels * width, channels))


@contextmanager
def use_threads(number: int | None) -> Iterator[None]:
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


def sum_gradients(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The sum of gradients, where a missing one counts as zero; None when all are missing."""
    given = [part for part in parts if part is not None]
    return torch.stack(given).sum(0) if len(given) > 1 else (given[0] if given else None)
