"""What the command line shows: tables and results on standard output, progress, notes and errors on standard error."""

import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from quickstudy.storage.files import dumps
from quickstudy.training.watcher import Watcher

MANY = 1000
"""Pictures from which on decoding takes long enough to be told of."""


def error_line(error: object, as_json: bool) -> None:
    """One error, without a traceback."""
    if as_json:
        print_json({"error": str(error)})
    else:
        _stderr().print(Text.assemble(("error:", "bold red"), f" {error}"))


def note(text: str) -> None:
    """A remark beside the results."""
    _stderr().print(Text.assemble(("note:", "dim"), f" {text}"))


def _stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def described(values: Mapping[str, Any]) -> str:
    """What a task family says of itself, in words.

    >>> described({"name": "sine", "shots": 10, "phase": (0.0, 3.14159), "images": {"train": 6, "test": 4}})
    'sine: shots 10, phase 0 to 3.142, images (train 6, test 4)'
    """
    rest = [f"{key.replace('_', ' ')} {_worded(value)}" for key, value in values.items() if key != "name"]
    return ": ".join(part for part in (str(values.get("name", "")), ", ".join(rest)) if part)


def _worded(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({', '.join(f'{key} {_worded(item)}' for key, item in value.items())})"
    if isinstance(value, list | tuple):
        return (" to " if len(value) == 2 else ", ").join(map(_worded, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def note_warnings(quiet: bool) -> None:
    """Show the package's warnings as notes, each text once; other libraries' are not the user's to act on."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        del rest, more
        if category.__module__.startswith("quickstudy") and not quiet and str(message) not in said:
            said.add(str(message))
            note(str(message))

    warnings.showwarning = show


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> None:
    """A table on standard output, or a list where the terminal is too narrow for it."""
    shown = Table()
    for i, column in enumerate(columns):
        shown.add_column(column, justify="left" if i == 0 else "right")
    cells = [[str(cell) for cell in row] for row in rows]
    for row in cells:
        shown.add_row(*map(Text, row))
    out = Console(highlight=False, markup=False, emoji=False)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = max(out.width, 140)
    # Title and caption are lines of their own: as the table's, they would be cut to its width.
    if title:
        out.print(title)
    if out.measure(shown, options=out.options.update(max_width=10_000)).maximum <= out.width:
        out.print(shown)
    else:
        for first, *others in cells:
            out.print(first)
            for name, cell in zip(columns[1:], others, strict=True):
                out.print(f"  {name}: {cell}")
    if caption:
        out.print(caption)


def listing(title: str, rows: Mapping[str, Any]) -> None:
    """Names and what they mean, one to a line."""
    if title:
        print(title)
    width = max(map(len, rows), default=0)
    for name, meaning in rows.items():
        print(f"  {name:<{width}}  {meaning}")


@contextmanager
def progress(title: str, count: ProgressColumn, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, told how much of how much is done; nothing where standard error is a file or a pipe."""
    console = Console(stderr=True)
    left = (TextColumn("left"), TimeRemainingColumn())
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        count,
        *left,
        console=console,
        disable=not (shown and console.is_terminal),
        transient=True,
    ) as bar:
        task = bar.add_task(escape(title), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def decoding(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Told how many of how many pictures are decoded: a bar on a terminal, else a line, once they are more than few."""
    with ExitStack() as stack:
        bars: list[Callable[[int, int], None]] = []

        def decoded(done: int, total: int) -> None:
            if total < MANY or not shown:
                return
            if done == 1 or not bars:
                if not _stderr().is_terminal:
                    note(f"decoding {total} pictures, which is done once")
                bars.append(stack.enter_context(progress("decoding, once", MofNCompleteColumn(), shown=shown)))
            bars[-1](done, total)

        yield decoded


class TerminalWatcher(Watcher):
    """A progress bar with rate, loss and time left. Ctrl-C and a polite kill stop at the next step, saved.

    Where standard error is a file or a pipe, ten lines stand for the bar.
    """

    def __init__(self, steps: int, title: str, *, bar: bool, rows: bool, logs: Sequence[Any] = ()) -> None:
        self.stopping = False
        self.rows = rows
        self.logs = list(logs)
        self.steps, self.title = steps, title
        self.start: int | None = None
        console = _stderr()
        shown = bar and steps > 0
        self.lines = shown and not console.is_terminal
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
            disable=not shown or self.lines,
            refresh_per_second=4,
        )
        self.task = self.progress.add_task(escape(title), total=steps, loss="-", rate="")
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
        with self._logging():
            for log in self.logs:
                log.close()

    def step(self, step: int, loss: float) -> None:
        """After every outer step."""
        if self.start is None:  # a resumed run does not begin at 0, and its rate must not count what was done before
            self.start = step - 1
            self.progress.reset(self.task, total=self.steps, completed=self.start)
        speed = self.progress.tasks[0].speed
        rate = f"{speed:.1f} steps/s" if speed else ""
        self.progress.update(self.task, completed=step, loss=f"{loss:.4f}", rate=rate)
        if self.lines and (step == self.steps or step * 10 // self.steps > (step - 1) * 10 // self.steps):
            note(f"{self.title}: step {step} of {self.steps}, loss {loss:.4f}")

    @contextmanager
    def _logging(self) -> Iterator[None]:
        """TensorBoard's log is a copy of the metrics: when it fails, it ends and training goes on."""
        try:
            yield
        except Exception as error:  # its writer is a thread that hands over whatever it met
            self.logs.clear()
            note(f"logging to TensorBoard ended: {error}")

    def row(self, row: dict[str, Any]) -> None:
        """With every row that goes into the metrics."""
        if self.rows:
            print_json(row)
        probed = {f"probe/{row['name']}": row["value"]} if row["kind"] == "probe" else {}
        values = probed or {f"{row['kind']}/{name}": v for name, v in row.items() if name not in ("kind", "step")}
        with self._logging():
            for log in self.logs:
                for name, value in values.items():
                    if isinstance(value, float | int):
                        log.add_scalar(name, value, row["step"])


def tensorboard(folder: Path) -> list[Any]:
    """A TensorBoard writer in a list, or no writer where TensorBoard is not installed or cannot write."""
    try:
        from torch.utils.tensorboard import SummaryWriter

        return [SummaryWriter(str(folder))]
    except (ImportError, OSError):
        return []


def print_json(value: Any) -> None:
    """One JSON value on a line of standard output; NaN and infinities, which JSON lacks, as strings."""
    print(dumps(value), flush=True)
