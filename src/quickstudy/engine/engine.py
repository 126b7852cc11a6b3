"""How a batch of tasks is run: the one place that chooses.

Everything else is written for one task. `Engine.each` adds the task axis by `vmap`, in chunks, or by a plain loop; the
results agree, and tests check that they do. Noise is part of the arguments, so nothing random happens in here.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from quickstudy.engine.autodiff import (
    Compiler,
    CompileRefusedWarning,
    outcome_and_gradient,
    replay_step,
    tape_gradient,
)
from quickstudy.engine.devices import format_bytes
from quickstudy.engine.memory import MemoryNeed, is_out_of_memory, measure_memory, peak_bytes
from quickstudy.engine.outside import GENERATORS, writes_outside
from quickstudy.engine.precision import autocast_products, scaled_gradient
from quickstudy.engine.second_derivatives import calls_tabled_kernels, is_strange, twice_differentiable
from quickstudy.engine.settings import EngineSettings
from quickstudy.engine.threads import draws_random_numbers, map_on_threads
from quickstudy.errors import InputError, is_count
from quickstudy.rules.base import Rate, Rule
from quickstudy.rules.objective import Autodiff, identity
from quickstudy.rules.params import detach_params
from quickstudy.rules.rescale import Chart
from quickstudy.rules.skipping import Skipping
from quickstudy.rules.torch_private import (
    dispatch_modes,
    function_modes,
    is_tracing,
    outside_transforms,
    tree_leaves,
    tree_map,
    without_kept_parameters,
)
from quickstudy.types import Inputs, Outcome, pick, stack

SMALL_IMAGE = 10 * 10
"""The largest number of values in an image for which `vmap` was faster than the loop on convolutions on a CPU."""

Way = Literal["vmap", "loop", "threads"]
"""How the tasks of a batch may be run: all in one pass, one by one with torch's threads within a task, or as many at
once as torch has threads, each task with one thread."""

ANY_LAYOUT = {nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterDict, nn.ParameterList, nn.Identity, nn.Dropout}
ANY_LAYOUT |= {nn.Conv2d, nn.Linear, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Flatten}
ANY_LAYOUT |= {nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d}
"""torch's modules that are known to be right when images have their channels last. Group norm is not: its second
derivative crashes the process there. Another class says that it is right by an `any_layout = True` in its own body."""

MAY_DRAW = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, nn.RNNBase),
)
"""torch's modules that may draw random numbers, beside those of which nothing is known."""

VERSIONS = 50
"""Of a model whose settings have changed more often than this, tasks run one by one."""

Gradients = list[Tensor | None]
T = TypeVar("T")


class LoopFallbackWarning(UserWarning):
    """Warns, once per learner, that `vmap` refuses the model."""


class SplitBatchWarning(UserWarning):
    """Warns that a batch of tasks does not fit the memory it may use, and is run in parts."""


