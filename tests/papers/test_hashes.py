"""Trainings and readings are found again under the names they were given before: nobody has to train anew."""

import csv
from pathlib import Path

import pytest

from quickstudy.papers.catalog import items
from quickstudy.papers.runner.store import digest
from quickstudy.papers.runner.work import Plan

HASHES = Path(__file__).with_name("hashes.csv")
"""Of every row at every scale, seed 0: its training, and all of its readings together."""


def known() -> dict[tuple[str, str], list[tuple[str, ...]]]:
    by_item: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    with HASHES.open() as file:
        for line in csv.DictReader(file):
            by_item.setdefault((line["paper"], line["item"]), []).append(tuple(line.values()))
    return by_item


KNOWN = known()


@pytest.mark.parametrize(("paper", "name"), KNOWN, ids="-".join)
def test_a_row_keeps_the_names_of_its_training_and_readings(paper, name):
    item = items(paper)[name]
    now = [
        (paper, name, scale, unit.row, unit.name, digest({column: one.name for column, one in unit.asked.items()}))
        for scale in item.scales
        for unit in Plan(item, scale, 1, item.rows, Path()).units()
    ]
    assert set(KNOWN[paper, name]) <= set(now)
