"""`choose`: it finds a difference that is there, names no winner of noise, and says when it cannot judge."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import quickstudy as qs
from quickstudy.errors import InputError
from quickstudy.everyday.choose import _group_copies, cheapest


class Projected(nn.Module):
    """Features of a random projection, as a stand-in for encoders that know nothing of the classes."""

    def __init__(self, seed):
        super().__init__()
        weight = torch.randn(12, 6, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("weight", weight)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(x @ self.weight)


def projected(seed):
    return qs.METHODS["protonet"](Projected(seed), 2)


def test_noise_has_no_winner():
    """At a level of 5 % of all comparisons together, 95 of 100 draws of noise must have none."""
    bases = [("a", projected(0)), ("b", projected(1)), ("none", None)]
    named = 0
    for draw in range(40):
        rng = np.random.default_rng(draw)
        x, y = rng.normal(size=(20, 12)).astype(np.float32), np.repeat([0, 1], 10)
        named += qs.choose((x, y), bases, splits=10, seed=draw).winner is not None
    assert named <= 2


def test_a_real_difference_is_found():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 20)
    x = rng.normal(size=(40, 12)).astype(np.float32)
    x[:, 0] += 8 * y
    blind = projected(0)
    with torch.no_grad():
        blind.body.weight[0] = 0
    found = qs.choose((x, y), [("blind", blind), ("none", None)])
    assert found.winner == found.best == "none" and found.candidates[0].accuracy > 0.9
    assert found.candidates[1].behind > found.candidates[1].interval > 0
    assert "none is better than every other one" in str(found)


def test_with_one_example_a_class_it_cannot_judge_and_shows_training_episodes(trained):
    x = torch.rand(3, 1, 14, 14)
    found = qs.choose((x, ["a", "b", "c"]), [trained("protonet"), trained("nearest_neighbour")])
    assert not found.judged and found.best is found.winner is None
    assert all(1 / 3 < row.accuracy < 1 for row in found.candidates)
    assert "cannot be judged" in str(found)


def test_the_same_bases_cannot_be_told_apart():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 12)).astype(np.float32), np.repeat([0, 1], 10)
    found = qs.choose((x, y), [("one", projected(3)), ("other", projected(3))])
    assert found.winner is None and found.best in ("one", "other")


def test_of_those_that_take_the_same_time_the_smaller_one_is_cheaper():
    assert cheapest([(1.2, 10), (1.0, 20), (0.9, 30)]) == 0
    assert cheapest([(2.0, 10), (1.0, 20), (1.1, 15)]) == 2
    assert cheapest([(0.0, 5), (0.0, 5)]) == 0


def test_a_few_examples_decide_nothing_however_clear_they_look():
    x = np.array([[0.0], [0.1], [9.0], [9.1]], dtype=np.float32).repeat(12, 1)
    x += np.random.default_rng(0).normal(size=x.shape).astype(np.float32) * 1e-3

    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(12, 2)

        def forward(self, x):
            return self.head(x * 0 + torch.sin(1e5 * x))

    found = qs.choose((x, [0, 0, 1, 1]), [("wrong", qs.METHODS["protonet"](Wrong(), 2)), ("none", None)])
    assert found.winner is None


@pytest.mark.parametrize(
    ("data", "among", "message"),
    [
        (([[1.0], [2.0]], [0, 1]), [None], "two or more different bases"),
        (([[1.0], [2.0]], [0, 1]), [("a", None), ("a", None)], "two or more different bases"),
        (([[1.0], [2.0]], [0]), [None, ("b", None)], "X has 2 examples, and y has 1 labels"),
        (([[1.0], [2.0]], [0, 0]), [None, ("b", None)], "of one class"),
        ([[1.0], [2.0]], [None, ("b", None)], "Give a folder .* or a pair"),
        ("nowhere", [None, ("b", None)], "There is no folder 'nowhere'"),
    ],
)
def test_what_cannot_be_compared_is_refused(data, among, message):
    with pytest.raises(InputError, match=message):
        qs.choose(data, among)


def test_copies_of_an_example_do_not_test_what_they_have_taught():
    draw = np.random.default_rng(10)
    x, y = draw.normal(size=(20, 50)), draw.permutation([0, 1] * 10)  # the labels are noise
    bases = [None, ("lines", nn.Linear(50, 30))]
    found = qs.choose((np.r_[x, x], np.r_[y, y]), bases)
    assert max(row.accuracy for row in found.candidates) < 0.75
    with pytest.raises(InputError, match="two or more different bases"):
        qs.choose((x, y), [None])
    once = qs.choose((np.repeat(x[:2], 3, axis=0), [0, 0, 0, 1, 1, 1]), bases)
    assert not once.judged, "of each class there is one example, three times"


def test_what_is_a_copy_is_told_by_all_of_it(tmp_path):
    """Arrays that differ in one number of many, a picture by path and again under another name, texts."""
    large, other = np.zeros((40, 50), dtype=np.uint8), np.zeros((41, 50), dtype=np.uint8)
    changed = large.copy()
    changed[20, 20] = 1
    y = torch.zeros(4, dtype=torch.int64)
    assert sorted(_group_copies([large, changed, large.copy(), other], y)[0]) == [[0, 2], [1], [3]]
    names = [tmp_path / f"{name}.png" for name in "abc"]
    for name, pixels in zip(names, (large, large, changed), strict=True):
        Image.fromarray(pixels).save(name)
    broken = tmp_path / "d.png"
    broken.write_bytes(b"")
    for items in ([*names, broken], ["a text", "a text", "another", str(names[0])]):
        assert sorted(_group_copies(items, y)[0]) == [[0, 1], [2], [3]]


def test_the_order_of_the_examples_changes_nothing():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)) + np.repeat([[0.0], [0.8]], 20, axis=0)
    y, order = np.repeat(["a", "b"], 20), rng.permutation(40)
    bases = [None, ("shifted", torch.nn.Linear(3, 5))]
    one, other = (qs.choose(data, bases, splits=5) for data in ((x, y), (x[order], y[order])))
    assert [row.name for row in one.candidates] == [row.name for row in other.candidates]
    for first, second in zip(one.candidates, other.candidates, strict=True):
        assert (first.accuracy, first.behind) == (second.accuracy, second.behind)
