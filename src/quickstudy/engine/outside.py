"""What the code of a user's module may write to beside the module: what its twins share, and tasks on threads too.

A twin has copies of what a module holds. It shares what nobody can copy, and what is not held by the module at all:
variables of a file, values in the closure of a hook, attributes of a class. A forward that leaves something there, and
reads it again, is right as long as tasks run one after the other.
"""

import builtins
import functools
import random
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.engine.twin import attributes_of, parts_of
from quickstudy.rules.torch_private import count_changes

DEPTH = 8
"""How deep in containers, objects and functions is looked."""
LARGEST = 10_000
"""Of a longer list only the length is looked at: it holds data."""
GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
"""What random numbers are drawn from, in the order in which tasks run."""
LEAVES = (str, bytes, int, float, complex, bool, type(None), type, torch.dtype, torch.device)
"""What cannot be written to."""

Holdings = list[tuple[Any, ...]]
"""What was found: each value with its parts. They are kept, so that no other object gets the identity of one."""


def writes_outside(run: Callable[[], object], strangers: Sequence[object]) -> bool:
    """Whether a computation changes anything that the code of strangers reaches, beside what twins copy.

    Args:
        run: The computation.
        strangers: Users' modules and losses, which it runs.
    """
    before = _holdings(strangers)
    run()
    return not _same(before, _holdings(strangers))


def what_is_read(code: object) -> tuple[set[type[nn.Module]], set[str]]:
    """The classes of the modules that a user's function, object or loss module reads, and the names in its code.

    Of an object only those attributes and methods are followed that the code names.
    """
    is_function = isinstance(code, (types.FunctionType, types.MethodType, functools.partial))
    names = set() if is_function else {"forward" if isinstance(code, nn.Module) else "__call__"}
    while True:
        kinds, found = _read_by(code, names)
        if found <= names:
            return kinds, names
        names |= found


def _read_by(code: object, names: set[str]) -> tuple[set[type[nn.Module]], set[str]]:
    """The classes of modules, and the names in code, that are reached by following these names."""
    kinds: set[type[nn.Module]] = set()
    found: set[str] = set()
    seen: set[int] = set()
    waiting = [(code, 0)]
    while waiting:
        value, depth = waiting.pop()
        if id(value) in seen or depth > DEPTH or isinstance(value, (*LEAVES, Tensor, types.ModuleType, *GENERATORS)):
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module) and value is not code:
            kinds |= set(map(type, value.modules()))
            continue
        parts: list[Any]
        if isinstance(value, types.FunctionType):
            found |= {name for one in codes_of(value) for name in one.co_names}
            parts = _parts(value)
        elif isinstance(value, (types.MethodType, functools.partial, dict, list, tuple, set, frozenset, deque)):
            parts = _parts(value)
        else:
            own = [*attributes_of(value).items()]
            own += [item for kind in type(value).__mro__ if is_users(kind) for item in vars(kind).items()]
            parts = [part.fget if isinstance(part, property) else part for name, part in own if name in names]
        waiting += [(part, depth + 1) for part in parts]
    return kinds, found


def is_users(kind: type) -> bool:
    """Whether a class is neither torch's, nor this package's, nor Python's own."""
    return not kind.__module__.startswith(("torch.", "quickstudy.", "builtins"))


def _holdings(strangers: Iterable[object]) -> Holdings:
    found: Holdings = []
    seen: set[int] = set()
    for part in strangers:
        for value in _roots(part):
            _look_at(value, found, seen, 0)
    return found


def _same(one: Holdings, other: Holdings) -> bool:
    return len(one) == len(other) and all(
        len(a) == len(b) and all(x is y or (type(x) is int and x == y) for x, y in zip(a, b, strict=True))
        for a, b in zip(one, other, strict=True)
    )


def _roots(part: object) -> Iterator[object]:
    """Where the code of a module or a loss begins to look."""
    if not isinstance(part, nn.Module):
        yield part
        return
    yield from (value for key, value in vars(part).items() if key not in ("_parameters", "_buffers", "_modules"))
    for kind in type(part).__mro__:
        if is_users(kind):
            yield from vars(kind).values()


def _look_at(value: object, found: Holdings, seen: set[int], depth: int) -> None:
    if isinstance(value, (*LEAVES, nn.Module, types.ModuleType, types.BuiltinFunctionType)) or depth > DEPTH:
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        found.append((value, count_changes(value)))
        return
    if isinstance(value, threading.local):  # each thread would read its own, so it counts as changed
        found.append((value, object()))
        return
    if isinstance(value, GENERATORS):
        found.append((value, _state_of(value)))
        return
    if isinstance(value, np.ndarray):
        found.append((value, hash(value.tobytes()) if value.size <= LARGEST and not value.dtype.hasobject else 0))
        return
    if isinstance(value, list | tuple | dict | set | frozenset | deque) and len(value) > LARGEST:
        found.append((value, len(value)))
        return
    parts = _parts(value)
    found.append((value, *parts))
    for part in parts:
        _look_at(part, found, seen, depth + 1)


def _state_of(generator: Any) -> int:
    """Where a generator stands in its stream."""
    if isinstance(generator, torch.Generator):
        return hash(generator.get_state().numpy().tobytes())
    if isinstance(generator, random.Random):
        return hash(repr(generator.getstate()))
    if isinstance(generator, np.random.RandomState):
        return hash(repr(generator.get_state()))
    return hash(repr(generator.bit_generator.state))


def _parts(value: Any) -> list[Any]:
    """What a value holds by now, and what its code reads."""
    if isinstance(value, dict):
        return [*dict.keys(value), *parts_of(value)]
    if isinstance(value, types.MethodType):
        return [value.__func__, *parts_of(value)]
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__]
    if isinstance(value, property):
        return [value.fget]
    if isinstance(value, types.FunctionType):
        if value.__module__.startswith(("torch.", "quickstudy.")):
            return []
        return [*parts_of(value), *_globals(value)]
    return parts_of(value)


def _globals(function: types.FunctionType) -> list[Any]:
    """The variables of a file that a function names, in itself or in a function within it."""
    names = dict.fromkeys(name for code in codes_of(function) for name in code.co_names)
    held = function.__globals__
    return [held[name] for name in names if name in held and not hasattr(builtins, name)]


def codes_of(function: types.FunctionType) -> list[types.CodeType]:
    """The code of a function, and of every function within it."""
    codes = [function.__code__]
    for code in codes:
        codes += [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return codes
