"""Sweeps as people run them: what is refused, what is found, and what survives a kill."""

import json
import re
import signal
import sys
from itertools import pairwise

import pytest
import yaml

from conftest import SINE
from processes import MORTAL, Command, doom
from quickstudy.errors import InputError
from quickstudy.reports import canvas
from quickstudy.storage.run import Run
from quickstudy.training.sweep import figure as sweep_figures
from quickstudy.training.sweep.space import Choice, Range, parse_dimension

RATES = ("--search.method.inner_lr", "log:1e-3..0.05")


def rows(text):
    """The trials that `--json` printed, and the last line."""
    *trials, last = [json.loads(line) for line in text.splitlines()]
    return trials, last


@pytest.fixture
def sweep(cli):
    """`sweep(*words)` in this process, which has imported matplotlib once: the trials and the last line."""

    def run(*words):
        done = cli("sweep", "sine.yaml", *words, "--json")
        assert done.code == 0, done.out + done.err
        return rows(done.out)

    return run


# -- the space --


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("log:1e-4..0.5", Range(1e-4, 0.5, False, True)),
        ("0.1..0.9", Range(0.1, 0.9, False, False)),
        ("float:0..1", Range(0.0, 1.0, False, False)),
        ("-1.5..2", Range(-1.5, 2.0, False, False)),
        ("int:1..5", Range(1, 5, True, False)),
        ("logint:8..512", Range(8, 512, True, True)),
        ("maml,mtnet", Choice(("maml", "mtnet"))),
        ("16, 32,1e-3,true", Choice((16, 32, 1e-3, True))),
        ([[8], [40, 40]], Choice(([8], [40, 40]))),
    ],
)
def test_ranges_are_read(given, meant):
    assert parse_dimension("key", given) == meant
    if isinstance(meant, Range):
        assert parse_dimension("key", str(meant)) == meant


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("1..5", r"Are only whole numbers meant\? Write int:1..5 or float:1..5"),
        ("0.5..0.1", "does not go up"),
        ("5..1", "does not go up"),
        ("0.1..0.1", "does not go up"),
        ("log:0..1", "no logarithm of 0"),
        ("int:1..2.5", "ends are not whole"),
        ("lin:1..2", "which is no range. Write it like these: log:1e-4..0.1"),
        ("0.1..b", "where 'b' is no number"),
        ("0.1..inf", "where 'inf' is no number"),
        ("0.1...nan", "is no number"),
        ("0.1", "leaves nothing to search.* A fixed value is set by --key VALUE"),
        ("maml", "leaves nothing to search"),
        ("maml,maml", "has a value twice"),
        ("[a,b", "not readable as a list"),
        (0.1, "is 0.1, which leaves nothing to search"),
        ([1], "leaves nothing to search"),
        (None, "leaves nothing to search"),
    ],
)
def test_other_ranges_are_refused_with_one_that_would_do(given, message):
    with pytest.raises(InputError, match=message):
        parse_dimension("key", given)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Nothing is searched. Give the settings to vary"),
        (["--search.method.inner_lr", "0.5..0.1"], "Give the smaller end first: 0.1..0.9"),
        (["--search", "int:1..5"], "`--search` names no setting"),
        (["--search.method.inner_lrr", "0.1..0.5"], "no option of 'maml'. Did you mean `inner_lr`"),
        (["--search.train.metalr", "0.1..0.5"], "`train.metalr` is no setting. Did you mean `meta_lr`"),
        (["--search.method", "maml,mtnt"], "With `method` at 'mtnt'.* Did you mean `mtnet`"),
        (["--search.train.momentum", "float:0..1"], "With `train.momentum` at 1.0"),
        (["--search.method.inner_steps", "1.0..3.0"], "With `method.inner_steps`"),
        (["--search.evaluate.metric", "mse,mae"], "is mae, at 'mse' it is mse. These cannot be compared"),
        (["--search.tasks.shots", "int:1..10"], "`tasks.shots` at 10 a trial is validated on other tasks than at 1"),
        (["--search.tasks.amplitude", "[[0.1,1.0],[0.1,5.0]]"], "is validated on other tasks than at"),
        (["--search.train.validate_tasks", "int:2..10"], "`train.validate_tasks` at 10 a trial is validated on other"),
        ([*RATES, "--train.validate_every", "0"], "A sweep compares trials by their validation"),
        ([*RATES, "--train.steps", "0"], "A sweep compares trials by their validation"),
        ([*RATES, "--trials", "0"], "`--trials` was 0"),
        ([*RATES, "--workers", "0"], "`--workers` was 0"),
        ([*RATES, "--sarch.train.meta_lr", "0.1..0.2"], "is no option of `quickstudy sweep` and no setting"),
        ([*RATES, "--search.train.meta_lr"], "has no value"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_written(cli, place, words, message):
    before = sorted(place.iterdir())
    done = cli("sweep", "sine.yaml", *words, "--out", "out")
    assert done.code == 2
    assert_says(done.err, message)
    assert sorted(place.iterdir()) == before


def assert_says(text, message):
    place = 0
    for part in message.split(".*"):
        assert part in text[place:], text
        place = text.index(part, place) + len(part)


def test_without_optuna_it_says_what_to_install(cli, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = cli("sweep", "sine.yaml", *RATES, "--out", "out")
    assert done.code == 2
    assert 'pip install "quickstudy[sweep]"' in done.err
    assert not (place / "out").exists()


def test_a_storage_that_cannot_be_used_is_refused_without_its_password(cli):
    for url in ("nonsense", "nodatabase://ann:secret@host/x"):
        done = cli("sweep", "sine.yaml", *RATES, "--storage", url)
        assert done.code == 2
        assert "such as sqlite:///sweep.db" in done.err
        assert "secret" not in done.err


def test_a_directory_that_holds_something_else_is_refused(cli, sweep, place):
    assert cli("train", "sine.yaml", "--out", "run", "--quiet", "--no-tensorboard").code == 0
    done = cli("sweep", "sine.yaml", *RATES, "--out", "run")
    assert done.code == 2 and "run is a run, and a sweep holds many" in done.err
    sweep(*RATES, "--trials", "1", "--out", "out")
    done = cli("sweep", "sine.yaml", *RATES, "--out", "out", "--name", "another")
    assert done.code == 2 and "0000 is a run that the study 'another' does not know" in done.err


# -- what is found --


def test_a_sweep_as_a_user_sees_it(place):
    words = ("sweep", "sine.yaml", *RATES, "--search.train.optimizer", "adam,sgd", "--trials", "3", "--out", "out")
    done = Command(*words, cwd=place).wait()
    assert done.code == 0, done.err
    assert "validation mse" in done.out and "train.optimizer" in done.out
    assert "3 trials: 3 complete" in done.out
    assert (place / "out" / "values.png").read_bytes().startswith(b"\x89PNG")
    (command,) = [line for line in done.err.splitlines() if line.startswith("note: next: ")]
    best = command.rpartition(" ")[2]
    assert best in done.out.partition("│")[2].splitlines()[0], "the best comes first"
    assert Run.open(place / best).load("last").state["step"] == 20


@pytest.mark.slow
def test_a_sweep_goes_on_to_more_trials_as_if_it_had_not_stopped(sweep):
    two, _ = sweep(*RATES, "--seed", "1", "--trials", "2", "--out", "out")
    four, last = sweep(*RATES, "--seed", "1", "--trials", "4", "--out", "out")
    unstopped, _ = sweep(*RATES, "--seed", "1", "--trials", "4", "--out", "other")
    others, _ = sweep(*RATES, "--seed", "2", "--trials", "1", "--out", "third")
    assert four[:2] == two
    assert last["states"] == {"complete": 4}
    assert [(t["params"], t["value"]) for t in four] == [(t["params"], t["value"]) for t in unstopped]
    assert len({t["params"]["method.inner_lr"] for t in [*four, *others]}) == 5


def test_each_trial_is_a_run_with_the_sampled_settings_and_its_best_validation(sweep):
    trials, last = sweep(*RATES, "--search.model.hidden", "[[8],[4,4]]", "--trials", "3")
    for trial in trials:
        run = Run.open(trial["run"])
        assert run.config["method"]["inner_lr"] == trial["params"]["method.inner_lr"]
        assert run.config["model"]["hidden"] == trial["params"]["model.hidden"]
        assert trial["value"] == min(row["metric"] for row in run.metrics() if row["kind"] == "val")
    assert last["best"] == min(trials, key=lambda t: t["value"])["run"]


def test_a_file_holds_the_space_and_the_command_line_wins(cli, place):
    searched = SINE | {"search": {"method": {"inner_lr": "log:1e-3..0.05"}, "train.meta_lr": [0.1, 0.2]}}
    (place / "wide.yaml").write_text(yaml.safe_dump(searched))
    done = cli("sweep", "wide.yaml", "--search.train.meta_lr", "0.01..0.02", "--trials", "2", "--json")
    trials, _ = rows(done.out)
    for trial in trials:
        assert 1e-3 <= trial["params"]["method.inner_lr"] <= 0.05
        assert 0.01 <= trial["params"]["train.meta_lr"] <= 0.02
        assert trial["run"].startswith("runs/wide-sweep/trials/")


def test_a_study_is_gone_on_with_by_the_same_settings_only(cli, sweep):
    shared = ("--storage", "sqlite:///both.db")
    sweep(*RATES, "--trials", "1", "--out", "out", *shared, "--name", "one")
    for other in (("--train.steps", "30"), ("--search.method.inner_lr", "log:1e-3..0.5")):
        done = cli("sweep", "sine.yaml", *RATES, *other, "--out", "out", *shared, "--name", "one")
        assert done.code == 2
        assert "was begun with" in done.err and "(now " in done.err
    trials, _ = sweep(*RATES, "--train.steps", "30", "--trials", "1", "--out", "b", *shared)
    assert [t["trial"] for t in trials] == [0], "another name is another study of the same database"


# -- what goes wrong --


@pytest.mark.slow
def test_worse_trials_are_pruned_and_their_runs_can_go_on(cli, sweep):
    words = ("--search.method.inner_lr", "0.03,0.02,1e-6", "--train.validate_every", "5", "--trials", "9")
    trials, last = sweep(*words)
    pruned = [t for t in trials if t["state"] == "pruned"]
    assert pruned and {t["params"]["method.inner_lr"] for t in pruned} == {1e-6}
    run = Run.open(pruned[0]["run"])
    assert 0 < run.load("last").state["step"] < 20
    assert cli("train", "--resume", run.path, "--quiet").code == 0
    assert run.load("last").state["step"] == 20
    trials, last = sweep(*words, "--no-prune", "--out", "all")
    assert last["states"] == {"complete": 9}


def test_trials_that_fail_are_recorded_and_the_sweep_goes_on(cli, sweep):
    trials, last = sweep("--search.method.inner_lr", "0.01,1e30", "--trials", "4")
    for trial in trials:
        if trial["params"]["method.inner_lr"] == 0.01:
            assert trial["state"] == "complete"
        else:
            assert trial["state"] == "failed" and trial["value"] is None
            assert "became nan" in trial["error"]
    assert set(last["states"]) == {"complete", "failed"}
    done = cli("sweep", "sine.yaml", "--search.method.inner_lr", "log:1e29..1e30", "--trials", "2", "--out", "bad")
    assert done.code == 1
    assert "None of 2 trials came to its end. Trial 0 failed: The loss became nan" in done.err


def test_settings_that_do_not_go_together_fail_their_trials_only(sweep, place):
    (place / "pair.py").write_text(
        "from torch import nn\n"
        "def net(inputs, outputs, *, width: int = 4, depth: int = 1):\n"
        "    if width * depth == 16:\n"
        "        raise ValueError('too large together')\n"
        "    return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, outputs))\n"
    )
    over = ("--model", "{name: pair:net}", "--search.model.width", "4,8", "--search.model.depth", "1,2")
    trials, _ = sweep(*over, "--trials", "6")
    assert {(t["params"]["model.width"], t["params"]["model.depth"]) == (8, 2) for t in trials} == {True, False}
    for trial in trials:
        clash = (trial["params"]["model.width"], trial["params"]["model.depth"]) == (8, 2)
        assert ("too large together" in (trial["error"] or "")) == clash == (trial["state"] == "failed")


# -- several processes, and kills --


@pytest.mark.parametrize(
    "storage",
    [
        pytest.param((), id="journal"),
        pytest.param(("--storage", "sqlite:///study.db"), id="database", marks=pytest.mark.slow),
    ],
)
def test_a_sweep_that_is_cut_short_ends_as_one_that_was_not(sweep, place, storage):
    (place / "mortal.py").write_text(MORTAL)
    words = (*RATES, "--tasks", "mortal:Mortal", "--train.checkpoint_every", "5", "--trials", "3")
    cut_short = (*words, "--out", "out", *storage)
    # The first process ends in trial 0, the second takes that up from step 13 and ends in trial 1.
    for trial, (number, code) in enumerate(((signal.SIGINT, 1), (signal.SIGKILL, -signal.SIGKILL))):
        doom(place, 12, number)
        done = Command("sweep", "sine.yaml", *cut_short, cwd=place).wait()
        assert done.code == code, done.err
        assert 0 < Run.open(place / f"out/trials/000{trial}").load("last").state["step"] < 20
        if number == signal.SIGINT:
            said = "error: Stopped: 0 of 3 trials have ended, and nothing is lost. The same command goes on."
            assert said in done.err
    cut, last = sweep(*cut_short)
    whole, _ = sweep(*words, "--out", "other")
    assert last["states"] == {"complete": 3}
    assert [(t["params"], t["value"]) for t in cut] == [(t["params"], t["value"]) for t in whole]


def test_half_a_line_of_a_full_disk_does_not_lose_the_study(sweep, place):
    one, _ = sweep(*RATES, "--trials", "1", "--out", "out")
    with (place / "out" / "journal.log").open("a") as journal:
        journal.write('{"op_code":5,"worker_')
    two, last = sweep(*RATES, "--trials", "2", "--out", "out")
    assert two[:1] == one and last["states"] == {"complete": 2}


def test_a_sweep_of_an_earlier_version_goes_on_in_its_database(sweep, place):
    (place / "out").mkdir()
    one, _ = sweep(*RATES, "--trials", "1", "--out", "out", "--storage", "sqlite:///out/study.db")
    two, last = sweep(*RATES, "--trials", "2", "--out", "out")
    assert two[:1] == one and last["states"] == {"complete": 2}
    assert not (place / "out" / "journal.log").exists()


@pytest.mark.parametrize(
    ("key", "value"), [*(("param_value_internal", value) for value in ('"a"', "[1]", "{}")), ("values", '["a"]')]
)
def test_a_trial_of_another_shape_is_named(cli, sweep, place, key, value):
    sweep(*RATES, "--trials", "1", "--out", "out")
    journal = place / "out" / "journal.log"
    journal.write_text(re.sub(rf'"{key}": ?(\[[^]]*\]|[^,}}]*)', f'"{key}": {value}', journal.read_text()))
    done = cli("sweep", "sine.yaml", *RATES, "--trials", "1", "--out", "out")
    assert done.code == 1 and "The study at out/journal.log could not be read" in done.err and done.err.count("\n") == 1


def test_a_complete_trial_without_its_settings_is_named(cli, sweep, place):
    sweep(*RATES, "--trials", "1", "--out", "out")
    journal = place / "out" / "journal.log"
    lines = [line for line in journal.read_text().splitlines(keepends=True) if "param_value_internal" not in line]
    journal.write_text("".join(lines))
    done = cli("sweep", "sine.yaml", *RATES, "--trials", "1", "--out", "out")
    assert done.code == 1 and "trial 0 is complete and does not say its method.inner_lr" in done.err


@pytest.mark.parametrize("line", ["no study", '{"op_code": 99, "worker_id": "a"}', '{"op_code": 2}', "[]"])
def test_a_study_that_cannot_be_read_says_so(cli, sweep, place, line):
    sweep(*RATES, "--trials", "1", "--out", "out")
    journal = place / "out" / "journal.log"
    journal.write_text(line + "\n" + journal.read_text())
    done = cli("sweep", "sine.yaml", *RATES, "--trials", "2", "--out", "out")
    assert done.code == 1
    assert (
        "The study at out/journal.log could not be read or written" in done.err and "run the same command" in done.err
    )


@pytest.mark.slow
def test_processes_share_a_study(sweep, place):
    words = (*RATES, "--trials", "6", "--no-prune", "--out", "out", "--json")
    together = [Command("sweep", "sine.yaml", *words, *more, cwd=place) for more in ((), ("--workers", "2"))]
    for process in together:
        done = process.wait()
        assert done.code == 0, done.out + done.err
    trials, last = sweep(*words)
    assert [t["trial"] for t in trials] == list(range(6))
    assert last["states"] == {"complete": 6}
    assert sorted(path.name for path in (place / "out/trials").glob("[0-9]*")) == [f"{n:04d}" for n in range(6)]


@pytest.mark.parametrize("over", ["0.001..0.5", "0.2..0.3", "0.03..0.5", "1e-8..1e-1", "0.011..0.9"])
def test_the_labels_of_a_logarithmic_range_do_not_run_into_each_other(over):
    pytest.importorskip("matplotlib")
    figure, grid = canvas.new_figure(11.2, 3.5, 1, 3)  # a figure of three panels, the narrowest
    searched = parse_dimension("key", f"log:{over}")
    sweep_figures._log_axis(grid[0], searched)
    canvas.label_axes(grid[0], "", "key", "value")
    figure.canvas.draw()
    low, high = grid[0].get_xlim()
    texts = [t for which in ("major", "minor") for t in grid[0].get_xticklabels(which=which) if t.get_text()]
    shown = [t for t in texts if low <= t.get_position()[0] <= high]
    ends = sorted((box.x0, box.x1) for box in (t.get_window_extent() for t in shown))
    assert len(ends) > 1 and all(left[1] < right[0] for left, right in pairwise(ends)), [t.get_text() for t in shown]
