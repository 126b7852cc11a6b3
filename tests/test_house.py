"""The shape of the house: imports go one way, every public name is explained, files stay short enough to read."""

import ast
from pathlib import Path

import pytest

import quickstudy

ROOT = Path(quickstudy.__file__).parent

# A module imports only what stands above it. `tasks` knows nothing of learners, `figures` nothing but run directories.
LAYERS = [
    "errors watch",
    "types settings files canvas factories world devices allocator",
    "space",
    "batchnorm draws params parts support memory precision",
    "objective norms means engine selfcheck criteria metrics schedule",
    "rules",
    "cells heads hypernet nets",
    "learner",
    "methods",
    "baselines",
    "tasks",
    "rehearse pictures unseen",
    "checkpoints",
    "runs",
    "initial",
    "evaluate config",
    "saved",
    "train judge bench",
    "sweep_plan",
    "sweep sweep_figures",
    "image_figures",
    "figures",
    "report terminal",
    "workers",
    "demo reproduce",
    "verbs downloads launch",
    "data_commands sweep_commands bench_commands info_commands reproduce_commands",
    "commands",
    "cli",
    "__init__ __main__",
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}

# Within these layers the order is finer, and where a module must not see a whole branch it says so here.
ONLY = {
    "tasks": {"types", "draws", "errors", "files", "tasks"},
    "runs": {"errors", "files", "checkpoints"},
    "canvas": {"errors"},
    "space": {"errors", "files", "settings"},
    "sweep_figures": {"canvas", "space", "sweep_plan"},
    "downloads": {"errors", "files"},
    "image_figures": {"runs", "canvas"},
    "figures": {"errors", "runs", "files", "canvas", "image_figures"},
    "report": {"errors", "runs", "files", "canvas", "image_figures", "figures"},
}

MODULES = sorted(ROOT.rglob("*.py"))


def own_name(path: Path) -> str:
    """The top-level module or subpackage a file belongs to."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def imported(path: Path) -> set[str]:
    """Which of the package's own parts a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("quickstudy"):
            _, _, rest = node.module.partition(".")
            found |= {rest.split(".")[0]} if rest else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("quickstudy.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    own = own_name(path)
    assert own in LEVEL, f"{own} has no place in LAYERS: say where it belongs"
    for other in imported(path) - {own}:
        assert LEVEL[other] < LEVEL[own] or (LEVEL[other] == LEVEL[own] and not _cycle(own, other)), (
            f"{own} imports {other}, which stands beside or below it"
        )
        assert own not in ONLY or other in ONLY[own], f"{own} imports {other}; it may import {sorted(ONLY[own])}"


def _cycle(own: str, other: str) -> bool:
    """Whether a neighbour on the same level imports back."""
    return any(own in imported(path) for path in MODULES if own_name(path) == other)


def test_every_public_name_is_explained() -> None:
    for name in quickstudy.__all__:
        thing = getattr(quickstudy, name)
        if callable(thing):
            assert (thing.__doc__ or "").strip(), f"{name} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_open_by_explaining_themselves_and_stay_short(path: Path) -> None:
    text = path.read_text()
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "a module opens with a docstring"
    assert text.count("\n") <= 400, "over 400 lines: cut it in two, or give the reason here"


def test_core_code_has_no_device_clock_or_printer() -> None:
    """Rules, rates, charts and tasks are pure: no device calls, no clock, no printing, no global random state."""
    banned = {"print", "perf_counter", "time", "cuda", "manual_seed", "open"}
    for path in [*(ROOT / "rules").glob("*.py"), *(ROOT / "tasks").glob("*.py"), ROOT / "objective.py"]:
        names = {
            n.attr if isinstance(n, ast.Attribute) else n.id
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Attribute | ast.Name)
        }
        assert not names & banned, f"{path.name} uses {sorted(names & banned)}"
