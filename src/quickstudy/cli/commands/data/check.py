"""`quickstudy data check`: look through an image set or a folder of pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from quickstudy.cli.command import Flag, ImageCommand
from quickstudy.cli.commands.data.list import describe_published
from quickstudy.cli.terminal import Console, describe_values
from quickstudy.errors import InputError, RunError, printable, suggest_nearest
from quickstudy.storage.files import as_path

if TYPE_CHECKING:
    from quickstudy.tasks.images.checkup import Identical
    from quickstudy.tasks.images.listing import Listing
    from quickstudy.tasks.images.sets import ImageSet
    from quickstudy.tasks.images.store import StoredPictures
    from quickstudy.tasks.splits import Indices

FEW = 10
"""How many of a kind are named without `--all`."""


@dataclass(frozen=True)
class DataCheck(ImageCommand):
    """Look through an image set or a folder of pictures: classes, sizes, duplicates, what cannot be read."""

    source: Positional[Annotated[str | None, arg(metavar="NAME_OR_PATH", help_behavior_hint="")]] = None
    """A set by name (see `quickstudy data list`), or a folder, archive or csv of your own."""
    all: Flag = False
    """Name every unreadable file and every duplicate, not the first ten."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Look through the set, print a report, and fail when nothing can be learned from it."""
        from quickstudy.tasks.images.sets import IMAGE_SETS

        if self.source is None:
            raise InputError("Say what to look through: a set by name (see `quickstudy data list`), or a folder.")
        one = IMAGE_SETS.get(self.source)
        place = one.require_folder() if one else as_path(self.source)
        if not os.path.exists(place):
            raise InputError(f"There is no set and no path {self.source!r}. {suggest_nearest(self.source, IMAGE_SETS)}")
        try:
            listing, found = _read_pictures(one, place, console)
        except InputError as error:  # the path was right; what is there is not
            raise RunError(f"{place} cannot be used: {error}") from error
        report = self._report(one, place, listing, found, console)
        large = report["per_class"]["of_two_or_more"]
        if console.json:
            console.print_json(report | {"usable": large >= 2})
        else:
            _show_report(report, console)
        if large < 2:
            raise RunError(
                f"{place} is not usable for few-shot tasks: they need two classes of at least two pictures, and "
                f"{large} of {len(found.classes)} have as many."
            )

    def _report(
        self, one: ImageSet | None, place: Path, listing: Listing, found: StoredPictures, console: Console
    ) -> dict[str, Any]:
        from quickstudy.tasks.images.checkup import count_per_class, find_identical, read_headers

        splits, rule = _split_as_training(one, found, place)
        same = find_identical(found, splits, listing)
        with console.progress("headers") as progress:
            sizes, modes = read_headers(listing, found.names, progress)
        most = None if self.all else FEW
        return {
            "path": str(place),
            "layout": found.layout,
            "classes": len(found.classes),
            "images": len(found.labels),
            "per_class": count_per_class(found),
            "sizes": _describe_sizes(sizes),
            "modes": dict(modes.most_common()),
            "split": {"rule": rule, "images": {name: len(numbers) for name, numbers in splits.items()}},
            "too_small": _describe_small(found, splits, most),
            "changed": found.changed,
            "unreadable": {"count": len(found.skipped), "first": [list(row) for row in found.skipped[:most]]},
            "identical": _describe_identical(found, same, splits, most),
            "published": _describe_published(one, place, found) if one else None,
        }


def _read_pictures(one: ImageSet | None, place: Path, console: Console) -> tuple[Listing, StoredPictures]:
    """The listing, and the decoded pictures. They are decoded as for tasks, so training finds them in the cache."""
    from quickstudy.tasks.images.readers import recognise
    from quickstudy.tasks.images.sets import FOLDER_DECODING
    from quickstudy.tasks.images.store import discard_if_damaged, load_pictures, locate_source

    place = locate_source(place)
    listing = recognise(place)

    def read() -> StoredPictures:
        with console.progress("reading") as progress:
            if one:
                return one.read(place, one.size, one.recipe, progress)
            return load_pictures(place, lambda _: listing, FOLDER_DECODING, progress)

    found = read()
    if discard_if_damaged(found):
        console.note("the cache of these pictures was damaged; they were decoded again", always=True)
        found = read()
    return listing, found


def _split_as_training(one: ImageSet | None, found: StoredPictures, place: Path) -> tuple[Indices, str]:
    """The splits that training uses by default; duplicates and classes that are too small are reported for them."""
    from quickstudy.tasks.images.sets import default_split, divide

    try:
        split = one.split if one else default_split(found, len(found.classes))
        splits, rule, _ = divide(found, split, one.name if one else place.name, 0, ())
        return splits, rule
    except InputError:  # data that stand in for the set may not have its classes
        return found.splits, "as laid out" if found.splits else "none: the layout has no division"


