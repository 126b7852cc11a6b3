"""Arrays and integers of every kind that users have: the same tasks come from all of them."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import quickstudy
from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import evaluate, task_batches, task_hash
from quickstudy.evaluation.metrics import METRICS
from quickstudy.rules.torch_private import tree_leaves
from quickstudy.tasks import AverageThreshold, Batches, Episodes, Gaussians, Polynomial, Sine, Wavelet, digits
from quickstudy.tasks.draws import Draws, as_integer, task_noise
from quickstudy.tasks.images.decode import Decoding

IMAGES = np.random.default_rng(0).random((60, 2, 3), dtype=np.float32)
LABELS = np.repeat([0, 1, 2], 20)


def episodes(images=IMAGES, labels=LABELS, **options):
    return Episodes.by_image(images, labels, **{"ways": 2, "queries": 2} | options)


def same(one, other):
    return all(map(torch.equal, tree_leaves(one), tree_leaves(other)))


def read_only(values):
    values = values.copy()
    values.setflags(write=False)
    return values


def mapped(values, path):
    np.save(path, values)
    return np.load(path, mmap_mode="r")


FORMS = {
    "big-endian": lambda values: values.astype(values.dtype.newbyteorder(">")),
    "reversed in memory": lambda values: values[::-1].copy()[::-1],
    "axes reversed in memory": lambda values: values.copy()[..., ::-1].copy()[..., ::-1],
    "column-major": np.asfortranarray,
    "every second of more": lambda values: values.repeat(2, 0)[::2],
    "read-only": read_only,
    "read-only, big-endian and reversed": lambda values: read_only(values[::-1].astype(values.dtype.newbyteorder(">")))[
        ::-1
    ],
    "unmasked": np.ma.asarray,
    "tensor": torch.from_numpy,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u1"])
def test_tasks_do_not_depend_on_how_an_array_lies_in_memory(form, dtype):
    images = (200 * IMAGES).astype(dtype)
    plain, given = episodes(images), episodes(FORMS[form](images), FORMS[form](LABELS))
    assert same(plain.source("train", size=3)(0), given.source("train", size=3)(0))
    moved = given.to_device(torch.device("cpu"), 10**6)
    assert same(plain.source("train", size=3)(0), moved.source("train", size=3)(0))
    assert given.fingerprint == plain.fingerprint
    numbers = {split: FORMS[form](np.asarray(of)) for split, of in plain.splits.items()}
    split = Episodes(images, LABELS, numbers, ways=2, queries=2)
    assert same(plain.source("test", size=3)(0), split.source("test", size=3)(0))


@pytest.mark.parametrize("endian", "<>")
def test_a_mapped_file_of_either_byte_order_can_be_used(tmp_path, endian):
    given = episodes(mapped(IMAGES.astype(f"{endian}f8"), tmp_path / "x.npy"))
    assert same(given.source("train", size=3)(0), episodes(IMAGES.astype("f8")).source("train", size=3)(0))


def test_long_doubles_become_doubles():
    given = episodes(IMAGES.astype(np.longdouble)).source("train", size=3)(0)
    assert same(given, episodes(IMAGES.astype(np.float64)).source("train", size=3)(0))


@pytest.mark.parametrize("values", [IMAGES, LABELS])
def test_masked_values_are_refused_and_not_read_from_under_the_mask(values):
    masked = np.ma.array(values, mask=np.zeros(values.shape, bool))
    masked[3] = np.ma.masked
    with pytest.raises(InputError, match="values are masked: fill them"):
        episodes(masked) if values is IMAGES else episodes(labels=masked)


INTEGERS = [np.int64, np.uint8, np.int32, np.array, torch.tensor]


@pytest.mark.parametrize("kind", INTEGERS)
def test_any_integer_is_a_step_a_seed_a_size_and_a_count(kind):
    three, two = kind(3), kind(2)
    family = episodes(ways=two, shots=two, queries=two, seed=three)
    plain = episodes(ways=2, shots=2, queries=2, seed=3)
    assert json.dumps(family.describe()) == json.dumps(plain.describe())
    assert same(family.source("train", seed=three, size=two)(three), plain.source("train", seed=3, size=2)(3))
    assert same(list(task_batches(family, "test", three, two)), list(task_batches(plain, "test", 3, 2)))
    assert np.array_equal(Draws(three, "train", two).uniform("x", 4), Draws(3, "train", 2).uniform("x", 4))
    noise = [task_noise({"m": (2,)}, torch.arange(2), seed, torch.zeros(())) for seed in (3, three)]
    assert same(*noise)
    metric, learner = METRICS["accuracy"], quickstudy.mtnet(nn.Sequential(nn.Flatten(), nn.Linear(6, 2)))
    one, other = (evaluate(learner, f, metric, n=n, seed=n) for f, n in ((plain, 3), (family, three)))
    assert one.hash == other.hash and np.array_equal(one.values, other.values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_noise_is_never_rounded_to_0_or_1(dtype):
    """The largest of many uniform numbers in double precision is 1 in every smaller type."""
    noise = task_noise({"m": (100_000,)}, torch.arange(2), 0, torch.zeros((), dtype=dtype))["m"]
    assert noise.dtype == dtype and noise.min() > 0 and noise.max() < 1
    assert noise.logit().isfinite().all()
    # Task 4405 has a number above 1 - 2 ** -25 among these.
    drawn = task_noise({"normal.weight": (1, 20, 512)}, torch.tensor([4405]), 0, torch.zeros(()))["normal.weight"]
    assert drawn.max() < 1 and torch.special.ndtri(drawn).isfinite().all()


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize(
    "make",
    [
        lambda n: Sine(shots=n, queries=n),
        lambda n: Polynomial(order=n, shots=n),
        lambda n: AverageThreshold(dimension=n, queries=n),
        lambda n: Wavelet(points=n, shots=n),
        lambda n: Gaussians(shots=n),
        lambda n: digits(ways=n, shots=n, seed=n),
        lambda n: Batches(digits(), size=n, seed=n),
    ],
)
def test_a_description_is_the_same_whatever_the_integers_are(make, kind):
    given, plain = make(kind(2)), make(2)
    assert json.dumps(given.describe()) == json.dumps(plain.describe())
    tasks = [plain.source("train", size=2)(0)]
    assert task_hash(given, tasks) == task_hash(plain, tasks)


def test_pictures_are_decoded_the_same_whatever_the_integers_are():
    assert Decoding(np.int64(8), np.uint8(1)) == Decoding(8, 1)
    assert type(Decoding(np.int64(8), np.uint8(1)).side) is int


@pytest.mark.parametrize("value", [1.5, 2.0, "2", None, np.float32(2), 0])
def test_what_is_no_integer_is_refused_by_name(value):
    with pytest.raises(InputError, match=r"shots=.* cannot be used: give a whole number of at least 1"):
        as_integer("shots", value, 1)
