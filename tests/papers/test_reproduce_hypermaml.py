"""HyperMAML's tables and figures: their data, measures with known answers, claims that can fail, pictures that draw."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from quickstudy.errors import InputError
from quickstudy.methods.registry import METHODS
from quickstudy.models import nets
from quickstudy.papers.hypermaml import ITEMS, TABLE_2, TABLE_3, TABLE_4, claims
from quickstudy.papers.hypermaml import quoted as paper
from quickstudy.papers.hypermaml import setup as setups
from quickstudy.papers.hypermaml.measures import classifier, finetuned_copy, forward_passes, planar, seconds
from quickstudy.papers.hypermaml.variants import FIGURE_1_3, TABLE_5
from quickstudy.papers.runner.items import Found, Item, Missing
from quickstudy.papers.runner.measures import MEASURES, Reading, Trained, overrides
from quickstudy.papers.runner.rows import SCALES, Cell, Row
from quickstudy.papers.runner.work import Plan, found, work
from quickstudy.storage.run import Run
from quickstudy.tasks import Gaussians
from quickstudy.training import config
from quickstudy.training.config import schedule
from quickstudy.training.config.overrides import apply_overrides
from quickstudy.training.train import train
from quickstudy.training.watcher import Watcher
from quickstudy.types import pick

RUN = [(item, row) for item in ITEMS for row in item.rows if row.config is not None]


def asked(item, row, scale):
    """A row's configuration at a scale, as the runner makes it."""
    settings = {**item.scales[scale].settings, **row.scales.get(scale, {})}
    return config.parse_config(apply_overrides(row.config, overrides(settings)))


