"""`--workers N`: the same command N times on this machine, as `torchrun` would start it.

Each worker is `python -m quickstudy` with the environment variables that torchrun sets. Unlike torchrun, the launcher
ends with the exit code that the command has without workers, forwards each signal once, and reports no error that a
worker has reported.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

import torch

from quickstudy.errors import InputError, RunError
from quickstudy.rules.torch_private import TCPStore

GRACE_SECONDS = 60.0
"""How long the other workers may take to end after one has failed: they must notice it, report it and save."""
LOCALHOST = "127.0.0.1"


def launch_workers(workers: int, words: Sequence[str]) -> int:
    """Run a command line in several workers; its exit code.

    Args:
        workers: The number of processes.
        words: The command line after `quickstudy`, without `--workers`.
    """
    if workers < 1:
        raise InputError(f"`--workers` was {workers}; give the number of processes, 1 or more.")
    if "RANK" in os.environ:
        raise InputError(
            f"This is already worker {os.environ['RANK']} of {os.environ.get('WORLD_SIZE', 'several')}: torchrun sets "
            "the number of workers. Leave --workers out."
        )
    store = open_store()
    shared = os.environ | {
        "MASTER_ADDR": LOCALHOST,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # this process serves the store, whatever becomes of the workers
        "WORLD_SIZE": str(workers),
        "LOCAL_WORLD_SIZE": str(workers),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # for all workers together: each takes its part
        "QUICKSTUDY_PARENT": str(os.getpid()),
        # Workers of one machine speak over the loopback interface only; it is named so on Linux.
        **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" and "GLOO_SOCKET_IFNAME" not in os.environ else {}),
        # torch prints a warning for each closed connection; the lost worker is reported in one sentence instead.
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
    }
    started: list[subprocess.Popen[bytes]] = []
    with _forward_signals(started):
        for rank in range(workers):
            own = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # Each in a session of its own. Otherwise Ctrl-C would reach it from the terminal and from here, and a
            # second Ctrl-C means "stop without saving".
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "quickstudy", *words],
                    env=own,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        try:
            codes = _wait_for(started)
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
                process.wait()
    return _exit_code(codes)


def open_store() -> TCPStore:
    """The store by which workers meet. It listens on the loopback interface; by itself it would listen on all."""
    listener = socket.create_server((LOCALHOST, 0))
    port = listener.getsockname()[1]
    minutes = timedelta(minutes=5)
    # The store closes the descriptor in the end.
    return TCPStore(
        LOCALHOST, port, is_master=True, wait_for_workers=False, timeout=minutes, master_listen_fd=listener.detach()
    )


def without_workers(words: Sequence[str]) -> list[str]:
    """The command line of one worker.

    >>> without_workers(["train", "--workers", "2", "sine-maml", "--workers=4"])
    ['train', 'sine-maml']
    """
    remaining = []
    rest = iter(words)
    for word in rest:
        if word == "--workers":
            next(rest, None)
        elif not word.startswith("--workers="):
            remaining.append(word)
    return remaining


def _wait_for(started: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait until all have ended, or until `GRACE_SECONDS` after the first failure; their exit codes.

    The code of a worker that is still running then is 0: the failure is not its own.
    """
    deadline = None
    while None in (codes := [process.poll() for process in started]):
        if deadline is None and any(codes):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return [code or 0 for code in codes]


def _exit_code(codes: Sequence[int]) -> int:
    """The exit code of the first worker; 1 where that was killed and another one has reported the error."""
    if codes[0] > 0 or not any(codes):
        return codes[0]
    if any(code > 0 for code in codes):
        return 1
    killed = ", ".join(f"{rank} by signal {-code}" for rank, code in enumerate(codes) if code < 0)
    raise RunError(f"Workers were killed: {killed}. What they saved is intact; continue it with --resume.")


@contextmanager
def _forward_signals(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Forward SIGINT and SIGTERM to the workers, which save and stop, while this process waits for them."""

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        for process in started:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
