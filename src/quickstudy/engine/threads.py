"""Tasks side by side on the threads of one process.

A call changes nothing of the learner, so its tasks may run at once. Convolutions and their backward passes release
Python's lock, and every task runs on one thread of torch's. So two cores take nearly half the time, where torch's own
two threads in one task take three quarters of it, and the numbers are those of one thread, bit by bit.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import TypeVar

import numpy as np
import torch

R = TypeVar("R")


@contextmanager
def use_threads(number: int | None) -> Iterator[None]:
    """Set the number of threads of torch's kernels, and restore it afterwards. None: leave it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def map_on_threads(function: Callable[[int], R], count: int, threads: int) -> Iterator[R]:
    """`function(0)`, `function(1)`, ... up to `count`, in this order, so many at once, each with one thread of torch's.

    With one thread, or for one call, the number of torch's threads stays.
    """
    if min(threads, count) < 2:
        yield from map(function, range(count))
        return
    # These hold for one thread, and context variables too.
    differentiating, casting = torch.is_grad_enabled(), casting_here()

    def run(number: int) -> R:
        with torch.set_grad_enabled(differentiating), cast_as(casting):
            return function(number)

    contexts = [copy_context() for _ in range(count)]
    # A new thread begins with the number of torch's threads that the one has which starts it.
    with use_threads(1), ThreadPoolExecutor(min(threads, count)) as pool:
        yield from pool.map(lambda number: contexts[number].run(run, number), range(count))


Casting = tuple[tuple[str, torch.dtype, bool], ...]
"""Of each kind of device: the type that autocast has, and whether it is on."""


def casting_here() -> Casting:
    """The autocast of the calling thread."""
    return tuple((d, torch.get_autocast_dtype(d), torch.is_autocast_enabled(d)) for d in ("cpu", "cuda"))


@contextmanager
def cast_as(casting: Casting) -> Iterator[None]:
    """Autocast as it was elsewhere: in another thread, or before a backward pass."""
    with ExitStack() as stack:
        for device, dtype, enabled in casting:
            if enabled or torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, dtype, enabled))
        yield


@contextmanager
def keep_generators(devices: Sequence[int] = ()) -> Iterator[None]:
    """Put the generators of the whole process, torch's, NumPy's and Python's, back to where they were.

    With `devices`, those of these GPUs too.
    """
    numpys, pythons = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            np.random.set_state(numpys)
            random.setstate(pythons)


def draws_random_numbers(run: Callable[[], object]) -> bool:
    """Whether a computation draws from a generator of the whole process; their states are put back."""

    def states() -> tuple[str, ...]:
        # With the position in the stream, so a cut text of the numbers is enough.
        return repr(torch.get_rng_state().tolist()), repr(np.random.get_state()), repr(random.getstate())

    with keep_generators():
        before = states()
        run()
        return states() != before
