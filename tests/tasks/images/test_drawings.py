"""The drawings that come with the package: the same tasks as Omniglot's own files give, from one small file."""

import lzma
import os
from collections import Counter

import numpy as np
import pytest
import torch

from quickstudy.errors import InputError
from quickstudy.tasks import FAMILIES, drawings
from quickstudy.tasks.images import drawings as pack
from quickstudy.tasks.images.drawings import PACK, pack_drawings, read_drawings


@pytest.fixture
def spoiled(tmp_path, monkeypatch):
    """`spoiled(change)` replaces the pack by what `change` makes of its bytes."""

    def replace(change):
        (tmp_path / "drawings.xz").write_bytes(change(PACK.read_bytes()))
        monkeypatch.setattr(pack, "PACK", tmp_path / "drawings.xz")
        read_drawings.cache_clear()

    yield replace
    read_drawings.cache_clear()


def test_all_of_omniglot_is_there_in_four_shades():
    found = read_drawings()
    assert found.pixels.shape == (32460, 1, 28, 28) and found.pixels.dtype == np.uint8
    assert np.unique(found.pixels).tolist() == [0, 85, 170, 255]
    assert len(set(found.classes)) == 1623 and len({name.partition("/")[0] for name in found.classes}) == 50
    assert np.bincount(found.labels).tolist() == [20] * 1623
    with pytest.raises(ValueError, match="read-only"):
        found.pixels[0] = 0


def test_packing_what_was_unpacked_gives_the_same_bytes():
    found = read_drawings()
    assert lzma.decompress(pack_drawings(found.pixels)) == lzma.decompress(PACK.read_bytes())


def test_they_are_lakes_archives_as_the_recipe_reads_them(real):
    real("omniglot")
    ours, theirs = drawings("lake"), FAMILIES["omniglot"](split="lake")
    assert ours.names == theirs.names
    assert np.abs(ours.images - np.asarray(theirs.images, dtype=float)).max() <= 85 / 2


@pytest.mark.parametrize("split", ["finn", "vinyals", "lake"])
def test_a_task_list_shows_the_drawings_that_omniglot_shows(split, real):
    real("omniglot")
    ours, theirs = drawings(split, rotations="augment"), FAMILIES["omniglot"](split=split, rotations="augment")
    assert list(ours.pools) == list(theirs.pools)
    for part in ours.pools:
        mine, other = (family.source(part, seed=3, size=4)(2) for family in (ours, theirs))
        assert all(torch.equal(mine.about[key], other.about[key]) for key in other.about)
        assert torch.equal(mine.query.y, other.query.y)
        assert (mine.query.x - other.query.x).abs().max() < 0.17


def test_alphabets_of_the_test_are_never_trained_on():
    family = drawings("lake")
    met = {part: {family.names[c].partition("/")[0] for c in pool.classes} for part, pool in family.pools.items()}
    assert {part: len(names) for part, names in met.items()} == {"train": 25, "val": 5, "test": 20}
    assert len(set.union(*met.values())) == 50


def test_the_complete_split_keeps_finns_classes_to_validate():
    complete, finn = drawings("complete"), drawings("finn")
    assert list(complete.pools) == ["train", "val"]
    assert list(complete.pools["val"].classes) == list(finn.pools["val"].classes)
    assert not set(complete.pools["train"].classes) & set(complete.pools["val"].classes)
    assert len(complete.pools["train"].classes) + len(complete.pools["val"].classes) == 1623


def test_within_an_alphabet_all_classes_of_a_task_are_of_one():
    family = drawings("lake", ways=20, queries=1, within="alphabet")
    met = set()
    for step in range(5):
        for classes in family.source("test", seed=1, size=8)(step).about["classes"].tolist():
            alphabets = {family.class_name(c).partition("/")[0] for c in classes}
            assert len(alphabets) == 1 and len(set(classes)) == 20
            met |= alphabets
    sizes = Counter(family.names[c].partition("/")[0] for c in family.pools["test"].classes.tolist())
    assert len(met) > 10 and all(sizes[name] >= 20 for name in met)  # of the 20 alphabets, those that are large enough
    assert family.describe()["within"] == "alphabet" and "within" not in drawings("lake").describe()


