"""`quickstudy report`: runs as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quickstudy.cli.command import Command, Folder, RunFolders
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError, printable


@dataclass(frozen=True)
class Report(Command):
    """Write one HTML page that opens offline, and its pictures as PNGs."""

    runs: RunFolders = ()
    """Run directories."""
    out: Folder = None
    """Directory of the report (default: RUN/report for one run, runs/report for several)."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Write the page, and print where it is."""
        from quickstudy.reports.report import write_report
        from quickstudy.storage.run import Run, free_path

        runs = [Run.open(path) for path in self.runs]
        if not runs:
            raise InputError("Give one or more run directories to report on.")
        default = runs[0].folder("report") if len(runs) == 1 else free_path(Path("runs") / "report")
        page = write_report(runs, Path(self.out) if self.out else default)
        if console.json:
            console.print_json({"report": str(page)})
        else:
            print(printable(page))
