"""`quickstudy data`: what is here, what is wrong with it, and how it comes, here from a server of the test's."""

import functools
import gzip
import hashlib
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tarfile
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from conftest import DATA, SESSION_CACHE
from conftest import find_real_set as find_real
from quickstudy.errors import RunError
from quickstudy.storage.run import Run
from quickstudy.tasks import FAMILIES
from quickstudy.tasks.images.downloads import MANUAL_SOURCES, SOURCES, Remote, Source, fetch
from quickstudy.tasks.images.sets import IMAGE_SETS


@pytest.fixture
def root(place, monkeypatch):
    """A data root and a cache of the test's own, in the environment."""
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(place / "cache"))
    monkeypatch.setenv("QUICKSTUDY_DATA", str(place / "data"))
    (place / "data").mkdir()
    return place / "data"


def picture(seed, mode="RGB", side=12):
    depth = {"L": (), "RGB": (3,), "RGBA": (4,)}
    values = np.random.default_rng(seed).integers(0, 256, (side, side, *depth[mode]), dtype=np.uint8)
    return Image.fromarray(values)


def folder(place, classes=("a", "b", "c"), images=4, under=""):
    """A folder of class folders with pictures that differ."""
    for c, name in enumerate(classes):
        (place / under / name).mkdir(parents=True)
        for i in range(images):
            picture([c, i, len(under)]).save(place / under / name / f"{i}.png")
    return place


def checked(cli, *words):
    """The report of a check that finds usable pictures."""
    done = cli("data", "check", *words, "--json")
    assert done.code == 0, done
    (line,) = done.out.splitlines()
    return json.loads(line)


