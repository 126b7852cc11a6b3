"""Listings: the pictures that a reader found, their classes, and how to open each. Nothing is decoded here."""

import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quickstudy.tasks.images.limits import check_unpacked

PicturePlace = Path | tuple[ZipFile, str]
"""A file, or an archive with the name of a member."""
PICTURE_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""The formats that Pillow may read, whatever the name of a file is. Of its others, EPS starts Ghostscript."""


@runtime_checkable
class Pictures(Protocol):
    """Pictures by index. Each is opened on access, and a picture that cannot be read raises then."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Image.Image: ...


@dataclass(frozen=True)
class Listing:
    """Labelled pictures as a reader found them.

    Args:
        layout: The recognised layout, in words that are printed.
        pictures: The pictures, not opened yet.
        names: The name of each in messages: its path under the root, or its place in an archive.
        labels: `[N]`, indices into `classes`.
        classes: Names of the classes, each once.
        splits: The indices of "train", "val" and "test", if the layout divides the pictures.
        skipped: What the reader left out, as (name, reason).
        unlisted: How many pictures lie beside the lists and are in none of them.
    """

    layout: str
    pictures: Pictures
    names: Sequence[str]
    labels: NDArray[np.int64]
    classes: Sequence[str]
    splits: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    skipped: Sequence[tuple[str, str]] = ()
    unlisted: int = 0

    def __post_init__(self) -> None:
        counts = (len(self.pictures), len(self.names), len(self.labels))
        assert len(set(counts)) == 1, f"{self.layout} was read as {counts} pictures, names and labels"

    def keep(self, kept: Sequence[int], skipped: Mapping[int, str]) -> "Listing":
        """The listing of those pictures that could be read. A class without any is removed; the others are renumbered.

        Args:
            kept: The numbers of these pictures.
            skipped: Why each of the others could not be read.
        """
        present, labels = np.unique(self.labels[kept], return_inverse=True)
        place = np.full(len(self.labels), -1)
        place[kept] = np.arange(len(kept))
        return Listing(
            self.layout,
            SomePictures(self.pictures, kept),
            [self.names[number] for number in kept],
            labels.astype(np.int64),
            [self.classes[number] for number in present],
            {name: (now := place[old])[now >= 0] for name, old in self.splits.items()},
            [*self.skipped, *((self.names[number], reason) for number, reason in skipped.items())],
        )


Reader = Callable[[Path], Listing | None]
"""Reads a folder or file. It returns None for another layout, and raises InputError if its own layout is broken."""


def check_regular(file: Path) -> None:
    """Refuse what would not end when it is read, such as a named pipe without a writer."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError(f"{file} is no regular file")


def open_picture(file: Path | BytesIO) -> Image.Image:
    """Open a picture. Only its header is read."""
    if isinstance(file, Path):
        check_regular(file)
    return Image.open(file, formats=PICTURE_FORMATS)


@dataclass(frozen=True)
class FilePictures:
    """Pictures that are files."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Image.Image:
        return open_picture(self.paths[number])


@dataclass(frozen=True)
class SomePictures:
    """Some of other pictures, by their numbers there."""

    pictures: Pictures
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Image.Image:
        return self.pictures[self.numbers[number]]


@dataclass(frozen=True)
class PlacedPictures:
    """Pictures of which some are inside zip archives, and the others are files.

    An archive is read in place, so no name in it ever becomes a path on disk.
    """

    places: Sequence[PicturePlace]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Image.Image:
        place = self.places[number]
        if isinstance(place, Path):
            return open_picture(place)
        archive, member = place
        info = archive.getinfo(member)
        check_unpacked(member, info.compress_size, info.file_size)
        return open_picture(BytesIO(archive.read(member)))


def picture_files(pictures: Pictures) -> list[Path]:
    """The pictures that are files of their own."""
    if isinstance(pictures, PlacedPictures):
        return [place for place in pictures.places if isinstance(place, Path)]
    return list(pictures.paths) if isinstance(pictures, FilePictures) else []


@dataclass(frozen=True)
class ArrayPictures:
    """Pictures in an array: `[N, height, width]` grey or `[N, height, width, 3]` colour, uint8."""

    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, number: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.values[number]))
