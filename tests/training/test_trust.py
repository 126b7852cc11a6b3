"""Code that a configuration names is run for the user's own files and runs, and for no run from elsewhere."""

import os
import pty
import select
import shutil
import subprocess
import sys

import pytest
import yaml

import quickstudy
from conftest import COMMAND, SINE
from quickstudy.errors import InputError
from quickstudy.storage.run import Run
from quickstudy.storage.trust import named_code
from quickstudy.training import config

OWN = """
from torch import nn
from quickstudy import maml
from quickstudy.tasks import Sine

open("was-run", "a").close()


def net(inputs, outputs, hidden=4):
    return nn.Sequential(nn.Linear(inputs[0], hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def method(model, inner_lr=0.1):
    return maml(model, inner_lr=inner_lr, loss="mse")


class Waves(Sine):
    pass
"""
MINE = {
    **SINE,
    "model": "own:net",
    "tasks": {"name": "own:Waves", "shots": 5, "queries": 5},
    "method": "own:method",
    "train": {"steps": 2},
}


@pytest.fixture
def foreign(cli, place, monkeypatch):
    """A run from elsewhere: `foreign({"model": ...})` makes one with these settings; none of ours is in its place."""
    assert cli("train", "sine.yaml", "--train.steps", 1, "--out", "run", "--quiet", "--no-tensorboard").code == 0

    def make(changes):
        settings = yaml.safe_load((place / "run" / "config.yaml").read_text())
        for key, value in changes.items():
            settings[key] = {**settings[key], **value} if isinstance(value, dict) else value
        shutil.rmtree(place / "foreign", ignore_errors=True)
        shutil.copytree(place / "run", place / "foreign")
        (place / "foreign" / "config.yaml").write_text(yaml.safe_dump(settings))
        return place / "foreign"

    (place / "own.py").write_text(OWN)
    (place / "mine.yaml").write_text(yaml.safe_dump(MINE))
    monkeypatch.delitem(sys.modules, "own", raising=False)  # what an earlier test has imported is not run again
    return make


COMMANDS = (
    ["evaluate", "foreign"],
    ["evaluate", "run", "foreign", "--json"],
    ["compare", "run", "foreign"],
    ["train", "--resume", "foreign"],
    ["train", "--resume", "foreign", "--print-config"],
    ["train", "foreign/config.yaml", "--out", "new"],
    ["train", "foreign/config.yaml", "--model", "mlp", "--out", "new"],
    ["sweep", "foreign/config.yaml", "--search.method.inner_lr", "log:1e-3..0.1", "--out", "new"],
    ["info", "foreign/config.yaml"],
)
TOUCH = {"name": "os:system", "command": "touch was-run"}
PLACES = {
    "model": {"model": TOUCH},
    "model alone": {"model": "own:net"},
    "tasks": {"tasks": {"name": "own:Waves"}},
    "method": {"method": {"name": "own:method"}},
    "bytes": {"model": {"name": b"own:net"}},
    "nested tasks": {"tasks": {"name": "cross", "train": {"name": "own:Waves"}, "test": "sine"}},
    "nested tasks by name": {"tasks": {"name": "cross", "train": "own:Waves", "test": "sine"}},
    "options of the evaluation": {"evaluate": {"options": {"name": "own:Waves"}}},
    "nested options of the evaluation": {"evaluate": {"options": {"name": "cross", "train": TOUCH}}},
    "loss": {"method": {"loss": "own:net"}},
    "another interpreter's": {"model": {"name": "subprocess:check_call", "popenargs": ["touch", "was-run"]}},
}


@pytest.mark.parametrize("changes", PLACES.values(), ids=PLACES)
def test_a_run_from_elsewhere_runs_nothing_unasked(cli, place, foreign, changes):
    foreign(changes)
    refused(cli("evaluate", "foreign"), place)
    with pytest.raises(InputError):
        quickstudy.load("foreign")
    for words in (["report", "foreign"], ["info", "foreign"], ["list"]):
        cli(*words)
        assert not (place / "was-run").exists()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_verb_runs_it_unasked(cli, place, foreign, words):
    foreign(PLACES["model"])
    refused(cli(*words), place)
    assert not (place / "new").exists()


