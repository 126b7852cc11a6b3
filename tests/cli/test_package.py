"""`import quickstudy`: its names are there for people, editors and type checkers, and imported at their first use."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import quickstudy


def run(script):
    """A script in a process of its own."""
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("name", [*quickstudy.__all__, "open"])
def test_every_name_is_that_of_its_module(name):
    home = import_module(f"quickstudy.{quickstudy._MODULES[name]}")
    assert getattr(quickstudy, name) is getattr(home, name)
    assert name in dir(quickstudy)


def test_the_table_says_what_type_checkers_read():
    tree = ast.parse(Path(quickstudy.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    read = {alias.name: str(node.module) for node in block.body for alias in node.names}
    assert read == {name: f"quickstudy.{module}" for name, module in quickstudy._MODULES.items()}
    assert sorted(read) == sorted([*quickstudy.__all__, "open"])


def test_a_star_import_gives_all_of_them():
    names: dict[str, object] = {}
    exec("from quickstudy import *", names)
    assert set(quickstudy.__all__) <= set(names)
    assert "open" not in names  # Python's own stays


def test_no_module_lies_under_the_name_of_a_function():
    for name in quickstudy.__all__:
        assert not Path(quickstudy.__file__).with_name(name).exists()
        assert not Path(quickstudy.__file__).with_name(f"{name}.py").exists()


def test_rooms_are_attributes_and_other_names_are_not():
    assert run("import quickstudy; print(quickstudy.errors.RunError.__name__)") == "RunError\n"
    with pytest.raises(AttributeError, match="module 'quickstudy' has no attribute 'mmal'"):
        quickstudy.mmal  # noqa: B018 (looking it up is what is tested)
    assert not hasattr(quickstudy, "__wrapped__")


def test_the_package_alone_imports_no_torch_and_a_method_no_compiler():
    heavy = ("torch", "numpy", "pydantic", "yaml", "PIL", "rich", "tyro")
    script = f"import sys, quickstudy; dir(quickstudy); print([name for name in {heavy} if name in sys.modules])"
    assert run(script) == "[]\n"
    heavy = ("torch._dynamo", "sympy", "matplotlib", "pydantic", "optuna", "sklearn", "tyro")
    script = f"import sys, quickstudy; quickstudy.maml; print([name for name in {heavy} if name in sys.modules])"
    assert run(script) == "[]\n"
