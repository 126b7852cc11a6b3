"""Laws and known answers of the task families."""

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quickstudy.errors import InputError
from quickstudy.rules.torch_private import tree_leaves
from quickstudy.tasks import (
    FAMILIES,
    AverageThreshold,
    Episodes,
    Gaussians,
    Polynomial,
    Sine,
    Wavelet,
    check_task,
    digits,
)
from quickstudy.tasks.images.sets import IMAGE_SETS
from quickstudy.tasks.synthetic.wavelet import mexican_hat
from quickstudy.types import pick

# The first 16 digits of the SHA-256 of the keys, class numbers and `about` of two steps. Another hash means other
# tasks. Then old results are not comparable, which needs an entry in the changelog. The y of a regression and the
# weights of the wavelet are left out, because the last bit of a sine or an exponential depends on the machine.
PINNED = {
    "sine": "81edfd6304363ba9",
    "polynomial": "3030b57d04c626c2",
    "threshold": "9f150464920c76a2",
    "wavelet": "53a0ed7fc430fbf8",
    "gaussians": "4be34835b1d94bc1",
    "digits": "e130b80f23ca7c46",
    "drawings": "dbb049d445aae50d",
}
# Families that join others are tested in test_transfer.py, pictures from files in test_images.py.
PLAIN = [name for name in FAMILIES if name not in ("batches", "cross", "folder", *IMAGE_SETS)]
DIGITS = digits()
IMAGES = np.arange(60 * 4, dtype=np.float32).reshape(60, 2, 2)
LABELS = np.repeat([3, 7, 8], 20)


def build(name):
    return DIGITS if name == "digits" else FAMILIES[name]()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(tree_leaves(one), tree_leaves(other), strict=True))


def ways_of(family):
    return family.outputs if family.loss == "cross_entropy" else None


@pytest.mark.parametrize("name", PLAIN)
class TestEveryFamily:
    def test_is_a_function_of_seed_split_and_step(self, name):
        def draw(split="train", seed=3, step=7):
            return build(name).source(split, seed=seed, size=4)(step)

        assert same(draw(), draw())
        for other in (draw(step=8), draw(seed=4), draw(split="test")):
            assert not torch.equal(draw().support.x, other.support.x)
            assert not torch.equal(draw().key, other.key)

    def test_part_is_the_slice_of_the_whole(self, name):
        source = build(name).source("train", seed=0, size=6)
        for part in (slice(0, 2), slice(2, 6), slice(5, 6), slice(None, None, 2)):
            assert same(source(1, part), pick(source(1), part))

    def test_passes_the_trainers_check_with_the_announced_shapes(self, name):
        family = build(name)
        task = family.source("train", seed=0, size=5)(0)
        check_task(task, ways_of(family))
        for half, per in ((task.support, family.shots), (task.query, family.queries)):
            n = per * (ways_of(family) or 1)
            assert half.x.shape == (5, n, *family.inputs)
            assert half.y.shape == ((5, n) if ways_of(family) else (5, n, family.outputs))
            assert half.x.dtype == torch.float32

    def test_support_and_query_differ(self, name):
        task = build(name).source("train", seed=0, size=2)(0)
        assert not torch.equal(task.support.x[:, :1], task.query.x[:, :1])

    def test_tasks_are_the_ones_that_earlier_versions_drew(self, name):
        family = build(name)
        source, digest = family.source("train", seed=1, size=3), hashlib.sha256()
        for task in (source(0), source(40_000)):
            labels = [] if family.loss != "cross_entropy" else [task.support.y, task.query.y]
            for value in (
                task.key,
                *labels,
                *(task.about[entry] for entry in sorted(task.about) if entry != "weights"),
            ):
                digest.update(value.numpy().tobytes())
        assert digest.hexdigest()[:16] == PINNED[name]

    def test_describes_itself_in_json(self, name):
        told = json.loads(json.dumps(build(name).describe()))
        assert told["name"] == name and told["shots"] == build(name).shots

    @pytest.mark.parametrize("option", ["shots", "queries"])
    def test_refuses_empty_halves(self, name, option):
        with pytest.raises(InputError, match=f"{option}=0 .* at least 1"):
            FAMILIES[name](**{option: 0})


def test_sine_is_its_formula_and_answering_zero_costs_half_the_mean_square_amplitude():
    task = Sine().source("train", seed=0, size=4000)(0)
    a, w, b = (task.about[name][:, None, None] for name in ("amplitude", "frequency", "phase"))
    # 1e-5: x, w and b are rounded to float32 here, and the argument of the sine is up to 9.
    torch.testing.assert_close(task.query.y, a * torch.sin(w * task.query.x + b), atol=1e-5, rtol=1e-5)
    for value, (low, high) in ((a, (0.1, 5)), (w, (0.8, 1.2)), (b, (0, math.pi)), (task.query.x, (-5, 5))):
        assert low <= value.min() and value.max() <= high
        assert value.mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    # The mean square of a task has a standard deviation of about 4. Over 4000 tasks that is .06; .25 is four of it.
    assert task.query.y.square().mean() == pytest.approx((5**3 - 0.1**3) / (3 * 4.9) / 2, abs=0.25)


