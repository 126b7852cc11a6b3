"""What `quickstudy data` does: list the image sets, look through one, download one."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import DownloadColumn, MofNCompleteColumn

from quickstudy.cli import command as verbs
from quickstudy.cli import terminal
from quickstudy.errors import InputError, RunError, suggest_nearest
from quickstudy.tasks.images.checkup import Identical, Indices, count_per_class, find_identical, read_headers
from quickstudy.tasks.images.downloads import BY_HAND, SOURCES, Source, empty, fetch
from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.published import names, published
from quickstudy.tasks.images.readers import recognise
from quickstudy.tasks.images.sets import (
    FOLDER,
    GENERAL,
    IMAGE_SETS,
    ImageSet,
    data_root,
    default_split,
    divide,
    find_small_classes,
)
from quickstudy.tasks.images.store import Stored, load_pictures

FEW = 10
"""How many of a kind are named where nobody has asked for all."""


def listed(verb: verbs.DataList) -> None:
    """Every image set: whether it is here, how it is divided, how it is had."""
    root = data_root()
    rows = {name: _row(one) for name, one in IMAGE_SETS.items()}
    if verb.json:
        terminal.print_json({"root": str(root), "sets": rows})
        return
    print(f"data root: {root}" + ("" if root.is_dir() else " (not there yet)"))
    for name, row in rows.items():
        print(f"\n{name}: {row['about']}, {row['classes']} classes, {row['images']} images")
        terminal.listing("", {key: row[key] for key in ("here", "splits", "default", "get")} | {"here": _here(row)})
    if not verb.quiet:
        terminal.note("another root: --data-root DIRECTORY, or the environment variable QUICKSTUDY_DATA")


def _row(one: ImageSet) -> dict[str, Any]:
    place = one.held()
    return {
        "about": one.about,
        "classes": one.classes,
        "images": one.images,
        "here": place.name if place else None,
        "stands_in": bool(one.stands_in()),
        "splits": ", ".join([*_published(one.name), *GENERAL]),
        "default": f"split {one.split}, size {one.size}, recipe {one.recipe}",
        "get": _how(one.name),
    }


def _here(row: Mapping[str, Any]) -> str:
    if row["here"] is None:
        return "no"
    return f"{row['here']}, which stands in for it: other pictures" if row["stands_in"] else f"yes, in {row['here']}"


def _published(name: str) -> list[str]:
    try:
        return names(name)
    except InputError:  # nobody has published a split of it
        return []


def _how(name: str) -> str:
    if name in SOURCES:
        return f"quickstudy data prepare {name} ({_megabytes(SOURCES[name].size)})"
    return f"by hand, see {BY_HAND[name][0]}"


def _megabytes(size: int) -> str:
    """Bytes in words.

    >>> _megabytes(15_927_098), _megabytes(28_881)
    ('15.9 MB', '0.03 MB')
    """
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e6:.2f} MB"


def checked(verb: verbs.DataCheck) -> None:
    """Look through a set, say what was found, and fail when nothing can be learned from it."""
    if verb.source is None:
        raise InputError("Say what to look through: a set by name (see `quickstudy data list`), or a folder.")
    one = IMAGE_SETS.get(verb.source)
    place = one.where() if one else Path(verb.source).expanduser()
    if not place.exists():
        raise InputError(f"There is no set and no path {verb.source!r}. {suggest_nearest(verb.source, IMAGE_SETS)}")
    try:
        listing, found = _read(one, place, shown=not (verb.quiet or verb.json))
    except InputError as error:  # the path was right; what is there is not
        raise RunError(f"{place} cannot be used: {error}") from error
    splits, rule = _division(one, found, place)
    same = find_identical(found, splits)
    with terminal.progress("headers", MofNCompleteColumn(), shown=not (verb.quiet or verb.json)) as bar:
        sizes, modes = read_headers(listing, bar)
    most = None if verb.all else FEW
    report: dict[str, Any] = {
        "path": str(place),
        "layout": found.layout,
        "classes": len(found.classes),
        "images": len(found.labels),
        "per_class": count_per_class(found),
        "sizes": _sizes(sizes),
        "modes": dict(modes.most_common()),
        "split": {"rule": rule, "images": {name: len(numbers) for name, numbers in splits.items()}},
        "too_small": _small(found, splits, most),
        "changed": found.changed,
        "unreadable": {"count": len(found.skipped), "first": [list(row) for row in found.skipped[:most]]},
        "identical": _same(found, same, splits, most),
        "published": _match(one, place, found) if one else None,
    }
    usable = report["per_class"]["of_two_or_more"] >= 2
    if verb.json:
        terminal.print_json(report | {"usable": usable})
    else:
        _shown(report)
    if not usable:
        raise RunError(
            f"{place} is not usable for few-shot tasks: they need two classes of at least two pictures, and "
            f"{report['per_class']['of_two_or_more']} of {len(found.classes)} have as many."
        )


def _read(one: ImageSet | None, place: Path, *, shown: bool) -> tuple[Listing, Stored]:
    """The listing, and the pictures decoded as tasks will ask for them: what is decoded here, training finds there."""
    listing = recognise(place)
    with terminal.progress("reading", MofNCompleteColumn(), shown=shown) as bar:
        if one:
            return listing, one.read(place, one.size, one.recipe, bar)
        return listing, load_pictures(place, lambda _: listing, FOLDER, bar)


def _division(one: ImageSet | None, found: Stored, place: Path) -> tuple[Indices, str]:
    """The splits that training uses when nothing is said: to look across for duplicates, and for classes too small."""
    try:
        split = one.split if one else default_split(found, len(found.classes))
        splits, rule, _ = divide(found, split, one.name if one else place.name, 0, ())
        return splits, rule
    except InputError:  # data that stand in for the set may not have its classes
        return found.splits, "as laid out" if found.splits else "none: the layout has no division"


def _sizes(sizes: Counter[tuple[int, int]]) -> dict[str, Any]:
    widths, heights = [width for width, _ in sizes], [height for _, height in sizes]
    return {
        "different": len(sizes),
        "width": [min(widths), max(widths)],
        "height": [min(heights), max(heights)],
        "most_common": [[*size, count] for size, count in sizes.most_common(3)],
    }


def _small(found: Stored, splits: Indices, most: int | None) -> dict[str, Any]:
    """Classes that leave a split without one picture to learn from and one to be asked about."""
    few = find_small_classes(found, splits, 2)
    first = [[found.classes[label], count, split] for label, (split, count) in few.items()]
    return {"count": len(few), "first": first[:most]}


def _same(found: Stored, same: Identical, splits: Indices, most: int | None) -> dict[str, Any]:
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


def _match(one: ImageSet, place: Path, found: Stored) -> dict[str, Any]:
    """How the data compare to the published set, and how each published split falls on them."""
    splits = {}
    for name in _published(one.name):
        try:
            splits[name] = str(published(one.name, name).divide(found.classes, partial=True))
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


def _shown(report: Mapping[str, Any]) -> None:
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
        "split": f"{split['rule']}" + (f" ({terminal.described(split['images'])})" if split["images"] else ""),
        "too small": f"{small['count']} classes with fewer than 2 pictures in a split; --tasks.only '[...]' names "
        "those to keep"
        if small["count"]
        else "none",
        "changed": "; ".join(f"{number} pictures: {what}" for what, number in report["changed"].items()) or "none",
        "unreadable": report["unreadable"]["count"],
        "identical": f"there more than once: {same['groups']} ({where}{same['across_splits']}), compared at "
        f"{same['side']} x {same['side']}",
    }
    if (match := report["published"]) is not None:
        whole = "complete" if match["complete"] else "not the published pictures"
        rows["published"] = (
            f"{match['name']}, {whole}: {report['classes']} of {match['classes']} classes, {report['images']} of "
            f"{match['images']} images"
        )
        rows |= {f"split {name}": told for name, told in match["splits"].items()}
    terminal.listing("", rows)
    _few("too small", small, [f"{name} has {count} in {split}" for name, count, split in small["first"]])
    _few("unreadable", report["unreadable"], [f"{name}: {why}" for name, why in report["unreadable"]["first"]])
    lines = [" = ".join(map(_named, group)) for group in same["first"]]
    _few("identical", {"count": same["groups"]}, lines)


def _named(picture: Mapping[str, Any]) -> str:
    return f"{picture['name']} ({picture['class']}{', ' + picture['split'] if picture['split'] else ''})"


def _few(title: str, counted: Mapping[str, Any], lines: Sequence[str]) -> None:
    for line in lines:
        print(f"{title}: {line}")
    if counted["count"] > len(lines):
        print(f"{title}: {counted['count'] - len(lines)} more; --all lists them")


def prepared(verb: verbs.DataPrepare) -> None:
    """Download a set, after its addresses, sizes, licence and place were shown and agreed to."""
    name = verb.image_set
    if name is None:
        raise InputError(f"Say which set: quickstudy data prepare NAME. Known: {', '.join(IMAGE_SETS)}.")
    if name not in IMAGE_SETS:
        raise InputError(f"There is no image set {name!r}. {suggest_nearest(name, IMAGE_SETS)}")
    one, root = IMAGE_SETS[name], data_root()
    place = one.held()
    if place is not None and not one.stands_in() and not empty(place):
        _had(verb, place, fetched=False)
        return
    if name not in SOURCES:
        page, why = BY_HAND[name]
        raise InputError(f"{name!r} cannot be downloaded from here: {why}. See {page}")
    source = SOURCES[name]
    if not (verb.yes and (verb.quiet or verb.json)):
        _plan(name, source, root)
    if not verb.yes and not _agreed():
        raise RunError("Nothing was downloaded.")
    with terminal.progress(name, DownloadColumn(), shown=not (verb.quiet or verb.json)) as bar:
        place = fetch(source, root, bar)
    _had(verb, place, fetched=True)


def _plan(name: str, source: Source, root: Path) -> None:
    for file in source.files:
        terminal.note(f"{file.url} ({_megabytes(file.size)}, {file.hash})")
    terminal.note(f"{name} is {_megabytes(source.size)} in all, and goes into {root / source.folder}")
    terminal.note(f"licence: {source.licence}; see {source.page}")
    terminal.note("files that are complete are kept when a download stops, and it goes on with the others")


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise InputError("Nobody is there to be asked: add --yes to download.")
    sys.stderr.write("Download? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _had(verb: verbs.DataPrepare, place: Path, *, fetched: bool) -> None:
    if verb.json:
        terminal.print_json({"name": verb.image_set, "folder": str(place), "fetched": fetched})
        return
    print(place)
    if not verb.quiet:
        said = "is there, with the published hashes" if fetched else "was there already; nothing was downloaded"
        terminal.note(f"{verb.image_set} {said}. Next: quickstudy data check {verb.image_set}")
