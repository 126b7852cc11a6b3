"""Pictures that a list names: each entry is found under the root, and what is wrong with the list is said by line."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from quickstudy.errors import InputError
from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.readers.gather import NOT_AN_IMAGE, Row, is_picture, listing_of, nfc


class Entry(NamedTuple):
    """One line of a list: the path as written, the class, the split if the list says one, and where it stands."""

    path: str
    label: str
    split: str | None
    where: str


def listed(layout: str, entries: Sequence[Entry], find: Callable[[Entry], str | None], root: Path) -> Listing:
    """The entries as a listing.

    A path that stands there twice counts once, and a missing file is left out: both are said, with the line.

    Args:
        layout: What to call the layout.
        entries: The lines of all the lists.
        find: The entry's file as a path under the root, or None when there is no such file.
        root: The folder that all paths are under.

    Raises:
        InputError: No file is there, or one picture has two classes or two splits.
    """
    rows: list[Row] = []
    skipped: list[tuple[str, str]] = []
    seen: dict[str, Entry] = {}
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
            rows.append(Row(entry.label, name, root / name, entry.split))
        elif nfc(first.label) != nfc(entry.label):
            raise InputError(
                f"{name} has two classes: {first.label!r} ({first.where}) and {entry.label!r} ({entry.where}). "
                "Keep one of the two lines."
            )
        elif first.split != entry.split:
            raise InputError(
                f"{name} is in two splits: {first.split!r} ({first.where}) and {entry.split!r} ({entry.where}). What "
                "is trained on cannot be tested on: keep one of the two lines."
            )
        else:
            skipped.append((name, f"{entry.where}: given already, {first.where}"))
    if not rows:
        what = f"none of the {missing} pictures is there" if missing else f"no picture is named in {len(entries)} lines"
        example = next((f", for example {name!r} ({reason})" for name, reason in skipped), "")
        raise InputError(
            f"{root}: {layout}, but {what}{example}. Put the pictures under {root} or {root / 'images'}, "
            "at the paths that the list gives."
        )
    return listing_of(layout + (f"; {missing} of {len(entries)} files are missing" if missing else ""), rows, skipped)
