"""The goals of the library, compared with what was measured."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from quickstudy.bench.measure import Timing
from quickstudy.bench.workloads import Case

FORWARD_CASE = Case("omniglot", "hypermaml", 600, phase="evaluate")
ITERATIONS = 60_000
"""Outer steps of the configuration sine-mtnet."""


@dataclass
class BenchResult:
    """What a run has measured so far.

    Args:
        timings: The times of each case.
        memory: The peak memory of each case in bytes, by contender, or why there is none.
        command: The seconds of a whole training command.
    """

    timings: dict[Case, Timing] = field(default_factory=dict)
    memory: dict[Case, dict[str, int | str]] = field(default_factory=dict)
    command: dict[str, float | str] = field(default_factory=dict)

    def best(self, case: Case, names: tuple[str, ...], baseline: str) -> float | None:
        """The best median speed-up over the baseline that any of the contenders reached."""
        if case not in self.timings:
            return None
        ratios = [self.timings[case].speedup(name, baseline) for name in names]
        return max((r.median for r in ratios if r is not None), default=None)

    def growth(self, name: str, few: Case, many: Case) -> float | None:
        """A contender's peak memory of one case, divided by that of another."""
        low, high = (self.memory.get(case, {}).get(name) for case in (few, many))
        return high / low if isinstance(low, int) and isinstance(high, int) and low else None


@dataclass(frozen=True)
class Goal:
    """A number and its limit.

    Args:
        about: A description for people.
        sign: ">=", ">" or "<=".
        limit: What the number is compared with.
        read: Reads the number off a result; None if it was not measured.
    """

    about: str
    sign: str
    limit: float
    read: Callable[[BenchResult], float | None]

    def check(self, result: BenchResult) -> dict[str, Any]:
        """The goal and its number as plain values. `met` is None if nothing was measured."""
        value = self.read(result)
        met = None
        if value is not None:
            met = {">=": value >= self.limit, ">": value > self.limit, "<=": value <= self.limit}[self.sign]
        return {"goal": self.about, "sign": self.sign, "limit": self.limit, "value": value, "met": met}


def _speed_goal(about: str, limit: float, case: Case, *names: str, over: str = "plain") -> Goal:
    return Goal(f"{about}: {case}, over {over}", ">=", limit, lambda result: result.best(case, names, over))


def _time_over_forward(result: BenchResult) -> float | None:
    speedup = result.best(FORWARD_CASE, ("eager",), "forward")
    return None if speedup is None else 1 / speedup


def _memory_growth(name: str) -> Callable[[BenchResult], float | None]:
    return lambda result: result.growth(name, Case("omniglot", "maml", 4, 5), Case("omniglot", "maml", 4, 100))


def _command_goal(cache: str, limit: float) -> Goal:
    def read(result: BenchResult) -> float | None:
        value = result.command.get(cache)
        return value if isinstance(value, float) else None

    about = f"seconds of `train sine-mtnet`, compiled, {ITERATIONS} iterations, {cache} cache"
    return Goal(about, "<=", limit, read)


GOALS = (
    _speed_goal("eager", 5.0, Case("sine", "maml", 25, 5), "eager"),
    _speed_goal("compiled", 25.0, Case("sine", "maml", 25, 5), "compiled"),
    _speed_goal("compiled", 30.0, Case("sine", "maml", 256, 5), "compiled"),
    *(
        _speed_goal("two cores", 2.0, Case("omniglot", "maml", 32, k, phase), "two workers")
        for k in (1, 5)
        for phase in ("train", "evaluate")
    ),
    *(_speed_goal("two processes", 1.7, Case("omniglot", "maml", 32, k), "two workers", over="eager") for k in (1, 5)),
    _speed_goal("two cores", 1.25, Case("omniglot", "hypermaml", 32), "two workers"),
    _speed_goal("one thread", 1.25, Case("omniglot", "hypermaml", 32), "eager", over="plain tuned"),
    Goal(f"time over a forward pass without adaptation: {FORWARD_CASE}", "<=", 1.3, _time_over_forward),
    Goal("peak memory of K 100 over K 5, recomputed: omniglot maml T4", "<=", 1.5, _memory_growth("recompute")),
    Goal("peak memory of K 100 over K 5, kept: omniglot maml T4", ">", 5.0, _memory_growth("eager")),
    _command_goal("cold", 90.0),
    _command_goal("warm", 70.0),
)
