"""The shape of the house: which room may use which, and that every file and every public name explains itself."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import quickstudy

ROOT = Path(quickstudy.__file__).parent

FLOORS = [
    "errors types",
    "rules storage",
    "engine tasks reports",
    "models",
    "methods",
    "evaluation",
    "training",
    "papers bench everyday",
    "cli",
]
"""From the ground. A room uses the floors below it; rooms on one floor do not know each other."""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}

DOORS = {"papers": "cli/commands/reproduce.py", "bench": "cli/commands/bench.py"}
"""The only files that open these rooms from outside."""

MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    """`rules/base.py` is `rules.base`; the `__init__.py` of a room is the room; the package's own is empty."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


@cache
def imports(path: Path) -> set[str]:
    """The package's own modules that a file imports, inside functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "quickstudy":
            module = str(node.module).partition(".")[2]
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                found.add(inner if inner in NAMES and not defines(module, alias.name) else module)
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("quickstudy.")}
    return found


@cache
def defines(module: str, name: str) -> bool:
    """Whether a room's `__init__` takes a name from one of its files, which may be called as that name is."""
    path = ROOT / Path(*module.split(".")) / "__init__.py"
    if not path.exists():
        return False
    for node in ast.parse(path.read_text()).body:
        outside = isinstance(node, ast.ImportFrom) and node.module != f"quickstudy.{module}"
        if outside and name in [alias.asname or alias.name for alias in node.names]:
            return True
    return False


def inside(path: Path) -> bool:
    return len(path.relative_to(ROOT).parts) > 1 or path.stem in FLOOR


@pytest.mark.parametrize(
    "path", [path for path in MODULES if inside(path)], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_room_uses_the_floors_below_it(path: Path) -> None:
    own = name_of(path).partition(".")[0]
    assert own in FLOOR, f"{own} has no floor: say where it belongs"
    for module in imports(path):
        room = module.partition(".")[0]
        assert room == own or FLOOR[room] < FLOOR[own], f"{own} imports {module}, which is not below it"
        door = DOORS.get(room)
        assert room == own or door is None or path == ROOT / door, f"only {door} imports {room}"


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    graph = {name_of(path): imports(path) - {name_of(path)} for path in MODULES}
    list(TopologicalSorter(graph).static_order())  # a circle raises, and names its modules


def test_every_public_name_is_explained() -> None:
    for name in quickstudy.__all__:
        thing = getattr(quickstudy, name)
        if callable(thing):
            assert (thing.__doc__ or "").strip(), f"{name} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_open_by_explaining_themselves(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "a module opens with a docstring"


def test_the_top_of_the_package_has_rooms_and_little_else() -> None:
    entries = {path.name for path in ROOT.iterdir() if path.name != "__pycache__"}
    rooms = {room for room in FLOOR if (ROOT / room).is_dir()}
    files = {"errors.py", "types.py", "__init__.py", "__main__.py", "py.typed"}
    assert entries == {*rooms, *files, "configs"}


def test_core_code_has_no_device_clock_or_printer() -> None:
    """Rules and tasks are pure: no device calls, no clock, no printing, no global random state."""
    banned = {"print", "perf_counter", "time", "cuda", "manual_seed", "open"}
    pure = [
        path for path in MODULES if name_of(path).partition(".")[0] in ("rules", "tasks") and "images" not in path.parts
    ]
    assert len(pure) > 20
    for path in pure:
        names = {
            n.attr if isinstance(n, ast.Attribute) else n.id
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Attribute | ast.Name)
        }
        assert not names & banned, f"{path.name} uses {sorted(names & banned)}"
