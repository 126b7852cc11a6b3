"""Omniglot: 50 alphabets, 1623 characters, 20 drawings each, in Lake's archives or unpacked; a class is a character.

Lake, Salakhutdinov & Tenenbaum, 2015 (https://github.com/brendenlake/omniglot). The archives are read in place. The
few-shot splits (Finn's, Vinyals') are lists of classes over both of Lake's sets, so this reader does not divide. Give
it the folder of both sets: with the path of one set, only that set is read. `lake_sets` gives the classes of each set.
"""

import os
from pathlib import Path

from quickstudy.errors import InputError
from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.readers.gather import (
    NOT_AN_IMAGE,
    PictureRow,
    Tree,
    folder_tree,
    is_picture,
    list_folder,
    listing_of,
    zip_tree,
)

LAKE_SETS = ("images_background", "images_evaluation")


def read_lake(path: Path) -> Listing | None:
    """Omniglot: images_background and images_evaluation, as .zip or unpacked, with <alphabet>/<character>/*.png."""
    places = {name: _find_lake_set(path, name) for name in LAKE_SETS}
    if path.stem in LAKE_SETS and (path.is_dir() or path.suffix == ".zip"):
        # Only this set, whatever is beside it: the cache entry of a path must depend only on what is at the path.
        places, path = {path.stem: path}, path.parent
    rows: list[PictureRow] = []
    skipped: list[tuple[str, str]] = []
    kinds = []
    for name, found in places.items():
        if found is None:
            skipped.append((name, f"no {name}.zip or {name}/ was found, so the characters of that set are missing"))
            continue
        # Lake's archives have one folder with the name of the archive; other people's archives have its contents.
        tree = zip_tree(found) if found.is_file() else folder_tree(found, 4)
        wrapped = any(parts[0] == name for parts in tree.folders) or any(parts[0] == name for parts, _ in tree.files)
        own = _character_rows(tree, "" if wrapped else name, skipped)
        if both := {row.label for row in own} & {row.label for row in rows}:
            raise InputError(
                f"{min(both)} is in both sets of {path}, but Omniglot's sets share no alphabet: one set is a copy of "
                "the other, or a file was moved. Download both archives again."
            )
        rows += own
        kinds.append(found.relative_to(path).as_posix() + ("/" if found.is_dir() else ""))
    if not kinds:
        return None
    if not rows:
        raise InputError(
            f"{' and '.join(kinds)} in {path} hold no <alphabet>/<character>/*.png: download images_background.zip and "
            "images_evaluation.zip again."
        )
    return listing_of(f"Omniglot ({' and '.join(kinds)})", rows, skipped)


def read_alphabets(path: Path) -> Listing | None:
    """Omniglot: images/<alphabet>/<character>/*.png or data/omniglot_resized/<alphabet>/<character>/*.png."""
    for folder in (path, path / "omniglot_resized", path / "data" / "omniglot_resized", path / "images"):
        if not folder.is_dir() or folder.name not in ("omniglot_resized", "images"):
            continue
        if not any(
            os.path.isdir(inside.path)
            for outer in list_folder(folder)
            if os.path.isdir(outer.path)
            for inside in list_folder(outer.path)
        ):
            continue
        skipped: list[tuple[str, str]] = []
        inner = folder.relative_to(path).as_posix()
        tree = folder_tree(folder, 3)
        if any(len(parts) == 2 and is_picture(parts[1]) for parts, _ in tree.files):
            continue  # class folders, one of which has a folder inside
        rows = _character_rows(tree, "" if inner == "." else inner, skipped)
        if rows:
            return listing_of(f"alphabets of characters ({folder.name}/<alphabet>/<character>)", rows, skipped)
    return None


def lake_sets(listing: Listing) -> dict[str, list[str]]:
    """The classes of Lake's two sets, "background" and "evaluation", in a listing of `read_lake`."""
    found = {
        name: {listing.classes[label] for at, label in _labels_by_set(listing) if at == name} for name in LAKE_SETS
    }
    return {name.removeprefix("images_"): sorted(classes) for name, classes in found.items()}


def _labels_by_set(listing: Listing) -> set[tuple[str, int]]:
    return {(name.partition("/")[0], int(label)) for name, label in zip(listing.names, listing.labels, strict=True)}


def _find_lake_set(path: Path, name: str) -> Path | None:
    """Find one of Lake's sets: unpacked or not, here or where his repository and torchvision put it."""
    for folder in (path, path / "python", path / "omniglot-py"):
        if (folder / name).is_dir():
            return folder / name
        if (folder / f"{name}.zip").is_file():
            return folder / f"{name}.zip"
    return None


def _character_rows(tree: Tree, above: str, skipped: list[tuple[str, str]]) -> list[PictureRow]:
    """Rows of the pictures at `<alphabet>/<character>/`, with or without one of `LAKE_SETS` above.

    The rest is added to `skipped`.
    """
    rows = []
    prefix = f"{above}/" if above else ""
    for parts, place in tree.files:
        name = prefix + "/".join(parts)
        if len(parts) != 3 + (parts[0] in LAKE_SETS):
            skipped.append((name, "not at <alphabet>/<character>/"))
        elif not is_picture(name):
            skipped.append((name, NOT_AN_IMAGE))
        else:
            rows.append(PictureRow(f"{parts[-3]}/{parts[-2]}", name, place))
    full = {row.label for row in rows}
    for parts in tree.folders:
        if len(parts) == 2 + (parts[0] in LAKE_SETS) and "/".join(parts[-2:]) not in full:
            skipped.append((prefix + "/".join(parts), "a class folder with no image"))
    skipped += [(prefix + name, reason) for name, reason in tree.skipped]
    return rows
