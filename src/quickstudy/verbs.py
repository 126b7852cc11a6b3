"""The verbs of the command line with their arguments: each docstring and comment below is what --help prints."""

from dataclasses import dataclass
from typing import Annotated

import tyro
from tyro.conf import Positional


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
