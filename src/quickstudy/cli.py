"""The command line: verbs over run directories. Exit code 0 is done, 1 is failed, 2 is wrong usage or input.

    quickstudy demo                                    four methods on handwritten digits, a table and a report
    quickstudy train sine-mtnet --train.steps 5000     a shipped configuration by name, or your own YAML file
    quickstudy train --resume runs/sine-mtnet          goes on where it stopped, bit for bit
    quickstudy evaluate runs/sine-mtnet --evaluate.tasks 5000
    quickstudy compare runs/sine-maml runs/sine-mtnet
    quickstudy report runs/sine-maml runs/sine-mtnet

Every setting of a configuration can be overridden as --key.sub value.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from quickstudy.errors import InputError, RunError
from quickstudy.terminal import error_line, note_warnings


@dataclass(frozen=True)
class Output:
    """How results are shown."""

    quiet: bool = False
    """Print results only: no progress, no notes."""
    json: bool = False
    """Print JSON instead of tables and progress, a line for each row or result."""


@dataclass(frozen=True)
class Demo(Output):
    """Train MAML, MT-net, Wormhole MAML and HyperMAML on real handwritten digits: a table and a report in minutes."""

    out: str | None = None
    """Directory for the runs and the report (default: runs/demo, or the next free number)."""
    seed: int = 0
    """Of the models' start and of the training tasks."""


@dataclass(frozen=True)
class List(Output):
    """List methods, models, tasks, configurations, protocols, charts and losses."""

    what: Positional[str | None] = None
    """One of them; all when left out."""


@dataclass(frozen=True)
class Train(Output):
    """Meta-train from a configuration into a run directory, or go on with a run."""

    config: Positional[str | None] = None
    """A YAML file, or the name of a configuration that ships (see `quickstudy list configurations`)."""
    out: str | None = None
    """The run directory (default: runs/NAME, or the next free number)."""
    resume: str | None = None
    """A run directory to go on with, from its last checkpoint."""
    print_config: bool = False
    """Print the configuration with nothing left unsaid, and stop."""
    tensorboard: bool = True
    """Also log to RUN/tensorboard, where TensorBoard is installed."""


@dataclass(frozen=True)
class Evaluate(Output):
    """Judge runs on fixed tasks: mean and 95% interval over tasks."""

    runs: Positional[tuple[str, ...]] = ()
    """Run directories."""
    checkpoint: str | None = None
    """`best` or `last` (default: best where there is one)."""
    protocol: str | None = None
    """finn, closerlook (600 tasks), hypermaml (5 x 600) or libfewshot (5 x 2000); default: evaluate.tasks, once."""
    name: str = "test"
    """Name of the result inside the run."""


@dataclass(frozen=True)
class Compare(Output):
    """Compare runs on identical tasks: the paired difference to the first, with its 95% interval."""

    runs: Positional[tuple[str, ...]] = ()
    """Two run directories or more; the first is the reference."""
    checkpoint: str | None = None
    """`best` or `last` (default: best where there is one)."""
    drop_unequal: bool = False
    """Leave out tasks on which only one of two diverged, instead of refusing."""


@dataclass(frozen=True)
class Report(Output):
    """Write one HTML page that opens offline, and its pictures as PNGs."""

    runs: Positional[tuple[str, ...]] = ()
    """Run directories."""
    out: str | None = None
    """Directory of the report (default: RUN/report for one run, runs/report for several)."""


@dataclass(frozen=True)
class Info(Output):
    """Show versions and devices, or what is in a run."""

    run: Positional[str | None] = None
    """A run directory."""


Verb = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)
OVERRIDABLE = (Train, Evaluate, Compare)


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    sys.path.insert(0, os.getcwd())  # package.module:factory finds the user's own files
    parsed: Any = tyro.cli(
        Verb,
        prog="quickstudy",
        description=__doc__,
        args=list(sys.argv[1:] if args is None else args),
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    verb, rest = parsed
    try:
        with warnings.catch_warnings():
            note_warnings(verb.quiet or verb.json)
            if rest and not isinstance(verb, OVERRIDABLE):
                raise InputError(
                    f"`{' '.join(rest)}` is not understood here. See `quickstudy {type(verb).__name__.lower()} --help`."
                )
            from quickstudy import commands  # torch takes a second to import; --help need not wait for it

            commands.run(verb, rest)
            return 0
    except InputError as error:
        error_line(error, verb.json)
        return 2
    except RunError as error:
        error_line(error, verb.json)
        return 1
    except KeyboardInterrupt:
        error_line("Interrupted.", verb.json)
        return 1
    except BrokenPipeError:  # the reader of our output has gone, as in `quickstudy list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
