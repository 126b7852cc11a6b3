"""A restricted unpickler for arrays and containers: it reads a data set without running code from its file.

A pickle is a program: it may name any function of any module and call it. This unpickler knows a few names. Each stands
for an object of this module that can only build data. Any other name is refused before anything is called. Strings of
Python 2 pickles are read as latin-1, which keeps every byte. This is written by hand because NumPy reads pickled arrays
only with the full `pickle`.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from quickstudy.errors import InputError
from quickstudy.tasks.images.readers.gather import explain_damage


def load_pickle(path: Path) -> Any:
    """Read the containers, numbers, strings and arrays in a pickle.

    Raises:
        InputError: The file is not a pickle, is cut short, or asks for code.
    """
    try:
        with explain_damage(f"{path} is damaged or not a pickle"), path.open("rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path} was not read: {error}") from error


# The arguments of what follows are whatever the pickle gives, hence the loose types.


class _Dtype:
    """`numpy.dtype(code, align, copy)`, followed by its state, of which only the byte order is used."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        self.dtype = np.dtype(code) if isinstance(code, str) else np.dtype("V")
        if self.dtype.kind not in "biufSUO":
            raise InputError(f"it has an array of the type {code!r}; only numbers, strings and lists are read.")

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1] if state[1] in "<>" else "=")


class _Array(np.ndarray[Any, Any]):
    """An array whose state comes from a pickle. Its type must be a `_Dtype`, which only this module makes."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if prod(shape) > len(raw):
            raise InputError(f"it has an array of the shape {shape} made of {len(raw)} bytes.")
        super().__setstate__((1, shape, _numpy_dtype(dtype), bool(fortran), raw))  # type: ignore[arg-type]


def _numpy_dtype(dtype: object) -> "np.dtype[Any]":
    if not isinstance(dtype, _Dtype):
        raise InputError("it has an array without a type.")
    return dtype.dtype


def _from_buffer(buffer: Any, dtype: object, shape: Any, order: object) -> object:
    return np.frombuffer(buffer, dtype=_numpy_dtype(dtype)).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: object, raw: Any) -> object:
    return np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, dtype=_numpy_dtype(dtype))[0].item()


def _encode(text: Any, codec: object = "latin1") -> object:
    """`_codecs.encode(text, "latin1")`, as old protocols write bytes."""
    if codec not in ("latin1", "latin-1"):
        raise InputError(f"it asks to encode text as {codec!r}; only latin-1 is allowed.")
    return text.encode("latin1")


def _make_bytes(kind: type, *args: Any) -> object:
    """`bytes` or `bytearray`, but of values only: of a number they would take as much memory as it says."""
    if any(isinstance(value, int) for value in args):
        raise InputError(f"it asks for {kind.__name__} of a size and not of values.")
    return kind(*args)


class _Call:
    """A function that a pickle may call. It outlives the file, so the pickle cannot set an attribute on it."""

    __slots__ = ("function",)
    function: Callable[..., object]

    def __init__(self, function: Callable[..., object]) -> None:
        object.__setattr__(self, "function", function)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"it sets {name!r} on a function")

    def __call__(self, *args: Any) -> object:
        return self.function(*args)


_CORES, _BUILTINS = ("numpy.core", "numpy._core"), ("builtins", "__builtin__")
_ALLOWED: dict[tuple[str, str], object] = {
    **{(f"{core}.multiarray", "_reconstruct"): _Call(lambda *_: _Array((0,), dtype="u1")) for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): _Call(_scalar) for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _Call(_from_buffer) for core in _CORES},
    ("numpy", "ndarray"): _Call(lambda: None),  # only named, as the first argument of `_reconstruct`
    ("numpy", "dtype"): _Call(_Dtype),
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _Call(_encode),
    **{(module, kind.__name__): kind for module in _BUILTINS for kind in (dict, list, tuple, set, frozenset)},
    **{
        (module, kind.__name__): _Call(partial(_make_bytes, kind))
        for module in _BUILTINS
        for kind in (bytes, bytearray)
    },
}


# The unpickler that is written in Python, whose name is private (checked on 3.11): it keeps stored objects in a
# dictionary. The one in C makes a table as long as the largest number that a file names, whatever its size is.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _ALLOWED:
            raise InputError(
                f"it asks for {module}.{name}, which is code and not data, and nothing of it was run. If you trust the "
                "file, load it yourself and save its arrays with numpy.savez."
            )
        return _ALLOWED[module, name]
