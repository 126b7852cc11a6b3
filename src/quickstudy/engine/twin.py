"""A call with given tensors, on a twin of the module: the module itself is never touched.

`torch.func.functional_call` puts tensors into the module, runs it, and puts the old ones back. What runs again later (a
checkpointed block in the backward pass) then reads the old tensors, two threads read each other's, and what the forward
keeps stays on the module. A twin has none of these faults.

A twin is a shallow copy of the module tree, made for one call and dropped after it: the same classes and code, with
dictionaries of its own. The given tensors stand in the places of the parameters and buffers. Everything else that
reaches a parameter or a module of the tree is linked anew: lists, dictionaries with their keys, partials, bound
methods, closures, hooks, weak references, plain objects, and tensors that share the memory of a parameter. Buffers,
other tensors, NumPy's arrays and containers are copied; generators of random numbers are shared, so that they go on.
What a forward changes or keeps is dropped with the twin.

A scripted module holds its tensors in C++, where nothing can take their place: it is shared, and its own tensors cannot
be given.
"""

import functools
import random
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy, deepcopy
from enum import Enum
from pickle import PicklingError
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.weak import WeakIdKeyDictionary

from quickstudy.engine.second_derivatives import is_strange
from quickstudy.errors import InputError
from quickstudy.rules.torch_private import count_changes, is_transformed
from quickstudy.types import Inputs

M = TypeVar("M", bound=nn.Module)

OWN = ("_parameters", "_buffers", "_modules")
TORCHS = frozenset(nn.Module().__dict__) - {*OWN, "training"}
"""What every module has, such as the dictionaries of its hooks: read by torch, and changed by nobody's forward."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
ATOMS = (str, bytes, int, float, complex, bool, type(None), type, Tensor, torch.dtype, torch.device)
"""What holds no parameter that a twin could give, apart from a parameter itself."""
NO_DATA = (*ATOMS, nn.Module, types.ModuleType, types.FunctionType, types.MethodType, functools.partial)
"""What is no object of plain data: values, and objects that are compared by identity."""
PLAIN = (str, int, float, bool, type(None))
"""What a change of mode may set on a module beside its flag."""
UNCOPYABLE = (TypeError, NotImplementedError, PicklingError, AttributeError)
"""What `copy` raises of a value that cannot be copied."""
DEPTH = 8
"""How deep in containers and objects a parameter is looked for."""
LARGEST_ARRAY = 1_000_000
"""An array of NumPy's with more numbers than this holds data: it is shared."""


_SOURCES: MutableMapping[Tensor, tuple[weakref.ref[Tensor], ...]] = WeakIdKeyDictionary()
"""Of which parameters a parameter of a copied module is a copy: weak references, the last one first."""

Kept = dict[str, tuple[Any, int]]
"""The attributes and buffers of a module: each with how often it was changed in place, or its length."""
_WATCH: ContextVar[list[tuple[nn.Module, Kept]] | None] = ContextVar("watch", default=None)


def _kept_by(module: nn.Module) -> Kept:
    def state(value: Any) -> int:
        return count_changes(value) if isinstance(value, Tensor) else len(value) if isinstance(value, Sized) else 0

    return {key: (value, state(value)) for key, value in (*_extras(module), *module._buffers.items())}


@contextmanager
def watch_twins() -> Iterator[Callable[[], set[tuple[type[nn.Module], str]]]]:
    """Twins that are made in this context are kept, and what they hold; asked, it says what they hold anew.

    Each answer is the class of a module and the attribute that its forward has set.
    """
    watched: list[tuple[nn.Module, Kept]] = []
    token = _WATCH.set(watched)

    def left() -> set[tuple[type[nn.Module], str]]:
        return {
            (type(part), key)
            for part, before in watched
            for key, (value, state) in _kept_by(part).items()
            if key not in before or before[key][0] is not value or before[key][1] != state
        }

    try:
        yield left
    finally:
        _WATCH.reset(token)


