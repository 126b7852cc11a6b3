"""Readers of image layouts: small files that are written here, real data if it is there, and data that are refused."""

import gzip
import json
import os
import pickle
import struct
import sys
from collections import OrderedDict
from io import BytesIO
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from conftest import find_real_set, listing_of
from quickstudy.errors import InputError
from quickstudy.tasks.images.listing import FilePictures
from quickstudy.tasks.images.readers import READERS, recognise
from quickstudy.tasks.images.readers.omniglot import lake_sets
from quickstudy.tasks.images.readers.unpickle import load_pickle
from quickstudy.tasks.images.store import locate_source, source_stamp

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)


def png(value=0):
    file = BytesIO()
    Image.new("L", (4, 3), value).save(file, "png")
    return file.getvalue()


def put(root, *names, data=None):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png() if data is None else data)


def zipped(file, *names):
    with ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"" if name.endswith("/") else png())


def by_split(listing):
    """The classes of each split, by name."""
    return {s: sorted({listing.classes[listing.labels[n]] for n in at}) for s, at in listing.splits.items()}


def by_name(listing):
    return {name: listing.classes[label] for name, label in zip(listing.names, listing.labels, strict=True)}


def check(listing):
    """What holds for every listing, whatever its layout."""
    n = len(listing.pictures)
    assert len(listing.names) == len(listing.labels) == n > 0
    assert len(set(listing.names)) == n and len(set(listing.classes)) == len(listing.classes)
    assert sorted(set(listing.labels.tolist())) == list(range(len(listing.classes))), "every class has a picture"
    taken = np.concatenate([*listing.splits.values(), np.array([], dtype=np.int64)])
    assert len(np.unique(taken)) == len(taken) and set(taken.tolist()) <= set(range(n))
    assert listing.layout and listing.labels.dtype == np.int64
    for number in (0, n - 1):
        listing.pictures[number].load()
    return listing


def read(path):
    return check(recognise(path))


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        recognise(path)
    for word in words:
        assert word in str(caught.value), str(caught.value)


# Class folders


def test_class_folders(tmp_path):
    put(tmp_path, "b/2.JPG", "b/1.png", "a/1.webp", "a/.hidden.png", ".git/x.png")
    put(tmp_path, "a/notes.txt", "README.md", data=b"")
    put(tmp_path, "a/inner/1.png", "lone.png")
    (tmp_path / "empty").mkdir()
    listing = read(tmp_path)
    assert by_name(listing) == {"a/1.webp": "a", "b/1.png": "b", "b/2.JPG": "b"}
    assert listing.splits == {}
    assert dict(listing.skipped) == {
        "a/notes.txt": "not an image by its name",
        "README.md": "not an image by its name",
        "a/inner/1.png": "in a folder inside a class folder",
        "lone.png": "not in a class folder",
        "empty": "a class folder with no image",
    }


def test_listing_opens_no_picture(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png", data=b"not a picture at all")
    assert len(recognise(tmp_path).pictures) == 2


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("base", "valid", "novel"), ("Train", "validation", "TEST")]
)
def test_split_folders(tmp_path, names):
    for at, name in enumerate(names):
        put(tmp_path, f"{name}/c{at}/1.png", f"{name}/d{at}/1.png")
    put(tmp_path, "other/x/1.png")
    (tmp_path / names[0] / "empty").mkdir()
    listing = read(tmp_path)
    assert by_split(listing) == {"train": ["c0", "d0"], "val": ["c1", "d1"], "test": ["c2", "d2"]}
    assert dict(listing.skipped) == {
        "other/x/1.png": "not in a split folder",
        f"{names[0]}/empty": "a class folder with no image",
    }


def test_split_folders_that_share_classes_are_a_division_by_image(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png", "test/c/1.png")
    listing = read(tmp_path)
    assert listing.classes == ["a", "b", "c"]
    assert by_split(listing) == {"train": ["a", "b"], "test": ["a", "c"]}
    assert "1 of 3 classes are in more than one" in listing.layout


def test_split_folders_without_classes_or_twice_are_refused(tmp_path):
    put(tmp_path / "flat", "train/1.png", "test/2.png")
    refused(tmp_path / "flat", "hold pictures", "list them in a csv")
    put(tmp_path / "twice", "val/a/1.png", "validation/b/1.png")
    refused(tmp_path / "twice", "val and validation", "'val'")


@pytest.mark.parametrize("above", ["images", "CUB_200_2011/images"])
def test_cub_reads_the_images_and_passes_over_what_lies_beside_them(tmp_path, above):
    put(tmp_path, f"{above}/002.B/b.jpg", f"{above}/001.A/a.jpg", "segmentations/001.A/a.png")
    put(tmp_path, "images.txt", data=b"")
    listing = read(tmp_path)
    assert listing.names == [f"{above}/001.A/a.jpg", f"{above}/002.B/b.jpg"]
    assert listing.classes == ["001.A", "002.B"]


def test_non_ascii_names_are_sorted_by_their_composed_form(tmp_path):
    put(tmp_path, "e\u0301te\u0301/1.png", "zèbre/1.png", "鳥/图.png", "abc/1.png")
    listing = read(tmp_path)
    assert listing.classes == ["abc", "zèbre", "\u00e9t\u00e9", "鳥"]
    assert "鳥/图.png" in listing.names
    put(tmp_path, "\u00e9t\u00e9/2.png")
    refused(tmp_path, "two folders named '\u00e9t\u00e9'")


def test_names_that_are_no_text_are_made_printable(tmp_path):
    put(tmp_path, os.fsdecode(b"a\xff/1\xfe.png"), os.fsdecode(b"a\xff/\xfe.txt"))
    listing = read(tmp_path)
    "".join([*listing.names, *listing.classes, *(name for name, _ in listing.skipped)]).encode()
    assert listing.classes == ["a\ufffd"]


def test_links_that_loop_do_not_hang_and_links_to_pictures_work(tmp_path):
    put(tmp_path / "store", "1.png")
    root = tmp_path / "root"
    put(root, "a/1.png")
    (root / "b").mkdir()
    (root / "b" / "linked.png").symlink_to(tmp_path / "store" / "1.png")
    (root / "c").symlink_to(tmp_path / "store")
    (root / "up").symlink_to(root)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self.png").symlink_to("self.png")
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    listing = read(root)
    assert listing.names == ["a/1.png", "b/linked.png", "c/1.png"]
    skipped = dict(listing.skipped)
    assert skipped["up"] == skipped["a/up"] == "a link to a folder above it"
    assert "leads nowhere" in skipped["a/self.png"] and "leads nowhere" in skipped["a/gone.png"]


def test_folders_that_all_link_to_each_other_are_read_in_short(tmp_path):
    names = [f"class{number}" for number in range(12)]
    for name in names:
        put(tmp_path / name, "1.png", "2.png")
        for other in names:
            if other != name:
                (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    listing = read(tmp_path)
    assert listing.classes == sorted(names) and len(listing.pictures) == 24
    assert len(listing.skipped) < 1000 and "one link of many to the same folder" in dict(listing.skipped).values()
    source_stamp(tmp_path)  # each folder once: by all ways it would not end


def test_a_folder_that_cannot_be_read_is_left_out_by_name(tmp_path, monkeypatch):
    put(tmp_path, "a/1.png", "b/1.png", "lost+found/1.png")
    readable = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "lost" not in str(path) and readable(path, mode))
    before = source_stamp(tmp_path)
    listing = read(tmp_path)
    assert listing.classes == ["a", "b"] and list(dict(listing.skipped)) == ["lost+found"]
    put(tmp_path, "a/2.png")
    assert source_stamp(tmp_path) != before


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".pbm", ".pnm"])
def test_less_usual_names_of_pictures_are_known(tmp_path, suffix):
    put(tmp_path, f"a/1{suffix}", f"b/1{suffix}")
    assert len(read(tmp_path).pictures) == 2


