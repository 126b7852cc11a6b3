"""Suites: which cases are measured, and which contenders compute them. `suites.yaml` lists them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.resources import files
from itertools import product
from typing import Any

import yaml

from quickstudy.bench.contenders import PEERS
from quickstudy.bench.goals import Goal
from quickstudy.bench.workloads import BENCH_METHODS, Case
from quickstudy.errors import InputError, suggest_nearest


@dataclass(frozen=True)
class Comparison:
    """A case and its contenders. The first one is the baseline."""

    case: Case
    names: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """A set of comparisons with a name on the command line."""

    about: str
    speed: tuple[Comparison, ...] = ()  # what is timed
    memory: tuple[Comparison, ...] = ()  # what is measured in peak memory
    goals: tuple[Goal, ...] = ()  # what the results are compared with

    def only(self, methods: Sequence[str] | None, peers: Sequence[str], pattern: str = "*") -> "Suite":
        """The part of the suite with these methods, peers and cases. A part by cases has no goals."""
        for method in methods or ():
            if method not in BENCH_METHODS:
                raise InputError(f"There is no method {method!r} to measure. {suggest_nearest(method, BENCH_METHODS)}")

        def select(comparisons: Iterable[Comparison]) -> tuple[Comparison, ...]:
            return tuple(
                Comparison(one.case, tuple(name for name in one.names if name not in PEERS or name in peers))
                for one in comparisons
                if (methods is None or one.case.method in methods) and fnmatchcase(str(one.case), pattern)
            )

        goals = self.goals if pattern == "*" else ()
        part = replace(self, speed=select(self.speed), memory=select(self.memory), goals=goals)
        if not (part.speed or part.memory):
            known = dict.fromkeys(str(one.case) for one in (*self.speed, *self.memory))
            asked = f"the methods {', '.join(methods)} and " if methods else ""
            raise InputError(
                f"Nothing of this suite is left with {asked}the cases {pattern!r}. Its cases are: {', '.join(known)}."
            )
        return part


def _read_comparisons(lines: Sequence[Any]) -> Iterator[Comparison]:
    """The comparisons of the lines of a suite; a list of lines stands for each of them."""
    for line in lines:
        if isinstance(line, list):
            yield from _read_comparisons(line)
            continue
        fields = {name: value if isinstance(value, list) else [value] for name, value in line.items() if name != "by"}
        for values in product(*fields.values()):
            case = Case(**dict(zip(fields, values, strict=True)))
            if case.method != "hypermaml" or case.steps == fields.get("steps", [case.steps])[0]:
                peers = PEERS if case.method == "maml" else ()
                yield Comparison(case, tuple(n for by in line["by"] for n in (peers if by == "peers" else (by,))))


def _merge_cases(comparisons: Iterable[Comparison]) -> tuple[Comparison, ...]:
    """Each case once, with all of its contenders."""
    names: dict[Case, tuple[str, ...]] = {}
    for one in comparisons:
        names[one.case] = tuple(dict.fromkeys(names.get(one.case, ()) + one.names))
    return tuple(Comparison(*item) for item in names.items())


SUITES: dict[str, dict[str, Any]] = yaml.safe_load(
    files(__package__).joinpath("suites.yaml").read_text(encoding="utf-8")
)


def get_suite(name: str) -> Suite:
    """The suite of a name: what is its own, and what the suites have that it is made of."""
    if name not in SUITES:
        raise InputError(f"There is no suite {name!r}. {suggest_nearest(name, SUITES)}")
    one = SUITES[name]
    parts = [get_suite(part) for part in one.get("of", ())]
    speed, memory = (
        _merge_cases([*_read_comparisons(one.get(kind, ())), *(own for part in parts for own in getattr(part, kind))])
        for kind in ("speed", "memory")
    )
    goals = [*(Goal.read(**line) for line in one.get("goals", ())), *(goal for part in parts for goal in part.goals)]
    return Suite(one["about"], speed, memory, tuple(goals))
