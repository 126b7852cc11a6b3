"""The verbs of the command line with their arguments: each docstring and comment below is what --help prints."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

Folder = Annotated[str | None, arg(metavar="DIRECTORY", help_behavior_hint="")]
OneRun = Annotated[str | None, arg(metavar="RUN", help_behavior_hint="")]
Runs = Annotated[Positional[tuple[str, ...]], arg(metavar="RUN ...", help_behavior_hint="")]
Flag = Annotated[bool, arg(help_behavior_hint="")]
Workers = Annotated[int, arg(metavar="N", help_behavior_hint="")]
Name = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]


@dataclass(frozen=True)
class Output:
    """How results are shown."""

    quiet: Flag = False
    """Print results only: no progress, no notes."""
    json: Flag = False
    """Print JSON instead of tables and progress, a line for each row or result."""


@dataclass(frozen=True)
class Reading(Output):
    """What reads image sets."""

    data_root: Folder = None
    """Directory with the image sets (default: QUICKSTUDY_DATA, or quickstudy in the user's data folder)."""


@dataclass(frozen=True)
class Demo(Reading):
    """Train MAML, MT-net, Wormhole MAML and HyperMAML on real drawings: a table and a report in minutes."""

    out: Folder = None
    """Directory for the runs and the report (default: runs/demo, or the next free number)."""
    seed: int = 0
    """Of the models' start and of the training tasks."""
    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Train at most so many steps each and judge on 100 tasks, for a quick look at the output."""


@dataclass(frozen=True)
class List(Output):
    """List methods, models, tasks, configurations, protocols, charts, losses and the benchmark's suites."""

    what: Positional[Annotated[str | None, arg(metavar="WHAT", help_behavior_hint="")]] = None
    """One of them; all when left out."""


@dataclass(frozen=True)
class Train(Reading):
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
    test: Flag = False
    """When training is done, evaluate the run as `quickstudy evaluate` does."""
    no_tensorboard: Flag = False
    """Leave out the log in RUN/tensorboard, which is written where TensorBoard is installed."""
    workers: Workers = 1
    """Share each meta-batch among so many processes on this machine. For several machines: torchrun."""


@dataclass(frozen=True)
class Sweep(Reading):
    """Train with many settings, judged by validation: an Optuna study that the same command goes on with."""

    config: Positional[Annotated[str | None, arg(metavar="CONFIG", help_behavior_hint="")]] = None
    """A YAML file, or the name of a configuration that ships. What is searched is given by --search.key.sub RANGE, or
    under `search` in the file: log:1e-4..0.1, 0.1..0.9, int:1..5, maml,mtnet. Other settings are overridden by
    --key.sub value; --seed is also that of the sampling."""
    trials: int = 20
    """Trials in all, with those that an earlier command began."""
    workers: int = 1
    """Processes that do trials side by side."""
    out: Folder = None
    """Directory of the study and its runs (default: runs/NAME-sweep)."""
    storage: Annotated[str | None, arg(metavar="URL", help_behavior_hint="")] = None
    """Database of the study, which several machines can share (default: sqlite:///OUT/study.db)."""
    name: Name = None
    """Name of the study (default: that of the configuration)."""
    no_prune: Flag = False
    """Train every trial to the end, also those whose validation is worse than the median of the others."""


@dataclass(frozen=True)
class Evaluate(Reading):
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
    workers: Workers = 1
    """Share the tasks among so many processes on this machine. For several machines: torchrun."""


@dataclass(frozen=True)
class Compare(Reading):
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
class Info(Reading):
    """Show versions and devices, what is in a run, or what memory a configuration would take."""

    run: Positional[Annotated[str | None, arg(metavar="RUN_OR_CONFIG", help_behavior_hint="")]] = None
    """A run directory; or a YAML file or the name of a configuration that ships, with --key.sub value overrides."""


@dataclass(frozen=True)
class Bench(Output):
    """Measure this library beside the same methods by hand and beside other libraries, on this machine.

    Every contender has a process of its own and a turn in every round; a ratio is the median over rounds, with the
    lowest and the highest. `plain` is torch.autograd.grad in a loop over tasks, with torch's default threads and
    allocator. Nobody is timed whose float64 meta-gradient differs. Rates count the loop's multiplications and
    additions, against what a large product and a 3x3 convolution reach here. Close other programs first.
    """

    suite: Positional[Annotated[str | None, arg(metavar="SUITE", help_behavior_hint="")]] = None
    """sine, omniglot, mini, hypermaml, memory, workers, sweep-steps, sweep-tasks, sweep-shots, targets, all, or smoke
    (one small case); by default quick: a selection in about two minutes."""
    rounds: int = 5
    """Turns of each contender."""
    seconds: float = 6.0
    """For the rounds of one case, all contenders together; what compiles or warms up comes on top."""
    methods: Annotated[str | None, arg(metavar="NAMES", help_behavior_hint="")] = None
    """Only these, with commas: maml,mtnet,wormhole,hypermaml."""
    cases: Annotated[str | None, arg(metavar="PATTERN", help_behavior_hint="")] = None
    """Only cases whose name, as it is printed, matches: "mini64*train", "*T32*"."""
    peers: Annotated[str | None, arg(metavar="NAMES", help_behavior_hint="")] = None
    """Other libraries, with commas: higher,torchopt,learn2learn,jax, or none (default: all that are installed; get the
    first two by: pip install "quickstudy[peers]")."""
    out: Folder = None
    """Directory for bench.json and, with quickstudy[plot], pictures of cost against tasks, steps and shots."""


@dataclass(frozen=True)
class Reproduce(Reading):
    """Run a table or a figure of a paper, and show it beside what the paper reports.

    Trainings are cached by what they are and resume; two commands, or two items, share them. `reproduce PAPER` writes
    the page of all that was run, `reproduce PAPER all` runs everything.
    """

    paper: Positional[Annotated[str | None, arg(metavar="PAPER", help_behavior_hint="")]] = None
    """mtnet, wormhole, hypermaml, or beyond: questions that the papers leave open."""
    item: Positional[Annotated[str | None, arg(metavar="ITEM", help_behavior_hint="")]] = None
    """A table or figure, such as table-6.1 (see --list), or all."""
    list: Flag = False
    """Show every item: its rows, what it costs at each scale, the image sets it needs."""
    rows: Annotated[str | None, arg(metavar="NAMES", help_behavior_hint="")] = None
    """Only these rows, with commas (see `reproduce PAPER ITEM --list`)."""
    scale: str = "quick"
    """smoke (seconds: only that it works), quick (minutes: what is large) or full (the paper's budget)."""
    seeds: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Trainings of each row (default: the scale's)."""
    workers: int = 1
    """Processes that train rows side by side."""
    out: Folder = None
    """Directory of trainings, results and pages (default: reproductions)."""


@dataclass(frozen=True)
class Data(Output):
    """Image sets: list them, check one, download one."""


@dataclass(frozen=True)
class DataList(Reading):
    """List the image sets: which are here, their splits, and how to get the others."""


@dataclass(frozen=True)
class DataCheck(Reading):
    """Look through an image set or a folder of pictures: classes, sizes, duplicates, what cannot be read."""

    source: Positional[Annotated[str | None, arg(metavar="NAME_OR_PATH", help_behavior_hint="")]] = None
    """A set by name (see `quickstudy data list`), or a folder, archive or csv of your own."""
    all: Flag = False
    """Name every unreadable file and every duplicate, not the first ten."""


@dataclass(frozen=True)
class DataPrepare(Reading):
    """Download an image set into the data root, with its hashes checked."""

    image_set: Positional[Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]] = None
    """A set by name (see `quickstudy data list`)."""
    yes: Flag = False
    """Do not ask before downloading."""


VERBS: dict[str, type[Output]] = {
    "demo": Demo,
    "list": List,
    "train": Train,
    "sweep": Sweep,
    "evaluate": Evaluate,
    "compare": Compare,
    "report": Report,
    "info": Info,
    "bench": Bench,
    "reproduce": Reproduce,
    "data": Data,
}
GROUPS: dict[str, dict[str, type[Output]]] = {
    "data": {"list": DataList, "check": DataCheck, "prepare": DataPrepare},
}
"""Verbs that are followed by a verb of their own."""
POSITIONAL = ("config", "run", "runs", "what", "source", "image_set", "suite", "paper", "item")
OVERRIDABLE = (Train, Sweep, Evaluate, Compare, Info)
SHARED = (Train, Evaluate)
"""What several workers do together."""