def test_a_table_that_is_a_link_lists_the_pictures_beside_the_link(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\n1.png,a\n2.png,b\n")
    for at, name in enumerate("AB"):
        put(tmp_path / name, "1.png", "2.png", data=png(100 * at + 9))
        (tmp_path / name / "list.csv").symlink_to(tmp_path / "list.csv")
        assert locate_source(tmp_path / name / "list.csv") == tmp_path / name / "list.csv"
        assert np.asarray(read(locate_source(tmp_path / name / "list.csv")).pictures[0]).max() == 100 * at + 9


@pytest.mark.parametrize("name", ["features.npz", "features_train.pkl", "train.json"])
def test_a_file_that_is_no_data_beside_class_folders_is_refused_with_the_way_out(tmp_path, name):
    put(tmp_path, "cat/1.png", "dog/1.png")
    if name.endswith("npz"):
        np.savez(tmp_path / name, f=np.zeros(3))
    else:
        (tmp_path / name).write_bytes(pickle.dumps({"a": 1}) if name.endswith("pkl") else b"{")
    refused(tmp_path, "There are class folders too (cat, dog): to read these, move that file out of")


def test_flat_pictures_with_a_table_of_other_columns_are_refused_with_the_known_ones(tmp_path):
    put(tmp_path, "1.png", "2.png")
    write(tmp_path, "labels.csv", "id,species", "1.png,cat")
    refused(tmp_path, "labels.csv is a table that is not read: its columns are id, species, known headers filename")


def test_what_is_no_data_is_refused_with_what_was_found(tmp_path):
    refused(tmp_path, "an empty folder", "Known layouts", "class folders")
    refused(tmp_path / "gone", "There is nothing at")
    put(tmp_path, "a.txt", "b.txt", data=b"")
    refused(tmp_path, "a.txt, b.txt", "2 .txt")
    refused(tmp_path / "a.txt", "a file named 'a.txt'")
    put(tmp_path, "images/1.png")
    refused(tmp_path, "images/")


def test_every_reader_names_its_layout_and_says_none_to_other_things(tmp_path):
    put(tmp_path, "thing.bin", data=b"")
    for reader in READERS.values():
        assert reader.__doc__
        assert reader(tmp_path) is None
        assert reader(tmp_path / "thing.bin") is None


# Zip archives


@pytest.mark.parametrize("above", ["", "wrapped/", "wrapped/images/"])
def test_zip_of_class_folders(tmp_path, above):
    zipped(tmp_path / "birds.zip", f"{above}a/1.png", f"{above}é/1.png", f"{above}b/", "__MACOSX/a/1.png", ".x/a/1.png")
    listing = read(tmp_path / "birds.zip")
    assert by_name(listing) == {f"{above}a/1.png": "a", f"{above}é/1.png": "é"}
    assert listing.skipped == [(f"{above}b", "a class folder with no image")]


def test_zip_of_split_folders(tmp_path):
    zipped(tmp_path / "x.zip", "train/a/1.png", "test/b/1.png")
    assert by_split(read(tmp_path / "x.zip")) == {"train": ["a"], "test": ["b"]}


@pytest.mark.parametrize("name", ["../a/1.png", "a/../../1.png", "/etc/1.png", "C:/a/1.png", "a\\..\\..\\1.png"])
def test_zip_with_a_name_that_leaves_it_is_refused(tmp_path, name):
    zipped(tmp_path / "x.zip", "a/1.png", name)
    refused(tmp_path / "x.zip", "leaves the archive", "x.zip")


def test_damaged_and_locked_zips_are_refused_by_name(tmp_path):
    zipped(tmp_path / "x.zip", "a/1.png")
    whole = (tmp_path / "x.zip").read_bytes()
    put(tmp_path, "cut.zip", data=whole[:-10])
    refused(tmp_path / "cut.zip", "cut.zip", "damaged")
    at = whole.index(b"PK\x01\x02") + 8
    put(tmp_path, "locked.zip", data=whole[:at] + b"\x01" + whole[at + 1 :])
    refused(tmp_path / "locked.zip", "password")


# Omniglot


def test_lake_archives_are_read_in_place(tmp_path):
    zipped(tmp_path / "images_background.zip", *(f"images_background/Greek/character0{i}/{i}.png" for i in (2, 1)))
    zipped(tmp_path / "images_evaluation.zip", "images_evaluation/", "images_evaluation/Angelic/character01/3.png")
    listing = read(tmp_path)
    assert listing.classes == ["Angelic/character01", "Greek/character01", "Greek/character02"]
    assert lake_sets(listing) == {
        "background": ["Greek/character01", "Greek/character02"],
        "evaluation": ["Angelic/character01"],
    }
    assert listing.splits == {} and not listing.skipped
    assert read(tmp_path / "images_background.zip").classes == ["Greek/character01", "Greek/character02"]
    (tmp_path / "images_evaluation.zip").unlink()
    assert "no images_evaluation.zip" in dict(read(tmp_path).skipped)["images_evaluation"]


def test_of_an_omniglot_archive_and_a_folder_beside_it_the_one_that_is_named_is_read(tmp_path):
    zipped(tmp_path / "images_background.zip", "images_background/Greek/character01/1.png")
    put(tmp_path, "images_background/Latin/character01/1.png")
    assert read(tmp_path / "images_background.zip").classes == ["Greek/character01"]
    assert read(tmp_path / "images_background").classes == ["Latin/character01"]


def test_an_omniglot_archive_beside_an_unpacked_set_keeps_each_picture_with_its_class(tmp_path):
    for at, (top, alphabets) in enumerate({"images_background": "AM", "images_evaluation": "BZ"}.items()):
        for alphabet in alphabets:
            data = png(100 * at + ord(alphabet))
            put(tmp_path / "plain" / top / f"{alphabet}aa" / "character01", "0.png", "1.png", data=data)
    with ZipFile(tmp_path / "images_evaluation.zip", "w") as archive:
        for file in sorted((tmp_path / "plain" / "images_evaluation").rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path / "plain"))
    (tmp_path / "plain" / "images_background").rename(tmp_path / "images_background")
    listing = read(tmp_path)
    assert len(listing.pictures) == 8
    for number, label in enumerate(listing.labels):
        alphabet = listing.classes[label][0]
        value = ord(alphabet) + (100 if alphabet in "BZ" else 0)
        assert np.asarray(listing.pictures[number]).max() == value


