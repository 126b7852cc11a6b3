"""What each verb of the command line does."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from quickstudy.cli import command as verbs
from quickstudy.cli import terminal
from quickstudy.cli.commands import bench as bench_commands
from quickstudy.cli.commands import data as data_commands
from quickstudy.cli.commands import reproduce as reproduce_commands
from quickstudy.cli.commands import sweep as sweep_commands
from quickstudy.cli.commands.demo import demo
from quickstudy.cli.commands.info import info
from quickstudy.engine import allocator
from quickstudy.engine.distributed import ALONE, WorkerLost, World
from quickstudy.engine.engine import use_threads
from quickstudy.errors import InputError, RunError, suggest_nearest
from quickstudy.evaluation.dry_run import dry_run, first_tasks
from quickstudy.evaluation.evaluate import PROTOCOLS, Difference, Summary, compare, evaluate
from quickstudy.evaluation.metrics import METRICS
from quickstudy.methods.registry import METHODS
from quickstudy.methods.wormhole import CHARTS
from quickstudy.models import nets
from quickstudy.reports.report import format_amount, format_score, write_report
from quickstudy.rules import criteria
from quickstudy.storage.run import Run, free_path
from quickstudy.tasks import FAMILIES
from quickstudy.tasks.images.store import cache_root
from quickstudy.training import config
from quickstudy.training.config import Setup, schedule
from quickstudy.training.config.overrides import parse_overrides
from quickstudy.training.evaluate_run import evaluate_run
from quickstudy.training.init_from import find_start
from quickstudy.training.restore import restore
from quickstudy.training.train import check_training, train


def run(verb: Any, rest: Sequence[str], world: World = ALONE) -> None:
    """Do what a parsed verb says; `rest` are overrides of the configuration, `world` the workers that share it."""
    doers: dict[type, Callable[[Any, Sequence[str]], None]] = {
        verbs.Demo: lambda v, _: demo(v.out, v.seed, steps=v.steps, quiet=v.quiet, as_json=v.json),
        verbs.List: _list,
        verbs.Train: lambda v, r: _train(v, r, world),
        verbs.Sweep: sweep_commands.swept,
        verbs.Evaluate: lambda v, r: _evaluate(v, r, world),
        verbs.Compare: _compare,
        verbs.Report: _report,
        verbs.Info: info,
        verbs.Bench: lambda v, _: bench_commands.bench(v),
        verbs.Reproduce: lambda v, _: reproduce_commands.reproduce(v),
        verbs.DataList: lambda v, _: data_commands.listed(v),
        verbs.DataCheck: lambda v, _: data_commands.checked(v),
        verbs.DataPrepare: lambda v, _: data_commands.prepared(v),
    }
    doers[type(verb)](verb, rest)


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def _list(verb: verbs.List, rest: Sequence[str]) -> None:
    del rest
    every: dict[str, dict[str, str]] = {
        "methods": {name: _first_line(build) for name, build in METHODS.items()},
        "models": {name: _first_line(net) for name, net in nets.NETS.items()},
        "tasks": {name: _first_line(family) for name, family in FAMILIES.items()},
        "configurations": {
            name: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            for name, path in config.shipped_configs().items()
        },
        "protocols": {
            name: f"{p.tasks} tasks" + (f", {p.repeats} times over" if p.repeats > 1 else "")
            for name, p in PROTOCOLS.items()
        },
        "charts": dict(CHARTS),
        "losses": {name: _first_line(loss) for name, loss in criteria.CRITERIA.items()},
        "metrics": {name: _first_line(metric.measure) for name, metric in METRICS.items()},
        "suites": bench_commands.suites(),
    }
    if verb.what is not None and verb.what not in every:
        raise InputError(f"There is nothing called {verb.what!r} to list. {suggest_nearest(verb.what, every)}")
    chosen = {what: rows for what, rows in every.items() if verb.what in (None, what)}
    if verb.json:
        terminal.print_json(chosen)
        return
    for what, rows in chosen.items():
        terminal.listing(what, rows)


def _train(verb: verbs.Train, rest: Sequence[str], world: World) -> None:
    if (verb.config is None) == (verb.resume is None):
        raise InputError(
            "Give a configuration to start from, or --resume RUN to go on with a run. "
            f"Configurations that ship: {', '.join(config.shipped_configs())}."
        )
    if verb.resume is not None:
        if rest or verb.out is not None:
            raise InputError(
                f"A resumed run keeps its directory and its configuration, so `{' '.join(rest) or '--out'}` does not "
                "go with --resume. For other settings start a new run."
            )
        existing = _of_first(world, partial(Run.open, verb.resume))
        setup = world.agree(lambda: config.build(config.parse_config(existing.config)))
        if not verb.print_config and world.from_first(lambda: existing.reached(setup.config.train.steps)):
            if not (verb.quiet or verb.json):
                terminal.note(f"{existing.path} is finished: {setup.config.train.steps} steps are done.")
                _last_words(existing, setup.metric.name)
            _tested(verb, existing, world)
            return
    else:
        asked = world.from_first(lambda: config.load_config(str(verb.config), rest))
        with terminal.decoding(shown=world.first and not (verb.quiet or verb.json)) as decoded:
            setup = world.agree(lambda: config.build(asked, decoded))
    if verb.print_config:
        print(yaml.safe_dump(setup.config.model_dump(mode="json"), sort_keys=False), end="")
        return
    if verb.resume is None:
        world.agree(lambda: check_training(setup))
        if init := setup.config.init_from:  # refused here, before a directory is made
            begun = world.from_first(lambda: str(find_start(init, setup.learner, setup.named)))
            if not (verb.quiet or verb.json):
                terminal.note(f"start: {begun}")
        existing = _of_first(world, lambda: _created(verb, setup, world))
    _announce(setup, existing, verb)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "compiled"))  # torch's own is lost at a restart
    if setup.config.compute.recompute:
        allocator.return_freed_memory()
    steps = setup.config.train.steps
    logs = terminal.tensorboard(existing.path / "tensorboard") if world.first and not verb.no_tensorboard else []
    bar = not (verb.quiet or verb.json)
    with terminal.TerminalWatcher(steps, setup.config.method.name, bar=bar, rows=verb.json, logs=logs) as watcher:
        train(setup, existing, watcher, world)
    if not (verb.quiet or verb.json):
        _last_words(existing, setup.metric.name)
    _tested(verb, existing, world)


def _of_first(world: World, find: Callable[[], Run]) -> Run:
    """The run that the first worker finds or makes; the others know its place and settings, and leave it alone."""

    def place() -> tuple[Path, dict[str, Any]]:
        found = find()
        return found.path, found.config

    return Run(*world.from_first(place))


def _created(verb: verbs.Train, setup: Setup, world: World) -> Run:
    """A new run; after a restart by torchrun, the one that the same command had begun."""
    settings = setup.config.model_dump(mode="json")
    if world.restarts and not verb.out:
        raise InputError(
            "torchrun has started this anew, and without --out it cannot be told which run to go on with. Give --out "
            "RUN, or go on by hand with --resume RUN."
        )
    if world.restarts and (Path(str(verb.out)) / "config.yaml").is_file():
        begun = Run.open(str(verb.out))
        # Another run may have been in the way from the start: torchrun repeats also what was refused.
        if config.parse_config(begun.config).model_dump(mode="json") == settings:
            return begun
    return Run.create(Path(verb.out) if verb.out else free_path(Path("runs") / Path(str(verb.config)).stem), settings)


def _tested(verb: verbs.Train, run: Run, world: World) -> None:
    if verb.test:
        _evaluate(verbs.Evaluate(runs=(str(run.path),), quiet=verb.quiet, json=verb.json), (), world)
    elif not (verb.quiet or verb.json):
        terminal.note(f"next: quickstudy evaluate {run.path}")


def _announce(setup: Setup, run: Run, verb: verbs.Train) -> None:
    if verb.quiet or verb.json:
        return
    count = sum(p.numel() for p in setup.learner.meta_params().values())
    terminal.note(f"run: {run.path}")
    terminal.note(f"tasks: {terminal.described(setup.family.describe())}")
    for note in (note for note in setup.family.notes if " left out: " not in note):  # of those a warning has told
        terminal.note(f"data: {note}")
    terminal.note(f"learner: {setup.config.method.name}, {count} parameters, {setup.learner.norms}")
    if setup.learner.engine.compile:
        terminal.note("compiling: the first step takes a minute or so; a later run of the same kind, some seconds")
    asked = setup.config.train
    if asked.select_with == "final" and 0 < asked.steps < schedule.last_step(asked.schedules):
        terminal.note(
            f"a schedule ends at step {schedule.last_step(asked.schedules)}, after the last of {asked.steps} steps: no "
            "`best` is kept, and `last` is judged as if the schedule were over"
        )


def _last_words(run: Run, metric: str) -> None:
    rows = [row for row in run.metrics() if row["kind"] == "val"]
    if rows:
        last = rows[-1]
        shown = format_amount(last["metric"], last["interval"], metric) if last["finite"] else "every task diverged"
        terminal.note(f"validation at step {last['step']}: {metric} {shown}")


def _evaluate(verb: verbs.Evaluate, rest: Sequence[str], world: World) -> None:
    if not verb.runs:
        raise InputError("Give one or more run directories to evaluate.")
    if verb.protocol and any(keys == ["evaluate", "tasks"] for keys, _ in parse_overrides(rest)):
        raise InputError(
            "`--protocol` says how many tasks there are, and so does `--evaluate.tasks`. Give one of them."
        )
    summaries = []
    for path, run in [(path, _of_first(world, partial(Run.open, path))) for path in verb.runs]:
        with _named(path):
            summary = evaluate_run(run, verb.checkpoint, verb.protocol, rest, verb.name, world)
        summaries.append((path, summary))
        if verb.json:
            terminal.print_json({"run": path, **summary})
    if verb.json:
        return
    for path, summary in summaries:
        if not verb.quiet:
            terminal.note(f"{path}: {terminal.described(summary['data'])}; {summary['norms']}")
    rows = [
        (
            path,
            s["method"],
            format_score(s),
            f"{s['tasks']} of {s['split']}",
            s["hash"],
            f"{s['adapt_ms']:.2f}",
            s["checkpoint"],
        )
        for path, s in summaries
    ]
    kinds = "/".join(dict.fromkeys(s["metric"] for _, s in summaries))
    columns = ("run", "method", kinds, "tasks", "list", "adapt ms", "checkpoint")
    terminal.table("", columns, rows, "" if verb.quiet else f"±: {summaries[0][1]['spread']}")


def _compare(verb: verbs.Compare, rest: Sequence[str]) -> None:
    if len(verb.runs) < 2:
        raise InputError(f"Comparing takes two runs or more; {len(verb.runs)} given.")
    every: list[tuple[str, Setup, Summary]] = []
    for path, run in [(path, Run.open(path)) for path in verb.runs]:
        with _named(path):
            setup, _ = restore(run, verb.checkpoint, rest)
            on = setup.config.evaluate
            with use_threads(setup.config.compute.threads):
                dry_run(
                    setup.learner, setup.judged.of_split(on.split), first_tasks(setup.judged, on.split, seed=on.seed)
                )
                summary = evaluate(setup.learner, setup.judged, setup.metric, split=on.split, n=on.tasks, seed=on.seed)
        every.append((path, setup, summary))
    _, _, reference = every[0]
    pairs: list[tuple[str, Setup, Summary, Difference | None]] = [(*every[0], None)]
    pairs += [(*one, compare(reference, one[2], drop_unequal=verb.drop_unequal)) for one in every[1:]]
    if verb.json:
        for path, setup, summary, difference in pairs:
            gap = None if difference is None else vars(difference.spread) | {"left_out": difference.left_out}
            row = {"run": path, "method": setup.config.method.name, **vars(summary.spread), "hash": summary.hash}
            terminal.print_json(row | {"metric": summary.metric.name, "difference": gap})
        return
    rows = [
        (path, setup.config.method.name, str(s.spread), "reference" if d is None else _gap(d))
        for path, setup, s, d in pairs
    ]
    caption = f"{len(reference.values)} identical tasks, list {reference.hash}; ± is a 95% interval over tasks"
    name = reference.metric.name
    terminal.table("", ("run", "method", name, "paired difference"), rows, "" if verb.quiet else caption)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Several runs may be given: an error says whose it is."""
    try:
        yield
    except WorkerLost:
        raise
    except InputError as error:
        raise InputError(str(error) if path in str(error) else f"{path}: {error}") from error
    except RunError as error:
        raise RunError(str(error) if path in str(error) else f"{path}: {error}") from error


def _gap(difference: Difference) -> str:
    gap = difference.spread
    sure = "" if abs(gap.mean) > gap.interval else ", not distinguishable"
    lost = f", {difference.left_out} tasks left out" if difference.left_out else ""
    return f"{gap.mean:+.4g} ± {gap.interval:.2g}{sure}{lost}"


def _report(verb: verbs.Report, rest: Sequence[str]) -> None:
    del rest
    runs = [Run.open(path) for path in verb.runs]
    if not runs:
        raise InputError("Give one or more run directories to report on.")
    default = runs[0].path / "report" if len(runs) == 1 else free_path(Path("runs") / "report")
    page = write_report(runs, Path(verb.out) if verb.out else default)
    terminal.print_json({"report": str(page)}) if verb.json else print(page)
