"""Queues: what is done in which order, taken up again, chosen by trials, and how a stop or a failure ends."""

import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from made import Impatient

from quickstudy.errors import InputError, RunError
from quickstudy.papers.runner.items import Cell, Item, Row, Scale, Tried
from quickstudy.papers.runner.queue import (
    Entry,
    Queued,
    Until,
    check_failures,
    read_queue,
    stand,
    stand_all,
    work_off,
)
from quickstudy.papers.runner.store import Store
from quickstudy.papers.runner.work import Plan, collect, with_done
from quickstudy.training.train import StoppedError
from quickstudy.training.watcher import Watcher

COMMAND = Path(__import__("sys").executable).with_name("quickstudy")
SINE = {
    "tasks": {"name": "sine", "shots": 5, "queries": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "method": {"name": "maml", "inner_lr": 0.01},
    "train": {"steps": 20, "meta_batch_size": 2, "validate_every": 0, "checkpoint_every": 1},
    "compute": {"threads": 1},
}
SMOKE = [
    {"paper": "mtnet", "item": "table-6.1", "rows": ["m*t"], "scale": "smoke", "seeds": 1, "minutes": 6},
    {"paper": "wormhole", "item": "figure-4", "scale": "smoke", "minutes": 0.1, "decides": "the range"},
]


def row(name, tried=None, **method):
    config = {**SINE, "method": {**SINE["method"], **method}}
    if tried:
        config["train"] = {**SINE["train"], "steps": 150, "validate_every": 50, "validate_tasks": 50}
    cells = {"error": Cell("judged", {"tasks": 10})}
    return Row(name, name, cells, config, tried={"full": tried} if tried else {})


def queued(folder, *rows, seeds=1, name="item", minutes=6.0):
    one = Item("mtnet", name, name, rows, {"full": Scale()}, "error", False)
    entry = Entry(paper="mtnet", item=name, minutes=minutes, seeds=seeds)
    return Queued(entry, Plan(one, "full", seeds, rows, folder))


class Log:
    """What a queue told, and how to run it."""

    def __init__(self):
        self.done, self.finished, self.failed = [], [], []

    def run(self, *queue, watch=None):
        work_off(
            queue, watch or Watcher(), lambda unit, seconds: self.done.append((unit.row, unit.seed)),
            lambda one: self.finished.append(one.plan.item.name),
            lambda unit, error: self.failed.append((unit.row, str(error))),
        )  # fmt: skip
        return self


def test_a_queue_is_worked_off_in_its_order_and_each_item_ends_once(tmp_path):
    first = queued(tmp_path, row("b", inner_lr=0.02), row("a"), seeds=2, name="first")
    second = queued(tmp_path, row("c", inner_lr=0.03), name="second")
    log = Log().run(first, second)
    assert log.done == [("b", 0), ("a", 0), ("b", 1), ("a", 1), ("c", 0)]
    assert log.finished == ["first", "second"]
    assert Log().run(first, second).done == []
    assert check_failures([first, second]) is None


def test_a_queue_that_was_stopped_goes_on_in_a_copy_of_its_folder(tmp_path):
    import shutil

    one = queued(tmp_path / "here", row("a"), row("b", inner_lr=0.02))
    with pytest.raises(StoppedError):
        Log().run(one, watch=Impatient(30))
    assert stand(one).done == 1 and not stand(one).complete
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    there = replace(one, plan=replace(one.plan, folder=tmp_path / "there"))
    steps = []

    class Counts(Watcher):
        def step(self, step, loss):
            steps.append(step)

    assert Log().run(there, watch=Counts()).done == [("b", 0)]
    assert steps[0] > 10 and steps[-1] == 20, "the second training went on where it was stopped"


def test_a_failure_does_not_end_a_queue(tmp_path):
    broken = replace(row("broken"), cells={"error": Cell("judged", {"of": "metric", "settings": {"tasks.shots": -1}})})
    queue = queued(tmp_path, broken, name="first"), queued(tmp_path, row("a"), name="second")
    log = Log().run(*queue)
    assert log.done == [("a", 0)] and [name for name, _ in log.failed] == ["broken"] and log.finished == ["second"]
    with pytest.raises(RunError, match="Not all was done: mtnet first, full .0 of 1."):
        check_failures(queue)


def test_a_result_that_cannot_be_written_does_not_end_a_queue(tmp_path):
    queue = queued(tmp_path, row("b", inner_lr=0.02), name="first"), queued(tmp_path, row("a"), name="second")
    log = Log()

    def finish(one):
        if one.plan.item.name == "first":
            raise RunError("the disk is full")
        log.finished.append(one.plan.item.name)

    work_off(queue, Watcher(), lambda *_: None, finish, lambda unit, error: log.failed.append((unit.row, str(error))))
    assert log.failed == [("b", "the disk is full")] and log.finished == ["second"]


def test_a_setting_that_is_tried_is_chosen_by_the_validation_of_the_first_seed(tmp_path):
    tried = Tried("train.meta_lr", (1e-9, 0.01, 1e6))
    one = queued(tmp_path, row("a", tried), seeds=3)
    assert stand(one).cases == 6 and len(stand(one).trainings) == 5 and len(one.plan.units()) == 3, (
        "three trials; three seeds of what they choose"
    )
    log = Log().run(one)
    assert log.done == [("a", 0)] * 4 + [("a", 1), ("a", 2)] and stand(one).complete
    assert one.plan.chosen_settings(one.plan.rows[0]) == {"train.meta_lr": 0.01}
    assert len(list((tmp_path / "runs").glob("*/config.yaml"))) == 5, "the first seed is one of the trials"
    found, about = collect(one.plan)
    assert len(found.all("a", "error")) == 3 == len(about)
    for run in (tmp_path / "runs").glob("*/config.yaml"):
        settings = yaml.safe_load(run.read_text())
        assert settings["seed"] == 0 or settings["train"]["meta_lr"] == 0.01


def test_the_hours_that_are_left_are_guessed_then_measured(tmp_path):
    one = queued(tmp_path, row("a"), seeds=4, minutes=60)
    assert (stand(one).hours, stand(one).measured) == (1.0, False)
    two = replace(one, plan=replace(one.plan, seeds=2))
    Log().run(two)
    after = stand(one)
    assert after.measured and (after.done, after.cases, len(after.trainings)) == (2, 4, 2)
    took = [sum(Store(tmp_path).seconds(unit)) for unit in two.plan.units()]
    assert after.hours == pytest.approx(sum(took) / 3600) and all(seconds > 0 for seconds in took)


def test_a_training_that_rows_or_entries_share_is_counted_once(tmp_path):
    again = replace(row("again"), cells={"error": Cell("judged", {"tasks": 11})})
    one, two = queued(tmp_path, row("a"), again, seeds=4, name="one"), queued(tmp_path, row("c"), seeds=4, name="two")
    first, second = stand_all([one, two])
    assert (first.cases, len(first.trainings)) == (8, 4)
    assert (second.cases, len(second.trainings)) == (4, 0), "the first will have trained them"
    assert len(stand(two).trainings) == 4
    Log().run(replace(one, plan=replace(one.plan, seeds=2)))
    first, second = stand_all([one, two])
    assert (first.done, len(first.trainings), second.done, len(second.trainings)) == (4, 2, 2, 0)
    store, units = Store(tmp_path), one.plan.units()[:4]
    readings = sum(store.seconds(unit)[0] for unit in units)
    trained = sum({unit.name: store.seconds(unit)[1] for unit in units}.values())
    assert first.hours == pytest.approx((readings + trained) / 3600)
    assert second.hours == pytest.approx(sum(store.seconds(unit)[0] for unit in two.plan.units()[:2]) / 3600)


def test_a_training_that_has_ended_is_not_left_where_a_reading_is(tmp_path):
    one = queued(tmp_path, row("a"), row("b", inner_lr=0.02))
    Log().run(one)
    for reading in (tmp_path / "readings").glob("*.json"):
        reading.unlink()
    after = stand(one)
    assert (after.done, after.cases, len(after.trainings)) == (0, 2, 0)


def test_a_queue_stops_when_its_time_is_over(tmp_path):
    one = queued(tmp_path, row("a"))
    with pytest.raises(StoppedError):
        Log().run(one, watch=Until(Watcher(), time.time() - 1))
    assert not Until(Watcher(), None).stopping and not Until(Watcher(), time.time() + 60).stopping


def test_what_was_done_before_is_part_of_a_result(tmp_path):
    a, b, c = row("a"), row("b", inner_lr=0.02), row("c", inner_lr=0.03)
    every = queued(tmp_path, a, b, c)
    first = replace(every, plan=replace(every.plan, rows=(b,), seeds=2))
    second = replace(every, plan=replace(every.plan, rows=(a,), seeds=1))
    Log().run(first, second)
    whole = with_done(second.plan)
    assert [one.name for one in whole.rows] == ["a", "b"] and whole.seeds == 2
    found, _ = collect(whole)
    assert {name: len(found.all(name, "error")) for name in "ab"} == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"item": "table-61"}, "Entry 1 of .*Did you mean `table-6.1`"),
        ({"rows": ["mamll"]}, "Entry 1 of .*no row 'mamll' to run. Did you mean `maml`"),
        ({"scale": "cpu"}, "Entry 1 of .*mtnet table-6.1 has no scale 'cpu'. Known: full, quick, smoke"),
        ({"scale": "fulll"}, "There is no scale 'fulll'. Did you mean `full`"),
        ({"minutes": 0}, "is no queue: .*minutes"),
        ({"minute": 3}, "is no queue: .*minute"),
        ({"seeds": 0}, "is no queue: .*seeds"),
    ],
)
def test_mistakes_in_a_queue_are_named(tmp_path, change, said):
    (tmp_path / "q.yaml").write_text(yaml.safe_dump({"queue": [{**SMOKE[0], **change}]}))
    with pytest.raises(InputError, match=said):
        read_queue(tmp_path / "q.yaml", tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gone.yaml",), "gone.yaml cannot be read"),
        (("q.yaml", "table-6.1"), "item 'table-6.1' was given beside a queue"),
        (("q.yaml", "--rows", "maml"), "rows 'maml' was given beside a queue"),
        (("q.yaml", "--hours", "-1"), "`--hours` was -1"),
        (("mtnet", "--hours", "1"), "--hours is the time of a queue"),
    ],
)
def test_words_that_do_not_go_with_a_queue_are_named(cli, place, words, said):
    (place / "q.yaml").write_text(yaml.safe_dump({"queue": SMOKE}))
    ended = cli("reproduce", *words)
    assert ended.code == 2 and said in ended.err and ended.err.count("\n") == 1