def test_unpacked_omniglot_equals_the_archives(tmp_path):
    names = [f"images_background/Greek/character0{i}/{i}.png" for i in (1, 2)]
    zipped(tmp_path / "images_background.zip", *names)
    put(tmp_path / "unpacked", *names)
    packed, unpacked = read(tmp_path), read(tmp_path / "unpacked")
    assert by_name(packed) == by_name(unpacked) and isinstance(unpacked.pictures, FilePictures)
    put(tmp_path / "nested", *(f"images_background/{name}" for name in names))
    assert read(tmp_path / "nested").names == packed.names
    (tmp_path / "unpacked/images_background/Greek/character03").mkdir()
    assert ("images_background/Greek/character03", "a class folder with no image") in read(
        tmp_path / "unpacked"
    ).skipped
    put(tmp_path / "unpacked", "images_evaluation/Greek/character01/1.png")
    refused(tmp_path / "unpacked", "Greek/character01 is in both sets")


@pytest.mark.parametrize("above", ["images", "data/omniglot_resized", "omniglot_resized"])
def test_alphabets_of_characters(tmp_path, above):
    put(tmp_path, f"{above}/Greek/character01/1.png", f"{above}/Latin/character01/1.png")
    (tmp_path / above / "Latin" / "character02").mkdir()
    listing = read(tmp_path)
    assert listing.classes == ["Greek/character01", "Latin/character01"]
    assert listing.names[0] == f"{above}/Greek/character01/1.png"
    assert listing.skipped == [(f"{above}/Latin/character02", "a class folder with no image")]


def test_a_folder_inside_a_class_folder_makes_it_no_alphabet(tmp_path):
    put(tmp_path, "images/a/1.png", "images/b/1.png", "images/b/small/1.png")
    listing = read(tmp_path)
    assert listing.classes == ["a", "b"]
    assert listing.skipped == [("images/b/small/1.png", "in a folder inside a class folder")]


# idx


def idx_file(values):
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def put_idx(folder, train="train", test="t10k", between="-", suffix="", labels=(3, 7), pack=lambda data: data):
    folder.mkdir(parents=True, exist_ok=True)
    images = np.stack([GREY, GREY + 100])
    for split in (train, test):
        for kind, values in (("images", images), ("labels", np.array(labels, dtype=np.uint8))):
            file = folder / f"{split}-{kind}{between}idx{values.ndim}-ubyte{suffix}"
            file.write_bytes(pack(idx_file(values)))


