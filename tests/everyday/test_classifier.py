"""`FewShotClassifier` over bases of every kind: laws of order, doubling and updating, and what it refuses."""

import json
import pickle
import subprocess
import sys
import warnings
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from torch import nn

import quickstudy as qs
from drawn import draw
from quickstudy.errors import InputError, RunError
from quickstudy.everyday.bases import ANY_WAYS
from quickstudy.everyday.classifier import OutsideCalibrationWarning, ServedNormsWarning
from quickstudy.everyday.items import read_folder
from quickstudy.models.encoders.photos import has_photos
from quickstudy.models.nets import conv_net
from quickstudy.storage.checkpoints import hash_tensors

pytestmark = pytest.mark.filterwarnings("ignore::quickstudy.everyday.classifier.ServedNormsWarning")

ANY = ("protonet", "nearest_neighbour", "unicorn_maml", "feature_transfer")
BASES = (None, "protonet", "maml", "hypermaml", "mtnet", "unicorn_maml", "nearest_neighbour")


@pytest.fixture
def taught(trained, folder, fresh):
    """`taught(base)` gives a base, examples with labels, and new ones: rows of numbers for None, else drawings."""

    def of(base):
        if base is None:
            rng = np.random.default_rng(0)
            y = ["a"] * 2 + ["b"] * 3 + ["c"]
            return None, rng.normal(size=(6, 4)), y, rng.normal(size=(6, 4))
        items, labels, _ = read_folder(folder)
        return trained(base), items, labels, fresh

    return of


def taught_by(base):
    """A classifier without calibration, which is not what most of these tests are about."""
    return qs.FewShotClassifier(base, episodes=0)


def same(one, other, rel=1e-6):
    """Equal up to rounding, as a share of the largest number."""
    return float((one - other).abs().max()) <= rel * float(one.abs().max())


@pytest.mark.parametrize("base", BASES)
def test_the_order_and_the_doubling_of_the_examples_change_nothing(taught, base):
    base, x, y, new = taught(base)
    outputs = taught_by(base).fit(x, y).outputs(new)
    order = [3, 0, 5, 2, 4, 1]
    shuffled = taught_by(base).fit([x[i] for i in order], [y[i] for i in order])
    assert same(outputs, shuffled.outputs(new), 1e-5)
    doubled = taught_by(base).fit([*x, *x], [*y, *y])
    assert same(outputs, doubled.outputs(new), 1e-5)


@pytest.mark.parametrize(
    "base",
    [
        None,
        "protonet",
        pytest.param(
            "photos",
            marks=pytest.mark.skipif(
                not has_photos(), reason="needs the extra photos: pip install 'quickstudy[photos]'"
            ),
        ),
    ],
)
def test_examples_that_are_taught_twice_make_no_answer_more_sure(taught, base):
    known, x, y, new = taught(None if base is None else "protonet")
    known = "photos" if base == "photos" else known
    once = qs.FewShotClassifier(known, episodes=20).fit(x, y)
    p = once.predict_proba(new)
    twice = qs.FewShotClassifier(known, episodes=20).fit([*x, *x], [*y, *y])
    assert np.allclose(twice.predict_proba(new), p, atol=1e-5)
    assert np.allclose(once.update(x, y).update(x, y).predict_proba(new), p, atol=1e-5)