# -- words --


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Say what to do: quickstudy data list, check, prepare"),
        (["chekc"], "no verb 'chekc'. Did you mean `check`"),
        (["check"], "Say what to look through"),
        (["check", "omnigolt"], "no set and no path 'omnigolt'. Did you mean `omniglot`"),
        (["check", "omniglot"], "'omniglot' is not under the data root"),
        (["check", "a", "b"], "`quickstudy data check` takes one source; given: a b"),
        (["check", "--al"], "`--al` is no option of `quickstudy data check`. Did you mean `--all`"),
        (["prepare"], "Say which set"),
        (["prepare", "omnigolt"], "no image set 'omnigolt'. Did you mean `omniglot`"),
        (
            ["prepare", "mini_imagenet", "--yes"],
            "cannot be downloaded from here: .*ImageNet.*mini-imagenet-cache.*https://",
        ),
        (["prepare", "mnist", "--quiet"], "add --yes"),
        (["list", "--data-root", "nowhere"], "--data-root: there is no directory nowhere"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_cannot_be_understood_is_refused_on_a_line(cli, root, monkeypatch, words, message):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    done = cli("data", *words)
    assert done.code == 2 and done.out == ""
    last = done.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(message, last), last
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("words", [[], ["list"], ["check"], ["prepare"]], ids=" ".join)
def test_help(cli, root, words):
    done = cli("data", *words, "--help")
    assert done.code == 0 and f"usage: quickstudy data {' '.join(words)}".strip() in done.out


# -- list --


def test_list_says_what_is_here_and_what_only_stands_in(cli, root):
    for name in ("mnist", "cub_200_2010_84px"):
        (root / name).mkdir()
    told = json.loads(cli("data", "list", "--json").out)
    assert told["root"] == str(root) and list(told["sets"]) == list(IMAGE_SETS)
    here = {name: (row["here"], row["stands_in"]) for name, row in told["sets"].items() if row["here"]}
    assert here == {"mnist": ("mnist", False), "cub": ("cub_200_2010_84px", True)}
    assert told["sets"]["omniglot"]["splits"].startswith("finn, lake, ")
    text = cli("data", "list").out
    assert f"data root: {root}" in text and "cub_200_2010_84px, which stands in for it: other pictures" in text
    assert MANUAL_SOURCES["mini_imagenet"][0] in text and "quickstudy data prepare omniglot (15.9 MB)" in text


def test_every_set_can_be_had_one_way(root):
    assert set(IMAGE_SETS) == set(SOURCES) | set(MANUAL_SOURCES) and not set(SOURCES) & set(MANUAL_SOURCES)
    for name, source in SOURCES.items():
        assert source.folder in IMAGE_SETS[name].folders and source.folder not in IMAGE_SETS[name].stand_ins
        for file in source.files:
            kind, _, digits = file.hash.partition(":")
            assert len(digits) == 2 * hashlib.new(kind).digest_size and file.size > 1000


def test_the_data_root_of_one_command_is_not_that_of_the_next(cli, place, root):
    folder(place / "other" / "mnist")
    rows = json.loads(cli("data", "list", "--json", "--data-root", "other").out)
    assert rows["root"] == str(place / "other") and rows["sets"]["mnist"]["here"] == "mnist"
    assert os.environ["QUICKSTUDY_DATA"] == str(root)


@pytest.mark.parametrize("verb", ["train", "evaluate", "compare"])
def test_verbs_that_read_pictures_take_a_data_root(cli, root, verb):
    done = cli(verb, "sine.yaml", "--data-root", "nowhere")
    assert done.code == 2 and "there is no directory nowhere" in done.err


def test_a_data_root_is_not_recorded_with_a_run(cli, place, root):
    folder(place / "other" / "mnist", images=10)
    (place / "images.yaml").write_text(
        "tasks: {name: mnist, split: image, ways: 2, queries: 1, size: 8}\nmodel: {name: mlp, hidden: [8]}\n"
        "method: {name: maml, inner_lr: 0.1}\ntrain: {steps: 1, meta_batch_size: 2}\nevaluate: {tasks: 3}\n"
    )
    assert cli("train", "images.yaml", "--out", "run", "--quiet").code == 2
    assert cli("train", "images.yaml", "--out", "run", "--quiet", "--data-root", place / "other").code == 0
    assert str(place / "other") not in json.dumps(Run.open("run").config)
    assert cli("evaluate", "run", "--quiet").code == 2
    assert cli("evaluate", "run", "--quiet", "--data-root", place / "other").code == 0


# -- check --


def test_counts_sizes_and_modes(cli, place, root):
    folder(place / "own", images=5)
    picture(7, "L", side=30).save(place / "own" / "a" / "grey.png")
    picture(8, "RGBA", side=20).save(place / "own" / "b" / "clear.png")
    told = checked(cli, "own")
    assert (told["classes"], told["images"], told["usable"]) == (3, 17, True)
    assert told["per_class"] == {"smallest": 5, "median": 6.0, "largest": 6, "of_two_or_more": 3}
    assert told["modes"] == {"RGB": 15, "L": 1, "RGBA": 1}
    assert told["sizes"] == {
        "different": 3,
        "width": [12, 30],
        "height": [12, 30],
        "most_common": [[12, 12, 15], [30, 30, 1], [20, 20, 1]],
    }
    assert told["changed"] == {"grey made colour": 1, "transparency laid over white": 1}
    assert told["identical"]["groups"] == 0 and told["unreadable"]["count"] == 0 and told["published"] is None


def test_ones_own_pictures_are_looked_through_as_training_divides_them(cli, place, root):
    """By image, where the layout has no division: copies end on both sides, and a class may be too small for one."""
    own = folder(place / "own", images=10)
    for i in range(2, 10):
        (own / "b" / f"{i}.png").unlink()
    for i in range(10):
        picture(0).save(own / "c" / f"{i}.png")
    told = checked(cli, "own")
    assert told["split"]["rule"].startswith("by image")
    assert told["identical"]["across_splits"] == 1
    assert [name for name, _, _ in told["too_small"]["first"]] == ["b"] and told["too_small"]["count"] == 1
    text = cli("data", "check", "own").out
    assert "too small: b has 1 in " in text and "1 classes with fewer than 2 pictures in a split; --tasks.only" in text
    done = cli("train", "folder", "--tasks.path", "own", "--print-config")
    assert "Class 'b' has 2 pictures, 1 of them in" in done.err, "what the check foresaw"


@pytest.mark.filterwarnings("always::UserWarning")
def test_what_is_left_out_is_told_once(cli, place, root):
    own = folder(place / "own", images=10)
    (own / "a" / "broken.png").write_text("broken")
    small = ("--tasks.size", 32, "--train.steps", 1, "--evaluate.tasks", 2, "--no-tensorboard", "--test")
    done = cli("train", "folder", "--tasks.path", "own", *small)
    assert done.code == 0 and done.err.count("broken.png") == 1, done.err


def test_the_first_decoding_of_many_pictures_is_told(cli, place, root):
    rng = np.random.default_rng(0)
    np.savez(place / "many.npz", images=rng.integers(0, 256, (1200, 8, 8), np.uint8), labels=np.arange(1200) % 3)
    few = ("train", "folder", "--tasks.path", "many.npz", "--tasks.size", 32, "--print-config")
    done = cli(*few)
    assert (done.code, done.err) == (0, "note: decoding 1200 pictures, which is done once\n")
    assert "progress" not in done.out
    assert cli(*few).err == ""
    assert cli(*few, "--tasks.channels", 1, "--quiet").err == ""


def test_duplicates_within_and_across(cli, place, root):
    own = place / "own"
    folder(own, ("a", "b"), under="train")
    folder(own, ("c", "d"), under="test")
    same = [picture(s) for s in (1, 2, 3)]
    for at, names in enumerate((("train/a/x", "train/a/y"), ("train/a/z", "train/b/z"), ("train/b/w", "test/c/w"))):
        for name in names:
            same[at].save(own / f"{name}.png")
    same[2].save(own / "test/c/other_file_same_pixels.bmp")
    told = checked(cli, "own")["identical"]
    counts = {key: told[key] for key in ("groups", "pictures", "within_class", "across_classes", "across_splits")}
    assert counts == {"groups": 3, "pictures": 7, "within_class": 2, "across_classes": 2, "across_splits": 1}
    assert [sorted(p["name"] for p in group) for group in told["first"]] == [
        ["train/a/x.png", "train/a/y.png"],
        ["train/a/z.png", "train/b/z.png"],
        ["test/c/other_file_same_pixels.bmp", "test/c/w.png", "train/b/w.png"],
    ]
    text = cli("data", "check", "own").out
    assert "there more than once: 3 (within a class 2, across classes 2, across splits 1)" in text
    assert "identical: train/a/x.png (a, train) = train/a/y.png (a, train)" in text


def test_a_picture_that_is_turned_by_its_tag_is_the_same_picture(cli, place, root):
    own = place / "own"
    folder(own, ("a", "b"))
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8))
    upright.save(own / "a/upright.png")
    turned = upright.rotate(90)
    tag = Image.Exif()
    tag[0x0112] = 6  # to be seen turned by 90 degrees clockwise
    turned.save(own / "b/turned.png", exif=tag)
    told = checked(cli, "own")["identical"]
    assert [sorted(p["name"] for p in group) for group in told["first"]] == [["a/upright.png", "b/turned.png"]]


