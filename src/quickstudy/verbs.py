"""The verbs of the command line with their arguments: each docstring and comment below is what --help prints."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

Folder = Annotated[str | None, arg(metavar="DIRECTORY", help_behavior_hint="")]
OneRun = Annotated[str | None, arg(metavar="RUN", help_behavior_hint="")]
Runs = Annotated[Positional[tuple[str, ...]], arg(metavar="RUN ...", help_behavior_hint="")]
Flag = Annotated[bool, arg(help_behavior_hint="")]
Name = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]


@dataclass(frozen=True)
class Output:
    """How results are shown."""

    quiet: Flag = False
    """Print results only: no progress, no notes."""
    json: Flag = False
    """Print JSON instead of tables and progress, a line for each row or result."""


@dataclass(frozen=True)
class Demo(Output):
    """Train MAML, MT-net, Wormhole MAML and HyperMAML on real drawings: a table and a report in minutes."""

    out: Folder = None
    """Directory for the runs and the report (default: runs/demo, or the next free number)."""
    seed: int = 0
    """Of the models' start and of the training tasks."""
    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Train at most so many steps each and judge on 100 tasks, for a quick look at the output."""


@dataclass(frozen=True)
class List(Output):
    """List methods, models, tasks, configurations, protocols, charts and losses."""

    what: Positional[Annotated[str | None, arg(metavar="WHAT", help_behavior_hint="")]] = None
    """One of them; all when left out."""


@dataclass(frozen=True)
class Train(Output):
    """Meta-train from a configuration into a run directory, or go on with a run."""

    config: Positional[Annotated[str | None, arg(metavar="CONFIG", help_behavior_hint="")]] = None
    """A YAML file, or the name of a configuration that ships (see `quickstudy list configurations`). Its settings are
    overridden by --key.sub value: --train.steps 5000, --method mtnet, --model.hidden [40,40]."""
    out: Folder = None
    """The run directory (default: runs/NAME, or the next free number)."""
    resume: OneRun = None
    """A run directory to go on with, from its last checkpoint."""
    print_config: Flag = False
    """Print the configuration with nothing left unsaid, and stop."""
    no_tensorboard: Flag = False
    """Leave out the log in RUN/tensorboard, which is written where TensorBoard is installed."""


@dataclass(frozen=True)
class Evaluate(Output):
    """Judge runs on fixed tasks: mean and 95% interval over tasks."""

    runs: Runs = ()
    """Run directories. What is judged is changed by --key.sub value: --evaluate.tasks 5000, --tasks.shots 5,
    --method.eval_inner_steps 10."""
    checkpoint: Name = None
    """`best` or `last` (default: best where there is one)."""
    protocol: Name = None
    """finn, closerlook (600 tasks), hypermaml (5 x 600) or libfewshot (5 x 2000); default: evaluate.tasks, once."""
    name: str = "test"
    """Name of the result inside the run."""


@dataclass(frozen=True)
class Compare(Output):
    """Compare runs on identical tasks: the paired difference to the first, with its 95% interval."""

    runs: Runs = ()
    """Two run directories or more; the first is the reference. What is judged is changed by --key.sub value:
    --evaluate.tasks 5000."""
    checkpoint: Name = None
    """`best` or `last` (default: best where there is one)."""
    drop_unequal: Flag = False
    """Leave out tasks on which only one of two diverged, instead of refusing."""


@dataclass(frozen=True)
class Report(Output):
    """Write one HTML page that opens offline, and its pictures as PNGs."""

    runs: Runs = ()
    """Run directories."""
    out: Folder = None
    """Directory of the report (default: RUN/report for one run, runs/report for several)."""


@dataclass(frozen=True)
class Info(Output):
    """Show versions and devices, or what is in a run."""

    run: Positional[OneRun] = None
    """A run directory."""


VERBS: dict[str, type[Output]] = {
    "demo": Demo,
    "list": List,
    "train": Train,
    "evaluate": Evaluate,
    "compare": Compare,
    "report": Report,
    "info": Info,
}
POSITIONAL = ("config", "run", "runs", "what")
OVERRIDABLE = (Train, Evaluate, Compare)