@pytest.mark.parametrize("rotations", ["none", "classes", "mirrored"])
def test_mixed_training_tasks_are_within_an_alphabet_eight_times_of_ten(rotations):
    family = drawings("lake_no_val", ways=20, queries=1, within="mixed", rotations=rotations)
    within = []
    for classes in family.source("train", seed=1, size=1000)(0).about["classes"].tolist():
        copies = [divmod(c, family.copies) for c in classes]
        within.append(len({(family.names[original].partition("/")[0], copy) for original, copy in copies}) == 1)
    assert abs(np.mean(within) - 0.8) < 4 * (0.16 / 1000) ** 0.5
    # Twenty of all characters are hardly ever of one alphabet, and no other split is mixed.
    plain = drawings("lake_no_val", ways=20, queries=1, rotations=rotations)
    mixed, any_of_them = (of.source("test", seed=1, size=50)(0).about["classes"] for of in (family, plain))
    assert torch.equal(mixed, any_of_them)
    assert family.describe()["within"] == ("mixed" if rotations == "none" else "mixed, turned alike")


def test_within_an_alphabet_all_drawings_are_turned_and_mirrored_alike():
    family = drawings("lake", ways=20, queries=1, within="alphabet", rotations="mirrored")
    classes = family.source("test", seed=1, size=50)(0).about["classes"] % 8
    assert (classes == classes[:, :1]).all() and len(classes.unique()) == 8
    # Before, such a task took them as they came: a run of those tasks has to find that these are others.
    assert family.describe()["within"] == "alphabet, turned alike"


def test_distorted_drawings_are_the_same_ones_and_differ_in_training_only():
    plain, distorted = drawings("lake", ways=20), drawings("lake", ways=20, recipe="distorted")
    for split in ("train", "val", "test"):
        one, other = (family.source(split, seed=1, size=2)(0) for family in (plain, distorted))
        assert torch.equal(one.about["images_query"], other.about["images_query"])
        differs = (one.query.x - other.query.x).abs().flatten(2).amax(-1)
        assert (differs > 0.1).all() if split == "train" else (differs == 0).all()
    with pytest.raises(InputError, match="recipe='none' cannot be used.*finn and distorted"):
        drawings(recipe="none")


def test_alphabets_that_are_too_small_or_missing_are_named():
    with pytest.raises(InputError, match=r"needs 56 classes of one alphabet; the largest alphabet of 'test' has 47"):
        drawings("lake", ways=56, queries=1, within="alphabet").source("test", size=1)
    with pytest.raises(InputError, match="within='alphabets' cannot be used. Use one of: split, alphabet, mixed"):
        drawings("lake", within="alphabets")


@pytest.mark.parametrize("size", [1, 7, 14, 20])
def test_smaller_drawings_are_averages(size):
    small, full = read_drawings(size).pixels, read_drawings().pixels
    assert small.shape == (32460, 1, size, size)
    if 28 % size == 0:
        block = 28 // size
        means = full[:500].reshape(-1, 1, size, block, size, block).mean((3, 5))
        np.testing.assert_allclose(small[:500], means, atol=0.5)
    assert abs(float(small.mean()) - float(full.mean())) < 1.0


def test_nothing_is_needed_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path / "absent"))
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    read_drawings.cache_clear()
    assert drawings().source("test", seed=0, size=2)(0).support.x.shape == (2, 5, 1, 28, 28)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"<!DOCTYPE html>",
        lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
        lambda data: lzma.compress(lzma.decompress(data)[:-1]),
        lambda data: lzma.compress(lzma.decompress(data) + b"\0"),
        lambda data: lzma.compress(bytes(1 << 26)),
    ],
    ids=["half", "cut", "empty", "page", "flipped", "short", "long", "bomb"],
)
def test_a_damaged_pack_is_one_line(change, spoiled, cli):
    spoiled(change)
    done = cli("train", "drawings-nearest")
    assert done.code == 1 and done.out == ""
    assert (
        done.err.count("\n") == 1 and "drawings.xz is damaged (" in done.err and "install quickstudy again" in done.err
    )


def test_a_missing_pack_is_one_line(monkeypatch, tmp_path, cli):
    monkeypatch.setattr(pack, "PACK", tmp_path / "drawings.xz")
    read_drawings.cache_clear()
    done = cli("train", "drawings-nearest")
    read_drawings.cache_clear()
    assert done.code == 1 and "drawings.xz is damaged (" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("size", [29, 84])
def test_larger_drawings_are_those_of_omniglot(size):
    with pytest.raises(InputError, match=f"size={size} .* 28 pixels.* --tasks.name omniglot"):
        drawings(size=size)


def test_an_unknown_split_names_those_of_omniglot():
    with pytest.raises(InputError, match="no split 'lakes'. Did you mean `lake`"):
        drawings("lakes")
