"""Who takes part, and under which settings: threads, allocator, engine, one process or two."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from quickstudy.bench.jax_peer import Jax
from quickstudy.bench.makers import ByHand, Forward, Library, Maker
from quickstudy.bench.peers import Higher, Learn2Learn, TorchOpt
from quickstudy.bench.workloads import Case
from quickstudy.errors import InputError, suggest_nearest

MAKERS: dict[str, type[Maker]] = {
    "library": Library,
    "plain": ByHand,
    "forward": Forward,
    "higher": Higher,
    "torchopt": TorchOpt,
    "learn2learn": Learn2Learn,
    "jax": Jax,
}

SETTINGS = ("OMP_", "MKL_", "GOMP_", "KMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "XLA_FLAGS")
"""What a shell may have set that changes threads or the allocator: a process that is to have the defaults has none."""


def defaults() -> dict[str, str]:
    """The environment without such settings; processes import the very package that starts them, installed or not."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    places = [str(Path(__file__).parents[2]), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(places)}


@dataclass(frozen=True)
class Contender:
    """One way of computing cases.

    Args:
        maker: Whose code, of `MAKERS`.
        about: In words.
        engine: Options of the library's engine.
        threads: Of each process; None is torch's own default.
        tuned: Whether the C allocator is told to keep what it has, as `quickstudy.engine.allocator` does.
        processes: They share the tasks of a step and average their gradients.
    """

    maker: str
    about: str
    engine: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    tuned: bool = False
    processes: int = 1

    def environment(self) -> dict[str, str]:
        """Of the contender's processes."""
        kept = defaults()
        if self.threads is None:
            return kept
        return kept | {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}

    def part(self, case: Case, rank: int) -> slice:
        """Which tasks a process computes."""
        if case.tasks % self.processes:
            raise InputError(f"{case.tasks} tasks do not divide among {self.processes} processes")
        share = case.tasks // self.processes
        return slice(rank * share, (rank + 1) * share)

    def make(self, case: Case, rank: int = 0, dtype: torch.dtype = torch.float32) -> Maker:
        """The implementation, ready to be timed."""
        if self.engine.get("compile"):
            torch._dynamo.reset()  # graphs of the case before count towards the number that it compiles
        return MAKERS[self.maker](case, dtype, self.part(case, rank), self.engine)


def _ours(about: str, processes: int = 1, **engine: Any) -> Contender:
    return Contender("library", about, engine, threads=1, tuned=True, processes=processes)


CONTENDERS = {
    "plain": Contender("plain", "torch.autograd.grad by hand, torch's own threads and allocator"),
    "plain tuned": Contender("plain", "the same loop, one thread, allocator tuned", threads=1, tuned=True),
    "eager": _ours("quickstudy, one thread, allocator tuned"),
    "compiled": _ours("quickstudy, compiled, one thread, allocator tuned", compile=True),
    "recompute": Contender("library", "quickstudy, inner steps recomputed, one thread", {"recompute": True}, threads=1),
    "two workers": _ours("quickstudy, two processes of one thread, allocator tuned", 2),
    "forward": Contender("forward", "the same images through the model, no adaptation", threads=1, tuned=True),
    "higher": Contender("higher", "higher, torch's own threads and allocator"),
    "torchopt": Contender("torchopt", "TorchOpt, torch's own threads and allocator"),
    "learn2learn": Contender("learn2learn", "learn2learn, torch's own threads and allocator"),
    "jax": Contender("jax", "JAX, jitted, its own threads"),
}

PEERS = ("higher", "torchopt", "learn2learn", "jax")


def contender(name: str) -> Contender:
    """A contender by name."""
    if name not in CONTENDERS:
        raise InputError(f"There is no contender {name!r}. {suggest_nearest(name, CONTENDERS)}")
    return CONTENDERS[name]


def chosen_peers(names: Sequence[str] | None) -> list[str]:
    """The peers to be measured: all of them, unless they are named; "none" names none."""
    if names is None:
        return list(PEERS)
    for name in names:
        if name not in (*PEERS, "none"):
            raise InputError(f"There is no peer {name!r}. {suggest_nearest(name, [*PEERS, 'none'])}")
    return [name for name in names if name != "none"]
