"""What the command line shows: tables and results on standard output, progress, notes and errors on standard error."""

import json
import signal
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from quickstudy.watch import Watcher


def console() -> Console:
    """Standard output."""
    return Console(highlight=False, soft_wrap=True)


def error_line(error: object, as_json: bool) -> None:
    """One error, without a traceback."""
    if as_json:
        print(json.dumps({"error": str(error)}), flush=True)
    else:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {_plain(error)}")


def note(text: str) -> None:
    """A remark beside the results."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[dim]note:[/] {_plain(text)}")


def note_warnings(quiet: bool) -> None:
    """Show the package's warnings as notes, each text once; other libraries' are not the user's to act on."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        del rest, more
        if category.__module__.startswith("quickstudy") and not quiet and str(message) not in said:
            said.add(str(message))
            note(str(message))

    warnings.showwarning = show


def _plain(text: object) -> str:
    return str(text).replace("[", r"\[")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> None:
    """A table on standard output; wide enough for its content where the terminal is not known."""
    shown = Table(title=title or None, caption=caption or None, title_justify="left", caption_justify="left")
    for i, column in enumerate(columns):
        shown.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*map(_plain, row))
    wide = Console(highlight=False)
    if not wide.is_terminal:
        wide.width = max(wide.width, 140)
    wide.print(shown)


def listing(title: str, rows: Mapping[str, Any]) -> None:
    """Names and what they mean, one to a line."""
    if title:
        print(title)
    width = max(map(len, rows), default=0)
    for name, meaning in rows.items():
        print(f"  {name:<{width}}  {meaning}")


class TerminalWatcher(Watcher):
    """A progress bar with rate, loss and time left. Ctrl-C and a polite kill stop at the next step, saved."""

    def __init__(self, steps: int, title: str, *, bar: bool, rows: bool, logs: Sequence[Any] = ()) -> None:
        self.stopping = False
        self.rows = rows
        self.logs = logs
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not bar,
            refresh_per_second=4,
        )
        self.task = self.progress.add_task(title, total=steps, loss="-", rate="")
        self.handlers: list[tuple[int, Any]] = []

    def __enter__(self) -> "TerminalWatcher":
        def stop(number: int, frame: FrameType | None) -> None:
            del number, frame
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True

        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers.append((number, signal.signal(number, stop)))
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        for number, handler in self.handlers:
            signal.signal(number, handler)
        for log in self.logs:
            log.close()

    def step(self, step: int, loss: float) -> None:
        """After every outer step."""
        speed = self.progress.tasks[0].speed
        rate = f"{speed:.1f} steps/s" if speed else ""
        self.progress.update(self.task, completed=step, loss=f"{loss:.4f}", rate=rate)

    def row(self, row: dict[str, Any]) -> None:
        """With every row that goes into the metrics."""
        if self.rows:
            print(json.dumps(row), flush=True)
        for log in self.logs:
            for name, value in row.items():
                if row["kind"] != "probe" and name not in ("kind", "step") and isinstance(value, float | int):
                    log.add_scalar(f"{row['kind']}/{name}", value, row["step"])
            if row["kind"] == "probe" and isinstance(row["value"], float | int):
                log.add_scalar(f"probe/{row['name']}", row["value"], row["step"])


def tensorboard(folder: Path) -> list[Any]:
    """A TensorBoard writer in a list, or no writer where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return []
    return [SummaryWriter(str(folder))]


def print_json(value: Any) -> None:
    """One JSON object on a line of standard output."""
    print(json.dumps(value, default=str), flush=True)
    sys.stdout.flush()
