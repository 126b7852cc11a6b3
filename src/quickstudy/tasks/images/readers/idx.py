"""The idx files of MNIST and of the sets in its format (EMNIST, KMNIST, Fashion-MNIST), compressed by gzip or not.

Format: two zero bytes, 8 for unsigned bytes, the number of axes, the size of each axis as a big-endian 32-bit number,
the values. EMNIST stores every image transposed, which is undone here. Its letters count from 1, all others from 0.
"""

import os
import re
import zlib
from math import prod
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quickstudy.errors import InputError
from quickstudy.tasks.images.limits import check_unpacked
from quickstudy.tasks.images.listing import ArrayPictures, Listing
from quickstudy.tasks.images.readers.arrays import LabelledPictures, join_pictures
from quickstudy.tasks.images.readers.gather import explain_damage, list_folder

IDX_NAME = re.compile(
    r"(?:emnist-(?P<emnist>[a-z]+)-)?(?P<split>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(?:\.gz)?",
    re.IGNORECASE,
)
_MERGED_CHARACTERS = digits + ascii_uppercase + "abdefghnqrt"
EMNIST_CHARACTERS = {
    "byclass": digits + ascii_uppercase + ascii_lowercase,
    "bymerge": _MERGED_CHARACTERS,
    "balanced": _MERGED_CHARACTERS,
    # Label 0 does not occur, A is 1: the space stands for label 0.
    "letters": " " + ascii_uppercase,
    "digits": digits,
    "mnist": digits,
}
"""The characters of EMNIST's parts by label (Cohen et al., 2017). Merged parts join upper and lower case if alike."""


def read_idx(path: Path) -> Listing | None:
    """The idx files of MNIST, KMNIST, Fashion-MNIST or EMNIST, .gz or not, here or in raw/ or MNIST/raw/."""
    wanted = IDX_NAME.fullmatch(path.name) if path.is_file() else None
    if path.is_file() and not wanted:
        return None
    if wanted:
        return _read_idx_set(path.parent, (wanted["emnist"] or "").lower(), _find_idx_files(path.parent))
    inner = (".", "raw", "gzip", *(f"{name}/raw" for name in ("MNIST", "EMNIST_CHARACTERS", "KMNIST", "FashionMNIST")))
    found = {path / name: _find_idx_files(path / name) for name in inner if (path / name).is_dir()}
    sets = [(folder, name) for folder, files in found.items() for name in sorted({name for name, _, _ in files})]
    if len(sets) > 1:
        names = ", ".join(f"{folder}: {'EMNIST ' + name if name else 'as MNIST'}" for folder, name in sets)
        raise InputError(f"{path} has several sets ({names}): give the path of one file of the set that you mean.")
    return _read_idx_set(*sets[0], found[sets[0][0]]) if sets else None


def _find_idx_files(folder: Path) -> dict[tuple[str, str, str], list[Path]]:
    """The idx files of a folder by EMNIST's part, split and kind. A file comes before its .gz."""
    found: dict[tuple[str, str, str], list[Path]] = {}
    for entry in list_folder(folder):
        if (match := IDX_NAME.fullmatch(entry.name)) and os.path.isfile(entry.path):
            split = "train" if match["split"].lower() == "train" else "test"
            key = ((match["emnist"] or "").lower(), split, match["kind"].lower())
            found.setdefault(key, []).append(Path(entry.path))
    return {key: sorted(paths, key=lambda path: path.suffix.lower() == ".gz") for key, paths in found.items()}


def _read_idx_set(folder: Path, name: str, found: dict[tuple[str, str, str], list[Path]]) -> Listing:
    if name and name not in EMNIST_CHARACTERS:
        raise InputError(f"{folder} has EMNIST {name!r}, but its parts are {', '.join(sorted(EMNIST_CHARACTERS))}.")
    characters = EMNIST_CHARACTERS[name] if name else digits
    parts: list[LabelledPictures] = []
    skipped: list[tuple[str, str]] = []
    for split in ("train", "test"):
        images, labels = found.get((name, split, "images"), []), found.get((name, split, "labels"), [])
        skipped += [(extra.name, "the same as another file, unpacked or packed") for extra in images[1:] + labels[1:]]
        if not images or not labels:
            lone = images or labels
            if lone:
                kind = "labels" if images else "images"
                raise InputError(f"{lone[0]} has no {kind} beside it: put the file of the {kind} into {folder}.")
            skipped.append((f"{split} images", f"no such idx files in {folder.name}/"))
            continue
        values, numbers = _read_values(images[0], 3), _read_values(labels[0], 1)
        if len(values) != len(numbers):
            raise InputError(
                f"{images[0].name} has {len(values)} images and {labels[0].name} has {len(numbers)} labels: they do "
                "not belong together. Download both again."
            )
        least = len(characters) - len(characters.strip())
        if len(numbers) and not (least <= numbers.min() and numbers.max() < len(characters)):
            raise InputError(
                f"{labels[0]} has labels from {numbers.min()} to {numbers.max()}; {least} to {len(characters) - 1} "
                f"stand for {characters.strip()}. The file belongs to another set, or is damaged."
            )
        upright = values.transpose(0, 2, 1) if name else values
        parts.append(
            LabelledPictures(images[0].name, ArrayPictures(upright), np.array(list(characters))[numbers], split)
        )
    return join_pictures(
        f"idx files, EMNIST {name}, turned upright" if name else "idx files as MNIST's", parts, skipped, disjoint=False
    )


def _read_values(path: Path, axes: int) -> NDArray[Any]:
    """Read the array in an idx file of unsigned bytes with `axes` axes."""
    data = packed = path.read_bytes()
    start = 4 + 4 * axes
    unpacked = zlib.decompressobj(wbits=31)  # 31 is gzip; unlike gzip.open, it can read a truncated file
    if packed[:2] == b"\x1f\x8b":
        with explain_damage(f"{path} is damaged"):
            data = unpacked.decompress(packed, start)
    if data[:4] != bytes((0, 0, 8, axes)):
        raise InputError(
            f"{path} begins with the bytes {data[:4].hex(' ') or '(none)'}, an idx file of {axes} axes with "
            f"{bytes((0, 0, 8, axes)).hex(' ')}: it is another file with this name, or damaged."
        )
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    expected = start + prod(shape)
    if data is not packed:
        check_unpacked(path, len(packed), expected)
        with explain_damage(f"{path} is damaged"):
            data += unpacked.decompress(unpacked.unconsumed_tail, expected)
    if len(data) != expected:
        raise InputError(
            f"{path} should have {expected} bytes for {' x '.join(map(str, shape))} values (unpacked) and has "
            f"{len(data)}: the download was cut short or mixed up. Download it again."
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