def test_a_queue_is_listed_with_what_is_left(cli, place):
    (place / "q.yaml").write_text(yaml.safe_dump({"queue": SMOKE}))
    listed = cli("reproduce", "q.yaml", "--list")
    assert listed.code == 0 and "0 of 1" in listed.out and "the range" in listed.out
    lines = [json.loads(line) for line in cli("reproduce", "q.yaml", "--list", "--json").out.splitlines()]
    assert [(one["item"], one["done"], one["cases"], one["trainings_left"]) for one in lines] == [
        ("table-6.1", 0, 2, 2),
        ("figure-4", 0, 1, 0),
    ]


@pytest.mark.parametrize("words", [(), ("--list",)])
def test_a_queue_of_which_nothing_can_run_is_refused(cli, place, monkeypatch, words):
    monkeypatch.setenv("QUICKSTUDY_DATA", str(place / "empty"))
    pictures = {"paper": "beyond", "item": "shots", "scale": "smoke", "minutes": 1}
    (place / "q.yaml").write_text(yaml.safe_dump({"queue": [pictures]}))
    ended = cli("reproduce", "q.yaml", *words)
    assert (ended.code, ended.out) == (2, "")
    assert "Nothing of q.yaml can run" in ended.err and "(omniglot)" in ended.err
    (place / "q.yaml").write_text(yaml.safe_dump({"queue": [pictures, SMOKE[1]]}))  # what can run is shown
    listed = cli("reproduce", "q.yaml", "--list")
    assert listed.code == 0 and "beyond shots, smoke is left out" in listed.err and "the range" in listed.out