def test_a_damaged_picture_with_a_good_header_is_not_counted_among_the_sizes(cli, place, root):
    folder(place / "own")
    whole = place / "own" / "a" / "whole.jpg"
    picture(7, side=64).save(whole)
    told = checked(cli, "own")
    assert sum(told["modes"].values()) == told["images"] == 13
    damaged = whole.read_bytes()
    (place / "own" / "b" / "half.jpg").write_bytes(damaged[: len(damaged) // 2])
    told = checked(cli, "own")
    assert sum(told["modes"].values()) == told["images"] == 13 and told["unreadable"]["count"] == 1


def test_the_first_ten_are_named_and_all_where_asked(cli, place, root):
    folder(place / "own")
    for i in range(13):
        (place / "own" / "a" / f"broken{i:02d}.png").write_bytes(b"no picture")
        picture(100 + i).save(place / "own" / "b" / f"twice{i:02d}.png")
        picture(100 + i).save(place / "own" / "c" / f"twice{i:02d}.png")
    text = cli("data", "check", "own").out
    assert text.count("not an image that Pillow knows") == 10 and "unreadable: 3 more; --all lists them" in text
    assert text.count(" = ") == 10 and "identical: 3 more; --all lists them" in text
    text = cli("data", "check", "own", "--all").out
    assert text.count("not an image that Pillow knows") == 13 and text.count(" = ") == 13 and "more;" not in text


def test_what_is_read_is_kept_for_training(cli, place, root):
    folder(place / "own", images=20)
    checked(cli, "own")
    (kept,) = (place / "cache").glob("*/pixels.bin")
    before = kept.stat().st_mtime_ns
    checked(cli, "own")
    FAMILIES["folder"](path="own")
    assert [path.stat().st_mtime_ns for path in (place / "cache").glob("*/pixels.bin")] == [before]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda own: folder(own, ("only",)), "two classes of at least two pictures, and 1 of 1"),
        (lambda own: folder(own, images=1), "0 of 3 have as many"),
        (lambda own: [own.joinpath("a").mkdir(parents=True), own.joinpath("a/x.png").write_bytes(b"")], "No picture"),
        (lambda own: own.mkdir(), "it is an empty folder"),
    ],
    ids=["one class", "one picture each", "nothing readable", "empty"],
)
def test_what_nothing_can_be_learned_from_exits_with_1(cli, place, root, write, message):
    write(place / "own")
    done = cli("data", "check", "own")
    assert done.code == 1 and message in done.err
    lines = cli("data", "check", "own", "--json").out.splitlines()
    assert message in json.loads(lines[-1])["error"] and all(not json.loads(line)["usable"] for line in lines[:-1])


