"""The law that nothing about the answer is in the position of an example, for every source."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import quickstudy
from quickstudy.errors import InputError
from quickstudy.evaluation.dry_run import draw_first_tasks
from quickstudy.evaluation.evaluate import evaluate, task_batches, task_hash
from quickstudy.evaluation.metrics import METRICS, get_metric
from quickstudy.methods.maml import maml
from quickstudy.rules.torch_private import tree_leaves
from quickstudy.tasks import AverageThreshold, Batches, Cross, Episodes, Gaussians, TaskFamily, digits
from quickstudy.tasks.images.sets import image_folder
from quickstudy.types import Examples, pick

IMAGES = np.random.default_rng(0).random((60, 4), dtype=np.float32)
BY_IMAGE = Episodes.by_image(IMAGES, np.repeat([0, 1, 2], 20), ways=3, shots=1, queries=3)


@dataclass(frozen=True)
class Sorted(TaskFamily):
    """A user's own family, whose examples come class by class, with a note on each query."""

    loss: ClassVar[str] = "cross_entropy"
    inputs: ClassVar[tuple[int]] = (1,)
    outputs: ClassVar[int] = 3

    def sample(self, draws, size, part):
        y = torch.arange(3).repeat_interleave(4).repeat(size, 1)[part]
        half = Examples(y[..., None].float(), y)
        return half, half, {"marks_query": 10 * y, "other": y}

    def describe(self):
        return {"name": "sorted"}


@dataclass(frozen=True)
class Rising(TaskFamily):
    """A user's own regression, whose inputs rise from the first example to the last."""

    loss: ClassVar[str] = "mse"
    inputs: ClassVar[tuple[int]] = (1,)
    outputs: ClassVar[int] = 1

    def sample(self, draws, size, part):
        x = torch.linspace(0, 1, 8)[:, None].repeat(size, 1, 1)[part]
        return Examples(x, 2 * x), Examples(x, 2 * x), {}

    def describe(self):
        return {"name": "rising"}


def folder(root):
    for number in range(60):
        place = root / "abc"[number % 3]
        place.mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 6), number, np.uint8)).save(place / f"{number}.png")
    return root


def table(root):
    folder(root)
    lines = [f"{number}.png,{'abc'[number % 3]}" for number in range(60)]
    (root / "list.csv").write_text("\n".join(["filename,label", *lines]))
    return root


def arrays(root):
    pictures = np.arange(60, dtype=np.uint8)[:, None, None].repeat(36, 1).reshape(60, 6, 6)
    np.savez(root / "own.npz", images=pictures, labels=np.repeat([0, 1, 2], 20))
    return root / "own.npz"


def pictures(make, root):
    return image_folder(str(make(root)), ways=3, shots=2, queries=2, size=6, channels=1)


SOURCES = {
    "arrays": lambda root: BY_IMAGE,
    "digits": lambda root: digits(ways=3, shots=2),
    "folder": lambda root: pictures(folder, root),
    "table": lambda root: pictures(table, root),
    "npz": lambda root: pictures(arrays, root),
    "batches": lambda root: Batches(BY_IMAGE, size=9),
    "cross": lambda root: Cross(train=Batches(BY_IMAGE, size=9), test=BY_IMAGE),
    "gaussians": lambda root: Gaussians(shots=2, queries=3),
    "own": lambda root: Sorted(),
}


