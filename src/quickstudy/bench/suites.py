"""Which cases are measured, and by whom."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import product

from quickstudy.bench.contenders import PEERS
from quickstudy.bench.goals import GOALS, Goal
from quickstudy.bench.workloads import METHODS, Case
from quickstudy.errors import InputError, suggest_nearest

OURS = ("eager", "compiled")  # convolutions on a CPU are not compiled: see the engine


@dataclass(frozen=True)
class Meeting:
    """A case and its contenders, of whom the first is what the others are compared with."""

    case: Case
    names: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """What one name of the command line stands for.

    Args:
        about: In words.
        cells: What is timed.
        memory: Whose peak memory is measured.
        goals: What is read off at the end.
    """

    about: str
    cells: tuple[Meeting, ...] = ()
    memory: tuple[Meeting, ...] = ()
    goals: tuple[Goal, ...] = field(default=())

    def only(self, methods: Sequence[str] | None, peers: Sequence[str], pattern: str = "*") -> "Suite":
        """The part of it that is about some methods, peers and cases. Peers have MAML alone; goals are the whole's."""
        for method in methods or ():
            if method not in METHODS:
                raise InputError(f"There is no method {method!r} to measure. {suggest_nearest(method, METHODS)}")

        def kept(cells: Iterable[Meeting]) -> tuple[Meeting, ...]:
            own = (cell for cell in cells if methods is None or cell.case.method in methods)
            chosen = (cell for cell in own if fnmatchcase(str(cell.case), pattern))
            return tuple(
                Meeting(cell.case, tuple(n for n in cell.names if n not in PEERS or n in peers)) for cell in chosen
            )

        goals = self.goals if pattern == "*" else ()
        part = replace(self, cells=kept(self.cells), memory=kept(self.memory), goals=goals)
        if not (part.cells or part.memory):
            known = dict.fromkeys(str(cell.case) for cell in (*self.cells, *self.memory))
            asked = f"the methods {', '.join(methods)} and " if methods else ""
            raise InputError(
                f"Nothing of this suite is left with {asked}the cases {pattern!r}. Its cases are: {', '.join(known)}."
            )
        return part


def _cells(cases: Iterable[Case], names: tuple[str, ...]) -> tuple[Meeting, ...]:
    return tuple(Meeting(case, names + (PEERS if case.method == "maml" else ())) for case in cases)


def _every(workload: str, methods: Sequence[str], counts: Sequence[int], ks: Sequence[int], **more: int) -> list[Case]:
    """Training steps and evaluations; HyperMAML once, as it takes no steps."""
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
"""At most: every inner step is a part of the graph, and compiling takes seconds for each."""


def _quick() -> Suite:
    return Suite(
        "a selection in about two minutes",
        (
            *_cells([Case("sine", "maml", 25, 5)], ("plain", *OURS)),
            *_cells([Case("omniglot", "maml", 4, 1)], ("plain", "eager", "two workers")),
            *_cells([Case("omniglot", "hypermaml", 4)], ("plain", "eager")),
            *_cells([Case("omniglot", "mtnet", 4, 1, "evaluate")], ("plain", "eager")),
        ),
    )


def _smoke() -> Suite:
    cell = Meeting(Case("sine", "maml", 2, 1), ("plain", "eager", *PEERS))
    return Suite("one small case, to see that everything works", (cell,), (replace(cell, names=("eager",)),))


def _sine() -> Suite:
    cases = _every("sine", DESCENDING, (4, 25, 256), (1, 5))
    return Suite("sine MLP: K 1 and 5; 4, 25 and 256 tasks", _cells(cases, ("plain", "plain tuned", *OURS)))


def _omniglot() -> Suite:
    cases = _every("omniglot", METHODS, (8,), (1, 3, 5)) + _every("omniglot20", METHODS, (2,), (1,))
    names = ("plain", "plain tuned", "eager", "two workers")
    return Suite("Omniglot-shaped Conv4-64: 5-way K 1, 3, 5 and 20-way", _cells(cases, names))


def _mini() -> Suite:
    cases = [
        case
        for workload, shots in product(("mini32", "mini64"), (1, 5))
        for case in _every(workload, METHODS, (2,), (5,), shots=shots)
    ]
    return Suite(
        "mini-ImageNet-shaped Conv4-32 and -64: 1- and 5-shot, K 5",
        _cells(cases, ("plain", "eager", "two workers")),
    )


