"""A restricted unpickler for arrays and containers: it reads a data set without running code from its file.

A pickle is a program: it may name any function of any module and call it. This unpickler knows a few names. Each stands
for an object of this module that can only build data. Any other name is refused before anything is called. Strings of
Python 2 pickles are read as latin-1, which keeps every byte. This is written by hand because NumPy reads pickled arrays
only with the full `pickle`.
"""

import pickle
from collections import OrderedDict
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


# The objects below outlive the file, so they have empty __slots__: a pickle cannot set attributes on them. Their
# arguments are whatever the pickle gives, hence the loose types.


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


class _Call:
    """A function that a pickle may call."""

    __slots__ = ()


class _MakeBytes(_Call):
    """`bytes` or `bytearray`, but of values only: of a number they would take as much memory as it says."""

    __slots__ = ("kind",)

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __call__(self, *args: Any) -> object:
        if any(isinstance(value, int) for value in args):
            raise InputError(f"it asks for {self.kind.__name__} of a size and not of values.")
        return self.kind(*args)


class _MakeDtype(_Call):
    __slots__ = ()

    def __call__(self, *args: Any) -> _Dtype:
        return _Dtype(*args)


class _Reconstruct(_Call):
    __slots__ = ()

    def __call__(self, kind: object, shape: object, code: object) -> object:
        return _Array((0,), dtype="u1")


class _FromBuffer(_Call):
    __slots__ = ()

    def __call__(self, buffer: Any, dtype: object, shape: Any, order: object) -> object:
        return np.frombuffer(buffer, dtype=_numpy_dtype(dtype)).reshape(shape, order="F" if order == "F" else "C")


class _Scalar(_Call):
    __slots__ = ()

    def __call__(self, dtype: object, raw: Any) -> object:
        return np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, dtype=_numpy_dtype(dtype))[0].item()


class _Encode(_Call):
    """`_codecs.encode(text, "latin1")`, as old protocols write bytes."""

    __slots__ = ()

    def __call__(self, text: Any, codec: object = "latin1") -> object:
        if codec not in ("latin1", "latin-1"):
            raise InputError(f"it asks to encode text as {codec!r}; only latin-1 is allowed.")
        return text.encode("latin1")


def _numpy_dtype(dtype: object) -> "np.dtype[Any]":
    if not isinstance(dtype, _Dtype):
        raise InputError("it has an array without a type.")
    return dtype.dtype


_CORES = ("numpy.core", "numpy._core")
_ALLOWED: dict[tuple[str, str], object] = {
    **{(f"{core}.multiarray", "_reconstruct"): _Reconstruct() for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): _Scalar() for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _FromBuffer() for core in _CORES},
    **{
        (module, kind.__name__): _MakeBytes(kind)
        for module in ("builtins", "__builtin__")
        for kind in (bytes, bytearray)
    },
    ("numpy", "ndarray"): _Call(),
    ("numpy", "dtype"): _MakeDtype(),
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _Encode(),
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (dict, list, tuple, set, frozenset)
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
