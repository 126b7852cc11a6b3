"""What the library holds itself to, read off what was measured."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from quickstudy.bench.measure import Measured
from quickstudy.bench.workloads import Case

ITERATIONS = 60_000


@dataclass
class BenchResult:
    """Everything a run has measured so far.

    `memory` is the peak in bytes, or why there is none; `command` the seconds of a whole training command.
    """

    measured: dict[Case, Measured] = field(default_factory=dict)
    memory: dict[Case, dict[str, int | str]] = field(default_factory=dict)
    command: dict[str, float | str] = field(default_factory=dict)

    def best(self, case: Case, names: tuple[str, ...], baseline: str) -> float | None:
        """The best median ratio that any of the contenders reached."""
        if case not in self.measured:
            return None
        ratios = [self.measured[case].faster(name, baseline) for name in names]
        return max((r.median for r in ratios if r is not None), default=None)

    def growth(self, name: str, few: Case, many: Case) -> float | None:
        """Peak memory of one case over another's."""
        low, high = (self.memory.get(case, {}).get(name) for case in (few, many))
        return high / low if isinstance(low, int) and isinstance(high, int) and low else None


@dataclass(frozen=True)
class Goal:
    """A number with its limit.

    Args:
        about: In words.
        sign: ">=", ">" or "<=".
        limit: What the number is compared with.
        read: The number; None where it was not measured.
    """

    about: str
    sign: str
    limit: float
    read: Callable[[BenchResult], float | None]

    def judged(self, found: BenchResult) -> dict[str, Any]:
        """In plain values; `met` is None where nothing was measured."""
        value = self.read(found)
        met = None
        if value is not None:
            met = {">=": value >= self.limit, ">": value > self.limit, "<=": value <= self.limit}[self.sign]
        return {"goal": self.about, "sign": self.sign, "limit": self.limit, "value": value, "met": met}


def _faster(about: str, limit: float, case: Case, *names: str, over: str = "plain") -> Goal:
    return Goal(f"{about}: {case}, over {over}", ">=", limit, lambda found: found.best(case, names, over))


def _over_forward(found: BenchResult) -> float | None:
    gain = found.best(_JUDGED, ("eager",), "forward")
    return None if gain is None else 1 / gain


def _growth(name: str) -> Callable[[BenchResult], float | None]:
    return lambda found: found.growth(name, Case("omniglot", "maml", 4, 5), Case("omniglot", "maml", 4, 100))


def _seconds(cache: str) -> Callable[[BenchResult], float | None]:
    def read(found: BenchResult) -> float | None:
        value = found.command.get(cache)
        return value if isinstance(value, float) else None

    return read


_JUDGED = Case("omniglot", "hypermaml", 600, phase="evaluate")


GOALS = (
    _faster("eager", 5.0, Case("sine", "maml", 25, 5), "eager"),
    _faster("compiled", 25.0, Case("sine", "maml", 25, 5), "compiled"),
    _faster("compiled", 30.0, Case("sine", "maml", 256, 5), "compiled"),
    *(
        _faster("two cores", 2.0, Case("omniglot", "maml", 32, k, phase), "two workers")
        for k in (1, 5)
        for phase in ("train", "evaluate")
    ),
    *(_faster("two processes", 1.7, Case("omniglot", "maml", 32, k), "two workers", over="eager") for k in (1, 5)),
    _faster("two cores", 1.25, Case("omniglot", "hypermaml", 32), "two workers"),
    _faster("one thread", 1.25, Case("omniglot", "hypermaml", 32), "eager", over="plain tuned"),
    Goal(f"time over a forward pass without adaptation: {_JUDGED}", "<=", 1.3, _over_forward),
    Goal("peak memory of K 100 over K 5, recomputed: omniglot maml T4", "<=", 1.5, _growth("recompute")),
    Goal("peak memory of K 100 over K 5, kept: omniglot maml T4", ">", 5.0, _growth("eager")),
    Goal(f"seconds of `train sine-mtnet`, compiled, {ITERATIONS} iterations, cold cache", "<=", 90.0, _seconds("cold")),
    Goal(f"seconds of `train sine-mtnet`, compiled, {ITERATIONS} iterations, warm cache", "<=", 70.0, _seconds("warm")),
)