def _hypermaml() -> Suite:
    one = "omniglot"
    return Suite(
        "HyperMAML against its per-task loop, and against a forward pass without adaptation",
        (
            Meeting(Case(one, "hypermaml", 32), ("plain", "plain tuned", "eager", "two workers")),
            Meeting(Case(one, "hypermaml", 600, phase="evaluate"), ("forward", "eager")),
        ),
    )


def _memory() -> Suite:
    cases = [Case("omniglot", "maml", 4, k) for k in (1, 5, 20, 100)]
    return Suite("peak memory against inner steps", memory=_cells_of(cases, ("plain", "eager", "recompute")))


def _cells_of(cases: Iterable[Case], names: tuple[str, ...]) -> tuple[Meeting, ...]:
    return tuple(Meeting(case, names) for case in cases)


def _workers() -> Suite:
    cases = [Case("omniglot", "maml", 32, 1), Case("omniglot", "maml", 32, 5), Case("sine", "maml", 256, 5)]
    return Suite("two processes of one thread over one, same work", _cells_of(cases, ("eager", "two workers")))


def _sweep_steps() -> Suite:
    waves = [Case("sine", m, 25, k) for m in DESCENDING for k in SWEPT_STEPS]
    images = [Case("omniglot", "maml", 4, k) for k in SWEPT_STEPS]
    few = [case for case in waves if case.steps <= COMPILED_STEPS]
    many = [case for case in waves if case.steps > COMPILED_STEPS]
    return Suite("cost against inner steps, 1 to 100", _swept(few, images) + _cells(many, ("plain", "eager")))


def _sweep_tasks() -> Suite:
    waves = [Case("sine", m, count, 5) for m in DESCENDING for count in SWEPT_TASKS]
    images = [Case("omniglot", "maml", count, 1) for count in SWEPT_TASKS[:4]]
    images += [Case("omniglot", "hypermaml", count) for count in SWEPT_TASKS[:4]]
    return Suite("cost against tasks, 1 to 1024 (images: to 64)", _swept(waves, images))


def _swept(waves: Iterable[Case], images: Iterable[Case]) -> tuple[Meeting, ...]:
    return _cells(waves, ("plain", *OURS)) + _cells(images, ("plain", "eager"))


def _sweep_shots() -> Suite:
    cases = [Case("omniglot", m, 4, 1, shots=shots) for m in ("maml", "hypermaml") for shots in SWEPT_SHOTS]
    return Suite("cost against shots, 1 to 20", _swept((), cases))


def _targets() -> Suite:
    both = [Case("omniglot", "maml", 32, k, phase) for k, phase in product((1, 5), ("train", "evaluate"))]
    return Suite(
        "what this library holds itself to, each with its number",
        (
            Meeting(Case("sine", "maml", 25, 5), ("plain", *OURS)),
            Meeting(Case("sine", "maml", 256, 5), ("plain", *OURS)),
            *_cells_of(both, ("plain", "eager", "two workers")),
            *_hypermaml().cells,
        ),
        _cells_of([Case("omniglot", "maml", 4, k) for k in (5, 100)], ("eager", "recompute")),
        GOALS,
    )


def _all() -> Suite:
    parts = [make() for name, make in SUITES.items() if name not in ("quick", "smoke", "all")]
    return Suite(
        "all of them: hours",
        _merged(cell for part in parts for cell in part.cells),
        _merged(cell for part in parts for cell in part.memory),
        GOALS,
    )


def _merged(cells: Iterable[Meeting]) -> tuple[Meeting, ...]:
    """Each case once, by everyone who is to compute it."""
    found: dict[Case, tuple[str, ...]] = {}
    for cell in cells:
        found[cell.case] = tuple(dict.fromkeys(found.get(cell.case, ()) + cell.names))
    return tuple(Meeting(case, names) for case, names in found.items())


SUITES: dict[str, Callable[[], Suite]] = {
    "quick": _quick,
    "sine": _sine,
    "omniglot": _omniglot,
    "mini": _mini,
    "hypermaml": _hypermaml,
    "memory": _memory,
    "workers": _workers,
    "sweep-steps": _sweep_steps,
    "sweep-tasks": _sweep_tasks,
    "sweep-shots": _sweep_shots,
    "targets": _targets,
    "all": _all,
    "smoke": _smoke,
}


def suite(name: str) -> Suite:
    """A suite by name."""
    if name not in SUITES:
        raise InputError(f"There is no suite {name!r}. {suggest_nearest(name, SUITES)}")
    return SUITES[name]()