@pytest.mark.parametrize(("divisor", "bounds"), [(2.0, (1, 1 / 2, 1 / 4)), (1.0, (1, 1, 1))])
def test_polynomial_is_its_formula(divisor, bounds):
    task = Polynomial(order=2, divisor=divisor).source("train", seed=0, size=1000)(0)
    c, x = task.about["coefficients"][:, :, None, None], task.support.x
    torch.testing.assert_close(task.support.y, c[:, 0] + c[:, 1] * x + c[:, 2] * x**2, atol=1e-5, rtol=1e-5)
    # The largest of 1000 draws is more than 2% below its bound with a probability of 4e-5 (.99**1000).
    torch.testing.assert_close(c.abs().amax((0, 2, 3)), torch.tensor(bounds), atol=0, rtol=0.02, check_dtype=False)


def test_constant_polynomials_are_constant():
    task = Polynomial(order=0).source("train", seed=0, size=3)(0)
    assert torch.equal(task.query.y, task.about["coefficients"][:, None].expand(3, 10, 1))


def test_threshold_is_its_formula_with_either_sign_and_balanced_labels():
    task = AverageThreshold().source("train", seed=0, size=2000)(0)
    s, tau = task.about["sign"][:, None, None], task.about["threshold"][:, None, None]
    margin = s * (task.query.x.mean(-1, keepdim=True) - tau)
    clear = margin.abs() > 1e-6  # the label was decided in double
    assert torch.equal((margin > 0).float()[clear], task.query.y[clear])
    # 2000 fair signs and 20 000 labels (in groups of 10 that share a threshold): four standard errors are .05 and .02.
    assert (s > 0).float().mean() == pytest.approx(0.5, abs=0.05)
    assert task.query.y.mean() == pytest.approx(0.5, abs=0.02)
    assert tau.min() >= 0.4 and tau.max() <= 0.6


def test_threshold_over_the_unit_interval_is_nearly_constant():
    y = AverageThreshold(tau_range=(0.0, 1.0), queries=50).source("train", size=2000)(0).query.y.mean((1, 2))
    # A constant answer per task is right in 88.5% of cases (the fact sheet); its standard error here is .3%.
    assert torch.maximum(y, 1 - y).mean() == pytest.approx(0.885, abs=0.015)


def test_wavelet_is_linear_and_answering_zero_costs_what_the_sheet_measured():
    task = Wavelet().source("train", seed=0, size=2000)(0)
    torch.testing.assert_close(task.support.y, task.support.x @ task.about["weights"][:, :, None], atol=1e-5, rtol=1e-5)
    grid = torch.linspace(-5, 5, 50, dtype=torch.float64)
    shifted = mexican_hat((grid - task.about["translation"][0].double()).numpy())
    weights = task.about["sign"][0] * torch.from_numpy(shifted).float()
    torch.testing.assert_close(task.about["weights"][0], weights, atol=1e-6, rtol=1e-5)
    # 20 000 near-normal outputs of variance .41: standard errors .004 and .003.
    assert task.query.y.square().mean() == pytest.approx(0.409, abs=0.02)
    assert task.query.y.abs().mean() == pytest.approx(0.511, abs=0.015)


def test_mexican_hat_has_unit_norm_and_the_papers_range():
    t = np.linspace(-10, 10, 20_001)
    assert (mexican_hat(t) ** 2).sum() * 1e-3 == pytest.approx(1, abs=1e-6)
    assert mexican_hat(t).max() == pytest.approx(0.867, abs=1e-3)
    assert mexican_hat(t).min() == pytest.approx(-0.387, abs=1e-3)


def test_gaussians_have_four_kinds_and_the_rule_of_each():
    task = Gaussians(sd=0.1).source("train", seed=0, size=400)(0)
    kind, x = task.about["kind"], task.support.x
    assert torch.bincount(kind).min() > 60  # 100 expected each, standard deviation 9
    first = {0: x[..., 1] > 0, 1: x[..., 1] < 0, 2: x[..., 0] > 0, 3: x[..., 0] < 0}
    for number, is_first in first.items():  # at sd .1 an axis is ten standard deviations away
        assert torch.equal(is_first[kind == number], task.support.y[kind == number] == 0)
    corners = x.sign().reshape(-1, 2).unique(dim=0, return_counts=True)[1]
    assert len(corners) == 4 and corners.min() > 800  # 1000 expected each
    # 8000 coordinates: the standard error of their deviation is .0008.
    assert (x - x.sign()).std() == pytest.approx(0.1, abs=0.004)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6), st.data())
