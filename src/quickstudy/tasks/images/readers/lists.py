"""Pictures that are named in a list: each is looked up under the root, and errors name the line of the list."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from quickstudy.errors import InputError
from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.readers.gather import NOT_AN_IMAGE, PictureRow, is_picture, listing_of, nfc


class ListEntry(NamedTuple):
    """One line of a list: the path as written, the class, the split, if any, and the place of the line."""

    path: str
    label: str
    split: str | None
    where: str


def listing_of_entries(
    layout: str, entries: Sequence[ListEntry], find: Callable[[ListEntry], str | None], root: Path
) -> Listing:
    """Make a listing from the entries of lists.

    A path that is listed twice counts once, and a missing file is left out. Both are reported with their line.

    Args:
        layout: The layout, in words.
        entries: The lines of all lists.
        find: Returns the file of an entry as a path under the root, or None if there is no such file.
        root: The folder of all paths.

    Raises:
        InputError: None of the files exists, or one picture has two classes or two splits.
    """
    rows: list[PictureRow] = []
    skipped: list[tuple[str, str]] = []
    seen: dict[str, ListEntry] = {}
    missing = 0
    for entry in entries:
        if not is_picture(entry.path):
            skipped.append((entry.path, f"{entry.where}: {NOT_AN_IMAGE}"))
            continue
        name = find(entry)
        if name is None:
            missing += 1
            skipped.append((entry.path, f"{entry.where}: no such file"))
            continue
        first = seen.setdefault(name, entry)
        if first is entry:
            rows.append(PictureRow(entry.label, name, root / name, entry.split))
        elif nfc(first.label) != nfc(entry.label):
            raise InputError(
                f"{name} has two classes: {first.label!r} ({first.where}) and {entry.label!r} ({entry.where}). "
                "Keep one of the two lines."
            )
        elif first.split != entry.split:
            raise InputError(
                f"{name} is in two splits: {first.split!r} ({first.where}) and {entry.split!r} ({entry.where}). A "
                "training picture cannot be a test picture: keep one of the two lines."
            )
        else:
            skipped.append((name, f"{entry.where}: given already, {first.where}"))
    if not rows:
        what = f"none of the {missing} pictures is there" if missing else f"no picture is named in {len(entries)} lines"
        example = next((f", for example {name!r} ({reason})" for name, reason in skipped), "")
        raise InputError(
            f"{root}: {layout}, but {what}{example}. Put the pictures under {root} or {root / 'images'}, "
            "at the paths in the list."
        )
    return listing_of(layout + (f"; {missing} of {len(entries)} files are missing" if missing else ""), rows, skipped)
