"""A user's Python code with a trained learner: loading a run, and support sets that do not fit."""

import pytest
import torch

import quickstudy as qs
from quickstudy.methods.registry import METHODS, RECIPES
from quickstudy.models.nets import linear, mlp
from quickstudy.training.restore import restore

X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])

LEARNERS = {
    "maml": lambda: qs.maml(mlp(4, 3)),
    "hypermaml": lambda: qs.hypermaml(mlp(4, 3)),
    "protonet": lambda: METHODS["protonet"](mlp(4, 3), 3),
    "matchingnet": lambda: METHODS["matchingnet"](mlp(4, 3), 3),
    "nearest": lambda: METHODS["nearest_neighbour"](3),
}


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (
            X[:0],
            Y[:0],
            "the support set has x .0, 4. of float32, y .0. of int64",
        ),
        (X, Y[:5], "the support set has x .6, 4. of float32, y .5. of int64"),
        (X[0], Y[0], "the support set has x .4. of float32, y .. of int64 .0 to 0.. Give x"),
        (X.numpy(), Y, "x of the support set is a ndarray: give a tensor"),
        (X, Y.tolist(), "y of the support set is a list: give a tensor"),
        (X, Y - 1, "has the class number -1. Give x"),
        (
            X,
            torch.tensor([0, 1, 2, 0, 1, 7]),
            "y .6. of int64 .0 to 7.|class number is 7, in a task with 6 support",
        ),
        (X, Y.float(), "(Given: support x .6, 4. of float32, y|the y of a task is) .6. of float32"),
    ],
    ids=["empty", "lengths", "no axis", "array", "list", "negative", "out of range", "float labels"],
)
def test_a_support_set_that_does_not_fit_is_refused_with_advice(name, x, y, said):
    with pytest.raises(qs.InputError, match=said) as refused:
        LEARNERS[name]().adapt(qs.Examples(x, y))
    assert "the classes from 0" in str(refused.value) or "class numbers from 0" in str(refused.value)


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "nearest"])  # it takes inputs of any shape
def test_inputs_of_another_shape_are_refused_with_advice(name):
    with pytest.raises(qs.InputError, match="Given: support x .6, 5. of float32, y .6. of int64"):
        LEARNERS[name]().adapt(qs.Examples(torch.randn(6, 5), Y))


def test_targets_that_would_broadcast_are_refused():
    learner = RECIPES["maml"](linear(4, 1), loss="mse")
    with pytest.raises(qs.InputError, match=r"y \[6\] of float32.*For regression y is \[n, outputs\]"):
        learner.adapt(qs.Examples(X, torch.randn(6)))


def test_running_out_of_memory_is_no_misfit_of_the_support_set():
    class Full(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(4, 3)

        def forward(self, x):
            raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        qs.maml(Full()).adapt(qs.Examples(X, Y))


def test_a_run_is_loaded_with_the_parameters_it_was_saved_with(cli, place):
    assert cli("train", "sine.yaml", "--out", "run", "--quiet", "--no-tensorboard").code == 0
    learner = qs.load(place / "run", "last")
    assert not learner.training
    saved = qs.Run.open("run").load("last").tensors
    for name, value in learner.state_dict().items():
        assert torch.equal(value, saved[f"model.{name}"]), name
    setup, _ = restore(qs.Run.open("run"))  # the best checkpoint if there is one
    task = setup.eval_family.source("test", seed=0, size=1)(0)
    support = qs.Examples(task.support.x[0], task.support.y[0])
    chosen = qs.load("run").adapt(support)(task.query.x[0])
    torch.testing.assert_close(chosen, setup.learner.adapt(support)(task.query.x[0]), rtol=0, atol=0)
    with pytest.raises(qs.InputError, match="There is no run at"):
        qs.load("nowhere")