@pytest.mark.parametrize("folder", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("form", [{}, {"between": "."}, {"suffix": ".gz", "pack": gzip.compress}])
def test_idx_in_every_spelling(tmp_path, folder, form):
    put_idx(tmp_path / folder, **form)
    listing = read(tmp_path)
    assert listing.classes == ["3", "7"] and listing.labels.tolist() == [0, 1, 0, 1]
    assert {split: at.tolist() for split, at in listing.splits.items()} == {"train": [0, 1], "test": [2, 3]}
    np.testing.assert_array_equal(np.asarray(listing.pictures[3]), GREY + 100)


def test_idx_unpacked_beside_packed_is_read_once(tmp_path):
    put_idx(tmp_path)
    put_idx(tmp_path, suffix=".gz", pack=gzip.compress)
    listing = read(tmp_path)
    assert len(listing.pictures) == 4 and len(listing.skipped) == 4


@pytest.mark.parametrize(
    ("part", "labels", "classes"),
    [("byclass", (10, 61), ["A", "z"]), ("balanced", (36, 46), ["a", "t"]), ("letters", (1, 26), ["A", "Z"])],
)
def test_emnist_is_turned_upright_and_named_by_character(tmp_path, part, labels, classes):
    put_idx(tmp_path, f"emnist-{part}-train", f"emnist-{part}-test", labels=labels)
    listing = read(tmp_path)
    assert listing.classes == classes
    np.testing.assert_array_equal(np.asarray(listing.pictures[0]), GREY.T)


def test_idx_of_several_sets_is_told_apart_by_a_file(tmp_path):
    put_idx(tmp_path, "emnist-digits-train", "emnist-digits-test")
    put_idx(tmp_path, "emnist-letters-train", "emnist-letters-test")
    refused(tmp_path, "EMNIST digits", "EMNIST letters", "give the path of one file")
    assert read(tmp_path / "emnist-letters-train-images-idx3-ubyte").classes == ["C", "G"]


def test_broken_idx_is_refused(tmp_path):
    def broken(data, *words):
        (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
        refused(tmp_path, "train-images-idx3-ubyte", *words)

    put_idx(tmp_path)
    whole = (tmp_path / "train-images-idx3-ubyte").read_bytes()
    assert len(whole) == 40
    broken(whole[:-5], "should have 40 bytes", "has 35")
    broken(whole + b"x", "should have 40 bytes", "has 41")
    broken(b"<html>", "3c 68 74 6d", "00 00 08 03")
    broken(b"", "(none)")
    packed = gzip.compress(bytes(np.random.default_rng(0).bytes(0)) + whole)
    broken(packed[:-12], "should have 40 bytes")
    broken(packed[:10] + b"\xff" * 20, "damaged")
    broken(idx_file(np.zeros((3, 2, 2), dtype=np.uint8)), "3 images", "2 labels")
    (tmp_path / "train-images-idx3-ubyte").unlink()
    refused(tmp_path, "no images beside it")
    put_idx(tmp_path, labels=(1, 11))
    refused(tmp_path, "from 1 to 11", "0123456789")
    put_idx(tmp_path / "raw", "emnist-letters-train", "emnist-letters-test", labels=(0, 1))
    refused(tmp_path / "raw", "from 0 to 1", "1 to 26")


def test_idx_with_one_division_says_that_the_other_is_absent(tmp_path):
    put_idx(tmp_path)
    for file in tmp_path.glob("t10k*"):
        file.unlink()
    listing = read(tmp_path)
    assert list(listing.splits) == ["train"] and listing.skipped[0][0] == "test images"


# Tables


def write(root, name, *lines):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_ravi_csvs_beside_images(tmp_path):
    put(tmp_path, *(f"images/{i}.jpg" for i in range(4)))
    write(tmp_path, "train.csv", "filename,label", "0.jpg,n1", "1.jpg,n2")
    write(tmp_path, "val.csv", "filename,label", "2.jpg,n3")
    write(tmp_path, "test.csv", "filename,label", "3.jpg,n4")
    listing = read(tmp_path)
    assert by_split(listing) == {"train": ["n1", "n2"], "val": ["n3"], "test": ["n4"]}
    assert "table" in listing.layout and listing.names[0] == "images/0.jpg"


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("all.csv", ["path,label,split", "x/1.png,a,train", "x/2.png,é,test"]),
        ("all.csv", ["\ufeffImage;Label;Split", "x/1.png;a;base", "x\\2.png;é;novel"]),
        ("all.csv", ["label\tother\timage\tsplit", "a\t0\t./x/1.png\ttrain", "é\t0\tx/../x/2.png\ttest", ""]),
    ],
)
def test_csv_headers_and_separators(tmp_path, name, lines):
    put(tmp_path, "x/1.png", "x/2.png")
    write(tmp_path, name, *lines)
    for path in (tmp_path, tmp_path / name):
        listing = read(path)
        assert by_name(listing) == {"x/1.png": "a", "x/2.png": "é"}
        assert by_split(listing) == {"train": ["a"], "test": ["é"]}


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        (["path,label", "1.png,a", '2.png,"b', "3.png,c", "4.png,d"], 3),
        (["path,label", '"1.png,a'], 2),
        (["path,label", "1.png,a", '2.png,"b'], 3),
    ],
)
def test_a_quote_that_is_not_closed_takes_no_lines(tmp_path, lines, number):
    put(tmp_path, *(f"{n}.png" for n in range(1, 5)))
    write(tmp_path, "all.csv", *lines)
    with pytest.raises(InputError, match=f"^Line {number} of .*all.csv cannot be read: a quote is not closed"):
        read(tmp_path)


def test_easyfsl_csv_names_the_class_first_and_keeps_pictures_by_class(tmp_path):
    put(tmp_path, "images/n1/1.jpg", "images/n2/1.jpg")
    write(tmp_path, "train.csv", "class_name,image_name", "n1,1.jpg", "n2,1.jpg")
    assert by_name(read(tmp_path)) == {"images/n1/1.jpg": "n1", "images/n2/1.jpg": "n2"}


def test_csv_in_splits_may_point_to_its_neighbours(tmp_path):
    put(tmp_path, "images/1.jpg", "other/2.jpg")
    write(tmp_path, "splits/train.csv", "path,label", "1.jpg,a", "../other/2.jpg,b")
    assert by_name(read(tmp_path)) == {"images/1.jpg": "a", "other/2.jpg": "b"}


