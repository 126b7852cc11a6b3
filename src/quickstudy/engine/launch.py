"""`--workers N`: the same command N times on this machine, as `torchrun` would start it.

The workers are `python -m quickstudy` with the variables that torchrun sets. What is added: an exit code that means
what it means without workers, signals handed on once, and no second report of an error that a worker has explained.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported without saying so

from quickstudy.errors import InputError, RunError

GRACE = 60.0  # seconds for the others to end by themselves once one has failed: to notice, to tell, to save
HERE = "127.0.0.1"


def launch(workers: int, words: Sequence[str]) -> int:
    """Run a command line (without `--workers`) in so many workers; the exit code.

    Args:
        workers: How many.
        words: The command line after `quickstudy`.
    """
    if workers < 1:
        raise InputError(f"`--workers` was {workers}; give the number of processes, 1 or more.")
    if "RANK" in os.environ:
        raise InputError(
            f"This is already worker {os.environ['RANK']} of {os.environ.get('WORLD_SIZE', 'several')}: torchrun says "
            "how many there are. Leave --workers out."
        )
    store = TCPStore(HERE, 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5))
    shared = os.environ | {
        "MASTER_ADDR": HERE,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is this process's, and outlives any worker
        "WORLD_SIZE": str(workers),
        "LOCAL_WORLD_SIZE": str(workers),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # of all together: each takes its share
        "QUICKSTUDY_PARENT": str(os.getpid()),
        # What torch warns of where a connection closes is told in a sentence of ours.
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
    }
    started: list[subprocess.Popen[bytes]] = []
    with _handing_on(started):
        for rank in range(workers):
            own = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # In sessions of their own: Ctrl-C would otherwise reach them twice, and twice means "at once".
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "quickstudy", *words],
                    env=own,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        try:
            codes = _wait(started)
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
                process.wait()
    return _code(codes)


def without_workers(words: Sequence[str]) -> list[str]:
    """The command line of one worker.

    >>> without_workers(["train", "--workers", "2", "sine-maml", "--workers=4"])
    ['train', 'sine-maml']
    """
    kept = []
    rest = iter(words)
    for word in rest:
        if word == "--workers":
            next(rest, None)
        elif not word.startswith("--workers="):
            kept.append(word)
    return kept


def _wait(started: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Until all have ended, or one has failed and the others have had their time; the codes they ended with.

    One that has to be stopped after that is not at fault, and has 0.
    """
    deadline = None
    while None in (codes := [process.poll() for process in started]):
        if deadline is None and any(codes):
            deadline = time.monotonic() + GRACE
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return [code or 0 for code in codes]


def _code(codes: Sequence[int]) -> int:
    """The first worker's where it has one to tell; 1 where it was killed and another has told."""
    if codes[0] > 0 or not any(codes):
        return codes[0]
    if any(code > 0 for code in codes):
        return 1
    killed = ", ".join(f"{rank} by signal {-code}" for rank, code in enumerate(codes) if code < 0)
    raise RunError(f"Workers were killed: {killed}. What they had saved is intact: go on with it by --resume.")


@contextmanager
def _handing_on(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Ctrl-C and a polite kill go to the workers, which save and stop; this process waits for them."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        del frame
        for process in started:
            process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
