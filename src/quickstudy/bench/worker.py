"""A contender's own process: it does what it is told, a line of JSON at a time, and answers each with a line.

`python -m quickstudy.bench.worker CONTENDER RANK RENDEZVOUS` is started by `measure`; nobody starts it by hand.
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
from quickstudy.bench.contenders import Contender, contender
from quickstudy.bench.makers import Maker
from quickstudy.bench.workloads import Case
from quickstudy.engine import allocator
from quickstudy.errors import InputError, describe_error


class Worker:
    """One process's state: who it is, and what it has built.

    Args:
        who: The contender.
        rank: Which of its processes.
    """

    def __init__(self, who: Contender, rank: int) -> None:
        self.who, self.rank = who, rank
        self.maker: Maker | None = None
        self.phase = ""

    def build(self, case: dict[str, Any]) -> None:
        """Get ready for a case; what was built before is dropped first."""
        self.maker = None
        wanted = Case(**case)
        self.phase = wanted.phase
        self.maker = self.who.make(wanted, self.rank)

    def go(self, times: int) -> None:
        """So many training steps or evaluations."""
        assert self.maker is not None
        once = self.maker.train if self.phase == "train" else self.maker.evaluate
        for _ in range(times):
            once()

    def memory(self) -> int:
        """Peak memory of what was built, before it has run."""
        assert self.maker is not None
        return memory.peak_above(self.maker, self.phase)

    def check(self, case: dict[str, Any], names: list[str]) -> dict[str, Any]:
        """Agreement of contenders on a case."""
        return dict(agreement.check_agreement(Case(**case), names))

    def flops(self, case: dict[str, Any]) -> int:
        """What a case asks."""
        return machine.count_flops(Case(**case))

    def peaks(self) -> dict[str, float]:
        """What the machine can do with this process's threads."""
        return machine.measure_peaks()


def main(name: str, rank: int, rendezvous: str) -> None:
    """Answer until there is nothing more to read."""
    # What a library prints must not come between the answers: they keep standard output, the rest goes to the errors.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    who = contender(name)
    if who.threads is not None:
        torch.set_num_threads(who.threads)
    if who.tuned:
        allocator.keep_freed_memory()
    if who.processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=who.processes)
    worker = Worker(who, rank)
    for line in sys.stdin:
        asked = json.loads(line)
        do: Callable[..., Any] = getattr(worker, asked.pop("do"))
        try:
            answer = {"value": do(**asked)}
        except Exception as error:  # told to whoever asked, who leaves this contender out and says why
            answer = {"error": str(error) if isinstance(error, InputError) else describe_error(error)}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
