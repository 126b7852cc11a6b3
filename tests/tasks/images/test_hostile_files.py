"""Files that are damaged, or made to do harm: an `InputError` of one line, in bounded time and memory, or a result."""

import gzip
import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import copy_of_this_process, wait_for
from quickstudy.errors import InputError
from quickstudy.tasks.images import limits
from quickstudy.tasks.images.checkup import find_identical
from quickstudy.tasks.images.decode import Decoding
from quickstudy.tasks.images.readers import recognise
from quickstudy.tasks.images.readers.unpickle import load_pickle
from quickstudy.tasks.images.sets import image_folder
from quickstudy.tasks.images.store import BLOCK_BYTES, discard_if_damaged, load_pictures, source_stamp

NOISE = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
GREY = Decoding(4, 1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return tmp_path / "cache"


def class_folders(root: Path, count: int = 4, classes: str = "ab") -> Path:
    for at, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(NOISE[at * count + number]).save(root / name / f"{number}.png")
    return root


def read_or_refuse(path: Path) -> str | None:
    """Why a path is refused, in one line, or None."""
    try:
        listing = recognise(path)
        for number in range(len(listing.pictures)):
            listing.pictures[number].load()
    except InputError as error:
        return str(error)
    except (OSError, SyntaxError, ValueError, zlib.error, zipfile.BadZipFile, EOFError, NotImplementedError):
        return None  # a picture, which `decode` lists as unreadable
    return None


# -- flipped bits --


def write_npz(root):
    np.savez_compressed(root / "x.npz", images=NOISE // 8, labels=np.arange(20) % 2, names=np.array(["a", "b"]))
    return root / "x.npz"


def write_pickle(root):
    content = {"data": NOISE, "labels": [i % 2 for i in range(20)], "catname2label": {"a": 0, "b": 1}}
    (root / "own_train.pkl").write_bytes(pickle.dumps(content))
    return root / "own_train.pkl"


def write_idx(root):
    for kind, values in (("images-idx3", NOISE), ("labels-idx1", np.arange(20, dtype=np.uint8) % 2)):
        head = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
        with gzip.open(root / f"train-{kind}-ubyte.gz", "wb") as file:
            file.write(head + values.tobytes())
    return root / "train-images-idx3-ubyte.gz"


def write_zip(root):
    class_folders(root / "in")
    shutil.make_archive(str(root / "x"), "zip", root / "in")
    shutil.rmtree(root / "in")
    return root / "x.zip"


def write_csv(root):
    class_folders(root)
    (root / "x.csv").write_text("path,label\n" + "".join(f"{c}/{n}.png,{c}\n" for c in "ab" for n in range(4)))
    return root / "x.csv"


def write_lists(root):
    class_folders(root)
    names = [f"{c}/{n}.png" for c in "ab" for n in range(4)]
    lists = {"label_names": ["a", "b"], "image_names": names, "image_labels": [0] * 4 + [1] * 4}
    (root / "base.json").write_text(json.dumps(lists))
    return root / "base.json"


@pytest.mark.parametrize("write", [write_npz, write_pickle, write_idx, write_zip, write_csv, write_lists])
def test_whatever_bit_is_wrong_it_is_data_or_one_line(tmp_path, write):
    file = write(tmp_path / "data")
    assert read_or_refuse(file) is None
    whole, draw, refused = file.read_bytes(), random.Random(0), 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 1, 4))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        if draw.random() < 0.1:
            del data[draw.randrange(len(data)) :]
        file.write_bytes(data)
        why = read_or_refuse(file)
        assert why is None or (why and "\n" not in why)
        refused += why is not None
    assert refused > 5


@pytest.mark.parametrize(
    "labels",
    [[0, [1, 2]] * 10, [[0], [1, 2]], [None] * 20, [{}] * 20, {"a": 1}, "words", [1.5] * 20, [[[[]]]], 7],
)
def test_labels_that_are_no_row_of_numbers_or_names_are_refused(tmp_path, labels):
    (tmp_path / "own_train.pkl").write_bytes(pickle.dumps({"data": NOISE, "labels": labels}))
    assert read_or_refuse(tmp_path / "own_train.pkl")


@pytest.mark.parametrize("classes", [{"a": [0, [1]]}, {"a": "x"}, {"a": [2**70]}, {"a": [None]}, {"a": {}}, [1], None])
def test_class_dictionaries_of_another_shape_are_refused(tmp_path, classes):
    (tmp_path / "own_train.pkl").write_bytes(pickle.dumps({"image_data": NOISE, "class_dict": classes}))
    assert read_or_refuse(tmp_path / "own_train.pkl")


