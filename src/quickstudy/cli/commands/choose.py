"""`quickstudy choose`: bases side by side on a user's own examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from quickstudy.cli.command import TrustingCommand
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError

if TYPE_CHECKING:
    from quickstudy.everyday.choose import Candidate


@dataclass(frozen=True)
class Choose(TrustingCommand):
    """Compare bases on your own pictures: it names the fastest of those that are not clearly worse than the best."""

    folder: Positional[Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="")]] = None
    """A folder with one folder of pictures for each class."""
    among: Annotated[str | None, arg(name="from", metavar="BASES", help_behavior_hint="")] = None
    """The bases, with commas: `photos,drawings,runs/a`."""
    splits: int = 30
    """How often the pictures are split into those that teach and those that test."""
    seed: int = 0
    """Seed of the splits."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Compare, and print a table."""
        from quickstudy.everyday.choose import choose

        if self.folder is None or self.among is None:
            raise InputError("Give a folder and two or more bases: quickstudy choose FOLDER --from photos,runs/a.")
        bases = [base.strip() for base in self.among.split(",") if base.strip()]
        with console.progress("comparing") as progress:
            found = self.with_trust(
                console,
                partial(choose, self.folder, bases, splits=self.splits, seed=self.seed, progress=progress),
            )
        for note in found.notes:
            console.note(note)
        if console.json:
            rows = [vars(row) for row in found.candidates]
            console.print_json({**vars(found), "candidates": rows})
            return
        table = [
            (
                row.name,
                "not known" if math.isnan(row.accuracy) else f"{100 * row.accuracy:.1f} %",
                *([_behind(row)] if found.judged else []),
                f"{1000 * row.seconds:.3g}",
                f"{row.parameters:,}",
            )
            for row in found.candidates
        ]
        measured = ("accuracy", "behind the best") if found.judged else ("on tasks of its own",)
        if not found.judged:
            console.note(found.note, always=True)
        console.table("", ("base", *measured, "ms an example", "parameters"), table)
        if found.judged:
            console.note(found.note, always=True)


def _behind(row: Candidate) -> str:
    return "-" if math.isnan(row.interval) else f"{100 * row.behind:.1f} ± {100 * row.interval:.1f} points"
