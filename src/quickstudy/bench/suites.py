"""Suites: which cases are measured, and which contenders compute them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product

from quickstudy.bench.contenders import PEERS
from quickstudy.bench.goals import GOALS, Goal
from quickstudy.bench.workloads import BENCH_METHODS, Case
from quickstudy.errors import InputError, suggest_nearest

OUR_ENGINES = ("eager", "compiled")
"""For cases without convolutions: on a CPU the engine does not compile these."""


@dataclass(frozen=True)
class Comparison:
    """A case and its contenders. The first one is the baseline."""

    case: Case
    names: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """A set of comparisons with a name on the command line.

    Args:
        about: A description for people.
        speed: What is timed.
        memory: What is measured in peak memory.
        goals: What the results are compared with.
    """

    about: str
    speed: tuple[Comparison, ...] = ()
    memory: tuple[Comparison, ...] = ()
    goals: tuple[Goal, ...] = ()

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


def _comparisons(cases: Iterable[Case], names: tuple[str, ...]) -> tuple[Comparison, ...]:
    return tuple(Comparison(case, names) for case in cases)


def _with_peers(cases: Iterable[Case], names: tuple[str, ...]) -> tuple[Comparison, ...]:
    """Comparisons in which the peers take part, as far as they have the method: they have MAML alone."""
    return tuple(Comparison(case, names + (PEERS if case.method == "maml" else ())) for case in cases)


def _phase_cases(
    workload: str, methods: Sequence[str], counts: Sequence[int], ks: Sequence[int], **more: int
) -> list[Case]:
    """Training steps and evaluations for each number of steps; HyperMAML, which takes no steps, once."""
    return [
        Case(workload, method, count, k, phase, **more)
        for method, count, k, phase in product(methods, counts, ks, ("train", "evaluate"))
        if method != "hypermaml" or k == ks[0]
    ]


DESCENDING = ("maml", "mtnet", "wormhole")
SWEPT_STEPS = (1, 2, 5, 10, 20, 50, 100)
SWEPT_TASKS = (1, 4, 16, 64, 256, 1024)
SWEPT_SHOTS = (1, 2, 5, 10, 20)
COMPILED_STEPS = 10
"""With more inner steps nothing is compiled: each step is a part of the graph, and takes seconds to compile."""


def _quick_suite() -> Suite:
    return Suite(
        "a selection in about two minutes",
        (
            *_with_peers([Case("sine", "maml", 25, 5)], ("plain", *OUR_ENGINES)),
            *_with_peers([Case("omniglot", "maml", 4, 1)], ("plain", "eager", "two workers")),
            *_with_peers([Case("omniglot", "hypermaml", 4)], ("plain", "eager")),
            *_with_peers([Case("omniglot", "mtnet", 4, 1, "evaluate")], ("plain", "eager")),
        ),
    )


def _smoke_suite() -> Suite:
    one = Comparison(Case("sine", "maml", 2, 1), ("plain", "eager", *PEERS))
    return Suite("one small case, to see that everything works", (one,), (replace(one, names=("eager",)),))


def _sine_suite() -> Suite:
    cases = _phase_cases("sine", DESCENDING, (4, 25, 256), (1, 5))
    return Suite("sine MLP: K 1 and 5; 4, 25 and 256 tasks", _with_peers(cases, ("plain", "plain tuned", *OUR_ENGINES)))


def _omniglot_suite() -> Suite:
    cases = _phase_cases("omniglot", BENCH_METHODS, (8,), (1, 3, 5)) + _phase_cases(
        "omniglot20", BENCH_METHODS, (2,), (1,)
    )
    names = ("plain", "plain tuned", "eager", "two workers")
    return Suite("Omniglot-shaped Conv4-64: 5-way K 1, 3, 5 and 20-way", _with_peers(cases, names))


def _mini_suite() -> Suite:
    cases = [
        case
        for workload, shots in product(("mini32", "mini64"), (1, 5))
        for case in _phase_cases(workload, BENCH_METHODS, (2,), (5,), shots=shots)
    ]
    return Suite(
        "mini-ImageNet-shaped Conv4-32 and -64: 1- and 5-shot, K 5",
        _with_peers(cases, ("plain", "eager", "two workers")),
    )


def _hypermaml_suite() -> Suite:
    one = "omniglot"
    return Suite(
        "HyperMAML against its per-task loop, and against a forward pass without adaptation",
        (
            Comparison(Case(one, "hypermaml", 32), ("plain", "plain tuned", "eager", "two workers")),
            Comparison(Case(one, "hypermaml", 600, phase="evaluate"), ("forward", "eager")),
        ),
    )


def _memory_suite() -> Suite:
    cases = [Case("omniglot", "maml", 4, k) for k in (1, 5, 20, 100)]
    return Suite("peak memory against inner steps", memory=_comparisons(cases, ("plain", "eager", "recompute")))


def _workers_suite() -> Suite:
    cases = [Case("omniglot", "maml", 32, 1), Case("omniglot", "maml", 32, 5), Case("sine", "maml", 256, 5)]
    return Suite("two processes of one thread over one, same work", _comparisons(cases, ("eager", "two workers")))


def _steps_suite() -> Suite:
    waves = [Case("sine", m, 25, k) for m in DESCENDING for k in SWEPT_STEPS]
    images = [Case("omniglot", "maml", 4, k) for k in SWEPT_STEPS]
    few = [case for case in waves if case.steps <= COMPILED_STEPS]
    many = [case for case in waves if case.steps > COMPILED_STEPS]
    return Suite(
        "cost against inner steps, 1 to 100", _waves_and_images(few, images) + _with_peers(many, ("plain", "eager"))
    )


def _tasks_suite() -> Suite:
    waves = [Case("sine", m, count, 5) for m in DESCENDING for count in SWEPT_TASKS]
    images = [Case("omniglot", "maml", count, 1) for count in SWEPT_TASKS[:4]]
    images += [Case("omniglot", "hypermaml", count) for count in SWEPT_TASKS[:4]]
    return Suite("cost against tasks, 1 to 1024 (images: to 64)", _waves_and_images(waves, images))


def _waves_and_images(waves: Iterable[Case], images: Iterable[Case]) -> tuple[Comparison, ...]:
    return _with_peers(waves, ("plain", *OUR_ENGINES)) + _with_peers(images, ("plain", "eager"))


def _shots_suite() -> Suite:
    cases = [Case("omniglot", m, 4, 1, shots=shots) for m in ("maml", "hypermaml") for shots in SWEPT_SHOTS]
    return Suite("cost against shots, 1 to 20", _waves_and_images((), cases))


def _targets_suite() -> Suite:
    both = [Case("omniglot", "maml", 32, k, phase) for k, phase in product((1, 5), ("train", "evaluate"))]
    return Suite(
        "the goals of this library, each with its number",
        (
            Comparison(Case("sine", "maml", 25, 5), ("plain", *OUR_ENGINES)),
            Comparison(Case("sine", "maml", 256, 5), ("plain", *OUR_ENGINES)),
            *_comparisons(both, ("plain", "eager", "two workers")),
            *_hypermaml_suite().speed,
        ),
        _comparisons([Case("omniglot", "maml", 4, k) for k in (5, 100)], ("eager", "recompute")),
        GOALS,
    )


def _full_suite() -> Suite:
    parts = [make() for name, make in SUITES.items() if name not in ("quick", "smoke", "all")]
    return Suite(
        "all of them: hours",
        _merge_cases(one for part in parts for one in part.speed),
        _merge_cases(one for part in parts for one in part.memory),
        GOALS,
    )


def _merge_cases(comparisons: Iterable[Comparison]) -> tuple[Comparison, ...]:
    """Each case once, with all of its contenders."""
    names: dict[Case, tuple[str, ...]] = {}
    for one in comparisons:
        names[one.case] = tuple(dict.fromkeys(names.get(one.case, ()) + one.names))
    return tuple(Comparison(*item) for item in names.items())


SUITES: dict[str, Callable[[], Suite]] = {
    "quick": _quick_suite,
    "sine": _sine_suite,
    "omniglot": _omniglot_suite,
    "mini": _mini_suite,
    "hypermaml": _hypermaml_suite,
    "memory": _memory_suite,
    "workers": _workers_suite,
    "sweep-steps": _steps_suite,
    "sweep-tasks": _tasks_suite,
    "sweep-shots": _shots_suite,
    "targets": _targets_suite,
    "all": _full_suite,
    "smoke": _smoke_suite,
}


def get_suite(name: str) -> Suite:
    """The suite of a name."""
    if name not in SUITES:
        raise InputError(f"There is no suite {name!r}. {suggest_nearest(name, SUITES)}")
    return SUITES[name]()
