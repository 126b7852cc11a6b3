"""What the command line shows: tables and results on standard output, progress, notes and errors on standard error."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from quickstudy.errors import RunError, printable
from quickstudy.storage.files import dumps
from quickstudy.training.watcher import Watcher

if TYPE_CHECKING:
    import rich.console

HANGUPS = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
"""What a terminal sends when it is closed, where there is such a signal."""

WAYS = {"vmap": "all tasks in one pass", "loop": "one by one", "threads": "several at once on threads"}
"""What the ways of an engine are called here."""

MANY_PICTURES = 1000
"""Number of pictures from which on decoding takes long enough for a note."""


@dataclass(frozen=True)
class Console:
    """How one command shows what it does. Every verb gets one.

    Args:
        quiet: Show results only: no progress, no notes.
        json: Show JSON lines instead of tables, and no progress or notes either.
    """

    quiet: bool = False
    json: bool = False

    @property
    def talks(self) -> bool:
        """Whether progress and notes are shown."""
        return not (self.quiet or self.json)

    def error(self, message: object) -> None:
        """One error, without a traceback: under `--json` on standard output, if that can be written."""
        if self.json and sys.stdout is not None:
            with suppress(OSError):
                self.print_json({"error": printable(message)})
                return
        from rich.text import Text

        with suppress(OSError):  # where standard error cannot be written either, nothing is left to do
            _stderr().print(Text.assemble(("error:", "bold red"), f" {printable(message)}"))

    def note(self, text: str, *, always: bool = False) -> None:
        """A remark beside the results.

        Args:
            text: The remark.
            always: Show it under `--quiet` and `--json` too: without it a result would be misread.
        """
        if self.talks or always:
            from rich.text import Text

            with suppress(OSError):  # a remark that cannot be shown is no reason to stop
                _stderr().print(Text.assemble(("note:", "dim"), f" {printable(text)}"))

    def confirm(self, question: str) -> bool:
        """Whether the user says yes. Where nobody can be asked, the answer is no."""
        if self.json or "RANK" in os.environ or not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
            return False
        _stderr().print(f"{printable(question)} [y/N] ", end="", markup=False)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def show_warnings(self) -> None:
        """Show the package's warnings as notes, each text once. Those of other libraries are not for the user."""
        shown: set[str] = set()

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            del rest, more
            if category.__module__.startswith("quickstudy") and str(message) not in shown:
                shown.add(str(message))
                self.note(str(message))

        warnings.showwarning = show

    def print_json(self, value: Any) -> None:
        """One JSON value on a line of standard output; NaN and infinities, which JSON lacks, as strings."""
        text = dumps(value)
        print("".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text), flush=True)

    def listing(self, title: str, rows: Mapping[str, Any]) -> None:
        """Names and what they mean, one to a line."""
        if title:
            print(title)
        width = max(map(len, rows), default=0)
        for name, meaning in rows.items():
            print(f"  {printable(name):<{width}}  {printable(meaning)}")

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> None:
        """A table on standard output, or a list where the terminal is too narrow. `--quiet` drops the caption."""
        from rich.table import Table
        from rich.text import Text

        from quickstudy.cli.rich_console import RichConsole

        grid = Table()
        for i, column in enumerate(columns):
            grid.add_column(column, justify="left" if i == 0 else "right")
        cells = [[printable(cell) for cell in row] for row in rows]
        for row in cells:
            grid.add_row(*map(Text, row))
        out = RichConsole(highlight=False, markup=False, emoji=False)
        if not out.is_terminal and "COLUMNS" not in os.environ:
            out.width = max(out.width, 140)
        # Title and caption are lines of their own: as the table's, they would be cut to its width.
        if title:
            out.print(printable(title))
        if out.measure(grid, options=out.options.update(max_width=10_000)).maximum <= out.width:
            out.print(grid)
        else:
            for first, *others in cells:
                out.print(first)
                for name, cell in zip(columns[1:], others, strict=True):
                    out.print(f"  {name}: {cell}")
        if caption and not self.quiet:
            out.print(printable(caption))

    @contextmanager
    def progress(self, title: str, *, in_bytes: bool = False) -> Iterator[Callable[[int, int], None]]:
        """A bar on a terminal, called with how much is done and how much there is. A file or a pipe gets nothing.

        Args:
            title: What stands before the bar.
            in_bytes: Whether the amounts are bytes, not pieces.
        """
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        from quickstudy.cli.rich_console import RichConsole

        console = RichConsole(stderr=True)
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn() if in_bytes else MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not (self.talks and console.is_terminal),
            transient=True,
        ) as bar:
            task = bar.add_task(escape(printable(title)), total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    @contextmanager
    def decoding(self) -> Iterator[Callable[[int, int], None]]:
        """Progress of decoding many pictures, called as `progress` is: a bar on a terminal, a note elsewhere."""
        with ExitStack() as stack:
            bars: list[Callable[[int, int], None]] = []

            def show(done: int, total: int) -> None:
                if total < MANY_PICTURES or not self.talks:
                    return
                if done == 1 or not bars:
                    if not sys.stderr.isatty():
                        self.note(f"decoding {total} pictures, which is done once")
                    bars.append(stack.enter_context(self.progress("decoding, once")))
                bars[-1](done, total)

            yield show


class TrainingBars:
    """A line for each training: a bar with rate, loss and time left.

    Where standard error is a file or a pipe, ten notes stand for a bar.

    Args:
        console: Where it is shown.
        notes: Whether there are notes where bars cannot be shown.
    """

    def __init__(self, console: Console, *, notes: bool = True) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        from quickstudy.cli.rich_console import RichConsole

        self.console = console
        self.notes = console.talks and notes and not sys.stderr.isatty()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=RichConsole(stderr=True),
            disable=not (console.talks and sys.stderr.isatty()),
            refresh_per_second=4,
        )

    def add(self, title: str, steps: int) -> Callable[[int, float], None]:
        """A line for a training of so many steps; what is returned is called after each of them."""
        from rich.markup import escape

        line = self.progress.add_task(
            escape(printable(title)), total=steps, visible=steps > 0, start=False, loss="-", rate=""
        )
        start: int | None = None

        def step(number: int, loss: float) -> None:
            nonlocal start
            if start is None:  # a resumed run does not begin at 0, and its rate must not count what was done before
                start = number - 1
                self.progress.reset(line, total=steps, completed=start)
            speed = self.progress.tasks[line].speed
            self.progress.update(
                line, completed=number, loss=f"{loss:.4f}", rate=f"{speed:.1f} steps/s" if speed else ""
            )
            if self.notes and (number == steps or number * 10 // steps > (number - 1) * 10 // steps):
                self.console.note(f"{title}: step {number} of {steps}, loss {loss:.4f}")

        return step


class TerminalWatcher(Watcher):
    """Shows a training as `TrainingBars` do. Ctrl-C and SIGTERM save the run and stop at the next step.

    Args:
        console: Where it is shown.
        steps: How many outer steps there are; with 0, nothing is shown.
        title: What stands before the bar.
        notes: Whether ten notes stand for the bar where it cannot be shown.
        rows: Whether the rows of the metrics are printed as JSON.
        logs: TensorBoard's writers, which are closed at the end.
    """

    def __init__(
        self,
        console: Console,
        steps: int,
        title: str,
        *,
        notes: bool = True,
        rows: bool = False,
        logs: Sequence[Any] = (),
    ) -> None:
        self.stopping = False
        self.unprinted: OSError | None = None
        self.console = console
        self.rows = rows
        self.logs = list(logs)
        bars = TrainingBars(console, notes=notes)
        self.progress = bars.progress
        self.show_step = bars.add(title, steps)
        self.handlers: list[tuple[int, Any]] = []

    def __enter__(self) -> TerminalWatcher:
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
        with self._end_logs_on_error():
            for log in self.logs:
                log.close()
        if self.unprinted and error is None:
            raise self.unprinted
        if self.unprinted and isinstance(error, RunError):
            raise RunError(f"Output cannot be written: {self.unprinted.strerror}. {error}") from error

    def step(self, step: int, loss: float) -> None:
        """After every outer step."""
        self.show_step(step, loss)

    @contextmanager
    def _end_logs_on_error(self) -> Iterator[None]:
        """TensorBoard's log is a copy of the metrics: when it fails, it ends and training goes on."""
        try:
            yield
        except Exception as error:  # its writer is a thread that hands over whatever went wrong in it
            self.logs.clear()
            self.console.note(f"logging to TensorBoard ended: {error}", always=True)

    def row(self, row: dict[str, Any]) -> None:
        """With every row that goes into the metrics."""
        if self.rows:
            try:
                self.console.print_json(row)
            except OSError as error:  # the rows are in the run too; what was trained is saved before this is reported
                self.rows, self.unprinted, self.stopping = False, error, True
        if row["kind"] == "compile":
            found = [f"{1000 * row[key]:.2g}" for key in ("compiled_seconds", "eager_seconds") if key in row]
            why = f"{found[0]} ms a step compiled, {found[1]} ms not" if found else "the compiler refused"
            self.console.note(f"step {row['step']}: goes on {'' if row['compiled'] else 'un'}compiled ({why})")
        if row["kind"] == "way" and (timed := [way for way in WAYS if f"{way}_seconds" in row]):
            times = ", ".join(f"{WAYS[way]} {1000 * row[f'{way}_seconds']:.3g} ms" for way in timed)
            self.console.note(
                f"measured here, a step on its first tasks: {times}. The fastest is remembered for this net and "
                "machine. To choose yourself: --compute.backend"
            )
        probed = {f"probe/{row['name']}": row["value"]} if row["kind"] == "probe" else {}
        values = probed or {f"{row['kind']}/{name}": v for name, v in row.items() if name not in ("kind", "step")}
        with self._end_logs_on_error():
            for log in self.logs:
                for name, value in values.items():
                    if isinstance(value, float | int):
                        log.add_scalar(name, value, row["step"])


def open_tensorboard(folder: Path) -> list[Any]:
    """A TensorBoard writer in a list, or no writer where TensorBoard is not installed or cannot write."""
    try:
        from torch.utils.tensorboard import SummaryWriter

        return [SummaryWriter(str(folder))]
    except (ImportError, OSError):
        return []


def describe_pairs(pairs: Mapping[Any, object]) -> str:
    """Names with what belongs to each, such as the number of its examples.

    >>> describe_pairs({"cat": 5, "dog": 3})
    'cat 5, dog 3'
    """
    return ", ".join(f"{name} {value}" for name, value in pairs.items())


def describe_values(values: Mapping[str, Any]) -> str:
    """A task family's description in words.

    >>> describe_values({"name": "sine", "shots": 10, "phase": (0.0, 3.14159), "images": {"train": 6, "test": 4}})
    'sine: shots 10, phase 0 to 3.142, images (train 6, test 4)'
    """
    rest = [f"{key.replace('_', ' ')} {_format_value(value)}" for key, value in values.items() if key != "name"]
    return ": ".join(part for part in (str(values.get("name", "")), ", ".join(rest)) if part)


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({', '.join(f'{key} {_format_value(item)}' for key, item in value.items())})"
    if isinstance(value, list | tuple):
        return (" to " if len(value) == 2 else ", ").join(map(_format_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _stderr() -> rich.console.Console:
    from quickstudy.cli.rich_console import RichConsole

    return RichConsole(stderr=True, highlight=False, soft_wrap=True)
