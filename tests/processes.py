"""Commands in processes of their own, without importing torch again for each: a server imports it once and forks.

`Command("train", "sine.yaml", cwd=place)` starts `quickstudy train sine.yaml` as a terminal would. `MORTAL` is a user's
module whose tasks end their own process at a step that a file names: no test has to hit a moment from outside.
"""

import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
from pathlib import Path

from conftest import Done

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["quickstudy.cli.main", "quickstudy.training.sweep.study", "quickstudy.bench.implementations", "optuna"]
)

PATIENCE = 600
"""Seconds after which a process is taken to hang. No test waits so long for one that works."""

MORTAL = """
import json, os, threading
from dataclasses import dataclass
from pathlib import Path
from quickstudy.tasks import Sine

@dataclass(frozen=True)
class Mortal(Sine):
    def sample(self, draws, size, part):
        fate = Path("fate.json")
        if draws.split == "train" and fate.exists():
            step, number, delay = json.loads(fate.read_text())
            if draws.step == step:
                fate.unlink()
                kill = (os.getpid(), number)
                threading.Timer(delay, os.kill, kill).start() if delay else os.kill(*kill)
        return super().sample(draws, size, part)
"""


def doom(place, step: int, number: int, delay: float = 0.0) -> None:
    """Let the next process with tasks of `MORTAL` send itself a signal so many seconds after it begins a step."""
    (place / "fate.json").write_text(json.dumps([step, int(number), delay]))


class Command:
    """A process that does `quickstudy WORDS`, or any function of a module that can be imported.

    Args:
        words: The words after `quickstudy`.
        cwd: Its working directory.
        env: Added to this process's environment.
        file_size: Bytes that a file can have: a fuller disk than that.
    """

    def __init__(self, *words, cwd, env=(), file_size: int | None = None, target=None):
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")} | dict(env)
        ends = [SERVER.Pipe(duplex=False) for _ in range(2)]
        arguments = (target or _command, [*map(str, words)], str(cwd), environment, file_size, [w for _, w in ends])
        self.process = SERVER.Process(target=_begin, args=arguments)
        self.process.start()
        self.texts = ["", ""]
        self.readers = [threading.Thread(target=self._read, args=(i, r)) for i, (r, _) in enumerate(ends)]
        for (_, writer), reader in zip(ends, self.readers, strict=True):
            writer.close()
            reader.start()

    def _read(self, index, pipe):
        with os.fdopen(os.dup(pipe.fileno()), encoding="utf-8") as stream:
            self.texts[index] = stream.read()
        pipe.close()

    def running(self) -> bool:
        return self.process.is_alive()

    def send_signal(self, number) -> None:
        os.kill(self.process.pid, number)

    def wait(self) -> Done:
        """Wait for its end: the exit code (less than 0: the signal that ended it), and what it printed."""
        self.process.join(PATIENCE)
        assert not self.running(), f"{self.process} hangs"
        for reader in self.readers:
            reader.join(PATIENCE)
        return Done(self.process.exitcode, *self.texts)


def _command(words):
    sys.argv = ["quickstudy", *words]
    from quickstudy.__main__ import main

    sys.exit(main())


def run_code(words):
    """A target for `Command`: its first word is Python code, the others are in `sys.argv`."""
    code, *sys.argv[1:] = words
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})


def _begin(target, words, cwd, environment, file_size, pipes):
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, pipe in enumerate(pipes, start=1):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - open until the process ends
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    target(words)
