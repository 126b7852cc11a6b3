"""The verbs of everyday use, as they are typed: adapt, predict, update, pack, choose, info."""

import csv
import io
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

import quickstudy as qs
from conftest import copy_of_this_process, wait_for
from drawn import draw
from quickstudy.cli.main import run_command

KEYS = ("input", "label", "probability")


pytestmark = pytest.mark.filterwarnings("ignore::quickstudy.everyday.classifier.ServedNormsWarning")


@pytest.fixture(scope="module")
def first_model(trained, tmp_path_factory):
    """A model that was taught three classes."""
    place = tmp_path_factory.mktemp("model")
    classifier = qs.FewShotClassifier(trained("protonet"), episodes=20)
    classifier.fit(draw(place / "taught", {"ka": 2, "ga": 3, "nga": 1})).save(place / "m")
    return place / "m"


@pytest.fixture
def model(first_model, folder, tmp_path):
    """A copy of it."""
    return shutil.copytree(first_model, tmp_path / "m")


def test_from_a_folder_to_labels(cli, trained, folder, fresh):
    done = cli("adapt", folder, "--from", trained("protonet"), "--out", "m", "--report", "page", "--episodes", "20")
    assert (done.code, done.out) == (0, "m: 3 classes (ga 3, ka 2, nga 1)\n")
    assert "calibrated with 3 classes with 2 examples each, on 20 tasks of drawings" in done.err
    page = Path("page/index.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6 and "<h2>Taught</h2>" in page
    done = cli("predict", "m", "new/*/*.png", "--report", "answers")
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert done.code == 0 and len(rows) == 6 and {row[1] for row in rows} <= {"ka", "ga", "nga"}
    assert all(0 < float(row[2]) <= 1 for row in rows)
    assert Path("answers/index.html").read_text().count("data:image") == 6
    assert [row[1] for row in rows] == qs.open("m").predict(sorted(fresh)).tolist()


def test_the_forms_of_an_answer(cli, model, fresh, monkeypatch):
    done = cli("predict", model, "new", "--csv", "--sets", ".9")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [*rows[0]] == [*KEYS, "set"] and len(rows) == 6
    assert all(row["label"] == row["set"].split("|")[0] for row in rows)
    done = cli("predict", model, *fresh, "--json", "--sets", ".9")
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [row["label"] for row in found] == [row["label"] for row in rows] and isinstance(found[0]["set"], list)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(str, fresh))))
    assert cli("predict", model, "-", "--json").out.count("\n") == 6
    sure = cli("predict", model, "new", "--unsure", "--json")
    for line, row in zip(sure.out.splitlines(), found, strict=True):
        answer = json.loads(line)
        assert answer["label"] == (row["label"] if row["probability"] >= 0.5 else "?")
    assert cli("predict", model, "new", "--csv", "--json").code == 2


def test_an_update_is_what_adapt_gives_on_all_pictures(cli, model, trained, folder, tmp_path):
    draw(tmp_path / "more", {"ka": 2, "a new one": 2}, first=8)
    done = cli("update", model, tmp_path / "more")
    assert (done.code, done.out) == (0, f"{model}: 4 classes (a new one 0 + 2, ka 2 + 2)\n")
    shutil.copytree(tmp_path / "more", folder, dirs_exist_ok=True)
    assert cli("adapt", folder, "--from", trained("protonet"), "--out", "whole", "--episodes", 0).code == 0
    x = torch.rand(5, 1, 14, 14)
    one, other = qs.open(model).outputs(x), qs.open("whole").outputs(x)
    assert (one - other).abs().max() <= 1e-6 * one.abs().max()


def test_an_update_that_fails_or_is_killed_leaves_the_old_model(cli, model, folder, tmp_path):
    before = qs.open(model).shots_
    (folder / "ka" / "0.png").write_bytes(b"no picture")
    done = cli("update", model, folder)
    assert done.code == 2 and "0.png cannot be read" in done.err and done.err.count("\n") == 1
    assert qs.open(model).shots_ == before

    def killed():
        os.fsync = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        run_command(["update", str(model), str(draw(tmp_path / "more", {"ka": 1}, first=9)), "--quiet"])

    assert wait_for(copy_of_this_process(killed)) == -signal.SIGKILL
    assert qs.open(model).shots_ == before


