"""Evaluation: the same tasks for everyone, nothing averaged away, and intervals that can be checked by hand."""

import json
import math
import shutil
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import t as student_t
from torch import nn

import quickstudy
from conftest import SINE
from quickstudy.errors import InputError
from quickstudy.evaluation import metrics
from quickstudy.evaluation.evaluate import BATCH, PROTOCOLS, Summary, compare, evaluate, get_protocol, task_batches
from quickstudy.evaluation.thumbnails import collect_thumbnails
from quickstudy.methods.learner import Learner
from quickstudy.rules.criteria import mse
from quickstudy.storage.run import Run
from quickstudy.tasks import Episodes, Gaussians, Sine
from quickstudy.training import config
from quickstudy.training.evaluate_run import evaluate_run
from quickstudy.training.train import train

SMALL = Sine(shots=5, queries=5)


def net(outputs=1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, outputs))


class Answers(Learner):
    """Always the same answer, except for tasks whose phase is beyond a bound: those diverge."""

    def __init__(self, diverges_beyond=math.inf, answer=0.0):
        super().__init__(mse)
        self.beyond, self.answer = diverges_beyond, answer

    def update(self, support, noise, evaluating=False):
        return {"first": support.y[:1, 0]}

    def predict(self, params, x):
        bad = params["first"] > self.beyond
        return torch.where(bad, torch.nan, self.answer).expand(len(x), 1).clone()

    def module(self, params):
        raise NotImplementedError


def evaluate_on(learner, family=SMALL, metric="mse", **options):
    return evaluate(learner, family, metrics.get_metric(metric), **{"n": 60} | options)


# -- the list of tasks --


def test_the_list_is_the_same_today_and_for_every_method():
    """A changed digit means changed tasks or a changed description: earlier numbers are then not comparable."""
    one, other = evaluate_on(quickstudy.maml(net(), loss="mse")), evaluate_on(quickstudy.mtnet(net(), loss="mse"))
    assert one.hash == other.hash == "d86b1cec5489"
    assert not np.array_equal(one.values, other.values)


@pytest.mark.parametrize(
    "change",
    [{"n": 61}, {"seed": 1}, {"split": "val"}, {"family": Sine(shots=6, queries=5)}, {"family": Sine(5, 6)}],
    ids=str,
)
def test_another_list_has_another_name(change):
    assert evaluate_on(Answers(), **change).hash != evaluate_on(Answers()).hash


def test_a_family_that_says_too_little_still_has_its_sizes_in_the_hash():
    @dataclass(frozen=True)
    class Terse(Sine):
        def describe(self):
            return {}

        def sample(self, draws, size, part):
            support, query, _ = super().sample(draws, size, part)
            return support, query, {}

    assert evaluate_on(Answers(), Terse(queries=5)).hash != evaluate_on(Answers(), Terse(queries=6)).hash


def test_episodes_of_a_users_own_need_no_classes_and_no_names():
    class Plain(Episodes):
        names: ClassVar = {0: "zero"}

        def sample(self, draws, size, part):
            support, query, about = super().sample(draws, size, part)
            return support, query, {} if self.shots == 2 else about

    images, labels = np.random.default_rng(0).random((40, 1, 6, 6), dtype=np.float32), np.arange(40) % 4
    learner = quickstudy.protonet(nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), 4)
    for shots in (1, 2):
        own = Plain(images, labels, {"test": np.arange(40)}, ways=2, shots=shots, queries=2)
        summary = evaluate(learner, own, metrics.get_metric("accuracy"), n=20)
        shown = collect_thumbnails(own, "test", summary.example, [summary.confusion])
        assert ("confusion" in shown) == (shots == 1)
        assert [own.class_name(label) for label in (0, 3)] == ["zero", "3"] and "3" in shown["names"]


def test_a_shorter_list_is_the_beginning_of_a_longer_one():
    short, long = evaluate_on(Answers(), n=BATCH + 7), evaluate_on(Answers(), n=2 * BATCH + 1)
    assert np.array_equal(short.values, long.values[: BATCH + 7])
    assert [len(part.key) for part in task_batches(SMALL, "test", 2 * BATCH + 1, 0)] == [BATCH, BATCH, 1]


