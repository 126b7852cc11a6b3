"""What the readers share: which names are pictures, trees of folders or archive members, and rows made a listing.

Every tree is read to a fixed depth and a link to a folder above itself is not entered, so no loop of links can hang.
Hidden files and folders (their names start with a dot) and `__MACOSX` are passed over without a word.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize
from zipfile import BadZipFile, ZipFile

import numpy as np

from quickstudy.errors import InputError
from quickstudy.tasks.draws import SPLITS
from quickstudy.tasks.images.listing import Files, Listing, Members

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
NOT_AN_IMAGE = "not an image by its name"
SPLIT_NAMES = {
    **dict.fromkeys(("train", "base", "meta_train"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "meta_val"), "val"),
    **dict.fromkeys(("test", "novel", "meta_test"), "test"),
}
"""Words that circulate for a split, and the split they mean."""

Place = Path | tuple[ZipFile, str]
Parts = tuple[str, ...]


class Row(NamedTuple):
    """One picture: its class, what to call it, where it is, and its split where the layout says one."""

    label: str
    name: str
    place: Place
    split: str | None = None


@dataclass(frozen=True)
class Tree:
    """Files and folders under a root, each by the parts of its path there."""

    files: list[tuple[Parts, Place]] = field(default_factory=list)
    folders: list[Parts] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def under(self, top: str) -> "Tree":
        """What lies in the folder `top`, its parts counted from there."""
        return Tree(
            [(parts[1:], place) for parts, place in self.files if parts[0] == top and len(parts) > 1],
            [parts[1:] for parts in self.folders if parts[0] == top and len(parts) > 1],
            self.skipped,
        )


def is_picture(name: str) -> bool:
    """Whether a file's name ends as an image's does; the file is not opened."""
    return name.lower().endswith(SUFFIXES)


def nfc(name: str) -> str:
    """One spelling of a name (macOS and Linux write accents differently), printable even where its bytes are not."""
    if name.isascii():
        return name
    return normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def split_of(word: str) -> str | None:
    """The split that a file's or folder's name stands for."""
    return SPLIT_NAMES.get(word.lower().replace("-", "_"))


def listing_of(layout: str, rows: Iterable[Row], skipped: Sequence[tuple[str, str]] = ()) -> Listing:
    """Rows as a listing. Classes are in code-point order of their names, pictures by class and then by name."""
    rows = [row if row.name.isascii() else row._replace(label=nfc(row.label), name=nfc(row.name)) for row in rows]
    # Two sorts by text: pairs as keys would be ten thousands of objects more, which cost more than the sorting.
    rows.sort(key=lambda row: row.name)
    rows.sort(key=lambda row: row.label)
    classes = sorted({row.label for row in rows})
    number = {name: at for at, name in enumerate(classes)}
    splits = {split: np.flatnonzero([row.split == split for row in rows]) for split in SPLITS}
    paths = [row.place for row in rows if isinstance(row.place, Path)]
    members = [row.place for row in rows if not isinstance(row.place, Path)]
    return Listing(
        layout=layout,
        pictures=Members(members) if members else Files(paths),
        names=[row.name for row in rows],
        labels=np.array([number[row.label] for row in rows], dtype=np.int64),
        classes=classes,
        splits={split: numbers for split, numbers in splits.items() if len(numbers)},
        skipped=[(nfc(name), reason) for name, reason in skipped],
    )


def scan(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, in code-point order."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not _hidden(e.name)), key=lambda e: nfc(e.name))
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error.strerror}): check its permissions.") from error


def walk(root: Path, depth: int) -> Tree:
    """The tree under a folder; folders are entered down to `depth`, the root's own being 1."""
    tree = Tree()

    def enter(folder: str, parts: Parts, above: tuple[os.stat_result, ...]) -> None:
        for entry in scan(folder):
            here = (*parts, entry.name)
            if os.path.isdir(entry.path):
                inside = os.stat(entry.path)
                if any(os.path.samestat(inside, other) for other in above):
                    tree.skipped.append(("/".join(here), "a link to a folder above it"))
                    continue
                tree.folders.append(here)
                if len(here) < depth:
                    enter(entry.path, here, (*above, inside))
            elif entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path):
                tree.files.append((here, Path(entry.path)))
            else:
                tree.skipped.append(("/".join(here), "a link that leads nowhere, or no regular file"))

    enter(str(root), (), (os.stat(root),))
    return tree


def members(path: Path) -> Tree:
    """The tree inside a zip archive; a name that would leave the archive makes the whole archive suspect."""
    try:
        archive = ZipFile(path)
    except (BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise InputError(
            f"The archive {path} is damaged or no zip ({error}): compare its size and checksum with the publisher's, "
            "and download it again."
        ) from error
    tree, seen = Tree(), set()
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        parts = tuple(filter(None, name.removeprefix("./").split("/")))
        if ".." in parts or name.startswith("/") or name[1:2] == ":":
            raise InputError(
                f"The archive {path} has a member named {info.filename!r}, which leaves the archive: no data set needs "
                "that. Do not unpack it; get it from a source you trust."
            )
        if info.flag_bits & 1:
            raise InputError(
                f"{info.filename!r} in {path} is locked with a password: unpack the archive and give that."
            )
        if not parts or "/." in f"/{name.removeprefix('./')}" or "__MACOSX" in parts:
            continue
        if name.endswith("/"):
            tree.folders.append(parts)
        elif parts in seen:
            tree.skipped.append((name, "in the archive twice; the last one is read"))
        else:
            seen.add(parts)
            tree.files.append((parts, (archive, info.filename)))
    tree.folders.sort()
    return tree


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