def test_one_picture_in_two_classes_is_told_of(taught):
    base, x, y, _ = taught("protonet")
    assert not any("wrong" in note for note in taught_by(base).fit(x, y).notes_)
    told = taught_by(base).fit([*x, x[0]], [*y, y[-1]]).notes_
    assert any(f"{y[0]!r}" in note and f"{y[-1]!r}" in note and "labels is wrong" in note for note in told)
    rows = qs.FewShotClassifier().fit([[0.0], [1.0], [1.0]], ["a", "a", "b"])
    assert rows.notes_ == []  # rows of numbers are often alike


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, x, y: m.predict(x, unsure="?", sure=2), "`sure` was 2"),
        (lambda m, x, y: m.predict(x, unsure="?", sure=-0.1), "`sure` was -0.1"),
        (lambda m, x, y: m.predict(x, unsure="?", sure="0.5"), "`sure` was '0.5'"),
        (lambda m, x, y: m.predict(x, unsure="?", sure=float("nan")), "`sure` was nan"),
        (lambda m, x, y: m.predict_set(x, coverage="0.9"), "coverage of sets was '0.9'"),
        (lambda m, x, y: m.predict_set(x, coverage=None), "coverage of sets was None"),
        (lambda m, x, y: m.score(x, y, [1, 2]), r"shape \[2\] .* there are 5 examples"),
        (lambda m, x, y: m.score(x, y, [0] * 5), "is 0 throughout"),
        (lambda m, x, y: m.score(x, y, [1, 1, 1, 1, -1]), "a negative number"),
        (lambda m, x, y: m.score(x, y, ["a"] * 5), "give one number for each"),
        (lambda m, x, y: qs.FewShotClassifier(episodes=-1).fit(x, y), "episodes=-1 cannot be used"),
        (lambda m, x, y: qs.FewShotClassifier(episodes="3").fit(x, y), "episodes='3' cannot be used"),
        (lambda m, x, y: m.fit(x, set("abcde")), "y is a set, which has no order"),
        (lambda m, x, y: m.fit(x, dict.fromkeys("abcde", 0)), "y is a dict, which has no order"),
        (lambda m, x, y: m.predict({"text", "other"}), "no order of examples|rows of numbers"),
        (lambda m, x, y: m.fit(np.array([[2**60], [2**60 + 1], [3], [4], [5]]), y), r"beyond 2\*\*53"),
    ],
)
def test_options_and_values_of_another_kind_are_refused(call, said):
    x, y = [[0.0], [1.0], [9.0], [8.0], [7.0]], ["a", "a", "b", "b", "b"]
    model = qs.FewShotClassifier().fit(x, y)
    with pytest.raises(InputError, match=said):
        call(model, x, y)
    assert model.score(x, y, [1, 0, 2, 1.5, 1]) == 1 and model.score(x, y, torch.ones(5)) == 1
    assert qs.FewShotClassifier().fit(np.array([[2**60], [2**60], [3], [2**53], [5]]), y).n_features_in_ == 1


@pytest.mark.parametrize("base", BASES)
def test_an_update_equals_a_fit_on_the_union(taught, base):
    base, x, y, new = taught(base)
    whole = taught_by(base).fit(x, y)
    for first, second in (([0, 2, 3], [1, 4, 5]), ([0, 1, 5], [2, 3, 4])):  # the second brings a new class each time
        grown = taught_by(base).fit([x[i] for i in first], [y[i] for i in first])
        grown.update([x[i] for i in second], [y[i] for i in second])
        assert grown.classes_.tolist() == whole.classes_.tolist() and grown.shots_ == whole.shots_
        assert same(whole.outputs(new), grown.outputs(new))


@pytest.mark.parametrize("base", BASES)
def test_an_answer_does_not_depend_on_its_neighbours(taught, base):
    base, x, y, new = taught(base)
    classifier = taught_by(base).fit(x, y)
    together = classifier.outputs(new)
    alone = torch.cat([classifier.outputs([one]) for one in new])
    assert same(together, alone, 1e-5)


