"""From an item and a scale to readings: trainings are begun, taken up or found done, then read."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.papers.runner.found import Found
from quickstudy.papers.runner.items import SCALES, Item, Row, Scale, Tried
from quickstudy.papers.runner.measures import Reading, Trained, find_measure, known_options, overrides
from quickstudy.papers.runner.store import Asked, Store, Unit, digest
from quickstudy.storage.run import Run
from quickstudy.storage.versions import package_commit
from quickstudy.tasks.images.sets import IMAGE_SETS
from quickstudy.training import config
from quickstudy.training.config.overrides import apply_overrides
from quickstudy.training.restore import rebuild
from quickstudy.training.train import DivergedError, StoppedError, train
from quickstudy.training.watcher import Watcher


@dataclass(frozen=True)
class Plan:
    """An item, as it is to be run."""

    item: Item
    scale: str
    seeds: int  # trainings of each row
    rows: tuple[Row, ...]  # those to be run; all others are left out
    folder: Path  # of the store
    made: dict[Any, Unit] = field(default_factory=dict, compare=False, repr=False)  # units, which are asked for often

    def units(self) -> list[Unit]:
        """What is known to be done: trials, then every row's first seed before any row's second."""
        return [*(unit for trials in self.trials().values() for unit in trials.values()), *self.chosen_units()]

    def size(self) -> int:
        """How many units there are in the end, when every choice has been made."""
        rows = [row for row in self.rows if not row.quoted]
        return self.seeds * len(rows) + sum(len(trials) for trials in self.trials().values())

    def trainings_left(self) -> set[str]:
        """The names of the trainings that it still needs, each once however many rows share it.

        Where a choice has not been made, a training is named by its settings before it; the first seed is a trial.
        """
        undecided = [row for row in self.rows if not row.quoted and self.chosen_settings(row) is None]
        unnamed = {digest([seed, self._config(row, {})]) for row in undecided for seed in range(1, self.seeds)}
        store = Store(self.folder)
        left = {
            unit.name
            for unit in self.units()
            if unit.config is not None and not store.is_done(unit) and not store.is_trained(unit)
        }
        return left | unnamed

    def trials(self) -> dict[str, dict[Any, Unit]]:
        """By row: a training with each value of the setting that it tries, of which validation chooses one."""
        rows = [(row, row.tried[self.scale]) for row in self.rows if self.scale in row.tried]
        return {row.name: {value: self._trial(row, tried, value) for value in tried.values} for row, tried in rows}

    def chosen_units(self) -> list[Unit]:
        """The trainings that are shown: those of rows that try nothing, or whose trials are done."""
        chosen = {row.name: self.chosen_settings(row) for row in self.rows}
        every = [(row, seed, chosen[row.name]) for seed in range(self.seeds) for row in self.rows if not row.quoted]
        return [self._unit(row, seed, own) for row, seed, own in every if own is not None]

    def chosen_settings(self, row: Row) -> dict[str, Any] | None:
        """The setting that a row tries, with the value that validated best; None as long as a trial is not done."""
        if self.scale not in row.tried:
            return {}
        store, trials = Store(self.folder), self.trials()[row.name]
        if not all(map(store.is_done, trials.values())):
            return None
        scores = {value: store.read(next(iter(unit.asked.values())))[0].value for value, unit in trials.items()}
        return {row.tried[self.scale].setting: max(scores, key=lambda value: np.nan_to_num(scores[value], nan=-np.inf))}

    def _trial(self, row: Row, tried: Tried, value: Any) -> Unit:
        key = row.name, value
        if key not in self.made:
            config = self._config(row, {tried.setting: value})
            asked = {f"{tried.setting} {value}": Asked(0, config, "validation", {})}
            self.made[key] = Unit(row.name, 0, config, asked)
        return self.made[key]

    def _config(self, row: Row, chosen: Mapping[str, Any]) -> dict[str, Any]:
        assert row.config is not None
        return apply_overrides(row.config, overrides({**self.settings(row), **chosen}))

    def _unit(self, row: Row, seed: int, chosen: Mapping[str, Any]) -> Unit:
        key = row.name, seed, *chosen.items()
        if key not in self.made:
            self.made[key] = self._make_unit(row, seed, chosen)
        return self.made[key]

    def _make_unit(self, row: Row, seed: int, chosen: Mapping[str, Any]) -> Unit:
        less = self.item.scales[self.scale].options
        config = None if row.config is None else self._config(row, chosen)
        asked = {
            column: Asked(seed, config, cell.measure, {**cell.options, **known_options(cell.measure, less)})
            for column, cell in row.cells.items()
            if cell.measure is not None
        }
        return Unit(row.name, seed, config, asked)

    def settings(self, row: Row) -> dict[str, Any]:
        """What the scale changes in a row's configuration."""
        return {**self.item.scales[self.scale].settings, **row.scales.get(self.scale, {})}


def scale_of(item: Item, name: str) -> Scale:
    """A scale of an item by name."""
    if name not in item.scales:
        missing = f"{item.paper} {item.name} has no scale {name!r}" if name in SCALES else f"There is no scale {name!r}"
        raise InputError(f"{missing}. {suggest_nearest(name, item.scales)}")
    return item.scales[name]


