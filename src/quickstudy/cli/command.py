"""What every verb of the command line is: a frozen dataclass with its options, and a `run` that does the work.

The docstring of a verb and of each of its options is what `--help` prints. Verbs import torch, and everything that
needs it, inside `run`, so `--help` and a mistyped word are answered at once.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeVar

from tyro.conf import Positional, arg

from quickstudy.cli import sources
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError, RunError
from quickstudy.storage.files import as_path

if TYPE_CHECKING:
    from quickstudy.engine.distributed import World
    from quickstudy.storage.run import Run

T = TypeVar("T")

# An empty `help_behavior_hint` leaves out "(default: None)": the text says what the default is.
Folder = Annotated[str | None, arg(metavar="DIRECTORY", help_behavior_hint="")]  # `words` reads a ~ in it
RunFolder = Annotated[str | None, arg(metavar="RUN", help_behavior_hint="")]
RunFolders = Annotated[Positional[tuple[str, ...]], arg(metavar="RUN ...", help_behavior_hint="")]
Flag = Annotated[bool, arg(help_behavior_hint="")]
Count = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Name = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
Names = Annotated[str | None, arg(metavar="NAMES", help_behavior_hint="")]
ConfigName = Positional[Annotated[str | None, arg(metavar="CONFIG", help_behavior_hint="")]]


@dataclass(frozen=True)
class Command(ABC):
    """One verb."""

    quiet: Flag = False
    """Print results only: no progress, no notes."""
    json: Flag = False
    """Print JSON instead of tables and progress, a line for each row or result."""

    @abstractmethod
    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Do what the verb says.

        Args:
            console: Where results, notes and progress are shown.
            overrides: `--key.sub value` words for the configuration; empty unless this is a `ConfigCommand`.
        """


@dataclass(frozen=True)
class Group:
    """A word that is followed by a verb of its own, as in `quickstudy data list`."""

    verbs: ClassVar[dict[str, str]] = {}
    """Its verbs, as in `commands.VERBS`."""


@dataclass(frozen=True)
class ImageCommand(Command):
    """A verb that reads image sets."""

    data_root: Folder = None
    """Directory with the image sets (default: QUICKSTUDY_DATA, or quickstudy in the user's data folder)."""

    makes_data_root: ClassVar[bool] = False

    @contextmanager
    def use_data_root(self) -> Iterator[None]:
        """Let `--data-root` stand for QUICKSTUDY_DATA. A run does not record where its pictures are."""
        if self.data_root is None:
            yield
            return
        root = as_path(self.data_root).absolute()
        if not root.is_dir() and not self.makes_data_root:
            raise InputError(
                f"--data-root: there is no directory {self.data_root}. Give the one that holds the image sets."
            )
        before = os.environ.get("QUICKSTUDY_DATA")
        os.environ["QUICKSTUDY_DATA"] = str(root)
        try:
            yield
        finally:
            os.environ.pop("QUICKSTUDY_DATA")
            if before is not None:
                os.environ["QUICKSTUDY_DATA"] = before


@dataclass(frozen=True)
class TrustingCommand(ImageCommand):
    """A verb that may have to run code of others, and does so only if the user allows it.

    Parts given as `package.module:factory` are also looked for in the current directory.
    """

    trust_code: Flag = False
    """Run code that a run or a model names as `package.module:factory`, although it was not made here."""

    def with_trust(self, console: Console, work: Callable[..., T]) -> T:
        """Call `work(trust=...)`. At a terminal the user is asked whether to trust, once for each configuration."""
        from quickstudy.storage.trust import remember
        from quickstudy.training.config import UntrustedCodeError

        try:
            return work(trust=self.trust_code)
        except UntrustedCodeError as error:
            if not console.confirm(f"{error.place} would run code that is not quickstudy's: {error.code}. Run it?"):
                raise
            remember(error.settings)
        return work(trust=True)


@dataclass(frozen=True)
class ConfigCommand(TrustingCommand):
    """A verb that builds from a configuration. It takes overrides as `--key.sub value`."""

    @classmethod
    def settings(cls) -> list[str]:
        """The words that an override may begin with."""
        return sources.read_fields("training.config.schema", "Config")


@dataclass(frozen=True)
class SharedCommand(ConfigCommand):
    """A verb whose work several processes can share."""

    workers: Annotated[int, arg(metavar="N", help_behavior_hint="")] = 1
    """Number of processes on this machine that share the tasks of each batch. For several machines: torchrun."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Join the other workers, if there are any. Only the first one prints."""
        from quickstudy.engine.distributed import join_world

        with join_world() as world, open(os.devnull, "w") as nowhere:
            own = console if world.first else Console(quiet=True)
            own.show_warnings()
            with nullcontext() if world.first else redirect_stdout(nowhere):
                self.run_worker(own, overrides, world)

    @abstractmethod
    def run_worker(self, console: Console, overrides: Sequence[str], world: World) -> None:
        """Do this worker's part of `run`."""


def share_run(world: World, find: Callable[[], Run]) -> Run:
    """Find or create a run on the first worker only; the others are told its directory and its configuration."""
    from quickstudy.storage.run import Run

    def find_on_first() -> tuple[Path, dict[str, object]]:
        run = find()
        return run.path, run.config

    return Run(*world.from_first(find_on_first))


@contextmanager
def name_run_in_errors(path: str) -> Iterator[None]:
    """Begin an error with the run that it is about: several may have been given."""
    from quickstudy.engine.distributed import WorkerLostError

    try:
        yield
    except WorkerLostError:
        raise
    except InputError as error:
        raise InputError(str(error) if path in str(error) else f"{path}: {error}") from error
    except RunError as error:
        raise RunError(str(error) if path in str(error) else f"{path}: {error}") from error
