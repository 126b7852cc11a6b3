"""`quickstudy choose`: bases side by side on a user's own examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from tyro.conf import Positional, arg

from quickstudy.cli.command import TrustingCommand
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError


@dataclass(frozen=True)
class Choose(TrustingCommand):
    """Compare bases on your own pictures, by repeated splits: the cheapest that cannot be told from the best."""

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
        if console.json:
            rows = [vars(row) for row in found.candidates]
            console.print_json({**vars(found), "candidates": rows})
            return
        measured = "accuracy" if found.judged else "on training episodes"
        table = [
            (
                row.name,
                "not known" if math.isnan(row.accuracy) else f"{100 * row.accuracy:.1f} %",
                "-" if math.isnan(row.interval) else f"{100 * row.behind:.1f} ± {100 * row.interval:.1f} points",
                f"{1000 * row.seconds:.3g}",
                f"{row.parameters:,}",
            )
            for row in found.candidates
        ]
        console.table("", ("base", measured, "behind the best", "ms an example", "parameters"), table)
        console.note(found.note, always=True)