def test_norms_of_training_are_kept_if_asked_for_and_then_neighbours_count(taught):
    base, x, y, new = taught("protonet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = qs.FewShotClassifier(base, norms="trained").fit(x, y)
        assert not same(classifier.outputs(new), torch.cat([classifier.outputs([one]) for one in new]), 1e-3)
    with pytest.raises(InputError, match="'support' or 'trained', not 'batch'"):
        qs.FewShotClassifier(base, norms="batch").fit(x, y)


def test_the_change_of_norms_is_said(taught):
    base, x, y, _ = taught("protonet")
    with pytest.warns(
        ServedNormsWarning, match="protonet was trained with batch statistics.* serves with statistics of"
    ):
        classifier = taught_by(base).fit(x, y)
    assert "serves with" in classifier.notes_[0]


OPEN_ALL = """
import json, sys, numpy, torch, quickstudy
torch.set_num_threads(1)
for path, given in json.load(open(sys.argv[1])).items():
    print(json.dumps(quickstudy.open(path).outputs(given).tolist()))
"""


def test_saved_models_give_the_same_bits_also_in_another_process(taught, tmp_path):
    asked, expected = {}, []
    for name in BASES:
        base, x, y, new = taught(name)
        classifier = taught_by(base).fit(x, y)
        place = tmp_path / str(name)
        classifier.save(place)
        again = qs.open(place)
        assert torch.equal(again.outputs(new), classifier.outputs(new))
        assert np.array_equal(again.predict_proba(new), classifier.predict_proba(new))
        assert again.classes_.tolist() == classifier.classes_.tolist() and again.notes_ == classifier.notes_
        asked[str(place)] = [str(one) for one in new] if name else new.tolist()
        expected.append(classifier.outputs(new).tolist())
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    command = [sys.executable, "-c", OPEN_ALL, str(tmp_path / "asked.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected


@pytest.mark.parametrize("base", ANY)
def test_any_number_of_classes(trained, tmp_path, base, folder, fresh):
    many = draw(tmp_path / "many", dict.fromkeys("abcdefgh", 2), start=700)
    for counts, place in ((8, many), (3, folder)):
        classifier = taught_by(trained(base)).fit(place)
        assert classifier.predict_proba(fresh).shape == (6, counts)
        assert np.allclose(classifier.predict_proba(fresh).sum(1), 1)


@pytest.mark.parametrize("base", ["maml", "hypermaml", "mtnet"])
def test_more_classes_than_a_learner_was_built_for_are_refused_and_fewer_are_masked(trained, tmp_path, base, folder):
    with pytest.raises(InputError, match=f"was trained for 5 classes, and the examples have 8.*{ANY_WAYS}"):
        taught_by(trained(base)).fit(draw(tmp_path / "many", dict.fromkeys("abcdefgh", 1)))
    classifier = taught_by(trained(base)).fit(folder)
    assert classifier.adapted_(classifier._x).shape == (6, 3)


def test_hypershot_refuses_another_number_and_names_one_that_takes_it(trained, folder):
    with pytest.raises(InputError, match="built for 5: .* use protonet"):
        taught_by(trained("hypershot")).fit(folder)


def test_a_failed_update_changes_nothing(taught):
    base, x, y, new = taught("maml")
    classifier = taught_by(base).fit(x, y)
    before = classifier.outputs(new), classifier.shots_
    for bad_x, bad_y in ((x[:1], ["a", "b"]), (["nowhere.png"], ["a"]), (x[:3], [*"def"]), (x[:1], [None])):
        with pytest.raises(InputError):
            classifier.update(bad_x, bad_y)
    assert torch.equal(classifier.outputs(new), before[0]) and classifier.shots_ == before[1]


def test_pictures_come_as_paths_images_or_bytes_and_stay_open(taught):
    base, x, y, _ = taught("protonet")
    by_path = taught_by(base).fit([str(path) for path in x], y)
    images = [Image.open(path) for path in x]
    by_image = taught_by(base).fit(images, y)
    images[0].load()  # an image of the user's own is not closed
    assert torch.equal(by_path._x, by_image._x)
    arrays = np.stack([np.asarray(Image.open(path)) for path in x])
    assert torch.equal(taught_by(base).fit(arrays, y)._x, by_path._x)
    assert torch.equal(taught_by(base).fit(torch.from_numpy(arrays), y)._x, by_path._x)
    assert torch.equal(taught_by(base).fit(by_path._x, y)._x, by_path._x)  # prepared inputs


def test_ink_is_found(taught):
    """Dark drawings on white paper and light ones on black become the same inputs, the light ones of training."""
    base, x, y, _ = taught("protonet")
    dark = [Image.open(path).convert("L") for path in x]
    light = [image.point(lambda value: 255 - value) for image in dark]
    classifiers = [taught_by(base).fit(images, y) for images in (dark, light)]
    assert torch.equal(classifiers[0]._x, classifiers[1]._x)
    assert classifiers[0]._x.median() < 0.5


def test_labels_of_several_kinds_come_back_as_they_were(taught, tmp_path):
    base, x, _, new = taught("protonet")
    y = [("ka", 1), 3, "three", ("ka", 1), 3, "three"]
    classifier = taught_by(base).fit(x, y)
    assert set(classifier.predict(x).tolist()) <= set(y)
    classifier.save(tmp_path / "m")
    assert qs.open(tmp_path / "m").predict(new).tolist() == classifier.predict(new).tolist()


BAD = {
    "one class": (lambda x, y: (x, ["ka"] * len(x)), "All 6 examples are of one class, 'ka'"),
    "no example": (lambda x, y: ([], []), "X is empty"),
    "NaN label": (lambda x, y: (x, [float("nan"), *y[1:]]), "The label of example 0 is NaN"),
    "fewer labels": (lambda x, y: (x, y[:-1]), "X has 6 examples, y has 5"),
    "no labels": (lambda x, y: (x, None), "the target y is None"),
    "nothing there": (lambda x, y: (["nowhere.png", *x[1:]], y), "nowhere.png cannot be read: No such file"),
    "a text": (lambda x, y: ([__file__, *x[1:]], y), "cannot be read: not an image"),
    "other channels": (lambda x, y: (torch.zeros(6, 3, 14, 14), y), r"takes inputs of the shape \[1, 14, 14\]"),
    "other size": (lambda x, y: (torch.zeros(6, 1, 20, 20), y), r"takes inputs of the shape \[1, 14, 14\]"),
    "NaN input": (lambda x, y: (torch.full((6, 1, 14, 14), torch.nan), y), "holds NaN or infinity in 6 of 6"),
    "odd bytes": (lambda x, y: (np.zeros((6, 5, 5, 7), np.uint8), y), r"an array of shape \[5, 5, 7\] is no picture"),
    "complex": (lambda x, y: (np.zeros((6, 1, 14, 14), complex), y), "of type complex128"),
    "a folder that is not there": (lambda x, y: ("nowhere", y), "nowhere cannot be read|X has 1 examples"),
    "mixed": (lambda x, y: ([x[0], 3, *x[2:]], y), "several kinds|holds int|cannot be read|of type"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_bad_examples_are_refused_in_one_line(taught, spoil, message):
    base, x, y, _ = taught("protonet")
    with pytest.raises(InputError, match=message) as caught:
        taught_by(base).fit(*spoil(x, y))
    assert "\n" not in str(caught.value)


def test_a_picture_of_a_hundred_megapixels_is_refused_before_it_is_decoded(taught, tmp_path):
    base, x, y, _ = taught("protonet")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    with pytest.raises(InputError, match=r"huge.png cannot be read: .*10000 x 10000"):
        taught_by(base).fit([tmp_path / "huge.png", *x[1:]], y)
    with pytest.raises(InputError, match=r"Picture number 0 cannot be read: .*10000 x 10000"):
        taught_by(base).fit([Image.new("1", (10_000, 10_000)), *[Image.new("L", (20, 20))] * 5], y)


def test_pictures_and_texts_need_a_base_that_reads_them(folder):
    for x in ([*folder.rglob("*.png")][:2], ["some text", "another"]):
        with pytest.raises(InputError, match="base=None takes rows of numbers. For pictures or texts"):
            qs.FewShotClassifier().fit(x, ["a", "b"])


def test_a_class_folder_without_a_picture_is_named(trained, folder):
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=r"The class 'empty' has no picture"):
        taught_by(trained("protonet")).fit(folder)


def test_a_folder_that_holds_only_train_is_taught_and_other_splits_are_left_aside(trained, folder, tmp_path):
    (tmp_path / "split").mkdir()
    folder.rename(tmp_path / "split" / "train")
    classifier = taught_by(trained("protonet")).fit(tmp_path / "split")
    assert classifier.shots_ == {"ga": 3, "ka": 2, "nga": 1}
    (tmp_path / "split" / "test" / "ka").mkdir(parents=True)
    (tmp_path / "split" / "train" / "ka" / "0.png").rename(tmp_path / "split" / "test" / "ka" / "0.png")
    classifier = taught_by(trained("protonet")).fit(tmp_path / "split")
    assert classifier.shots_["ka"] == 1 and "test were left aside" in classifier.notes_[-1]


def test_a_learner_made_by_hand_is_taught_and_says_why_it_cannot_be_saved(tmp_path):
    torch.manual_seed(0)
    learner = qs.METHODS["protonet"](conv_net((1, 8, 8), 3, filters=4, blocks=2), 3)
    classifier = qs.FewShotClassifier(learner).fit(torch.rand(4, 1, 8, 8), [*"aabb"])
    assert isinstance(classifier.adapted_, nn.Module) and classifier.calibration_ is None
    with pytest.raises(InputError, match="made by hand"):
        classifier.save(tmp_path / "m")
    with pytest.raises(InputError, match="`predict_set` needs calibrated probabilities"):
        classifier.predict_set(torch.rand(2, 1, 8, 8))


def test_it_is_cloned_and_pickled(taught):
    base, x, y, new = taught("protonet")
    classifier = taught_by(base).fit(x, y)
    assert clone(classifier).get_params() == classifier.get_params()
    assert torch.equal(pickle.loads(pickle.dumps(classifier)).outputs(new), classifier.outputs(new))


def test_probabilities_far_from_what_calibrated_them_come_with_a_warning(taught, tmp_path):
    base, x, y, new = taught("protonet")
    classifier = qs.FewShotClassifier(base, episodes=30).fit(x, y)
    assert (classifier.calibration_.ways, classifier.calibration_.episodes) == (3, 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.predict_proba(new)
        classifier.predict(new, unsure="?")
    with pytest.warns(OutsideCalibrationWarning, match="unlike everything that calibrated"):
        classifier.predict_proba(100 * torch.randn(4, 1, 14, 14))
    classifier.save(tmp_path / "m")
    opened = qs.open(tmp_path / "m")
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutsideCalibrationWarning)
        opened.update([*x, *x], [*y, *y]).predict_proba(new)  # which are no more than they were
    opened.update(torch.rand(18, 1, 14, 14), [*y, *y, *y])  # about 7 shots where 2 were calibrated
    with pytest.warns(OutsideCalibrationWarning, match="calibrated with 3 classes of 2, and there are 3 of 7"):
        opened.predict_proba(new)


@pytest.mark.parametrize("coverage", [0, 1, 1.5, float("nan")])
def test_a_coverage_is_a_probability(taught, coverage):
    base, x, y, new = taught("protonet")
    with pytest.raises(InputError, match="is a probability between 0 and 1"):
        taught_by(base).fit(x, y).predict_set(new, coverage=coverage)


def test_sets_grow_with_their_coverage_and_begin_with_the_answer(taught):
    base, x, y, new = taught("protonet")
    classifier = qs.FewShotClassifier(base, episodes=30).fit(x, y)
    sizes = []
    for coverage in (0.05, 0.5, 0.9, 0.99):
        sets = classifier.predict_set(new, coverage=coverage)
        assert [own[0] for own in sets] == classifier.predict(new).tolist()
        sizes.append([len(own) for own in sets])
    assert all(small <= large for one, other in pairwise(sizes) for small, large in zip(one, other, strict=True))
    unsure = classifier.predict(new, unsure="?", sure=1.0)
    assert set(unsure.tolist()) == {"?"}


DAMAGES = {
    "foreign class": (lambda c: c.update(classes='["x"]'), "class numbers of the examples do not fit"),
    "no base": (lambda c: c.pop("base"), "does not describe a model"),
    "another kind": (lambda c: c.update(kind="zebra"), "does not describe a model"),
    "more": (lambda c: c.update(more=1), "does not describe a model"),
    "calibration": (lambda c: c["calibration"].update(temperature=-1), "does not describe a model"),
    "method": (lambda c: c["base"]["learner"]["method"].update(name="mamal"), "no method 'mamal'"),
    "model": (lambda c: c["base"]["learner"]["model"].update(filters=9), "has shape"),
    "code": (
        lambda c: c["base"]["learner"]["model"].update(name="os:system"),
        "would run code that is not quickstudy's",
    ),
    "table": (lambda c: c.update(base={"kind": "table"}), "the examples are no rows of features"),
}


@pytest.mark.parametrize(("spoil", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_changed_model_is_refused_in_one_line(taught, tmp_path, spoil, message):
    base, x, y, _ = taught("protonet")
    qs.FewShotClassifier(base, episodes=30).fit(x, y).save(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    spoil(config)
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises((InputError, RunError), match=message) as caught:
        qs.open(tmp_path / "m")
    assert "\n" not in str(caught.value)


TENSOR_DAMAGES = {
    "double": (lambda x, y: (x.double(), y), "another type than their base reads"),
    "half": (lambda x, y: (x.half(), y), "another type than their base reads"),
    "whole numbers": (lambda x, y: (x.long(), y), "do not fit together"),
    "smaller pictures": (lambda x, y: (x[..., 1:], y), "are not what"),
    "colours": (lambda x, y: (x.repeat(1, 3, 1, 1), y), "are not what"),
    "rows": (lambda x, y: (x.flatten(1), y), "are not what"),
    "no axis of examples": (lambda x, y: (x.flatten(), y), "do not fit together"),
    "fewer": (lambda x, y: (x[1:], y), "do not fit together"),
    "none": (lambda x, y: (x[:0], y[:0]), "do not fit together"),
    "not finite": (lambda x, y: (x / 0, y), "not finite"),
    "short labels": (lambda x, y: (x, y.int()), "class numbers"),
    "labels in rows": (lambda x, y: (x, y[:, None]), "class numbers"),
    "a class more": (lambda x, y: (x, y + 1), "class numbers"),
}


@pytest.mark.parametrize(("spoil", "message"), TENSOR_DAMAGES.values(), ids=TENSOR_DAMAGES)
@pytest.mark.parametrize("base", ["protonet", "maml"])
def test_examples_that_were_changed_with_their_hash_are_refused_in_one_line(taught, tmp_path, base, spoil, message):
    base, x, y, _ = taught(base)
    taught_by(base).fit(x, y).save(tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    pair = spoil(tensors["examples.x"], tensors["examples.y"])
    tensors["examples.x"], tensors["examples.y"] = (tensor.contiguous() for tensor in pair)
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["sha256"] = hash_tensors(tensors, "")
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises((InputError, RunError), match=message) as caught:
        qs.open(tmp_path / "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("estimator", [qs.FewShotClassifier, qs.FewShotRegressor])
def test_a_fit_that_fails_changes_nothing(estimator):
    x = np.array([[0.0, 5.0], [1.0, 5.5], [9.0, 0.0], [8.0, 0.5]])
    y = [0, 0, 1, 1]
    taught = estimator().fit(x, y)
    before = taught.predict(x).tolist()
    for bad_x, bad_y in ((x[:, :1], [0, np.nan, 1, 1]), (np.hstack([x, x]), [1])):
        with pytest.raises(InputError):
            taught.fit(bad_x, bad_y)
        assert taught.n_features_in_ == 2 and taught.predict(x).tolist() == before


def test_rows_with_more_axes_are_rows():
    x = np.arange(24.0).reshape(6, 2, 2)
    taught = qs.FewShotClassifier().fit(x, list("aaabbb"))
    assert taught.n_features_in_ == 4
    for other in (x, x.reshape(6, 4), x.tolist(), torch.from_numpy(x).requires_grad_(), [*torch.from_numpy(x)]):
        assert taught.predict(other).tolist() == list("aaabbb")
    taught.update(x[:1], ["a"])
    half = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.bfloat16, requires_grad=True)
    assert qs.FewShotClassifier().fit(half, ["a", "b"]).predict(half).tolist() == ["a", "b"]


def test_large_numbers_are_numbers_and_read_only_arrays_are_read():
    x = np.array([[1e200], [2e200], [9e200], [8e200]])
    x.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert qs.FewShotClassifier().fit(x, list("aabb")).predict(x).tolist() == list("aabb")


def test_dates_stay_dates():
    days = np.array(["2020-01-01", "2021-06-01", "2020-01-01", "2021-06-01"], dtype="datetime64[ns]")
    taught = qs.FewShotClassifier().fit([[0.0], [9.0], [1.0], [8.0]], days)
    assert (taught.predict([[0.5], [8.5]]) == days[:2]).all()
    with pytest.raises(InputError, match="names no class"):
        qs.FewShotClassifier().fit([[0.0], [9.0]], np.array(["2020-01-01", "NaT"], dtype="datetime64[ns]"))


def test_integers_of_any_kind_are_pictures(taught):
    base, x, y, new = taught("protonet")
    pictures = [np.asarray(Image.open(path)) if isinstance(path, str | Path) else np.asarray(path) for path in new]
    pictures = [np.asarray(Image.fromarray(one).convert("L").resize((20, 20))) for one in pictures]
    taught_ = taught_by(base).fit(x, y)
    expected = taught_.predict_proba(np.stack(pictures))
    for kind in (np.int64, np.int32, np.uint16, np.int16):
        assert np.array_equal(taught_.predict_proba(np.stack(pictures).astype(kind)), expected), kind
    with pytest.raises(InputError, match="0 to 255"):
        taught_.predict(np.stack(pictures).astype(int) + 300)


def test_what_is_asked_of_answers_is_checked():
    taught = qs.FewShotClassifier().fit([[0.0], [1.0], [9.0], [8.0]], list("aabb"))
    with pytest.raises(InputError, match="`sure` was nan"):
        taught.predict([[0.0]], unsure="?", sure=float("nan"))
    with pytest.raises(InputError, match="X has 2 examples, y has 1"):
        taught.score([[0.0], [1.0]], ["a"])


def test_a_score_on_labels_of_another_kind_is_refused():
    taught = qs.FewShotClassifier().fit([[0.0], [1.0], [8.0], [9.0]], [0, 0, 1, 1])
    assert taught.score([[0.5], [7.0]], [0, 5]) == 0.5  # a class that the model does not know is an error of it
    with pytest.raises(InputError, match="None of the labels in y is a class of this model: y has '0', .* are 0, 1"):
        taught.score([[0.5], [7.0]], ["0", "1"])


class Shifts(nn.Module):
    """It changes what it is given, and returns a dictionary, as models of transformers do."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x -= 0.5
        return {"logits": self.head(x), "hidden": x}


def test_a_forward_may_change_its_input_and_return_more_than_logits():
    x, y = np.random.default_rng(0).random((9, 4), dtype=np.float32), [0, 1, 2] * 3
    before = x.copy()
    taught = qs.FewShotClassifier(qs.maml(Shifts(), inner_lr=0.1)).fit(x, y)
    first = taught.predict_proba(x)
    assert np.array_equal(first, taught.predict_proba(x)) and np.array_equal(x, before)


def test_no_input_is_left_alone_where_a_norm_takes_the_statistics_of_a_batch():
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    x = np.random.default_rng(0).random((514, 4), dtype=np.float32)
    taught = qs.FewShotClassifier(qs.protonet(net, 3), norms="trained").fit(x[:9], [0, 1, 2] * 3)
    for count in (257, 513):
        assert np.isfinite(taught.predict_proba(x[:count])).all()


def test_a_learner_in_double_precision_gets_what_it_was_given():
    x, y = np.random.default_rng(0).random((9, 4)), [0, 1, 2] * 3
    net = nn.Linear(4, 3)
    single, double = (
        qs.FewShotClassifier(qs.maml(own, inner_lr=0.1)).fit(x, y) for own in (net, deepcopy(net).double())
    )
    assert np.allclose(single.predict_proba(x), double.predict_proba(x), atol=1e-5)
    values = qs.FewShotRegressor(qs.maml(nn.Linear(4, 1).double(), loss="mse", inner_lr=0.1)).fit(x, x[:, 0]).predict(x)
    assert np.isfinite(values).all()


def test_numbers_that_overflow_have_no_answer():
    taught = qs.FewShotClassifier().fit([[0.0, 0], [1, 1], [9, 9], [8, 9]], list("aabb"))
    for answer in (taught.predict, taught.predict_proba, taught.predict_set):
        with pytest.raises(InputError, match="outputs are not numbers"):
            answer([[1e200, 1e200]])
    with pytest.raises(InputError, match="values are not finite"):
        qs.FewShotRegressor().fit([[0.0], [1], [2]], [0, 1e200, 2e200]).predict([[1e200]])


def test_truth_values_are_black_and_white_pictures(folder):
    pictures, labels, _ = read_folder(folder)
    grey = [np.asarray(Image.open(path).convert("L")) > 127 for path in pictures]
    white = [255 * picture.astype(np.uint8) for picture in grey]
    for first, other in ((grey, white), (np.stack(grey), white)):
        one, two = (qs.FewShotClassifier("drawings").fit(x, labels).predict_proba(x) for x in (first, other))
        assert np.array_equal(one, two)


def test_labels_beyond_the_floats_are_labels():
    taught = qs.FewShotClassifier().fit([[0.0], [1.0], [9.0]], [10**400, "x", -(10**400)])
    assert list(taught.predict([[9.0], [0.0]])) == [-(10**400), 10**400]


def test_a_home_folder_is_meant_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    qs.FewShotClassifier().fit([[0.0], [1.0]], ["a", "b"]).save("~/z.model")
    assert (tmp_path / "z.model" / "config.json").is_file()
    assert qs.open("~/z.model").predict([[0.1]]).tolist() == ["a"]
    for path in ("", "x" * 300):
        with pytest.raises(InputError, match="A path is empty|There is nothing at"):
            qs.open(path)
    with pytest.raises(InputError, match="There is no encoder"):
        qs.FewShotClassifier("n" * 500).fit([[0.0], [1.0]], ["a", "b"])
