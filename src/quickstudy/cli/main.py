"""The command line: verbs over run directories. Exit code 0 is done, 1 is failed, 2 is wrong usage or input.

    quickstudy demo                                    five methods on alphabets that they have not seen, a table
    quickstudy train sine-mtnet --train.steps 5000     a shipped configuration by name, or your own YAML file
    quickstudy train --resume runs/sine-mtnet          goes on where it stopped, bit for bit
    quickstudy sweep sine-maml --search.method.inner_lr log:0.001..0.5
    quickstudy evaluate runs/sine-mtnet --evaluate.tasks 5000
    quickstudy compare runs/sine-maml runs/sine-mtnet
    quickstudy report runs/sine-maml runs/sine-mtnet
    quickstudy adapt pets/ --from photos --out pets.model     teach it from a folder with a folder for each class
    quickstudy predict pets.model 'new/*.jpg'
    quickstudy data list                               which image sets are here, and how to get the others
    quickstudy bench                                   what a step costs here, beside other ways of computing it

Every setting of a configuration can be overridden as --key.sub value.
"""

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal

from quickstudy.cli.terminal import HANGUPS, Console
from quickstudy.cli.words import read_words
from quickstudy.errors import InputError, RunError


def run_command(args: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    words = list(sys.argv[1:] if args is None else args)
    _open_closed_streams()
    _end_on_hangup()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a ± gets a ?, not an error
            stream.reconfigure(errors="replace")
    try:
        code = _run(words)
        sys.stdout.flush()  # here, where a reader that has gone and a full disk can still be answered
        return code
    except (InputError, RunError, KeyboardInterrupt, OSError) as error:
        _report_error(error, as_json="--json" in words)
        return 2 if isinstance(error, InputError) else 1
    finally:
        _drop_unwritable("stdout")
        _drop_unwritable("stderr")


def _run(words: Sequence[str]) -> int:
    """Read the words and run the verb; the exit code."""
    parsed = read_words(words, about=__doc__)
    if parsed is None:
        return 0
    from quickstudy.cli.command import ImageCommand, SharedCommand, TrustingCommand

    verb, overrides = parsed
    if isinstance(verb, SharedCommand) and verb.workers != 1:
        from quickstudy.engine.launch import launch_workers, without_workers

        return launch_workers(verb.workers, without_workers(words))
    if isinstance(verb, TrustingCommand) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: package.module:factory is found, and a yaml.py there is not PyYAML
    with warnings.catch_warnings(), verb.use_data_root() if isinstance(verb, ImageCommand) else nullcontext():
        if isinstance(verb, SharedCommand) or _speaks():  # what workers do not share, the first one does alone
            console = Console(quiet=verb.quiet, json=verb.json)
            console.show_warnings()
            try:
                verb.run(console, overrides)
            except SystemExit as leaving:
                raise RunError(f"Code that the run uses has ended the program: sys.exit({leaving.code}).") from leaving
    return 0


def _end_on_hangup() -> None:
    """Let a terminal that is closed end this process as SIGTERM does, which saves what is under way.

    Under nohup it goes on.
    """
    for number in HANGUPS:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda received, frame: signal.raise_signal(signal.SIGTERM))


def _open_closed_streams() -> None:
    """Put a stream where the caller has closed one; otherwise the next file that is opened would get its number.

    What is written to standard error is lost then. Writing to standard output fails at the end, when the work is done.
    """
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))


def _speaks(error: BaseException | None = None) -> bool:
    """Whether this process is the one that tells the user; it is, unless it is one of several workers."""
    if "RANK" not in os.environ:
        return True
    from quickstudy.engine.distributed import is_reporting_worker

    return is_reporting_worker(error)


def _report_error(error: BaseException, *, as_json: bool) -> None:
    """Print one line on what went wrong, unless it is that the reader of our output has gone, as in `list | head`."""
    if isinstance(error, BrokenPipeError) or not _speaks(error):
        return
    message = str(error)
    if isinstance(error, KeyboardInterrupt):
        message = "Interrupted."
    elif isinstance(error, OSError) and error.errno == errno.EBADF:
        message = "Standard output is closed, so results cannot be printed. Redirect it to /dev/null instead."
    elif isinstance(error, OSError):  # without the name of a file it is about a stream
        message = f"{error.filename or 'Output cannot be written'}: {error.strerror or error}."
    Console(json=as_json).error(message)


def _drop_unwritable(name: Literal["stdout", "stderr"]) -> None:
    """Drop what is left in the buffer of a stream that cannot be written: Python would fail on it at exit."""
    stream = getattr(sys, name)
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        stream.flush()
