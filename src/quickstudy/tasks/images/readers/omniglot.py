"""Omniglot: 50 alphabets, 1623 characters, 20 drawings each, in Lake's archives or unpacked; a class is a character.

Lake, Salakhutdinov & Tenenbaum, 2015 (https://github.com/brendenlake/omniglot). The archives are read in place. The
few-shot divisions (Finn's, Vinyals') are lists of classes over both of Lake's sets, so the reader divides nothing; give
it the folder of both, since the path of one set reads that set. `lake_sets` tells the sets' classes apart.
"""

from pathlib import Path

from quickstudy.errors import InputError
from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.readers.gather import NOT_AN_IMAGE, Row, Tree, is_picture, listing_of, members, scan, walk

SETS = ("images_background", "images_evaluation")


def lake(path: Path) -> Listing | None:
    """Omniglot: images_background and images_evaluation, as .zip or unpacked, with <alphabet>/<character>/*.png"""
    places = {name: _find(path, name) for name in SETS}
    if path.stem in SETS and (path.is_dir() or path.suffix == ".zip"):
        # This very one, whatever lies beside it: what is cached for a path must follow from what is at the path.
        places, path = {path.stem: path}, path.parent
    rows: list[Row] = []
    skipped: list[tuple[str, str]] = []
    kinds = []
    for name, found in places.items():
        if found is None:
            skipped.append((name, f"no {name}.zip or {name}/ was found, so the characters of that set are absent"))
            continue
        # In Lake's archives all is in one folder named like the archive; others have packed what is in it.
        tree = members(found) if found.is_file() else walk(found, 4)
        wrapped = any(parts[0] == name for parts in tree.folders) or any(parts[0] == name for parts, _ in tree.files)
        own = _characters(tree, "" if wrapped else name, skipped)
        if both := {row.label for row in own} & {row.label for row in rows}:
            raise InputError(
                f"{min(both)} is in both sets of {path}, but Omniglot's sets share no alphabet: one is a copy of the "
                "other, or a file was moved. Download both archives again."
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


def alphabets(path: Path) -> Listing | None:
    """Omniglot: images/<alphabet>/<character>/*.png or data/omniglot_resized/<alphabet>/<character>/*.png"""
    for folder in (path, path / "omniglot_resized", path / "data" / "omniglot_resized", path / "images"):
        if not folder.is_dir() or folder.name not in ("omniglot_resized", "images"):
            continue
        if not any(inside.is_dir() for outer in scan(folder) if outer.is_dir() for inside in scan(outer.path)):
            continue
        skipped: list[tuple[str, str]] = []
        inner = folder.relative_to(path).as_posix()
        tree = walk(folder, 3)
        if any(len(parts) == 2 and is_picture(parts[1]) for parts, _ in tree.files):
            continue  # class folders, one of which has a folder inside
        rows = _characters(tree, "" if inner == "." else inner, skipped)
        if rows:
            return listing_of(f"alphabets of characters ({folder.name}/<alphabet>/<character>)", rows, skipped)
    return None


def lake_sets(listing: Listing) -> dict[str, list[str]]:
    """Classes of Lake's two sets, "background" and "evaluation", of what `lake` has read."""
    held = {name: {listing.classes[label] for at, label in _of(listing) if at == name} for name in SETS}
    return {name.removeprefix("images_"): sorted(classes) for name, classes in held.items()}


def _of(listing: Listing) -> set[tuple[str, int]]:
    return {(name.partition("/")[0], int(label)) for name, label in zip(listing.names, listing.labels, strict=True)}


def _find(path: Path, name: str) -> Path | None:
    """One of Lake's sets: unpacked or not, here or where his repository and torchvision put it."""
    for folder in (path, path / "python", path / "omniglot-py"):
        if (folder / name).is_dir():
            return folder / name
        if (folder / f"{name}.zip").is_file():
            return folder / f"{name}.zip"
    return None


def _characters(tree: Tree, above: str, skipped: list[tuple[str, str]]) -> list[Row]:
    """Rows of the pictures at `<alphabet>/<character>/`, under one of `SETS` or not; the rest goes to `skipped`."""
    rows = []
    prefix = f"{above}/" if above else ""
    for parts, place in tree.files:
        name = prefix + "/".join(parts)
        if len(parts) != 3 + (parts[0] in SETS):
            skipped.append((name, "not at <alphabet>/<character>/"))
        elif not is_picture(name):
            skipped.append((name, NOT_AN_IMAGE))
        else:
            rows.append(Row(f"{parts[-3]}/{parts[-2]}", name, place))
    full = {row.label for row in rows}
    for parts in tree.folders:
        if len(parts) == 2 + (parts[0] in SETS) and "/".join(parts[-2:]) not in full:
            skipped.append((prefix + "/".join(parts), "a class folder with no image"))
    skipped += [(prefix + name, reason) for name, reason in tree.skipped]
    return rows
