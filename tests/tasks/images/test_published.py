"""Published splits: the counts of their papers, no class twice, and the class names of the real data."""

import csv
import hashlib
import json
import re
from itertools import combinations
from zipfile import ZipFile

import numpy as np
import pytest

from conftest import find_real_set
from quickstudy.errors import InputError
from quickstudy.tasks.images.published import LIST_FOLDER, SPLIT_RULES, PublishedSplit, published_names, published_split

COUNTS = {
    ("omniglot", "vinyals"): {"train": 1028, "val": 172, "test": 423},
    ("omniglot", "finn"): {"train": 1100, "val": 100, "test": 423},
    ("omniglot", "lake_no_val"): {"train": 964, "test": 659},
    ("omniglot", "lake"): {"train": 766, "val": 198, "test": 659},
    ("omniglot", "no_latin"): {"train": 1597},
    ("emnist", "even_odd"): {"val": 31, "test": 31},
    ("mini_imagenet", "ravi"): {"train": 64, "val": 16, "test": 20},
    ("mini_imagenet", "all"): {"train": 100},
    ("cub", "easyfsl"): {"train": 140, "val": 30, "test": 30},
    ("cub", "alternating"): {"train": 100, "val": 50, "test": 50},
    ("cub", "feat"): {"train": 100, "val": 50, "test": 50},
    ("cifar_fs", "bertinetto"): {"train": 64, "val": 16, "test": 20},
    ("fc100", "oreshkin"): {"train": 60, "val": 20, "test": 20},
}


def named(split: PublishedSplit) -> list[str]:
    return [name for members in split.classes.values() for name in members]


def members(classes: list[str], division, split: str) -> set[str]:
    return {classes[number] for number in division.splits[split]}


@pytest.fixture(scope="module")
def characters():
    """The class names of Omniglot, from the names in its two archives."""
    found = set()
    for part in ("background", "evaluation"):
        with ZipFile(find_real_set(f"omniglot/images_{part}.zip")) as archive:
            found |= {
                m[1] for n in archive.namelist() if (m := re.match(r"images_\w+/([^/]+/character\d+)/.+\.png", n))
            }
    return sorted(found)


@pytest.fixture(scope="module")
def birds():
    return sorted(path.name for path in find_real_set("cub_200_2010_84px/images").iterdir())


def test_every_split_is_counted_here():
    listed = {tuple(path.name.split(".")[:2]) for path in LIST_FOLDER.iterdir() if path.name.endswith(".json")}
    assert listed | set(SPLIT_RULES) == set(COUNTS)
    assert not listed & set(SPLIT_RULES), "a rule and a list of one name: only the rule would ever be used"
    for of, name in COUNTS:
        assert name in published_names(of)


@pytest.mark.parametrize(("of", "name"), COUNTS)
def test_counts_are_the_papers_and_no_class_is_listed_twice(of, name):
    split = published_split(of, name)
    assert (split.of, split.name) == (of, name) and split.source
    assert {part: len(classes) for part, classes in split.classes.items()} == COUNTS[of, name]
    assert len(set(named(split))) == len(named(split))


@pytest.mark.parametrize("name", published_names("omniglot"))
def test_omniglot_splits_name_real_characters(name, characters):
    assert len(characters) == 1623
    division = published_split("omniglot", name).divide(characters)
    assert not division.missing
    assert len(division.unlisted) == (26 if name == "no_latin" else 0)
    for split, listed in published_split("omniglot", name).classes.items():
        assert members(characters, division, split) == set(listed)


def test_omniglot_alphabets_are_kept_apart_by_lake_and_latin_by_no_latin(characters):
    division = published_split("omniglot", "lake").divide(characters)
    alphabets = {
        split: {name.split("/")[0] for name in members(characters, division, split)} for split in division.splits
    }
    assert {split: len(found) for split, found in alphabets.items()} == {"train": 25, "val": 5, "test": 20}
    assert not any(a & b for a, b in combinations(alphabets.values(), 2))
    with ZipFile(find_real_set("omniglot/images_evaluation.zip")) as archive:
        held_out = {m[1] for n in archive.namelist() if (m := re.match(r"images_evaluation/([^/]+)/character", n))}
    assert alphabets["test"] == held_out
    left = published_split("omniglot", "no_latin").divide(characters).unlisted
    assert left == tuple(f"Latin/character{n:02d}" for n in range(1, 27))


