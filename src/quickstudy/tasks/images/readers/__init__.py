"""Readers: list the pictures in a folder or a file, whose layout they recognise. No picture is opened for that.

A reader is a function from a path to a `Listing`, or to None if the path has another layout. The first line of its
docstring names the layout. Special layouts are tried before plain class folders, which nearly every folder resembles.
"""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from quickstudy.errors import InputError
from quickstudy.storage.files import as_path
from quickstudy.tasks.images.listing import Listing, Reader, picture_files
from quickstudy.tasks.images.readers.filelists import read_class_lists, read_file_lists
from quickstudy.tasks.images.readers.folders import read_class_folders, read_zipped_folders
from quickstudy.tasks.images.readers.gather import explain_damage, folder_tree, is_picture, list_folder, nfc
from quickstudy.tasks.images.readers.idx import read_idx
from quickstudy.tasks.images.readers.npz import read_npz
from quickstudy.tasks.images.readers.omniglot import lake_sets, read_alphabets, read_lake
from quickstudy.tasks.images.readers.pickles import read_cifar100, read_split_pickles, read_tiered
from quickstudy.tasks.images.readers.tables import read_table, unread_tables

READERS: dict[str, Reader] = {
    "omniglot": read_lake,
    "alphabets": read_alphabets,
    "idx": read_idx,
    "cifar100": read_cifar100,
    "tiered": read_tiered,
    "pickles": read_split_pickles,
    "class_lists": read_class_lists,
    "file_lists": read_file_lists,
    "table": read_table,
    "npz": read_npz,
    "zip": read_zipped_folders,
    "folders": read_class_folders,
}
"""The readers by name, in the order in which they are tried."""
FROM_FILES = ("pickles", "class_lists", "file_lists", "table", "npz")
"""Layouts that a file in a folder is taken for."""
LISTS = ("file_lists", "table")
"""Layouts in which a list says which pictures are meant, so that others may well be left out."""
DEPTH = 6
"""So many folders deep are pictures looked for that a layout has no place for."""
NO_PLACE = "this layout has no place for it"
KNOWN_LAYOUTS = (
    "Known layouts are class folders (<class>/*.png or {train,val,test}/<class>/*.png, zipped or not), csv or parquet "
    "tables of paths and classes, npz with images and labels, and those of the published sets (docs/data.md)."
)


def recognise(path: Path) -> Listing:
    """List the pictures at a path with the first reader that recognises its layout.

    Raises:
        InputError: There is nothing at the path, its layout is unknown, or its layout is known but broken.
    """
    path = as_path(path)
    if not os.path.exists(path):
        raise InputError(f"There is nothing at {path}: check the path, or get the data with `quickstudy data prepare`.")
    for name, reader in READERS.items():
        try:
            with explain_damage(f"{path} was taken for the layout {name!r} and cannot be read"):
                if (listing := reader(path)) is not None:
                    unread = dict(unread_tables(path)) if reader is not read_table else {}
                    others = [(left, why) for left, why in listing.skipped if left not in unread]
                    return _name_unread(path, name, replace(listing, skipped=[*others, *unread.items()]))
        except InputError as error:
            raise InputError(f"{error}{_offer_folders(path, name)}") from error
    tables = "".join(f" {name} is {why}." for name, why in unread_tables(path))
    raise InputError(f"The layout of {path} was not recognised: {_describe_path(path)}.{tables} {KNOWN_LAYOUTS}")


def _name_unread(path: Path, layout: str, listing: Listing) -> Listing:
    """Name the pictures under a folder that its layout has no place for; those that no list names are counted only."""
    if not path.is_dir():
        return listing
    listed = {os.path.normpath(place) for place in picture_files(listing.pictures)}
    listed |= {name for name, _ in listing.skipped}
    unread: dict[str, list[str]] = {}
    for parts, _ in folder_tree(path, DEPTH).files:
        name = "/".join(parts)
        if is_picture(name) and os.path.normpath(path / name) not in listed and nfc(name) not in listed:
            unread.setdefault(parts[0], []).append(nfc(name))
    if layout in LISTS:
        count = sum(map(len, unread.values()))
        told = f"; {count} pictures are in no list" if count else ""
        return replace(listing, layout=listing.layout + told, unlisted=count)
    left = [
        (names[0], NO_PLACE)
        if len(names) == 1
        else (f"{nfc(top)}/", f"{len(names)} pictures that this layout has no place for, first {names[0]}")
        for top, names in unread.items()
    ]
    return replace(listing, skipped=[*listing.skipped, *left])


def _offer_folders(path: Path, layout: str) -> str:
    """What to do where a file that is no part of the data stands beside class folders."""
    if not path.is_dir() or layout not in FROM_FILES:
        return ""
    try:
        found = read_class_folders(path)
    except InputError:
        return ""
    if found is None:
        return ""
    few = ", ".join(found.classes[:3]) + (", ..." if len(found.classes) > 3 else "")
    return f" There are class folders too ({few}): to read these, move that file out of {path}."


def _describe_path(path: Path) -> str:
    """What is at a path, in a few words."""
    if path.is_file():
        return f"it is a file named {path.name!r}, {path.stat().st_size} bytes"
    entries = list_folder(path)
    if not entries:
        return "it is an empty folder"
    kinds = Counter(
        "folders" if os.path.isdir(e.path) else (Path(e.name).suffix.lower() or "no suffix") for e in entries
    )
    names = ", ".join(f"{e.name}/" if os.path.isdir(e.path) else e.name for e in entries[:6])
    more = ", ..." if len(entries) > 6 else ""
    return f"it holds {names}{more} ({', '.join(f'{count} {kind}' for kind, count in kinds.most_common(5))})"


__all__ = ["READERS", "lake_sets", "recognise"]