def row_of(item, name):
    return next(row for row in item.rows if row.name == name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """MAML and HyperMAML in the plane after a few steps."""
    made = {}
    for name, steps in (("maml-1", 20), ("hypermaml", 60)):
        path = tmp_path_factory.mktemp("runs") / name
        setup = config.build(config.parse_config(row_of(FIGURE_1_3, name).config, [f"--train.steps={steps}"]))
        run = Run.create(path, setup.config.model_dump(mode="json"))
        train(setup, run)
        made[name] = Trained(run, 0)
    return made


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_every_item_is_whole(item):
    names = [row.name for row in item.rows]
    assert len(set(names)) == len(names), "rows are told apart by their names"
    assert set(item.scales) == set(SCALES)
    for row in item.rows:
        assert row.cells, f"{row.name} has no number"
        assert row.quoted == (row.config is None), f"{row.name} is quoted or trained"
        if row.quoted:
            assert all(cell.reported for cell in row.cells.values())
        for cell in row.cells.values():
            assert cell.measure is None or cell.measure in MEASURES
        assert item is FIGURE_1_3 or row.quoted or row.stand_in, f"{row.name} does not say what its data stand for"


def test_every_training_builds_at_every_scale():
    """The net and the method of each configuration, for its own pictures; what a schedule moves is there."""
    done = set()
    for (item, row), scale in itertools.product(RUN, SCALES):
        one = asked(item, row, scale)
        if one.tasks.name == "gaussians":
            config.build(one)
            continue
        test = one.tasks.options["test"]
        channels, side = (3, test["size"]) if "size" in test else (1, 28)
        key = repr((one.model, one.method, side, sorted(one.train.schedules)))
        if key in done or (side == 84 and "resnet12" in key):
            continue
        done.add(key)
        context = {"inputs": (channels, side, side), "outputs": 5, "train_outputs": 7}
        net, _ = config.build_part(one.model, nets.NETS, "model", None, **context)
        learner, _ = config.build_part(one.method, METHODS, "method", {"loss": "cross_entropy"}, model=net, **context)
        schedule.check_schedules(learner, one.train.schedules)
    assert len(done) > 60


@pytest.mark.slow
def test_every_quick_training_builds_on_the_pictures(real):
    for name in ("omniglot", "emnist", "cub", "mini_imagenet"):
        real(name)
    done = set()
    for item, row in RUN:
        one = asked(item, row, "quick")
        if repr(one) not in done:
            done.add(repr(one))
            setup = config.build(one)
            assert setup.family.source("train", seed=0, size=1)(0).support.y.numel()
            assert setup.judged.of_split("test").source("test", seed=0, size=1)(0).query.y.numel() == 75 or (
                one.tasks.name == "gaussians"
            )


def test_pictures_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    with pytest.raises(InputError, match="quickstudy data prepare omniglot"):
        config.build(asked(TABLE_3, row_of(TABLE_3, "hypermaml"), "full"))


@pytest.mark.parametrize("scale", SCALES)
def test_tables_that_need_the_same_training_ask_for_the_same_one(scale):
    def one(item, name):
        return asked(item, row_of(item, name), scale)

    own = one(TABLE_2, "hypermaml-characters-1")
    assert own == one(TABLE_3, "hypermaml") == one(TABLE_4, "hypermaml") == one(TABLE_5, "both")
    assert own == one(TABLE_4, "finetuned-10") == one(TABLE_5, "finetuned-10")
    maml = one(TABLE_2, "maml-characters-1")
    assert maml == one(TABLE_3, "maml") == one(TABLE_4, "maml-0") == one(TABLE_4, "maml-100")
    assert own != maml


def test_table_5_varies_one_thing_at_a_time():
    full = {row.name: asked(TABLE_5, row, "full") for row in TABLE_5.rows}
    rates = {name: one.train.meta_lr for name, one in full.items()}
    assert rates["plain"] == rates["enhanced"] == 1e-4, "the paper's cells without the switch"
    assert {rates[name] for name in ("switched", "both", "plain-equal", "enhanced-equal", "loss-mixing")} == {0.01}
    equal = [full[name] for name in ("plain-equal", "enhanced-equal", "switched", "both")]
    assert len({one.train.milestones for one in equal}) == 1
    assert [bool(one.train.schedules) for one in equal] == [False, False, True, True]
    assert [one.method.options.get("enhance", True) for one in equal] == [False, True, False, True]
    assert full["loss-mixing"].method.options["mixing"] == "loss"


@pytest.mark.parametrize(("domain", "shots", "ends"), [(setups.CHARACTERS, 1, (50, 500)), (setups.CUB, 5, (100, 1000))])
def test_the_switch_follows_the_released_schedule(domain, shots, ends):
    """p(t) = 1, then (W + S - t) / (S + 1) over S epochs, then 0; it stays through an epoch."""
    ramp = asked_of(setups.hypermaml(domain, shots)).train.schedules["rule.weights"]
    warm_up, switch = ends
    for epoch in (0, warm_up - 1, warm_up, warm_up + 7, warm_up + switch - 1, warm_up + switch, domain.epochs):
        p = min(max((warm_up + switch - epoch) / (switch + 1), 0.0), 1.0)
        for step in (epoch * domain.updates, (epoch + 1) * domain.updates - 1):
            assert ramp.at(step) == pytest.approx([1 - p, p])


def asked_of(training):
    return config.parse_config(training.config)


def test_numbers_are_the_papers():
    """Each table at its first, its last and some odd places, as the paper prints them."""
    said = {(one.value, one.interval) for one in paper.TABLE_1["SignMAML"].values()}
    assert said == {(42.90, 1.50), (60.70, 0.70)}
    assert paper.TABLE_1["Unicorn-MAML"]["mini-ImageNet 1-shot"].interval is None
    assert list(paper.TABLE_1["FEAT"]) == list(paper.IN_DOMAIN)
    assert paper.TABLE_6["ProtoNet"]["CUB 1-shot"].value == 52.52
    assert paper.TABLE_6["PAMELA"]["mini-ImageNet 5-shot"].value == 70.51
    assert paper.TABLE_2["MatchingNet"]["Omniglot to EMNIST 1-shot"].interval == 2.09
    assert paper.TABLE_2["HyperMAML"]["mini-ImageNet to CUB 5-shot"].value == 49.43
    assert paper.TABLE_3["HyperMAML"]["bias"].value == 27.72
    assert paper.TABLE_4["100"]["seconds"].value == 212.62
    assert paper.TABLE_7["MAML"]["mini-ImageNet 5-shot"].value == 80.81
    assert paper.TABLE_8["2"]["mini-ImageNet accuracy"].value == 48.71
    counts = {"1": 12, "2": 13, "3": 2, "4": 11, "6": 38, "7": 21, "8": 9}
    assert {number: len(getattr(paper, f"TABLE_{number}")) for number in counts} == counts
    for shared in set(paper.TABLE_1) & set(paper.TABLE_6):
        values = [[one.value for one in table[shared].values()] for table in (paper.TABLE_1, paper.TABLE_6)]
        assert values[0] == values[1], f"{shared} has the same numbers in tables 1 and 6"


def test_the_same_quantity_with_four_values_shows_all():
    (cell,) = row_of(TABLE_2, "hypermaml-characters-1").cells.values()
    assert [one.value for one in cell.reported] == [79.07, 79.84, 80.78, 79.10]


def test_an_update_is_the_step_times_the_gradients_norm(trained):
    """MAML's update of a linear classifier in one step of .1: .1 |e x'| / n, with e = softmax - one-hot."""
    one = trained["maml-1"]
    learner = one.setup().learner
    batch = next(iter_batch(one, 8))
    theta = {name: value.detach() for name, value in learner.params().items()}
    for of in ("weight", "bias"):
        reading = MEASURES["update_norm"](one, of=of, tasks=8)
        for i in range(8):
            support = pick(batch.support, i)
            output = support.x @ theta["head.weight"].T + theta["head.bias"]
            error = output.softmax(-1) - torch.nn.functional.one_hot(support.y, 2)
            own = error.T @ support.x if of == "weight" else error.sum(0)
            assert reading.each[i] == pytest.approx(0.1 * float(own.norm()) / len(support.y), rel=1e-4)
        assert reading.value == pytest.approx(reading.each.mean())
    emitted = MEASURES["update_norm"](trained["hypermaml"], tasks=8)
    assert emitted.tasks == reading.tasks, "both are read on the same tasks"


def iter_batch(one, tasks):
    from quickstudy.evaluation.evaluate import task_batches

    return task_batches(one.setup().judged, "test", tasks, 0)


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


def test_no_finetuning_is_an_evaluation(trained):
    one = trained["hypermaml"]
    none, usual = (
        MEASURES["finetuned"](one, steps=0, tasks=12, times=100.0),
        MEASURES["judged"](one, tasks=12, times=100.0),
    )
    assert none.tasks == usual.tasks
    np.testing.assert_allclose(none.each, usual.each)
    many = MEASURES["finetuned"](one, steps=50, rate=3e-2, tasks=12, times=100.0)
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
    usual = MEASURES["judged"](one, tasks=60, times=100.0)
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


def told(cells):
    """Found, of made-up numbers: {(row, column): (value, each)}."""
    names = dict.fromkeys(row for row, _ in cells)
    rows = tuple(Row(name, name, {column: Cell("judged") for row, column in cells if row == name}) for name in names)
    item = Item("hypermaml", "made-up", "", rows, {}, "")
    readings = {
        key: (Reading(float(np.mean(each)), None, np.asarray(each, dtype=float), "list"),)
        for key, each in cells.items()
    }
    return Found(item, "full", readings, {}, {})


def test_claims_hold_or_fail_by_the_numbers():
    low, high, mixed = np.linspace(50, 60, 20), np.linspace(55, 65, 20), np.linspace(50, 60, 20)[::-1]
    two = told({("a", "x"): low, ("b", "x"): high, ("a", "y"): low, ("b", "y"): mixed})
    pairs = [("a", "b", "x"), ("a", "b", "y")]
    assert claims.above("a", "b", "x", "b minus a")(two).holds
    assert not claims.above("a", "b", "y", "b minus a")(two).holds
    assert "+5.00" in claims.above("a", "b", "x", "b minus a")(two).evidence
    assert claims.never_below(pairs)(two).holds
    assert not claims.mostly_above(pairs)(two).holds, "one of two columns is not most"
    assert claims.mostly_above(pairs[:1])(two).holds
    assert not claims.below(pairs)(two).holds
    assert claims.below([("b", "a", "x")])(two).holds
    assert claims.same("a", "b", "y", "", margin=6.0)(two).holds
    assert not claims.same("a", "b", "x", "")(two).holds
    with pytest.raises(Missing):
        claims.never_below([("a", "c", "x")])(two)


def test_columns_that_were_not_run_or_diverged_leave_open_what_the_others_do_not_settle():
    low, high = np.linspace(50, 60, 20), np.linspace(55, 65, 20)
    part = told({("a", "x"): low, ("b", "x"): high, ("a", "y"): low, ("b", "y"): np.where(low < 51, np.nan, high)})
    pairs = [("a", "b", "x"), ("a", "b", "y"), ("a", "b", "z")]
    for claim in (claims.mostly_above, claims.never_below, claims.all_above):
        assert claim(pairs)(part).holds is None
        assert claim(pairs[:1])(part).holds
    assert "diverged on 2 of 20" in claims.never_below(pairs)(part).evidence
    assert claims.below(pairs)(part).holds is False
    with pytest.raises(Missing, match="diverged"):
        claims.above("a", "b", "y", "")(part)
    nan = told(
        {
            ("maml", "weight"): [1.0],
            ("hypermaml", "weight"): [9.0],
            ("maml", "bias"): [1.0],
            ("hypermaml", "bias"): [np.nan],
        }
    )
    assert not claims.norm_ratio(1.0, (44.8, 18.9))(nan).holds


def test_a_small_margin_and_sameness_ask_for_an_interval_that_could_show_a_difference():
    even = np.linspace(50, 60, 20)
    found = told({("a", "x"): even, ("b", "x"): even - 0.5, ("c", "x"): even - 3, ("d", "x"): even[::-1]})
    assert claims.little_below([("a", "b", "x")], 1.0)(found).holds
    assert claims.little_below([("a", "c", "x")], 1.0)(found).holds is False
    assert claims.little_below([("a", "d", "x")], 1.0)(found).holds is None
    assert claims.same("a", "d", "x", "")(found).holds is None
    assert claims.same("a", "b", "x", "")(found).holds
    assert claims.same("a", "c", "x", "")(found).holds is False


def test_what_some_seeds_reach_is_not_decided():
    found = told({("a", "x"): [96.0], ("b", "x"): [90.0]})
    one, two = (found.readings[row, "x"][0] for row in "ab")
    mixed = replace(found, readings={("a", "x"): (one, two), ("b", "x"): (two, two)})
    assert claims.solves("a", "x", 95.0)(found).holds and claims.fails("b", "x", 95.0)(found).holds
    assert claims.solves("a", "x", 95.0)(mixed).holds is None and claims.fails("a", "x", 95.0)(mixed).holds is None
    assert claims.solves("b", "x", 95.0)(mixed).holds is False


def test_claims_of_cost_hold_or_fail_by_the_numbers():
    steps = (0, 1, 2, 5)
    line = {(f"maml-{k}", "seconds"): [2 + 3 * k] for k in steps}
    accuracy = {(f"maml-{k}", "accuracy"): [50 + k, 60 + k] for k in steps}
    own = {("hypermaml", "seconds"): [5.0], ("hypermaml", "accuracy"): [58, 70], ("hypermaml", "passes"): [1.1]}
    every = told({**line, **accuracy, **own})
    assert claims.linear_time("maml", steps, "seconds")(every).holds
    verdict = claims.two_steps("maml", steps, "seconds", "hypermaml", (2.17, 7.30, 8.21))(every)
    assert verdict.holds
    assert "the time of MAML with 1.0 steps" in verdict.evidence
    assert "(paper 1.12)" in verdict.evidence
    assert claims.one_pass("hypermaml", "passes")(every).holds
    assert claims.never_matched("maml", steps, "accuracy", "hypermaml")(every).holds

    slow = told({**line, **accuracy, **own, ("hypermaml", "seconds"): [12.0], ("hypermaml", "passes"): [3.0]})
    assert not claims.two_steps("maml", steps, "seconds", "hypermaml", (2.17, 7.30, 8.21))(slow).holds
    assert not claims.one_pass("hypermaml", "passes")(slow).holds
    matched = told({**line, **accuracy, **own, ("maml-5", "accuracy"): [58, 70]})
    verdict = claims.never_matched("maml", steps, "accuracy", "hypermaml")(matched)
    assert verdict.holds is None
    assert verdict.evidence.endswith("Within the interval of MAML with 5 steps.")
    beaten = told({**line, **accuracy, **own, ("maml-5", "accuracy"): [59, 71]})
    verdict = claims.never_matched("maml", steps, "accuracy", "hypermaml")(beaten)
    assert verdict.holds is False
    assert verdict.evidence.endswith("Below MAML with 5 steps.")
    curved = told({(f"maml-{k}", "seconds"): [2 + 3 * k**3] for k in (0, 1, 2, 5, 10)})
    assert not claims.linear_time("maml", (0, 1, 2, 5, 10), "seconds")(curved).holds


def test_norms_and_rates_are_judged_by_their_ratios():
    norms = {
        ("maml", "weight"): [2.0],
        ("maml", "bias"): [1.0],
        ("hypermaml", "weight"): [40.0],
        ("hypermaml", "bias"): [5.0],
    }
    assert claims.norm_ratio(1.0, (44.8, 18.9))(told(norms)).holds
    assert not claims.norm_ratio(10.0, (44.8, 18.9))(told(norms)).holds
    values = np.linspace(0, 1, 20)
    cells = {"plain": 70 + values, "plain-equal": 80 + values, "switched": 80 + values[::-1]}
    found = told({(name, "accuracy"): each for name, each in cells.items()})
    verdict = claims.rate_explains("plain", "plain-equal", "switched")(found)
    assert not verdict.holds, "the rate alone brings all of it"
    assert "without the switch: +10.00" in verdict.evidence


@pytest.mark.parametrize("item", [item for item in ITEMS if item is not FIGURE_1_3], ids=lambda item: item.name)
def test_pictures_and_claims_of_made_up_numbers(item):
    """Every claim comes to a verdict and every figure is drawn, whole and with rows left out."""
    rng = np.random.default_rng(0)
    cells = {}
    for row in item.rows:
        for column, cell in row.cells.items():
            if cell.measure is not None:
                cells[row.name, column] = rng.uniform(1, 90) + rng.uniform(0, 0.5, size=8)
    whole = replace(told(cells), item=item)
    for claim in item.claims:
        verdict = claim.judged(whole)
        assert isinstance(verdict.holds, bool)
        assert verdict.evidence.endswith(".")
    part = replace(whole, readings=dict(list(whole.readings.items())[:3]))
    for draw in item.figures.values():
        for found_by_now in (whole, part):
            sheet = draw(found_by_now)
            assert any(axes.has_data() for axes in sheet.axes)


def test_figures_of_the_plane_from_tasks_to_picture(tmp_path):
    plan = Plan(FIGURE_1_3, "smoke", 1, FIGURE_1_3.rows[:3], tmp_path)
    work(Watcher(), plan.units(), plan.folder, lambda unit, seconds: None)
    held_now, _ = found(plan)
    for name, panels in (("figure-1", 10), ("figure-3", 15), ("tasks", 4)):
        sheet = FIGURE_1_3.figures[name](held_now)
        assert sum(axes.has_data() for axes in sheet.axes) == panels
    for claim in FIGURE_1_3.claims[:4]:
        assert isinstance(claim.judged(held_now).holds, bool)


@pytest.mark.slow
def test_the_tables_on_characters_from_tasks_to_picture(tmp_path, real):
    for name in ("omniglot", "emnist"):
        real(name)
    for item in (TABLE_3, TABLE_4, TABLE_5):
        plan = Plan(item, "smoke", 1, item.rows, tmp_path)
        work(Watcher(), plan.units(), plan.folder, lambda unit, seconds: None)
        held_now, _ = found(plan)
        assert len(held_now.readings) == sum(len(row.cells) for row in item.rows)
        for draw in item.figures.values():
            draw(held_now).canvas.draw()
