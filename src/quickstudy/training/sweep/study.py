"""Sweeps: many training runs with sampled settings, judged by validation, in one Optuna study.

    sweep/  study.db  values.png  trials/{0000,0001,...}, each a run like any other

A trial is a function of the seed, of its number and of the trials that ended before it: its sampler starts from those
two numbers. So a sweep that one process stops and takes up again finds what it would have found unstopped.

A trial that was cut short stays `running` in the study. Each process holds a lock of the operating system's on the
trial it works at, and the lock goes with the process; so an unlocked trial has nobody, and the next process that looks
for work takes it up from its run's last checkpoint. Only trials begun in the same directory are taken up: nobody can
tell from here whether those of another machine are alive.
"""

import platform
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from quickstudy.errors import InputError, RunError
from quickstudy.storage.files import explain_disk_errors, to_plain_or_text
from quickstudy.storage.run import Run
from quickstudy.training import config
from quickstudy.training.config import Setup
from quickstudy.training.sweep.plan import SweepPlan, Trial
from quickstudy.training.sweep.space import Range, as_overrides
from quickstudy.training.train import Stopped, train
from quickstudy.training.watcher import Watcher

if TYPE_CHECKING:
    import optuna

STARTUP = 5  # trials that end before any is pruned: fewer make no median
PATIENCE = 60.0  # seconds that SQLite waits for another program's writing
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


class _StorageError(RunError):
    """The study could not be read or written, which is no trial's fault."""