def test_deep_nesting_is_refused(tmp_path):
    (tmp_path / "base.json").write_text("[" * 100_000)
    assert "is not JSON" in read_or_refuse(tmp_path / "base.json")
    (tmp_path / "x_train.pkl").write_bytes(b"(" * 100_000 + b"l" * 100_000 + b".")
    assert read_or_refuse(tmp_path / "x_train.pkl")


# -- work and memory --

LARGE = 2**30 + 2**27
MEMORY = 3 * 2**29
"""Bytes that a file may add to what the process has: the limit of 1 GiB, and some room."""


def in_bounded_memory(work) -> None:
    """Do the work in a process that cannot take much memory and time beyond what it has now."""

    def bounded():
        now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        work()

    assert wait_for(copy_of_this_process(bounded)) == 0


def doubling(levels: int) -> bytes:
    """The pickle of a list whose items are one list twice, and so on: 2 to the power of `levels` items."""
    values = [0, 1]
    for _ in range(levels):
        values = [values, values]
    return pickle.dumps({"data": values, "labels": values})


class Allocates:
    def __init__(self, kind, size):
        self.call = kind, (size,)

    def __reduce__(self):
        return self.call


BOMBS = {
    "a number of a stored object": b"\x80\x02}q\x00r\xff\xff\xff\x0f.",
    "bytes of a size": pickle.dumps({"data": Allocates(bytes, 4 * 10**9)}),
    "an array of bytes of a size": pickle.dumps({"data": Allocates(bytearray, 4 * 10**9)}),
    "bytes that are not there": b"\x80\x04\x8e\xff\xff\xff\xff\x00\x00\x00\x00.",
    "one list many times": doubling(30),
    "one list in itself": b"\x80\x02}(U\x04data](]h\x02eh\x02U\x06labelsh\x02u.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_short_pickle_cannot_take_gigabytes(tmp_path, bomb):
    (tmp_path / "own_train.pkl").write_bytes(BOMBS[bomb])

    def refuse():
        assert read_or_refuse(tmp_path / "own_train.pkl")

    in_bounded_memory(refuse)


def zeros(size: int):
    """The bytes of 0 in pieces."""
    return (bytes(min(2**24, size - at)) for at in range(0, size, 2**24))


def add_member(archive: Path, name: str, head: bytes, size: int) -> None:
    """Put a member of a head and many zeros into a zip archive."""
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as zipped, zipped.open(name, "w") as file:
        file.write(head)
        for part in zeros(size):
            file.write(part)


def bomb_npz(root):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (LARGE, 1, 1)})
    add_member(root / "x.npz", "images.npy", head.getvalue(), LARGE)
    return root / "x.npz"


def bomb_idx(root):
    write_idx(root)
    with gzip.open(root / "train-images-idx3-ubyte.gz", "wb", 1) as file:
        file.write(bytes((0, 0, 8, 3)) + struct.pack(">3I", 18, 2**13, 2**13))
        for part in zeros(18 * 2**26):
            file.write(part)
    return root


@pytest.mark.parametrize("make", [bomb_npz, bomb_idx])
def test_data_that_unpack_to_gigabytes_are_refused_and_the_message_says_how_to_raise_the_limit(tmp_path, make):
    path = make(tmp_path / "data")

    def refuse():
        assert f"{limits.MAX_UNPACKED}=" in read_or_refuse(path)

    in_bounded_memory(refuse)


def test_a_member_of_a_zip_that_unpacks_to_gigabytes_is_left_out(tmp_path):
    path = write_zip(tmp_path / "data")
    add_member(path, "a/9.png", b"", LARGE)

    def leave_out():
        found = load_pictures(path, recognise, GREY)
        ((name, why),) = found.skipped
        assert len(found.labels) == 8 and name == "a/9.png" and limits.MAX_UNPACKED in why

    in_bounded_memory(leave_out)


def test_a_raised_limit_lets_large_data_pass(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "data")
    monkeypatch.setitem(limits._DEFAULTS, limits.MAX_UNPACKED, 1000)
    monkeypatch.setattr(limits, "_USUAL_RATIO", 0)
    assert "would become" in read_or_refuse(path)
    monkeypatch.setenv(limits.MAX_UNPACKED, "1MiB")
    assert read_or_refuse(path) is None


# -- the cache --