def test_csv_says_what_is_missing_and_what_is_double(tmp_path):
    put(tmp_path, "1.png", "2.png")
    write(tmp_path, "all.csv", "path,label", "1.png,a", "gone.png,a", "./1.png,a", "2.png,b", "list.txt,b")
    listing = read(tmp_path)
    assert listing.names == ["1.png", "2.png"] and "1 of 5 files are missing" in listing.layout
    assert listing.skipped == [
        ("gone.png", "line 3 of all.csv: no such file"),
        ("1.png", "line 4 of all.csv: given already, line 2 of all.csv"),
        ("list.txt", "line 6 of all.csv: not an image by its name"),
    ]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["path,label", "gone.png,a"], ["none of the 1 pictures", "gone.png", "line 2"]),
        (["path,label"], ["no picture is named"]),
        (["path,label", "1.png,a", "./1.png,b"], ["two classes", "'a' (line 2", "'b' (line 3"]),
        (["path,label,split", "1.png,a,train", "1.png,a,test"], ["two splits", "line 2", "line 3"]),
        (["path,label", "1.png,a", "/etc/1.png,a"], ["absolute", "line 3"]),
        (["path,label", "C:\\x\\1.png,a"], ["absolute", "line 2"]),
        (["path,label", "../1.png,a"], ["leads out of", "line 2"]),
        (["path,label", "a/../../1.png,a"], ["leads out of", "line 2"]),
        (["path,label,split", "1.png,a,trian"], ["'trian'", "Did you mean `train`?", "line 2"]),
        (["path,label", "1.png"], ["all.csv: line 2", "fewer than the header"]),
        (["path,label", "1.png,"], ["all.csv: line 2", "no class"]),
    ],
)
def test_bad_csv_is_refused_by_line(tmp_path, lines, words):
    root = tmp_path / "root"
    put(tmp_path, "root/1.png", "1.png")
    write(root, "all.csv", *lines)
    refused(root, *words)


def test_csv_with_an_unknown_header_is_passed_over_or_refused_by_itself(tmp_path):
    put(tmp_path, "a/1.png")
    write(tmp_path, "meta.csv", "id,weight", "1,2")
    ((name, why),) = read(tmp_path).skipped
    assert name == "meta.csv" and why.startswith("a table that is not read: its columns are id, weight, known headers")
    refused(tmp_path / "meta.csv", "id, weight", "filename,label")
    (tmp_path / "meta.csv").write_bytes(b"path,label\n\xff.png,a\n")
    refused(tmp_path / "meta.csv", "UTF-8")
    write(tmp_path, "meta.csv", "path,label", "a/1.png,a")
    write(tmp_path, "more.csv", "path,label", "a/1.png,a")
    refused(tmp_path, "several tables", "meta.csv, more.csv")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    put(tmp_path, "all.parquet", data=b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(tmp_path / "all.parquet", "pip install pyarrow")


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip(
        "pyarrow", reason="reads parquet only where pyarrow is installed: pip install pyarrow"
    )
    parquet = pytest.importorskip("pyarrow.parquet")
    put(tmp_path, "1.png", "2.png")
    parquet.write_table(pyarrow.table({"path": ["1.png", "2.png"], "label": ["a", "b"]}), tmp_path / "all.parquet")
    assert by_name(read(tmp_path)) == {"1.png": "a", "2.png": "b"}


# JSON lists


def file_list(paths, labels, names=("a", "b")):
    return json.dumps({"label_names": list(names), "image_names": paths, "image_labels": labels})


def test_file_lists_with_the_paths_of_another_machine(tmp_path):
    put(tmp_path, "CUB/images/a/1.jpg", "CUB/images/b/1.jpg", "CUB/images/b/2.jpg")
    there = "/home/someone/closer/filelists/CUB/images"
    write(tmp_path, "base.json", file_list([f"{there}/a/1.jpg", f"{there}/a/gone.jpg"], [0, 0]))
    write(tmp_path, "novel.json", file_list([f"{there}/b/1.jpg", f"{there}/b/2.jpg"], [1, 1]))
    listing = read(tmp_path)
    assert by_split(listing) == {"train": ["a"], "test": ["b"]}
    assert listing.names[0] == "CUB/images/a/1.jpg" and "1 of 4 files are missing" in listing.layout
    assert read(tmp_path / "novel.json").classes == ["b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (file_list(["/x/gone.jpg"], [0]), ["none of the 1 pictures"]),
        (file_list(["1.jpg"], [0, 1]), ["1 image_names", "2 image_labels"]),
        (file_list(["1.jpg"], [5]), ["label 5", "0 to 1"]),
        (file_list(["../1.jpg"], [0]), [".."]),
        (file_list("1.jpg", [0]), ["image_names must be a list"]),
        ("{", ["not JSON"]),
    ],
)
def test_bad_file_lists_are_refused(tmp_path, text, words):
    put(tmp_path, "root/1.jpg", "1.jpg")
    write(tmp_path / "root", "base.json", text)
    refused(tmp_path / "root", "base.json", *words)


@pytest.mark.parametrize("form", ["splits/split_{}.json", "{}.json"])
def test_class_lists_divide_class_folders(tmp_path, form):
    put(tmp_path, *(f"images/{name}/1.jpg" for name in "abcd"))
    for split, names in {"train": ["a"], "val": ["b"], "test": ["c", "gone"]}.items():
        write(tmp_path, form.format(split), json.dumps({"class_names": names, "class_roots": []}))
    listing = read(tmp_path)
    assert by_split(listing) == {"train": ["a"], "val": ["b"], "test": ["c"]}
    assert form.format("val") in listing.layout and "1 classes are in none" in listing.layout
    assert dict(listing.skipped)["gone"].endswith("no such class folder")
    write(tmp_path, form.format("val"), json.dumps({"class_names": ["a"]}))
    refused(tmp_path, "'a' is in the lists of")
    for file in tmp_path.glob("images/*/*.jpg"):
        file.unlink()
    refused(tmp_path, "no class folders")


