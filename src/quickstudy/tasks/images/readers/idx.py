"""idx files: MNIST and the sets published in its format (EMNIST, KMNIST, Fashion-MNIST), packed by gzip or not.

Format: two zero bytes, 8 for unsigned bytes, the number of axes, each axis as a big-endian 32-bit number, the values.
EMNIST stores every image transposed; it is turned upright here. EMNIST's letters count from 1, the others from 0.
"""

import re
import zlib
from math import prod
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quickstudy.errors import InputError
from quickstudy.tasks.images.listing import Arrays, Listing
from quickstudy.tasks.images.readers.arrays import Part, joined
from quickstudy.tasks.images.readers.gather import scan

NAME = re.compile(
    r"(?:emnist-(?P<emnist>[a-z]+)-)?(?P<split>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(?:\.gz)?",
    re.IGNORECASE,
)
_MERGED = digits + ascii_uppercase + "abdefghnqrt"
EMNIST = {
    "byclass": digits + ascii_uppercase + ascii_lowercase,
    "bymerge": _MERGED,
    "balanced": _MERGED,
    # Label 0 does not occur: A is 1. The space holds its place.
    "letters": " " + ascii_uppercase,
    "digits": digits,
    "mnist": digits,
}
"""The characters of EMNIST's parts by label (Cohen et al., 2017); the merged parts join cases that look alike."""


def idx(path: Path) -> Listing | None:
    """idx files of MNIST, KMNIST, Fashion-MNIST or EMNIST, .gz or not, here or in raw/ or MNIST/raw/"""
    wanted = NAME.fullmatch(path.name) if path.is_file() else None
    if path.is_file() and not wanted:
        return None
    if wanted:
        return _read(path.parent, (wanted["emnist"] or "").lower(), _found(path.parent))
    inner = (".", "raw", "gzip", *(f"{name}/raw" for name in ("MNIST", "EMNIST", "KMNIST", "FashionMNIST")))
    found = {path / name: _found(path / name) for name in inner if (path / name).is_dir()}
    sets = [(folder, name) for folder, files in found.items() for name in sorted({name for name, _, _ in files})]
    if len(sets) > 1:
        told = ", ".join(f"{folder}: {'EMNIST ' + name if name else 'as MNIST'}" for folder, name in sets)
        raise InputError(f"{path} holds several sets ({told}): give the path of one file of the set that is meant.")
    return _read(*sets[0], found[sets[0][0]]) if sets else None


def _found(folder: Path) -> dict[tuple[str, str, str], list[Path]]:
    """The folder's idx files by EMNIST's part, split and kind; the unpacked one before its .gz."""
    found: dict[tuple[str, str, str], list[Path]] = {}
    for entry in scan(folder):
        if (match := NAME.fullmatch(entry.name)) and entry.is_file():
            split = "train" if match["split"].lower() == "train" else "test"
            key = ((match["emnist"] or "").lower(), split, match["kind"].lower())
            found.setdefault(key, []).append(Path(entry.path))
    return {key: sorted(paths, key=lambda path: path.suffix.lower() == ".gz") for key, paths in found.items()}


def _read(folder: Path, name: str, found: dict[tuple[str, str, str], list[Path]]) -> Listing:
    if name and name not in EMNIST:
        raise InputError(f"{folder} holds EMNIST {name!r}; its parts are {', '.join(sorted(EMNIST))}.")
    characters = EMNIST[name] if name else digits
    parts: list[Part] = []
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
        values, numbers = _values(images[0], 3), _values(labels[0], 1)
        if len(values) != len(numbers):
            raise InputError(
                f"{images[0].name} has {len(values)} images and {labels[0].name} has {len(numbers)} labels: they are "
                "not of one set. Download both again."
            )
        least = len(characters) - len(characters.strip())
        if len(numbers) and not (least <= numbers.min() and numbers.max() < len(characters)):
            raise InputError(
                f"{labels[0]} has labels from {numbers.min()} to {numbers.max()}; {least} to {len(characters) - 1} "
                f"stand for {characters.strip()}. It is the file of another set, or damaged."
            )
        upright = values.transpose(0, 2, 1) if name else values
        parts.append(Part(images[0].name, Arrays(upright), np.array(list(characters))[numbers], split))
    return joined(
        f"idx files, EMNIST {name}, turned upright" if name else "idx files as MNIST's", parts, skipped, apart=False
    )


def _values(path: Path, axes: int) -> NDArray[Any]:
    """The array in an idx file of unsigned bytes with `axes` axes."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        unpacked = zlib.decompressobj(wbits=31)  # 31: gzip; unlike gzip.open it gives what a truncated file still has
        try:
            data = unpacked.decompress(data)
        except zlib.error as error:
            raise InputError(f"{path} is damaged ({error}): download it again.") from error
    if data[:4] != bytes((0, 0, 8, axes)):
        raise InputError(
            f"{path} begins with the bytes {data[:4].hex(' ') or '(none)'}, an idx file of {axes} axes with "
            f"{bytes((0, 0, 8, axes)).hex(' ')}: it is another file under this name, or damaged."
        )
    start = 4 + 4 * axes
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    expected = start + prod(shape)
    if len(data) != expected:
        raise InputError(
            f"{path} should have {expected} bytes for {' x '.join(map(str, shape))} values (unpacked) and has "
            f"{len(data)}: the download was cut short or mixed up. Download it again."
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