class Study:
    """The study of a plan, made or opened."""

    def __init__(self, plan: SweepPlan) -> None:
        self.plan = plan
        self.optuna = _optuna()
        self.home = f"{platform.node()}:{plan.folder.resolve()}"
        if (plan.folder / "config.yaml").is_file():
            raise InputError(f"{plan.folder} is a run, and a sweep holds many. Give another directory by --out.")
        with explain_disk_errors(plan.folder, "Give a directory that can be made and written: --out DIRECTORY."):
            (plan.folder / "trials").mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(plan.folder / ".lock")
        with self._alone():
            self.study = self._opened()
            self._recognise()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One of this machine's processes at a time: SQLite gives up on some of what it should wait for."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._lock:
                yield
        except (self.optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
            cause = str(error.__cause__ or error).strip().partition("\n")[0]
            raise _StorageError(
                f"The study at {_shown(self.plan.url)} could not be read or written: {cause}. No finished trial is "
                "lost; run the same command again."
            ) from error

    def _opened(self) -> Any:
        from sqlalchemy.exc import ArgumentError

        optuna, plan = self.optuna, self.plan
        options = {"connect_args": {"timeout": PATIENCE}} if plan.url.startswith("sqlite") else {}
        # In the first tenth of a training nothing is pruned: there all are alike.
        median = optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=plan.steps // 10)
        try:
            storage = optuna.storages.RDBStorage(plan.url, engine_kwargs=options)
        except (ImportError, ArgumentError, RuntimeError) as error:  # the last: tables of another Optuna
            cause = str(error).partition("\n")[0]
            raise InputError(
                f"--storage {_shown(plan.url)} cannot be used: {cause} Give a database's URL, such as "
                "sqlite:///sweep.db or postgresql://host/name, whose driver is installed."
            ) from error
        return optuna.create_study(
            study_name=plan.name,
            storage=storage,
            pruner=median if plan.prune else optuna.pruners.NopPruner(),
            direction="maximize" if plan.larger_is_better else "minimize",
            load_if_exists=True,
        )

    def _recognise(self) -> None:
        """Sign a new study; refuse one that was begun with other settings, whose values mean something else."""
        asked = {
            "settings": to_plain_or_text(self.plan.settings),
            "search": {key: str(over) for key, over in self.plan.space.items()},
        }
        held = self.study.user_attrs.get("asked")
        if held is None and not self.study.get_trials(deepcopy=False):
            self.study.set_user_attr("asked", asked)
        elif held != asked:
            raise InputError(
                f"The study {self.plan.name!r} at {_shown(self.plan.url)} was begun with "
                f"{_differences(held or {}, asked)}. Go on with the same command, or begin another study by --out or "
                "--name."
            )

    def tried(self) -> list[Trial]:
        """Every trial so far, by number."""
        with self._alone():
            return [self._told(frozen) for frozen in self.study.get_trials(deepcopy=False)]

    def _told(self, frozen: "optuna.trial.FrozenTrial") -> Trial:
        state = STATES[frozen.state.name]
        params = {
            key: over.labels[frozen.params[key]] if not isinstance(over, Range) else frozen.params[key]
            for key, over in self.plan.space.items()
            if key in frozen.params
        }
        value = frozen.value if state == "complete" else None
        home = self.plan.folder if self._begun_here(frozen) else frozen.user_attrs.get("home", "elsewhere")
        run = f"{home}/trials/{frozen.number:04d}"
        return Trial(frozen.number, state, value, params, frozen.user_attrs.get("error"), run)

    def _path(self, number: int) -> Path:
        return self.plan.folder / "trials" / f"{number:04d}"

    def work(
        self, watching: Callable[[int, Setup], AbstractContextManager[Watcher]], tell: Callable[[Trial], None]
    ) -> None:
        """Do trials until the study has as many as planned; those that other processes are at count too.

        Args:
            watching: Makes the watcher of a trial, from its number and what it trains.
            tell: Called with each trial that has ended.
        """
        while (claimed := self._claim()) is not None:
            trial, sample, held = claimed
            try:
                stopped = self._run(trial, sample, watching)
            finally:
                held.release()
            with self._alone():
                ended = self._told(self.study.get_trials(deepcopy=False)[trial.number])
            tell(ended)
            if stopped:
                raise Stopped(f"Stopped after trial {trial.number}.")

    def _claim(self) -> "tuple[optuna.Trial, dict[str, Any], FileLock] | None":
        """A trial to do, its settings, and the lock on it: one that was abandoned, else a new one while any is due."""
        with self._alone():
            trials = self.study.get_trials(deepcopy=False)
            for frozen in trials:
                if frozen.state.name == "RUNNING" and self._begun_here(frozen) and (held := self._hold(frozen.number)):
                    self._seed(frozen.number)
                    trial = self.optuna.Trial(self.study, frozen._trial_id)
                    return trial, self._sample(trial), held
            if sum(frozen.state.name != "WAITING" for frozen in trials) >= self.plan.trials:
                return None
            if (self._path(len(trials)) / "config.yaml").exists():  # or its result would be taken for the trial's
                raise InputError(
                    f"{self._path(len(trials))} is a run that the study {self.plan.name!r} does not know: it belongs "
                    "to another study, or to one that was deleted. Give another directory by --out."
                )
            self._seed(len(trials))
            trial = self.study.ask()
            held = self._hold(trial.number)
            assert held is not None, "a new trial is nobody's"
            trial.set_user_attr("home", self.home)
            return trial, self._sample(trial), held

    def _begun_here(self, frozen: "optuna.trial.FrozenTrial") -> bool:
        """All that a study in the directory has; of one elsewhere, what is signed with this machine and directory."""
        return self.plan.storage is None or frozen.user_attrs.get("home") == self.home

    def _hold(self, number: int) -> FileLock | None:
        lock = FileLock(self.plan.folder / "trials" / f".{number:04d}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    def _seed(self, number: int) -> None:
        seed = int(self.plan.settings.get("seed") or 0)
        drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        self.study.sampler = self.optuna.samplers.TPESampler(seed=drawn)

    def _sample(self, trial: "optuna.Trial") -> dict[str, Any]:
        """The trial's settings: drawn, or for one that is taken up read back."""
        sample: dict[str, Any] = {}
        for key, over in self.plan.space.items():
            if not isinstance(over, Range):
                sample[key] = over.labels[trial.suggest_categorical(key, list(over.labels))]
            elif over.whole:
                sample[key] = trial.suggest_int(key, int(over.low), int(over.high), log=over.log)
            else:
                sample[key] = trial.suggest_float(key, over.low, over.high, log=over.log)
        return sample

    def _run(
        self,
        trial: "optuna.Trial",
        sample: Mapping[str, Any],
        watching: Callable[[int, Setup], AbstractContextManager[Watcher]],
    ) -> bool:
        """Train, and tell the study how it ended; whether the user wants to stop."""
        watch: _Judge | None = None
        try:
            run, setup = self._begun(self._path(trial.number), sample)
            with watching(trial.number, setup) as shown:
                watch = _Judge(shown, trial, setup.config.train.steps, self._alone)
                train(setup, run, watch)
            value = _value(run, setup.metric.larger_is_better)
        except Stopped:
            if watch is None or not watch.pruned:
                raise
            self._end(trial, state="PRUNED")
        except _StorageError:
            raise
        except (InputError, RunError) as error:
            if isinstance(error.__cause__, OSError):  # a full disk would fail every trial that is left
                raise
            self._end(trial, state="FAIL", error=str(error))
        else:
            self._end(trial, value=value)
        return watch is not None and watch.shown.stopping

    def _begun(self, path: Path, sample: Mapping[str, Any]) -> tuple[Run, Setup]:
        if (path / "config.yaml").is_file():
            run = Run.open(path)
            return run, config.build(config.parse_config(run.config))
        asked = config.parse_config(self.plan.settings, as_overrides(sample))
        if asked.compute.threads is None and self.plan.threads is not None:
            asked = asked.model_copy(
                update={"compute": asked.compute.model_copy(update={"threads": self.plan.threads})}
            )
        setup = config.build(asked)
        return Run.create(path, setup.config.model_dump(mode="json")), setup

    def _end(
        self, trial: "optuna.Trial", *, value: float | None = None, state: str = "COMPLETE", error: str | None = None
    ) -> None:
        with self._alone():
            if error is not None:
                trial.set_user_attr("error", error)
            self.study.tell(trial, value, state=self.optuna.trial.TrialState[state])


class _Judge(Watcher):
    """Reports validation to the study, and stops a run that the pruner gives up, as the user would: saved."""

    def __init__(
        self, shown: Watcher, trial: "optuna.Trial", steps: int, alone: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.shown, self.trial, self.steps, self.alone = shown, trial, steps, alone
        with alone():
            self.reported = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        self.pruned = False

    def step(self, step: int, loss: float) -> None:
        """After every outer step."""
        self.shown.step(step, loss)
        self.stopping = self.pruned or self.shown.stopping

    def row(self, row: dict[str, Any]) -> None:
        """With every row that goes into the metrics."""
        self.shown.row(row)
        if row["kind"] != "val":
            return
        with self.alone():
            if row["step"] not in self.reported:  # as it is when a trial goes on from a checkpoint before it
                self.trial.report(row["metric"] if row["finite"] == row["tasks"] else nan, row["step"])
            # A run that is through is complete, however bad.
            self.pruned = row["step"] < self.steps and self.trial.should_prune()
        self.stopping = self.pruned or self.shown.stopping


def _value(run: Run, larger_is_better: bool) -> float:
    """The validation metric of the checkpoint that `evaluate` takes: `best`, or `last` where no step was eligible."""
    rows = [row for row in run.metrics() if row["kind"] == "val"]
    finite, score = run.load("last").state["best"]
    value = score if larger_is_better else -score
    if finite < 0:
        finite, value = rows[-1]["finite"], rows[-1]["metric"]
    lost = int(rows[-1]["tasks"] - finite)
    if lost:
        raise RunError(f"{lost} of {rows[-1]['tasks']} validation tasks diverged, so that there is no mean over all.")
    return float(value)


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as missing:
        raise InputError('A sweep needs Optuna. Install it: pip install "quickstudy[sweep]"') from missing
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _shown(url: str) -> str:
    """A URL without its password.

    >>> _shown("postgresql://ann:secret@host/sweeps")
    'postgresql://ann:***@host/sweeps'
    """
    return re.sub(r"(//[^:/@]*):[^/]*@", r"\1:***@", url)


def _differences(held: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """What a study was begun with, where that differs."""
    then, now = _leaves(held), _leaves(asked)
    said = [
        f"{key.removeprefix('settings.')} {then.get(key, 'unset')} (now {now.get(key, 'unset')})"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]
    return ", ".join(said[:5]) + (f", and {len(said) - 5} other differences" if len(said) > 5 else "")


def _leaves(tree: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {above: tree}
    return {k: v for key, below in tree.items() for k, v in _leaves(below, f"{above}.{key}".lstrip(".")).items()}
