"""Shared by the readers: names of pictures, trees of folders or archive members, and listings made from rows.

Every tree is read to a fixed depth. A link to a folder above itself is not followed, and neither are more than a few
links to one folder, so no loop of links can hang.
Hidden files and folders (names that begin with a dot) and `__MACOSX` are ignored.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize
from zipfile import ZipFile

import numpy as np

from quickstudy.errors import InputError, RunError
from quickstudy.tasks.draws import SPLITS
from quickstudy.tasks.images.listing import FilePictures, Listing, PicturePlace, PlacedPictures

PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp"),
    *(".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
FOLLOWED_LINKS = 8
"""So many links to one folder are followed."""
NOT_AN_IMAGE = "not an image by its name"
NO_SPLIT = "the files beside it are named after splits, and this one is not"
SPLIT_NAMES = {
    **dict.fromkeys(("train", "base", "meta_train"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "meta_val"), "val"),
    **dict.fromkeys(("test", "novel", "meta_test"), "test"),
}
"""Names that data sets use for a split, and the split that they mean."""

PathParts = tuple[str, ...]


class PictureRow(NamedTuple):
    """One picture: its class, its name in messages, where it is, and its split, if the layout has splits."""

    label: str
    name: str
    place: PicturePlace
    split: str | None = None


@dataclass(frozen=True)
class Tree:
    """Files and folders under a root, each by the parts of its path."""

    files: list[tuple[PathParts, PicturePlace]] = field(default_factory=list)
    folders: list[PathParts] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def under(self, top: str) -> "Tree":
        """The tree under the folder `top`, with paths that begin there."""
        return Tree(
            [(parts[1:], place) for parts, place in self.files if parts[0] == top and len(parts) > 1],
            [parts[1:] for parts in self.folders if parts[0] == top and len(parts) > 1],
            self.skipped,
        )


def is_picture(name: str) -> bool:
    """Whether the name of a file has the suffix of an image. The file is not opened."""
    return name.lower().endswith(PICTURE_SUFFIXES)


def nfc(name: str) -> str:
    """A name in Unicode's composed form NFC, because macOS and Linux write accents differently.

    Bytes that are not text are replaced, so that the name can be printed.
    """
    if name.isascii():
        return name
    return normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def split_of(word: str) -> str | None:
    """The split that the name of a file or folder means, or None."""
    return SPLIT_NAMES.get(word.lower().replace("-", "_"))


def listing_of(layout: str, rows: Iterable[PictureRow], skipped: Sequence[tuple[str, str]] = ()) -> Listing:
    """Make a listing from rows. Classes are in code-point order, pictures in the order of class and then name."""
    rows = [
        row if row.name.isascii() and row.label.isascii() else row._replace(label=nfc(row.label), name=nfc(row.name))
        for row in rows
    ]
    # Sorted twice by text: pairs as keys would make tens of thousands of objects, which takes longer than the sorting.
    rows.sort(key=lambda row: row.name)
    rows.sort(key=lambda row: row.label)
    classes = sorted({row.label for row in rows})
    number = {name: at for at, name in enumerate(classes)}
    splits = {split: np.flatnonzero([row.split == split for row in rows]) for split in SPLITS}
    places = [row.place for row in rows]
    files = [place for place in places if isinstance(place, Path)]
    return Listing(
        layout=nfc(layout),
        pictures=FilePictures(files) if len(files) == len(places) else PlacedPictures(places),
        names=[row.name for row in rows],
        labels=np.array([number[row.label] for row in rows], dtype=np.int64),
        classes=classes,
        splits={split: numbers for split, numbers in splits.items() if len(numbers)},
        skipped=[(nfc(name), reason) for name, reason in skipped],
    )


@contextmanager
def explain_damage(begin: str, advice: str = "download it again") -> Iterator[None]:
    """Turn whatever a file makes its parser raise in a `with` block into one line: `begin` (the reason): `advice`.

    Which error that is depends on which byte is wrong: zlib.error, TokenError, struct.error, RecursionError and more.
    """
    try:
        yield
    except (InputError, RunError):
        raise
    except MemoryError as error:
        raise InputError(f"{begin}: it needs more memory than this machine has.") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{begin} ({reason}): {advice}.") from error


def list_folder(folder: str | Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden, in code-point order."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not _is_hidden(e.name)), key=lambda e: nfc(e.name))
    except NotADirectoryError as error:
        raise InputError(f"{folder} is neither a folder nor an ordinary file: give one of these.") from error
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error.strerror}): check its permissions.") from error


def folder_tree(root: Path, depth: int) -> Tree:
    """The tree under a folder, down to `depth`; the entries of the folder itself have depth 1."""
    tree, followed = Tree(), Counter[tuple[int, int]]()

    def enter(folder: str, parts: PathParts, above: tuple[os.stat_result, ...]) -> None:
        for entry in list_folder(folder):
            here = (*parts, entry.name)
            if os.path.isdir(entry.path):
                inside = os.stat(entry.path)
                same = (inside.st_dev, inside.st_ino)
                followed[same] += entry.is_symlink()
                reason = ""
                if any(os.path.samestat(inside, other) for other in above):
                    reason = "a link to a folder above it"
                elif entry.is_symlink() and followed[same] > FOLLOWED_LINKS:
                    reason = "one link of many to the same folder"
                elif not os.access(entry.path, os.R_OK | os.X_OK):
                    reason = "a folder that cannot be read: check its permissions"
                if reason:
                    tree.skipped.append(("/".join(here), reason))
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


def zip_tree(path: Path) -> Tree:
    """The tree inside a zip archive. An archive with a name that leads out of it is refused."""
    advice = "compare its size and checksum with those of the publisher, and download it again"
    with explain_damage(f"The archive {path} is damaged or not a zip", advice):
        archive = ZipFile(path)
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
                f"{info.filename!r} in {path} is locked with a password: unpack the archive and give the folder."
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


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