def test_a_task_counts_the_same_wherever_it_stands():
    learner = quickstudy.mtnet(net(), loss="mse")
    together = evaluate_on(learner, n=BATCH).values
    source = SMALL.source("test", seed=0, size=BATCH)
    with torch.no_grad():
        alone = [float(learner(source(0, slice(i, i + 1)), evaluating=True).loss[0]) for i in range(5)]
    assert together[:5] == pytest.approx(alone, rel=1e-5)  # float32: the sums run in another order


# -- values --


def test_diverged_tasks_are_counted_and_not_averaged():
    tasks = SMALL.source("test", seed=0, size=BATCH)(0)
    bad = (tasks.support.y[:, 0, 0] > 1.0).numpy()
    assert 0 < bad.sum() < BATCH
    summary = evaluate_on(Answers(diverges_beyond=1.0), n=BATCH)
    mean_square = tasks.query.y.square().mean((1, 2)).numpy()[~bad].astype(np.float64)
    assert np.array_equal(np.isnan(summary.values), bad)
    assert (summary.spread.finite, summary.spread.tasks) == (BATCH - bad.sum(), BATCH)
    assert summary.spread.mean == pytest.approx(mean_square.mean(), rel=1e-6)
    assert f"({bad.sum()} of {BATCH} diverged)" in str(summary.spread)


def test_no_finite_task_has_no_mean():
    spread = evaluate_on(Answers(diverges_beyond=-math.inf)).spread
    assert math.isnan(spread.mean) and math.isnan(spread.interval) and spread.finite == 0


def test_no_outer_graph_is_built():
    """Adaptation differentiates inside; the query loss is taken without a graph, and no output carries one."""
    seen = []

    def spy(output, y):
        seen.append((torch.is_grad_enabled(), output.requires_grad))
        return mse(output, y)

    learner = quickstudy.maml(net(), loss=spy, inner_loss="mse", inner_steps=3)
    learner.engine = quickstudy.Engine("loop")  # under vmap a tensor does not tell whether it carries a graph
    summary = evaluate_on(learner)
    assert seen and not any(any(flags) for flags in seen)
    assert all(p.grad is None for p in learner.parameters())
    assert isinstance(summary.values, np.ndarray)
    learner.meta_gradient(SMALL.source("train", size=2)(0))  # the first one also checks a loss of the user's
    seen.clear()
    learner.meta_gradient(SMALL.source("train", size=2)(0))
    assert seen and all(all(flags) for flags in seen)  # or the spy would see nothing


# -- comparing --


def summary(values, name="mse", tasks="same"):
    metric = metrics.get_metric(name)
    return Summary(metric, np.asarray(values, dtype=np.float32), np.asarray(values, dtype=np.float32), tasks, {})


def test_a_paired_difference_is_what_the_hand_finds():
    difference = compare(summary([1, 2, 3, 4]), summary([2, 2, 5, 3]))
    # Differences 1, 0, 2, -1: mean .5, variance (.25 + .25 + 2.25 + 2.25) / 3 = 5 / 3; t of 3 is 3.182446.
    assert difference.spread.mean == 0.5
    assert difference.spread.interval == pytest.approx(3.182446 * math.sqrt(5 / 3 / 4), rel=1e-6)
    assert (difference.spread.tasks, difference.left_out) == (4, 0)


def test_pairing_removes_what_the_tasks_share():
    tasks = np.linspace(0, 100, 50)
    difference = compare(summary(tasks), summary(tasks + 1))
    assert difference.spread.mean == pytest.approx(1) and difference.spread.interval < 1e-4


