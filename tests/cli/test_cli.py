"""The command line as people meet it: what it prints and where, what it refuses, and with which exit code."""

import ast
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

import quickstudy
from conftest import COMMAND, SINE
from quickstudy.bench.suites import SUITES, get_suite
from quickstudy.cli import sources
from quickstudy.cli.commands import VERBS, demo
from quickstudy.cli.commands.data import Data
from quickstudy.cli.commands.list import read_lists
from quickstudy.cli.terminal import Console, describe_values
from quickstudy.evaluation.evaluate import PROTOCOLS
from quickstudy.evaluation.metrics import METRICS
from quickstudy.methods.registry import METHODS
from quickstudy.methods.wormhole import CHARTS
from quickstudy.models.nets import NETS
from quickstudy.rules.criteria import CRITERIA
from quickstudy.storage.run import Run
from quickstudy.training import config
from quickstudy.training.config.build import TASKS


@pytest.fixture
def run(cli, place):
    assert cli("train", "sine.yaml", "--out", "run", "--quiet", "--no-tensorboard").code == 0
    return Run.open("run")


def finish(command, **options):
    """A command run to its end in a process of its own."""
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, **options)


# -- words --


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Say what to do: quickstudy demo, list, train"),
        (["trian", "sine.yaml"], "no verb 'trian'. Did you mean `train`"),
        (["--quiet", "train", "sine.yaml"], "The verb comes first"),
        (["--qiet"], "no verb '--qiet'"),
        (["train"], "Give a configuration to start from, or --resume RUN"),
        (["train", "sine.yaml", "--resume", "run"], "leave sine.yaml out, or start anew without --resume"),
        (["train", "sine.yml"], "no configuration 'sine.yml'"),
        (["train", "sine.yaml", "--quite"], "`--quite` is no option of `quickstudy train`.* Did you mean `--quiet`"),
        (["train", "sine.yaml", "--steps", "5"], "Did you mean `train.steps`"),
        (["train", "sine.yaml", "--train.steps"], "--train.steps has no value"),
        (["train", "sine.yaml", "--search.method.inner_lr", "1..2"], "no setting. `quickstudy sweep` takes it"),
        (["train", "sine.yaml", "--train.step", "5"], "`train.step` is no setting. Did you mean `steps`"),
        (["train", "sine.yaml", "sine-maml"], "takes one config; given: sine.yaml sine-maml"),
        (["demo", "digits"], "takes nothing more; given: digits"),
        (["train", "sine.yaml", "--out"], "--out has no value; write --out VALUE"),
        (["train", "--resume", "--quiet"], "--resume has no value"),
        (["train", "sine.yaml", "-x"], "`-x` is no option"),
        (["train", "--train.steps", "--quiet", "sine.yaml"], "--train.steps has no value"),
        (["train", "--out", "--train.steps", "5", "sine.yaml"], "--out has no value; write --out VALUE"),
        (["demo", "--seed", "x"], "--seed: invalid literal for int.* 'x'. For more: quickstudy demo --help"),
        (["evaluate", "run", "--workers", "2.5"], "--workers: invalid literal for int"),
        (["reproduce", "mtnet", "table-6.1", "x"], "takes one paper and one item; given: mtnet table-6.1 x"),
        (["train", "sine.yaml", "--train.meta-lr", "x"], "`train.meta_lr`: input should be a valid number"),
        (["list", "tsks"], "nothing called 'tsks' to list. Did you mean `tasks`"),
        (["list", "--train.steps", "5"], "`--train.steps` is no option of `quickstudy list`"),
        (["evaluate"], "Give one or more run directories"),
        (["train", "mini_imagenet"], "'mini_imagenet' is a family of tasks, not a.*Configurations with it: mini-maml"),
        (["train", "anil"], "'anil' is a method, not a configuration. Put it into one: --method anil"),
        (["train", "sine.yaml", "--train.probes", "mask.*"], "valid tuple.*mask.*Write a list: '.mask.*.'"),
        (["evaluate", "nowhere"], "no run at nowhere .no config.yaml.. There are none near it"),
        (["evaluate", "sine.yaml"], "no run at sine.yaml"),
        (["compare", "run"], "two runs or more; 1 given"),
        (["report"], "Give one or more run directories"),
        (["report", "nowhere"], "no run at nowhere"),
        (["info", "nowhere"], "no run at nowhere"),
        (["demo", "--steps", "0"], "`--steps` was 0"),
        (["train", "sine.yaml", "--out", "sine.yaml"], "sine.yaml is a file, and a run is a directory"),
        (["train", "sine.yaml", "--out", "."], "is not empty .it has sine.yaml. and is not a run"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_cannot_be_understood_is_refused_on_a_line(cli, place, words, message):
    before = sorted(place.iterdir())
    done = cli(*words)
    assert done.code == 2 and done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("error: ") and re.search(message, line), line
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_is_printed_and_nothing_is_done(cli, place, words):
    done = cli(*words)
    assert done.code == 0 and done.err == "" and "usage: quickstudy" in done.out
    assert "None" not in done.out and "no-no" not in done.out
    assert [path.name for path in place.iterdir()] == ["sine.yaml"]


def test_words_may_stand_in_any_order(cli, run):
    for name, words in (
        ("one", ["--train.steps", "6", "sine.yaml", "--out", "one", "--no-tensorboard"]),
        ("two", ["--no-tensorboard", "--out=two", "--train.steps=6", "sine.yaml"]),
        ("three", ["sine.yaml", "--no_tensorboard", "--train.steps", "9", "--out", "three", "--train.steps", "6"]),
        (
            "four",
            ["--no_tensorboard", "--no-tensorboard", "--train.steps", "6", "--out", "four", "--quiet", "sine.yaml"],
        ),
    ):
        assert cli("train", *words).code == 0
        assert Run.open(name).load("last").state["step"] == 6
    one, other = (
        cli("evaluate", "--evaluate.tasks", "9", "run", "--json"),
        cli("evaluate", "run", "--json", "--evaluate.tasks=9"),
    )
    assert json.loads(one.out)["mean"] == json.loads(other.out)["mean"] and json.loads(one.out)["tasks"] == 9


def test_exit_codes_and_streams_are_those_of_a_good_citizen(cli, shell):
    done = shell("list", "charts")
    assert (done.code, done.err) == (0, "") and "tanh" in done.out
    done = shell("list", "charst")
    assert (done.code, done.out) == (2, "") and done.err.startswith("error: There is nothing called 'charst'")
    done = cli("info")
    assert (done.code, done.err) == (0, "") and "torch" in done.out
    done = cli("train", "sine.yaml", "--train.optimizer", "sgd", "--train.meta_lr", "1e30", "--quiet", "--out", "run")
    assert (done.code, done.out) == (1, "") and done.err.startswith("error: ")
    assert len(done.err.splitlines()) == 1


# What the package's source says is read and not imported: these words are answered before torch could be imported.
TORCH_FREE = [
    [],
    ["--help"],
    ["-h"],
    ["trian"],
    ["--quiet", "train"],
    *([verb, "--help"] for verb in VERBS),
    *(["data", verb, "--help"] for verb in Data.verbs),
    ["data", "chekc"],
    ["list", "--jsn"],
    ["train", "sine.yaml", "--quite"],
    ["train", "sine.yaml", "--steps", "5"],
    ["train", "sine.yaml", "again.yaml"],
    ["evaluate", "run", "--workers", "x"],
    ["list"],
    ["list", "methods", "--json"],
    ["--version"],
]
HEAVY = ("torch", "numpy", "matplotlib", "sklearn", "optuna", "pydantic")


def test_help_lists_and_typing_errors_import_no_torch(place):
    """In one process: what is not imported after the last of these word lines was imported by none of them."""
    script = (
        "import sys\nfrom quickstudy.__main__ import main\n"
        f"for words in {TORCH_FREE!r}:\n"
        "    sys.argv = ['quickstudy', *words]\n"
        "    code = main()\n"
        f"    print([code, words, [name for name in {HEAVY!r} if name in sys.modules]], file=sys.stderr)\n"
    )
    done = finish([sys.executable, "-c", script], cwd=place)
    assert done.returncode == 0, done.stderr
    lines = [ast.literal_eval(line) for line in done.stderr.splitlines() if line.startswith("[")]
    assert [words for _, words, _ in lines] == TORCH_FREE
    for code, words, imported in lines:
        done = {"--help", "-h", "--version"} & set(words) or words in (["list"], ["list", "methods", "--json"])
        wanted = 0 if done else 2
        assert (code, imported) == (wanted, []), words


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("list >&-", 1, "error: Standard output is closed"),
        ("list --json >&-", 1, "error: Standard output is closed"),
        ("list >/dev/full", 1, "error: Output cannot be written: No space left on device."),
        ("list --json >/dev/full", 1, "error: Output cannot be written: No space left on device."),
        ("list --help >/dev/full", 1, "error: Output cannot be written: No space left on device."),
        ("trian --json >/dev/full", 2, "error: There is no verb 'trian'"),
        ("list charts 2>&-", 0, ""),
        ("list charts 2>/dev/full", 0, ""),
        ("trian 2>&-", 2, ""),
        ("trian 2>/dev/full", 2, ""),
        ("trian >&- 2>&-", 2, ""),
        ("list charts <&-", 0, ""),
        ("info run >/dev/full", 1, "error: Output cannot be written: No space left on device."),
        ("compare run run >&-", 1, "error: Standard output is closed"),
        ("report run >&-", 1, "error: Standard output is closed"),
        ("evaluate run --name new 2>/dev/full </dev/null", 0, ""),
        ("evaluate run --name new --quiet >&-", 1, "error: Standard output is closed"),
        ("evaluate run --name new --json >/dev/full", 1, "error: Output cannot be written: No space left on device."),
        ("evaluate run --name new >&- 2>&- <&-", 1, ""),
        ("train sine.yaml --out new 2>/dev/full", 0, ""),
        ("train sine.yaml --out new --quiet >&-", 0, ""),
        (
            "train sine.yaml --out new --json >/dev/full",
            1,
            "error: Output cannot be written: No space left on device. Stop",
        ),
    ],
)
def test_streams_that_are_closed_or_full_end_in_a_line_and_lose_no_result(place, cli, line, code, said):
    if " run" in line:
        assert cli("train", "sine.yaml", "--out", "run", "--train.steps", 2, "--quiet", "--no-tensorboard").code == 0
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = finish(["bash", "-c", f"{COMMAND} {line}"], cwd=place, env=buffered)
    assert done.returncode == code and len(done.stderr.splitlines()) == bool(said) and done.stderr.startswith(said), (
        done
    )
    if line.startswith("evaluate"):
        assert Run.open("run").results()["new"].summary["tasks"] == 20
    if line.startswith("train") and "--print-config" not in line:
        assert Run.open("new").load("last").state["step"] > 0


