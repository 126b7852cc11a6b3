"""Model directories: what is read is what was written together, whatever happened to the files in between."""

import json
import os
import shutil
import signal

import pytest
import torch

from conftest import copy_of_this_process, wait_for
from quickstudy.errors import InputError, RunError
from quickstudy.storage import model_files
from quickstudy.storage.model_files import hash_tensors, model_lock, read_model, write_model

OLD, NEW = {"a": torch.zeros(300)}, {"a": torch.ones(300)}


@pytest.fixture
def model(tmp_path):
    write_model(tmp_path / "m", {"kind": "old"}, OLD)
    return tmp_path / "m"


def test_a_model_is_read_as_it_was_written(tmp_path):
    tensors = {
        "half": torch.rand(2, 2).half(),
        "none": torch.zeros(0),
        "count": torch.tensor(3),
        "yes": torch.ones(2) > 0,
    }
    tensors["shares"] = tensors["half"][0]  # the memory of another one
    write_model(tmp_path / "new" / "m", {"kind": "x", "text": "nan", "numbers": (1, 2.5)}, tensors)
    config, found = read_model(tmp_path / "new" / "m")
    assert (config["kind"], config["text"], config["numbers"]) == ("x", "nan", [1, 2.5])
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())
    assert sorted(path.name for path in (tmp_path / "new" / "m").glob("[!.]*")) == ["config.json", "model.safetensors"]


def test_a_save_between_two_looks_is_no_damage(model, monkeypatch):
    """Another process ends its save after the tensors were looked at, and before the next file is."""
    config = json.loads((model / "config.json").read_text())
    write_model(model, {"kind": "new"}, NEW)
    new = (model / "model.safetensors").read_bytes()
    write_model(model, {"kind": "old"}, OLD)
    about = {**config, "kind": "new", "sha256": hash_tensors(NEW, "")}
    (model / "config.json").write_text(json.dumps(about))
    looked = model_files.read_safetensors

    def look(file):
        found = looked(file)
        (model / "model.safetensors").write_bytes(new)
        return found

    monkeypatch.setattr(model_files, "read_safetensors", look)
    config, tensors = read_model(model)
    assert config["kind"] == "new" and torch.equal(tensors["a"], NEW["a"])


def test_a_model_that_another_process_has_just_begun_is_one(tmp_path, monkeypatch):
    known = model_files.is_model

    def look(path):
        monkeypatch.setattr(model_files, "is_model", known)
        found = known(path)
        write_model(path, {"kind": "other"}, OLD)
        return found

    (tmp_path / "m").mkdir()
    monkeypatch.setattr(model_files, "is_model", look)
    write_model(tmp_path / "m", {"kind": "mine"}, NEW)
    assert read_model(tmp_path / "m")[0]["kind"] == "mine"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a" * 2**24, r"takes 167\d+ bytes, and config.json holds 16777216. Give shorter names"),
        ("\ud800", "cannot hold what it says"),
        (10**30, "a number has 31 digits"),
        ({1}, "cannot hold what it says"),
    ],
)
def test_what_a_config_could_not_hold_leaves_the_old_model(model, value, said):
    with pytest.raises(InputError, match=f"The model cannot be saved: .*{said}"):
        write_model(model, {"kind": "new", "value": value}, NEW)
    config, tensors = read_model(model)
    assert config["kind"] == "old" and torch.equal(tensors["a"], OLD["a"])


@pytest.mark.parametrize("call", range(12))
def test_a_save_that_is_killed_at_any_call_leaves_the_old_model_or_the_new_one(model, call, monkeypatch):
    """The process is killed before the n-th call that changes the directory, and again in the save that follows."""
    for tensors, kind in ((NEW, "new"), (OLD, "third")):

        def save(tensors=tensors, kind=kind):
            left = [call]

            def counted(real):
                def step(*given, **named):
                    left[0] -= 1
                    if left[0] < 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*given, **named)

                return step

            for name in ("replace", "fsync", "open"):
                setattr(os, name, counted(getattr(os, name)))
            write_model(model, {"kind": kind}, tensors)

        before = read_model(model)[0]["kind"]
        ended = wait_for(copy_of_this_process(save))
        assert ended in (0, -signal.SIGKILL)
        config, found = read_model(model)
        assert config["kind"] in ((kind,) if ended == 0 else (before, kind))
        assert torch.equal(found["a"], NEW["a"] if config["kind"] == "new" else OLD["a"])