def test_tasks_that_one_of_two_failed_are_not_left_out_in_silence():
    one, other = summary([1, math.nan, 3, math.nan]), summary([2, 2, math.inf, math.nan])
    with pytest.raises(InputError, match="On 2 of 4 tasks one of the two diverged.*--drop-unequal"):
        compare(one, other)
    difference = compare(one, other, drop_unequal=True)
    assert (difference.spread.mean, difference.spread.tasks, difference.left_out) == (1, 1, 3)
    assert compare(summary([1, math.nan]), summary([3, math.nan])).left_out == 1  # both failed: nobody is favoured


def test_only_like_is_compared_with_like():
    with pytest.raises(InputError, match="different tasks .lists same and other.*same tasks, split, seed"):
        compare(summary([1]), summary([1], tasks="other"))
    with pytest.raises(InputError, match="The metrics differ: mse and mae"):
        compare(summary([1]), summary([1], name="mae"))


# -- metrics --


@pytest.mark.parametrize(
    ("name", "output", "y", "value"),
    [
        ("accuracy", [[2.0, 1.0], [0.0, 5.0], [3.0, 4.0]], [0, 1, 0], 2 / 3),
        ("accuracy", [[2.0, math.nan], [0.0, 5.0]], [0, 1], math.nan),
        ("binary_accuracy", [[1.0], [-1.0], [-2.0], [3.0]], [[1.0], [1.0], [0.0], [0.0]], 0.5),
        ("binary_accuracy", [[math.nan], [1.0]], [[1.0], [1.0]], math.nan),
        ("mse", [[1.0], [4.0]], [[0.0], [2.0]], 2.5),
        ("mse", [[1.0, 3.0]], [[0.0, 0.0]], 5.0),
        ("mae", [[1.0], [-4.0]], [[0.0], [2.0]], 3.5),
    ],
)
def test_metrics_are_what_the_hand_finds_with_and_without_a_task_axis(name, output, y, value):
    measure = metrics.get_metric(name).measure
    output, y = torch.tensor(output), torch.tensor(y)
    assert float(measure(output, y)) == pytest.approx(value, nan_ok=True)
    assert measure(output.expand(3, *output.shape), y.expand(3, *y.shape)).tolist() == pytest.approx(
        [value] * 3, nan_ok=True
    )


def test_an_interval_is_students():
    spread = metrics.compute_spread(np.array([0.0, 0.0, 1.0, 1.0]))
    assert (spread.mean, spread.interval) == (0.5, pytest.approx(3.182446 * (1 / 3) ** 0.5 / 2))
    many = metrics.compute_spread(np.arange(600.0) % 2)
    assert many.interval == pytest.approx(1.96 * 0.5 / 600**0.5, rel=4e-3)


@pytest.mark.parametrize("tasks", [2, 3, 5, 30])
def test_an_interval_of_few_tasks_covers_the_mean_as_often_as_it_says(tasks):
    draws = np.random.default_rng(0).normal(1, 3, size=(4000, tasks))
    covered = np.mean([abs(s.mean - 1) <= s.interval for s in map(metrics.compute_spread, draws)])
    assert abs(covered - 0.95) < 0.012  # 3.5 standard errors of the share


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([3.0], "3 (one task)"),
        ([math.nan, 3.0, math.inf], "3 (one task) (2 of 3 diverged)"),
        ([math.nan], "nan (1 of 1 diverged)"),
        ([3.0, 3.0], "3 ± 0"),
    ],
)
def test_one_task_has_no_interval(values, words):
    spread = metrics.compute_spread(np.array(values))
    assert str(spread) == words
    assert math.isfinite(spread.interval) == (len(values) == 2)
    assert spread.sign == spread.decides == (len(values) == 2)


def test_one_task_has_no_interval_wherever_it_is_shown(cli, run):
    shutil.copytree("run", "other")
    evaluated = cli("evaluate", "run", "--evaluate.tasks", "1", "--json")
    assert json.loads(evaluated.out)["interval"] == "nan"
    for words in (("evaluate", "run"), ("compare", "run", "other")):
        shown = cli(*words, "--evaluate.tasks", "1")
        assert "(one task)" in shown.out and "± 0" not in shown.out and "± nan" not in shown.out
    assert "+0 (one task), not distinguishable" in shown.out
    compared = [
        json.loads(line) for line in cli("compare", "run", "other", "--evaluate.tasks", "1", "--json").out.splitlines()
    ]
    assert compared[0]["interval"] == compared[1]["difference"]["interval"] == "nan"


