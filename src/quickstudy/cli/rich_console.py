"""Rich's console, which leaves it to the caller when the reader of the output has gone."""

from typing import NoReturn

from rich.console import Console


class RichConsole(Console):
    """Rich's own ends the program then and sends standard output to nowhere, also where only a remark is lost."""

    def on_broken_pipe(self) -> NoReturn:
        """Called where a `BrokenPipeError` is handled, which goes on to the caller."""
        raise