def test_a_queue_runs_writes_its_pages_and_is_done(cli, place):
    (place / "q.yaml").write_text(yaml.safe_dump({"queue": SMOKE[1:]}))
    ran = cli("reproduce", "q.yaml", "--out", "out")
    assert ran.code == 0, ran.err
    assert "Mexican-hat" in (place / "out" / "wormhole.md").read_text()
    again = cli("reproduce", "q.yaml", "--out", "out")
    assert again.code == 0 and "0 of 1 cases are left, with 0 trainings" in again.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_queue_in_one_line_and_loses_nothing(place, number):
    long = [{"paper": "mtnet", "item": "table-6.1", "scale": "quick", "rows": ["maml", "tnet"], "minutes": 3}]
    (place / "q.yaml").write_text(yaml.safe_dump({"queue": long}))
    words = [COMMAND, "reproduce", "q.yaml", "--workers", "2", "--out", "out", "--quiet"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        while len(list((place / "out" / "runs").glob("*/checkpoints/last.safetensors"))) < 2:
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        _, said = process.communicate()
    assert process.returncode == 1 and said.count("\n") == 1
    assert said.startswith("error: Stopped: 2 of 2 cases are left") and said.endswith("the same command goes on.\n")
    one = read_queue(place / "q.yaml", place / "out")[0]
    assert all(Store(place / "out").training(unit).run.load("last").state["step"] > 0 for unit in one.plan.units())
