"""Processes side by side on one machine, each of which looks for work that no other holds.

They share nothing but files and locks, so that one of them may be killed at any time: the lock goes with it, and the
next process that looks for work takes it up.
"""

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

from quickstudy.cli import terminal
from quickstudy.errors import InputError, RunError
from quickstudy.training.train import Stopped
from quickstudy.training.watcher import Watcher


class Asked(Watcher):
    """Stops when a signal asks, however often: the terminal sends one to every process, and so does the first."""

    def stop(self, number: int, frame: FrameType | None) -> None:
        """As a handler of signals."""
        del number, frame
        self.stopping = True


Job = Callable[..., None]
"""Called as `job(watcher, *args)` in every process; importable by name, with arguments that can be sent."""


def side_by_side(job: Job, args: tuple[Any, ...], workers: int, *, loud: bool) -> None:
    """Run a job in so many processes, and wait for all of them.

    An interruption is passed on, so that each saves where it stands, and raised when they have.

    Args:
        job: The work.
        args: Its arguments behind the watcher.
        workers: How many processes.
        loud: Whether warnings are shown as notes.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(job, args, loud)) for _ in range(workers)]
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
            process.terminate()  # asks: a worker saves where it stands
        for process in processes:
            process.join()
        raise
    finally:
        signal.signal(signal.SIGINT, interrupted)
        signal.signal(signal.SIGTERM, terminated)
    broken = sum(process.exitcode != 0 for process in processes)
    if broken:
        raise RunError(f"{broken} of {workers} workers broke off. Nothing is lost; the same command goes on.")


def _work(job: Job, args: tuple[Any, ...], loud: bool) -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    watcher = Asked()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, watcher.stop)
    try:
        with warnings.catch_warnings():
            terminal.note_warnings(not loud)
            job(watcher, *args)
    except Stopped:
        pass
    except (InputError, RunError) as error:
        terminal.error_line(error, as_json=False)
        sys.exit(1)