def test_two_savers_take_turns_and_a_reader_sees_whole_models(model):
    def write(kind):
        for _ in range(20):
            write_model(model, {"kind": kind}, {"a": torch.full((300,), float(len(kind)))})

    children = [copy_of_this_process(lambda kind=kind: write(kind)) for kind in ("one", "three")]
    for _ in range(40):
        config, tensors = read_model(model)
        assert config["kind"] == "old" or (tensors["a"] == len(config["kind"])).all()
    assert [wait_for(child) for child in children] == [0, 0]


def test_a_lock_may_be_taken_again_inside(model):
    with model_lock(model):
        write_model(model, {"kind": "new"}, NEW)
    assert read_model(model)[0]["kind"] == "new"


def damage_config(**changes):
    def damage(model):
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | changes))

    return damage


def cut(name, keep):
    def damage(model):
        file = model / name
        file.write_bytes(file.read_bytes()[:keep])

    return damage


def link(name):
    def damage(model):
        (model / name).rename(model.parent / "elsewhere")
        (model / name).symlink_to(model.parent / "elsewhere")

    return damage


DAMAGES = {
    "newer": (damage_config(format=2), "format 2; this quickstudy reads up to 1. Update it"),
    "no format": (damage_config(format="1"), "no `format` number"),
    "another hash": (damage_config(sha256="0" * 64), "damaged, or of another model"),
    "no hash": (damage_config(sha256=3), "does not describe a model"),
    "cut config": (cut("config.json", 30), "config.json is damaged"),
    "empty config": (cut("config.json", 0), "config.json is damaged"),
    "cut tensors": (cut("model.safetensors", 100), "model.safetensors is cut short"),
    "empty tensors": (cut("model.safetensors", 0), "model.safetensors is cut short"),
    "no tensors": (lambda model: (model / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no config": (lambda model: (model / "config.json").unlink(), "is not a whole model"),
    "deep": (lambda model: (model / "config.json").write_text("[" * 100_000), "config.json is damaged"),
    "long number": (lambda model: (model / "config.json").write_text("9" * 5000), "config.json is damaged"),
    "a link for the config": (link("config.json"), "is a link"),
    "a link for the tensors": (link("model.safetensors"), "is a link"),
    "a pipe": (
        lambda model: ((model / "model.safetensors").unlink(), os.mkfifo(model / "model.safetensors")),
        "missing",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_model_is_refused_in_one_line(model, damage, message):
    damage(model)
    with pytest.raises((InputError, RunError), match=message) as caught:
        read_model(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("byte", range(0, 1400, 97))
def test_any_flipped_byte_of_the_tensors_is_noticed(model, byte):
    data = bytearray((model / "model.safetensors").read_bytes())
    data[min(byte, len(data) - 1)] ^= 1
    (model / "model.safetensors").write_bytes(bytes(data))
    try:
        read_model(model)
    except (InputError, RunError):
        return
    assert byte < 100  # a space of the header


def test_nothing_else_is_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        write_model(tmp_path, {}, NEW)
    with pytest.raises(InputError, match="is a file"):
        write_model(tmp_path / "notes.txt", {}, NEW)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_moved_or_copied_model_is_the_same(model, tmp_path):
    shutil.copytree(model, tmp_path / "copy")
    model.rename(tmp_path / "moved")
    assert torch.equal(read_model(tmp_path / "copy")[1]["a"], read_model(tmp_path / "moved")[1]["a"])