def test_a_wide_interval_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).exponential(size=(2000, 400))
    covered = np.mean([abs(s.mean - 1) <= s.interval for s in map(metrics.compute_spread, draws)])
    # Skewed data at 400 tasks: a little under 95%; the standard error of the share is .5%.
    assert 0.93 < covered < 0.965


# -- runs --


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    setup = config.build(config.parse_config(SINE))
    run = Run.create(tmp_path_factory.mktemp("once") / "run", setup.config.model_dump(mode="json"))
    train(setup, run)
    return run.path


@pytest.fixture
def run(place, trained_once):
    shutil.copytree(trained_once, "run")
    return Run.open("run")


def test_a_result_is_kept_and_printed_with_its_list(cli, run):
    done = cli("evaluate", "run", "--name", "mine", "--evaluate.tasks", 30)
    (result,) = run.results().values()
    assert result.summary["hash"] in done.out and "30 of test" in done.out
    assert done.err.startswith("note: run: sine: shots 5, queries 5, amplitude 0.1 to 5,")
    assert result.summary["mean"] == pytest.approx(result.arrays["metric"].mean(), rel=1e-6)
    assert len(result.arrays["metric"]) == 30 and list(run.results()) == ["mine"]
    assert result.arrays["query_x"].shape == result.arrays["output"].shape == (5, 1)


def test_evaluating_twice_gives_the_same_bits(run):
    assert {k: v for k, v in evaluate_run(run).items() if k != "adapt_ms"} == {
        k: v for k, v in evaluate_run(run).items() if k != "adapt_ms"
    }


def test_more_steps_and_other_options_can_be_asked_for(run):
    plain = evaluate_run(run)
    more = evaluate_run(run, overrides=["--method.eval_inner_steps", "4"])
    assert more["hash"] == plain["hash"] and more["mean"] != plain["mean"]
    other = evaluate_run(run, overrides=["--evaluate.options", "{queries: 9}"])
    assert (
        other["hash"] != plain["hash"]
        and other["data"]["queries"] == 9
        and run.results()["test"].arrays["output"].shape == (9, 1)
    )
    assert evaluate_run(run, overrides=["--evaluate.metric", "mae"])["metric"] == "mae"
    assert evaluate_run(run, "last")["checkpoint"] == "last"


def test_repeats_are_summed_up_by_the_deviation_of_their_means(run, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "few", type(get_protocol("finn"))("few", 30, 3))
    summary = evaluate_run(run, protocol="few")
    parts = [evaluate_run(run, overrides=["--evaluate.tasks", "30", "--evaluate.seed", str(seed)]) for seed in range(3)]
    means = [part["mean"] for part in parts]
    assert summary["mean"] == pytest.approx(np.mean(means), rel=1e-12)
    assert summary["interval"] == pytest.approx(np.std(means, ddof=1), rel=1e-12)
    assert summary["hash"] == "+".join(part["hash"] for part in parts)
    assert (summary["tasks"], summary["finite"]) == (90, 90) and "3 task lists" in summary["spread"]


