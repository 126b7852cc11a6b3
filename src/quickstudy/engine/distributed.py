"""The workers of one job: which tasks are whose, and what they tell each other.

`torchrun` (or `--workers`) starts the same command several times and says in the environment who is who. Each worker
runs its share of every meta-batch; one sum over workers makes a step's gradient. The first worker writes and speaks.
A job of one worker is a `World` too, in which nothing is sent.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

# torch exports these without saying so.
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]

from quickstudy.errors import InputError, RunError, describe_error

T = TypeVar("T")

STEP_TIMEOUT = timedelta(minutes=5)
"""How long a step waits for a worker that is silent but whose connection stands. A closed one is noticed at once."""
PREPARATION_TIMEOUT = timedelta(hours=1)
"""The same for what may take long on one worker and not on another: decoding pictures, writing, validating."""
SPEECH = 2.0  # seconds in which the first worker, if it lives, has begun to say what happened


class WorkerLost(RunError):
    """A worker ended, or fell silent, in the middle of the work."""

    heard = False
    """Whether another worker has said so."""


class RemoteError(RunError):
    """An error in code that is not ours, on another worker."""


class Sums(NamedTuple):
    """What a step needs to know of all its tasks: gradients (None: no task has one), loss, metric, and who would stop.

    `loss` and `metric` are parts of the mean over the meta-batch; `stopping` counts the workers that were asked to.
    """

    gradients: Sequence[Tensor | None]
    loss: float
    metric: float
    stopping: float


@dataclass(frozen=True)
class World:
    """One worker's view of the job.

    Args:
        rank: The number of this worker, from 0.
        size: How many there are.
        local: How many of them are on this machine.
        restarts: How often `torchrun` has started the job anew.
        parent: The process that started the workers and stops them; None where that is not for us to watch.
        group: What carries everything but gradients.
    """

    rank: int = 0
    size: int = 1
    local: int = 1
    restarts: int = 0
    parent: int | None = None
    group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the worker that writes and speaks."""
        return self.rank == 0

    def share(self, tasks: int) -> slice:
        """This worker's part of so many tasks; empty for some where there are fewer tasks than workers.

        >>> [World(rank, 3).share(5) for rank in range(3)]
        [slice(0, 1, None), slice(1, 3, None), slice(3, 5, None)]
        """
        return slice(self.rank * tasks // self.size, (self.rank + 1) * tasks // self.size)

    def turns(self) -> slice:
        """This worker's part of a list that is dealt out one by one."""
        return slice(self.rank, None, self.size)

    def threads(self, number: int | None) -> int | None:
        """This worker's part of a machine's threads."""
        return None if number is None else max(1, number // self.local)

    def sum(self, work: Callable[[], Sums], params: Sequence[Tensor]) -> Sums:
        """The sum of what each worker's `work` returns, in one flat all-reduce; an error of one is raised on all.

        Args:
            work: This worker's part, a gradient for each of `params`.
            params: What they are gradients of.
        """
        if self.size == 1:
            return work()
        error = None
        try:
            mine = work()
        except Exception as caught:  # the others are told through the sum, in which they wait for this worker
            error, mine = caught, Sums([None] * len(params), 0.0, 0.0, 0.0)
        orphaned = self.parent is not None and os.getppid() != self.parent
        numbers = [mine.loss, mine.metric, mine.stopping + orphaned, float(error is not None)]
        given = [float(gradient is not None) for gradient in mine.gradients]
        like = next(iter(params), torch.zeros(()))
        parts = [
            p.new_zeros(p.numel()) if g is None else g.flatten() for p, g in zip(params, mine.gradients, strict=True)
        ]
        flat = torch.cat([torch.tensor([*numbers, *given], dtype=like.dtype, device=like.device), *parts])
        with _connected():
            dist.all_reduce(flat)
        head, *summed = torch.split(flat, [len(numbers) + len(given), *(part.numel() for part in parts)])
        loss, metric, stopping, failed, *having = head.tolist()
        if failed:
            self.agree(lambda: _raise(error))
        gradients = [
            part.view_as(p).to(p.dtype) if have else None for p, part, have in zip(params, summed, having, strict=True)
        ]
        return Sums(gradients, loss, metric, stopping)

    def gather(self, value: T) -> list[T]:
        """Every worker's value, in their order."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        with _connected():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def agree(self, work: Callable[[], T]) -> T:
        """What `work` returns here, once it is done everywhere; an error of one worker is raised on all."""
        if self.size == 1:
            return work()
        done, error = _attempt(work)
        for rank, other in enumerate(self.gather(_sendable(error))):
            if error is not None:
                raise error
            if other is not None:
                raise type(other)(f"Worker {rank}: {other}") if rank else other
        return _certain(done)

    def from_first(self, work: Callable[[], T]) -> T:
        """What `work` returns on the first worker, the only one that does it."""
        if self.size == 1:
            return work()
        done, error = _attempt(work) if self.first else (None, None)
        sent = [(done, _sendable(error))]
        with _connected():
            dist.broadcast_object_list(sent, src=0, group=self.group)
        if error is not None:
            raise error
        value, failed = sent[0]
        if failed is not None:
            raise failed
        return _certain(value)


ALONE = World()


def speaks_to_user(error: BaseException | None = None) -> bool:
    """Whether this worker is the one that tells the user: the first, or of an error that the first cannot tell."""
    return not _several() or os.environ["RANK"] == "0" or (isinstance(error, WorkerLost) and not error.heard)


@contextmanager
def join_world() -> Iterator[World]:
    """The world that `torchrun` describes in the environment, or that of one worker."""
    here = os.environ
    if not _several():
        yield World(restarts=_number("TORCHELASTIC_RESTART_COUNT", 0))
        return
    absent = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in here]
    if absent:
        raise InputError(
            f"RANK and WORLD_SIZE are set, and {' and '.join(absent)} not, so the workers cannot find each other. "
            "Start them by torchrun or with --workers, or unset RANK and WORLD_SIZE."
        )
    local, restarts = _number("LOCAL_WORLD_SIZE", 1), _number("TORCHELASTIC_RESTART_COUNT", 0)
    try:
        store, rank, size = next(rendezvous("env://", timeout=STEP_TIMEOUT))
        store = PrefixStore(f"quickstudy/{restarts}", store)
        dist.init_process_group(
            _backend(local), store=PrefixStore("group", store), rank=rank, world_size=size, timeout=STEP_TIMEOUT
        )
        group = dist.new_group(backend="gloo", timeout=PREPARATION_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"Worker {here['RANK']} of {here['WORLD_SIZE']} did not find the others at {here['MASTER_ADDR']}:"
            f"{here['MASTER_PORT']}: {_first_line(error)}. See that all have started and that the machines reach each "
            "other."
        ) from error
    parent = _number("QUICKSTUDY_PARENT", 0) or None
    try:
        yield World(rank, size, local, restarts, parent, group)
    except BaseException as error:
        if isinstance(error, WorkerLost):
            with suppress(ValueError):  # torchrun tells the others to end: they do, once they have said why
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            error.heard = _heard(store, rank)
        elif rank == 0:
            _heard(store, rank)
        raise
    finally:
        dist.destroy_process_group()  # threads of a group that is left standing can abort the process at its end


def _several() -> bool:
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def _backend(local: int) -> str:
    """NCCL between GPUs of their own; it refuses workers that share one."""
    if not torch.cuda.is_available() or torch.cuda.device_count() < local:
        return "gloo"
    torch.cuda.set_device(_number("LOCAL_RANK", 0))
    return "cpu:gloo,cuda:nccl"


def _heard(store: Store, rank: int) -> bool:
    """Whether another worker says what happened: the first if it lives, else whoever asks first."""
    try:
        end = time.monotonic() + SPEECH
        while rank and time.monotonic() < end and not store.check(["spoken"]):
            time.sleep(0.05)
        return bool(store.add("spoken", 1) > 1)
    except RuntimeError:  # the store went with the worker that held it
        return False


@contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        said = _first_line(error).lower()
        if "timed out" in said or "timeout" in said:
            what = f"it has been silent for too long (a step waits for {STEP_TIMEOUT.seconds // 60} minutes)"
        else:
            what = "its connection closed" if "connection" in said or "closed" in said else _first_line(error)
        raise WorkerLost(f"A worker was lost: {what}.") from error


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _sendable(error: Exception | None) -> Exception | None:
    """An error as another worker can raise it: a user's own class may not survive the journey."""
    if isinstance(error, InputError):
        return InputError(str(error))
    if isinstance(error, RunError):
        return RunError(str(error))
    return None if error is None else RemoteError(describe_error(error))


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error


def _certain(value: T | None) -> T:
    return value  # type: ignore[return-value]  # None only where T has it: errors have been raised before


def _number(name: str, default: int) -> int:
    given = os.environ.get(name, str(default))
    if not given.isdecimal():
        raise InputError(f"The environment has {name}={given!r}, which is no number. torchrun sets it; unset it.")
    return int(given)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
