"""Processes side by side on one machine, each of which takes work that no other has taken.

They share nothing but files and locks, so one of them may be killed at any time: its lock goes with it, and the next
process that looks for work takes that work up.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

from quickstudy.cli.terminal import HANGUPS, Console
from quickstudy.errors import InputError, RunError
from quickstudy.training.watcher import Watcher


class SignalWatcher(Watcher):
    """Stops when a signal comes, and takes a second one quietly: the terminal and the first process both send it.

    It stops too when the first process has ended without a word, as when it was killed: nobody waits for the work.
    """

    def __init__(self) -> None:
        self.told, self.first = False, multiprocessing.parent_process()

    @property
    def stopping(self) -> bool:  # type: ignore[override]  # training only reads it
        """Whether to save and stop."""
        return self.told or (self.first is not None and os.getppid() != self.first.pid)

    def stop(self, number: int, frame: FrameType | None) -> None:
        """A handler of signals."""
        del number, frame
        self.told = True


Job = Callable[..., None]
"""Called as `job(watcher, console, *args)` in every process: importable by name, with arguments that can be pickled."""


def run_side_by_side(job: Job, args: tuple[Any, ...], workers: int, console: Console) -> None:
    """Run a job in several processes, and wait for all of them.

    An interruption is passed on, so that each saves its work, and is raised when all have ended.

    Args:
        job: The work.
        args: Its arguments after the watcher and the console.
        workers: How many processes.
        console: Where they show their notes.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run_job, args=(job, console, args)) for _ in range(workers)]
    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: a worker that is still importing goes on
    try:
        for process in processes:
            process.start()
        signal.signal(signal.SIGINT, interrupted)
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for process in processes:
            process.terminate()  # a request: the worker saves its work first
        for process in processes:
            process.join()
        raise
    finally:
        signal.signal(signal.SIGINT, interrupted)
        signal.signal(signal.SIGTERM, terminated)
    failed = sum(process.exitcode != 0 for process in processes)
    if failed:
        raise RunError(f"{failed} of {workers} workers failed. Nothing is lost; the same command goes on.")


def _run_job(job: Job, console: Console, args: tuple[Any, ...]) -> None:
    watcher = SignalWatcher()
    for number in (signal.SIGINT, signal.SIGTERM, *HANGUPS):
        signal.signal(number, watcher.stop)
    from quickstudy.training.train import StoppedError

    try:
        with warnings.catch_warnings():
            console.show_warnings()
            job(watcher, console, *args)
    except StoppedError:
        pass
    except (InputError, RunError) as error:
        Console().error(
            error
        )  # on standard error also under --json: the results on standard output are the first process's
        sys.exit(1)
