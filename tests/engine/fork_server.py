"""Runs `quickstudy` commands, with their workers, in forks of one process that has imported it once: run as a program.

A process of its own imports torch for two seconds; a test of several workers starts three. Here only `fork` differs
from a real start: each command has its own process, environment, directory and streams, and so has each worker.

One request is a line of JSON on standard input (`words`, `cwd`, `env`), its answer a line on standard output.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import torch
import torch._dynamo

from quickstudy.cli.main import run_command
from quickstudy.engine import launch


def run(words: Sequence[str], env: Mapping[str, str], cwd: str) -> None:
    """One command, in a process that was just forked; it does not return."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        torch.set_num_threads(int(env.get("OMP_NUM_THREADS", 1)))
        sys.argv = ["quickstudy", *words]
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        code = run_command()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class ForkedWorker:
    """The part of `subprocess.Popen` that `launch` uses."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], stdin: int, start_new_session: bool) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            run(command[command.index("quickstudy") + 1 :], env, os.getcwd())

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def answer(request: Mapping[str, object]) -> dict[str, object]:
    """Fork a command, and collect its output until it and its workers have closed their streams."""
    pipes = [os.pipe(), os.pipe()]
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, (reader, writer) in enumerate(pipes, start=1):
            os.close(reader)
            os.dup2(writer, number)
            os.close(writer)
        run(request["words"], request["env"], request["cwd"])  # type: ignore[arg-type]
    said = {}
    with selectors.DefaultSelector() as selector:
        for reader, writer in pipes:
            os.close(writer)
            said[reader] = b""
            selector.register(reader, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                part = os.read(key.fd, 2**16)
                said[key.fd] += part
                if not part:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    out, err = (text.decode() for text in said.values())
    return {"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "out": out, "err": err}


if __name__ == "__main__":
    launch.subprocess = SimpleNamespace(Popen=ForkedWorker, DEVNULL=subprocess.DEVNULL)  # type: ignore[assignment]
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
