"""`quickstudy pack`: the learner of a run in a directory that can be moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from tyro.conf import Positional, arg

from quickstudy.cli.command import Name, TrustingCommand
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError, printable


@dataclass(frozen=True)
class Pack(TrustingCommand):
    """Save the learner of a run without its data: it can be moved, taught (`adapt --from`) and served anywhere."""

    run_directory: Positional[Annotated[str | None, arg(metavar="RUN", help_behavior_hint="")]] = None
    """The run."""
    out: Positional[Annotated[str | None, arg(metavar="OUT", help_behavior_hint="")]] = None
    """Directory of the learner."""
    checkpoint: Name = None
    """`best` or `last` (default: best where there is one)."""
    norms: str = "support"
    """`support`: batch norms take the statistics of the examples, so no answer depends on its neighbours; `trained`."""
    episodes: int = 100
    """Validation tasks of one calibration."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Pack, and say what was changed and measured."""
        from quickstudy.everyday.packing import pack_run

        if self.run_directory is None or self.out is None:
            raise InputError("Give a run and the directory to write: quickstudy pack RUN OUT.")
        if self.episodes < 1:
            raise InputError(f"`--episodes` was {self.episodes}; give 1 or more.")
        with console.progress("calibrating") as progress:
            packed = self.with_trust(
                console,
                partial(
                    pack_run,
                    self.run_directory,
                    self.out,
                    checkpoint=self.checkpoint,
                    norms=self.norms,
                    episodes=self.episodes,
                    progress=progress,
                ),
            )
        if console.json:
            console.print_json({"model": str(packed.path), "notes": packed.notes})
            return
        for note in packed.notes:
            console.note(note)
        print(printable(packed.path))
