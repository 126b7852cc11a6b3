"""`compute.compile: auto`: a second process compiles into torch's cache while a training takes its first steps.

The training then compiles the same code, and finds it in the cache: that takes seconds instead of a minute.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from threading import Thread
from time import perf_counter

from quickstudy.engine.threads import use_threads
from quickstudy.training.config import Config, build, parse_config, schedule

LIMIT_SECONDS = 900.0
"""When a compilation is given up."""


class CompileAhead:
    """A process that compiles the meta-gradient of a configuration. It ends with this process at the latest."""

    def __init__(self, config: Config, step: int) -> None:
        # The module of another folder than here would be found if the working directory came first.
        places = os.pathsep.join(os.path.abspath(place) for place in sys.path)
        own = {"PYTHONPATH": places, "PYTHONSAFEPATH": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        self._begun = perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "quickstudy.training.compile_ahead"],
            env=os.environ | own,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is for the training
            text=True,
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it failed at once, and `ended` says so
            self._process.stdin.write(json.dumps({"config": config.model_dump(mode="json"), "step": step}) + "\n")
            self._process.stdin.flush()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process has ended, or took too long."""
        if perf_counter() - self._begun > LIMIT_SECONDS:
            self.close()
        return self._process.poll() is not None

    @property
    def compiled(self) -> bool:
        """Whether the cache now has the compiled code."""
        return self._process.poll() == 0

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()


def main() -> None:
    """Compile what standard input describes; the exit code is 0 if that has succeeded."""
    asked = json.loads(sys.stdin.readline())

    def end_with_parent() -> None:
        sys.stdin.read()  # until the pipe is closed, by whatever ended the training
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)
    config = parse_config(asked["config"])
    with use_threads(config.compute.threads):
        setup = build(config)
        learner = setup.learner
        learner.engine, learner.trusted = learner.engine.replace(compile=True), True
        schedule.apply_schedules(learner, config.train.schedules, asked["step"])
        tasks = setup.family.source("train", seed=config.seed, size=config.train.meta_batch_size)(asked["step"])
        learner.train()
        learner.meta_gradient(tasks, seed=config.seed, reduction=config.train.reduction)
    os._exit(0 if learner.engine.compiles else 1)  # the thread waits for the pipe


if __name__ == "__main__":
    main()
