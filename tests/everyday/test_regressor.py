"""`FewShotRegressor`: ridge regression on rows of numbers, and runs on tasks of regression."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import quickstudy as qs
from quickstudy.errors import InputError
from quickstudy.everyday.heads import PENALTIES, RidgeLine
from quickstudy.everyday.packing import pack_run
from quickstudy.storage.run import Run
from quickstudy.training import config
from quickstudy.training.train import train


def data(n=12, features=3, outputs=1, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features)) * [1, 10, 0.1][:features]
    return x, x @ rng.normal(size=(features, outputs)) + 0.3 * rng.normal(size=(n, outputs)) + 2


def test_it_is_scikit_learns_ridge_on_standardised_features():
    x, y = data(outputs=2)
    line = RidgeLine(torch.from_numpy(x), torch.from_numpy(y))
    # scikit-learn sums squared errors over examples, where ours is a mean.
    same = make_pipeline(StandardScaler(), SklearnRidge(alpha=line.penalty * len(x)))
    assert np.allclose(line(torch.from_numpy(x)).numpy(), same.fit(x, y).predict(x))


def test_the_penalty_has_the_smallest_error_on_examples_left_out():
    """The closed form leaves an example out of the weights, not of the features' means, so it is near the long way."""
    x, y = data(n=40)
    z = (x - x.mean(0)) / x.std(0)
    errors = {}
    for penalty in PENALTIES:
        found = cross_val_predict(SklearnRidge(alpha=penalty * len(z)), z, y[:, 0], cv=LeaveOneOut())
        errors[penalty] = float(np.sqrt(np.square(found - y[:, 0]).mean()))
    line = RidgeLine(torch.from_numpy(x), torch.from_numpy(y))
    assert errors[line.penalty] == pytest.approx(min(errors.values()), rel=0.02)
    assert line.deviation == pytest.approx(min(errors.values()), rel=0.1)


@pytest.mark.parametrize(("in_x", "in_y"), [(1e6, 0.0), (1.7e9, 0.0), (0.0, 1.7e9), (-1.7e9, 1.7e9)])
def test_large_offsets_such_as_unix_times_change_no_value(in_x, in_y):
    v = np.array([0.0, 1.0, 2.0, 10.0, 11.0, 12.0])
    plain = qs.FewShotRegressor().fit(v[:, None], v)
    moved = qs.FewShotRegressor().fit((in_x + v)[:, None], in_y + v)
    assert moved.predict([[in_x + 5.0]])[0] - in_y == pytest.approx(plain.predict([[5.0]])[0], abs=1e-5)
    assert moved.deviation_ == pytest.approx(plain.deviation_, rel=1e-3)


@given(st.integers(0, 5), st.integers(2, 15), st.integers(1, 3))
def test_order_and_doubling_change_nothing_and_an_update_is_a_fit_on_the_union(seed, n, features):
    x, y = data(n, features, seed=seed)
    new = data(5, features, seed=9)[0]
    values = qs.FewShotRegressor().fit(x, y).predict(new)
    order = np.random.default_rng(seed).permutation(n)
    for other in (
        qs.FewShotRegressor().fit(x[order], y[order]),
        qs.FewShotRegressor().fit(np.concatenate([x, x]), np.concatenate([y, y])),
        qs.FewShotRegressor().fit(x[:1], y[:1]).update(x[1:], y[1:]),
    ):
        assert np.allclose(other.predict(new), values, rtol=1e-6, atol=1e-8)


def test_a_run_on_sines(sine, tmp_path):
    x = np.linspace(-2, 2, 10, dtype=np.float32)[:, None]
    regressor = qs.FewShotRegressor(sine).fit(x, np.sin(x))
    values, std = regressor.predict(x, std=True)
    assert values.shape == std.shape == (10, 1) and (std > 0).all()
    assert qs.FewShotRegressor(sine).fit(x, np.sin(x)[:, 0]).predict(x).shape == (10,)
    regressor.save(tmp_path / "m")
    again, spread = qs.open(tmp_path / "m").predict(x, std=True)
    assert np.array_equal(again, values) and np.array_equal(spread, std)


