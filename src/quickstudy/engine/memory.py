"""How much memory a batch of tasks needs, how many tasks fit at once, and the error message when memory runs out.

The need is measured: one task and then two tasks are run while the bytes of live tensors are counted, and the
difference is the need of one more task. This counts what torch allocates for tensors on any device. It does not count
what kernels use inside (the workspace of a convolution, the CUDA context), so a run plans with a part of what is free.
"""

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.engine.devices import format_bytes
from quickstudy.errors import RunError
from quickstudy.rules.torch_private import TorchDispatchMode, tree_leaves

OUT_OF_MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""What allocators and kernel libraries write in their errors where they have no class for running out of memory."""
MEMORY_ADVICE = (
    "Run fewer tasks at once with `compute.chunk`, take a smaller `train.meta_batch_size`, keep fewer inner steps in "
    "memory with `compute.recompute`, or give fewer `tasks.queries`. `quickstudy info CONFIG` estimates what is needed."
)


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes at the peak of a batch: `fixed` once, and `task` for each of the tasks that run at once."""

    fixed: int
    task: int

    def of(self, tasks: int) -> int:
        """The bytes for a number of tasks at once.

        >>> MemoryNeed(fixed=100, task=10).of(4)
        140
        """
        return self.fixed + tasks * self.task

    def tasks_in(self, memory: int) -> int:
        """How many tasks at once fit so many bytes; 1 where none does, as a batch has at least one.

        >>> MemoryNeed(fixed=100, task=10).tasks_in(145), MemoryNeed(fixed=100, task=10).tasks_in(50)
        (4, 1)
        """
        return max((memory - self.fixed) // max(self.task, 1), 1)


class _StorageRef(weakref.ref[torch.UntypedStorage]):
    """A weak reference to a counted storage, with its id and its bytes, which are asked for when it is gone."""

    number: int
    size: int


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of the storages that operators make, and takes off those that are freed.

    The callback of a weak reference runs wherever its storage is freed, and Python drops every exception raised in it.
    A Ctrl-C that came while Python code ran there would be lost. So the callback is a method in C, `list.append`,
    during which no signal is handled; the subtraction follows at the next operator.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.peak = 0, 0
        self._counted: dict[int, _StorageRef] = {}
        self._freed: list[_StorageRef] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._subtract_freed()
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in given and id(storage) not in self._counted:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        reference = _StorageRef(storage, self._freed.append)
        reference.number, reference.size = id(storage), storage.nbytes()
        self._counted[reference.number] = reference
        self.live += reference.size
        self.peak = max(self.peak, self.live)

    def _subtract_freed(self) -> None:
        while self._freed:
            reference = self._freed.pop()
            del self._counted[reference.number]
            self.live -= reference.size


def peak_bytes(run: Callable[[], object]) -> int:
    """The largest number of bytes of live tensors while `run` runs, beyond those that existed before it.

    >>> peak_bytes(lambda: torch.zeros(1000) + torch.zeros(1000))
    12000
    """
    with _LiveBytes() as counted:
        run()
    return int(counted.peak)


def measure_memory(run: Callable[[int], object]) -> MemoryNeed:
    """The need of a batch, measured on one task and on two. The state of torch's generators does not change."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        one, two = peak_bytes(lambda: run(1)), peak_bytes(lambda: run(2))
    return MemoryNeed(fixed=max(2 * one - two, 0), task=max(two - one, 0))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY_MESSAGES)


@contextmanager
def explain_out_of_memory(where: str, standing: Callable[[], str] = str) -> Iterator[None]:
    """Turn an out-of-memory error into one that names the settings to change.

    Args:
        where: What was running; the message begins with it.
        standing: Returns what else the message says, such as the last checkpoint; called after such an error only.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = f"{where}: out of memory{_describe_request(str(error))}. {MEMORY_ADVICE} {standing()}"
        raise RunError(message.strip()) from error


def _describe_request(message: str) -> str:
    """The amount that was asked for, in brackets; nothing where the allocator's message does not say it."""
    wanted = re.search(r"(?:allocate|allocating) (\d+(?:\.\d+)?) ?(bytes|[KMGT]iB)", message)
    if wanted is None:
        return ""
    return f" (asked for {format_bytes(float(wanted[1])) if wanted[2] == 'bytes' else f'{wanted[1]} {wanted[2]}'})"
