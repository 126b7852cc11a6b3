"""What `quickstudy sweep` does: plan, work with one process or several, and show what was found."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from quickstudy.cli import command as verbs
from quickstudy.cli import terminal
from quickstudy.cli.side_by_side import side_by_side
from quickstudy.errors import InputError, RunError
from quickstudy.storage.files import explain_disk_errors, to_plain, to_plain_or_text, write_atomic
from quickstudy.training import config
from quickstudy.training.config import Setup
from quickstudy.training.config.overrides import apply_overrides
from quickstudy.training.sweep import figure as sweep_figures
from quickstudy.training.sweep.plan import SweepPlan, Trial, rank_trials, try_ends
from quickstudy.training.sweep.space import parse_space
from quickstudy.training.sweep.study import Study
from quickstudy.training.train import Stopped
from quickstudy.training.watcher import Watcher

SHOWN = 10
"""Trials in the table; `--json` has all."""


def swept(verb: verbs.Sweep, rest: Sequence[str]) -> None:
    """Bring a study to its number of trials, and show them."""
    plan = _planned(verb, rest)
    study = Study(plan)
    loud = not (verb.quiet or verb.json)
    if loud:
        before = len(study.tried())
        terminal.note(f"sweep: {plan.folder}" + (f", which has {before} trials already" if before else ""))
        for key, over in plan.space.items():
            terminal.note(f"search: {key} {over}")
    stopped = False
    try:
        if verb.workers == 1:
            study.work(lambda number, setup: _watcher(number, setup, plan, loud), _teller(study, loud))
        else:
            side_by_side(_worker, (plan, loud), verb.workers, loud=loud)
    except (Stopped, KeyboardInterrupt):
        stopped = True
    tried = study.tried()
    _show(verb, plan, tried, stopped=stopped)
    if stopped:
        ended = sum(t.state in ("complete", "pruned", "failed") for t in tried)
        raise RunError(
            f"Stopped: {ended} of {plan.trials} trials have ended, and nothing is lost. The same command goes on."
        )
    if not rank_trials(tried, plan.larger_is_better) and not any(t.state == "running" for t in tried):
        raise RunError(f"None of {len(tried)} trials came to its end. {_first_failure(tried)}")


def _planned(verb: verbs.Sweep, rest: Sequence[str]) -> SweepPlan:
    if verb.config is None:
        raise InputError(
            f"Give a configuration to vary. Configurations that ship: {', '.join(config.shipped_configs())}."
        )
    for option, count in (("trials", verb.trials), ("workers", verb.workers)):
        if count < 1:
            raise InputError(f"`--{option}` was {count}; give 1 or more.")
    raw = config.read_config(verb.config)
    searched, others = _parted(rest)
    over = parse_space(raw.pop("search", None), searched)
    settings = apply_overrides(raw, others)
    setup = try_ends(settings, over)
    name = Path(verb.config).stem
    return SweepPlan(
        name=verb.name or name,
        settings=to_plain_or_text(to_plain(settings)),
        space=over,
        folder=Path(verb.out) if verb.out else Path("runs") / f"{name}-sweep",
        trials=verb.trials,
        storage=verb.storage,
        prune=not verb.no_prune,
        threads=max(1, torch.get_num_threads() // verb.workers) if verb.workers > 1 else None,
        metric=setup.metric.name,
        steps=setup.config.train.steps,
    )


def _parted(rest: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides that give ranges, and those that give values."""
    parts: tuple[list[str], list[str]] = ([], [])
    rest = list(rest)
    while rest:
        word = rest.pop(0)
        own = parts[0] if word.partition("=")[0].partition(".")[0] == "--search" else parts[1]
        own += [word] if "=" in word else [word, rest.pop(0)]
    return parts


@contextmanager
def _watcher(number: int, setup: Setup, plan: SweepPlan, loud: bool) -> Iterator[Watcher]:
    title = f"trial {number} of {plan.trials}"
    bar = loud and sys.stderr.isatty()  # in a file, a line for each trial is enough
    with terminal.TerminalWatcher(setup.config.train.steps, title, bar=bar, rows=False) as watcher:
        yield watcher


def _teller(study: Study, loud: bool) -> Any:
    def tell(ended: Trial) -> None:
        if not loud:
            return
        first = rank_trials(study.tried(), study.plan.larger_is_better)[:1]
        lead = f"; best {first[0].value:.4g}, of trial {first[0].number}" if first else ""
        said = f"{study.plan.metric} {ended.value:.4g}" if ended.value is not None else ended.state
        terminal.note(f"trial {ended.number}: {said}{f': {ended.error}' if ended.error else lead}")

    return tell


def _worker(watcher: Watcher, plan: SweepPlan, loud: bool) -> None:
    @contextmanager
    def watching(number: int, setup: Setup) -> Iterator[Watcher]:
        del number, setup
        yield watcher

    study = Study(plan)
    study.work(watching, _teller(study, loud))


def _show(verb: verbs.Sweep, plan: SweepPlan, tried: Sequence[Trial], *, stopped: bool) -> None:
    ranked = rank_trials(tried, plan.larger_is_better)
    counts = dict(Counter(t.state for t in tried))
    picture, why = _drawn(plan, tried)
    if verb.json:
        for t in tried:
            terminal.print_json(
                {"trial": t.number, "metric": plan.metric, **{k: v for k, v in vars(t).items() if k != "number"}}
            )
        found = ranked[0].run if ranked else None
        terminal.print_json({"best": found, "states": counts, "plot": str(picture) if picture else None})
        return
    told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    if ranked:
        rows = [(t.run, f"{t.value:.4g}", *(_cell(t.params.get(key)) for key in plan.space)) for t in ranked[:SHOWN]]
        caption = f"{len(tried)} trials: {told}" + (f"; the best {SHOWN} are shown" if len(ranked) > SHOWN else "")
        terminal.table("", ("run", f"validation {plan.metric}", *plan.space), rows, "" if verb.quiet else caption)
    if verb.quiet:
        return
    if not stopped and counts.get("running"):
        terminal.note(f"{counts['running']} trials are under way in other processes")
    if counts.get("failed") and ranked:
        terminal.note(_first_failure(tried))
    if picture:
        terminal.note(f"plot: {picture}")
    elif why:
        terminal.note(f"no plot: {why}")
    if ranked:
        terminal.note(f"next: quickstudy evaluate {ranked[0].run}")


def _drawn(plan: SweepPlan, tried: Sequence[Trial]) -> tuple[Path | None, str]:
    """Where the figure is, or why there is none."""
    try:
        drawn = sweep_figures.draw_values(tried, plan.space, plan.metric, plan.larger_is_better)
    except InputError as missing:
        return None, str(missing)
    if drawn is None:
        return None, ""
    path = plan.folder / "values.png"
    with explain_disk_errors(path, "Free some space and run the same command again; the trials are intact."):
        write_atomic(path, drawn)
    return path, ""


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _first_failure(tried: Sequence[Trial]) -> str:
    return next((f"Trial {t.number} failed: {t.error}" for t in tried if t.error), "")