def test_episodes_are_balanced_and_disjoint_whatever_their_size(ways, shots, queries, step, data):
    counts = data.draw(st.lists(st.integers(shots + queries, 12), min_size=ways, max_size=8))
    labels = np.random.default_rng(step).permutation(np.repeat(5 * np.arange(len(counts)), counts))
    images = np.stack([np.arange(len(labels)), labels], axis=1)
    family = Episodes(images.astype(np.float64), labels, {"val": np.arange(len(labels))}, ways, shots, queries)
    task = family.source("val", seed=0, size=3)(step)
    check_task(task, ways)
    for half, per in ((task.support, shots), (task.query, queries)):
        assert torch.equal(half.y.sort(1)[0], torch.arange(ways).repeat_interleave(per).repeat(3, 1))
        assert torch.equal(half.x[..., 1].long(), task.about["classes"].gather(1, half.y))
    assert torch.equal(task.support.x[..., 0].long(), task.about["images_support"])
    for used in torch.cat([task.about["images_support"], task.about["images_query"]], dim=1):
        assert len(used.unique()) == ways * (shots + queries)
    assert all(len(classes.unique()) == ways for classes in task.about["classes"])


def test_every_class_gets_every_label_and_every_image_its_turn():
    task = DIGITS.source("val", seed=0, size=2000)(0)
    seen = torch.zeros(10, 5).index_put_((task.about["classes"], torch.arange(5).expand(2000, 5)), torch.ones(()), True)
    assert seen.min() > 140 and seen.max() < 260  # 200 expected, standard deviation 13
    used = torch.bincount(task.about["images_query"].flatten())
    used = used[used > 0]
    # 150 000 queries over 360 images: 417 each, within 5 standard deviations of about 21.
    assert len(used) == 360 and used.min() > 300 and used.max() < 530


def drawn(family, split):
    about = family.source(split, seed=0, size=300)(0).about
    return set(torch.cat([about["images_support"], about["images_query"]], dim=1).flatten().tolist())


def test_split_by_image_shares_classes_and_no_image():
    used = {split: drawn(DIGITS, split) for split in ("train", "val", "test")}
    assert not used["train"] & used["val"] and not used["train"] & used["test"] and not used["val"] & used["test"]
    assert DIGITS.describe()["classes"] == {"train": 10, "val": 10, "test": 10}
    assert {name: round(n / 1797, 2) for name, n in DIGITS.describe()["images"].items()} == {
        "train": 0.6,
        "val": 0.2,
        "test": 0.2,
    }


def test_split_by_class_shares_no_class():
    family = digits("class", ways=3)
    seen = {split: family.source(split, size=200)(0).about["classes"].unique().tolist() for split in ("train", "test")}
    assert seen == {"train": [0, 1, 2, 3, 4, 5], "test": [6, 7, 8, 9]}
    with pytest.raises(InputError, match="no val.* has no 'val' images; it has train, test"):
        family.source("val", size=4)


def test_split_by_class_shuffles_by_seed():
    labels = np.repeat(np.arange(20), 4)

    def split(seed):
        family = Episodes.by_class(np.zeros((80, 3)), labels, seed=seed, ways=2, queries=2)
        return [frozenset(labels[family.splits[name]]) for name in ("train", "val", "test")]

    assert [len(part) for part in split(0)] == [12, 4, 4]
    assert frozenset.union(*split(0)) == frozenset(range(20))
    assert split(0) == split(0) != split(1)


def test_digits_are_scaled_images():
    x = DIGITS.source("train", size=8)(0).query.x
    assert x.shape == (8, 75, 1, 8, 8) and x.min() == 0 and x.max() == 1


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy, lambda images: torch.from_numpy(images).bfloat16()])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_arrays_of_any_kind_come_out_as_float32_with_their_values(convert, dtype):
    images = (np.arange(240) % 200).reshape(60, 4).astype(dtype)
    task = Episodes.by_image(convert(images), torch.from_numpy(LABELS), ways=2, queries=2).source("train", size=2)(0)
    assert task.support.x.dtype == torch.float32
    assert np.array_equal(task.support.x.numpy(), images[task.about["images_support"].numpy()].astype(np.float32))


def test_read_only_images_can_be_used():
    images = IMAGES.copy()
    images.setflags(write=False)
    assert Episodes.by_image(images, LABELS, ways=2, queries=2).source("train", size=2)(0).support.x.shape == (
        2,
        2,
        2,
        2,
    )


def test_fingerprint_follows_data_labels_and_splits():
    def fingerprint(images=IMAGES, labels=LABELS, seed=0, **options):
        return Episodes.by_image(images, labels, seed=seed, **options).fingerprint

    assert fingerprint() == fingerprint(IMAGES.copy(), ways=2, shots=3) == fingerprint(torch.from_numpy(IMAGES))
    assert (
        len({fingerprint(), fingerprint(IMAGES + 1), fingerprint(labels=LABELS[::-1].copy()), fingerprint(seed=1)}) == 4
    )


def test_shots_of_a_family_can_be_changed():
    assert replace(DIGITS, shots=5).source("test", size=2)(0).support.x.shape == (2, 25, 1, 8, 8)
