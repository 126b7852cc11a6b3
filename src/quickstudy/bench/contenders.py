"""Who takes part, and under which settings: threads, allocator, engine, one process or two."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from quickstudy.bench.implementations import ByHand, Forward, Implementation, Library
from quickstudy.bench.jax_peer import Jax
from quickstudy.bench.peers import Higher, Learn2Learn, TorchOpt
from quickstudy.bench.workloads import Case
from quickstudy.errors import InputError, suggest_nearest

IMPLEMENTATIONS: dict[str, type[Implementation]] = {
    "library": Library,
    "plain": ByHand,
    "forward": Forward,
    "higher": Higher,
    "torchopt": TorchOpt,
    "learn2learn": Learn2Learn,
    "jax": Jax,
}

CLEARED_VARIABLES = ("OMP_", "MKL_", "GOMP_", "KMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "XLA_FLAGS")
"""The beginnings of variables that change threads or the allocator. A contender's process has none of them."""


def clean_environment() -> dict[str, str]:
    """The environment without these variables. Its processes import this very package, installed or not."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(CLEARED_VARIABLES)}
    folders = [str(Path(__file__).parents[2]), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(folders)}


@dataclass(frozen=True)
class Contender:
    """One way of computing cases."""

    implementation: str  # of `IMPLEMENTATIONS`
    about: str  # for people
    engine: Mapping[str, Any] = field(default_factory=dict)  # options of the library's engine
    threads: int | None = None  # of each process; None for torch's own default
    tuned: bool = False  # whether the C allocator keeps freed memory, as `quickstudy.engine.allocator` makes it do
    processes: int = 1  # they share the tasks of a step and average their gradients

    def environment(self) -> dict[str, str]:
        """The environment of the contender's processes."""
        environment = clean_environment()
        if self.threads is None:
            return environment
        return environment | {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}

    def part(self, case: Case, rank: int) -> slice:
        """The tasks that a process computes."""
        if case.tasks % self.processes:
            raise InputError(f"{case.tasks} tasks do not divide among {self.processes} processes")
        share = case.tasks // self.processes
        return slice(rank * share, (rank + 1) * share)

    def make(self, case: Case, rank: int = 0, dtype: torch.dtype = torch.float32) -> Implementation:
        """The implementation, ready to be timed."""
        if self.engine.get("compile"):
            torch.compiler.reset()  # torch.compile stops after a number of graphs, and those of earlier cases count
        return IMPLEMENTATIONS[self.implementation](case, dtype, self.part(case, rank), self.engine)


def _library_contender(about: str, processes: int = 1, **engine: Any) -> Contender:
    return Contender("library", about, engine, threads=1, tuned=True, processes=processes)


CONTENDERS = {
    "plain": Contender("plain", "torch.autograd.grad by hand, torch's own threads and allocator"),
    "plain tuned": Contender("plain", "the same loop, one thread, allocator tuned", threads=1, tuned=True),
    "eager": _library_contender("quickstudy, one thread, allocator tuned"),
    "compiled": _library_contender("quickstudy, compiled, one thread, allocator tuned", compile=True),
    "threads": Contender("library", "quickstudy as a command runs it: tasks on all cores", tuned=True),
    "recompute": Contender("library", "quickstudy, inner steps recomputed, one thread", {"recompute": True}, threads=1),
    "two workers": _library_contender("quickstudy, two processes of one thread, allocator tuned", 2),
    "forward": Contender("forward", "the same images through the model, no adaptation", threads=1, tuned=True),
    "higher": Contender("higher", "higher, torch's own threads and allocator"),
    "torchopt": Contender("torchopt", "TorchOpt, torch's own threads and allocator"),
    "learn2learn": Contender("learn2learn", "learn2learn, torch's own threads and allocator"),
    "jax": Contender("jax", "JAX, jitted, its own threads"),
}

PEERS = ("higher", "torchopt", "learn2learn", "jax")


def get_contender(name: str) -> Contender:
    """The contender of a name."""
    if name not in CONTENDERS:
        raise InputError(f"There is no contender {name!r}. {suggest_nearest(name, CONTENDERS)}")
    return CONTENDERS[name]


def choose_peers(names: Sequence[str] | None) -> list[str]:
    """The peers to measure: those that are named, or all. The name "none" stands for no peer."""
    if names is None:
        return list(PEERS)
    for name in names:
        if name not in (*PEERS, "none"):
            raise InputError(f"There is no peer {name!r}. {suggest_nearest(name, [*PEERS, 'none'])}")
    return [name for name in names if name != "none"]
