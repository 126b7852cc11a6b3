"""Run directories: they give back what was written, also after kills, on full disks and with damaged files."""

import functools
import itertools
import json
import math
import os
import resource
import signal
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import copy_of_this_process, wait_for
from quickstudy.errors import InputError, RunError
from quickstudy.storage import files
from quickstudy.storage.checkpoints import check_matches, read_checkpoint
from quickstudy.storage.run import Run
from quickstudy.training import config
from quickstudy.training.train import check_training


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", {"method": "maml", "lr": 0.01, "hidden": [40, 40]})


@pytest.fixture
def saved(run):
    with run.writing():
        run.save("last", TENSORS, {"step": 300, "best": math.inf})
        run.save("best", TENSORS, {"step": 200})
    return run


TENSORS = {
    "net.weight": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
    "net.half": torch.ones(3, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 2),
    "mask": torch.tensor([True, False]),
}

# -- creating and opening --

numbers_of_settings = st.integers() | st.floats(allow_nan=False)
texts_of_settings = st.text(st.characters(), max_size=4) | st.sampled_from(
    ["no", "1e3", "nan", "~", "2026-01-01", "=", "<<"]
)


def nested(part):
    return st.lists(part, max_size=3) | st.dictionaries(texts_of_settings | st.integers(), part, max_size=3)


def test_a_run_opens_with_the_config_it_was_made_with(run):
    again = Run.open(run.path)
    assert again.config == {"method": "maml", "lr": 0.01, "hidden": [40, 40]}
    assert again.versions["torch"] == torch.__version__
    assert {"quickstudy", "python", "numpy", "platform", "threads", "commit"} <= again.versions.keys()
    assert again.metrics() == [] and again.results() == {} and again.checkpoints() == []


UNKEPT = {
    "bytes": b"abc",
    "a set": {1, 2},
    "a date": date(2026, 1, 1),
    "an object": object(),
    "too many digits": 10**25,
    "a tuple as a key": {(1, 2): 3},
    "too many levels": functools.reduce(lambda inner, _: [inner], range(70), 1),
    "too many values": list(range(60_000)),
    "too many bytes": "a" * 2**20,
    "a line end of another kind": "a\x85b",
}


@pytest.mark.parametrize("case", UNKEPT)
def test_settings_that_would_not_be_read_as_they_are_make_no_run(tmp_path, case):
    with pytest.raises(InputError, match=r"cannot be kept in a run's config.yaml: \S"):
        Run.create(tmp_path / "run", {"method": "maml", "value": UNKEPT[case]})
    assert not (tmp_path / "run").exists()


@given(st.recursive(st.none() | st.booleans() | numbers_of_settings | texts_of_settings, nested, max_leaves=6))
@settings(max_examples=40, deadline=None)
def test_settings_are_read_as_they_were_given_or_refused(tmp_path_factory, value):
    place = tmp_path_factory.mktemp("made") / "run"
    try:
        Run.create(place, {"value": value})
    except InputError:
        assert not place.exists()
        return
    assert Run.open(place).config == {"value": value}


def test_a_run_is_not_made_over_another(run):
    with pytest.raises(InputError, match="already holds a run.*--resume.*another directory"):
        Run.create(run.path, {})


def test_a_run_is_not_made_among_other_files(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="thesis.tex.*not a run"):
        Run.create(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("below", ["", "run"])
def test_a_run_is_not_made_of_a_file(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises((InputError, RunError), match="file"):
        Run.create(tmp_path / "file" / below, {})


def test_a_run_takes_an_empty_directory_and_the_remains_of_a_creation_that_was_killed(tmp_path):
    for name in (".lock", ".config.yaml.12.tmp", "versions.json"):
        (tmp_path / name).touch()
    run = Run.create(tmp_path, {"a": 1})
    assert Run.open(tmp_path).config == {"a": 1} and run.versions
    assert not list(tmp_path.glob(".*.tmp"))


def test_opening_nothing_names_the_runs_nearby(run):
    with pytest.raises(InputError, match="no run at .*Did you mean `.*/run`"):
        Run.open(run.path.parent / "runn")
    with pytest.raises(InputError, match="holds some. Give one of: run"):
        Run.open(run.path.parent)
    with pytest.raises(InputError, match="There are none near it"):
        Run.open(run.path.parent / "nowhere" / "run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: 2\nlr: 0.1\n", "format 2.*up to 1.*pip install --upgrade"),
        ("lr: 0.1\n", "no `format`"),
        ("- 1\n", "settings by name"),
        ("a: [1\n", "cannot be read"),
        ("!!python/object/apply:os.system ['false']\n", "cannot be read"),
    ],
)
def test_a_config_of_another_making_is_refused(run, text, message):
    (run.path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        Run.open(run.path)


# -- one writer --


def test_writing_needs_the_lock(run):
    with pytest.raises(RuntimeError, match="with run.writing"):
        run.log({"step": 1})
    with run.writing(), run.writing():
        run.log({"step": 1})
    assert run.metrics() == [{"step": 1}]


def test_a_second_writer_is_told_who_the_first_is_and_a_killed_one_leaves_no_lock(run):
    ready, say = os.pipe()

    def hold() -> None:
        with Run.open(run.path).writing():
            os.write(say, b"!")
            signal.pause()

    first = copy_of_this_process(hold)
    try:
        assert os.read(ready, 1) == b"!"
        with pytest.raises(InputError, match=f"in use by process {first}"), run.writing():
            pass
        (run.path / "checkpoints").mkdir()
        (run.path / "checkpoints" / f".last.safetensors.{first}.tmp").write_bytes(b"half")
    finally:
        os.kill(first, signal.SIGKILL)
        assert wait_for(first) == -signal.SIGKILL
    with run.writing():
        assert list((run.path / "checkpoints").iterdir()) == []
    with run.writing():
        pass


# -- metrics --


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    """One run for all drawn rows: making a run takes longer than logging to it."""
    return Run.create(tmp_path_factory.mktemp("runs") / "run", {})


texts = st.one_of(st.text(max_size=3), st.sampled_from(["nan", "inf", "-inf", r"\nan", r"\\inf", "\\"]))
numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.sampled_from([math.inf, -math.inf]))