# Pickles and npz

RED = np.zeros((4, 84, 84, 3), dtype=np.uint8) + np.array([255, 0, 0], dtype=np.uint8)


def put_pickle(file, content, protocol=2):
    file.write_bytes(pickle.dumps(content, protocol))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_mini_imagenet_cache(tmp_path, protocol):
    for split, name in {"train": "n1", "validation": "n2", "test": "n3"}.items():
        content = {"image_data": RED[:2], "class_dict": OrderedDict({name: [1], f"{name}x": [0]})}
        put_pickle(tmp_path / f"mini-imagenet-cache-{split}.pkl", content, protocol)
    listing = read(tmp_path)
    assert by_split(listing) == {"train": ["n1", "n1x"], "val": ["n2", "n2x"], "test": ["n3", "n3x"]}
    assert [listing.classes[at] for at in listing.labels[:2]] == ["n1x", "n1"]
    assert listing.pictures[0].getpixel((0, 0)) == (255, 0, 0)


def test_category_split_pickles_leave_out_further_images_of_training_classes(tmp_path):
    for name, labels in {
        "train_phase_train": [0, 1],
        "train_phase_val": [0, 1],
        "val": [64, 64],
        "test": [80, 81],
    }.items():
        content = {b"data": RED[:2], b"labels": labels}
        put_pickle(tmp_path / f"miniImageNet_category_split_{name}.pickle", content)
    listing = read(tmp_path)
    assert by_split(listing) == {"train": ["0", "1"], "val": ["64"], "test": ["80", "81"]}
    assert listing.skipped[0][0].endswith("train_phase_val.pickle")


@pytest.mark.parametrize("prefix", ["CIFAR_FS", "FC100"])
def test_numbers_that_begin_anew_in_each_split_are_told_apart(tmp_path, prefix):
    for split in ("train", "val", "test"):
        put_pickle(tmp_path / f"{prefix}_{split}.pickle", {"data": RED[:, :32, :32], "labels": [0, 0, 1, 1]})
    listing = read(tmp_path)
    assert by_split(listing) == {s: [f"{s}/0", f"{s}/1"] for s in ("train", "val", "test")}
    put_pickle(tmp_path / "other_test.pkl", {})
    refused(tmp_path, "several sets", prefix, "other")


@pytest.mark.parametrize("form", ["png", "npz"])
def test_tiered_imagenet(tmp_path, form):
    for split in ("train", "val", "test"):
        if form == "png":
            files = [np.frombuffer(png(value), dtype=np.uint8) for value in (10, 20)]
            put_pickle(tmp_path / f"{split}_images_png.pkl", files)
        else:
            np.savez(tmp_path / f"{split}_images.npz", images=np.stack([GREY * 0 + 10, GREY * 0 + 20]))
        names = {"label_specific_str": [f"{split} cat", f"{split} dog"]} if split == "train" else {}
        put_pickle(tmp_path / f"{split}_labels.pkl", {"label_specific": np.array([1, 0]), **names})
    listing = read(tmp_path)
    assert by_split(listing)["train"] == ["train cat", "train dog"]
    assert by_split(listing)["val"] == ["val/0", "val/1"]
    assert listing.pictures[3].getpixel((0, 0)) == 20
    (tmp_path / "val_labels.pkl").unlink()
    refused(tmp_path, "val_labels.pkl")


@pytest.mark.parametrize("above", ["", "cifar-100-python"])
def test_cifar100(tmp_path, above):
    (tmp_path / above).mkdir(exist_ok=True)
    rows = np.zeros((2, 3072), dtype=np.uint8)
    rows[:, :1024] = 255
    for name in ("train", "test"):
        put_pickle(tmp_path / above / name, {b"data": rows, b"fine_labels": [1, 0], b"coarse_labels": [0, 0]})
    put_pickle(tmp_path / above / "meta", {b"fine_label_names": [b"apple", b"bear"]})
    listing = read(tmp_path)
    assert by_split(listing) == {"train": ["apple", "bear"], "test": ["apple", "bear"]}
    assert listing.pictures[0].getpixel((5, 5)) == (255, 0, 0)


def test_a_python_2_pickle_is_read(tmp_path):
    # What Python 2 writes at protocol 0 for {'data': array of uint8 (1, 1, 1), 'labels': [3]}: strings are bytes.
    written = (
        b"(dp0\nS'data'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\n"
        b"Rp7\n(I1\n(I1\nI1\nI1\ntp8\ncnumpy\ndtype\np9\n(S'u1'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'|'\np13\nNNNI-1\nI-1\n"
        b"I0\ntp14\nbI00\nS'\\xf0'\np15\ntp16\nbsS'labels'\np17\n(lp18\nI3\nas."
    )
    (tmp_path / "old_test.pkl").write_bytes(written)
    listing = read(tmp_path)
    assert listing.classes == ["3"] and listing.pictures[0].getpixel((0, 0)) == 0xF0


