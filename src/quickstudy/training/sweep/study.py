"""Sweeps: many training runs with drawn settings, compared by validation, in one Optuna study.

    sweep/  journal.log  values.png  trials/{0000,0001,...}, each a run like any other

What a trial draws depends on the seed, on its number and on the trials that ended before it: its sampler is seeded by
the first two. So a sweep with one worker that is stopped and continued finds the same as one that was not stopped.

Each process holds a lock of the operating system on the trial that it works at. If the process ends in any way, the
lock is free, and the trial is still `running` in the study. The next process that looks for work takes such a trial up
from the last checkpoint of its run. It takes up only trials that were begun in its own directory, because it cannot see
whether the processes of another machine are alive.

Optuna draws, prunes and keeps the study. Written here are the lock on a trial, because Optuna's own way to find
abandoned trials (a heartbeat) works with databases only and waits for minutes, and the lock on the study, because
Optuna's lock on a journal stays for half a minute after its process was killed.
"""

import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from pydantic import ValidationError

from quickstudy.errors import InputError, RunError
from quickstudy.storage.files import (
    check_lock,
    explain_disk_errors,
    open_file,
    read_file,
    refuse_link,
    to_plain_or_text,
)
from quickstudy.storage.records import first_fault
from quickstudy.storage.run import Run
from quickstudy.training import config
from quickstudy.training.config import Setup
from quickstudy.training.progress import read_progress
from quickstudy.training.restore import rebuild
from quickstudy.training.sweep.plan import SweepPlan, Trial
from quickstudy.training.sweep.space import Range, Space, as_overrides
from quickstudy.training.train import StoppedError, train
from quickstudy.training.watcher import Watcher

if TYPE_CHECKING:
    import optuna

COMPLETE_BEFORE_PRUNING = 5
"""No trial is pruned before so many are complete: the median of fewer says little."""

SQLITE_TIMEOUT = 60.0
"""Seconds that SQLite waits while another program writes."""

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


class _StorageError(RunError):
    """The study could not be read or written. This is no failure of a trial."""


