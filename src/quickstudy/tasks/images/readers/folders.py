"""Class folders: `root/<class>/*`, `root/{train,val,test}/<class>/*`, CUB's `images/<NNN.Name>/*`, also inside a zip.

The name of a class is the name of its folder. Folders inside a class folder are not read. If split folders share
classes, the split is by image, and the layout says so.
"""

from collections import Counter
from pathlib import Path

from quickstudy.errors import InputError
from quickstudy.tasks.images.listing import Listing, PicturePlace
from quickstudy.tasks.images.readers.gather import (
    NOT_AN_IMAGE,
    PathParts,
    PictureRow,
    Tree,
    folder_tree,
    is_picture,
    listing_of,
    nfc,
    split_of,
    zip_tree,
)


def read_class_folders(path: Path) -> Listing | None:
    """Class folders: <class>/*.png, {train,val,test}/<class>/*.png, or images/<class>/*.png (as CUB-200-2011)."""
    if not path.is_dir():
        return None
    for inner in ("CUB_200_2011/images", "images"):
        if (path / inner).is_dir() and (found := _read_tree(folder_tree(path / inner, 3), inner, path / inner)):
            return found
    return _read_tree(folder_tree(path, 4), "", path)


def read_zipped_folders(path: Path) -> Listing | None:
    """A zip archive of class folders: name.zip with <class>/*.png or {train,val,test}/<class>/*.png inside."""
    if not path.is_file() or path.suffix.lower() != ".zip":
        return None
    return _read_tree(zip_tree(path), "", path)


def _read_tree(tree: Tree, above: str, root: Path) -> Listing | None:
    """List a tree of class folders; None if no picture is where a class folder would have it."""
    pictures: list[tuple[PathParts, PicturePlace]] = []
    others: list[tuple[PathParts, PicturePlace]] = []
    for parts, place in tree.files:
        (pictures if is_picture(parts[-1]) else others).append((parts, place))
    before = f"{above}/" if above else ""
    skipped = [(before + name, reason) for name, reason in tree.skipped]
    skipped += [(before + "/".join(parts), NOT_AN_IMAGE) for parts, _ in others]
    # Archives often have one folder around everything, and downloads add another: such a folder is not a class.
    while pictures and min(len(parts) for parts, _ in pictures) > 2 and len({parts[0] for parts, _ in pictures}) == 1:
        top = pictures[0][0][0]
        if split_of(top):
            break
        above = f"{above}/{top}" if above else top
        pictures, tree = [(parts[1:], place) for parts, place in pictures], tree.under(top)
    within = f" in {above}/" if above else ""
    _check_spelling(tree.folders, root)
    divided = [parts for parts, _ in pictures if len(parts) == 3 and split_of(parts[0])]
    if divided:
        _check_split_names({parts[0] for parts in divided}, root)
        rows = _folder_rows(pictures, 3, above, skipped)
        shared = Counter(label for label, _ in {(row.label, row.split) for row in rows})
        twice = sum(count > 1 for count in shared.values())
        by_image = f"; {twice} of {len(shared)} classes are in more than one, so the division is by image"
        layout = f"class folders in split folders{within}" + (by_image if twice else "")
    else:
        rows = _folder_rows(pictures, 2, above, skipped)
        layout = f"class folders{within}"
        if rows and all(split_of(row.label) for row in rows):
            raise InputError(
                f"The split folders {', '.join(sorted({row.label for row in rows}))} of {root} hold pictures, not "
                "class folders, so no picture has a class: sort them into <split>/<class>/, or list them in a csv."
            )
        if {row.label for row in rows} == {"images"}:
            return None  # a flat folder images/ whose list is missing: "images" is not the name of a class
    if not rows:
        return None
    depth = 2 if divided else 1
    full = {(row.split, nfc(row.label)) for row in rows}
    for parts in tree.folders:
        split = split_of(parts[0]) if divided else None
        if len(parts) == depth and (split or not divided) and (split, nfc(parts[-1])) not in full:
            skipped.append(("/".join((above, *parts) if above else parts), "a class folder with no image"))
    return listing_of(layout, rows, skipped)


def _folder_rows(
    pictures: list[tuple[PathParts, PicturePlace]], depth: int, above: str, skipped: list[tuple[str, str]]
) -> list[PictureRow]:
    """Rows of the pictures at a depth. The others are added to `skipped` with the reason."""
    rows = []
    for parts, place in pictures:
        name = "/".join((above, *parts) if above else parts)
        split = split_of(parts[0]) if depth == 3 else None
        if depth == 3 and split is None:
            skipped.append((name, "not in a split folder"))
        elif len(parts) < depth:
            skipped.append((name, "not in a class folder"))
        elif len(parts) > depth:
            skipped.append((name, "in a folder inside a class folder"))
        else:
            rows.append(PictureRow(parts[-2], name, place, split))
    return rows


def _check_spelling(folders: list[PathParts], root: Path) -> None:
    """Refuse two folders whose names differ only in their Unicode form, because they look like one class."""
    spelled: dict[PathParts, PathParts] = {}
    for parts in folders:
        same = spelled.setdefault(tuple(map(nfc, parts)), parts)
        if same != parts:
            raise InputError(
                f"{root} has two folders named {'/'.join(map(nfc, parts))!r}, written with different Unicode "
                "characters that look the same: merge or rename one."
            )


def _check_split_names(names: set[str], root: Path) -> None:
    for split, count in Counter(map(split_of, names)).items():
        if count > 1:
            both = " and ".join(sorted(name for name in names if split_of(name) == split))
            raise InputError(f"{root} has {both}, which both mean the split {split!r}: merge or rename one.")