def test_vinyals_cuts_one_alphabet_between_training_and_test():
    """The published list follows the sorted evaluation set and ends four characters before the end of Gurmukhi."""
    split = published_split("omniglot", "vinyals").classes
    alphabets = {part: {name.split("/")[0] for name in listed} for part, listed in split.items()}
    assert alphabets["train"] & alphabets["test"] == {"Gurmukhi"}
    assert alphabets["val"] == {"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"}
    assert [name for name in split["test"] if name.startswith("Gurmukhi")] == [
        f"Gurmukhi/character{n}" for n in (42, 43, 44, 45)
    ]


PINNED = {"finn": "e130745cde8c0b30", "lake": "5ddf246cdd979ab0"}


@pytest.mark.parametrize("name", PINNED)
def test_drawn_splits_never_change(name):
    """Old results belong to these classes. Another hash means another data set, which needs a line in the changelog."""
    listed = json.dumps({split: list(found) for split, found in published_split("omniglot", name).classes.items()})
    assert hashlib.sha256(listed.encode()).hexdigest()[:16] == PINNED[name]


def test_mini_imagenet_is_the_official_list():
    for split, listed in published_split("mini_imagenet", "ravi").classes.items():
        with find_real_set(f"mini_imagenet_splits/{split}.csv").open() as rows:
            assert set(listed) == {row["label"] for row in csv.DictReader(rows)}


def test_a_stand_in_is_divided_as_far_as_it_goes():
    own = {}
    for split in ("train", "val", "test"):
        with find_real_set(f"mini_imagenet_tiny64/{split}.csv").open() as rows:
            own[split] = {row["label"] for row in csv.DictReader(rows)}
    classes = sorted(set.union(*own.values()))
    division = published_split("mini_imagenet", "ravi").divide(classes, partial=True)
    assert {split: members(classes, division, split) for split in division.splits} == own
    assert str(division) == "25 of the 100 published classes (14 train/6 val/5 test)"
    with pytest.raises(
        InputError, match=r"names 100 classes, and the data lack 75 of them \(the first: n\d+, n\d+, n\d+\)"
    ):
        published_split("mini_imagenet", "ravi").divide(classes)


def test_cub_lists_name_the_birds(birds):
    for name in published_names("cub"):
        division = published_split("cub", name).divide(birds)
        assert not division.missing and not division.unlisted
        for split, listed in published_split("cub", name).classes.items():
            assert members(birds, division, split) == set(listed)


def test_easyfsl_is_the_list_beside_the_photos():
    for split, listed in published_split("cub", "easyfsl").classes.items():
        path = find_real_set(f"cub_200_2010_84px/splits/split_{split}.json")
        assert sorted(listed) == sorted(json.loads(path.read_text())["class_names"])
    assert published_split("cub", "easyfsl").classes["val"][0] == "044.Frigatebird"


def test_cub_alternates_by_folder_number():
    """The published rule, with folders numbered from 0: even train, 1 modulo 4 val, 3 modulo 4 test."""
    home = {
        int(name[:3]) - 1: split
        for split, listed in published_split("cub", "alternating").classes.items()
        for name in listed
    }
    assert home == {i: "train" if i % 2 == 0 else "val" if i % 4 == 1 else "test" for i in range(200)}


FEAT_ROWS = {
    "train": {49: "144 072 125", 99: "113"},
    "val": {0: "159 192 051", 9: "042 070 050 049", 28: "165 199 007 069", 40: "120 103 036 058", 49: "106"},
    "test": {0: "133 174 018", 16: "033 143 170 148", 32: "189 175 191", 49: "173"},
}
"""Folder numbers in the order of FEAT's csv files: runs of them, by the position of the first among the classes."""


def test_feat_is_the_first_draw_of_numpy():
    """The classes of FEAT's files have the order of a draw of `RandomState`, which NumPy never changes."""
    whole = sorted(named(published_split("cub", "easyfsl")))
    drawn = [whole[i] for i in np.random.RandomState(0).permutation(200)]
    parts = {"train": drawn[:100], "val": drawn[100:150], "test": drawn[150:]}
    for split, runs in FEAT_ROWS.items():
        for first, numbers in runs.items():
            run = numbers.split()
            assert [bird[:3] for bird in parts[split][first : first + len(run)]] == run
    assert published_split("cub", "feat").classes == {split: tuple(sorted(listed)) for split, listed in parts.items()}


