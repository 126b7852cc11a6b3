"""NumPy's archives of arrays. One that is read may be damaged, or made to take all memory."""

import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quickstudy.errors import InputError
from quickstudy.storage.files import check_size, max_bytes, open_file

DAMAGE = (
    OSError, ValueError, EOFError, LookupError, RuntimeError, TypeError, AttributeError, ArithmeticError, SyntaxError,
    MemoryError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What zipfile and NumPy raise; which of them depends on which byte is wrong."""


RESERVED = ("file", "allow_pickle")
"""Names that NumPy's writer takes for options of its own."""


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of an npz file, which `read_arrays` reads."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"Array {name!r} holds Python objects, which only pickle can write.")
        if name in RESERVED:
            raise InputError(f"An array cannot be called {name!r}: NumPy's archives have no such name. Take another.")
    named: dict[str, Any] = dict(arrays)
    packed = io.BytesIO()
    np.savez_compressed(packed, **named)
    return packed.getvalue()


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file, which together are no larger than `max_bytes`. Damage is a ValueError of one line."""
    try:
        # Opened here, because np.load does not close a file that it cannot read.
        with open_file(path) as opened:
            with zipfile.ZipFile(opened) as archive:
                size = sum(member.file_size for member in archive.infolist())
            check_size(path, size, max_bytes())
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
    except DAMAGE as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