def test_a_named_set_is_held_against_the_published_one(cli, root):
    folder(root / "mini_imagenet_tiny64", ("n01532829", "n01558993", "n02219486"))
    told = checked(cli, "mini_imagenet")["published"]
    assert not told["complete"] and told["images"] == 60000
    assert (
        told["splits"]["ravi"].startswith("2 of the 100 published classes") or "3 of the 100" in told["splits"]["ravi"]
    )
    text = cli("data", "check", "mini_imagenet").out
    assert "not the published pictures: 3 of 100 classes, 12 of 60000 images" in text


@pytest.mark.parametrize(
    ("name", "folder", "complete", "twice"),
    [("omniglot", "omniglot", True, 1), ("mnist", "mnist", True, 0), ("cub", "cub_200_2010_84px", False, 0)],
)
def test_real_sets(shell, monkeypatch, name, folder, complete, twice):
    """In a process of its own, where decoding the pictures takes a third of the time: no types are checked in it."""
    assert find_real(name).name == folder
    monkeypatch.setenv("QUICKSTUDY_CACHE", SESSION_CACHE)
    told = checked(shell, name, "--data-root", DATA)
    assert told["published"]["complete"] == complete and told["unreadable"]["count"] == 0
    assert told["identical"]["groups"] == twice
    assert all(split.startswith("matches the published set") for split in told["published"]["splits"].values())