class Engine:
    """Runs the tasks of one learner.

    Attributes:
        settings: What was asked for; frozen.
        backend: What is in use. "auto" becomes "vmap" or "loop" when the model and its inputs are first seen, and
            "vmap" becomes "loop" when it refuses the model.
        compile: Whether the meta-gradient is compiled. False on the loop, whatever was asked for.
        way: How tasks run, where a measurement has chosen it. None: the rule of `settle` chooses.
        memory: Bytes that a batch may take where no chunk is set. None: as many as it needs.
        has_strangers: Whether the settled model or its loss runs code that is neither torch's nor this package's.
        may_change_inputs: Whether a module of the settled model may change its input in place.
    """

    def __init__(
        self,
        backend: str = "auto",
        chunk: int | None = None,
        *,
        compile: bool | Literal["auto"] = False,  # noqa: A002 - the name of the setting, and of torch.compile
        recompute: bool = False,
        autocast: str | None = None,
        memory: int | None = None,
    ) -> None:
        """The arguments are those of `EngineSettings`, and `memory`."""
        self._begin(EngineSettings(backend, chunk, compile, recompute, autocast), memory)

    @classmethod
    def from_settings(cls, settings: EngineSettings, memory: int | None = None) -> "Engine":
        """An engine that reads the given settings."""
        engine = cls.__new__(cls)
        engine._begin(settings, memory)
        return engine

    def _begin(self, settings: EngineSettings, memory: int | None) -> None:
        if memory is not None and not is_count(memory):
            raise InputError(f"`memory` was {memory!r}; it is a number of bytes, such as {1 << 30}.")
        self.settings = settings
        self.backend, self.compile = settings.backend, settings.compile is True
        self.memory = memory
        self.way: Way | None = None
        self._needs: dict[Any, MemoryNeed] = {}
        self._turns_images = self._side_by_side = self._convolves = self._left_vmap = False
        self._may_draw = self.may_change_inputs = self.has_strangers = True
        self._in_order: dict[Any, bool] = {}  # kinds of computations whose tasks must run one after the other
        self._strangers: list[object] = []  # of the model that was settled last
        self._needs_plain = True
        self._state: tuple[Any, ...] = ()  # of the modules that were settled last: modes and plain settings
        self._compiler = Compiler()

    def replace(self, **changes: Any) -> "Engine":
        """A new engine with these changes of the settings, the backend in use and nothing compiled or measured."""
        in_use = {"backend": self.backend, "compile": self.compile}
        engine = Engine.from_settings(self.settings.replace(**(in_use | changes)), self.memory)
        engine.way = None if "backend" in changes else self.way
        return engine

    def __deepcopy__(self, memo: dict[int, Any]) -> "Engine":
        return self.replace()  # what was compiled or measured belongs to another learner

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_strangers": []}

    def __repr__(self) -> str:
        return f"Engine({self.settings}, in use: {self.backend})"

    @property
    def compiles(self) -> bool:
        """Whether meta-gradients run compiled: this is in use, and the compiler has not refused the model."""
        return self.compile and not self._compiler.refused

    def ways(self) -> tuple[Way, ...]:
        """The ways among which a measurement may choose, once this has settled; none where something else decides."""
        settings = self.settings
        if not self._convolves or settings.backend != "auto" or settings.recompute or settings.compile is True:
            return ()
        left_out = {"vmap": self._left_vmap, "threads": torch.get_num_threads() < 2}  # with one thread: the loop
        return tuple(way for way in get_args(Way) if not left_out.get(way))

    def take(self, way: Way) -> None:
        """From now on run tasks in this way."""
        self.way = way
        self.backend = "vmap" if way == "vmap" else "loop"

    def settle(self, model: nn.Module, x: Inputs) -> None:
        """Replace "auto" by what suits the model and its inputs, each `[T, n, *input]`.

        On a CPU, convolutions over large images are faster one task at a time.
        """
        conv = any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in model.modules())
        large = [leaf for leaf in tree_leaves(x) if leaf[0, 0].numel() > SMALL_IMAGE and leaf.device.type == "cpu"]
        convolves = conv and bool(large)
        if self.backend == "auto":
            one_by_one = self.settings.recompute or convolves
            if one_by_one and self.compile:
                warnings.warn(
                    "`compile` has no effect here: convolutions on a CPU run task by task, which is faster and cannot "
                    'be compiled. With backend "vmap" they are compiled all the same.',
                    CompileRefusedWarning,
                    stacklevel=3,
                )
            self.backend, self.compile = ("loop", False) if one_by_one else ("vmap", self.compile)
        self._convolves = convolves
        # Small nets spend their time in Python, which runs one thread at a time.
        self._side_by_side = convolves and self.way != "loop" and not is_tracing()
        self._turns_images = self.backend == "loop" and all(_takes_any_layout(m) for m in model.modules())
        losses = (value for name, value in vars(model).items() if name.endswith("criterion"))
        modules = list(model.modules())
        strangers = list(filter(is_strange, (*modules, *losses)))
        if self._side_by_side:
            # torch keeps parametrized values for all threads at once, where a forward asks for it.
            keeps = strangers and any(map(is_parametrized, modules))
            self._side_by_side = not keeps and not any(map(_has_generator, modules))
        self._state = tuple(map(_settings_of, modules)) if self._side_by_side else ()
        self.has_strangers, self._strangers = bool(strangers), strangers if self._side_by_side else []
        self._needs_plain = self.has_strangers or any(map(calls_tabled_kernels, modules))
        self.may_change_inputs = self._needs_plain or any(getattr(m, "inplace", False) for m in modules)
        self._may_draw = self._needs_plain or any(isinstance(m, MAY_DRAW) for m in modules)

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """The context in which the functions that the settled model calls have second derivatives."""
        with without_kept_parameters(), twice_differentiable() if self._needs_plain else nullcontext():
            yield

    def leave_vmap(self) -> None:
        """From now on run tasks one by one, and so uncompiled: `vmap` refuses the model or is wrong."""
        self.backend, self.compile, self._left_vmap = "loop", False, True
        self.way = None if self.way == "vmap" else self.way

    @property
    def autodiff(self) -> Autodiff:
        """How gradients and steps of one task are computed.

        Under `vmap`, by `torch.func`. On the loop by the tape, also after `vmap` has refused the model: it may be
        `torch.func` that refuses.
        """
        if not outside_transforms():
            return Autodiff()
        tape = Autodiff(gradient=tape_gradient, images=channels_last if self._turns_images else identity)
        return replace(tape, step=replay_step) if self.settings.recompute else tape

    def each(self, one: Callable[..., Any], *args: Any) -> Any:
        """`one` on every task of the batch; results stacked along a leading task axis."""
        with self.kernels(), autocast_products(self.settings.autocast):
            if self.backend != "loop":
                try:
                    together = torch.vmap(one, randomness="different", chunk_size=self._forward_chunk(one, args))
                    return together(*args)
                except Exception as refusal:  # a forward may turn the refusal of vmap into an error of its own
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

        Every chunk under `vmap`, and every task on the loop, has a backward pass of its own: so memory does not grow
        with the number of tasks.

        Args:
            owner: The module that `one` is a method of, and whose parameters `params` are, by name.
            one: The computation of one task.
            args: Its arguments for all tasks of the batch, with a leading task axis.
            params: The parameters that the gradient is for.
            weight: The factor on every task's loss.
        """
        size = _count_tasks(args)
        width = 1 if self.backend == "loop" else self._gradient_chunk(owner, one, args, params, weight) or size
        outcomes: list[Outcome] = []
        total: Gradients = [None] * len(params)
        try:
            if width >= size:
                outcome, grads = self._differentiate(owner, one, args, params, weight)
                return outcome, list(grads)

            def differentiate(number: int) -> tuple[Outcome, Sequence[Tensor | None]]:
                part = pick(args, slice(number * width, (number + 1) * width))
                return self._differentiate(owner, one, part, params, weight)

            threads = self._threads(differentiate, args) if self.backend == "loop" else 1
            for outcome, grads in map_on_threads(differentiate, -(-size // width), threads):
                total = [sum_gradients([t, g]) for t, g in zip(total, grads, strict=True)]
                outcomes.append(outcome)
        except Exception as refusal:
            if self.backend == "loop" or is_out_of_memory(refusal):
                raise
            looped = self.replace(backend="loop", compile=False).meta_gradient(owner, one, args, params, weight)
            self._fall_back(refusal)
            return looped
        return tree_map(lambda *parts: torch.cat(parts), *outcomes), total

    def meta_gradients(
        self,
        owner: nn.Module,
        one: Callable[..., Outcome],
        batches: Iterable[tuple[Any, ...]],
        params: Mapping[str, Tensor],
        weight: float,
    ) -> Iterator[tuple[Outcome, Gradients]]:
        """`meta_gradient` of batches of equal sizes, one after the other, each with the parameters of its moment.

        What the first of them has compiled, the others call without the checks of a first call. So nothing but the
        values of parameters and buffers may change before the last.
        """
        again = False
        for args in batches:
            if not again:
                yield self.meta_gradient(owner, one, args, params, weight)
                whole = self._gradient_chunk(owner, one, args, params, weight) or _count_tasks(args)
                again = self.compiles and whole >= _count_tasks(args)
                factor, names, detached = _factor(params, weight), tuple(params), detach_params(params)
                continue
            with self.kernels():
                outcome, grads = self._compiler.run_again((one, names), factor, detached, *args)
            yield outcome, list(grads)

    def _differentiate(
        self,
        owner: nn.Module,
        one: Callable[..., Outcome],
        args: tuple[Any, ...],
        params: Mapping[str, Tensor],
        weight: float,
    ) -> tuple[Outcome, Sequence[Tensor | None]]:
        """`meta_gradient` of tasks that are run at once."""

        def uncompiled() -> tuple[Outcome, Sequence[Tensor | None]]:
            outcome = self.each(one, *args)
            with self.kernels():  # the backward pass may compute steps again
                grads = scaled_gradient(weight * outcome.loss.sum(), list(params.values()), self.settings.autocast)
            outcome = tree_map(torch.detach, outcome)  # its graph would keep all steps in memory
            return outcome, grads

        if not self.compile or self.backend != "vmap":
            return uncompiled()
        factor, names = _factor(params, weight), tuple(params)
        make = partial(outcome_and_gradient, owner, one, names)
        for part in owner.modules():
            if isinstance(part, Skipping):
                part.note_zeros()
        with self.kernels():
            result: tuple[Outcome, Sequence[Tensor | None]]
            result = self._compiler.run((one, names), make, uncompiled, factor, detach_params(params), *args)
        return result

    def _forward_chunk(self, one: Callable[..., Any], args: tuple[Any, ...]) -> int | None:
        """How many tasks a forward pass takes at once; None: all."""
        # Where a graph is built, cutting frees nothing before its backward pass.
        if torch.is_grad_enabled() or not self._is_limited(args):
            return self.settings.chunk
        whole = self.replace(chunk=_count_tasks(args), compile=False)
        return self._chunk_that_fits("forward", one, args, lambda n: whole.each(one, *pick(args, slice(n))))

    def _gradient_chunk(
        self,
        owner: nn.Module,
        one: Callable[..., Outcome],
        args: tuple[Any, ...],
        params: Mapping[str, Tensor],
        weight: float,
    ) -> int | None:
        """How many tasks a meta-gradient, with its backward pass, takes at once; None: all."""
        if not self._is_limited(args):
            return self.settings.chunk
        whole = self.replace(chunk=_count_tasks(args), compile=False)
        return self._chunk_that_fits(
            "meta-gradient",
            one,
            args,
            lambda n: whole.meta_gradient(owner, one, pick(args, slice(n)), params, weight),
        )

    def _is_limited(self, args: tuple[Any, ...]) -> bool:
        """Whether the memory decides how many tasks run at once."""
        return self.settings.chunk is None and self.memory is not None and _count_tasks(args) > 1

    def _chunk_that_fits(
        self, what: str, one: Callable[..., Any], args: tuple[Any, ...], run: Callable[[int], object]
    ) -> int:
        """How many tasks fit the memory, measured when tasks of these shapes are first seen.

        Args:
            what: What is computed; each kind of computation has a need of its own.
            one: The computation of one task.
            args: Its arguments for all tasks.
            run: Computes the first n tasks.
        """
        assert self.memory is not None
        size = _count_tasks(args)
        kind = (getattr(one, "__qualname__", one), what, *(leaf.shape[1:] for leaf in tree_leaves(args)))
        if kind not in self._needs:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LoopFallbackWarning)  # the batch itself warns of it
                self._needs[kind] = measure_memory(run)
            need, fits = self._needs[kind], self._needs[kind].tasks_in(self.memory)
            if fits < size:
                warnings.warn(
                    f"{size} tasks at once would take {format_bytes(need.of(size))}, and `compute.memory` allows "
                    f"{format_bytes(self.memory)}, so {fits} run at once. Set `compute.chunk` to {fits} to keep it so.",
                    SplitBatchWarning,
                    stacklevel=5,
                )
        return min(self._needs[kind].tasks_in(self.memory), size)

    def _fall_back(self, refusal: Exception) -> None:
        self.leave_vmap()
        reason = str(refusal).strip().splitlines()[0]
        warnings.warn(
            f"vmap refuses this model, so its tasks run one after the other (slower, same results). Reason: {reason}",
            LoopFallbackWarning,
            stacklevel=4,
        )

    def _loop(self, one: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """`one` on every task by itself."""

        def run(number: int) -> Any:
            with self.kernels(), autocast_products(self.settings.autocast):  # they hold for the calling thread
                return one(*pick(args, number))

        results = [*map_on_threads(run, _count_tasks(args), self._threads(run, args))]
        for leaf in tree_leaves(results[0]):
            if not isinstance(leaf, Tensor):
                raise InputError(
                    f"The model returns {'None' if leaf is None else f'a {type(leaf).__name__}'} beside or in place of "
                    "tensors, which cannot be put together for several tasks. Return tensors, alone or in a tuple or a "
                    "dictionary, or an object with `logits`."
                )
        return stack(results)

    def _threads(self, run: Callable[[int], object], args: tuple[Any, ...]) -> int:
        """How many tasks of these run at once on the loop: as many as torch has threads, if they fit the memory.

        Tasks that draw random numbers, for dropout for example, run one by one: else their order would decide. So do
        those whose code leaves something outside of its modules: else they read what another task has left. And so do
        all where a mode of the user's is active, which holds for one thread.
        """
        threads = min(torch.get_num_threads(), _count_tasks(args))
        if threads < 2 or not self._side_by_side or _users_modes():
            return 1
        shapes = (leaf.shape[1:] for leaf in tree_leaves(args))
        kind = ("one of several", torch.is_grad_enabled(), self._state, *shapes)
        if self._may_draw and kind not in self._in_order:
            if len(self._in_order) > VERSIONS:
                return 1
            self._in_order[kind] = draws_random_numbers(lambda: run(0)) or (
                bool(self._strangers) and writes_outside(lambda: run(0), self._strangers)
            )
        if self._in_order.get(kind):
            return 1
        if self.memory is None:
            return threads
        if kind not in self._needs:
            self._needs[kind] = MemoryNeed(0, peak_bytes(lambda: run(0)))
        return min(threads, self._needs[kind].tasks_in(self.memory))


def _count_tasks(args: tuple[Any, ...]) -> int:
    """The length of the task axis."""
    return len(tree_leaves(args)[0])


def _factor(params: Mapping[str, Tensor], weight: float) -> Tensor:
    """A weight as a tensor: as a number it would be a constant of what is compiled."""
    return next(iter(params.values())).new_tensor(weight)


def _has_generator(module: nn.Module) -> bool:
    """Whether a module draws from a generator of its own, in the order in which its tasks run."""
    return any(isinstance(value, GENERATORS) for value in vars(module).values())


def _settings_of(module: nn.Module) -> tuple[Any, ...]:
    """What may decide whether a module draws random numbers now: its mode, and the numbers that it holds."""
    if not isinstance(module, MAY_DRAW) and not is_strange(module):
        return (module.training,)
    plain = (value for value in vars(module).values() if isinstance(value, bool | int | float | str))
    numbers = (
        b.item() for b in module._buffers.values() if b is not None and b.numel() == 1 and b.device.type == "cpu"
    )
    return (*plain, *numbers)


def _users_modes() -> bool:
    """Whether a mode for functions or operators is active that is not this package's."""
    modes = (*function_modes(), *dispatch_modes())
    return not all(type(mode).__module__.startswith("quickstudy.") for mode in modes)


