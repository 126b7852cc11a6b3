"""From an item and a scale to readings: trainings are begun, taken up or found done, then read."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.papers.runner.found import Found
from quickstudy.papers.runner.items import Item, Row
from quickstudy.papers.runner.measures import Reading, Trained, find_measure, known_options, overrides
from quickstudy.papers.runner.store import Asked, Store, Unit
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

    def units(self) -> list[Unit]:
        """What is to be done, every row's first seed before any row's second."""
        return [self._unit(row, seed) for seed in range(self.seeds) for row in self.rows if not row.quoted]

    def _unit(self, row: Row, seed: int) -> Unit:
        less = self.item.scales[self.scale].options
        config = None if row.config is None else apply_overrides(row.config, overrides(self.settings(row)))
        asked = {
            column: Asked(seed, config, cell.measure, {**cell.options, **known_options(cell.measure, less)})
            for column, cell in row.cells.items()
            if cell.measure is not None
        }
        return Unit(row.name, seed, config, asked)

    def settings(self, row: Row) -> dict[str, Any]:
        """What the scale changes in a row's configuration."""
        return {**self.item.scales[self.scale].settings, **row.scales.get(self.scale, {})}


def choose_rows(item: Item, names: Sequence[str] | None) -> tuple[Row, ...]:
    """Rows by name; all when none are named. Quoted rows stay."""
    if names is None:
        return item.rows
    known = [row.name for row in item.rows if not row.quoted]
    for name in names:
        if name not in known:
            raise InputError(f"{item.paper} {item.name} has no row {name!r} to run. {suggest_nearest(name, known)}")
    return tuple(row for row in item.rows if row.quoted or row.name in names)


Tell = Callable[[Unit, float], None]
"""Called with a unit that this process has finished, and its seconds."""


def work(watch: Watcher, units: Sequence[Unit], folder: Path, tell: Tell) -> None:
    """Do every unit that is not done and that no other process holds; `watch` may ask to stop."""
    store = Store(folder)
    while any(_work_on(one, store, watch, tell) for one in units):
        pass  # again from the start: another process may have left what it held


def _work_on(one: Unit, store: Store, watch: Watcher, tell: Tell) -> bool:
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
    if one.config is not None and store.why_stopped(one) is None:
        _train(one.config, one, store, watch)
    trained, stopped = store.training(one), store.why_stopped(one)
    nothing = stopped is not None and trained.run is not None and "last" not in trained.run.checkpoints()
    for asked in [asked for asked in one.asked.values() if not store.has(asked)]:
        began = perf_counter()
        if nothing:  # it diverged before it saved anything
            reading = Reading(float("nan"), more={"failed": stopped})
        else:
            reading = find_measure(asked.measure)(trained, **asked.options)
        about = {"seed": one.seed, "seconds": perf_counter() - began, "commit": package_commit()}
        store.write(asked, reading, {**about, "stand_ins": stand_ins(one.config)})


def _train(raw: Mapping[str, Any], one: Unit, store: Store, watch: Watcher) -> None:
    path = store.path(one)
    if (path / "config.yaml").is_file():
        run = Run.open(path)
        setup = rebuild(run)
        if run.has_reached(setup.config.train.steps):
            return
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


def collect(plan: Plan) -> tuple[Found, list[dict[str, Any]]]:
    """What is there by now, and how each reading came to be: rows and seeds that are missing are left out."""
    store, about = Store(plan.folder), []
    readings: dict[tuple[str, str], tuple[Reading, ...]] = {}
    trained: dict[str, tuple[Trained, ...]] = {}
    stopped: dict[str, dict[int, str]] = {}
    for one in filter(store.is_done, plan.units()):
        trained[one.row] = (*trained.get(one.row, ()), store.training(one))
        if (why := store.why_stopped(one)) is not None:
            stopped.setdefault(one.row, {})[one.seed] = why
        for column, asked in one.asked.items():
            reading, held = store.read(asked)
            readings[one.row, column] = (*readings.get((one.row, column), ()), reading)
            how = {key: held[key] for key in ("seed", "seconds", "commit", "stand_ins")}
            about.append({"row": one.row, "column": column, **how})
    replaced = {one["row"] for one in about if one["stand_ins"]}
    return Found(plan.item, plan.scale, readings, trained, stopped, {row for row, _ in readings} - replaced), about
