"""A process of a contender. It reads commands and writes answers, each a line of JSON.

`measure` starts it as `python -m quickstudy.bench.worker CONTENDER RANK RENDEZVOUS`.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from quickstudy.bench import agreement, machine, memory
from quickstudy.bench.contenders import Contender, get_contender
from quickstudy.bench.implementations import Implementation
from quickstudy.bench.workloads import Case
from quickstudy.engine import allocator
from quickstudy.errors import InputError, describe_error


class Worker:
    """The commands that a process understands, by name."""

    def __init__(self, contender: Contender, rank: int) -> None:
        self.contender, self.rank = contender, rank  # its number among the contender's processes
        self.implementation: Implementation | None = None

    def build(self, case: dict[str, Any]) -> None:
        """Prepare a case. The case before is dropped first."""
        self.implementation = None
        self.implementation = self.contender.make(Case(**case), self.rank)

    def repeat(self, times: int) -> None:
        """Do so many training steps or evaluations."""
        assert self.implementation is not None
        self.implementation.run(times)

    def memory(self) -> int:
        """The peak memory of the prepared case."""
        assert self.implementation is not None
        return memory.measure_peak_above(self.implementation)

    def check(self, case: dict[str, Any], names: list[str]) -> dict[str, Any]:
        """The errors of contenders on a case."""
        return dict(agreement.check_agreement(Case(**case), names))

    def flops(self, case: dict[str, Any]) -> int:
        """The operations of a case."""
        return machine.count_flops(Case(**case))

    def peaks(self) -> dict[str, float]:
        """The peak speed of the machine with this process's threads."""
        return machine.measure_peaks()


def serve(name: str, rank: int, rendezvous: str) -> None:
    """Answer commands until standard input ends."""
    # Only answers go to standard output. What a library prints goes to standard error instead.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    contender = get_contender(name)
    if contender.threads is not None:
        torch.set_num_threads(contender.threads)
    if contender.tuned:
        allocator.keep_freed_memory()
    if contender.processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=contender.processes)
    worker = Worker(contender, rank)
    for line in sys.stdin:
        options = json.loads(line)
        command: Callable[..., Any] = getattr(worker, options.pop("do"))
        try:
            answer = {"value": command(**options)}
        except Exception as error:  # any error of a contender is an answer: it is left out for this reason
            answer = {"error": str(error) if isinstance(error, InputError) else describe_error(error)}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
