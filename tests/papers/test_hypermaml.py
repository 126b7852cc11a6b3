"""HyperMAML's tables and figures: trainings that are shared and vary as they should, measures with known answers."""

import numpy as np
import pytest
import torch
from made import at, at_smoke, row_of

from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import BATCH, task_batches
from quickstudy.methods.registry import METHODS
from quickstudy.models import nets
from quickstudy.papers.catalog import item
from quickstudy.papers.hypermaml.measures import (
    classifier,
    finetuned_copy,
    forward_passes,
    metric_after_finetuning,
    planar,
    seconds,
    update_norm,
)
from quickstudy.papers.hypermaml.models import conv4_unpooled
from quickstudy.papers.runner.claims import decide
from quickstudy.papers.runner.figures import draw
from quickstudy.papers.runner.items import SCALES
from quickstudy.papers.runner.measures import Trained, evaluate_metric
from quickstudy.storage.run import Run
from quickstudy.tasks import Gaussians
from quickstudy.training import config
from quickstudy.training.train import train
from quickstudy.types import pick

TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5 = (item("hypermaml", f"table-{number}") for number in range(1, 6))
FIGURE = item("hypermaml", "figure-1-3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """MAML and HyperMAML in the plane after a few steps."""
    made = {}
    for name, steps in (("maml-1", 20), ("hypermaml", 60)):
        path = tmp_path_factory.mktemp("runs") / name
        setup = config.build(config.parse_config(row_of(FIGURE, name).config, [f"--train.steps={steps}"]))
        run = Run.create(path, setup.config.model_dump(mode="json"))
        train(setup, run)
        made[name] = Trained(run, 0)
    return made


@pytest.mark.parametrize("scale", SCALES)
def test_tables_that_need_the_same_training_ask_for_the_same_one(scale):
    def one(table, name):
        return at(table, row_of(table, name), scale)

    own = one(TABLE_2, "hypermaml-characters-1")
    assert own == one(TABLE_3, "hypermaml") == one(TABLE_4, "hypermaml")
    assert (own == one(TABLE_5, "both")) is (scale != "cpu"), "there table 5's twelve trainings are half as long"
    assert own == one(TABLE_4, "finetuned-10") and one(TABLE_5, "both") == one(TABLE_5, "finetuned-10")
    maml = one(TABLE_2, "maml-characters-1")
    assert maml == one(TABLE_3, "maml") == one(TABLE_4, "maml-0") == one(TABLE_4, "maml-100")
    assert own != maml


def test_table_5_varies_one_thing_at_a_time():
    full = {row.name: at(TABLE_5, row, "full") for row in TABLE_5.rows}
    rates = {name: one.train.meta_lr for name, one in full.items()}
    assert rates["plain"] == rates["enhanced"] == 1e-4, "the paper's cells without the switch"
    assert {rates[name] for name in ("switched", "both", "plain-equal", "enhanced-equal", "loss-mixing")} == {0.01}
    equal = [full[name] for name in ("plain-equal", "enhanced-equal", "switched", "both")]
    assert len({one.train.milestones for one in equal}) == 1
    assert [bool(one.train.schedules) for one in equal] == [False, False, True, True]
    assert [one.method.options.get("enhance", True) for one in equal] == [False, True, False, True]
    assert full["loss-mixing"].method.options["mixing"] == "loss"


@pytest.mark.parametrize(
    ("table", "row", "epochs", "updates", "ends"),
    [(TABLE_2, "hypermaml-characters-1", 2048, 3, (50, 500)), (TABLE_1, "hypermaml-cub-5", 4000, 25, (100, 1000))],
)
def test_the_switch_follows_the_released_schedule(table, row, epochs, updates, ends):
    """p(t) = 1, then (W + S - t) / (S + 1) over S epochs, then 0; it stays through an epoch."""
    full = at(table, row_of(table, row), "full").train
    assert full.steps == epochs * updates
    warm_up, switch = ends
    assert full.milestones == ((warm_up + 1) * updates, (warm_up + switch) * updates)
    for epoch in (0, warm_up - 1, warm_up, warm_up + 7, warm_up + switch - 1, warm_up + switch, epochs):
        p = min(max((warm_up + switch - epoch) / (switch + 1), 0.0), 1.0)
        for step in (epoch * updates, (epoch + 1) * updates - 1):
            assert full.schedules["rule.weights"].at(step) == pytest.approx([1 - p, p])


def test_an_update_is_the_step_times_the_gradients_norm(trained):
    """MAML's update of a linear classifier in one step of .1: .1 |e x'| / n, with e = softmax - one-hot."""
    one = trained["maml-1"]
    learner = one.setup().learner
    batch = next(iter_batch(one, 8))
    theta = {name: value.detach() for name, value in learner.params().items()}
    for of in ("weight", "bias"):
        reading = update_norm(one, of=of, tasks=8)
        for i in range(8):
            support = pick(batch.support, i)
            output = support.x @ theta["head.weight"].T + theta["head.bias"]
            error = output.softmax(-1) - torch.nn.functional.one_hot(support.y, 2)
            own = error.T @ support.x if of == "weight" else error.sum(0)
            assert reading.each[i] == pytest.approx(0.1 * float(own.norm()) / len(support.y), rel=1e-4)
        assert reading.value == pytest.approx(reading.each.mean())
    emitted = update_norm(trained["hypermaml"], tasks=8)
    assert emitted.tasks == reading.tasks, "both are read on the same tasks"


def iter_batch(one, tasks):
    return task_batches(one.setup().eval_family, "test", tasks, 0)


def test_the_classifier_is_found_in_a_net_and_alone():
    with pytest.raises(InputError, match="no classifier among what adapts: fc"):
        classifier({"fc": torch.ones(1)})


def test_finetuning_moves_a_copy_by_adams_first_step(double):
    """Adam's first step is the rate times the sign of the gradient, in every number that has one."""
    model = nets.mlp(2, 2, hidden=(6,), std=None)
    learner, _ = config.build_part(
        config.Part.model_validate({"name": "hypermaml", "width": 8}), METHODS, "method", model=model
    )
    tasks = Gaussians(shots=3).source("test", seed=0, size=1)(0)
    support, query = (part._replace(x=part.x.double()) for part in pick((tasks.support, tasks.query), 0))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    loss = learner.criterion(learner.predict(learner.update(support, {}, evaluating=True), support.x), support.y)
    names = list(learner.meta_params())
    gradients = dict(zip(names, torch.autograd.grad(loss, list(learner.meta_params().values())), strict=True))
    assert any(name.startswith("rule.") for name in names), "the hypernetwork is in the loop"

    tuned = finetuned_copy(learner, support, {}, 1, 1e-4)
    for name, value in tuned.meta_params().items():
        felt = gradients[name].abs() > 1e-5
        moved = (value - before[name])[felt]
        torch.testing.assert_close(moved, -1e-4 * gradients[name][felt].sign(), rtol=1e-2, atol=0)
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), "the learner itself stays as it is"
    same = finetuned_copy(learner, support, {}, 0, 1e-4).evaluate(support, query, {}).output
    assert torch.equal(same, learner.evaluate(support, query, {}).output)


