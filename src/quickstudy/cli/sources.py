"""What the package's source says, read by `ast`: importing it would import torch, which takes seconds.

`quickstudy list` and the refusal of a mistyped option answer at once because of this. Registries are dictionaries at
the top of a module, written out or as `{f.__name__: f for f in (...)}`. A test holds that what is read here equals what
the imported objects say.
"""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Definition:
    """An expression, a function or a class, and the module that it is written in."""

    module: str
    node: ast.AST

    def first_line(self) -> str:
        """The first line of its docstring; of an instance, of its class's docstring; of a literal, the value."""
        match self.node:
            case ast.FunctionDef() | ast.ClassDef():
                return (ast.get_docstring(self.node) or "").partition("\n")[0]
            case ast.Call(func=ast.Name(id=name)):
                return find(self.module, name).first_line()
            case ast.Constant(value=value):
                return str(value)
        raise LookupError(f"{self.module} has no text for: {ast.unparse(self.node)}")

    def arguments(self) -> "list[Definition]":
        """The positional arguments of a call."""
        match self.node:
            case ast.Call() as call:
                return [_resolve(self.module, argument) for argument in call.args]
        raise LookupError(f"a call was looked for in {self.module}, and not found in: {ast.unparse(self.node)}")


@cache
def _parse(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def find(module: str, name: str) -> Definition:
    """The definition of a top-level name; imports are followed.

    >>> find("methods.registry", "maml").module
    'methods.maml'
    """
    for node in _parse(module).body:
        match node:
            case ast.FunctionDef(name=found) | ast.ClassDef(name=found) if found == name:
                return Definition(module, node)
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                return Definition(module, value)
            case ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value) if found == name:
                return Definition(module, value)
            case ast.ImportFrom(module=str(source), names=aliases):
                for alias in aliases:
                    if name == (alias.asname or alias.name):
                        return find(source.removeprefix("quickstudy."), alias.name)
    raise LookupError(f"{module} defines no {name}")


def _resolve(module: str, node: ast.expr) -> Definition:
    return find(module, node.id) if isinstance(node, ast.Name) else Definition(module, node)


def read_registry(module: str, name: str) -> dict[str, Definition]:
    """The entries of a registry, by their keys.

    >>> list(read_registry("methods.wormhole", "CHARTS"))[:2]
    ['scalar', 'tanh']
    """
    return _read_entries(find(module, name))


def _read_entries(registry: Definition) -> dict[str, Definition]:
    module = registry.module
    entries: dict[str, Definition] = {}
    match registry.node:
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if key is None:  # **another
                    entries |= _read_entries(_resolve(module, value))
                else:
                    entries[str(ast.literal_eval(key))] = _resolve(module, value)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            entries = _read_entries(_resolve(module, left)) | _read_entries(_resolve(module, right))
        case ast.DictComp(generators=[ast.comprehension(iter=ast.Tuple(elts=elements))]):
            for element in elements:
                match element:
                    case ast.Name(id=named) | ast.Call(args=[ast.Constant(value=str(named)), *_]):
                        entries[named] = _resolve(module, element)
        case node:
            raise LookupError(f"a registry in {module} is written in a form that is not read: {ast.unparse(node)}")
    return entries


def read_fields(module: str, name: str) -> list[str]:
    """The fields of a pydantic model or a dataclass.

    >>> read_fields("training.config.schema", "EvaluateSettings")[:2]
    ['tasks', 'split']
    """
    node = find(module, name).node
    assert isinstance(node, ast.ClassDef)
    return [
        line.target.id for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    ]