VALUES = [
    np.arange(6, dtype=">i4").reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(["é", "bc"]),
    np.array([b"a", b"bc"]),
    np.array([[1, "x", None]], dtype=object),
    np.array([True, False]),
    np.zeros((0, 3), dtype=np.uint8),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_data_is_unpickled_as_pickle_does(tmp_path, protocol):
    content = {
        "arrays": VALUES,
        "scalars": [np.float64(1.5), np.int64(3), np.bool_(True)],
        "plain": [(1, 2), {3}, frozenset({4}), b"\xff\x00", bytearray(b"x"), "é", None, 2**80, 1.5],
        "ordered": OrderedDict(a=1),
    }
    put_pickle(tmp_path / "x.pkl", content, protocol)
    back = load_pickle(tmp_path / "x.pkl")
    assert back["plain"] == content["plain"] and back["ordered"] == content["ordered"]
    assert back["scalars"] == content["scalars"]
    trusted = pickle.loads((tmp_path / "x.pkl").read_bytes())
    for value, was in zip(back["arrays"], trusted["arrays"], strict=True):
        assert value.dtype == was.dtype and value.shape == was.shape
        np.testing.assert_array_equal(value, was)


class Runs:
    """An object whose pickle calls a function of another module."""

    def __init__(self, function, *arguments):
        self.how = function, arguments

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, protocol):
    trace = tmp_path / "it-ran"
    attack = {"labels": Runs(os.mkdir, str(trace)), "data": RED}
    pickle.loads(pickle.dumps({"labels": Runs(os.mkdir, str(trace))}, protocol))
    assert trace.is_dir(), "the attack works where pickles are trusted"
    trace.rmdir()
    put_pickle(tmp_path / "x_train.pkl", attack, protocol)
    refused(tmp_path, "x_train.pkl", "mkdir", "nothing of it was run")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"c__builtin__\ngetattr\n.", "__builtin__.getattr"),
        (b"cnumpy\nload\n(S'x'\ntR.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "numpy.ndarray.tofile"),
        (b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.", "'zip'"),
        (b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR.", "'V8'"),
        # An attribute that is set on an object of the reader would outlive the file.
        (b"cnumpy\ndtype\n(N}S'__call__'\nI1\nstb.", "damaged"),
        (b"cnumpy\ndtype\n(N}S'function'\nI1\nstb.", "damaged"),
        (b"cbuiltins\nbytes\n(N}S'function'\ncbuiltins\nlist\nstb.", "damaged"),
        (b"cbuiltins\nbytes\n}S'function'\nI1\nsb.", "damaged"),
        (b"ccollections\nOrderedDict\n(N}S'x'\nI1\nstb.", "damaged"),
        (b"", "damaged"),
        (b"<html>not found</html>", "damaged"),
        (pickle.dumps(RED)[:-100], "damaged"),
    ],
)
def test_what_is_no_data_in_a_pickle_is_refused(tmp_path, program, words):
    put(tmp_path, "x_train.pkl", data=program)
    refused(tmp_path, "x_train.pkl", words)


def test_bytes_are_never_taken_for_objects(tmp_path):
    """An array with a wrong type in its state must not make NumPy use its bytes as pointers."""
    state = b"(I3\nS'|'\nNNNI8\nI8\nI0\ntb"
    dtype = b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR" + state
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt" + dtype
    put(tmp_path, "x_train.pkl", data=array + b"I00\nS'AAAAAAAA'\ntb.")
    refused(tmp_path, "damaged")
    buffered = b"cnumpy.core.numeric\n_frombuffer\n(S'AAAAAAAA'\n" + dtype + b"(I1\ntS'C'\ntR."
    put(tmp_path, "x_train.pkl", data=buffered)
    refused(tmp_path, "damaged")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"image_data": RED, "class_dict": {"a": [0, 1, 2, 9]}}, "outside 0 to 3"),
        ({"image_data": RED, "class_dict": {"a": [0, 1], "b": [1, 2, 3]}}, "1 of 4 images"),
        ({"data": RED, "labels": [0, 1]}, "4 pictures and 2 labels"),
        ({"data": RED / 255, "labels": [0] * 4}, "float64"),
        ({"data": RED, "labels": [0.5] * 4}, "labels"),
        ({"data": RED}, "labels is needed"),
        ([1, 2], "a list; a dictionary was expected"),
    ],
)
def test_pickles_of_other_content_are_refused(tmp_path, content, words):
    put_pickle(tmp_path / "x_train.pkl", content)
    refused(tmp_path, "x_train.pkl", words)


@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_test", "y_test"),
    ],
)
def test_npz_by_split(tmp_path, names):
    images, labels = np.stack([GREY, GREY]), np.array([[2], [10]])
    np.savez(tmp_path / "set.npz", **dict(zip(names, (images, labels, images, labels), strict=True)))
    listing = read(tmp_path)
    assert listing.classes == ["2", "10"] and by_split(listing) == {"train": ["10", "2"], "test": ["10", "2"]}


@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (2, 5, 6, 3), (2, 1, 5, 6), (2, 5, 6, 1), (2, 5, 6)])
@pytest.mark.parametrize("keys", [("images", "labels"), ("x", "y"), ("data", "labels")])
def test_npz_shapes_and_names(tmp_path, shape, keys):
    np.savez(tmp_path / "a.npz", **{keys[0]: np.zeros(shape, dtype=np.uint8), keys[1]: np.array(["é", "b"])})
    listing = read(tmp_path / "a.npz")
    assert listing.classes == ["b", "é"] and listing.pictures[0].size == (6, 5) and listing.splits == {}


def test_npz_files_by_split(tmp_path):
    for split in ("train", "val"):
        np.savez(tmp_path / f"{split}.npz", images=np.stack([GREY]), labels=np.array([split]))
    assert by_split(read(tmp_path)) == {"train": ["train"], "val": ["val"]}