@pytest.mark.parametrize(
    ("other", "alike"),
    [("alternating", {"train": 52, "val": 11, "test": 12}), ("easyfsl", {"train": 70, "val": 10, "test": 12})],
)
def test_feat_is_another_split_than_the_other_two(other, alike):
    """Of the 200 birds, 125 are in another split in `alternating` (which is 100/50/50 too), and 108 in `easyfsl`."""
    feat, theirs = published_split("cub", "feat"), published_split("cub", other)
    assert set(named(feat)) == set(named(theirs))
    assert {split: len(set(birds) & set(theirs.classes[split])) for split, birds in feat.classes.items()} == alike


def test_cub_is_matched_by_the_bird_not_its_number():
    whole = sorted(named(published_split("cub", "easyfsl")))
    renumbered = [f"{(number + 7) % 200:03d}.{name[4:]}" for number, name in enumerate(whole)]
    for name in published_names("cub"):
        assert published_split("cub", name).divide(renumbered) == published_split("cub", name).divide(whole)
    few = [bird for bird in whole if bird[:3] in ("002", "004", "005")]
    assert published_split("cub", "alternating").divide(few, partial=True).splits == {
        "train": [2],
        "val": [0],
        "test": [1],
    }


def test_emnist_halves_by_label_whatever_the_names():
    characters = list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    split = published_split("emnist", "even_odd")
    assert split.divide(characters).splits == {"val": list(range(0, 62, 2)), "test": list(range(1, 62, 2))}
    labels = sorted(str(label) for label in range(62))  # "10" comes before "2"
    halves = split.divide(labels)
    assert {int(name) for name in members(labels, halves, "val")} == set(range(0, 62, 2))
    assert {int(name) for name in members(labels, halves, "test")} == set(range(1, 62, 2))


def test_emnist_stand_in_takes_the_same_characters():
    folders = sorted(path.name for path in find_real_set("chars74k_hnd").iterdir())
    division = published_split("emnist", "even_odd").divide(folders)
    for split, listed in published_split("emnist", "even_odd").classes.items():
        assert {chr(int(name.split("+")[1], 16)) for name in members(folders, division, split)} == set(listed)
    with pytest.raises(InputError, match=r"62 classes in the order 0-9, A-Z, a-z.*the data have 61"):
        published_split("emnist", "even_odd").divide(folders[1:], partial=True)


def test_both_cifar_splits_are_of_the_same_hundred_classes():
    few_shot, by_superclass = published_split("cifar_fs", "bertinetto"), published_split("fc100", "oreshkin")
    assert set(named(few_shot)) == set(named(by_superclass))
    people = {"baby", "boy", "girl", "man", "woman"}
    assert people <= set(by_superclass.classes["test"])
    assert people & set(few_shot.classes["train"]) == {"boy", "girl"}


def test_division_tells_what_is_missing_and_what_is_left():
    split = PublishedSplit("own", "small", "a test", {"train": ("a", "b"), "val": ("c",), "test": ("d",)})
    whole = split.divide(["a", "b", "c", "d"])
    assert str(whole) == "matches the published set of 4 classes (2 train/1 val/1 test)"
    part = split.divide(["a", "c", "x"], partial=True)
    assert part.splits == {"train": [0], "val": [1], "test": []}
    assert part.missing == ("b", "d") and part.unlisted == ("x",)
    assert str(part) == "2 of the 4 published classes (1 train/1 val/0 test), 1 of the data in no split"
    with pytest.raises(
        InputError, match=r"'small' of own names 4 classes, and the data lack 2 of them \(the first: b, d\).*partial"
    ):
        split.divide(["a", "c", "x"])
    for partial in (False, True):
        with pytest.raises(InputError, match=r"lack 4 of them \(the first: a, b, c\).*None is listed"):
            split.divide(["w", "x"], partial=partial)


def test_two_classes_of_one_name_are_refused():
    whole = sorted(named(published_split("cub", "easyfsl")))
    with pytest.raises(InputError, match="'001.Black_footed_Albatross' and 'Black_footed_Albatross' both match"):
        published_split("cub", "alternating").divide([*whole, "Black_footed_Albatross"])


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(InputError, match="Did you mean `vinyals`"):
        published_split("omniglot", "vinyal")
    with pytest.raises(InputError, match="Did you mean `mini_imagenet`"):
        published_names("miniimagenet")


def test_a_split_is_read_once():
    assert published_split("cub", "alternating") is published_split("cub", "alternating")