def choose_rows(item: Item, patterns: Sequence[str] | None, scale: str) -> tuple[Row, ...]:
    """Rows by name or pattern, such as `tanh-*`; those of the scale when none are named. Quoted rows stay."""
    known = [row.name for row in item.rows if not row.quoted]
    for pattern in patterns or ():
        if not any(fnmatchcase(name, pattern) for name in known):
            raise InputError(
                f"{item.paper} {item.name} has no row {pattern!r} to run. {suggest_nearest(pattern, known)}"
            )
    wanted = item.scales[scale].rows if patterns is None else patterns
    return tuple(row for row in item.rows if row.quoted or any(fnmatchcase(row.name, one) for one in wanted))


Tell = Callable[[Unit, float], None]
"""Called with a unit that this process has finished, and its seconds."""


def work(watch: Watcher, units: Sequence[Unit], folder: Path, tell: Tell) -> None:
    """Do every unit that is not done and that no other process holds; `watch` may ask to stop."""
    store = Store(folder)
    while any(work_on(one, store, watch, tell) for one in units):
        pass  # again from the start: another process may have left what it held


def work_on(one: Unit, store: Store, watch: Watcher, tell: Tell) -> bool:
    """Do a unit, unless it is done or held by another process; whether this process did it."""
    if store.is_done(one):
        return False
    with store.hold(one) as mine:
        if not mine or store.is_done(one):
            return False
        started = perf_counter()
        do(one, store, watch)
        tell(one, perf_counter() - started)
    if watch.stopping:
        raise StoppedError(f"Stopped after {one.row}, seed {one.seed}.")
    return True


def do(one: Unit, store: Store, watch: Watcher) -> None:
    """Train what is not trained, and read what is not read."""
    if one.config is not None and not store.is_trained(one):
        _train(one.config, one, store, watch)
    trained, stopped, spent = store.training(one), store.why_stopped(one), store.training_seconds(one)
    nothing = stopped is not None and trained.run is not None and "last" not in trained.run.checkpoints()
    for asked in [asked for asked in one.asked.values() if not store.has(asked)]:
        if watch.stopping:
            raise StoppedError(f"Stopped at {one.row}, seed {one.seed}.")
        began = perf_counter()
        if nothing:  # it diverged before it saved anything
            reading = Reading(float("nan"), more={"failed": stopped})
        else:
            reading = find_measure(asked.measure)(trained, **asked.options)
        about = {"seed": one.seed, "seconds": perf_counter() - began, "commit": package_commit(), "training": spent}
        store.write(asked, reading, {**about, "stand_ins": stand_ins(one.config)})


def _train(raw: Mapping[str, Any], one: Unit, store: Store, watch: Watcher) -> None:
    path = store.path(one)
    if (path / "config.yaml").is_file():
        run = Run.open(path)
        setup = rebuild(run)
    else:
        setup = config.build(config.parse_config({**raw, "seed": one.seed}))
        run = Run.create(path, setup.config.model_dump(mode="json"))
    try:
        train(setup, run, watch)
    except DivergedError as gone:
        store.note_stop(one, str(gone).partition(". ")[0])


def stand_ins(settings: Any) -> list[str]:
    """The folders that now stand in for image sets which a configuration names, at any depth."""
    text = json.dumps(settings)
    named = [image_set for name, image_set in IMAGE_SETS.items() if f'"{name}"' in text]
    return sorted(place for image_set in named if (place := image_set.stand_in_name()))


def with_done(plan: Plan) -> Plan:
    """A plan with the other rows and seeds of its item that have been done before: a result shows all that is there."""
    store = Store(plan.folder)
    every = replace(plan, rows=plan.item.rows)
    done = {unit.row for unit in every.chosen_units() if unit.seed == 0 and store.is_done(unit)}
    rows = tuple(row for row in plan.item.rows if row in plan.rows or row.name in done)
    seeds = plan.seeds
    while any(
        store.is_done(unit) for unit in replace(every, rows=rows, seeds=seeds + 1).chosen_units() if unit.seed == seeds
    ):
        seeds += 1
    return replace(plan, rows=rows, seeds=seeds)


def collect(plan: Plan) -> tuple[Found, list[dict[str, Any]]]:
    """What is there by now, and how each reading came to be: rows and seeds that are missing are left out."""
    store, about = Store(plan.folder), []
    readings: dict[tuple[str, str], tuple[Reading, ...]] = {}
    trained: dict[str, tuple[Trained, ...]] = {}
    stopped: dict[str, dict[int, str]] = {}
    for one in filter(store.is_done, plan.chosen_units()):
        if len(trained.get(one.row, ())) < one.seed:
            continue  # a seed before it is missing, and rows are paired seed by seed
        trained[one.row] = (*trained.get(one.row, ()), store.training(one))
        if (why := store.why_stopped(one)) is not None:
            stopped.setdefault(one.row, {})[one.seed] = why
        for column, asked in one.asked.items():
            reading, held = store.read(asked)
            readings[one.row, column] = (*readings.get((one.row, column), ()), reading)
            how = {key: held[key] for key in ("seed", "seconds", "commit", "stand_ins")}
            # A training of another machine has left its readings here and no checkpoint; old readings do not say it.
            how |= {"trained": one.name, "training": held.get("training") or store.training_seconds(one)}
            about.append({"row": one.row, "column": column, **how})
    replaced = {one["row"] for one in about if one["stand_ins"]}
    return Found(plan.item, plan.scale, readings, trained, stopped, {row for row, _ in readings} - replaced), about
