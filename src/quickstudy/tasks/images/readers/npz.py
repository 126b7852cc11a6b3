"""The npz archives with pictures and labels under their usual names, read without unpickling anything.

There is one array of each (`images` and `labels`, `data` and `labels`, or `x` and `y`), or one of each per split, with
the split before or after the name (`train_images`, `x_train`). Splits may share classes, in one file and in
`{train,val,test}.npz`.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quickstudy.errors import InputError
from quickstudy.tasks.images.limits import check_unpacked
from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.readers.arrays import LabelledPictures, as_labels, as_pictures, join_pictures
from quickstudy.tasks.images.readers.gather import NO_SPLIT, SPLIT_NAMES, explain_damage, list_folder, split_of

ARRAY_NAMES = (("images", "labels"), ("data", "labels"), ("x", "y"))


def read_npz(path: Path) -> Listing | None:
    """An npz with images and labels (or x and y, data and labels), also by split: train_images, x_train, train.npz."""
    if path.is_file():
        return _list_archives([path]) if path.suffix.lower() == ".npz" else None
    files = [Path(e.path) for e in list_folder(path) if e.name.lower().endswith(".npz") and os.path.isfile(e.path)]
    divided = [file for file in files if split_of(file.stem)]
    if len({split_of(file.stem) for file in divided}) < len(divided):
        raise InputError(
            f"Of {', '.join(file.name for file in divided)} in {path} two mean the same split: remove one."
        )
    if len(files) > 1 and not divided:
        raise InputError(f"{path} has several archives ({', '.join(f.name for f in files)}): give the path of one.")
    if not files:
        return None
    chosen = divided or files
    found = _list_archives(chosen)
    left = [(file.name, NO_SPLIT) for file in files if file not in chosen]
    return replace(found, skipped=[*found.skipped, *left])


def load_npz(file: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an npz archive. Arrays of objects are refused, because they would be unpickled."""
    advice = (
        "it must be an npz of plain arrays. Download it again, or save it with numpy.savez, with names as "
        "numpy.array(names, dtype=str)"
    )
    with (
        explain_damage(f"{file} cannot be read", advice),
        file.open("rb") as opened,
        np.load(opened, allow_pickle=False) as archive,
    ):
        members = archive.zip.infolist()
        check_unpacked(file, file.stat().st_size, sum(member.file_size for member in members))
        return {name: archive[name] for name in archive.files}


def _list_archives(files: list[Path]) -> Listing:
    parts = [part for file in files for part in _read_arrays(file)]
    parts.sort(key=lambda part: ("train", "val", "test").index(part.split) if part.split else 0)
    return join_pictures(f"npz arrays ({', '.join(file.name for file in files)})", parts, disjoint=False)


def _read_arrays(file: Path) -> list[LabelledPictures]:
    given = load_npz(file)
    arrays: Mapping[str, NDArray[Any]] = {name.lower(): values for name, values in given.items()}
    if len(arrays) < len(given):
        alike = [name for name in given if sum(name.lower() == other.lower() for other in given) > 1]
        raise InputError(f"{file} has the arrays {', '.join(alike)}, which differ in capitals only: keep one of them.")
    parts: list[LabelledPictures] = []
    pairs: list[str] = []
    for images, labels in ARRAY_NAMES:
        for word in ("", *SPLIT_NAMES):
            keys = ((f"{word}_{images}", f"{word}_{labels}"), (f"{images}_{word}", f"{labels}_{word}"))
            for x, y in keys if word else ((images, labels),):
                if x in arrays and y in arrays:
                    source = f"{file.name}:{x}"
                    pictures = as_pictures(arrays[x], source)
                    split = split_of(word) or split_of(file.stem)
                    pairs.append(f"{x} with {y}")
                    parts.append(LabelledPictures(source, pictures, as_labels(arrays[y], source, len(pictures)), split))
    if not parts:
        raise InputError(
            f"{file} has the arrays {', '.join(sorted(arrays)) or '(none)'}; it needs images and labels, data and "
            "labels, or x and y, once or for each split, as train_images and train_labels."
        )
    splits = [part.split for part in parts]
    if len(set(splits)) < len(splits) or (None in splits and len(splits) > 1):
        raise InputError(
            f"{file} has several pairs of arrays that could be its pictures and labels ({', '.join(pairs)}): keep one "
            "pair, or one for each split."
        )
    return parts