def test_an_error_that_is_not_finite_is_not_kept(sine, tmp_path):
    huge = qs.FewShotRegressor().fit([[0.0], [1.0], [2.0], [3.0]], [1e200, -3e200, 2e200, 5e199])
    assert np.isinf(huge.deviation_)
    huge.save(tmp_path / "huge")
    assert np.allclose(qs.open(tmp_path / "huge").predict([[1.5]]), huge.predict([[1.5]]))
    wild = {
        **Run.open(sine).config,
        "method": {"name": "maml", "inner_lr": 1e3, "inner_steps": 10},
        "train": {"steps": 0},
    }
    setup = config.build(config.parse_config(wild))
    run = Run.create(tmp_path / "run", setup.config.model_dump(mode="json"))
    train(setup, run)
    packed = pack_run(run, tmp_path / "packed", episodes=50).blueprint
    assert all(map(np.isfinite, packed.errors.values())) and len(packed.errors) < 4, "or this test shows nothing"
    assert qs.load(tmp_path / "packed").blueprint["errors"].keys() == packed.errors.keys()
    regressor = qs.FewShotRegressor(run, episodes=50).fit([[0.0], [1.0]], [0.0, 1.0])
    regressor.save(tmp_path / "m")
    assert qs.open(tmp_path / "m").predict([[0.5]]).tolist() == regressor.predict([[0.5]]).tolist()


@pytest.mark.parametrize("estimator", [qs.FewShotRegressor, qs.FewShotClassifier])
def test_norms_that_there_are_not_are_never_saved(tmp_path, estimator):
    x, y = [[0.0], [1.0], [9.0], [8.0]], [0, 0, 1, 1]
    taught = estimator().fit(x, y).set_params(norms="batch")
    for attempt in (lambda: estimator(norms="batch").fit(x, y), lambda: taught.save(tmp_path / "m")):
        with pytest.raises(InputError, match="`norms` is 'support' or 'trained', not 'batch'"):
            attempt()
    assert not (tmp_path / "m").exists()


def test_a_line_is_saved(tmp_path):
    x, y = data(outputs=2)
    regressor = qs.FewShotRegressor().fit(x, y)
    regressor.save(tmp_path / "m")
    assert np.array_equal(qs.open(tmp_path / "m").predict(x), regressor.predict(x))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[1.0], [2.0]], [1.0, np.nan], "y holds NaN or infinity in 1 of 2 examples, first in example 1"),
        ([[1.0], [2.0]], ["a", "b"], "y holds no numbers"),
        ([[1.0], [2.0]], None, "the target y is None"),
        ([[1.0], [2.0]], [1.0], r"y has the shape \[1\] for 2 examples"),
        ([[1.0], [2.0]], [1j, 2], "Complex data not supported"),
        ([[1.0], [2.0]], np.ma.array([1.0, 1e9], mask=[False, True]), "Some values are masked"),
        (np.ma.array([[1.0], [2.0]], mask=[[True], [False]]), [1.0, 2.0], "Some values are masked"),
        ([[1.0], [2.0]], [10**400, 1], "y holds no numbers"),
    ],
)
def test_bad_values_are_refused(x, y, message):
    with pytest.raises(InputError, match=message):
        qs.FewShotRegressor().fit(x, y)


def test_a_base_for_classes_is_refused_and_the_other_way_round(trained, sine):
    with pytest.raises(InputError, match="was trained to tell classes apart"):
        qs.FewShotRegressor(trained("maml")).fit(torch.zeros(2, 1, 14, 14), [1.0, 2.0])
    with pytest.raises(InputError, match="predicts quantities"):
        qs.FewShotClassifier(sine).fit(torch.zeros(2, 1), ["a", "b"])


def test_without_tasks_there_is_no_usual_error(sine, tmp_path):
    qs.load(sine).save(tmp_path / "l")
    regressor = qs.FewShotRegressor(tmp_path / "l").fit([[0.0], [1.0]], [0.0, 1.0])
    with pytest.raises(InputError, match="`std` needs the usual error of the base"):
        regressor.predict([[0.5]], std=True)


def test_every_output_has_the_values_and_the_error_that_it_would_have_alone():
    x, y = data(30, 3, outputs=1)
    noise = np.random.default_rng(1).normal(size=(30, 2)) * [1, 1e4]
    values = np.hstack([y, noise])
    new = data(5, 3, seed=9)[0]
    together, spread = qs.FewShotRegressor().fit(x, values).predict(new, std=True)
    for column in range(3):
        alone, own = qs.FewShotRegressor().fit(x, values[:, column]).predict(new, std=True)
        assert np.allclose(together[:, column], alone) and np.allclose(spread[:, column], own)
    copies = qs.FewShotRegressor().fit(x, np.hstack([y] * 4))
    assert np.allclose(copies.deviation_, qs.FewShotRegressor().fit(x, y).deviation_)


