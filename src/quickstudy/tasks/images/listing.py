"""What a reader finds: which pictures there are, of which class, and how each is opened. Nothing is decoded here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@runtime_checkable
class Pictures(Protocol):
    """Pictures by number, opened when they are asked for; a picture that cannot be read raises there."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Image.Image: ...


@dataclass(frozen=True)
class Listing:
    """Labelled pictures as a reader found them.

    Args:
        layout: The layout that was recognised, in words: it is printed.
        pictures: How they are opened.
        names: What to call each one in messages: its path under the root, or its place in an archive.
        labels: `[N]`, numbers into `classes`.
        classes: Names of the classes, each once.
        splits: Picture numbers by "train", "val" and "test", where the layout itself divides them.
        skipped: What the reader left out, as (name, reason).
    """

    layout: str
    pictures: Pictures
    names: Sequence[str]
    labels: NDArray[np.int64]
    classes: Sequence[str]
    splits: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    skipped: Sequence[tuple[str, str]] = ()


Reader = Callable[[Path], Listing | None]
"""Reads a folder or file; None when it is not of the reader's layout. What is of it and broken is an InputError."""


@dataclass(frozen=True)
class Files:
    """Pictures that are files of their own."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Image.Image:
        return Image.open(self.paths[number])


@dataclass(frozen=True)
class Members:
    """Pictures inside zip archives, read from there: nothing is unpacked, so no name in an archive becomes a path."""

    places: Sequence[tuple[ZipFile, str]]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Image.Image:
        archive, member = self.places[number]
        return Image.open(BytesIO(archive.read(member)))


@dataclass(frozen=True)
class Arrays:
    """Pictures in an array: `[N, height, width]` grey or `[N, height, width, 3]` colour, uint8."""

    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, number: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.values[number]))