def refused(done, place):
    *_, said = (done.err + done.out).splitlines()
    assert done.code == 2 and ("--trust-code" in said or "binary" in said), done
    assert not (place / "was-run").exists()


@pytest.mark.parametrize("words", [["report", "foreign"], ["info", "foreign"], ["list", "models"]])
def test_looking_at_a_run_from_elsewhere_is_no_danger(cli, place, foreign, words):
    foreign(PLACES["model"])
    assert cli(*words).code == 0 and not (place / "was-run").exists()


@pytest.mark.parametrize(
    ("what", "part"),
    [
        ("model", {"name": "quickstudy.storage.files:write_atomic", "path": "was-run", "data": "x"}),
        ("model", {"name": "quickstudy.papers.runner.measures:import_module", "name_": "own"}),
        ("model", {"name": "quickstudy.engine.launch:launch_workers", "workers": 1, "words": ["list"]}),
        ("model", {"name": "quickstudy.cli.main:run_command", "args": ["evaluate", "foreign", "--trust-code"]}),
        ("method", {"name": "quickstudy.training.restore:load", "path": "run", "trust": True}),
        ("method", {"name": "quickstudy:load", "path": "run", "trust": True}),
        ("tasks", {"name": "quickstudy.training.restore:restore", "run": "run"}),
        ("model", {"name": "quickstudy.models.nets:nn"}),
        ("model", "quickstudy:mlp.__globals__"),
        ("model", "1quickstudy.x:y"),
    ],
)
@pytest.mark.parametrize("trust", [[], ["--trust-code"]])
def test_of_the_library_only_what_makes_parts_can_be_named(cli, place, foreign, what, part, trust):
    foreign({what: part})
    done = cli("evaluate", "foreign", *trust)
    assert done.code == 2 and what in done.err and not (place / "was-run").exists(), done


@pytest.mark.parametrize("name", ["quickstudy.models.nets:mlp", "quickstudy:maml", "quickstudy.tasks:Sine"])
def test_parts_of_the_library_need_no_trust(cli, foreign, name):
    what = {"mlp": "model", "maml": "method", "Sine": "tasks"}[name.partition(":")[2]]
    foreign({what: {"name": name}})
    assert cli("evaluate", "foreign", "--quiet").code == 0


def test_what_the_user_has_made_or_types_needs_no_trust(cli, place, foreign):
    assert cli("train", "mine.yaml", "--out", "mine", "--quiet").code == 0
    assert cli("evaluate", "mine", "--quiet").code == 0
    assert cli("train", "--resume", "mine", "--quiet").code == 0
    assert cli("compare", "mine", "mine", "--quiet").code == 0
    assert cli("train", "mine/config.yaml", "--out", "again", "--quiet").code == 0
    assert cli("evaluate", "run", "--tasks", "own:Waves", "--quiet").code == 0
    (place / "moved").mkdir()
    (place / "mine").rename(place / "moved" / "mine")
    assert quickstudy.load("moved/mine") is not None
    (place / "typed.yaml").write_text(yaml.safe_dump({**SINE, "model": "own:net"}))
    assert cli("train", "typed.yaml", "--train.steps", 1, "--out", "typed", "--quiet").code == 0


@pytest.mark.parametrize("name", ["config.yaml", "other.yaml", "results/other.yaml"])
def test_a_file_inside_a_run_is_the_runs(cli, place, foreign, name):
    path = foreign({"model": "own:net"}) / name
    path.parent.mkdir(exist_ok=True)
    if name != "config.yaml":
        path.write_text(yaml.safe_dump({**SINE, "model": "own:net"}))
    (place / "link.yaml").symlink_to(path)
    for given in (path, "link.yaml"):
        done = cli("train", given, "--out", "new")
        assert done.code == 2 and "--trust-code" in done.err and not (place / "was-run").exists()
    assert cli("train", path, "--out", "new", "--trust-code", "--train.steps", 1, "--quiet").code == 0


@pytest.mark.parametrize(
    "search",
    [
        {"model": ["own:net", "mlp"]},
        {"model": "own:net,mlp"},
        {"model": {"name": "mlp, own:net"}},
        {"model": '"own\\x3anet",mlp'},
        {"model='own\\x3anet' #": "1,2"},
    ],
)
def test_what_a_file_of_a_run_searches_is_the_runs_too(cli, place, foreign, search):
    settings = yaml.safe_load((foreign({}) / "config.yaml").read_text())
    (place / "foreign" / "config.yaml").write_text(yaml.safe_dump({**settings, "search": search}))
    assert cli("sweep", "foreign/config.yaml", "--out", "new").code == 2 and not (place / "was-run").exists()