class Twins(Generic[M]):
    """Twins of one module tree.

    Args:
        module: The root of the tree. It may go on being trained, moved and loaded: twins read its tensors as they are.
            Buffers are copied, as a call may change them. Those of a class that has a `keeps_buffers = True` in its
            own body are shared where no code in the tree is a stranger's.
    """

    def __init__(self, module: M) -> None:
        self.root = module
        self._plan: _Plan | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Twins[M]":
        return Twins(memo.get(id(self.root), self.root))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plan": None}

    def call(self, given: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """The module's output with given tensors in the places of its own.

        Args:
            given: By the dotted name of a parameter or buffer. A tied parameter is given once, under any of its names.
            args: Of the forward.
            kwargs: Of the forward.
        """
        if isinstance(self.root, torch.jit.ScriptModule) and not given:
            return self.root(*args, **kwargs)
        if torch.compiler.is_compiling():  # a trace runs once, so a swap does no harm, and its guards are cheaper
            return functional_call(self.root, self.plan().swapped(given), args, kwargs, tie_weights=False)
        return self.twin(given)(*args, **kwargs)

    def plan(self) -> "_Plan":
        """What is to be copied and linked, as it was when first needed."""
        if self._plan is None:
            self._plan = _Plan(self.root)
        return self._plan

    def twin(self, given: Mapping[str, Tensor]) -> M:
        """A twin with these tensors in their places; planned anew when the tree has changed."""
        twin: Any
        try:
            twin = self.plan().twin(given)
        except _OutdatedError:
            self._plan = _Plan(self.root)
            twin = self._plan.twin(given)
        if (watched := _WATCH.get()) is not None:
            watched += [(part, _kept_by(part)) for part in twin.modules()]
        made: M = twin
        return made


def call_on(call: Callable[..., Any], x: Inputs) -> Any:
    """The output of a module for its inputs: a tuple is its arguments, a dictionary its keywords.

    It is a tensor, or what a loss of the user's own takes.
    """
    if type(x) is tuple:
        output = call(*x)
    elif isinstance(x, Mapping):
        output = call(**x)
    else:
        output = call(x)
    return logits_of(output)


def logits_of(output: Any) -> Any:
    """The output itself; where it holds `logits` beside other values, as those of transformers do, these."""
    result = output
    if isinstance(output, Mapping) and "logits" in output:
        result = output["logits"]
    elif not isinstance(output, Tensor):
        result = getattr(output, "logits", output)
    return result


class _OutdatedError(Exception):
    """A module, a parameter or an attribute was put in since the plan was made."""


class _Plan:
    """How twins of a tree are made: modules by number, and for each what it takes from where."""

    def __init__(self, root: nn.Module) -> None:
        named = list(_walk(root, ""))
        self.modules = list({id(module): module for _, module in named}.values())
        self.number = {id(module): i for i, module in enumerate(self.modules)}
        # A class may have a `named_parameters` of its own, which leaves some out.
        places = [
            (f"{path}{leaf}", p) for path, module in named for leaf, p in module._parameters.items() if p is not None
        ]
        first_places: dict[int, tuple[str, nn.Parameter]] = {}
        for place, parameter in places:
            first_places.setdefault(id(parameter), (place, parameter))
        self.params = dict(first_places.values())
        # `params` keeps each parameter alive, so that no other tensor gets its identity.
        self.name = {id(p): name for name, p in self.params.items()}
        self.memory = {p.untyped_storage().data_ptr(): name for name, p in self.params.items() if _has_memory(p)}
        self.first: dict[str, str] = {}
        self.buffers: dict[str, tuple[int, str]] = {}
        for path, module in named:
            for leaf, p in module._parameters.items():
                if p is not None:
                    self.first[f"{path}{leaf}"] = self.name[id(p)]
            for leaf in module._buffers:
                self.buffers[f"{path}{leaf}"] = (self.number[id(module)], leaf)
        strangers = any(map(is_strange, self.modules))  # whose code may change the buffers of others
        self.sources = [
            (
                type(module),
                module.__dict__,
                len(module.__dict__),
                strangers or not _keeps_buffers(module),
                self._links(module),
            )
            for module in self.modules
        ]

    def swapped(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The given tensors by every place that they have: a tied parameter is in several."""
        params = {self.first.get(name, name): value for name, value in given.items()}
        return params | {place: params[name] for place, name in self.first.items() if name in params}

    def _links(self, module: nn.Module) -> list[tuple[str, int, bool]]:
        """Attributes that are no atoms: by name, their value's identity, and whether they are linked anew or copied."""
        return [
            (key, id(value), self._must_link(value))
            for key, value in module.__dict__.items()
            if key not in OWN and key not in TORCHS and not (isinstance(value, ATOMS) and not isinstance(value, Tensor))
        ]

    def _must_link(self, value: Any) -> bool:
        if isinstance(value, Tensor):  # a forward may change it in place, as a buffer
            return True
        return self._reaches(value, set(), 0) or _holds_containers(value, 0)

    @functools.cached_property
    def share_memory(self) -> bool:
        """Whether two tensors that are no parameters lie in the same memory, such as a buffer and a view of it."""
        found: dict[int, Tensor] = {}
        waiting = [(value, 0) for module in self.modules for value in module._buffers.values()]
        waiting += [
            (value, 0)
            for module in self.modules
            for key, value in module.__dict__.items()
            if key not in (*OWN, *TORCHS)
        ]
        seen: set[int] = set()
        while waiting:
            value, depth = waiting.pop()
            if isinstance(value, Tensor):
                own = _has_memory(value) and value.numel() and not self._shares_memory(value)
                if own and found.setdefault(value.untyped_storage().data_ptr(), value) is not value:
                    return True
            elif id(value) not in seen and depth <= DEPTH and not isinstance(value, (*ATOMS, types.ModuleType)):
                seen.add(id(value))
                waiting += [(part, depth + 1) for part in parts_of(value)]
        return False

    def _reaches(self, value: Any, seen: set[int], depth: int) -> bool:
        """Whether a value reaches a parameter or a module of the tree."""
        if id(value) in self.number or id(value) in self.name:
            return True
        if isinstance(value, (*ATOMS, types.ModuleType)) or id(value) in seen or depth > DEPTH:
            return False
        seen.add(id(value))
        return any(self._reaches(part, seen, depth + 1) for part in parts_of(value))

    def twin(self, given: Mapping[str, Tensor]) -> nn.Module:
        """A twin with these tensors in their places."""
        params = {self.first[name]: value for name, value in given.items() if name in self.first}
        new: list[Any] = [object.__new__(source[0]) for source in self.sources]
        memo: dict[int, Any] = {}
        number, name_of, first_given = self.number, self.name, params.get
        try:
            for twin, (_, d, size, copied, links) in zip(new, self.sources, strict=True):
                if len(d) != size:
                    raise _OutdatedError
                own = twin.__dict__
                own.update(d)
                own["_parameters"] = {
                    key: p if p is None else first_given(name_of[id(p)], p) for key, p in d["_parameters"].items()
                }
                buffers = d["_buffers"]
                own["_buffers"] = (
                    {key: None if b is None else self._copied(b, memo) for key, b in buffers.items()}
                    if copied and buffers
                    else buffers.copy()
                )
                own["_modules"] = {
                    key: m if m is None or isinstance(m, torch.jit.ScriptModule) else new[number[id(m)]]
                    for key, m in d["_modules"].items()
                }
                for key, identity, linked in links:
                    value = d[key]
                    if linked if id(value) == identity else self._must_link(value):
                        own[key] = self._link(value, new, params, memo)
                for key in HOOKS:
                    if d[key]:
                        own[key] = self._link(d[key], new, params, memo)
        except KeyError as missing:  # a parameter, a module or an attribute that the plan does not know
            raise _OutdatedError from missing
        for name, value in given.items():
            if name not in self.first:
                if name not in self.buffers:
                    raise InputError(
                        f"The module has no parameter or buffer {name!r} whose value could be another in a task. A "
                        "scripted part keeps its tensors for itself: freeze them by requires_grad_(False), leave them "
                        "out of `adapts`, or give the module as it was before torch.jit.script."
                    )
                i, leaf = self.buffers[name]
                new[i].__dict__["_buffers"][leaf] = value
        root: nn.Module = new[0]
        return root

    def _copied(self, value: Tensor, memo: dict[Any, Any]) -> Tensor:
        """A copy of a tensor; of tensors in the same memory the copies are in the same memory too."""
        if id(value) in memo:
            found: Tensor = memo[id(value)]
            return found
        plain = _has_memory(value) and value.numel() and not (value.requires_grad or value.is_conj() or value.is_neg())
        if plain and self.share_memory:
            memory = value.untyped_storage()
            key = "memory", memory.data_ptr()
            if key not in memo:
                memo[key] = memory.clone()  # type: ignore[no-untyped-call]
            made = value.new_empty(0).set_(memo[key], value.storage_offset(), value.shape, value.stride())
        else:
            made = value.clone()
        memo[id(value)] = made
        return made

    def _shares_memory(self, value: Tensor) -> bool:
        """Whether a tensor is a part of a parameter's memory, or all of it: a view that was made once."""
        if not _has_memory(value):
            return False
        address = value.untyped_storage().data_ptr()
        name = self.memory.get(address)
        # A parameter may have moved since, and another tensor may lie where it was.
        return name is not None and self.params[name].untyped_storage().data_ptr() == address

    def _alias(self, value: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """The same part of the value that the parameter has in the twin."""
        name = self.memory[value.untyped_storage().data_ptr()]
        old: Tensor = self.params[name]
        given = params.get(name, old)
        given = given if value.requires_grad else given.detach()
        if given.stride() != old.stride():
            given = torch.empty_strided(old.shape, old.stride(), dtype=given.dtype, device=given.device).copy_(given)
        if value.dtype != old.dtype:  # the real and imaginary parts, and what they are parts of
            given, old = (_as_reals(tensor) for tensor in (given, old))
            complex_view = value.is_complex()
            part = _as_reals(value) if complex_view else value
            offset = given.storage_offset() + part.storage_offset() - old.storage_offset()
            reals = given.as_strided(part.shape, part.stride(), offset)
            alias = torch.view_as_complex(reals) if complex_view else reals
        else:
            offset = given.storage_offset() + value.storage_offset() - old.storage_offset()
            alias = given.as_strided(value.shape, value.stride(), offset)
        alias = alias.conj() if value.is_conj() != old.is_conj() else alias
        return -alias if value.is_neg() else alias

    def _link(self, value: Any, new: list[nn.Module], params: Mapping[str, Tensor], memo: dict[int, Any]) -> Any:
        """The value with the twin's modules and tensors in the places of the tree's own; containers are copies."""
        if id(value) in self.number:
            return new[self.number[id(value)]]
        if id(value) in self.name:
            return params.get(self.name[id(value)], value)
        if id(value) in memo:
            return memo[id(value)]
        if isinstance(value, Tensor):
            memo[id(value)] = self._alias(value, params) if self._shares_memory(value) else self._copied(value, memo)
            return memo[id(value)]
        if isinstance(value, np.ndarray):
            memo[id(value)] = value.copy() if value.size <= LARGEST_ARRAY else value
            return memo[id(value)]
        if isinstance(value, (*ATOMS, types.ModuleType)) or not self._must_link(value):
            return value

        def link(part: Any) -> Any:
            return self._link(part, new, params, memo)

        made: Any
        if isinstance(value, Twins):
            made = Twins(link(value.root))
        elif isinstance(value, dict | list | deque | set):
            made = memo[id(value)] = value.copy() if type(value) in (dict, list, set) else _shallow_copy(value)
            if made is value:
                return value
            if isinstance(value, dict):
                base: Any = OrderedDict if isinstance(value, OrderedDict) else dict  # not what a subclass makes of them
                parts: Any = {link(key): link(part) for key, part in base.items(value)}
                if parts.keys() != dict.keys(made):  # some are modules
                    base.clear(made)
                base.update(made, parts)
            elif isinstance(value, set):
                parts = set(map(link, value))
                set.clear(made)
                set.update(made, parts)
            else:
                put = list.__setitem__ if isinstance(value, list) else deque.__setitem__
                for i, part in enumerate(map(link, value)):
                    put(made, i, part)
            if not _holds_itself(value):
                for key, part in getattr(value, "__dict__", {}).items():
                    made.__dict__[key] = link(part)
        elif isinstance(value, tuple):
            made = type(value)(*map(link, value)) if hasattr(value, "_fields") else type(value)(map(link, value))
        elif isinstance(value, frozenset):
            made = type(value)(map(link, value))
        elif isinstance(value, functools.partial):
            made = functools.partial(
                link(value.func), *map(link, value.args), **{key: link(part) for key, part in value.keywords.items()}
            )
        elif isinstance(value, types.MethodType):
            made = types.MethodType(value.__func__, link(value.__self__))
        elif isinstance(value, weakref.ref):
            made = weakref.ref(link(value()))
        elif isinstance(value, types.FunctionType):
            cells = value.__closure__ and tuple(
                types.CellType(link(cell.cell_contents)) if _filled(cell) else cell for cell in value.__closure__
            )
            defaults = value.__defaults__ and tuple(map(link, value.__defaults__))
            made = types.FunctionType(value.__code__, value.__globals__, value.__name__, defaults, cells)
            made.__kwdefaults__ = value.__kwdefaults__ and {k: link(v) for k, v in value.__kwdefaults__.items()}
            made.__dict__.update(value.__dict__)
            made.__qualname__ = value.__qualname__
        else:
            made = memo[id(value)] = _shallow_copy(value)
            if made is not value:
                own = getattr(made, "__dict__", {})
                for key, part in attributes_of(value).items():
                    if key in own:
                        own[key] = link(part)
                    else:  # a slot, also of a frozen object
                        object.__setattr__(made, key, link(part))
            return made
        memo[id(value)] = made
        return made


def _shallow_copy(value: Any) -> Any:
    """Another object of the same class that holds the same; the object itself where it cannot be copied."""
    try:
        made = copy(value)
        if _holds_itself(value):
            made.__dict__ = made
    except UNCOPYABLE:  # an open file
        return value
    return made


def _keeps_buffers(module: nn.Module) -> bool:
    """Whether the class itself says that no call changes a buffer: a subclass may add what does."""
    return bool(vars(type(module)).get("keeps_buffers", False))


def _as_reals(value: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers in the same memory; any other as it is."""
    return torch.view_as_real(value.conj() if value.is_conj() else value) if value.is_complex() else value


def _walk(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Each place of a module in the tree, with its path as a prefix; scripted modules are left out."""
    if isinstance(module, torch.jit.ScriptModule):
        return
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(child, f"{path}{name}.")


def parts_of(value: Any) -> list[Any]:
    """What a value holds: elements, arguments, cells of a closure, attributes."""
    if isinstance(value, Twins):
        return [value.root]
    if isinstance(value, dict):
        keys = (key for key in dict.keys(value) if isinstance(key, Tensor) or not isinstance(key, ATOMS))
        return [*keys, *dict.values(value)]
    if isinstance(value, list | tuple | set | frozenset | deque):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, weakref.ref):
        return [value()]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, nn.Module | type | types.ModuleType | types.BuiltinFunctionType):
        return []
    return list(attributes_of(value).values())


def attributes_of(value: object) -> dict[str, Any]:
    """What an object holds, by name: in its dictionary, and in the slots of its class."""
    kind: Any = type(value)  # mypy doubts that a class can be hashed
    slots = {name: getattr(value, name) for name in _slots(kind) if hasattr(value, name)}
    return slots | getattr(value, "__dict__", {})


@functools.lru_cache(maxsize=1024)
def _slots(kind: type) -> tuple[str, ...]:
    """The names of the slots that classes of Python give their objects, as the objects have them."""
    return tuple(
        name
        for base in kind.__mro__
        if "__slots__" in vars(base)
        for name, place in vars(base).items()
        if isinstance(place, types.MemberDescriptorType)
    )


def _holds_containers(value: Any, depth: int) -> bool:
    """Whether a value is, or consists of, what a forward may fill: containers, tensors, objects of plain data."""
    if isinstance(value, dict | list | set | deque | np.ndarray | Tensor):
        return True
    if isinstance(value, tuple):
        return any(_holds_containers(part, depth + 1) for part in value)
    return _is_plain_object(value, depth)


def _is_plain_object(value: Any, depth: int) -> bool:
    """Whether an object is data only: a meter, a cache, a record. It can be copied attribute by attribute."""
    if depth > DEPTH or isinstance(value, NO_DATA):
        return False
    attributes = attributes_of(value)
    if not attributes or isinstance(value, Enum | random.Random):
        return False  # an object without data, or a member of an Enum, is told by its identity; a generator goes on
    return all(
        isinstance(part, (*ATOMS, dict, list, set, deque, tuple, np.ndarray)) or _is_plain_object(part, depth + 1)
        for part in attributes.values()
    )


def _has_memory(value: Tensor) -> bool:
    """Whether a tensor is a plain one with memory of its own: no sparse, fake or transformed one."""
    plain = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided and value.device.type != "meta"
    return plain and not is_transformed(value)


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # an empty cell raises
    except ValueError:
        return False
    return True


def sources_of(parameter: Tensor) -> list[Tensor]:
    """The parameters that are still there of which this one was copied, by `copy_module`."""
    return [found for source in _SOURCES.get(parameter, ()) if (found := source()) is not None]


def copy_module(module: M, memo: dict[int, Any] | None = None) -> M:
    """A deep copy whose closures, partials and bound methods reach the copy, and no longer the module.

    `copy.deepcopy` copies no functions: `self.act = lambda h: h * self.scale` goes on reading the scale of the module
    that it was made in. It also refuses tensors with a history, such as features that a forward kept; here they are
    copied as numbers.
    """
    plan = _Plan(module)
    memo = {} if memo is None else memo
    own_attributes: list[dict[str, Any]] = []
    for part in plan.modules:
        for key, value in part.__dict__.items():
            if key not in ("_parameters", "_modules"):
                _enter_particular(value, memo, own_attributes, set(), 0)
    if isinstance(module, torch.jit.ScriptModule):
        return deepcopy(module)
    for value in own_attributes:
        dict.update(memo[id(value)], {deepcopy(key, memo): deepcopy(part, memo) for key, part in dict.items(value)})
    there = {id(part) for part in plan.modules if id(part) in memo}  # a copy of what holds them both has made them
    own_way = {id(part) for part in plan.modules if part is not module and _copies_itself(type(part))}
    for part in plan.modules:
        if id(part) not in own_way | there:
            memo[id(part)] = object.__new__(type(part))
    for part in reversed(plan.modules):  # children first: what copies itself may look at them
        if id(part) not in there and (id(part) not in own_way or not _let_copy_itself(part, memo)):
            _copy_attributes(part, memo.setdefault(id(part), object.__new__(type(part))), memo)
    copied: M = memo[id(module)]
    new = [memo[id(part)] for part in plan.modules]
    params = {name: memo[id(p)] for name, p in plan.params.items()}
    for name, p in plan.params.items():
        _SOURCES[params[name]] = (weakref.ref(p), *_SOURCES.get(p, ()))
    linked: dict[int, Any] = {}
    for twin, source in zip(new, plan.modules, strict=True):
        for key, value in source.__dict__.items():
            aliases = isinstance(value, Tensor) and plan._shares_memory(value)
            if key not in OWN and (aliases or plan._reaches(value, set(), 0)):
                twin.__dict__[key] = plan._link(value, new, params, linked)
    return copied


def _copies_itself(kind: type[nn.Module]) -> bool:
    """Whether a class has a way of its own to be copied."""
    ways = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
    return any(getattr(kind, way, None) is not getattr(nn.Module, way, None) for way in ways)


def _let_copy_itself(module: nn.Module, memo: dict[int, Any]) -> bool:
    """Copy a module by its own way; False, and nothing has happened, where that fails or makes parts anew."""
    size = len(memo)
    try:
        copied = deepcopy(module, memo)
        parts = dict(copied.named_modules(remove_duplicate=False))
        params = dict(copied.named_parameters(remove_duplicate=False))
        if all(
            memo.get(id(value)) is copies.get(name)
            for own, copies in (
                (module.named_modules(remove_duplicate=False), parts),
                (module.named_parameters(remove_duplicate=False), params),
            )
            for name, value in own
        ):
            return True
    except UNCOPYABLE:
        pass
    _forget(memo, size)
    return False


def _forget(memo: dict[int, Any], size: int) -> None:
    """Drop what a copy that failed has entered: it may hold half of its values."""
    while len(memo) > size:
        memo.popitem()


def _copy_attributes(module: nn.Module, made: nn.Module, memo: dict[int, Any]) -> None:
    """Copy what a module holds into its copy."""
    for key, value in module.__dict__.items():
        size = len(memo)
        try:
            made.__dict__[key] = deepcopy(value, memo)
        except UNCOPYABLE:  # a lock, a generator, an open file: it cannot be copied, and is shared
            if key in OWN:
                raise
            _forget(memo, size)
            made.__dict__[key] = memo[id(value)] = value


def _holds_itself(value: Any) -> bool:
    """Whether a value is a dictionary whose entries are its attributes."""
    return isinstance(value, dict) and getattr(value, "__dict__", None) is value


def _holding_itself(kind: Any) -> Any:
    """An empty dictionary of that sort."""
    made = kind.__new__(kind)
    made.__dict__ = made
    return made


def _enter_particular(
    value: Any, memo: dict[int, Any], own_attributes: list[dict[str, Any]], seen: set[int], depth: int
) -> None:
    """Enter what a deep copy would not get right into its memo.

    A tensor with a history is copied without one. A dictionary that holds its own attributes gets a copy that does so,
    which is still to be filled.
    """
    if isinstance(value, Tensor):
        if not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    elif id(value) not in seen and depth <= DEPTH:
        seen.add(id(value))
        if _holds_itself(value):
            memo[id(value)] = _holding_itself(type(value))
            own_attributes.append(value)
        for part in parts_of(value):
            _enter_particular(part, memo, own_attributes, seen, depth + 1)


def set_mode(twin: nn.Module, module: nn.Module, *, training: bool) -> None:
    """Put a twin into training or evaluation mode; the module that it is a twin of stays as it is.

    A class with a `train` or an `eval` of its own may do more than set the flag: freeze its norms, switch its noise
    off, take other settings. It is asked on a copy of the module, and the twin takes over what that changed. Where it
    changes tensors (low-rank layers that it merges into the weight), only the flag is set: under merged weights the
    low-rank parts could not adapt.
    """
    for part in twin.modules():
        part.training = training
    if not any(_switches_more(type(part)) for part in module.modules()):
        return
    copied = copy_module(module)
    plan = _Plan(copied)
    before = [{key: _snapshot(value, 0) for key, value in _extras(part)} for part in plan.modules]
    copied.train(training)
    for part in (copied, *copied.children()) if not training else ():  # the parts of a learner are users' models
        if type(part).eval is not nn.Module.eval:
            part.eval()
    changed = {
        path.rpartition(".")[0]
        for (path, old), new in zip(module.state_dict().items(), copied.state_dict().values(), strict=False)
        if not (old.shape == new.shape and torch.equal(old, new))
    }
    targets = list({id(part): part for _, part in _walk(twin, "")}.values())
    if [type(part) for _, part in _walk(copied, "")] != [type(part) for _, part in _walk(twin, "")]:
        kinds = ", ".join(sorted({type(part).__name__ for part in module.modules() if _switches_more(type(part))}))
        raise InputError(
            f"The `train` or `eval` of one of {kinds} adds, drops or replaces modules, which a learner cannot follow. "
            "Make them all in `__init__`."
        )
    params, memo = dict(twin.named_parameters()), dict[int, Any]()
    paths = {id(part): path.rstrip(".") for path, part in reversed(list(_walk(copied, "")))}
    for part, target, old in zip(plan.modules, targets, before, strict=True):
        path = paths[id(part)]
        if path in changed or (_switches_more(type(part)) and any(c.startswith(path) for c in changed)):
            continue
        for key, value in _extras(part):
            if key not in old or not _is_same(old[key], _snapshot(value, 0)):
                target.__dict__[key] = plan._link(value, targets, params, memo)


def _switches_more(kind: type[nn.Module]) -> bool:
    """Whether a change of mode runs code of the class."""
    return kind.train is not nn.Module.train or kind.eval is not nn.Module.eval


def _extras(module: nn.Module) -> list[tuple[str, Any]]:
    """The attributes of a module beside those that every module has."""
    return [
        (key, value)
        for key, value in module.__dict__.items()
        if key not in OWN and key not in TORCHS and key != "training"
    ]


def _snapshot(value: Any, depth: int) -> Any:
    """What a value holds by now, to be compared with what it holds later."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (*ATOMS, nn.Module, types.ModuleType)) or depth > DEPTH:
        return value
    if isinstance(value, dict):
        return type(value), [(key, _snapshot(part, depth + 1)) for key, part in dict.items(value)]
    if isinstance(value, list | tuple | deque):
        return type(value), [_snapshot(part, depth + 1) for part in value]
    if isinstance(value, set):
        return type(value), set(value)
    if _is_plain_object(value, 0):
        return value, [(key, _snapshot(part, depth + 1)) for key, part in attributes_of(value).items()]
    return value


def _is_same(one: Any, other: Any) -> bool:
    """Whether two snapshots say the same: tensors by their numbers, containers by their parts, objects by identity."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, PLAIN) and isinstance(other, PLAIN):
        return one == other
    return one is other or (isinstance(one, set | frozenset) and one == other)
