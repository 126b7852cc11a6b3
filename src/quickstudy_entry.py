"""Where the `quickstudy` command begins: outside the package, because importing the package imports torch.

That takes seconds, in which Ctrl-C must end the command as quietly as it does later. A handler, not an `except`: the
libraries' own import code catches what is raised in it.
"""

import os
import signal
from types import FrameType


def main() -> int:
    """The command line, with Ctrl-C answered in one line from the start; the exit code."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # ignored in the background of a script
    if heeded:
        signal.signal(signal.SIGINT, _leave)
    from quickstudy.cli import main as cli
    from quickstudy.engine import allocator

    allocator.keep_freed_memory()
    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return cli.main()


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once: nothing has been begun that would have to be put away."""
    del number, frame
    os.write(2, b"error: Interrupted.\n")
    os._exit(1)