def test_bad_npz_is_refused(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, images=np.stack([GREY]), labels=np.array([Runs(os.mkdir, str(tmp_path / "it-ran"))]))
    refused(file, "a.npz", "plain arrays")
    assert not (tmp_path / "it-ran").exists()
    file.write_bytes(file.read_bytes()[:100])
    refused(file, "cannot be read")
    np.savez(file, pixels=GREY)
    refused(file, "pixels", "images and labels")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train_x", "train_y", "x_train", "y_train"), "several pairs .*train_x with train_y, x_train with y_train"),
        (("images", "labels", "data"), "several pairs .*images with labels, data with labels"),
        (("images", "labels", "x", "y"), "several pairs .*images with labels, x with y"),
        (("train_images", "train_labels", "images", "labels"), "several pairs .*images with labels, train_images with"),
        (("x", "y", "X"), "arrays x, X, which differ in capitals only"),
    ],
)
def test_npz_with_several_pairs_is_refused(tmp_path, names, said):
    """Else the same pictures were read twice, and were in training and test."""
    labels, pictures = np.array(["a", "b"]), np.stack([GREY, GREY])
    arrays = {name: labels if {"y", "labels"} & set(name.split("_")) else pictures for name in names}
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(InputError, match=said):
        read(tmp_path)


# Real data


@pytest.mark.parametrize(
    ("name", "classes", "pictures", "splits"),
    [
        ("omniglot", 1623, 32460, {}),
        ("mnist", 10, 70000, {"train": 60000, "test": 10000}),
        ("chars74k_hnd", 62, 3410, {}),
        ("cub_200_2010_84px", 200, 6033, {"train": 4258, "val": 852, "test": 923}),
        ("mini_imagenet_tiny64", 25, 2500, {"train": 1400, "val": 600, "test": 500}),
    ],
)
def test_real_data(name, classes, pictures, splits):
    listing = check(listing_of(find_real_set(name)))
    assert (len(listing.classes), len(listing.pictures)) == (classes, pictures)
    assert {split: len(at) for split, at in listing.splits.items()} == splits
    assert not listing.skipped


def test_real_omniglot_has_964_and_659_characters():
    assert {name: len(classes) for name, classes in lake_sets(listing_of(find_real_set("omniglot"))).items()} == {
        "background": 964,
        "evaluation": 659,
    }


def test_real_csvs_without_their_images_say_so(tmp_path):
    """The first lines of each file are enough; to look for 60 000 missing files takes seconds."""
    for split in ("train", "val", "test"):
        lines = (find_real_set("mini_imagenet_splits") / f"{split}.csv").read_text().splitlines()
        write(tmp_path, f"{split}.csv", *lines[:101])
    refused(tmp_path, "none of the 300 pictures", "images")


# What is beside a layout


def test_class_folders_beside_images_are_named(tmp_path):
    put(tmp_path, "images/a/1.png", "images/b/1.png", "cat/1.png", "cat/2.png", "dog/1.png", "lone.png")
    listing = read(tmp_path)
    assert set(by_name(listing)) == {"images/a/1.png", "images/b/1.png"}
    skipped = dict(listing.skipped)
    assert set(skipped) == {"cat/", "dog/1.png", "lone.png"}
    assert "2 pictures" in skipped["cat/"] and "cat/1.png" in skipped["cat/"]


def test_class_folders_beside_an_archive_are_named(tmp_path):
    np.savez(tmp_path / "set.npz", images=np.stack([GREY, GREY]), labels=np.array(["a", "b"]))
    put(tmp_path, "cat/1.png", "cat/2.png")
    assert [name for name, _ in read(tmp_path).skipped] == ["cat/"]


def test_pictures_deeper_than_class_folders_are_named(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png", "b/old/older/oldest/2.png")
    assert [name for name, _ in read(tmp_path).skipped] == ["b/old/older/oldest/2.png"]


def test_pictures_that_no_list_names_are_counted(tmp_path):
    put(tmp_path, "images/1.png", "images/2.png", "images/3.png", "more/4.png")
    write(tmp_path, "table.csv", "path,label", "1.png,a", "2.png,b")
    listing = read(tmp_path)
    assert len(listing.names) == 2 and not listing.skipped
    assert "2 pictures are in no list" in listing.layout


def test_a_table_of_a_split_without_known_columns_is_refused(tmp_path):
    put(tmp_path, "1.png", "2.png")
    write(tmp_path, "train.csv", "path,label", "1.png,a")
    write(tmp_path, "test.csv", "id,species", "2.png,b")
    refused(tmp_path, "test.csv has the columns id, species", "Or give the path of one table, such as", "train.csv")
    assert list(by_name(read(tmp_path / "train.csv"))) == ["1.png"]


def test_a_table_may_be_tsv(tmp_path):
    put(tmp_path, "1.png", "2, 3.png")
    write(tmp_path, "table.tsv", "path\tlabel", "1.png\ta, b", "2, 3.png\tc")
    expected = {"1.png": "a, b", "2, 3.png": "c"}
    assert by_name(read(tmp_path)) == by_name(read(tmp_path / "table.tsv")) == expected


def test_tables_and_archives_beside_those_of_splits_are_named(tmp_path):
    put(tmp_path, "1.png", "2.png")
    write(tmp_path, "train.csv", "path,label", "1.png,a")
    write(tmp_path, "test.csv", "path,label", "2.png,b")
    write(tmp_path, "more.csv", "path,label", "2.png,b")
    assert [name for name, _ in read(tmp_path).skipped] == ["more.csv"]
    (tmp_path / "notes.csv").write_bytes("Übung;Größe".encode("latin-1"))  # it is named, and nothing of it is read
    assert [name for name, _ in read(tmp_path).skipped] == ["more.csv", "notes.csv"]
    (tmp_path / "notes.csv").unlink()
    for name in ("train", "test", "more"):
        np.savez(tmp_path / f"{name}.npz", images=np.stack([GREY]), labels=np.array([name]))
    (tmp_path / "sets").mkdir()
    for name in ("train", "test", "more"):
        (tmp_path / f"{name}.npz").rename(tmp_path / "sets" / f"{name}.npz")
    listing = read(tmp_path / "sets")
    assert by_split(listing) == {"train": ["train"], "test": ["test"]}
    assert [name for name, _ in listing.skipped] == ["more.npz"]