class Study:
    """The study of a plan, created or opened."""

    def __init__(self, plan: SweepPlan) -> None:
        self.plan = plan
        self.optuna = _import_optuna()
        self.home = f"{platform.node()}:{plan.folder.resolve()}"
        if (plan.folder / "config.yaml").is_file():
            raise InputError(f"{plan.folder} is a run, and a sweep holds many. Give another directory by --out.")
        with explain_disk_errors(plan.folder, "Give a directory that can be made and written: --out DIRECTORY."):
            refuse_link(plan.folder / "trials", plan.folder).mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(plan.folder / ".lock")
        self._distributions = self._make_distributions(plan.space)
        with self._locked():
            self.study = self._open()
            self._check_same_settings()

    @property
    def place(self) -> str:
        """Where the study is, without passwords."""
        return _hide_password(self.plan.url or str(self.plan.journal))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process of this machine at a time use the study; explain errors of its storage."""
        try:
            check_lock(self.plan.folder / ".lock")
            with self._lock:
                if self.plan.url is None:
                    _remove_half_line(self.plan.journal)
                yield
        except (InputError, RunError):
            raise
        except Exception as error:  # what Optuna raises over a journal that parses depends on what the journal holds
            said = first_fault(error) if isinstance(error, ValidationError) else str(error.__cause__ or error)
            cause = said.strip().partition("\n")[0]
            raise _StorageError(
                f"The study at {self.place} could not be read or written: {cause}. No finished trial is lost; run the "
                "same command again."
            ) from error

    def _open(self) -> Any:
        optuna, plan = self.optuna, self.plan
        # All trainings are alike in their first tenth, so nothing is pruned there.
        median = optuna.pruners.MedianPruner(n_startup_trials=COMPLETE_BEFORE_PRUNING, n_warmup_steps=plan.steps // 10)
        return optuna.create_study(
            study_name=plan.name,
            storage=self._open_journal() if plan.url is None else self._open_database(plan.url),
            pruner=median if plan.prune else optuna.pruners.NopPruner(),
            direction="maximize" if plan.larger_is_better else "minimize",
            load_if_exists=True,
        )

    def _open_journal(self) -> Any:
        # The lock is our own, which the process already holds here: it is free as soon as a process ends.
        backend = self.optuna.storages.journal.JournalFileBackend(str(self.plan.journal), lock_obj=self._lock)
        return self.optuna.storages.JournalStorage(backend)

    def _open_database(self, url: str) -> Any:
        from sqlalchemy.exc import ArgumentError

        options = {"connect_args": {"timeout": SQLITE_TIMEOUT}} if url.startswith("sqlite") else {}
        try:
            return self.optuna.storages.RDBStorage(url, engine_kwargs=options)
        except (ImportError, ArgumentError, RuntimeError) as error:  # RuntimeError: tables of another Optuna version
            cause = str(error).partition("\n")[0]
            raise InputError(
                f"--storage {self.place} cannot be used: {cause} Give a database's URL, such as sqlite:///sweep.db or "
                "postgresql://host/name, whose driver is installed."
            ) from error

    def _check_same_settings(self) -> None:
        """Write the settings into a new study. Refuse a study of other settings: its values cannot be compared."""
        asked = {
            "settings": to_plain_or_text(self.plan.settings),
            "search": {key: str(dimension) for key, dimension in self.plan.space.items()},
        }
        before = self.study.user_attrs.get("asked")
        if before is None and not self.study.get_trials(deepcopy=False):
            self.study.set_user_attr("asked", asked)
        elif before != asked:
            raise InputError(
                f"The study {self.plan.name!r} at {self.place} was begun with "
                f"{_describe_differences(before or {}, asked)}. Go on with the same command, or begin another study by "
                "another --out."
            )

    def trials(self) -> list[Trial]:
        """Every trial so far, by number."""
        with self._locked():
            return [self._to_trial(frozen) for frozen in self.study.get_trials(deepcopy=False)]

    def _to_trial(self, frozen: "optuna.trial.FrozenTrial") -> Trial:
        state = STATES[frozen.state.name]
        if state == "complete" and (unsaid := self.plan.space.keys() - frozen.params):
            raise ValueError(f"trial {frozen.number} is complete and does not say its {', '.join(sorted(unsaid))}")
        value = frozen.value if state == "complete" else None
        home = self.plan.folder if self._is_begun_here(frozen) else frozen.user_attrs.get("home", "elsewhere")
        run = f"{home}/trials/{frozen.number:04d}"
        return Trial(frozen.number, state, value, self._to_sample(frozen.params), frozen.user_attrs.get("error"), run)

    def _to_sample(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Settings by path. The study has a text in place of each value of a choice."""
        space = self.plan.space
        for key, value in params.items():
            if isinstance(space.get(key), Range) and not isinstance(value, int | float):
                raise ValueError(f"{key} was drawn as {value!r}, which is no number")
        return {
            key: params[key] if isinstance(dimension, Range) else dimension.labels[params[key]]
            for key, dimension in space.items()
            if key in params
        }

    def _trial_folder(self, number: int) -> Path:
        return self.plan.folder / "trials" / f"{number:04d}"

    def work(
        self, watching: Callable[[int, Setup], AbstractContextManager[Watcher]], tell: Callable[[Trial], None]
    ) -> None:
        """Do trials until the study has as many as planned, counting those of other processes.

        Args:
            watching: Makes the watcher of a trial, from its number and its setup.
            tell: Called with each trial that has ended.
        """
        while (claim := self._claim()) is not None:
            trial, sample, lock = claim
            try:
                stopped = self._run(trial, sample, watching)
            finally:
                lock.release()
            with self._locked():
                ended = self._to_trial(self.study.get_trials(deepcopy=False)[trial.number])
            tell(ended)
            if stopped:
                raise StoppedError(f"Stopped after trial {trial.number}.")

    def _claim(self) -> "tuple[optuna.Trial, dict[str, Any], FileLock] | None":
        """An abandoned trial, or else a new one, with its settings and the lock on it; None if there are enough."""
        with self._locked():
            trials = self.study.get_trials(deepcopy=False)
            for frozen in trials:
                if frozen.state.name == "RUNNING" and self._is_begun_here(frozen):
                    lock = self._lock_trial(frozen.number)
                    if lock is not None:
                        trial = self._reopen(frozen)
                        return trial, self._to_sample(trial.params), lock
            number = len(trials)
            if sum(frozen.state.name != "WAITING" for frozen in trials) >= self.plan.trials:
                return None
            if (self._trial_folder(number) / "config.yaml").exists():
                # Another run's result would be taken for the trial's.
                raise InputError(
                    f"{self._trial_folder(number)} is a run that the study {self.plan.name!r} does not know: it "
                    "belongs to another study, or to one that was deleted. Give another directory by --out."
                )
            self._seed_sampler(number)
            trial = self.study.ask(fixed_distributions=self._distributions)
            lock = self._lock_trial(trial.number)
            assert lock is not None, "no other process knows the new trial"
            trial.set_user_attr("home", self.home)
            return trial, self._to_sample(trial.params), lock

    def _is_begun_here(self, frozen: "optuna.trial.FrozenTrial") -> bool:
        """Whether a trial was begun in this directory. Only a study outside the directory can have others."""
        return self.plan.storage is None or frozen.user_attrs.get("home") == self.home

    def _lock_trial(self, number: int) -> FileLock | None:
        lock = FileLock(self.plan.folder / "trials" / f".{number:04d}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    def _seed_sampler(self, number: int) -> None:
        seed = int(self.plan.settings.get("seed") or 0)
        drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        self.study.sampler = self.optuna.samplers.TPESampler(seed=drawn)

    def _reopen(self, frozen: "optuna.trial.FrozenTrial") -> "optuna.Trial":
        """A trial that was abandoned, with its settings. Those that were not drawn before the end are drawn now."""
        self._seed_sampler(frozen.number)
        # Private in Optuna (4.0 to 5.0): these are the last two steps of its `ask`, which can make new trials only.
        trial: optuna.Trial = self.optuna.Trial(self.study, frozen._trial_id)
        for key, distribution in self._distributions.items():
            trial._suggest(key, distribution)
        return trial

    def _make_distributions(self, space: Space) -> dict[str, Any]:
        """The space as Optuna's distributions."""
        kinds = self.optuna.distributions
        distributions: dict[str, Any] = {}
        for key, dimension in space.items():
            if not isinstance(dimension, Range):
                distributions[key] = kinds.CategoricalDistribution(list(dimension.labels))
            elif dimension.whole:
                distributions[key] = kinds.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
            else:
                distributions[key] = kinds.FloatDistribution(dimension.low, dimension.high, log=dimension.log)
        return distributions

    def _run(
        self,
        trial: "optuna.Trial",
        sample: Mapping[str, Any],
        watching: Callable[[int, Setup], AbstractContextManager[Watcher]],
    ) -> bool:
        """Train, and tell the study how the trial ended. Returned is whether the user wants to stop."""
        watch: _PruningWatcher | None = None
        try:
            run, setup = self._open_run(self._trial_folder(trial.number), sample)
            with watching(trial.number, setup) as inner:
                watch = _PruningWatcher(inner, trial, setup.config.train.steps, self._locked)
                train(setup, run, watch)
            value = _final_value(run, setup.metric.larger_is_better)
        except StoppedError:
            if watch is None or not watch.pruned:
                raise
            self._tell(trial, state="PRUNED")
        except _StorageError:
            raise
        except (InputError, RunError) as error:
            if isinstance(error.__cause__, OSError):  # a full disk would fail every trial that is left
                raise
            self._tell(trial, state="FAIL", error=str(error))
        else:
            self._tell(trial, value=value)
        return watch is not None and watch.inner.stopping

    def _open_run(self, path: Path, sample: Mapping[str, Any]) -> tuple[Run, Setup]:
        """The run of a trial: the one that was begun, or a new one."""
        if (path / "config.yaml").is_file():
            run = Run.open(path)
            return run, rebuild(run, trust=self.plan.trust)
        asked = config.parse_config(self.plan.settings, as_overrides(sample))
        if asked.compute.threads is None and self.plan.threads is not None:
            compute = asked.compute.model_copy(update={"threads": self.plan.threads})
            asked = asked.model_copy(update={"compute": compute})
        setup = config.build(asked)
        return Run.create(path, setup.config.model_dump(mode="json")), setup

    def _tell(
        self, trial: "optuna.Trial", *, value: float | None = None, state: str = "COMPLETE", error: str | None = None
    ) -> None:
        with self._locked():
            if error is not None:
                trial.set_user_attr("error", error)
            self.study.tell(trial, value, state=self.optuna.trial.TrialState[state])


class _PruningWatcher(Watcher):
    """Reports validations to the study, and stops a training that the pruner gives up. Its state is saved then."""

    def __init__(
        self, inner: Watcher, trial: "optuna.Trial", steps: int, locked: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.inner, self.trial, self.steps, self.locked = inner, trial, steps, locked
        with locked():
            self.reported = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        self.pruned = False

    def step(self, step: int, loss: float) -> None:
        """Called after every outer step."""
        self.inner.step(step, loss)
        self.stopping = self.pruned or self.inner.stopping

    def row(self, row: dict[str, Any]) -> None:
        """Called with every row that is added to the metrics."""
        self.inner.row(row)
        if row["kind"] != "val":
            return
        with self.locked():
            if row["step"] not in self.reported:  # a trial that was taken up repeats the steps after its checkpoint
                self.trial.report(row["metric"] if row["finite"] == row["tasks"] else nan, row["step"])
            # A training at its last step is complete, however bad its value.
            self.pruned = row["step"] < self.steps and self.trial.should_prune()
        self.stopping = self.pruned or self.inner.stopping


def _final_value(run: Run, larger_is_better: bool) -> float:
    """The validation metric of the checkpoint that `evaluate` takes: `best`, or `last` if there is no `best`."""
    rows = [row for row in run.metrics() if row["kind"] == "val"]
    finite, score = read_progress(run.load("last"), f"Checkpoint `last` of {run.path}").best
    value = score if larger_is_better else -score
    if finite < 0:
        finite, value = rows[-1]["finite"], rows[-1]["metric"]
    diverged = int(rows[-1]["tasks"] - finite)
    if diverged:
        raise RunError(f"{diverged} of {rows[-1]['tasks']} validation tasks diverged, so there is no mean over all.")
    return float(value)


def _import_optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as missing:
        raise InputError('A sweep needs Optuna. Install it: pip install "quickstudy[sweep]"') from missing
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _remove_half_line(journal: Path) -> None:
    """Remove a line that was not written to its end, as a full disk can leave it: Optuna could not read on after it."""
    if not os.path.lexists(journal):
        return
    with open_file(journal, "rb+") as file:
        if not file.seek(0, os.SEEK_END):
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            whole = read_file(journal)
            file.truncate(whole.rfind(b"\n") + 1)


def _hide_password(url: str) -> str:
    """A URL without its password.

    >>> _hide_password("postgresql://ann:secret@host/sweeps")
    'postgresql://ann:***@host/sweeps'
    """
    return re.sub(r"(//[^:/@]*):[^/]*@", r"\1:***@", url)


def _describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that differ: their values before, and now in brackets."""
    then, asked = _flatten(before), _flatten(now)
    differences = [
        f"{key.removeprefix('settings.')} {then.get(key, 'unset')} (now {asked.get(key, 'unset')})"
        for key in sorted({*then, *asked})
        if then.get(key) != asked.get(key)
    ]
    more = f", and {len(differences) - 5} other differences" if len(differences) > 5 else ""
    return ", ".join(differences[:5]) + more


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by their paths."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {k: v for key, child in tree.items() for k, v in _flatten(child, f"{prefix}.{key}".lstrip(".")).items()}