def _takes_any_layout(module: nn.Module) -> bool:
    """Whether a module is right when images have their channels last. Rules, rates and charts see no images."""
    # Of the class itself: a subclass may have a forward that is not right.
    declared = bool(vars(type(module)).get("any_layout", False))
    return declared or type(module) in ANY_LAYOUT or isinstance(module, Rule | Rate | Chart)


def channels_last(x: T) -> T:
    """Inputs with every tensor of images in this layout: see `_channels_last`."""
    turned: T = tree_map(_channels_last, x)
    return turned


def _channels_last(leaf: Tensor) -> Tensor:
    """Images `[n, C, H, W]` on a CPU with the channels of a pixel side by side in memory.

    A net keeps the layout of its input. Norms and pooling are several times faster in it, convolutions as fast.
    """
    if leaf.ndim != 4 or not leaf.is_floating_point() or leaf.device.type != "cpu":
        return leaf
    leaf = leaf.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = leaf.shape
    # With one channel both layouts are the same numbers in the same order; the strides say which one is meant.
    return leaf.as_strided(leaf.shape, (channels * height * width, 1, channels * width, channels))


def sum_gradients(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The sum of gradients, where a missing one counts as zero; None when all are missing."""
    given = [part for part in parts if part is not None]
    return torch.stack(given).sum(0) if len(given) > 1 else (given[0] if given else None)
