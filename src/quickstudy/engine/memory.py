"""How much memory a batch of tasks takes, how many tasks fit at once, and what to say when it did not fit.

What a step takes is measured, not modelled: one task and two tasks are run while the live tensors are counted, and the
difference is a task's share. Counted is what torch allocates for tensors, on any device; what kernels take inside
(a convolution's scratch, the CUDA context) is not, which is why only a part of what is free is planned with.
"""

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from quickstudy.engine.devices import format_bytes
from quickstudy.errors import RunError

SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""How allocators and libraries of kernels say it, where they raise no error of its own kind."""
ADVICE = (
    "Run fewer tasks at once with `compute.chunk`, take a smaller `train.meta_batch_size`, keep fewer inner steps in "
    "memory with `compute.recompute`, or give fewer `tasks.queries`. `quickstudy info CONFIG` estimates what is needed."
)


@dataclass(frozen=True)
class Need:
    """Bytes at the peak of a batch: `fixed` once and `task` for each task that runs at the same time."""

    fixed: int
    task: int

    def of(self, tasks: int) -> int:
        """For so many tasks at once.

        >>> Need(fixed=100, task=10).of(4)
        140
        """
        return self.fixed + tasks * self.task

    def fitting(self, room: int) -> int:
        """How many tasks at once fit; 1 where none does, as there is no less.

        >>> Need(fixed=100, task=10).fitting(room=145), Need(fixed=100, task=10).fitting(room=50)
        (4, 1)
        """
        return max((room - self.fixed) // max(self.task, 1), 1)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operators make, and takes off those that are gone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.peak = 0, 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in given and id(storage) not in self._seen:
                    self._count(storage)
        return result

    def _count(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_: object) -> None:
            self._seen.pop(key, None)
            self.live -= size

        self._seen[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes of tensors that were alive at once beside those from before `run`.

    >>> peak_bytes(lambda: torch.zeros(1000) + torch.zeros(1000))
    12000
    """
    counting = _Counting()
    with counting:
        run()
    return counting.peak


def measure_memory(run: Callable[[int], object]) -> Need:
    """The need of a batch, from runs of one and of two tasks. Torch's generators are left as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        one, two = peak_bytes(lambda: run(1)), peak_bytes(lambda: run(2))
    return Need(fixed=max(2 * one - two, 0), task=max(two - one, 0))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


@contextmanager
def explain_out_of_memory(where: str, standing: Callable[[], str] = str) -> Iterator[None]:
    """An out-of-memory error inside becomes one that names the settings to change.

    Args:
        where: What was going on, to begin the message.
        standing: What else to say, asked for only then: the last checkpoint, say.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = f"{where}: out of memory ({_first(str(error))}). {ADVICE} {standing()}"
        raise RunError(said.strip()) from error


def _first(text: str) -> str:
    """How much was asked for, in the allocator's words."""
    wanted = re.search(r"(?:allocate|allocating) (\d+(?:\.\d+)?) ?(bytes|[KMGT]iB)", text)
    if wanted is None:
        return "of how much, the allocator does not say"
    return f"{format_bytes(float(wanted[1])) if wanted[2] == 'bytes' else f'{wanted[1]} {wanted[2]}'} were asked for"
