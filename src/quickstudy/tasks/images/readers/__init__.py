"""Readers: what is in a folder or a file, recognised by its layout. No picture is opened while it is listed.

A reader is a function from a path to a `Listing`, or to None when the path is not of its layout. The first line of its
docstring names the layout, in the words that messages use. Layouts with names of their own are tried before plain
folders, which nearly everything resembles.
"""

from collections import Counter
from pathlib import Path

from quickstudy.errors import InputError
from quickstudy.tasks.images.listing import Listing, Reader
from quickstudy.tasks.images.readers.filelists import class_lists, file_lists
from quickstudy.tasks.images.readers.folders import class_folders, zipped_folders
from quickstudy.tasks.images.readers.gather import scan
from quickstudy.tasks.images.readers.idx import idx
from quickstudy.tasks.images.readers.npz import npz
from quickstudy.tasks.images.readers.omniglot import alphabets, lake, lake_sets
from quickstudy.tasks.images.readers.pickles import cifar100, split_pickles, tiered
from quickstudy.tasks.images.readers.tables import table

READERS: dict[str, Reader] = {
    "omniglot": lake,
    "alphabets": alphabets,
    "idx": idx,
    "cifar100": cifar100,
    "tiered": tiered,
    "pickles": split_pickles,
    "class_lists": class_lists,
    "file_lists": file_lists,
    "table": table,
    "npz": npz,
    "zip": zipped_folders,
    "folders": class_folders,
}
"""Readers by name, in the order they are tried."""
KNOWN = (
    "Known layouts are class folders (<class>/*.png or {train,val,test}/<class>/*.png, zipped or not), csv or parquet "
    "tables of paths and classes, npz with images and labels, and those of the published sets (docs/data.md)."
)


def recognise(path: Path) -> Listing:
    """The listing of the first reader whose layout the path has.

    Raises:
        InputError: There is nothing at the path, its layout is unknown, or it is known and something in it is broken.
    """
    path = path.expanduser()
    if not path.exists():
        raise InputError(f"There is nothing at {path}: check the path, or get the data with `quickstudy data prepare`.")
    for reader in READERS.values():
        if (listing := reader(path)) is not None:
            return listing
    raise InputError(f"The layout of {path} was not recognised: {_found(path)}. {KNOWN}")


def _found(path: Path) -> str:
    """What is at the path, in a few words."""
    if path.is_file():
        return f"it is a file named {path.name!r}, {path.stat().st_size} bytes"
    entries = scan(path)
    if not entries:
        return "it is an empty folder"
    kinds = Counter("folders" if e.is_dir() else (Path(e.name).suffix.lower() or "no suffix") for e in entries)
    names = ", ".join(f"{e.name}/" if e.is_dir() else e.name for e in entries[:6])
    more = ", ..." if len(entries) > 6 else ""
    return f"it holds {names}{more} ({', '.join(f'{count} {kind}' for kind, count in kinds.most_common(5))})"


__all__ = ["READERS", "lake_sets", "recognise"]
