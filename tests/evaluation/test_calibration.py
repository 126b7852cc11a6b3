"""Calibration: known temperatures and errors, and sets that hold the true class as often as they should."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from quickstudy.errors import InputError
from quickstudy.evaluation.calibration import (
    LEVELS,
    calibrate,
    calibrate_on_tasks,
    calibration_error,
    fit_temperature,
    measure_error,
)
from quickstudy.methods.registry import METHODS
from quickstudy.models.nets import mlp
from quickstudy.tasks import FAMILIES, Batches, Cross, Episodes, drawings


def drawn(n=4000, ways=4, temperature=1.0, seed=0):
    """Outputs with classes that are drawn by the probabilities that they give at a temperature."""
    rng = torch.Generator().manual_seed(seed)
    outputs = 3 * torch.randn(n, ways, generator=rng, dtype=torch.float64)
    y = torch.multinomial((outputs / temperature).softmax(-1), 1, generator=rng)[:, 0]
    return outputs, y


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_known_temperature_is_found(temperature):
    outputs, y = drawn(temperature=temperature)
    assert fit_temperature(outputs, y) == pytest.approx(temperature, rel=0.1)


@given(st.floats(1e-3, 1e3), st.integers(0, 5))
def test_the_temperature_has_the_unit_of_the_outputs(scale, seed):
    outputs, y = drawn(n=60, seed=seed)
    assert fit_temperature(scale * outputs, y) == pytest.approx(scale * fit_temperature(outputs, y), rel=1e-6)


def test_it_is_the_minimum_of_the_cross_entropy():
    outputs, y = drawn(n=50, temperature=2.0)
    found = fit_temperature(outputs, y)

    def loss(t):
        return float(torch.nn.functional.cross_entropy(outputs / t, y))

    assert loss(found) <= min(loss(0.99 * found), loss(1.01 * found))


def test_a_class_that_cannot_be_has_no_part():
    outputs, y = drawn(n=50)
    wider = torch.cat([outputs, torch.full((50, 1), -torch.inf, dtype=torch.float64)], 1)
    assert fit_temperature(wider, y) == pytest.approx(fit_temperature(outputs, y))


def test_the_error_of_calibrated_outputs_is_small_and_of_others_large():
    outputs, y = drawn(temperature=3.0)
    found = calibrate(outputs, y, shots=1, episodes=10, source="x")
    assert found.error_before > 0.1 > 0.03 > found.error_after
    assert calibration_error(found.probabilities(outputs), y) < 0.03


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_a_few_examples_that_are_all_right_or_all_wrong_make_no_temperature_of_zero_or_infinity(right, scale):
    outputs = scale * torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    y = outputs.argmax(-1) if right else outputs.argmin(-1)
    found = calibrate(outputs, y, shots=1, episodes=0, source="x")
    assert 0.1 * scale < found.temperature < 10 * scale
    assert found.temperature > scale or right
    # The slope of what is minimised, by hand: the sum over examples, and the pull of one more to the usual spread.
    b, spread = 1 / found.temperature, float(outputs.std(-1, correction=0).mean())
    p = (b * outputs).softmax(-1)
    of_entropy = float(((p * outputs).sum(-1) - outputs[torch.arange(4), y]).sum())
    assert of_entropy + spread - 1 / b == pytest.approx(0, abs=1e-6 * scale)


@pytest.mark.parametrize(("n", "coverage"), [(4, 0.9), (4, 0.6), (9, 0.9), (39, 0.95), (99, 0.5)])
def test_sets_of_a_few_examples_hold_the_true_class_as_often_as_asked_for(n, coverage):
    """Of n + 1 examples that are alike, each is as likely the new one: so at least `coverage` of them are held."""
    held = []
    for seed in range(200):
        outputs, y = drawn(n + 1, seed=seed)
        found = calibrate(outputs[:n], y[:n], shots=1, episodes=0, source="x")
        new = found.probabilities(outputs[n:])
        held.append(bool(new[0, y[n]] >= found.threshold(coverage)))
    assert np.mean(held) > coverage - 3 * (coverage * (1 - coverage) / 200) ** 0.5
    if round((n + 1) * (1 - coverage), 9) < 1:
        assert found.threshold(coverage) == 0, "so few examples cannot tell, so every class is held"


def test_the_halves_that_judge_a_temperature_can_be_given():
    outputs, y = drawn(n=40)
    order = y.argsort(stable=True)
    first = torch.arange(40) % 2 == 0
    mixed = calibrate(outputs[order], y[order], shots=1, episodes=0, source="x", first=first)
    same = calibrate(
        torch.cat([outputs[order][first], outputs[order][~first]]), torch.cat([y[order][first], y[order][~first]]),
        shots=1, episodes=0, source="x",
    )  # fmt: skip
    assert mixed.error_after == pytest.approx(same.error_after)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_sets_hold_the_true_class_as_often_as_asked_for(coverage):
    found = calibrate(*drawn(temperature=2.0), shots=1, episodes=10, source="x")
    outputs, y = drawn(temperature=2.0, seed=1)
    p = found.probabilities(outputs)
    inside = (p >= found.threshold(coverage))[torch.arange(len(y)), y].double().mean()
    assert float(inside) == pytest.approx(coverage, abs=0.02)


def test_inputs_unlike_the_episodes_are_found():
    outputs, y = drawn()
    found = calibrate(outputs, y, shots=1, episodes=10, source="x")
    assert found.is_far(outputs).double().mean() < 0.01
    assert found.is_far(outputs - 100).all()
    assert len(found.levels) == LEVELS


def episodes(**options):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(30), 12)
    x = (rng.normal(size=(30, 4))[labels] + 0.4 * rng.normal(size=(360, 4))).astype(np.float32)
    return Episodes.by_class(x, labels, **{"ways": 3, "shots": 1, "queries": 2} | options)


def test_episodes_have_the_sizes_that_are_asked_for_or_the_nearest():
    learner = METHODS["protonet"](mlp(4, 3, hidden=(8,), std=None), 3)
    found = calibrate_on_tasks(learner, episodes(), 4, 5, episodes=20)
    assert (found.ways, found.shots, found.episodes) == (4, 5, 20) and found.accuracy > 0.5
    assert "validation classes" in found.source
    found = calibrate_on_tasks(learner, episodes(), 50, 50, episodes=5)
    assert (found.ways, found.shots) == (6, 11)
    found = calibrate_on_tasks(learner, episodes(fractions=(1.0, 0.0, 0.0)), 3, 1, episodes=5)
    assert "training classes" in found.source


def test_batches_are_calibrated_on_the_classes_that_they_are_drawn_from():
    learner = METHODS["protonet"](mlp(4, 3, hidden=(8,), std=None), 3)
    family = Cross(train=Batches(episodes()), test=episodes())
    found = calibrate_on_tasks(learner, family, 4, 2, episodes=5)
    assert (found.ways, found.shots) == (4, 2) and "training classes" in found.source


def test_tasks_of_one_alphabet_have_at_most_its_classes():
    family = drawings("lake", within="alphabet")
    learner = METHODS["protonet"](nn.Sequential(nn.AvgPool2d(7), nn.Flatten(), nn.Linear(16, 5)), 5)
    largest = np.unique(family.groups("val"), return_counts=True)[1].max()
    assert calibrate_on_tasks(learner, family, 400, 1, episodes=2).ways == largest


def test_a_learner_of_more_classes_answers_with_the_first_of_them():
    learner = METHODS["maml"](mlp(4, 5, hidden=(8,), std=None))
    assert calibrate_on_tasks(learner, episodes(), 2, 1, episodes=5).ways == 2


def test_regression_has_an_error_and_no_classes():
    sine = FAMILIES["sine"](shots=5, queries=5)
    learner = METHODS["maml"](mlp(1, 1, hidden=(8,), std=None), loss="mse")
    assert measure_error(learner, sine, 3, episodes=10) > 0
    with pytest.raises(InputError, match="have no classes"):
        calibrate_on_tasks(learner, sine, 2, 1)