def test_files_in_the_current_directory_replace_no_library(place, shell):
    """They are found as parts of a configuration, and only then."""
    for name in ("matplotlib", "yaml", "tyro", "rich"):
        (place / f"{name}.py").write_text(f"print('{name}.py was run')\nraise SystemExit(7)\n")
    (place / "mine.py").write_text(
        "from torch import nn\ndef net(inputs, outputs):\n    return nn.Linear(inputs[0], outputs)\n"
    )
    for command in ([COMMAND], [sys.executable, "-m", "quickstudy"]):
        done = finish([*command, "list", "charts"], cwd=place)
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("charts\n"), done
    words = "train sine.yaml --model mine:net --train.steps 1 --out run --no-tensorboard --quiet"
    begin = (
        "from quickstudy.cli.main import run_command as main\n"
        f"print([main(words.split()) for words in ({words!r}, 'report run', 'info run')])"
    )
    done = finish([sys.executable, "-P", "-c", begin], cwd=place)  # as in the command, the directory is not on sys.path
    assert done.stdout.startswith("run/report/index.html\n") and done.stdout.endswith("[0, 0, 0]\n"), done
    assert "was run" not in done.stdout


# -- what is printed --


def test_json_lines_are_all_there_is(cli, run):
    commands = [
        ["train", "sine.yaml", "--train.steps", 4, "--train.probes", "[head.*]", "--train.probe_every", 2],
        ["evaluate", "run"],
        ["compare", "run", "run"],
        ["report", "run"],
        ["info"],
        ["info", "run"],
        ["list"],
        ["list", "methods"],
    ]
    for words in commands:
        done = cli(*words, "--json")
        assert (done.code, done.err) == (0, ""), words
        assert all(isinstance(json.loads(line, parse_constant=pytest.fail), dict) for line in done.out.splitlines())
        assert done.out
    rows = cli(*commands[0], "--json", "--out", "told").out.splitlines()
    assert [json.loads(row) for row in rows] == Run.open("told").metrics()
    done = cli("evaluate", "nowhere", "--json")
    assert done.code == 2 and "no run at nowhere" in json.loads(done.out)["error"]


