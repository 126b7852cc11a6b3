"""Run directories from elsewhere: nothing is written outside, nothing is read without bound, damage is one line."""

import io
import json
import os
import time
import tracemalloc
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch

from quickstudy.errors import InputError, RunError
from quickstudy.reports.report import write_report
from quickstudy.storage.arrays import read_arrays
from quickstudy.storage.run import Run
from quickstudy.storage.yaml_text import SavedYaml, parse_yaml


@pytest.fixture
def run(tmp_path):
    made = Run.create(tmp_path / "run", {"method": "maml"})
    with made.writing():
        made.log({"kind": "train", "step": 1, "loss": 0.5})
        made.save("last", {"w": torch.ones(2)}, {"step": 1})
    made.write_result("test", {"mean": 0.5}, {"metric": np.ones(3)})
    return made


def write_everything(path):
    run = Run.open(path)
    with run.writing():
        run.log({"kind": "train", "step": 2})
        run.rewind(1)
        run.save("last", {"w": torch.zeros(2)}, {"step": 2})
    run.write_result("test", {"mean": 0.1}, {"metric": np.zeros(3)})


def read_everything(path):
    run = Run.open(path)
    _ = run.versions, run.metrics(), run.results(), run.load("last")


FILES = (
    "config.yaml",
    "versions.json",
    "metrics.jsonl",
    ".lock",
    ".writer",
    "checkpoints/last.safetensors",
    "results/test.json",
    "results/test.npz",
    "results/.lock",
)


READ = ("config.yaml", "versions.json", "metrics.jsonl", "checkpoints/last.safetensors", "results/test.json",
        "results/test.npz", "checkpoints", "results")  # fmt: skip
WRITTEN = (
    "config.yaml",
    "metrics.jsonl",
    ".lock",
    "results/.lock",
    "checkpoints/last.safetensors",
    "checkpoints",
    "results",
)
"""Whose place a link cannot take. A file that is replaced as a whole takes the place of the link."""


@pytest.mark.parametrize("name", [*FILES, "checkpoints", "results"])
@pytest.mark.parametrize("dangling", [False, True])
def test_nothing_behind_a_link_is_read_or_changed(run, tmp_path, name, dangling):
    inside, outside = run.path / name, tmp_path / "outside"
    if inside.exists():
        inside.rename(outside)
    else:
        outside.write_text("")
    inside.symlink_to("nowhere" if dangling else outside)
    before = {path: (path.lstat(), path.is_file() and path.read_bytes()) for path in (outside, *outside.glob("*"))}
    for work, refuses in ((read_everything, name in READ), (write_everything, name in WRITTEN)):
        if refuses:
            with pytest.raises((InputError, RunError), match="is a link|no run at"):
                work(run.path)
        else:
            work(run.path)
    assert not (inside.parent / "nowhere").exists() and set(tmp_path.iterdir()) == {run.path, outside}
    for path, (status, held) in before.items():
        now = path.lstat()
        assert (now.st_size, now.st_mtime_ns, path.is_file() and path.read_bytes()) == (
            status.st_size, status.st_mtime_ns, held,
        )  # fmt: skip
    assert set(outside.glob("*")) | {outside} == set(before)


def test_the_run_itself_may_be_a_link_that_the_user_gave(run, tmp_path):
    (tmp_path / "short").symlink_to(run.path)
    write_everything(tmp_path / "short")
    read_everything(tmp_path / "short")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_has_a_second_name_keeps_its_contents_there(run, tmp_path, name):
    """As in a copy of the run by `cp -al`, or where somebody has linked a file of ours."""
    copy = tmp_path / "copy"
    if not (run.path / name).exists():
        (run.path / name).write_text("mine")
    copy.hardlink_to(run.path / name)
    before = copy.read_bytes()
    write_everything(run.path)
    assert copy.read_bytes() == before