@pytest.fixture
def source(request, tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return SOURCES[request.param](tmp_path / "data").source("train", seed=1, size=2000)


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_every_label_is_as_likely_at_every_place(source):
    tasks = source(3)
    for half in (tasks.support, tasks.query):
        ways = int(half.y.max()) + 1
        share = nn.functional.one_hot(half.y, ways).double().mean(0)
        # 2000 tasks: a share of 1/2 has a standard error of .011. Five of these, because there are some 100 shares.
        torch.testing.assert_close(share, torch.full_like(share, 1 / ways), atol=0.056, rtol=0)


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_the_order_is_a_function_of_seed_split_and_step_and_of_the_task_alone(source):
    tasks = source(3)
    assert all(map(torch.equal, tree_leaves(tasks), tree_leaves(source(3))))
    assert not torch.equal(tasks.query.y, source(4).query.y)
    for part in (slice(0, 2), slice(1997, None), slice(None, None, 7)):
        assert all(map(torch.equal, tree_leaves(source(3, part)), tree_leaves(pick(tasks, part))))
    assert len(source(3, slice(0, 0)).key) == 0  # a worker without tasks of its own


def test_inputs_and_what_is_said_of_examples_move_with_their_targets():
    tasks = Sorted().source("train", size=20)(0)
    for half in (tasks.support, tasks.query):
        assert torch.equal(half.x[..., 0].long(), half.y)
    assert torch.equal(tasks.about["marks_query"], 10 * tasks.query.y)
    assert torch.equal(tasks.about["other"], torch.arange(3).repeat_interleave(4).repeat(20, 1))
    episodes = BY_IMAGE.source("test", size=20)(0)
    for half, numbers in ((episodes.support, "images_support"), (episodes.query, "images_query")):
        assert np.array_equal(half.x, IMAGES[episodes.about[numbers]])


def test_support_and_query_have_orders_of_their_own():
    tasks = Sorted().source("train", size=50)(0)
    assert (tasks.support.y == tasks.query.y).float().mean() < 0.5  # 1/3 is chance


@pytest.mark.parametrize("family", [Rising(), AverageThreshold()])
def test_targets_of_a_regression_do_not_depend_on_the_place(family):
    y = family.source("train", size=2000)(0).query.y[..., 0]
    # The standard deviation of a target is at most .65, so the mean of 2000 has one of .015: five of these.
    assert (y.mean(0) - y.mean()).abs().max() < 0.075


class Position(nn.Module):
    """It never looks at a query, only at its place."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(4, 3)

    def forward(self, x):
        return 0 * self.f(x) + nn.functional.one_hot(torch.arange(len(x)) * 3 // len(x), 3)


def test_a_model_that_answers_by_position_is_at_chance():
    found = evaluate(quickstudy.maml(Position()), BY_IMAGE, METRICS["accuracy"], n=400).spread
    # 3 of 9 by chance, with a standard error of .007 (9 answers a task, negatively dependent within it).
    assert found.mean == pytest.approx(1 / 3, abs=0.04)


def test_the_name_of_a_task_list_says_that_the_order_has_changed(monkeypatch):
    tasks = [Gaussians().source("test", size=2)(0)]
    now = task_hash(Gaussians(), tasks)
    monkeypatch.setattr("quickstudy.evaluation.evaluate.TASK_FORMAT", 1)
    assert task_hash(Gaussians(), tasks) != now


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, q, about: (s._replace(x=s.x[:, :0], y=s.y[:, :0]), q, about), "support.x .* n of at least 1"),
        (lambda s, q, about: (s, q._replace(x=q.x[:, :0], y=q.y[:, :0]), about), "query.x .* n of at least 1"),
        (lambda s, q, about: (s, q, {"marks_query": q.y[:, :3]}), r"marks_query.*begins with \[4, 12\]"),
        (lambda s, q, about: (s, q, None), "about .* NoneType"),
        (lambda s, q, about: (s, (q.x, q.y), about), "query is a tuple, not Examples"),
    ],
)
def test_a_later_batch_without_examples_is_refused_too(monkeypatch, change, words):
    sample = Sorted.sample

    def later(self, draws, size, part):
        drawn = sample(self, draws, size, part)
        return change(*drawn) if draws.step else drawn

    monkeypatch.setattr(Sorted, "sample", later)
    source = Sorted().source("train", size=4)
    source(0)
    with pytest.raises(InputError, match=words):
        source(1)


@pytest.mark.parametrize("error", [StopIteration(), SystemExit(0), SystemExit("bye"), KeyError("x")])
def test_what_a_users_family_raises_in_a_later_batch_is_an_error_of_one_line(monkeypatch, error):
    sample = Sorted.sample

    def later(self, draws, size, part):
        if draws.step:
            raise error
        return sample(self, draws, size, part)

    monkeypatch.setattr(Sorted, "sample", later)
    batches = task_batches(Sorted(), "test", 60, 0)
    next(batches)
    with pytest.raises(InputError, match=f"tasks of step 1 failed: {type(error).__name__}.*test_order.py, line"):
        next(batches)


@dataclass(frozen=True)
class Lines(Rising):
    """A user's own lines, of a slope that the description does not name."""

    slope: float = 1.0

    def sample(self, draws, size, part):
        x = torch.from_numpy(draws.uniform("x", size, 8, 1)[part].astype(np.float32))
        return Examples(x, self.slope * x), Examples(x, self.slope * x), {}


class FromTorch(Rising):
    """Takes its numbers from torch."""

    def sample(self, draws, size, part):
        x = torch.rand(size, 8, 1)[part]
        return Examples(x, x), Examples(x, x), {}


class PartOnly(Rising):
    """Draws less where a part is asked for, so that a part has other tasks."""

    def sample(self, draws, size, part):
        count = len(range(*part.indices(size)))
        x = torch.arange(8.0)[:, None].repeat(count, 1, 1) * count
        return Examples(x, x), Examples(x, x), {}


class Two(Rising):
    """Returns two things."""

    def sample(self, draws, size, part):
        return super().sample(draws, size, part)[:2]


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (FromTorch(), "FromTorch gives other tasks when the same step is drawn again.*from its `draws`"),
        (PartOnly(), "PartOnly gives other tasks when a part of a step is drawn.*return those of `part`"),
        (Two(), "`sample` of Two returns three things"),
    ],
)
def test_a_family_whose_tasks_are_no_function_of_the_step_is_refused(family, words):
    with pytest.raises(InputError, match=words):
        draw_first_tasks(family, "train", size=4)


def test_lists_of_a_family_whose_description_leaves_something_out_have_hashes_of_their_own():
    learner, metric = maml(nn.Linear(1, 1), loss="mse"), get_metric("mse")
    hashes = [evaluate(learner, Lines(slope=slope), metric, n=40).hash for slope in (1.0, 100.0, 1.0)]
    assert hashes[0] == hashes[2] != hashes[1]