def test_hypershot_is_finetuned_in_all_of_its_parameters(double):
    model = nets.mlp(2, 2, hidden=(6,), std=None)
    learner, _ = config.build_part(
        config.Part.model_validate({"name": "hypershot", "hidden": [5], "target": [4]}), METHODS, "method",
        model=model, outputs=2,
    )  # fmt: skip
    tasks = Gaussians(shots=3).source("test", seed=0, size=1)(0)
    support = pick(tasks.support, 0)
    support = support._replace(x=support.x.double())
    tuned = finetuned_copy(learner, support, {}, 1, 1e-4)
    before = learner.meta_params()
    moved = {name: float((value - before[name]).detach().abs().max()) for name, value in tuned.meta_params().items()}
    assert {name.partition(".")[0] for name, by in moved.items() if by > 0} == {"body", "network"}
    assert max(moved.values()) == pytest.approx(1e-4, rel=1e-2)


def test_the_net_of_the_relation_module_keeps_maps():
    for side, maps in ((84, 19), (42, 9), (32, 6), (28, 5)):
        net = conv4_unpooled((3, side, side), 5, filters=4)
        assert net[:-2](torch.zeros(2, 3, side, side)).shape == (2, 4, maps, maps)
        assert net(torch.zeros(2, 3, side, side)).shape == (2, 5)