keys = st.one_of(
    st.text(max_size=5), st.sampled_from(["step", "kind", "metric", "interval", "finite", "tasks", "loss"])
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(keys, st.one_of(numbers, texts, st.lists(numbers | texts, max_size=3), st.booleans())))
def test_rows_are_read_as_logged_or_refused_at_once(one_run, row):
    run = one_run
    file = run.path / "metrics.jsonl"
    with run.writing():
        file.unlink(missing_ok=True)
        try:
            run.log(row)
        except InputError:
            assert not file.exists()
            return
    assert run.metrics() == [row]
    json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


DEEP: list[Any] = []
for _ in range(200):
    DEEP = [DEEP]

UNREADABLE = {
    "a step that is no integer": ({"step": 1.0}, "step"),
    "a step before the first": ({"step": -1}, "step"),
    "a truth value for a step": ({"step": True}, "step"),
    "an integer of a thousand digits": ({"n": 10**999}, "digits"),
    "lists in lists without end": ({"n": DEEP}, "deep"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_could_not_be_read_again_is_not_logged_or_saved(saved, case):
    values, place = UNREADABLE[case]
    with saved.writing():
        saved.log({"step": 1})
        with pytest.raises(InputError, match=f"no row of metrics, so nothing was written .*{place}"):
            saved.log(values)
        with pytest.raises(InputError, match=f"no state of a checkpoint, so nothing was written .*{place}"):
            saved.save("last", {}, values)
    assert saved.metrics() == [{"step": 1}] and saved.load("last").state == {"step": 300, "best": math.inf}


@pytest.mark.parametrize(
    "row",
    [
        {"kind": "val", "step": 1, "interval": 0.1, "finite": 1, "tasks": 1},
        {"kind": "train", "loss": "low"},
        {"kind": "probe", "step": 1, "name": "w", "value": [[1.0], [1.0, 2.0]]},
    ],
)
def test_a_row_that_lacks_what_its_kind_has_is_not_logged(run, row):
    with run.writing(), pytest.raises(InputError, match="no row of metrics"):
        run.log(row)
    assert run.metrics() == []


def test_nan_arrays_and_scalars_can_be_logged(run):
    with run.writing():
        run.log({"loss": math.nan, "value": torch.tensor([[1.0, math.inf]]), "mean": np.float32(0.5), "n": np.int64(3)})
    (row,) = run.metrics()
    assert math.isnan(row.pop("loss"))
    assert row == {"value": [[1.0, math.inf]], "mean": 0.5, "n": 3}


def test_half_a_last_line_is_no_row_and_is_dropped_by_the_next_writer(run):
    with run.writing():
        run.log({"step": 1})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.metrics() == [{"step": 1}]
    with run.writing():
        run.log({"step": 2})
    assert run.metrics() == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("line", ["{half", "[1]", ""])
def test_a_broken_line_in_the_middle_is_an_error_that_names_it(run, line):
    (run.path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(RunError, match="Line 2 of .*metrics.jsonl"):
        run.metrics()


def test_rewinding_drops_the_rows_of_later_steps(run):
    with run.writing():
        for step in range(1, 6):
            run.log({"step": step, "loss": math.nan})
        run.log({"note": "no step"})
        run.rewind(3)
        assert [row.get("step") for row in run.metrics()] == [1, 2, 3, None]
        run.rewind(0)
        assert run.metrics() == [{"note": "no step"}]


# -- checkpoints --


def test_a_checkpoint_is_loaded_as_it_was_saved(saved):
    tensors, state = Run.open(saved.path).load("last")
    assert state == {"step": 300, "best": math.inf}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, TENSORS[name], rtol=0, atol=0)


def test_tensors_that_share_memory_are_saved(run):
    weight = torch.nn.Parameter(torch.randn(4))
    with run.writing():
        run.save("last", {"a": weight, "b": weight, "c": weight[1:], "d": weight[:1].expand(5)}, {})
    loaded = run.load("last").tensors
    torch.testing.assert_close(loaded["c"], weight.detach()[1:])
    assert loaded["d"].shape == (5,)


def test_a_missing_checkpoint_names_those_there_are(saved):
    with pytest.raises(InputError, match="no checkpoint `bset`. Did you mean `best`.*best, last"):
        saved.load("bset")
    with pytest.raises(InputError, match="cannot name a file"):
        saved.load("../best")


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [("complex128", torch.zeros(2, dtype=torch.complex128)), ("sparse_coo", torch.eye(3).to_sparse())],
)
def test_what_no_file_can_hold_is_named_before_a_training(run, kind, tensor):
    with (
        run.writing(),
        pytest.raises(InputError, match=f"w is {kind}, which no checkpoint and no saved model can hold"),
    ):
        run.save("last", {"w": tensor}, {"step": 1})
    digits = {"tasks": {"name": "digits", "ways": 3}, "model": {"name": "linear"}, "method": {"name": "maml"}}
    setup = config.build(config.parse_config(digits))
    setup.learner.register_buffer("own", tensor)
    with pytest.raises(InputError, match=f"own is {kind}, which no checkpoint"):
        check_training(setup)


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_checkpoint_cut_short_is_refused_and_the_sound_one_named(saved, keep):
    path = saved.path / "checkpoints" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match=r"last.safetensors is cut short.*Use `best` \(step 200\) instead"):
        saved.load("last")


