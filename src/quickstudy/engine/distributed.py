"""The workers of one job: how they divide the tasks, and what they send to each other.

`torchrun` (or `--workers`) starts the same command several times, each with its rank in the environment. Each worker
runs its share of every meta-batch, and one sum over the workers gives the gradient of a step. The first worker writes
files and messages. A job of one worker is a `World` too; it sends nothing.
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

from quickstudy.errors import InputError, RunError, describe_error
from quickstudy.rules.torch_private import PrefixStore, Store, rendezvous

T = TypeVar("T")

STEP_TIMEOUT = timedelta(minutes=5)
"""How long a step waits for a worker that sends nothing while its connection is open. A closed one is seen at once."""
PREPARATION_TIMEOUT = timedelta(hours=1)
"""The same for work that may take long on one worker only: decoding pictures, writing files, validating."""
REPORT_SECONDS = 2.0
"""How long the other workers wait for the first one to report an error before one of them does."""


class WorkerLostError(RunError):
    """A worker ended, or stopped answering, in the middle of the work."""

    reported = False
    """Whether another worker has reported it."""


class RemoteError(RunError):
    """An error of another worker, in code outside this package."""


class StepSums(NamedTuple):
    """What a step adds up over all of its tasks: gradients (None where no task has one), loss, metric, stop requests.

    `loss` and `metric` are parts of the mean over the meta-batch. `stopping` counts the workers that must stop.
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
        size: The number of workers.
        local: The number of workers on this machine.
        restarts: How often `torchrun` has restarted the job.
        parent: The process id of the launcher, without which the workers stop; None where another program watches them.
        group: The process group for everything but gradients.
    """

    rank: int = 0
    size: int = 1
    local: int = 1
    restarts: int = 0
    parent: int | None = None
    group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the worker that writes files and messages."""
        return self.rank == 0

    def share(self, tasks: int) -> slice:
        """This worker's part of a number of tasks. Some parts are empty when there are fewer tasks than workers.

        >>> [World(rank, 3).share(5) for rank in range(3)]
        [slice(0, 1, None), slice(1, 3, None), slice(3, 5, None)]
        """
        return slice(self.rank * tasks // self.size, (self.rank + 1) * tasks // self.size)

    def turns(self) -> slice:
        """This worker's part of a list of which worker r takes the items r, r + size, r + 2 size, ..."""
        return slice(self.rank, None, self.size)

    def threads(self, number: int | None) -> int | None:
        """This worker's part of the threads of its machine."""
        return None if number is None else max(1, number // self.local)

    def sum(self, work: Callable[[], StepSums], params: Sequence[Tensor]) -> StepSums:
        """The sum of what `work` returns on each worker, by one all-reduce; an error of one is raised on all.

        Args:
            work: Computes this worker's part, with a gradient for each of `params`.
            params: The parameters that the gradients belong to.
        """
        if self.size == 1:
            return work()
        found, error = _result_or_error(work)  # the sum, which the others wait for, carries the error to them
        mine = found or StepSums([None] * len(params), 0.0, 0.0, 0.0)
        orphaned = self.parent is not None and os.getppid() != self.parent  # the launcher has ended
        numbers = [mine.loss, mine.metric, mine.stopping + orphaned, float(error is not None)]
        given = [float(gradient is not None) for gradient in mine.gradients]
        like = next(iter(params), torch.zeros(()))
        parts = [
            p.new_zeros(p.numel()) if g is None else g.flatten() for p, g in zip(params, mine.gradients, strict=True)
        ]
        flat = torch.cat([torch.tensor([*numbers, *given], dtype=like.dtype, device=like.device), *parts])
        with _explain_lost_connection():
            dist.all_reduce(flat)
        head, *summed = torch.split(flat, [len(numbers) + len(given), *(part.numel() for part in parts)])
        loss, metric, stopping, failed, *having = head.tolist()
        if failed:
            self.agree(lambda: _raise_if_error(error))
        gradients = [
            part.view_as(p).to(p.dtype) if have else None for p, part, have in zip(params, summed, having, strict=True)
        ]
        return StepSums(gradients, loss, metric, stopping)

    def gather(self, value: T) -> list[T]:
        """Every worker's value, in their order."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        with _explain_lost_connection():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def agree(self, work: Callable[[], T]) -> T:
        """What `work` returns here, after all workers have done it; an error of one is raised on all."""
        if self.size == 1:
            return work()
        done, error = _result_or_error(work)
        for rank, other in enumerate(self.gather(_as_sendable(error))):
            if error is not None:
                raise error
            if other is not None:
                raise type(other)(f"Worker {rank}: {other}") if rank else other
        return _without_none(done)

    def from_first(self, work: Callable[[], T]) -> T:
        """What `work` returns on the first worker; the others do not call it."""
        if self.size == 1:
            return work()
        done, error = _result_or_error(work) if self.first else (None, None)
        sent = [(done, _as_sendable(error))]
        with _explain_lost_connection():
            dist.broadcast_object_list(sent, src=0, group=self.group)
        if error is not None:
            raise error
        value, failed = sent[0]
        if failed is not None:
            raise failed
        return _without_none(value)


SINGLE_WORKER = World()


def is_reporting_worker(error: BaseException | None = None) -> bool:
    """Whether this worker reports to the user: the first does, and another where the first was lost and none has."""
    if not _has_several_workers() or os.environ["RANK"] == "0":
        return True
    return isinstance(error, WorkerLostError) and not error.reported


@contextmanager
def join_world() -> Iterator[World]:
    """The job that `torchrun` describes in the environment, or a job of one worker; it is left at the end."""
    here = os.environ
    if not _has_several_workers():
        yield World(restarts=_read_number("TORCHELASTIC_RESTART_COUNT", 0))
        return
    absent = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in here]
    if absent:
        raise InputError(
            f"RANK and WORLD_SIZE are set, but not {' and '.join(absent)}, so the workers cannot find each other. "
            "Start them with torchrun or with --workers, or unset RANK and WORLD_SIZE."
        )
    local, restarts = _read_number("LOCAL_WORLD_SIZE", 1), _read_number("TORCHELASTIC_RESTART_COUNT", 0)
    try:
        store, rank, size = next(rendezvous("env://", timeout=STEP_TIMEOUT))
        store = PrefixStore(f"quickstudy/{restarts}", store)
        dist.init_process_group(
            _choose_backend(local), store=PrefixStore("group", store), rank=rank, world_size=size, timeout=STEP_TIMEOUT
        )
        group = dist.new_group(backend="gloo", timeout=PREPARATION_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"Worker {here['RANK']} of {here['WORLD_SIZE']} did not find the others at {here['MASTER_ADDR']}:"
            f"{here['MASTER_PORT']}: {_first_line_of(error)}. Check that all have started, and that each machine can "
            "reach the others."
        ) from error
    parent = _read_number("QUICKSTUDY_PARENT", 0) or None
    try:
        yield World(rank, size, local, restarts, parent, group)
    except BaseException as error:
        if isinstance(error, WorkerLostError):
            # torchrun then terminates the other workers: they end by themselves, after they have reported the reason.
            with suppress(ValueError):  # signals can be set in the main thread only
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            error.reported = _another_reports(store, rank)
        elif rank == 0:
            _another_reports(store, rank)
        raise
    finally:
        dist.destroy_process_group()  # otherwise its threads can abort the process when it ends


def _has_several_workers() -> bool:
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def _choose_backend(local: int) -> str:
    """NCCL where each worker has a GPU of its own: it refuses workers that share one. Gloo otherwise."""
    if not torch.cuda.is_available() or torch.cuda.device_count() < local:
        return "gloo"
    torch.cuda.set_device(_read_number("LOCAL_RANK", 0))
    return "cpu:gloo,cuda:nccl"


def _another_reports(store: Store, rank: int) -> bool:
    """Whether another worker reports the error: the first if it is alive, otherwise the first one to call this."""
    try:
        end = time.monotonic() + REPORT_SECONDS
        while rank and time.monotonic() < end and not store.check(["reported"]):
            time.sleep(0.05)
        return bool(store.add("reported", 1) > 1)
    except RuntimeError:  # the worker that served the store has ended
        return False


@contextmanager
def _explain_lost_connection() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = _first_line_of(error).lower()
        if "timed out" in reason or "timeout" in reason:
            what = f"it did not answer for {STEP_TIMEOUT.seconds // 60} minutes"
        else:
            what = "its connection closed" if "connection" in reason or "closed" in reason else _first_line_of(error)
        raise WorkerLostError(f"A worker was lost: {what}.") from error


def _result_or_error(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error
    except SystemExit as ended:  # by the user's code; the others must not wait for this worker
        failure = RunError(f"{describe_error(ended)}.")
        failure.__cause__ = ended
        return None, failure


def _as_sendable(error: Exception | None) -> Exception | None:
    """The error in a class that every worker can load: a class of the user's may not be."""
    if isinstance(error, InputError):
        return InputError(str(error))
    if isinstance(error, RunError):
        return RunError(str(error))
    return None if error is None else RemoteError(describe_error(error))


def _raise_if_error(error: Exception | None) -> None:
    if error is not None:
        raise error


def _without_none(value: T | None) -> T:
    return value  # type: ignore[return-value]  # None only if `work` returned it: an error was raised before


def _read_number(name: str, default: int) -> int:
    given = os.environ.get(name, str(default))
    if not given.isdecimal():
        raise InputError(
            f"The environment variable {name} is {given!r}, which is no number. Unset it; torchrun sets it by itself."
        )
    return int(given)


def _first_line_of(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