def test_trust_is_given_for_a_command(cli, place, foreign):
    foreign({"model": {"name": "own:net", "hidden": 8}, "train": {"steps": 0}})
    assert cli("evaluate", "foreign").code == 2
    assert cli("evaluate", "foreign", "--trust-code").code == 2  # the checkpoint is of another model
    assert (place / "was-run").exists()
    (place / "was-run").unlink()
    assert cli("evaluate", "foreign").code == 2 and not (place / "was-run").exists()


def test_a_changed_configuration_is_another_one(cli, place, foreign, monkeypatch):
    assert cli("train", "mine.yaml", "--out", "mine", "--quiet").code == 0
    kept = (place / "mine" / "config.yaml").read_text()
    (place / "mine" / "config.yaml").write_text(kept.replace("hidden: 4", "hidden: 5"))
    done = cli("evaluate", "mine")
    assert done.code == 2 and "own:net, with {" in done.err and '"hidden": 5' in done.err
    (place / "mine" / "config.yaml").write_text(kept)
    assert cli("evaluate", "mine", "--quiet").code == 0
    monkeypatch.setenv("QUICKSTUDY_STATE", str(place / "another-user"))
    assert "--trust-code" in cli("evaluate", "mine").err
    shutil.copytree(place / "another-user", place / "mine" / "state", dirs_exist_ok=True)
    assert "--trust-code" in cli("evaluate", "mine").err


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"\n", 2), (b"\x04", 2)])
def test_at_a_terminal_the_user_is_asked_once(place, foreign, cli, answer, code):
    assert cli("train", "mine.yaml", "--out", "mine", "--quiet").code == 0
    environment = {**os.environ, "QUICKSTUDY_STATE": str(place / "another-user"), "COLUMNS": "200"}
    shown = _at_terminal(["evaluate", "mine", "--quiet"], environment, answer)
    assert b"would run code that is not quickstudy's: tasks is own:Waves" in shown[1] and shown[0] == code, shown
    if not code:
        done = subprocess.run([str(COMMAND), "evaluate", "mine", "--quiet"], env=environment, check=False, cwd=place)
        assert done.returncode == 0


def _at_terminal(words, environment, answer):
    master, terminal = pty.openpty()
    with subprocess.Popen(
        [str(COMMAND), *words], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    ) as process:
        os.close(terminal)
        shown = b""
        while select.select([master], [], [], 60)[0]:
            try:
                shown += os.read(master, 65536)
            except OSError:
                break
            if b"[y/N]" in shown and answer:
                os.write(master, answer)
                answer = b""
    os.close(master)
    return process.returncode, shown


def test_names_are_found_wherever_they_stand():
    assert named_code({"a": [{"b": ["x", "mod:f,mod:g"]}], "c": {"d": "text: with a colon", "e": "log:1e-4..1"}}) == [
        "a.b is mod:f",
        "a.b is mod:g",
    ]
    assert (
        named_code({"p": "C:\\pictures", "device": "cuda:0", "url": "https://example.org/a", "r": "quickstudy.a:b"})
        == []
    )


def test_names_are_found_in_a_long_text_and_not_in_the_middle_of_a_word():
    long = "a" * 2**20
    assert named_code({"a": f"{long} {long}. mod:f,{'a.' * 2**18}", "b": "9mod:f, x.9.mod:g"}) == ["a is mod:f"]


def test_a_library_name_of_an_earlier_layout_is_known():
    raw = {**SINE, "model": {"name": "quickstudy.reproduce.wormhole.models:weights_only", "low": -1.0, "high": 1.0}}
    config.build(config.parse_config({**raw, "tasks": {"name": "threshold", "shots": 5, "queries": 5}}))


def test_a_run_is_made_where_nothing_can_be_remembered(place, monkeypatch):
    (place / "file").touch()
    monkeypatch.setenv("QUICKSTUDY_STATE", str(place / "file" / "state"))
    Run.create(place / "made", {"model": "own:net"})
    assert Run.open(place / "made").config == {"model": "own:net"}