def test_what_cannot_be_read_is_named_after_the_answers(cli, model, fresh, tmp_path):
    fresh[0].write_bytes(b"")
    Image.new("1", (10_000, 10_000)).save(fresh[3])
    done = cli("predict", model, "new", "--json")
    *rows, last = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 1 and len(rows) == 4
    assert "2 of 6 could not be read" in last["error"] and fresh[0].name in last["error"]


BAD = {
    "no model": (("predict",), "Give a model and what to predict"),
    "nothing there": (("predict", "nowhere", "x.png"), "There is nothing at nowhere"),
    "no picture": (("predict", "MODEL", "x.png"), "There is no file 'x.png'"),
    "an empty list": (("predict", "MODEL", "-"), "the list is empty"),
    "no base": (("adapt", "taught"), "Give a folder and what is taught by it"),
    "no folder": (("adapt", "nowhere", "--from", "RUN"), "There is no folder 'nowhere'"),
    "a folder without classes": (("adapt", "taught/ka", "--from", "RUN"), "was not recognised"),
    "one class": (("adapt", "single", "--from", "RUN"), "of one class, 'only'"),
    "a model as base": (("adapt", "taught", "--from", "MODEL"), "has been taught already"),
    "a learner as model": (("predict", "LEARNER", "new"), "Teach it first: quickstudy adapt FOLDER --from"),
    "a run as model": (("predict", "RUN", "new"), "Teach it first"),
    "update of nothing": (("update", "nowhere", "taught"), "There is nothing at nowhere"),
    "coverage": (("predict", "MODEL", "new", "--sets", "9"), "is a probability between 0 and 1"),
    "norms": (("adapt", "taught", "--from", "RUN", "--norms", "batch"), "'support' or 'trained', not 'batch'"),
    "option": (("adapt", "taught", "--form", "RUN"), "Did you mean `--from`"),
    "pack of a folder": (("pack", "taught", "out"), "There is no run at taught"),
    "pack without out": (("pack", "RUN"), "Give a run and the directory to write"),
    "out is a folder of pictures": (
        ("adapt", "taught", "--from", "RUN", "--out", "new", "--episodes", 0),
        "is not empty",
    ),
    "a model is there": (("adapt", "taught", "--from", "RUN", "--out", "MODEL"), "already holds a model"),
    "choose of one": (("choose", "taught", "--from", "RUN"), "Give two or more different bases"),
    "an unknown base": (("adapt", "taught", "--from", "phtos"), "phtos"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_a_mistake_is_one_line(cli, model, trained, fresh, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    draw(tmp_path / "single", {"only": 2})
    qs.load(trained("protonet")).save(tmp_path / "l")
    names = {"MODEL": model, "RUN": trained("protonet"), "LEARNER": tmp_path / "l"}
    done = cli(*(names.get(word, word) for word in words))
    assert done.code == 2 and message in done.err, done.err
    assert done.err.count("\n") == 1 and not done.out


@pytest.mark.filterwarnings("ignore::quickstudy.everyday.classifier.OutsideCalibrationWarning")
def test_a_packed_learner_is_a_base_that_needs_nothing_else(cli, trained, folder, fresh, tmp_path):
    done = cli("pack", trained("maml"), "packed", "--json", "--episodes", "5")
    assert done.code == 0 and "the accuracy changes by" in json.loads(done.out)["notes"][1]
    assert cli("adapt", folder, "--from", "packed", "--out", "m").code == 0
    assert cli("predict", "m", "new").code == 0
    shown = cli("info", "packed").out
    assert "calibration 1" in shown and "norms of training" in shown and "cost of norms" in shown
    shown = cli("info", "m").out
    assert "ga 3, ka 2, nga 1" in shown and "calibration error" in shown


def test_the_usual_folder_of_a_model_is_named_after_its_pictures(cli, trained, folder, tmp_path):
    assert cli("adapt", folder, "--from", trained("nearest_neighbour"), "--episodes", 0).code == 0
    assert (tmp_path / "taught.model" / "config.json").is_file()


def test_bases_are_compared_on_the_pictures(cli, trained, folder):
    bases = f"{trained('protonet')},{trained('nearest_neighbour')}"
    done = cli("choose", folder, "--from", bases, "--json", "--splits", "4")
    found = json.loads(done.out)
    assert found["judged"] and {row["name"] for row in found["candidates"]} == set(bases.split(","))
    assert cli("choose", folder, "--from", bases, "--splits", "4").code == 0


def test_no_command_replaces_another_model(cli, model, trained, folder, tmp_path):
    shutil.copytree(model, tmp_path / "other")
    before = (tmp_path / "other" / "config.json").read_bytes()
    done = cli("pack", trained("protonet"), tmp_path / "other", "--episodes", "1")
    assert done.code == 2 and "holds a model that was taught" in done.err
    done = cli("update", model, folder, "--out", tmp_path / "other")
    assert done.code == 2 and "holds another model, which would be lost" in done.err
    done = cli("adapt", folder, "--from", trained("protonet"), "--out", tmp_path / "other")
    assert done.code == 2 and "already holds a model" in done.err
    assert (tmp_path / "other" / "config.json").read_bytes() == before
    assert cli("update", model, folder, "--out", model).code == 0
    assert cli("update", model, folder, "--out", tmp_path / "new").code == 0


def test_a_model_that_another_command_saves_meanwhile_is_kept(cli, model, trained, folder, tmp_path, monkeypatch):
    place, fit = tmp_path / "race", qs.FewShotClassifier.fit

    def slow(self, *args, **options):
        shutil.copytree(model, place)
        return fit(self, *args, **options)

    monkeypatch.setattr(qs.FewShotClassifier, "fit", slow)
    done = cli("adapt", folder, "--from", trained("protonet"), "--out", place, "--episodes", "1")
    assert done.code == 2 and "already holds a model" in done.err
    assert (place / "config.json").read_bytes() == (model / "config.json").read_bytes()


def test_hidden_pictures_are_not_asked_about(cli, model, fresh):
    shown = Path(fresh[0])
    asked = Path("asked")
    for name in ("a.png", "._a.png", ".thumbnails/b.png", "sub/.c.png"):
        (asked / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shown, asked / name)
    done = cli("predict", model, "asked")
    assert done.code == 0 and [line.split("\t")[0] for line in done.out.splitlines()] == ["asked/a.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "torch", "--out", "f.onnx"], "writes a file that ends in .pt2"),
        (["--to", "onnx", "--out", "f.pt2"], "writes a file that ends in .onnx"),
        (["--to", "onnx-learner", "--ways", "0"], "give from 2 to 1000 classes"),
        (["--to", "onnx-learner", "--ways", "99999999"], "give from 2 to 1000 classes"),
    ],
)
def test_what_an_export_cannot_be_is_said_first(cli, model, words, said):
    done = cli("export", model, *words)
    assert done.code == 2 and said in done.err and not Path("f.onnx").exists() and not Path("f.pt2").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_model_is_exported_from_within(cli, model, monkeypatch):
    monkeypatch.chdir(model)
    done = cli("export", ".")
    assert done.code == 0 and (model.parent / "m.onnx").is_file(), done.err
    assert cli("export", "/").code == 2


def test_everything_that_could_not_be_read_is_named(cli, model, fresh):
    for name in ("one.png", "two.png"):
        Path(name).write_bytes(b"no picture")
    done = cli("predict", model, "one.png", fresh[0], "two.png")
    assert done.code == 1 and len(done.out.splitlines()) == 1
    assert done.err.count("one.png") >= 1 and done.err.count("two.png") == 1 and "2 of 3 could not be read" in done.err
    last = json.loads(cli("predict", model, "one.png", fresh[0], "two.png", "--json").out.splitlines()[-1])
    assert "one.png" in last["error"] and "two.png" in last["error"]


def test_folders_that_name_the_numbers_of_a_model_are_its_classes(cli, trained, folder, tmp_path):
    taught = [*Path("data").rglob("*.png")] if Path("data").is_dir() else sorted(Path(folder).rglob("*.png"))
    classifier = qs.FewShotClassifier(trained("protonet"), episodes=20)
    classifier.fit(taught[:4], [0, 0, 1, 1]).save(tmp_path / "numbers")
    for name, picture in zip(("0", "1", "ka"), taught[:3], strict=True):
        (tmp_path / "more" / name).mkdir(parents=True)
        shutil.copy(picture, tmp_path / "more" / name / "new.png")
    done = cli("update", tmp_path / "numbers", tmp_path / "more")
    assert done.code == 0 and "3 classes (0 2 + 1, 1 2 + 1, ka 0 + 1)" in done.out
    assert qs.open(tmp_path / "numbers").shots_ == {0: 3, 1: 3, "ka": 1}


def test_classes_that_read_alike_are_told_apart(cli, trained, folder, tmp_path):
    taught = sorted(Path(folder).rglob("*.png"))
    classifier = qs.FewShotClassifier(trained("protonet"), episodes=20)
    classifier.fit(taught[:4], [1, 1, "1", 2]).save(tmp_path / "alike")
    done = cli("info", tmp_path / "alike", "--json")
    assert json.loads(done.out)["classes"] == {"1": 2, "'1'": 1, "2": 1}  # by name, as `adapt --json` has them


def test_a_new_model_is_made_beside_one_that_cannot_be_written(cli, model, folder, tmp_path):
    before = {path.name for path in model.iterdir()}
    done = cli("update", model, folder, "--out", tmp_path / "new")
    assert done.code == 0 and {path.name for path in model.iterdir()} == before, "not even a lock"
    assert len(qs.open(tmp_path / "new").classes_) == 3


def test_what_cannot_be_read_is_named_by_its_path_alone(cli, model, fresh, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    for name in ("one.png", "two.png"):
        (bad / name).write_bytes(b"no picture")
    done = cli("predict", model, fresh[0], bad / "one.png", bad / "two.png")
    assert done.code and "one.png" in done.err and "two.png" in done.err and "Item" not in done.err
    done = cli("predict", model, bad / "one.png", bad / "two.png", "--json")
    assert "one.png" in done.out and "; " in done.out and "Item" not in done.out


def test_a_file_that_reads_like_an_option_has_another_spelling(cli, model, fresh):
    shutil.copy(fresh[0], "-dash.png")
    done = cli("predict", model, "-dash.png")
    assert done.code == 2 and done.err.rstrip().endswith("For the file of that name write ./-dash.png")
    assert cli("predict", model, "./-dash.png").code == 0


def test_a_run_on_numbers_is_sent_to_python(cli, fresh):
    assert cli("train", "sine-maml", "--train.steps", "1", "--no-tensorboard", "--out", "waves").code == 0
    done = cli("predict", "waves", fresh[0])
    assert "waves holds a learner of numbers" in done.err and "FewShotRegressor('waves').fit(X, y)" in done.err


def test_what_a_folder_leaves_out_is_told(cli, trained, folder):
    """By the lists of a table, by splits, and where one picture has two labels."""
    base = ("--from", trained("protonet"), "--episodes", "10")
    first = {place.name: sorted(place.glob("*.png"))[0] for place in sorted(folder.iterdir())}
    shutil.copytree(folder, "listed")
    lines = [f"{name}/{picture.name},{name}" for name, picture in first.items()]
    Path("listed/few.csv").write_text("\n".join(["path,label", *lines, ""]))
    done = cli("adapt", "listed", *base, "--out", "m")
    assert "m: 3 classes (ga 1, ka 1, nga 1)" in done.out and "3 pictures in listed are in no list of it" in done.err
    for split in ("train", "test"):
        shutil.copytree(folder, f"divided/{split}")
    assert "those in test were left aside" in cli("choose", "divided", "--from", f"drawings,{base[1]}").err
    shutil.copytree(folder, "doubtful")
    shutil.copy(first["ka"], "doubtful/ga/again.png")
    told = "at least one of the two labels is wrong"
    done = cli("adapt", "doubtful", *base, "--out", "n")
    assert done.err.count(told) == 1


def test_a_missing_file_and_a_pipe_are_named_and_the_others_answered(cli, model, fresh, monkeypatch):
    os.mkfifo("pipe.png")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"none.png\npipe.png\n{fresh[0]}\n"))
    done = cli("predict", model, "-")
    assert done.code == 1 and done.out.count("\n") == 1 and str(fresh[0]) in done.out
    assert "2 of 3 could not be read" in done.err and "none.png" in done.err and "is no regular file" in done.err
    done = cli("predict", model, "none.png")
    assert done.code == 2 and "There is no file 'none.png'" in done.err


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "", "x" * 300])
def test_a_path_of_nobody_an_empty_one_and_a_long_one_are_refused_in_words(cli, model, path):
    words = "A path is empty" if not path else "There is no"
    for command in (
        ("predict", model, path),
        ("adapt", path, "--from", "drawings", "--out", "other"),
        ("update", model, path),
        ("choose", path, "--from", "drawings,photos"),
        ("data", "check", path),
    ):
        done = cli(*command)
        assert done.code == 2 and words in done.err, command


def test_choose_refuses_a_seed_that_is_none(cli, folder):
    done = cli("choose", folder, "--from", "drawings,photos", "--seed", "-1")
    assert done.code == 2 and "seed=-1 cannot be used" in done.err
