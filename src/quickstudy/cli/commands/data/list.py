"""`quickstudy data list`: which image sets are here, how they are split, how the others are got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quickstudy.cli.command import ImageCommand
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError

if TYPE_CHECKING:
    from quickstudy.tasks.images.sets import ImageSet


@dataclass(frozen=True)
class DataList(ImageCommand):
    """List the image sets: which are here, their splits, and how to get the others."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Show every image set."""
        from quickstudy.tasks.images.sets import IMAGE_SETS, data_root

        root = data_root()
        rows = {name: _describe_set(one) for name, one in IMAGE_SETS.items()}
        if console.json:
            console.print_json({"root": str(root), "sets": rows})
            return
        print(f"data root: {root}" + ("" if root.is_dir() else " (not there yet)"))
        for name, row in rows.items():
            print(f"\n{name}: {row['about']}, {row['classes']} classes, {row['images']} images")
            console.listing("", {"here": _explain_place(row)} | {key: row[key] for key in ("splits", "default", "get")})
        console.note("another root: --data-root DIRECTORY, or the environment variable QUICKSTUDY_DATA")


def _describe_set(one: ImageSet) -> dict[str, Any]:
    from quickstudy.tasks.images.sets import GENERAL_SPLITS

    place = one.find_folder()
    return {
        "about": one.about,
        "classes": one.classes,
        "images": one.images,
        "here": place.name if place else None,
        "stands_in": bool(one.stand_in_name()),
        "splits": ", ".join([*describe_published(one.name), *GENERAL_SPLITS]),
        "default": f"split {one.split}, size {one.size}, recipe {one.recipe}",
        "get": _explain_source(one.name),
    }


def _explain_place(row: Mapping[str, Any]) -> str:
    if row["here"] is None:
        return "no"
    return f"{row['here']}, which stands in for it: other pictures" if row["stands_in"] else f"yes, in {row['here']}"


def describe_published(name: str) -> list[str]:
    """The published splits of an image set."""
    from quickstudy.tasks.images.published import published_names

    try:
        return published_names(name)
    except InputError:  # no split of it has been published
        return []


def _explain_source(name: str) -> str:
    from quickstudy.tasks.images.downloads import MANUAL_SOURCES, SOURCES

    if name in SOURCES:
        return f"quickstudy data prepare {name} ({format_megabytes(SOURCES[name].size)})"
    return f"by hand, see {MANUAL_SOURCES[name][0]}"


def format_megabytes(size: int) -> str:
    """Bytes in words.

    >>> format_megabytes(15_927_098), format_megabytes(28_881)
    ('15.9 MB', '0.03 MB')
    """
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e6:.2f} MB"