def test_any_flipped_byte_is_noticed(saved):
    path = saved.path / "checkpoints" / "last.safetensors"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises((RunError, InputError), match="last.safetensors"):
            read_checkpoint(path)


def test_a_file_of_somebody_else_is_refused(saved):
    from safetensors.torch import save_file

    for name in ("last", "best"):
        save_file({"a": torch.ones(2)}, saved.path / "checkpoints" / f"{name}.safetensors")
    with pytest.raises(RunError, match="not a checkpoint that quickstudy wrote. No other checkpoint can be read"):
        saved.load("last")


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.011, 0.019])
def test_a_kill_at_any_instant_leaves_a_checkpoint_that_loads(run, delay):
    ready, say = os.pipe()

    def write() -> None:
        own = Run.open(run.path)
        with own.writing():
            for step in itertools.count(1):
                own.log({"step": step})
                own.save("last", {"w": torch.full((200_000,), float(step))}, {"step": step})
                os.write(say, b"!")

    writer = copy_of_this_process(write)
    assert os.read(ready, 1) == b"!"
    time.sleep(delay)
    os.kill(writer, signal.SIGKILL)
    assert wait_for(writer) == -signal.SIGKILL
    tensors, state = run.load("last")
    assert tensors["w"].unique().tolist() == [state["step"]]
    assert run.metrics()[-1]["step"] >= state["step"]
    with run.writing():
        run.rewind(0)
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["last.safetensors"]


FULL = {
    "checkpoint": (
        lambda run: run.save("last", {"w": torch.zeros(50_000)}, {"step": 400}),
        "previous checkpoint (step 300) is intact",
    ),
    "first checkpoint": (
        lambda run: run.save("new", {"w": torch.zeros(50_000)}, {"step": 400}),
        "no earlier one under that name",
    ),
    "metrics": (
        lambda run: [run.log({"step": i, "note": "x" * 1000}) for i in range(40)],
        "rows before it are intact",
    ),
    "result": (lambda run: run.write_result("test", {}, {"x": torch.rand(50_000).numpy()}), "evaluate again"),
}


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_loses_nothing_that_was_there(saved, name):
    """A limit on the size of files replaces a full disk: the system refuses to write more."""
    write, message = FULL[name]
    said = os.memfd_create("said")

    def work() -> None:
        own, hard = Run.open(saved.path), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        with own.writing():
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
            try:
                write(own)
            except RunError as error:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                os.write(said, str(error).encode())

    before = {path: path.read_bytes() for path in saved.path.rglob("*.*") if path.is_file()}
    assert wait_for(copy_of_this_process(work)) == 0
    words = os.pread(said, 2000, 0).decode()
    os.close(said)
    assert message in words and "File too large" in words and "Free some space" in words
    after = {path: path.read_bytes() for path in saved.path.rglob("*.*") if path.is_file()}
    after.pop(saved.path / "metrics.jsonl", None)
    after.pop(saved.path / "results" / ".lock", None)
    assert after == before
    assert [row["step"] for row in saved.metrics()] == list(range(len(saved.metrics())))
    assert saved.load("last").state["step"] == 300