# -- prepare --


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder; one named `half` breaks off in the middle, and who accepts packing gets `packed` packed."""

    def end_headers(self):
        if "packed" in self.path and "gzip" in self.headers.get("Accept-Encoding", ""):
            self.send_header("Content-Encoding", "gzip")
        super().end_headers()

    def log_message(self, *words):
        self.server.asked.append(self.path)

    def copyfile(self, source, outputfile):
        data = source.read()
        outputfile.write(data[: len(data) // 2] if "half" in self.path else data)


@pytest.fixture
def server(tmp_path):
    """An address, the folder that is served, and what was asked for."""
    served = tmp_path / "served"
    served.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=served)) as running:
        running.asked = []
        running.folder, running.address = served, f"http://127.0.0.1:{running.server_port}/"
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def remote(server, name, data, *, hash_of=None, unpack=None):
    (server.folder / name).write_bytes(data)
    digest = hashlib.md5(data if hash_of is None else hash_of).hexdigest()
    return Remote(server.address + name, f"md5:{digest}", len(data), unpack)


def source(*files):
    return Source("mnist", files, "none", "nowhere")


def needs_pooch():
    pytest.importorskip("pooch", reason="needs pooch, which downloads: pip install 'quickstudy[data]'")


def test_a_set_comes_whole_and_once(server, tmp_path):
    needs_pooch()
    told = []
    small = gzip.compress(b"b" * 10)
    files = [remote(server, "a.gz", b"a" * 300_000), remote(server, "packed.gz", small)]
    place = fetch(source(*files), tmp_path / "new" / "root", lambda done, total: told.append((done, total)))
    assert place == tmp_path / "new" / "root" / "mnist"
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {"a.gz": b"a" * 300_000, "packed.gz": small}
    assert (300_000, 300_000) in told and told[-1] == (len(small), len(small)) and len(told) > 4
    assert server.asked == ["/a.gz", "/packed.gz"]
    assert fetch(source(*files), tmp_path / "new" / "root") == place and len(server.asked) == 2
    assert {path.name for path in place.parent.iterdir()} <= {"mnist", ".mnist.lock"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda server: remote(server, "b", b"b", hash_of=b"c"), "not the file that was published"),
        (lambda server: Remote(server.address + "none", "md5:" + 32 * "0", 9), "404"),
        (lambda server: remote(server, "half", b"b" * 100_000), "could not be downloaded"),
        (lambda server: Remote("http://127.0.0.1:9/b", "md5:" + 32 * "0", 9), "could not be downloaded"),
    ],
    ids=["wrong hash", "404", "breaks off", "no server"],
)
def test_what_fails_leaves_no_set_and_keeps_what_is_complete(server, tmp_path, bad, message):
    needs_pooch()
    good = remote(server, "a", b"a" * 1000)
    with pytest.raises(RunError, match=message):
        fetch(source(good, bad(server)), tmp_path / "root")
    assert not (tmp_path / "root" / "mnist").exists()
    assert [path.name for path in (tmp_path / "root" / ".mnist.part").iterdir()] == ["a"]
    place = fetch(source(good, remote(server, "b", b"better")), tmp_path / "root")
    assert sorted(path.name for path in place.iterdir()) == ["a", "b"] and server.asked.count("/a") == 1


FETCH = """
import resource, sys
from pathlib import Path
from quickstudy.tasks.images.downloads import Remote, Source, fetch
from quickstudy.errors import RunError
if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
try:
    fetch(Source("mnist", [Remote(*row) for row in {rows}], "none", "nowhere"), Path("root"))
except RunError as error:
    print(error)
