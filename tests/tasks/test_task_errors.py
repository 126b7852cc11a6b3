"""The errors of the task families, and of the check of the first batch of a source."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import quickstudy
from quickstudy.errors import InputError
from quickstudy.tasks import AverageThreshold, Episodes, Gaussians, Polynomial, Sine, Wavelet, check_task, digits
from quickstudy.types import Examples, Task

IMAGES = np.arange(60 * 4, dtype=np.float32).reshape(60, 2, 2)
LABELS = np.repeat([3, 7, 8], 20)


def episodes(images=IMAGES, labels=LABELS, splits=None, ways=2, shots=1, queries=2, split="train"):
    splits = {"train": np.arange(40), "test": np.arange(40, 60)} if splits is None else splits
    return Episodes(images, labels, splits, ways, shots, queries, name="shapes").source(split, size=2)


def with_value(value):
    images = IMAGES.copy()
    images[17, 1, 1] = value
    return images


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"split": "test"}, "2-way 1-shot with 2 queries needs 2 classes; 'test' has 1. Give 'test' more classes"),
        ({"queries": 20}, "2-way 1-shot with 20 queries needs 21 images per class; class '3' of 'train' has 20"),
        ({"split": "val"}, "'shapes' .* has no 'val' images; it has train, test"),
        ({"ways": 1}, "ways=1 .* at least 2"),
        ({"shots": 0}, "shots=0 .* at least 1"),
        ({"queries": 0}, "queries=0 .* at least 1"),
        ({"images": with_value(np.nan)}, r"NaN.*1 of 60, first number 17"),
        ({"images": with_value(-np.inf)}, r"infinity.*1 of 60, first number 17"),
        ({"images": IMAGES.astype(np.float64) * 1e39}, "beyond float32's range"),
        ({"images": IMAGES.astype(np.int64)}, "images are int64: .* uint8"),
        ({"images": IMAGES[:, 0, 0]}, r"shape \[60\]: give \[N, \*input\]"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "at least one image"),
        ({"labels": LABELS.astype(np.float64)}, "labels of type float64 .* integers"),
        ({"labels": LABELS == 3}, "labels of type bool .* integers"),
        ({"labels": LABELS[:, None]}, r"shape \[60, 1\] .* one row"),
        ({"labels": LABELS[:50]}, "60 images have 50 labels"),
        ({"splits": {}}, "splits are empty"),
        ({"splits": {"train": np.arange(40), "tests": np.arange(40, 60)}}, "Did you mean `test`"),
        ({"splits": {"train": np.arange(40) < 3}}, r"splits\['train'\] of type bool .*flatnonzero"),
        ({"splits": {"train": np.arange(0)}}, "'train' has no images"),
        ({"splits": {"train": np.arange(61)}}, "from 0 to 60, but there are 60 images"),
        ({"splits": {"train": np.array([0, 1, 1])}}, "'train' has an image twice"),
        ({"splits": {"train": np.arange(40), "test": np.arange(39, 60)}}, "Image 39 is in 'train' and in 'test'"),
    ],
)
def test_episodes_that_cannot_be_drawn_are_refused(given, words):
    with pytest.raises(InputError, match=words):
        episodes(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"classes": {"train": [3], "test": [9]}}, "'test' lists class 9, which no image has"),
        ({"classes": {"train": [3, 7], "test": [7]}}, "Class 7 is listed in 'train' and in 'test'"),
        ({"classes": {"novel": [3]}}, "no split 'novel'"),
        ({"fractions": (0.5, 0.2, 0.2)}, "fractions=.* adding up to 1"),
        ({"fractions": (1.2, 0.0, -0.2)}, "fractions=.* each 0 to 1"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(given, words):
    with pytest.raises(InputError, match=words):
        Episodes.by_class(IMAGES, LABELS, **given)


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"pip install 'quickstudy\[data\]"):
        digits()


GOOD = Gaussians(shots=2, queries=3).source("train", size=4)(0)
WAVE = Sine().source("train", size=4)(0)


def change(task=GOOD, half="support", **fields):
    return task._replace(**{half: getattr(task, half)._replace(**fields)})


def with_nan(values):
    return values.index_fill(0, torch.tensor([2]), math.nan)


@pytest.mark.parametrize(
    ("task", "ways", "words"),
    [
        ((1, 2, 3), 2, "gave a tuple, not a Task"),
        (GOOD._replace(query=tuple(GOOD.query)), 2, "query is a tuple, not Examples"),
        (GOOD._replace(key=GOOD.key.int()), 2, r"key is int32 \[4\]: .* int64"),
        (GOOD._replace(key=GOOD.key[0]), 2, r"key is int64 \[\]: .* per task"),
        (GOOD._replace(key=GOOD.key[:3]), 2, r"support.x is float32 \[4, 4, 2\], with 3 task"),
        (GOOD._replace(about={"kind": GOOD.about["kind"][:3]}), 2, r"about \('kind'\) is int64 \[3\]"),
        (GOOD._replace(about=None), 2, "about .* NoneType: give a dictionary"),
        (change(x=None), 2, "support.x is a NoneType: give a tensor"),
        (change(x=GOOD.support.x.long()), 2, "support.x is int64 .* floating"),
        (change(x=GOOD.support.x[:, :3]), 2, "support has 3 inputs and 4 targets"),
        (change(x=with_nan(GOOD.support.x)), 2, "support.x holds NaN .* 1 of 4 tasks, first in task 2, example 0"),
        (change(half="query", x=GOOD.query.x[..., :1]), 2, r"Support inputs .* \[2\] each, query inputs \[1\]"),
        (change(half="query", x=GOOD.query.x[:, :0], y=GOOD.query.y[:, :0]), 2, "query.x .* n of at least 1"),
        (change(y=GOOD.support.y.float()), 2, r"support.y is float32 \[4, 4\]: .* int64"),
        (change(y=GOOD.support.y[..., None]), 2, r"support.y is int64 \[4, 4, 1\]: .* \[T, n\]"),
        (change(y=GOOD.support.y + 1), 2, "support.y has labels from 1 to 2, and a 2-way task"),
        (change(half="query", y=GOOD.query.y - 1), 2, "query.y has labels from -1 to 0"),
        (change(y=GOOD.support.y * 0), 2, "support set of task 0 has no example of class 1 of 2"),
        (GOOD, 3, "has no example of class 2 of 3"),
        (GOOD, None, "support.y is int64 .* loss is 'cross_entropy'"),
        (change(WAVE, "query", y=with_nan(WAVE.query.y)), None, "query.y holds NaN"),
        (change(WAVE, "query", y=WAVE.query.y[..., 0]), None, r"Support targets .* \[1\] each, query targets \[\]"),
    ],
)
def test_batches_that_a_learner_would_choke_on_are_refused(task, ways, words):
    with pytest.raises(InputError, match=words):
        check_task(task, ways)


def test_a_users_own_batch_passes():
    half = Examples(torch.randn(3, 6, 2), torch.tensor([0, 1, 2, 2, 1, 0]).repeat(3, 1))
    check_task(Task(half, half, torch.arange(3), {}), ways=3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sine(amplitude=(5.0, 0.1)), r"amplitude=\(5.0, 0.1\) is no range"),
        (lambda: Sine(x=(0.0, math.inf)), "x=.* finite"),
        (lambda: Polynomial(order=-1), "order=-1 .* at least 0"),
        (lambda: Polynomial(divisor=0.0), "divisor=0.0 must be positive"),
        (lambda: AverageThreshold(tau_range=(0.5, 1.5)), r"leaves \[0, 1\]"),
        (lambda: AverageThreshold(dimension=0), "dimension=0"),
        (lambda: Wavelet(points=0), "points=0"),
        (lambda: Wavelet(translation=(math.nan, 1.0)), "translation=.* finite"),
        (lambda: Gaussians(sd=-1.0), "sd=-1.0 is not a standard deviation"),
        (lambda: Sine().source("training", size=4), "no split 'training'"),
        (lambda: digits("colour"), "'colour': choose 'image' or 'class'"),
        (lambda: digits("class"), "5-way tasks need 5 classes.* choose ways=3"),
        (lambda: digits(ways=1), "ways=1 .* at least 2"),
    ],
)
def test_options_that_make_no_sense_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("half", ["x", "y"])
def test_a_support_set_with_nan_is_named_when_a_learner_adapts(bad, half):
    learner = quickstudy.maml(torch.nn.Linear(1, 1), loss="mse")
    support = Examples(*(values[0].clone() for values in WAVE.support))
    getattr(support, half)[3, 0] = bad
    with pytest.raises(InputError, match=f"{half} of the support set holds NaN or infinity in 1 .* first in example 3"):
        learner.adapt(support)


WRONG_TYPES = {
    "Sine(amplitude=3.0)": "amplitude=3.0 is no range",
    "Sine(x=None)": "x=None is no range",
    "Sine(phase=('0', '1'))": "is no range",
    "Gaussians(sd='a')": "sd='a' is not a standard deviation",
    "Polynomial(divisor='2')": "divisor='2' must be positive",
    "Episodes.by_image(images, labels, fractions=0.6)": "fractions=0.6 do not divide the data",
    "Episodes.by_image(images, labels, fractions=('a', 'b', 'c'))": "do not divide the data",
    "Episodes.by_class(images, labels, classes=[[0, 1], [2, 3]])": "are no lists by split",
    "Episodes.by_class(images, labels, classes={'train': 3})": "are no lists by split",
    "Episodes(images, labels, [1, 2, 3])": "splits are a list: give the image numbers by split",
    "Batches(Episodes.by_image(images, labels, ways=2, queries=1), hold_out='a')": "hold_out='a' is not a fraction",
    "Cross(train='sine', test=Sine())": "`train` are tasks, such as Sine\\(\\) or drawings\\(\\); given is a str",
    "Cross(train=Sine(), test=None)": "`test` are tasks",
    "drawings(only='Latin')": "`only` is a list of the names of classes",
}


def test_values_of_wrong_types_are_refused_in_words():
    """In a process of its own: the checks of types in tests would refuse them before."""
    program = f"""
import re, numpy as np
from quickstudy.errors import InputError
from quickstudy.tasks import Batches, Cross, Episodes, Gaussians, Polynomial, Sine, drawings
images, labels = np.zeros((40, 4), np.float32), np.repeat([3, 8], 20)
for code, words in {WRONG_TYPES!r}.items():
    try:
        eval(code)
    except InputError as error:
        assert re.search(words, str(error)), (code, str(error))
    else:
        raise SystemExit(code + " was taken")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_of_very_many_known_names_a_few_are_listed():
    with pytest.raises(
        InputError, match=r"`only` names class 'Latn/character01'. Did you mean `Latin/character01`\?"
    ) as e:
        quickstudy.tasks.drawings(only=["Latn/character01"])
    assert len(str(e.value)) < 600 and "and 1613 more" in str(e.value)
