"""`quickstudy sweep`: plan a study, work on it with one process or several, and show what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from quickstudy.cli.command import ConfigCommand, ConfigName, Flag, Folder, Name
from quickstudy.cli.side_by_side import run_side_by_side
from quickstudy.cli.terminal import Console, TerminalWatcher
from quickstudy.errors import InputError, RunError

if TYPE_CHECKING:
    from quickstudy.training.config import Setup
    from quickstudy.training.sweep.plan import SweepPlan, Trial
    from quickstudy.training.sweep.study import Study
    from quickstudy.training.watcher import Watcher

TRIALS_SHOWN = 10
"""Trials in the table; `--json` has all."""


@dataclass(frozen=True)
class Sweep(ConfigCommand):
    """Train with many settings and rank them by validation: an Optuna study that the same command goes on with."""

    config: ConfigName = None
    """A YAML file, or the name of a configuration that ships. What is searched is given by --search.key.sub RANGE, or
    under `search` in the file: log:1e-4..0.1, 0.1..0.9, int:1..5, maml,mtnet. Other settings are overridden by
    --key.sub value; --seed is also that of the sampling."""
    trials: int = 20
    """Total number of trials, including those of earlier commands."""
    workers: int = 1
    """Processes that run trials side by side."""
    out: Folder = None
    """Directory of the study and its runs (default: runs/NAME-sweep)."""
    storage: Annotated[str | None, arg(metavar="URL", help_behavior_hint="")] = None
    """Database of the study, which several machines can share (default: a journal in OUT)."""
    name: Name = None
    """Name of the study (default: that of the configuration)."""
    no_prune: Flag = False
    """Train every trial to the end, also those whose validation is worse than the median of the others."""

    @classmethod
    def settings(cls) -> list[str]:
        """The words that an override may begin with."""
        return [*super().settings(), "search"]

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Bring the study to its number of trials, and show them."""
        from quickstudy.training.sweep.plan import rank_trials
        from quickstudy.training.sweep.study import Study
        from quickstudy.training.train import StoppedError

        plan = self.with_trust(console, partial(self._plan, overrides))
        study = Study(plan)
        before = len(study.trials())
        console.note(f"sweep: {plan.folder}" + (f", which has {before} trials already" if before else ""))
        for key, values in plan.space.items():
            console.note(f"search: {key} {values}")
        stopped = False
        try:
            if self.workers == 1:
                study.work(
                    lambda number, setup: _watch_trial(number, setup, plan, console), _note_trials(study, console)
                )
            else:
                run_side_by_side(_work_on_trials, (plan,), self.workers, console)
        except (StoppedError, KeyboardInterrupt):
            stopped = True
        trials = study.trials()
        _show_study(plan, trials, console, stopped=stopped)
        if stopped:
            ended = sum(t.state in ("complete", "pruned", "failed") for t in trials)
            raise RunError(
                f"Stopped: {ended} of {plan.trials} trials have ended, and nothing is lost. The same command goes on."
            )
        if not rank_trials(trials, plan.larger_is_better) and not any(t.state == "running" for t in trials):
            raise RunError(f"None of {len(trials)} trials came to its end. {_first_failure(trials)}")

    def _plan(self, overrides: Sequence[str], trust: bool) -> SweepPlan:
        import torch

        from quickstudy.storage.files import to_plain, to_plain_or_text
        from quickstudy.training import config
        from quickstudy.training.config.overrides import apply_overrides
        from quickstudy.training.sweep.plan import SweepPlan, check_space
        from quickstudy.training.sweep.space import parse_space

        if self.config is None:
            raise InputError(
                f"Give a configuration to vary. Configurations that ship: {', '.join(config.shipped_configs())}."
            )
        for option, count in (("trials", self.trials), ("workers", self.workers)):
            if count < 1:
                raise InputError(f"`--{option}` was {count}; give 1 or more.")
        raw = config.read_config(self.config, trust)
        searched, others = _split_search(overrides)
        space = parse_space(raw.pop("search", None), searched)
        settings = apply_overrides(raw, others)
        setup = check_space(settings, space)
        name = Path(self.config).stem
        return SweepPlan(
            name=self.name or name,
            settings=to_plain_or_text(to_plain(settings)),
            space=space,
            folder=Path(self.out) if self.out else Path("runs") / f"{name}-sweep",
            trials=self.trials,
            storage=self.storage,
            prune=not self.no_prune,
            threads=max(1, torch.get_num_threads() // self.workers) if self.workers > 1 else None,
            metric=setup.metric.name,
            steps=setup.config.train.steps,
            trust=trust,
        )


def _split_search(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides that give ranges, and those that give values."""
    searched: list[str] = []
    others: list[str] = []
    rest = list(overrides)
    while rest:
        word = rest.pop(0)
        part = searched if word.partition("=")[0].partition(".")[0] == "--search" else others
        part += [word] if "=" in word else [word, rest.pop(0)]
    return searched, others


@contextmanager
def _watch_trial(number: int, setup: Setup, plan: SweepPlan, console: Console) -> Iterator[Watcher]:
    """A bar for one trial; in a file, the note at its end is enough."""
    title = f"trial {number} of {plan.trials}"
    with TerminalWatcher(console, setup.config.train.steps, title, notes=False) as watcher:
        yield watcher


def _note_trials(study: Study, console: Console) -> Callable[[Trial], None]:
    """A function that notes the result of every trial that ends, beside the best so far."""
    from quickstudy.training.sweep.plan import rank_trials

    def note(trial: Trial) -> None:
        if not console.talks:
            return
        first = rank_trials(study.trials(), study.plan.larger_is_better)[:1]
        best = f"; best {first[0].value:.4g}, of trial {first[0].number}" if first else ""
        result = f"{study.plan.metric} {trial.value:.4g}" if trial.value is not None else trial.state
        console.note(f"trial {trial.number}: {result}{f': {trial.error}' if trial.error else best}")

    return note


def _work_on_trials(watcher: Watcher, console: Console, plan: SweepPlan) -> None:
    """One of several processes."""
    from quickstudy.training.sweep.study import Study

    @contextmanager
    def watch(number: int, setup: Setup) -> Iterator[Watcher]:
        del number, setup
        yield watcher

    study = Study(plan)
    study.work(watch, _note_trials(study, console))


def _show_study(plan: SweepPlan, trials: Sequence[Trial], console: Console, *, stopped: bool) -> None:
    from quickstudy.training.sweep.plan import rank_trials

    ranked = rank_trials(trials, plan.larger_is_better)
    counts = dict(Counter(t.state for t in trials))
    picture, reason = _draw_study(plan, trials)
    if console.json:
        for t in trials:
            values = {key: value for key, value in vars(t).items() if key != "number"}
            console.print_json({"trial": t.number, "metric": plan.metric, **values})
        best = ranked[0].run if ranked else None
        console.print_json({"best": best, "states": counts, "plot": str(picture) if picture else None})
        return
    if ranked:
        rows = [(t.run, f"{t.value:.4g}", *(_format_cell(t.params.get(key)) for key in plan.space)) for t in ranked]
        states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        caption = f"{len(trials)} trials: {states}" + (
            f"; the best {TRIALS_SHOWN} are shown" if len(ranked) > TRIALS_SHOWN else ""
        )
        console.table("", ("run", f"validation {plan.metric}", *plan.space), rows[:TRIALS_SHOWN], caption)
    if not stopped and counts.get("running"):
        console.note(f"{counts['running']} trials are under way in other processes")
    if counts.get("failed") and ranked:
        console.note(_first_failure(trials))
    if picture:
        console.note(f"plot: {picture}")
    elif reason:
        console.note(f"no plot: {reason}")
    if ranked:
        console.note(f"next: quickstudy evaluate {quote(str(ranked[0].run))}")


def _draw_study(plan: SweepPlan, trials: Sequence[Trial]) -> tuple[Path | None, str]:
    """The path of the figure, or the reason why there is none."""
    from quickstudy.storage.files import explain_disk_errors, write_atomic
    from quickstudy.training.sweep.figure import draw_sweep

    try:
        drawn = draw_sweep(trials, plan.space, plan.metric, plan.larger_is_better)
    except InputError as missing:
        return None, str(missing)
    if drawn is None:
        return None, ""
    path = plan.folder / "values.png"
    with explain_disk_errors(path, "Free some space and run the same command again; the trials are intact."):
        write_atomic(path, drawn)
    return path, ""


def _format_cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _first_failure(trials: Sequence[Trial]) -> str:
    return next((f"Trial {t.number} failed: {t.error}" for t in trials if t.error), "")