"""


def child(rows, place, limit=0):
    code = FETCH.replace("{limit}", str(limit)).replace("{rows}", repr(rows))
    return subprocess.Popen([sys.executable, "-c", code], cwd=place, text=True, stdout=-1, stderr=-1)


def rows(*files):
    return [(file.url, file.hash, file.size, file.unpack) for file in files]


def test_a_full_disk(server, tmp_path):
    needs_pooch()
    files = [remote(server, "a", b"a" * 1000), remote(server, "b", b"b" * 200_000)]
    with child(rows(*files), tmp_path, limit=100_000) as process:
        said, faults = process.communicate()
    assert process.returncode == 0, faults
    assert "could not be written" in said and "File too large" in said and "Free some space" in said
    assert [path.name for path in (tmp_path / "root" / ".mnist.part").iterdir()] == ["a"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert fetch(source(*files), tmp_path / "root").is_dir() and server.asked.count("/a") == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_download_that_was_stopped_goes_on(server, tmp_path, monkeypatch, how):
    needs_pooch()
    files = [remote(server, "a", b"a" * 1000), remote(server, "slow", b"b" * 200_000)]
    arrived, gone = threading.Event(), threading.Event()

    class Slow(Handler):
        def copyfile(self, source, outputfile):
            data = source.read()
            if "slow" not in self.path or arrived.is_set():
                outputfile.write(data)
                return
            outputfile.write(data[:100_000])
            outputfile.flush()
            arrived.set()
            gone.wait(20)

    server.RequestHandlerClass = functools.partial(Slow, directory=server.folder)
    with child(rows(*files), tmp_path) as process:
        assert arrived.wait(30)
        part = tmp_path / "root" / ".mnist.part"
        while sum(path.stat().st_size for path in part.iterdir()) < 60_000:
            time.sleep(0.01)
        process.send_signal(how)
        process.communicate()
    gone.set()
    assert process.returncode != 0 and not (tmp_path / "root" / "mnist").exists()
    place = fetch(source(*files), tmp_path / "root")
    assert sorted(path.name for path in place.iterdir()) == ["a", "slow"] and server.asked.count("/a") == 1


def test_two_do_not_download_into_one_folder(server, tmp_path):
    with FileLock(tmp_path / ".mnist.lock"), pytest.raises(RunError, match="Another process is downloading into"):
        fetch(source(remote(server, "a", b"a")), tmp_path)
    assert server.asked == []


def packed(kind, members):
    """An archive with these members; None is a link to the outside."""
    file = io.BytesIO()
    if kind == "zip":
        with ZipFile(file, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return file.getvalue()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            if data is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc"
                archive.addfile(member)
            else:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_archives_are_unpacked_and_only_what_is_wanted(server, tmp_path, kind):
    needs_pooch()
    members = {"set/images/a/1.png": b"1", "set/images/b/2.png": b"2", "set/more.txt": b"", "other": b""}
    if kind == "tgz":
        members |= {"set/images/link": None}
    file = remote(server, f"all.{kind}", packed(kind, members), unpack="set/images/*")
    place = fetch(source(file), tmp_path)
    files = sorted(str(path.relative_to(place)) for path in place.rglob("*") if not path.is_dir())
    assert files == ["set/images/a/1.png", "set/images/b/2.png"]


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize("name", ["set/../../out", "/tmp/quickstudy-out"])
def test_archives_cannot_write_elsewhere(server, tmp_path, kind, name):
    needs_pooch()
    file = remote(server, f"all.{kind}", packed(kind, {"set/a": b"1", name: b"2"}), unpack="*")
    with pytest.raises(RunError, match="outside"):
        fetch(source(file), tmp_path / "root")
    assert not (tmp_path / "root" / "mnist").exists() and not (tmp_path / "out").exists()
    assert not (tmp_path / "root" / "out").exists() and not Path("/tmp/quickstudy-out").exists()


@pytest.mark.parametrize("kind", ["zip", "tgz", "tar.gz"])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-30]])
def test_an_archive_that_is_damaged_where_it_was_published_is_named(server, tmp_path, kind, damage):
    needs_pooch()
    file = remote(server, f"all.{kind}", damage(packed(kind, {"set/a": b"1" * 5000})), unpack="*")
    with pytest.raises(RunError, match=f"all.{kind} cannot be unpacked") as refused:
        fetch(source(file), tmp_path)
    assert "\n" not in str(refused.value)


def test_the_verb_shows_what_it_will_do_and_does_it(cli, root, server, monkeypatch):
    needs_pooch()
    files = [remote(server, "train-images-idx3-ubyte.gz", b"1"), remote(server, "train-labels-idx1-ubyte.gz", b"2")]
    monkeypatch.setitem(SOURCES, "mnist", Source("mnist", files, "MIT licence", "https://example.org"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    done = cli("data", "prepare", "mnist")
    assert done.code == 2 and "add --yes" in done.err and server.asked == []
    for part in (files[0].url, files[1].hash, "MIT licence", str(root / "mnist"), "kept"):
        assert part in done.err
    done = cli("data", "prepare", "mnist", "--yes")
    assert done.code == 0 and done.out == f"{root / 'mnist'}\n" and files[0].url in done.err
    done = cli("data", "prepare", "mnist", "--json")
    assert json.loads(done.out) == {"name": "mnist", "folder": str(root / "mnist"), "fetched": False}
    assert len(server.asked) == 2


class Terminal(io.StringIO):
    """Standard input with somebody at it."""

    def isatty(self):
        return True


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_on_a_terminal_it_asks(cli, root, server, monkeypatch, answer, code):
    needs_pooch()
    monkeypatch.setitem(SOURCES, "mnist", source(remote(server, "a", b"a")))
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    done = cli("data", "prepare", "mnist")
    assert done.code == code and "Download? [y/N]" in done.err and (root / "mnist").exists() == (code == 0)
    assert code == 0 or ("Nothing was downloaded" in done.err and server.asked == [])


def test_the_root_is_made_and_a_set_that_stands_in_is_no_hindrance(cli, place, root, server, monkeypatch):
    needs_pooch()
    (place / "fresh" / "cub_200_2010_84px").mkdir(parents=True)
    file = remote(
        server, "all.tgz", packed("tgz", {"CUB_200_2011/images/1/1.png": b"1"}), unpack="CUB_200_2011/images/*"
    )
    monkeypatch.setitem(SOURCES, "cub", Source("cub", [file], "none", "nowhere"))
    for name in ("fresh", "newer"):
        done = cli("data", "prepare", "cub", "--yes", "--json", "--data-root", name)
        assert json.loads(done.out) == {"name": "cub", "folder": str(place / name / "cub"), "fetched": True}
        assert (place / name / "cub" / "CUB_200_2011" / "images" / "1" / "1.png").read_bytes() == b"1"
        assert [path.name for path in (place / name / "cub").iterdir()] == ["CUB_200_2011"]


def test_without_pooch_the_way_to_it_is_named(cli, root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    done = cli("data", "prepare", "mnist", "--yes", "--quiet")
    assert done.code == 2 and "pip install 'quickstudy[data]'" in done.err


def test_control_characters_in_names_do_not_reach_the_terminal(cli, place, root):
    own = folder(place / "own")
    (own / "a").rename(own / "a\x1b[31m\rred")
    picture(0).save(own / "b" / "twice\x07.png")
    (own / "b" / "broken\x1b]0;x\x07.png").write_text("broken")
    done = cli("data", "check", "own")
    assert done.code == 0 and "a\\x1b[31m" in done.out and "broken\\x1b]0;x\\x07.png" in done.out
    assert not set("\x1b\x07\r") & set(done.out + done.err)


def test_a_damaged_cache_is_found_and_made_again(cli, place, root):
    folder(place / "own", images=30)
    before = checked(cli, "own")
    (kept,) = (place / "cache").glob("*/pixels.bin")
    whole = kept.read_bytes()
    assert len(whole) > 5 * 2**18
    kept.write_bytes(whole[: 2**18 + 9] + b"other" + whole[2**18 + 14 :])
    done = cli("data", "check", "own", "--json")
    assert json.loads(done.out) == before
    assert [path.read_bytes() for path in (place / "cache").glob("*/pixels.bin")] == [whole]