def test_the_published_protocols_are_those():
    assert {name: (p.tasks, p.repeats) for name, p in PROTOCOLS.items()} == {
        "finn": (600, 1),
        "closerlook": (600, 1),
        "hypermaml": (600, 5),
        "libfewshot": (2000, 5),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "bset"], "no checkpoint `bset`. Did you mean `best`"),
        (["--protocol", "fin"], "no protocol 'fin'. Did you mean `finn`"),
        (["--protocol", "finn", "--evaluate.tasks", "5"], "Give one of them"),
        (["--name", "a/b"], "'a/b' cannot name a file"),
        (["--evaluate.split", "tset"], "no split 'tset'. Did you mean `test`"),
        (["--evaluate.metric", "accuracy"], "does not fit these tasks"),
        (["--evaluate.tasks", "0"], "greater than or equal to 1"),
        (["--method", "tnet"], "another method or model"),
        (["--model.hidden", "[9]"], "has shape [8, 1], not [9, 1]"),
        (["--train.steps", "9"], "`--train.steps` belongs to the training of run"),
        (["--seed", "9"], "`--seed` belongs to the training of run"),
        (["--method.eval_steps", "9"], "no option of 'maml'"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(cli, run, words, message):
    done = cli("evaluate", "run", *words)
    assert done.code == 2 and message in done.err and run.results() == {}


def test_a_model_of_fewer_ways_is_not_evaluated_on_more(cli, place):
    settings = ["--model.filters", 4, "--train.steps", 1, "--train.meta_batch_size", 1, "--train.validate_every", 0]
    assert cli("train", "digits-maml", *settings, "--out", "run", "--no-tensorboard").code == 0
    for ways in (3, 7):
        done = cli("evaluate", "run", "--evaluate.options.ways", ways)
        assert done.code == 2, done.err
        assert "Give the model 3 outputs" in done.err if ways == 3 else "out of bounds" in done.err


def test_a_run_that_diverged_is_reported_as_such(cli, run):
    tensors, state = run.load("last")
    with run.writing():
        # Finite, or the checkpoint would be refused; the outputs are not.
        broken = {n: t * 1e30 if n.startswith("model.") else t for n, t in tensors.items()}
        run.save("last", broken, state)
    done = cli("evaluate", "run", "--checkpoint", "last")
    assert done.code == 0 and "all 20 tasks diverged" in done.out
    done = cli("evaluate", "run", "--checkpoint", "last", "--json")
    told = json.loads(done.out, parse_constant=pytest.fail)
    assert told["mean"] == "nan" and told["finite"] == 0
    assert cli("compare", "run", "run").code == 0
    done = cli("compare", "run", "run", "--checkpoint", "last", "--json")
    assert [json.loads(line, parse_constant=pytest.fail)["mean"] for line in done.out.splitlines()] == ["nan", "nan"]


def test_comparing_runs_pairs_their_tasks(cli, run):
    assert cli("train", "sine.yaml", "--method", "mtnet", "--out", "other", "--no-tensorboard").code == 0
    done = cli("compare", "run", "other", "--json", "--evaluate.tasks", 40)
    first, second = map(json.loads, done.out.splitlines())
    assert first["hash"] == second["hash"] and first["difference"] is None
    values = []
    for name in ("run", "other"):
        evaluate_run(Run.open(name), overrides=["--evaluate.tasks", "40"])
        values.append(Run.open(name).results()["test"].arrays["metric"].astype(np.float64))
    gaps = values[1] - values[0]
    assert second["difference"]["mean"] == pytest.approx(gaps.mean(), rel=1e-4)  # float32 values, subtracted in float64
    half = student_t.ppf(0.975, 39) * gaps.std(ddof=1) / math.sqrt(40)
    assert second["difference"]["interval"] == pytest.approx(half, rel=1e-4)
    done = cli("compare", "run", "other", "--evaluate.tasks", 40)
    assert first["hash"] in done.out and "reference" in done.out and "95% interval over tasks" in done.out
    assert cli("train", "sine.yaml", "--tasks.shots", 6, "--out", "third", "--no-tensorboard").code == 0
    done = cli("compare", "run", "third")
    assert done.code == 2 and "different tasks" in done.err
    assert cli("train", "sine.yaml", "--evaluate.metric", "mae", "--out", "fourth", "--no-tensorboard").code == 0
    done = cli("compare", "run", "fourth")
    assert done.code == 2 and "run is evaluated by mse, and fourth by mae" in done.err


def test_losses_are_summed_up_beside_the_metric():
    summary = evaluate_on(quickstudy.maml(nn.Linear(2, 2), loss="cross_entropy"), Gaussians(), "accuracy")
    assert 0 < summary.loss.mean != summary.spread.mean
    assert all(low <= high for low, high in pairwise([0.0, summary.spread.mean, 1.0]))