def test_quiet_is_results_only(cli, run):
    assert cli("train", "sine.yaml", "--quiet").err == ""
    done = cli("evaluate", "run", "--quiet")
    assert done.err == "" and "maml" in done.out


def test_where_no_terminal_is_progress_is_ten_lines(cli, run):
    done = cli("train", "sine.yaml", "--train.steps", 40, "--out", "other")
    assert done.out == ""
    lines = done.err.splitlines()
    steps = [line for line in lines if "step" in line and "of 40" in line]
    assert len(steps) == 10 and steps[0].startswith("note: maml: step 4 of 40, loss ")
    assert lines[0] == "note: run: other" and "note: learner: maml, 25 parameters, no batch statistics" in lines
    assert re.fullmatch(r"note: validation at step 40: mse \d+\.\d+ ± \d+\.\d+", lines[-2])
    assert lines[-1] == "note: next: quickstudy evaluate other"
    assert "step" not in cli("train", "sine.yaml", "--train.steps", 0).err


def test_on_a_terminal_progress_is_a_bar(place):
    """A terminal of 60 columns, and what is written to it until the end."""
    master, terminal = pty.openpty()
    words = [str(COMMAND), "train", "sine.yaml", "--train.steps", "30", "--no-tensorboard"]
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        while select.select([master], [], [], 60)[0]:
            try:
                shown += os.read(master, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
    os.close(master)
    text = shown.decode()
    assert process.returncode == 0 and "30/30" in text and "loss" in text and "Traceback" not in text
    assert "step 3 of 30" not in text


@pytest.mark.parametrize(("columns", "boxed"), [(45, False), (120, True)])
def test_tables_fit_the_terminal(cli, run, monkeypatch, columns, boxed):
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in (["evaluate", "run"], ["compare", "run", "run"]):
        done = cli(*words)
        assert done.code == 0 and max(map(len, done.out.splitlines())) <= columns
        assert ("┃" in done.out) == boxed and ("  method: maml\n" in done.out) != boxed


def test_a_terminal_without_the_signs_gets_others(cli, run, monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    assert cli("evaluate", "run").code == 0
    assert b"maml" in out.getvalue() and b"?" in out.getvalue()


@pytest.mark.parametrize("reader", ["head -1", "true"])  # one leaves after a line, one before the first
def test_a_reader_that_leaves_early_is_no_error(place, reader):
    line = f"{COMMAND} list charts | {reader}"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = finish(["bash", "-c", line], cwd=place, env=buffered)
    assert done.stdout == ("charts\n" if reader == "head -1" else "") and done.stderr == ""


@pytest.mark.parametrize("words", ["evaluate run --quiet", "reproduce --list", "list --json"])
def test_a_reader_that_leaves_before_a_table_is_no_error(place, run, words):
    done = finish(["bash", "-c", f"{COMMAND} {words} | true"], cwd=place)
    assert done.stdout == done.stderr == ""


def test_a_reader_of_remarks_that_leaves_early_ends_no_training_and_loses_no_result(place):
    finish(["bash", "-c", f"{COMMAND} train sine.yaml --out unread --train.steps 30 2>&1 | true"], cwd=place)
    assert Run.open(place / "unread").metrics()[-1]["step"] == 30
    assert (place / "unread" / "checkpoints" / "last.safetensors").exists()
    finish(["bash", "-c", f"{COMMAND} evaluate unread 2>&1 >kept.txt | true"], cwd=place)
    assert "maml" in (place / "kept.txt").read_text()


def test_a_reader_of_rows_that_leaves_early_stops_the_training_which_says_so(place):
    line = f"{COMMAND} train sine.yaml --out 'a b' --train.steps 300 --json 2>said.txt | head -1"
    finish(["bash", "-c", line], cwd=place)
    said = (place / "said.txt").read_text()
    assert "Output cannot be written: Broken pipe. Stopped at step" in said
    assert "Continue with: quickstudy train --resume 'a b'" in said, "as a shell takes it"


def test_a_directory_without_a_name_is_refused(cli, place):
    done = cli("train", "sine.yaml", "--out", "")
    assert done.code == 2 and "--out is empty: give a path, or leave it out" in done.err
    assert not (place / "runs").exists()


def test_a_result_of_other_tasks_that_is_replaced_is_named(cli, place, run):
    assert "was replaced" not in cli("evaluate", "run").err + cli("evaluate", "run").err
    done = cli("evaluate", "run", "--tasks.shots", 3)
    assert done.code == 0 and "run: the result 'test' of other tasks (list " in done.err and "--name" in done.err
    assert "was replaced" not in cli("evaluate", "run", "--tasks.shots", 4, "--name", "four").err


@pytest.mark.parametrize(
    ("method", "override", "held"),
    [
        ("meta_sgd", "--method.inner_lr=0.3", "rule.rate"),
        ("mamlpp", "--method.inner_lr=0.3", "rule.rate"),
        ("maml", "--method.inner_lr=0.3", ""),  # a constant: it is what the override says
        ("meta_sgd", "--method.eval_inner_steps=3", ""),
        ("mtnet", "--method.eval_inner_steps=3", ""),
        ("meta_sgd", "--method.inner_lr=[0.2,0.4]", "rule.rate"),
        ("maml", "--model.std=0.5", "head.layer0.weight"),
        ("mtnet", "--model.std=0.5", "head.layer0.weight"),
    ],
)
def test_an_override_of_a_value_that_was_learned_is_refused(cli, place, method, override, held):
    words = ("--method", method, "--train.steps", 2, "--out", "one", "--quiet", "--no-tensorboard")
    assert cli("train", "sine.yaml", *words).code == 0
    plain = json.loads(cli("evaluate", "one", "--json", "--evaluate.tasks", 20).out)
    done = cli("evaluate", "one", "--json", "--evaluate.tasks", 20, override)
    told = json.loads(done.out)
    if held:
        assert done.code == 2 and told["error"].startswith(f"{override.partition('=')[0]}: {held}")
        assert "only begins there in training" in told["error"]
    else:
        assert done.code == 0 and told["mean"] != plain["mean"]


RISING = "{rule.rate.value: {kind: ramp, start: 0, end: 1, before: 0.1, after: 0.2}}"


@pytest.mark.parametrize(
    ("trained", "override", "said", "instead"),
    [
        (["--evaluate.options", "{shots: 7}"], "--tasks={name: sine, shots: 3, queries: 5}",
         "`evaluate.options.shots` is set and takes its place", "--evaluate.options.shots=3"),
        (["--evaluate.options", "{shots: 7}"], "--tasks.shots=3", "`evaluate.options.shots` is set and takes its place",
         "--evaluate.options.shots=3"),
        (["--method.eval_inner_steps", 2], "--method.inner_steps=7", "`method.eval_inner_steps` is set",
         "--method.eval_inner_steps=7"),
        (["--train.schedules", RISING], "--method.inner_lr=0.5", "the schedule of rule.rate.value in the training",
         "--method.inner_steps=2"),
    ],
)  # fmt: skip
def test_an_override_that_another_setting_hides_is_refused(cli, place, trained, override, said, instead):
    words = ("--method.inner_steps", 1, "--train.steps", 2, "--out", "one", "--quiet", "--no-tensorboard", *trained)
    assert cli("train", "sine.yaml", *words).code == 0
    plain = json.loads(cli("evaluate", "one", "--json", "--evaluate.tasks", 20).out)
    for verb in (("evaluate", "one"), ("compare", "one", "one")):
        done = cli(*verb, "--evaluate.tasks", 20, override)
        assert done.code == 2 and said in done.err and done.err.count("\n") == 1
    done = cli("evaluate", "one", "--json", "--evaluate.tasks", 20, instead)
    assert done.code == 0 and json.loads(done.out)["mean"] != plain["mean"]
    both = cli("evaluate", "one", "--json", "--evaluate.tasks", 20, override, instead)
    assert both.code == (2 if "schedule" in said else 0)


def test_a_tilde_is_the_home_of_the_user(cli, place, monkeypatch):
    monkeypatch.setenv("HOME", str(place / "home"))
    (place / "home").mkdir()
    assert cli("train", "sine.yaml", "--train.steps", 1, "--out=~/x").code == 0
    assert (place / "home" / "x" / "config.yaml").is_file() and not (place / "~").exists()


def test_a_page_of_the_users_own_is_not_replaced(cli, place, run):
    (place / "web").mkdir()
    (place / "web" / "index.html").write_text("<title>mine</title>")
    done = cli("report", "run", "--out", "web")
    assert done.code == 2 and "is a page of your own" in done.err
    assert (place / "web" / "index.html").read_text() == "<title>mine</title>"
    assert cli("report", "run", "--out", "own").code == cli("report", "run", "--out", "own").code == 0


def test_characters_that_steer_a_terminal_are_escaped(cli, place, run):
    """Names of files, checkpoints, settings and probes may hold any."""
    evil = "a\x1b]0;owned\x07\x9b2Jb\r\u202e"
    (place / evil).write_text('tasks: {name: sine}\nmethod: "\\e[2J"')
    shutil.copy("run/checkpoints/last.safetensors", f"run/checkpoints/{evil}.safetensors")
    with run.writing():
        run.log({"kind": "val", "step": 1, "metric": 0.1, "interval": 0.1, "finite": 1, "tasks": 1, evil: evil})
    run.write_result("other", {"metric": "mse", "mean": 0.5, "method": evil, "tasks": 1, "finite": 1}, {})
    for words in (["train", evil], ["evaluate", evil], ["info", "run"], ["info", evil], ["info", "run", "--json"],
                  ["report", "run", "--out", f"{evil}2"], ["list", evil], [evil], ["train", evil, "--json"],
                  ["evaluate", "run", "--name", evil], ["train", "sine.yaml", "--out", f"o{evil}", "--train.steps", 1],
                  ["train", "sine.yaml", f"--train.{evil}", 1]):  # fmt: skip
        done = cli(*words)
        assert all(c.isprintable() for c in (done.out + done.err).replace("\n", "")), (words, done)
        assert done.code in (0, 2) and ("error" not in done.err or done.err.count("\n") == 1)


def test_signs_that_mean_something_to_the_printer_are_printed(cli):
    done = cli("evaluate", "[red]:smile:[/x]\\[b]")
    assert "[red]:smile:[/x]\\[b]" in done.err


def test_what_a_family_says_reads_well():
    assert describe_values(
        {"name": "digits", "split_rule": "by image", "classes": {"train": 10, "test": 4}, "ways": 5}
    ) == ("digits: split rule by image, classes (train 10, test 4), ways 5")
    assert describe_values({"x": (-5.0, 5.0), "sizes": [1, 2, 3]}) == "x -5 to 5, sizes 1, 2, 3"
    assert describe_values({}) == ""


def test_lists_say_what_the_objects_say(cli):
    """They are read from the source; importing the objects gives the same."""

    def first_lines(registry):
        return {name: (thing.__doc__ or "").strip().partition("\n")[0] for name, thing in registry.items()}

    assert read_lists() == {
        "methods": first_lines(METHODS),
        "models": first_lines(NETS),
        "tasks": first_lines(TASKS),
        "configurations": {
            name: path.read_text().partition("\n")[0].lstrip("# ") for name, path in config.shipped_configs().items()
        },
        "protocols": {
            name: f"{p.tasks} tasks" + (f", {p.repeats} times over" if p.repeats > 1 else "")
            for name, p in PROTOCOLS.items()
        },
        "charts": CHARTS,
        "losses": first_lines(CRITERIA),
        "metrics": first_lines({name: metric.measure for name, metric in METRICS.items()}),
        "suites": {name: get_suite(name).about for name in SUITES},
    }
    assert sources.read_fields("training.config.schema", "Config") == list(config.Config.model_fields)
    for part, settings in (("Train", config.TrainSettings), ("Evaluate", config.EvaluateSettings)):
        assert sources.read_fields("training.config.schema", f"{part}Settings") == list(settings.model_fields)


def test_every_file_of_a_verb_is_in_the_table():
    folder = sources.ROOT / "cli" / "commands"
    files = {path.stem for path in folder.iterdir() if not path.stem.startswith("__")}
    assert files == {path.partition(":")[0] for path in VERBS.values()} == set(VERBS)
    assert {path.stem for path in (folder / "data").glob("[!_]*.py")} == set(Data.verbs)


def test_lists_name_everything_there_is(cli):
    done = cli("list", "--json")
    told = json.loads(done.out)
    assert told["methods"].keys() == METHODS.keys() and told["configurations"].keys() == config.shipped_configs().keys()
    assert all(text.strip() for rows in told.values() for text in rows.values())
    for what in told:
        done = cli("list", what)
        assert done.code == 0 and all(name in done.out for name in told[what])


# -- directories --


def test_runs_get_a_place_of_their_own(cli, place):
    for name in ("sine", "sine-2", "sine-3"):
        assert cli("train", "sine.yaml", "--train.steps", 2, "--quiet").code == 0
        assert (place / "runs" / name / "checkpoints" / "last.safetensors").is_file()
    assert list((place / "runs" / "sine" / "tensorboard").iterdir())
    done = cli("train", "sine.yaml", "--out", "runs/sine")
    assert done.code == 2 and "already holds a run. Continue it with `quickstudy train --resume" in done.err
    done = cli("train", "runs/sine")
    assert done.code == 2 and "runs/sine is a run. Go on with it by --resume runs/sine" in done.err
    done = cli("evaluate", "runs")
    assert done.code == 2 and "holds some. Give one of: sine, sine-2, sine-3" in done.err
    done = cli("evaluate", "runs/sine/checkpoints")
    assert done.code == 2 and "part of a run. Give the run: runs/sine" in done.err


@pytest.mark.parametrize("name", ["x" * 300, "sine.yaml/run", "/proc/run"], ids=["long", "file", "system"])
def test_a_place_that_cannot_be_made_is_refused(cli, name):
    done = cli("train", "sine.yaml", "--out", name, "--train.steps", 1)
    assert done.code in (1, 2) and len(done.err.splitlines()) == 1


def test_info_tells_what_is_in_a_run(cli, run):
    cli("evaluate", "run", "--name", "mine")
    (run.path / "checkpoints" / "best.safetensors").write_bytes(b"cut")
    done = cli("info", "run")
    assert done.code == 0
    for part in ("maml", "sine", "20 of 20 logged", "best (damaged), last (step 20)", "result mine", "torch"):
        assert part in done.out
    done = cli("evaluate", "run")
    assert done.code == 1 and "best.safetensors is cut short" in done.err and "Use `last` (step 20) instead" in done.err


def test_a_misspelled_version_is_answered(cli):
    done = cli("--verson")
    assert done.code == 2 and "There is no verb '--verson'. Did you mean `--version`?" in done.err


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_the_version_is_that_of_the_package(cli, word):
    done = cli(word)
    assert (done.code, done.err) == (0, "") and done.out == f"quickstudy {metadata.version('quickstudy')}\n"
    assert quickstudy.__version__ == metadata.version("quickstudy")


def test_info_alone_tells_the_versions_and_the_extras(cli):
    told = json.loads(cli("info", "--json").out)
    assert told["quickstudy"] == metadata.version("quickstudy") and told["torch"] == torch.__version__
    extras = dict(part.split() for part in told["extras"].split(", "))
    with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        assert set(extras) == set(tomllib.load(file)["project"]["optional-dependencies"])
    assert extras["plot"] == ("yes" if find_spec("matplotlib") else "no")
    assert extras["hf"] == ("yes" if find_spec("transformers") else "no")


def test_a_run_without_a_checkpoint_says_what_to_do(cli):
    Run.create("run", config.build(config.parse_config(SINE)).config.model_dump(mode="json"))
    done = cli("evaluate", "run")
    assert done.code == 2 and "no checkpoint yet. Train it first: quickstudy train --resume run" in done.err
    assert "none" in cli("info", "run").out


def test_info_knows_no_step_of_a_checkpoint_that_does_not_say(cli, place):
    run = Run.create(place / "run", {"method": "maml", "tasks": "sine", "model": "mlp"})
    with run.writing():
        run.save("last", {}, {})
    assert "last (step unknown)" in cli("info", "run").out


def test_a_report_opens_from_where_it_was_put(cli, run, place):
    cli("evaluate", "run")
    done = cli("report", "run")
    assert done.code == 0 and done.out == "run/report/index.html\n"
    assert "maml" in (place / "run/report/index.html").read_text()
    assert cli("report", "run", "--out", "there").out == "there/index.html\n"
    assert cli("report", "run", "--out", "sine.yaml").code == 2


# -- a user's own parts --

PARTS = """
from dataclasses import dataclass
import torch
from torch import nn
import quickstudy
from quickstudy.tasks import Gaussians, Sine

def net(inputs, outputs, *, width):
    return nn.Sequential(nn.Linear(inputs[0], width), nn.Tanh(), nn.Linear(width, outputs))

def wide(inputs, outputs):
    return nn.Linear(inputs[0], outputs + 1)

def deep(inputs, outputs):
    return nn.Linear(7, outputs)

def pair(inputs, outputs):
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x
    return Pair(inputs[0], outputs)

def method(model, loss, *, rate):
    return quickstudy.maml(model, inner_lr=rate, loss=loss)

@dataclass(frozen=True)
class Waves(Sine):
    shift: float = 0.0

    def sample(self, draws, size, part):
        support, query, about = super().sample(draws, size, part)
        return support._replace(y=support.y + self.shift), query._replace(y=query.y + self.shift), about

    def describe(self):
        return super().describe() | {"name": "waves", "unit": {1, 2}.__class__}

@dataclass(frozen=True)
class Bad(Gaussians):
    fault: str = ""
    where: str = "train"

    def sample(self, draws, size, part):
        support, query, about = super().sample(draws, size, part)
        if draws.split == self.where:
            x, y = support
            support = {
                "label": lambda: support._replace(y=y + 5),
                "missing": lambda: support._replace(y=y * 0),
                "dtype": lambda: support._replace(y=y.float()),
                "bytes": lambda: support._replace(x=x.to(torch.uint8)),
                "nan": lambda: support._replace(x=x.index_fill(1, torch.tensor([0]), float("nan"))),
                "shape": lambda: support._replace(x=torch.cat([x, x], -1)),
                "nothing": lambda: None,
                "raise": lambda: y[0, 99],
            }[self.fault]()
        return support, query, about

@dataclass(frozen=True)
class Flat(Sine):
    def sample(self, draws, size, part):
        support, query, about = super().sample(draws, size, part)
        return support._replace(y=support.y[..., 0]), query._replace(y=query.y[..., 0]), about

@dataclass(frozen=True)
class Percent(quickstudy.tasks.AverageThreshold):
    def sample(self, draws, size, part):
        support, query, about = super().sample(draws, size, part)
        return support._replace(y=support.y * 100), query, about
"""


@pytest.fixture
def parts(place):
    (place / "parts0.py").write_text(PARTS)
    return place


def test_a_users_tasks_model_and_method_are_trained_stopped_resumed_and_evaluated(parts, cli):
    settings = {
        "tasks": {"name": "parts0:Waves", "shift": 2.5},
        "model": {"name": "parts0:net", "width": 5},
        "method": {"name": "parts0:method", "rate": 0.02},
        "train": {**SINE["train"], "steps": 50_000, "checkpoint_every": 10},
    }
    (parts / "own.yaml").write_text(yaml.safe_dump(settings))
    with subprocess.Popen([COMMAND, "train", "own.yaml", "--out", "run", "--quiet"]) as process:
        while not (parts / "run" / "checkpoints" / "last.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 1
    path = parts / "run" / "config.yaml"
    step = Run.open("run").load("last").state["step"]
    text = path.read_text()
    assert "steps: 50000" in text and "shift: 2.5" in text
    path.write_text(text.replace("steps: 50000", f"steps: {step + 10}"))  # training longer, or less long, is editing it
    assert cli("train", "--resume", "run", "--quiet").code == 0
    done = cli("evaluate", "run", "--evaluate.tasks", 20)
    assert done.code == 0 and "parts0:method" in done.out and "waves: shots 10" in done.err
    assert Run.open("run").results()["test"].summary["step"] in range(10, step + 11)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "{name: parts0:Bad, fault: label}"], "support.y has labels from 5 to 6, and a 2-way task"),
        (["--tasks", "{name: parts0:Bad, fault: missing}"], "no example of class 1 of 2"),
        (["--tasks", "{name: parts0:Bad, fault: dtype}"], "support.y is float32"),
        (["--tasks", "{name: parts0:Bad, fault: bytes}"], "support.x is uint8"),
        (["--tasks", "{name: parts0:Bad, fault: nan}"], "support.x holds NaN or infinity"),
        (["--tasks", "{name: parts0:Bad, fault: nan, where: val}"], "support.x holds NaN or infinity"),
        (["--tasks", "{name: parts0:Bad, fault: shape}"], "inputs have the shape .4. each"),
        (["--tasks", "{name: parts0:Bad, fault: nothing}"], "The support is a NoneType, not Examples"),
        (["--tasks", "{name: parts0:Bad, fault: raise}"], "tasks of step 0 failed: IndexError.*parts0.py, line 54"),
        (["--tasks", "{name: parts0:Flat}"], "support.y has the shape .. per example.*1 outputs"),
        (["--tasks", "{name: parts0:Percent}"], "support.y has values other than 0 and 1"),
        (["--model", "{name: parts0:net}"], "'parts0:net' needs `model.width`"),
        (["--model", "{name: parts0:deep}"], "The model fails on these tasks, whose inputs are .1.*mat1 and mat2"),
        (["--model", "{name: parts0:pair}"], "The model fails on these tasks"),
        (["--model", "{name: conv_net}"], "needs inputs .channels, height, width.*Try `mlp`"),
        (["--train.validate_every", "5", "--tasks.x", "[5, 1]"], "x=.* is no range"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_a_run_is_made(cli, parts, words, message):
    done = cli("train", "sine.yaml", *words)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert re.search(message, line), line
    assert not (parts / "runs").exists()


def test_a_model_of_too_many_outputs_is_refused(parts, shell):
    """In a process of its own, where no type checks see it first: a squared error would broadcast."""
    done = shell("train", "sine.yaml", "--model", "{name: parts0:wide}")
    assert (done.code, done.out) == (2, "")
    assert "shape [5, 2]; the targets have [5, 1]. Give the model 1 outputs" in done.err
    assert not (parts / "runs").exists()


def test_a_run_that_is_not_there_is_answered_with_those_that_are(cli, run, place):
    (place / "run").rename(place / "first")
    assert "Did you mean `first`? Known: first." in cli("evaluate", "frist").err
    (place / "runs").mkdir()
    (place / "first").rename(place / "runs" / "first")
    assert "no run at frst (no config.yaml). Did you mean `runs/first`?" in cli("evaluate", "frst").err
    assert "Did you mean `runs/first`? Known: runs/first." in cli("evaluate", "runs/frst").err


# -- one part in place of another --


@pytest.mark.filterwarnings("always::quickstudy.training.config.factories.DroppedOptions")
def test_a_part_in_place_of_another_leaves_the_others_options_behind_and_says_so(cli):
    done = cli(
        "train", "sine.yaml", "--method", "reptile", "--tasks", "gaussians", "--model.std", "0.1", "--print-config"
    )
    assert done.code == 0
    assert yaml.safe_load(done.out)["method"]["inner_lr"] == 0.01  # which reptile has as well
    assert done.err == ""
    done = cli("train", "digits-maml", "--method", "protonet", "--model", "mlp", "--model.std", "0.1", "--print-config")
    assert done.code == 0
    assert {"inner_lr", "inner_steps"}.isdisjoint(yaml.safe_load(done.out)["method"])
    assert yaml.safe_load(done.out)["model"] == {"name": "mlp", "hidden": [40, 40], "std": 0.1}
    assert done.err == (
        "note: --method protonet: protonet has no `inner_lr`, `inner_steps`; the values for maml are left out.\n"
        "note: --model mlp: mlp has no `filters`, `blocks`; the values for conv_net are left out.\n"
    )


@pytest.mark.filterwarnings("default::quickstudy.training.config.factories.DroppedOptions")
@pytest.mark.parametrize(
    "words",
    [
        ("--method", "protonet", "--method.inner_lr", "0.1"),
        ("--method.inner_lr", "0.1", "--method", "protonet"),
        ("--method", "{name: protonet, inner_lr: 0.1}"),
    ],
)
def test_what_the_command_itself_gives_is_not_left_out(cli, words):
    done = cli("train", "digits-maml", *words, "--print-config")
    assert (done.code, done.out) == (2, "")
    assert "`method.inner_lr` is no option of 'protonet'" in done.err


# -- interruption --


def test_ctrl_c_while_torch_is_imported_is_quiet(place):
    """A torch that is interrupted in its import, and hides what was raised there, as compiled modules may."""
    (place / "torch.py").write_text(
        "import os, signal, time\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    raise ImportError('torch is broken') from None\n"
    )
    begin = "import sys; from quickstudy.__main__ import main; sys.exit(main())"
    done = finish([sys.executable, "-c", begin, "info"], cwd=place)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: Interrupted.\n")


def test_ctrl_c_outside_an_import_is_an_interruption(place):
    begin = (
        "import os, signal, sys; from quickstudy.__main__ import main; from quickstudy.cli.commands.list import List\n"
        "List.run = lambda *words: os.kill(os.getpid(), signal.SIGINT)\n"
        "import atexit; atexit.register(print, 'put away'); sys.exit(main())"
    )
    done = finish([sys.executable, "-c", begin, "list"], cwd=place)
    assert (done.returncode, done.stdout, done.stderr) == (1, "put away\n", "error: Interrupted.\n")


def test_an_interrupted_evaluation_leaves_no_result(cli, run):
    ctrl_c = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    ctrl_c.start()
    done = cli("evaluate", "run", "--evaluate.tasks", 100_000)
    ctrl_c.join()
    assert (done.code, done.out, done.err) == (1, "", "error: Interrupted.\n")
    assert run.results() == {}


# -- the demonstration --


def test_the_demo_runs_through(place, shell):
    done = shell("demo", "--steps", "2", "--out", "shown")
    assert done.code == 0
    out, err = done.out, done.err
    for title, *_ in demo.ROWS:
        assert title in out
    assert "2 of 720" in out and "fewer steps than their configurations" in out
    assert "report: shown/report/index.html" in out and (place / "shown/report/index.html").is_file()
    for title in ("MAML", "MT-net", "Wormhole MAML", "HyperMAML", "ProtoNet"):
        assert f"note: {title}: step 2 of 2" in err
    assert "of 0" not in err
    runs = [Run.open(path) for path in (place / "shown").iterdir() if path.name != "report"]
    assert len({run.results()["test"].summary["hash"] for run in runs}) == 1 and len(runs) == len(demo.ROWS)
    again = shell("demo", "--steps", "2", "--out", "shown")
    assert again.code == 2 and "already holds a run" in again.err and again.err.count("\n") == 1


def test_the_demo_counts_the_steps_that_were_trained(capsys):
    """The best checkpoint may be an earlier one, and that is no shorter training."""
    scores = {"metric": "accuracy", "mean": 0.9, "interval": 0.01, "tasks": 600, "finite": 600, "hash": "abc"}
    data = {"name": "drawings", "ways": 5, "shots": 1, "queries": 15, "split_rule": "lake"}
    summary = scores | {"data": data, "norms": "batch", "adapt_ms": 1.0, "train_seconds": 9.0, "step": 1200}
    demo.print_table(Console(), [(title, summary, 1500, 1500) for title in ("one", "two", "three")])
    out = capsys.readouterr().out
    assert "1500" in out and "1200" not in out and "fewer steps" not in out
    demo.print_table(Console(), [(title, summary, 1300, 1500) for title in ("one", "two", "three")])
    out = capsys.readouterr().out
    assert "1300 of 1500" in out and "fewer steps" in out


def test_a_training_cut_short_keeps_its_shape():
    whole = config.load_config("drawings-hypermaml")
    half = demo.shorten(whole, whole.train.steps // 2, 50)
    for name in ("steps", "validate_every"):
        assert getattr(half.train, name) == getattr(whole.train, name) // 2
    assert half.train.milestones == tuple(milestone // 2 for milestone in whole.train.milestones)
    ramp, shorter = whole.train.schedules["rule.weights"], half.train.schedules["rule.weights"]
    assert (shorter.start, shorter.end) == (ramp.start // 2, ramp.end // 2)
    assert half.evaluate.tasks == 50 and half.tasks == whole.tasks
    for steps in (1, 2, 3):
        config.build(demo.shorten(whole, steps, 50))
    assert demo.shorten(whole, whole.train.steps, whole.evaluate.tasks) == whole


@pytest.mark.slow
def test_the_demo_shows_its_methods_far_ahead_of_the_pixels(shell):
    # With its own number of steps: how many fit into the demo's time depends on the machine, and so do the numbers.
    done = shell("demo", "--steps", "400", "--json", "--out", "shown")
    assert done.code == 0
    *rows, page = map(json.loads, done.out.splitlines())
    assert page == {"report": "shown/report/index.html"}
    assert [row["row"] for row in rows] == [title for title, *_ in demo.ROWS]
    assert len({row["hash"] for row in rows}) == 1
    pixels, _, *methods = rows
    for row in methods:
        assert row["mean"] > pixels["mean"] + 0.25, row["row"]
    assert max(row["mean"] for row in methods) > 0.75