def _describe_sizes(sizes: Counter[tuple[int, int]]) -> dict[str, Any]:
    widths, heights = [width for width, _ in sizes], [height for _, height in sizes]
    return {
        "different": len(sizes),
        "width": [min(widths), max(widths)],
        "height": [min(heights), max(heights)],
        "most_common": [[*size, count] for size, count in sizes.most_common(3)],
    }


def _describe_small(found: StoredPictures, splits: Indices, most: int | None) -> dict[str, Any]:
    """Classes with fewer than two pictures in a split: a task needs one for the support and one for the query."""
    from quickstudy.tasks.images.sets import find_small_classes

    few = find_small_classes(found, splits, 2)
    first = [[found.classes[label], count, split] for label, (split, count) in few.items()]
    return {"count": len(few), "first": first[:most]}


def _describe_identical(found: StoredPictures, same: Identical, splits: Indices, most: int | None) -> dict[str, Any]:
    home = {int(number): name for name, numbers in splits.items() for number in numbers}
    first = [
        [{"name": found.names[n], "class": found.classes[found.labels[n]], "split": home.get(n)} for n in numbers]
        for numbers in same.groups[:most]
    ]
    counts = {"within_class": same.within, "across_classes": same.across, "across_splits": same.splits}
    return {
        "side": found.pixels.shape[-1],
        "groups": len(same.groups),
        "pictures": same.pictures,
        **counts,
        "first": first,
    }


def _describe_published(one: ImageSet, place: Path, found: StoredPictures) -> dict[str, Any]:
    """How the data compare to the published set, and how each published split falls on them."""
    from quickstudy.tasks.images.published import published_split

    splits = {}
    for name in describe_published(one.name):
        try:
            splits[name] = str(published_split(one.name, name).divide(found.classes, partial=True))
        except InputError as error:
            splits[name] = str(error)
    here = (len(found.classes), len(found.labels))
    return {
        "name": one.name,
        "complete": here == (one.classes, one.images) and place.name not in one.stand_ins,
        "classes": one.classes,
        "images": one.images,
        "splits": splits,
    }


def _show_report(report: Mapping[str, Any], console: Console) -> None:
    """The report in words, on standard output."""
    count, sizes, same, split = report["per_class"], report["sizes"], report["identical"], report["split"]
    small = report["too_small"]
    span = "" if sizes["different"] == 1 else f" ({sizes['different']} sizes, up to {sizes['width'][1]} wide and "
    span += f"{sizes['height'][1]} high)" if span else ""
    common = ", ".join(f"{width} x {height}: {number}" for width, height, number in sizes["most_common"])
    where = f"within a class {same['within_class']}, across classes {same['across_classes']}, across splits "
    rows = {
        "path": report["path"],
        "layout": report["layout"],
        "classes": report["classes"],
        "images": f"{report['images']}, in a class at least {count['smallest']}, at most {count['largest']}, median "
        f"{count['median']:g}",
        "sizes": f"{common}{span}",
        "modes": ", ".join(f"{mode}: {number}" for mode, number in report["modes"].items()),
        "split": f"{split['rule']}" + (f" ({describe_values(split['images'])})" if split["images"] else ""),
        "too small": f"{small['count']} classes with fewer than 2 pictures in a split; --tasks.only '[...]' names "
        "those to keep"
        if small["count"]
        else "none",
        "changed": "; ".join(f"{number} pictures: {what}" for what, number in report["changed"].items()) or "none",
        "unreadable": report["unreadable"]["count"],
        "identical": f"there more than once: {same['groups']} ({where}{same['across_splits']}), compared at "
        f"{same['side']} x {same['side']}, then in full",
    }
    if (match := report["published"]) is not None:
        whole = "complete" if match["complete"] else "not the published pictures"
        rows["published"] = (
            f"{match['name']}, {whole}: {report['classes']} of {match['classes']} classes, {report['images']} of "
            f"{match['images']} images"
        )
        rows |= {f"split {name}": result for name, result in match["splits"].items()}
    console.listing("", rows)
    _show_few("too small", small, [f"{name} has {count} in {split}" for name, count, split in small["first"]])
    _show_few("unreadable", report["unreadable"], [f"{name}: {why}" for name, why in report["unreadable"]["first"]])
    lines = [" = ".join(map(_format_picture, group)) for group in same["first"]]
    _show_few("identical", {"count": same["groups"]}, lines)


def _format_picture(picture: Mapping[str, Any]) -> str:
    return f"{picture['name']} ({picture['class']}{', ' + picture['split'] if picture['split'] else ''})"


def _show_few(title: str, counted: Mapping[str, Any], lines: Sequence[str]) -> None:
    for line in lines:
        print(f"{title}: {printable(line)}")
    if counted["count"] > len(lines):
        print(f"{title}: {counted['count'] - len(lines)} more; --all lists them")
