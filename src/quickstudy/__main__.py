"""Where the command begins: `quickstudy` and `python -m quickstudy`, which `torchrun -m quickstudy` starts.

Importing torch takes seconds, in which Ctrl-C must end the command as quietly as it does later. A handler does it and
not an `except`: the libraries' own import code catches what is raised in it.
"""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """The command line as a program: Ctrl-C is answered in one line from the start; the exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a script's background ignores it, as we do
        signal.signal(signal.SIGINT, _interrupt)
    from quickstudy.cli import main as cli
    from quickstudy.engine.allocator import keep_freed_memory

    keep_freed_memory()
    code = cli.run_command()
    if signal.getsignal(signal.SIGINT) is _interrupt:  # all is done, and Python takes a moment to end
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Leave at once while something is imported; otherwise raise KeyboardInterrupt, as Python does."""
    del number
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            if os.environ.get("RANK", "0") == "0":  # of several workers, one says so
                os.write(2, b"error: Interrupted.\n")
            os._exit(1)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current directory, which `-m` puts first: a yaml.py that lies in it is not PyYAML
    sys.exit(main())