def halve(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    file.write_bytes(data)


def flip(place: float):
    def damage(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[int(place * (len(data) - 1))] ^= 1
        file.write_bytes(data)

    return damage


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def link_back(file: Path) -> None:
    file.rename(file.with_suffix(".moved"))
    file.symlink_to(file.with_suffix(".moved"))


@pytest.mark.parametrize("name", ["index.json", "checksums", "pixels.bin"])
@pytest.mark.parametrize("damage", [pipe, link_back])
def test_nothing_of_an_entry_is_read_from_a_pipe_or_a_link(tmp_path, cache, name, damage):
    test_an_entry_that_is_not_what_was_written_is_built_again(tmp_path, cache, name, damage)
    assert next(cache.glob(f"*/{name}")).is_file() and not next(cache.glob(f"*/{name}")).is_symlink()


def link_out(path: Path) -> None:
    outside = path.parents[1] / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    path.symlink_to(outside)


@pytest.mark.parametrize("beside", [False, True], ids=["entry", "left by a killed process"])
@pytest.mark.parametrize("put", [os.mkfifo, Path.touch, link_out, lambda path: path.symlink_to("nowhere")],
                         ids=["pipe", "file", "link", "broken link"])  # fmt: skip
def test_what_stands_in_an_entrys_place_is_replaced_and_neither_opened_nor_followed(tmp_path, cache, put, beside):
    root = class_folders(tmp_path / "data")
    before = load_pictures(root, recognise, GREY)
    pixels = before.pixels.copy()
    (entry,) = (path for path in cache.iterdir() if path.is_dir())
    shutil.rmtree(entry)
    place = entry.with_name(f".{entry.name}.1.tmp") if beside else entry
    put(place)
    after = load_pictures(root, recognise, GREY)
    assert np.array_equal(after.pixels, pixels) and after.digest == before.digest
    assert entry.is_dir() and not entry.is_symlink() and not place.is_symlink() and place.is_dir() != beside
    if put is link_out:
        assert (tmp_path / "outside" / "kept").read_text() == "kept"


@pytest.mark.parametrize(
    ("name", "damage"),
    [("pixels.bin", halve), ("pixels.bin", flip(0)), ("pixels.bin", flip(1)), ("checksums", halve),
     ("checksums", flip(0)), ("checksums", Path.unlink), ("index.json", halve)],
)  # fmt: skip
def test_an_entry_that_is_not_what_was_written_is_built_again(tmp_path, cache, name, damage):
    root = class_folders(tmp_path / "data")
    before = load_pictures(root, recognise, GREY)
    pixels = before.pixels.copy()
    (file,) = cache.glob(f"*/{name}")
    damage(file)
    after = load_pictures(root, recognise, GREY)
    assert np.array_equal(after.pixels, pixels) and after.digest == before.digest


@pytest.mark.parametrize(
    "change",
    [{"labels": [1, 0, 1, 0, 1, 0, 1, 0]}, {"classes": ["b", "a"]}, {"kind": "probe"}, {"shape": [8, 1, 16, 1]},
     {"shape": [2, 4, 4, 4]}, {"splits": {"train": "x"}}, {"splits": []}, {"skipped": [["a"]]}, {"changed": []}],
)  # fmt: skip
def test_an_index_that_parses_but_is_another_is_not_used(tmp_path, cache, change):
    root = class_folders(tmp_path / "data")
    before = load_pictures(root, recognise, GREY)
    (file,) = cache.glob("*/index.json")
    file.write_text(json.dumps(json.loads(file.read_bytes()) | change))
    after = load_pictures(root, recognise, GREY)
    assert after.labels.tolist() == before.labels.tolist() and after.classes == before.classes


@pytest.mark.parametrize(
    "change",
    [{"labels": [0] * 7 + [9]}, {"labels": [-1] * 8}, {"labels": [0]}, {"classes": []}, {"names": ["a"]},
     {"splits": {"train": [8]}}, {"splits": {"train": [-9]}}, {"shape": [-8, -1, 4, 4]}],
    ids=str,
)  # fmt: skip
def test_an_index_whose_numbers_are_of_nothing_is_not_used_even_with_its_checksum(tmp_path, cache, change):
    root = class_folders(tmp_path / "data")
    before = load_pictures(root, recognise, GREY)
    (file,) = cache.glob("*/index.json")
    file.write_text(json.dumps(json.loads(file.read_bytes()) | change))
    sums = file.with_name("checksums")
    _, *rest = sums.read_text().split()
    sums.write_text("\n".join([hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest(), *rest]))
    after = load_pictures(root, recognise, GREY)
    assert after.labels.tolist() == before.labels.tolist() and after.classes == before.classes
    assert after.names == before.names and after.splits == before.splits


def test_a_wrong_byte_between_the_samples_is_found_by_the_full_check(tmp_path, cache):
    pictures = np.random.default_rng(0).integers(0, 256, (40, 512, 512), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=pictures, labels=np.arange(40) % 2)
    how = Decoding(512, 1)
    found = load_pictures(tmp_path / "x.npz", recognise, how)
    assert not discard_if_damaged(found)
    (file,) = cache.glob("*/pixels.bin")
    with file.open("rb+") as opened:
        opened.seek(BLOCK_BYTES)  # 40 blocks, of which every second or third is sampled
        opened.write(bytes(10))
    damaged = load_pictures(tmp_path / "x.npz", recognise, how)
    assert not np.array_equal(damaged.pixels, pictures[:, None])
    assert discard_if_damaged(damaged)
    assert np.array_equal(load_pictures(tmp_path / "x.npz", recognise, how).pixels, pictures[:, None])


# -- folders --


@pytest.mark.filterwarnings("ignore::quickstudy.tasks.images.sets.LeftOutWarning")
def test_links_that_lead_to_themselves_or_nowhere_leave_a_folder_usable(tmp_path):
    root = class_folders(tmp_path / "data")
    before = source_stamp(root)
    for name, target in (
        ("self.csv", "self.csv"), ("self.npz", "self.npz"), ("train_images_png.pkl", "train_images_png.pkl"),
        ("x_train.pkl", "x_train.pkl"), ("base.json", "base.json"), ("train-images-idx3-ubyte", "splits"),
        ("splits", "train-images-idx3-ubyte"),
        ("there", "back"), ("back", "there"), ("above", "."), ("a/self.png", "self.png"), ("gone", "nowhere"),
    ):  # fmt: skip
        (root / name).symlink_to(target)
    assert source_stamp(root) == before
    family = image_folder(str(root), "image", ways=2, queries=1, size=8)
    assert family.describe()["images"] == {"train": 4, "val": 2, "test": 2}


def test_an_idx_file_beside_a_broken_link_can_be_used(tmp_path):
    file = write_idx(tmp_path / "data")
    (tmp_path / "data" / "t10k-images-idx3-ubyte").symlink_to("t10k-images-idx3-ubyte")
    assert len(load_pictures(file, recognise, GREY).labels) == 20


@pytest.mark.parametrize("place", ["notes.csv", "splits/notes.csv"])
@pytest.mark.parametrize("inner", ["", "images"])
def test_a_table_of_unknown_columns_beside_class_folders_is_named(tmp_path, place, inner):
    root = tmp_path / "data"
    class_folders(root / inner)
    (root / place).parent.mkdir(exist_ok=True)
    (root / place).write_text("picture;kind\na/1.png;a\n")
    skipped = dict(recognise(root).skipped)
    assert "its columns are picture, kind" in skipped[place] and "filename,label" in skipped[place]


def test_pictures_that_only_look_alike_when_small_are_no_duplicates(tmp_path):
    root = tmp_path / "data"
    for name in "ab":
        (root / name).mkdir()
    fine = np.zeros((64, 64), np.uint8)
    fine[0, 0] = 1  # lost when the picture is made smaller
    shown = {"a/1.png": fine, "a/2.png": fine * 0, "b/1.png": fine, "b/2.tif": (fine * 0 + 7), "b/3.bmp": fine * 0 + 7}
    for name, values in shown.items():
        Image.fromarray(values).save(root / name)
    Image.fromarray(fine * 0 + 7).convert("RGB").save(root / "a/rgb.png")
    listing = recognise(root)
    found = load_pictures(root, recognise, GREY)
    groups = [sorted(found.names[n] for n in group) for group in find_identical(found, {}, listing).groups]
    assert sorted(groups) == [["a/1.png", "b/1.png"], ["a/rgb.png", "b/2.tif", "b/3.bmp"]]


def test_a_picture_of_nan_is_named(tmp_path):
    root = class_folders(tmp_path / "data")
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(root / "a" / "nan.tif")
    found = load_pictures(root, recognise, GREY)
    assert found.skipped == [("a/nan.tif", "NaN or infinity among its pixels")]


def test_python_2_pickles_of_every_protocol_are_still_read(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"(dp0\nS'a\\xf0'\np1\n(lp2\nI1\naL2L\nas.")
    assert load_pickle(tmp_path / "x.pkl") == {"a\xf0": [1, 2]}


def test_what_is_neither_a_folder_nor_a_file_is_named_as_that(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is neither a folder nor an ordinary file"):
        recognise(tmp_path / "pipe")
