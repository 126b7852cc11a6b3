"""Processes that do jobs for this one and answer through a pipe, each on one core.

A job is called as `job(watcher, *arguments)`. Its training reports every outer step through the watcher. An error of a
job is raised here. When this process stops, or is killed, its processes save what they train and end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NamedTuple

from quickstudy.cli.terminal import HANGUPS, Console
from quickstudy.errors import InputError, RunError
from quickstudy.training.watcher import Watcher

PATIENCE = 30.0
"""Seconds in which a process that is told to stop can save its training."""


class Job(NamedTuple):
    """Work for one process: a function that can be imported by name, with arguments that can be pickled."""

    title: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...]


class PipeWatcher(Watcher):
    """Reports steps through a pipe. A signal saves a training and ends it; where there is none, it ends the process."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.stopping = False
        self.training = False

    @contextmanager
    def in_training(self) -> Iterator[None]:
        """While there is something to be saved when a signal comes."""
        self.training = True
        try:
            yield
        finally:
            self.training = False

    def step(self, step: int, loss: float) -> None:
        self.pipe.send(("step", (step, loss)))

    def stop(self, number: int, frame: FrameType | None) -> None:
        """A handler of signals."""
        del number, frame
        if not self.training:
            os._exit(1)
        self.stopping = True


class JobProcesses:
    """Processes that wait for jobs. Use it in a `with` statement, whose end stops them.

    Args:
        count: How many processes.
        console: Where they show their notes.
    """

    def __init__(self, count: int, console: Console) -> None:
        self.count, self.console = count, console
        self.processes: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> JobProcesses:
        context = multiprocessing.get_context("spawn")
        self.terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
        interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: one that is still importing goes on
        try:
            for _ in range(self.count):
                pipe, end = context.Pipe()
                process = context.Process(target=_answer_jobs, args=(end, self.console))
                process.start()
                end.close()
                self.processes.append((process, pipe))
        finally:
            signal.signal(signal.SIGINT, interrupted)
        return self

    def __exit__(self, *error: object) -> None:
        for process, _ in self.processes:
            process.terminate()
        for process, pipe in self.processes:
            process.join(PATIENCE)
            process.kill()
            pipe.close()
        signal.signal(signal.SIGTERM, self.terminated)

    def run(self, jobs: Sequence[Job], show: Callable[[str, int, float], None]) -> dict[str, Any]:
        """Do all jobs, in their order as processes are free. Return the answers by title.

        Args:
            jobs: The work.
            show: Called with a job's title, the step and the loss, after every step of its training.
        """
        left, idle = list(jobs), list(self.processes)
        busy: dict[Any, tuple[Job, BaseProcess]] = {}  # by pipe
        answers: dict[str, Any] = {}
        while left or busy:
            while left and idle:
                process, free = idle.pop()
                busy[free] = left.pop(0), process
                with suppress(BrokenPipeError):  # a process that has ended is met below
                    free.send(busy[free][0])
            pipe: Any  # or a socket or a handle, as `wait` is typed
            for pipe in wait(list(busy)):
                job, process = busy[pipe]
                try:
                    kind, value = pipe.recv()
                except (EOFError, ConnectionResetError) as error:
                    process.join(PATIENCE)
                    raise RunError(
                        f"The process of {job.title!r} ended with code {process.exitcode}, which is minus the signal "
                        "if one ended it (9 for want of memory). What it had saved is kept."
                    ) from error
                if kind == "step":
                    show(job.title, *value)
                    continue
                if kind == "error":
                    raise value
                answers[job.title] = value
                idle.append((process, pipe))
                del busy[pipe]
        return answers


def _answer_jobs(pipe: Connection, console: Console) -> None:
    from quickstudy.engine.allocator import keep_freed_memory
    from quickstudy.training.train import StoppedError

    keep_freed_memory()
    watcher = PipeWatcher(pipe)
    for number in (signal.SIGINT, signal.SIGTERM, *HANGUPS):
        signal.signal(number, watcher.stop)
    with warnings.catch_warnings(), suppress(StoppedError, EOFError, BrokenPipeError, ConnectionResetError):
        console.show_warnings()
        while True:
            job = pipe.recv()
            try:
                answer = "done", job.work(watcher, *job.arguments)
            except StoppedError:
                raise
            except (BrokenPipeError, ConnectionResetError):  # the first process has gone
                raise
            except (InputError, RunError, OSError) as error:
                answer = "error", error
            pipe.send(answer)