@pytest.mark.parametrize("name", [".lock", "results/.lock"])
def test_a_lock_that_holds_something_is_not_emptied(run, tmp_path, name):
    (tmp_path / "thesis").write_text("years of work")
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).hardlink_to(tmp_path / "thesis")
    with pytest.raises(InputError, match="not a lock that quickstudy made"):
        write_everything(run.path)
    assert (tmp_path / "thesis").read_text() == "years of work"


def test_a_file_prepared_under_a_temporary_name_is_not_written_through(run, tmp_path):
    (tmp_path / "thesis").write_text("years of work")
    (run.path / "checkpoints" / f".last.safetensors.{os.getpid()}.tmp").symlink_to(tmp_path / "thesis")
    (run.path / "results" / f".test.npz.{os.getpid()}.tmp").symlink_to(tmp_path / "thesis")
    write_everything(run.path)
    assert (tmp_path / "thesis").read_text() == "years of work"


@pytest.mark.parametrize("name", ["config.yaml", "versions.json", "metrics.jsonl", "checkpoints/last.safetensors"])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(run, name):
    (run.path / name).unlink()
    os.mkfifo(run.path / name)
    with pytest.raises((InputError, RunError)):
        read_everything(run.path)


def test_a_row_without_its_end_is_kept(run):
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 2, "loss": 0.25}')
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2]
    with run.writing():
        run.log({"kind": "train", "step": 3})
    assert run.metrics()[:2] == rows and run.metrics()[2]["step"] == 3


# -- other shapes --


@pytest.mark.parametrize(
    "row",
    [
        {"kind": "probe"},
        {"kind": "probe", "step": 1, "name": "a", "value": [[1], [1, 2]]},
        {"kind": "probe", "step": 1, "name": "a", "value": "x"},
        {"kind": "val", "step": 1},
        {"kind": "val", "step": 1, "metric": [], "interval": 0.1, "finite": 1, "tasks": 1},
        {"kind": "train", "step": "1"},
        {"kind": "train", "step": -1},
        {"step": None},
        [1],
        1,
    ],
)
def test_rows_of_another_shape_are_named(run, row):
    (run.path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(RunError, match="Line 1 of .*metrics.jsonl is not a row of metrics") as refused:
        run.metrics()
    assert "\n" not in str(refused.value)


def test_rows_of_a_kind_that_is_no_text_are_passed_on(run):
    (run.path / "metrics.jsonl").write_text('{"kind": ["probe"]}\n')
    assert run.metrics() == [{"kind": ["probe"]}]


@pytest.mark.parametrize(
    "text",
    ["[]", "1", '{"format": 1, "mean": "x"}', '{"format": 1, "tasks": -1}', "[" * 100_000, '{"a":' * 100_000,
     '{"format": 1, "mean": 1' + "0" * 400 + "}", '{"format": 1, "mean": 1' + "0" * 5000 + "}", '{"format": true}',
     "\0",
     '{"format": 1, "data": ' + "[" * 100 + "]" * 100 + "}"],
)  # fmt: skip
def test_results_of_another_shape_are_refused_in_a_line(run, text):
    (run.path / "results" / "test.json").write_text(text)
    for read in (run.results, lambda: write_report([run], run.path / "report")):
        with pytest.raises((InputError, RunError), match="test.json") as refused:
            read()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 100_000, "a: [" * 50_000, "? " * 50_000])
def test_a_configuration_is_not_nested_without_end(run, text):
    began = time.process_time()
    (run.path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match="config.yaml") as refused:
        Run.open(run.path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000
    assert time.process_time() - began < 20


BOMBS = {
    "lists": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
    "mappings": "a: &a {x: 1, y: 2}\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} {{x: *{chr(97 + i)}, y: *{chr(97 + i)}}}\n" for i in range(24)),
    "merges": "a: &a {x: 1}\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [*{chr(97 + i)}, *{chr(97 + i)}]}}\n" for i in range(24)),
    "itself": "a: &a [*a]\n",
    "its key": "a: &a {<<: *a}\n",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_a_few_bytes_of_aliases_do_not_fill_the_memory(run, text):
    (run.path / "config.yaml").write_text(f"format: 1\n{text}")
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="config.yaml cannot be read"):
            Run.open(run.path)
        assert tracemalloc.get_traced_memory()[1] < 2e8
    finally:
        tracemalloc.stop()


