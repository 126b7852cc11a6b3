"""What tests of the papers share: findings made of numbers, and items run at smoke scale."""

import warnings

import numpy as np

from quickstudy.papers.runner.found import Found
from quickstudy.papers.runner.items import Cell, Item, Row
from quickstudy.papers.runner.measures import Reading, overrides
from quickstudy.papers.runner.work import Plan, choose_rows, collect, work
from quickstudy.training import config
from quickstudy.training.config.overrides import apply_overrides
from quickstudy.training.watcher import Watcher


class Impatient(Watcher):
    """Stops after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def step(self, step, loss):
        self.left -= 1
        self.stopping = self.left <= 0


def reading(each, **more):
    """A reading of tasks, all of one list."""
    each = np.asarray(each, dtype=float)
    return Reading(float(np.nanmean(each)) if np.isfinite(each).any() else float("nan"), 0.1, each, "list", more)


def made(cells, item=None, better=False):
    """Found, of made-up numbers: by (row, column), the values of tasks with each of three seeds, or one list a seed."""
    seeds = {
        key: [np.atleast_1d(one) for one in (values if isinstance(values, tuple) else (values,) * 3)]
        for key, values in cells.items()
    }
    names = dict.fromkeys(row for row, _ in cells)
    rows = tuple(Row(name, name, {column: Cell("judged") for row, column in cells if row == name}) for name in names)
    item = item or Item("hypermaml", "made-up", "", rows, {}, "", larger_is_better=better)
    readings = {key: tuple(reading(each) for each in every) for key, every in seeds.items()}
    return Found(item, "full", readings, {}, {})


def printed(item, unknown=4.25):
    """The paper's own numbers as if found; what it does not print is `unknown`."""
    cells = {
        (row.name, column): cell.reported[0].value if cell.reported else unknown
        for row in item.rows
        for column, cell in row.cells.items()
    }
    return made({key: (np.full(50, value),) * 3 for key, value in cells.items()}, item)


def at(item, row, scale):
    """A row's configuration at a scale, as the runner makes it."""
    settings = {**item.scales[scale].settings, **row.scales.get(scale, {})}
    return config.parse_config(apply_overrides(row.config, overrides(settings)))


def row_of(item, name):
    return next(row for row in item.rows if row.name == name)


def at_smoke(item, folder, names=None):
    """An item's rows at smoke scale, as they were found."""
    plan = Plan(item, "smoke", 1, choose_rows(item, names, "smoke"), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work(Watcher(), plan.units(), folder, lambda one, seconds: None)
    return collect(plan)[0]