def test_the_limit_did_not_reach_this_process():
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_tensors_of_another_model_are_refused():
    expected = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)}
    check_matches(dict(expected), expected, "Checkpoint `best`")
    with pytest.raises(InputError) as error:
        check_matches({"a": torch.zeros(4), "b": torch.zeros(3), "d": torch.zeros(1)}, expected, "Checkpoint `best`")
    for part in ("Checkpoint `best`", "c is missing", "d is unexpected", "a has shape [4], not [2]", "another method"):
        assert part in str(error.value)


# -- results --


def test_results_are_read_as_written(run):
    arrays = {"metric": np.linspace(0, 1, 5), "query_y": np.arange(3), "empty": np.zeros((0, 2), np.float32)}
    run.write_result("test", {"mean": 0.5, "interval": math.nan}, {"metric": np.zeros(1)})
    run.write_result("test", {"mean": 0.7, "data": {"name": "omniglot"}, "train_seconds": None}, arrays)
    run.write_result("val", {"mean": 0.6}, {})
    results = run.results()
    assert list(results) == ["test", "val"]
    assert results["test"].summary == {
        "format": 1,
        "mean": 0.7,
        "data": {"name": "omniglot"},
        "train_seconds": None,
    }
    assert results["test"].arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(results["test"].arrays[name], array)


def test_texts_that_look_like_numbers_stay_texts(run):
    words = {"label": "nan", "many": ["inf", "-inf", r"\nan", "nano"], "array": np.array(["nan", "b"])}
    read = words | {"array": ["nan", "b"]}
    with run.writing():
        run.log(words)
        run.save("last", {}, words)
    run.write_result("test", words, {})
    assert run.metrics() == [read] and run.load("last").state == read
    assert run.results()["test"].summary == {"format": 1, **read}


@pytest.mark.parametrize("name", ["file", "allow_pickle"])
def test_a_name_that_an_archive_does_not_take_is_refused(run, name):
    with pytest.raises(InputError, match=f"cannot be called '{name}'"):
        run.write_result("test", {}, {name: np.zeros(1)})
    with pytest.raises(InputError, match="has the format of its file as `format`"):
        run.write_result("test", {"format": 7}, {})
    assert run.results() == {}


def test_objects_are_never_pickled(run):
    with pytest.raises(TypeError, match="'x'.*pickle"):
        run.write_result("test", {}, {"x": np.array([{}], dtype=object)})
    assert run.results() == {}


@pytest.mark.parametrize("summary", [{"mean": "high"}, {"mean": [0.5]}, {"tasks": -1}, {"finite": 2.0}, {"x": 10**999}])
def test_a_summary_that_could_not_be_read_again_leaves_the_old_result(run, summary):
    run.write_result("test", {"mean": 0.5}, {"metric": np.ones(2)})
    with pytest.raises(InputError, match="no summary of a result, so nothing was written"):
        run.write_result("test", summary, {"metric": np.zeros(2)})
    (result,) = run.results().values()
    assert result.summary["mean"] == 0.5 and result.arrays["metric"].tolist() == [1, 1]


def read_or_refuse(run):
    """The arrays of the result, or the message of the error."""
    try:
        return run.results()["test"].arrays, ""
    except RunError as error:
        return {}, str(error)


def test_a_damaged_result_is_named(run):
    run.write_result("test", {"mean": 0.5}, {"metric": np.arange(3.0)})
    table, data = (run.path / "results" / f"test.{kind}" for kind in ("json", "npz"))
    whole = data.read_bytes()
    for at in range(len(whole)):
        data.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        arrays, message = read_or_refuse(run)
        # Some bytes of a zip file (dates, sizes that are there twice) have no effect.
        assert "test.npz" in message or {name: array.tolist() for name, array in arrays.items()} == {
            "metric": [0, 1, 2]
        }
    data.unlink()
    with pytest.raises(RunError, match="test.npz is missing"):
        run.results()
    for text, error in (("{", RunError), ("[]", RunError), ('{"format": 9}', InputError)):
        table.write_text(text)
        with pytest.raises(error, match="test.json"):
            run.results()


def test_an_atomic_write_replaces_all_or_nothing(tmp_path):
    path = tmp_path / "file"
    files.write_atomic(path, b"old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_atomic(tmp_path / "folder", b"new")
    assert Path(path).read_bytes() == b"old"
