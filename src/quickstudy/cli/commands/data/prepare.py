"""`quickstudy data prepare`: download an image set."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import Positional, arg

from quickstudy.cli.command import Flag, ImageCommand
from quickstudy.cli.commands.data.list import format_megabytes
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError, RunError, suggest_nearest

if TYPE_CHECKING:
    from quickstudy.tasks.images.downloads import Source


@dataclass(frozen=True)
class DataPrepare(ImageCommand):
    """Download an image set into the data root, with its hashes checked."""

    image_set: Positional[Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]] = None
    """A set by name (see `quickstudy data list`)."""
    yes: Flag = False
    """Do not ask before downloading."""

    makes_data_root: ClassVar[bool] = True

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Show addresses, sizes, licence and place, ask, and download."""
        from quickstudy.tasks.images.downloads import MANUAL_SOURCES, SOURCES, fetch, is_empty
        from quickstudy.tasks.images.sets import IMAGE_SETS, data_root

        name = self.image_set
        if name is None:
            raise InputError(f"Say which set: quickstudy data prepare NAME. Known: {', '.join(IMAGE_SETS)}.")
        if name not in IMAGE_SETS:
            raise InputError(f"There is no image set {name!r}. {suggest_nearest(name, IMAGE_SETS)}")
        one, root = IMAGE_SETS[name], data_root()
        place = one.find_folder()
        if place is not None and not one.stand_in_name() and not is_empty(place):
            self._show(place, console, fetched=False)
            return
        if name not in SOURCES:
            page, why = MANUAL_SOURCES[name]
            raise InputError(f"{name!r} cannot be downloaded from here: {why}. See {page}")
        source = SOURCES[name]
        _show_plan(name, source, root, console, always=not self.yes)  # who is asked must see what is asked
        if not self.yes and not _ask():
            raise RunError("Nothing was downloaded.")
        with console.progress(name, in_bytes=True) as progress:
            place = fetch(source, root, progress)
        self._show(place, console, fetched=True)

    def _show(self, place: Path, console: Console, *, fetched: bool) -> None:
        if console.json:
            console.print_json({"name": self.image_set, "folder": str(place), "fetched": fetched})
            return
        print(place)
        result = "is there, with the published hashes" if fetched else "was there already; nothing was downloaded"
        console.note(f"{self.image_set} {result}. Next: quickstudy data check {self.image_set}")


def _show_plan(name: str, source: Source, root: Path, console: Console, *, always: bool) -> None:
    for file in source.files:
        console.note(f"{file.url} ({format_megabytes(file.size)}, {file.hash})", always=always)
    for line in (
        f"{name} is {format_megabytes(source.size)} in all, and goes into {root / source.folder}",
        f"licence: {source.licence}; see {source.page}",
        "when a download stops, complete files are kept, and the next attempt gets the others",
    ):
        console.note(line, always=always)


def _ask() -> bool:
    if not sys.stdin.isatty():
        raise InputError("Standard input is no terminal, so the question cannot be asked: add --yes to download.")
    sys.stderr.write("Download? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