def test_no_finetuning_is_an_evaluation(trained):
    one = trained["hypermaml"]
    none, usual = (
        metric_after_finetuning(one, steps=0, tasks=12, times=100.0),
        evaluate_metric(one, tasks=12, times=100.0),
    )
    assert none.tasks == usual.tasks
    np.testing.assert_allclose(none.each, usual.each)
    many = metric_after_finetuning(one, steps=50, rate=3e-2, tasks=12, times=100.0)
    assert many.value > none.value, "after 60 steps of training there is something left to learn"


def test_time_is_that_of_the_steps_and_scales_with_the_tasks(trained):
    """A hundred steps are slower than none by far more than any noise."""
    none, many = (seconds(trained["maml-1"], timed=5, settings={"method.eval_inner_steps": k}).value for k in (0, 100))
    assert many > 5 * none > 0
    reading = seconds(trained["maml-1"], timed=5, of=10)
    assert len(reading.each) == 5
    assert reading.more["tasks"] == 10
    assert (
        seconds(trained["hypermaml"], timed=3, finetuning=40).value > 5 * seconds(trained["hypermaml"], timed=3).value
    )
    passes = [
        forward_passes(trained["maml-1"], timed=5, settings={"method.eval_inner_steps": k}).value for k in (0, 100)
    ]
    assert passes[1] > 5 * passes[0]


def test_more_tasks_are_timed_than_an_evaluation_has_in_a_batch(trained):
    assert len(seconds(trained["hypermaml"], timed=BATCH).each) == BATCH
    assert len(forward_passes(trained["hypermaml"], timed=2 * BATCH).each) == 2 * BATCH


def test_a_method_without_parameters_to_move_is_refused(tmp_path):
    raw = {
        "tasks": {"name": "gaussians", "shots": 2},
        "method": "nearest_neighbour",
        "train": {"steps": 0, "validate_every": 0},
    }
    setup = config.build(config.parse_config(raw))
    run = Run.create(tmp_path / "nn", setup.config.model_dump(mode="json"))
    train(setup, run)
    with pytest.raises(InputError, match="nearest_neighbour moves no parameters"):
        forward_passes(Trained(run, 0))


def test_the_plane_shows_what_was_judged(trained):
    one = trained["maml-1"]
    whole, worst = planar(one, tasks=60), planar(one, tasks=60, worst=True)
    assert worst.value == min(whole.arrays["by_kind"])
    usual = evaluate_metric(one, tasks=60, times=100.0)
    assert (whole.value, whole.tasks) == (usual.value, usual.tasks)
    kinds = torch.cat([batch.about["kind"] for batch in iter_batch(one, 60)])
    shares = [float((kinds == kind).float().mean()) for kind in range(4)]
    assert whole.value == pytest.approx(sum(s * v for s, v in zip(shares, whole.arrays["by_kind"], strict=True)))
    theta, phi = whole.arrays["theta"], whole.arrays["phi"]
    assert (theta.shape, phi.shape, whole.arrays["query_x"].shape) == ((2, 3), (4, 2, 3), (4, 30, 2))
    for kind in range(4):
        x, y = (whole.arrays[f"support_{axis}"][kind] for axis in "xy")
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        e = np.exp(x @ theta.T)
        error = e / e.sum(1, keepdims=True) - np.eye(2)[y]
        np.testing.assert_allclose(phi[kind], theta - 0.1 * error.T @ x / len(x), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="Judge on more tasks"):
        planar(one, tasks=2)


def test_figures_of_the_plane_from_tasks_to_picture(tmp_path):
    here = at_smoke(FIGURE, tmp_path, [row.name for row in FIGURE.rows[:3]])
    for name, panels in (("figure-1", 10), ("figure-3", 15), ("tasks", 4)):
        assert sum(axes.has_data() for axes in draw(here, name).axes) == panels
    assert all(decide(claim, here).holds is None for claim in FIGURE.claims[:4]), "one seed decides nothing"


@pytest.mark.slow
@pytest.mark.parametrize("table", [TABLE_3, TABLE_4, TABLE_5], ids=lambda table: table.name)
def test_the_tables_on_characters_from_tasks_to_picture(table, tmp_path, real):
    for name in ("omniglot", "emnist"):
        real(name)
    here = at_smoke(table, tmp_path)
    assert len(here.readings) == sum(len(row.cells) for row in table.rows)
    for name in table.figures:
        draw(here, name).canvas.draw()
