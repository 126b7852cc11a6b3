"""npz archives: pictures and labels under the names that circulate, read without unpickling anything.

One array of each (`images` and `labels`, `data` and `labels`, or `x` and `y`), or one of each per split, the split
before or after the name (`train_images`, `x_train`). A division inside one file is by image: its splits may share
classes. So may those of `{train,val,test}.npz`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from quickstudy.errors import InputError
from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.readers.arrays import Part, as_labels, as_pictures, joined
from quickstudy.tasks.images.readers.gather import SPLIT_NAMES, scan, split_of

PAIRS = (("images", "labels"), ("data", "labels"), ("x", "y"))


def npz(path: Path) -> Listing | None:
    """npz with images and labels (or x and y, data and labels), also by split: train_images, x_train, train.npz"""
    if path.is_file():
        return _listing([path]) if path.suffix.lower() == ".npz" else None
    files = [Path(e.path) for e in scan(path) if e.name.lower().endswith(".npz") and e.is_file()]
    divided = [file for file in files if split_of(file.stem)]
    if len({split_of(file.stem) for file in divided}) < len(divided):
        raise InputError(
            f"Of {', '.join(file.name for file in divided)} in {path} two mean the same split: remove one."
        )
    if len(files) > 1 and not divided:
        raise InputError(f"{path} has several archives ({', '.join(f.name for f in files)}): give the path of one.")
    return _listing(divided or files) if files else None


def load_npz(file: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an npz archive; arrays of objects are refused, because they would be unpickled."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile, NotImplementedError) as error:
        told = str(error).partition("\n")[0]
        raise InputError(
            f"{file} cannot be read ({told}): it must be an npz of plain arrays. Download it again, or save it with "
            "numpy.savez, text labels as numpy.array(names, dtype=str)."
        ) from error


def _listing(files: list[Path]) -> Listing:
    parts = [part for file in files for part in _parts(file)]
    parts.sort(key=lambda part: ("train", "val", "test").index(part.split) if part.split else 0)
    return joined(f"npz arrays ({', '.join(file.name for file in files)})", parts, apart=False)


def _parts(file: Path) -> list[Part]:
    arrays: Mapping[str, NDArray[Any]] = {name.lower(): values for name, values in load_npz(file).items()}
    parts = []
    for images, labels in PAIRS:
        for word in ("", *SPLIT_NAMES):
            keys = ((f"{word}_{images}", f"{word}_{labels}"), (f"{images}_{word}", f"{labels}_{word}"))
            for x, y in keys if word else ((images, labels),):
                if x in arrays and y in arrays:
                    source = f"{file.name}:{x}"
                    pictures = as_pictures(arrays[x], source)
                    split = split_of(word) or split_of(file.stem)
                    parts.append(Part(source, pictures, as_labels(arrays[y], source, len(pictures)), split))
    if not parts:
        raise InputError(
            f"{file} has the arrays {', '.join(sorted(arrays)) or '(none)'}; wanted are images and labels, data and "
            "labels, or x and y, alone or by split as train_images and train_labels."
        )
    return parts