def test_several_outputs_are_saved_with_their_errors(tmp_path):
    x, y = data(outputs=2)
    taught = qs.FewShotRegressor().fit(x, y)
    taught.save(tmp_path / "m")
    values, spread = qs.open(tmp_path / "m").predict(x, std=True)
    assert np.array_equal(values, taught.predict(x)) and np.array_equal(spread[0], taught.deviation_)


@pytest.mark.parametrize("x", [[[1.0]], [[1.0], [1.0]]])
def test_an_error_that_nothing_shows_is_not_said_to_be_zero(x):
    taught = qs.FewShotRegressor().fit(x, [2.0] * len(x))
    assert np.isnan(taught.deviation_) and taught.predict([[50.0]]).tolist() == [2.0]
    with pytest.raises(InputError, match="all examples are the same. Give two or more that differ"):
        taught.predict([[50.0]], std=True)


def test_r_squared_of_values_that_do_not_vary_is_scikit_learns():
    from sklearn.metrics import r2_score

    x = [[0.0], [1.0], [2.0], [3.0]]
    flat = qs.FewShotRegressor().fit(x, [5.0] * 4)
    for true in ([5.0] * 4, [6.0] * 4, [5.0, 6.0, 7.0, 5.0]):
        assert flat.score(x, true) == pytest.approx(r2_score(true, flat.predict(x)))
    both = qs.FewShotRegressor().fit(x, [[5.0, 0.0], [5.0, 1.0], [5.0, 2.0], [5.0, 2.0]])
    assert both.score(x, [[5.0, 0.0]] * 4) == pytest.approx(r2_score([[5.0, 0.0]] * 4, both.predict(x)))
    with pytest.warns(UserWarning, match="R squared of one example"):
        assert np.isnan(flat.score([[0.0]], [5.0]))


def test_a_score_takes_what_a_prediction_takes():
    x, y = [[0.0], [1.0], [2.0]], [0.0, 1.0, 2.5]
    taught = qs.FewShotRegressor(nn.Linear(1, 3)).fit(torch.tensor(x), y)
    assert taught.score((row for row in torch.tensor(x)), y) == taught.score(torch.tensor(x), y)


def test_a_saved_line_says_that_it_is_one(cli, tmp_path):
    x, y = data()
    qs.FewShotRegressor().fit(x, y).save(tmp_path / "m")
    done = cli("info", tmp_path / "m")
    assert done.code == 0 and "ridge regression on standardised features" in done.out
    x, y = data(outputs=2)
    qs.FewShotRegressor().fit(x, y).save(tmp_path / "two")
    assert cli("info", tmp_path / "two").code == 0


def test_the_score_is_of_as_many_outputs_as_were_taught():
    x = np.random.default_rng(0).normal(size=(12, 3))
    with pytest.raises(InputError, match="y has 1 outputs for each example, and this model 2"):
        qs.FewShotRegressor().fit(x, x[:, :2]).score(x, x[:, 0])
    with pytest.raises(InputError, match="y has 2 outputs for each example, and this model 1"):
        qs.FewShotRegressor().fit(x, x[:, 0]).score(x, x[:, :2])


@pytest.mark.parametrize("kind", ["datetime64[D]", "timedelta64[s]"])
def test_a_time_that_is_missing_is_missing(kind):
    y = np.array([1, 2, "NaT"], dtype=kind)
    with pytest.raises(InputError, match="NaN or infinity in 1 of 3 examples, first in example 2"):
        qs.FewShotRegressor().fit([[0.0], [1.0], [2.0]], y)


def test_cross_entropy_refuses_quantities():
    """Without the types that tests check."""
    code = (
        "import torch, quickstudy as qs\n"
        "learner = qs.maml(torch.nn.Linear(4, 1), inner_lr=0.5)\n"
        "x = torch.rand(6, 4)\n"
        "try:\n"
        "    qs.FewShotRegressor(learner).fit(x, 100 * x[:, 0])\n"
        "except qs.InputError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cross entropy, which reads class numbers" in done.stdout and "loss='mse'" in done.stdout
