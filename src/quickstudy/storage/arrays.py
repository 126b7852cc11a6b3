"""Reading NumPy's archives of arrays, which may be damaged, or made to take all memory."""

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quickstudy.storage.files import check_size, max_bytes, open_file

DAMAGE = (
    OSError, ValueError, EOFError, LookupError, RuntimeError, TypeError, AttributeError, ArithmeticError, SyntaxError,
    MemoryError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What zipfile and NumPy raise; which of them depends on which byte is wrong."""


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
