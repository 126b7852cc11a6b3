"""The goals of the library, compared with what was measured. `suites.yaml` lists them."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quickstudy.bench.measure import Timing
from quickstudy.bench.workloads import Case

LIMITS = {"at_least": (">=", operator.ge), "above": (">", operator.gt), "at_most": ("<=", operator.le)}
READINGS = ("speedup", "time", "peak", "growth", "seconds")


@dataclass
class BenchResult:
    """What a run has measured so far."""

    timings: dict[Case, Timing] = field(default_factory=dict)
    memory: dict[Case, dict[str, int | str]] = field(default_factory=dict)  # bytes by contender, or why there are none
    command: dict[str, float | str] = field(default_factory=dict)  # seconds of a whole training command
    peak: float | None = None  # GFLOP/s of a large product with torch's default threads

    def speedup(self, case: Case, name: str, baseline: str) -> float | None:
        """How many times faster a contender is than another, the median over rounds."""
        ratio = self.timings[case].speedup(name, baseline) if case in self.timings else None
        return None if ratio is None else ratio.median

    def growth(self, name: str, few: Case, many: Case) -> float | None:
        """A contender's peak memory of one case, divided by that of another."""
        low, high = (self.memory.get(case, {}).get(name) for case in (few, many))
        return high / low if isinstance(low, int) and isinstance(high, int) and low else None


@dataclass(frozen=True)
class Goal:
    """A number and its limit."""

    about: str
    sign: str  # of `LIMITS`
    limit: float
    reading: str  # of `READINGS`: what the number is
    name: str  # of the contender, or of the compiler cache
    over: str = ""
    case: Case | None = None
    few: Case | None = None

    @classmethod
    def read(cls, about: str, case: Mapping[str, Any] | None = None, few: Any = None, **line: Any) -> "Goal":
        """A goal from a line of `suites.yaml`."""
        measured, small = Case(**case) if case else None, Case(**few) if few else None
        (sign,), (reading,) = LIMITS.keys() & line, set(READINGS) & line.keys()
        limit, over = line[sign], line.get("over", "")
        return cls(about.format(case=measured), sign, limit, reading, line[reading], over, measured, small)

    def value(self, result: BenchResult) -> float | None:
        """The number; None if it was not measured."""
        if self.case is None:
            seconds = result.command.get(self.name)
            return seconds if isinstance(seconds, float) else None
        if self.few is not None:
            return result.growth(self.name, self.few, self.case)
        if self.reading == "peak":
            gflops = result.timings[self.case].gflops(self.name) if self.case in result.timings else None
            return gflops / result.peak if gflops and result.peak else None
        speedup = result.speedup(self.case, self.name, self.over)
        return None if speedup is None else 1 / speedup if self.reading == "time" else speedup

    def check(self, result: BenchResult) -> dict[str, Any]:
        """The goal and its number as plain values. `met` is None if nothing was measured."""
        value, (sign, compare) = self.value(result), LIMITS[self.sign]
        met = None if value is None else compare(value, self.limit)
        return {"goal": self.about, "sign": sign, "limit": self.limit, "value": value, "met": met}