def test_aliases_that_repeat_little_are_read():
    text = "base: &b {lr: 0.1, hidden: [40, 40]}\nmethod: {<<: *b, name: maml}\nagain: *b\n"
    assert parse_yaml(text)["method"] == {"lr": 0.1, "hidden": [40, 40], "name": "maml"}


@pytest.mark.parametrize("number", ["0x" + "f" * 5000, "9" * 5000, "0b" + "1" * 90, "1" + ":1" * 200, "9" * 30])
def test_numbers_are_as_long_as_numbers_are(number):
    with pytest.raises(ValueError, match="digits|too large"):
        parse_yaml(f"steps: {number}", SavedYaml)
    if ":" in number:  # which a person who types it does not mean as a number
        assert parse_yaml(f"steps: {number}") == {"steps": number}
    else:
        with pytest.raises(ValueError, match="digits|too large"):
            parse_yaml(f"steps: {number}")


def test_what_is_packed_small_is_not_unpacked_without_bound(run, monkeypatch):
    path = run.path / "results" / "test.npz"
    np.savez_compressed(path, metric=np.zeros(2_000_000))
    monkeypatch.setenv("QUICKSTUDY_MAX_BYTES", "1000000")
    assert path.stat().st_size < 100_000
    with pytest.raises(RunError, match="16000.*QUICKSTUDY_MAX_BYTES"):
        run.results()
    monkeypatch.setenv("QUICKSTUDY_MAX_BYTES", "20000000")
    assert run.results()["test"].arrays["metric"].size == 2_000_000


def test_a_log_without_end_is_refused(run, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_MAX_BYTES", "1000")
    os.truncate(run.path / "metrics.jsonl", 10**9)  # a hole in a file takes no disk
    with pytest.raises(InputError, match="metrics.jsonl holds 1000000000 bytes.*QUICKSTUDY_MAX_BYTES"):
        run.metrics()


def test_any_byte_of_a_packed_array_may_be_wrong(tmp_path):
    """What is read is an array or a ValueError: zipfile, zlib and NumPy raise a dozen kinds of errors."""
    packed, path = io.BytesIO(), tmp_path / "a.npz"
    np.savez_compressed(packed, metric=np.arange(6.0), names=np.array(["a", "b"]))
    draw = np.random.default_rng(0)
    for _ in range(400):
        data = bytearray(packed.getvalue())
        for at in draw.integers(len(data), size=draw.integers(1, 4)):
            data[at] ^= 1 << int(draw.integers(8))
        path.write_bytes(data)
        with suppress(ValueError):
            read_arrays(path)


@pytest.mark.parametrize(
    "shape", ["(10000000000000,)", "(1000000000,)", "(-1,)", "(0, 99999999999999999999999)", "((1,),)"]
)
def test_an_array_that_claims_to_be_larger_than_it_is(tmp_path, shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("metric.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8))
    with pytest.raises(ValueError, match="."):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "arrays",
    [
        {"query_x": np.array(1.0), "support_shown": np.array("x")},
        {"output": np.zeros((4, 2), complex), "query_y": np.arange(4)},
        {"confusion": np.zeros((2, 3), "U3")},
        {"metric": np.array("x")},
        {"support_shown": np.array(7), "query_shown": np.array([99, 100, 101, 102])},
    ],
)
def test_arrays_that_do_not_fit_together_are_not_drawn(run, arrays):
    task = {
        "support_x": np.zeros((2, 1, 8, 8), np.uint8), "support_y": np.arange(2), "classes": np.arange(2),
        "query_x": np.zeros((4, 1, 8, 8), np.uint8), "query_y": np.arange(4) % 2, "output": np.zeros((4, 2)),
    }  # fmt: skip
    run.write_result("test", {"mean": 0.5, "metric": "accuracy"}, task | arrays)
    assert write_report([run], run.path / "report").is_file()
