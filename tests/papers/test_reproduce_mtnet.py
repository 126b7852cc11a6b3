"""The thesis's items: rows that build, measures with known answers, claims judged both ways, figures that draw."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from quickstudy.errors import InputError
from quickstudy.methods.registry import METHODS, RECIPES
from quickstudy.models import nets
from quickstudy.papers.mtnet import FIGURE_3, FIGURE_6_1, ITEMS, TABLE_6_1, TABLE_6_2, claims, regression, stepping
from quickstudy.papers.mtnet.images import IMAGE_ITEMS, OMNIGLOT_ITEM
from quickstudy.papers.mtnet.measures import closed_form, gap, outside, outside_plane, predicting_zero, update_fraction
from quickstudy.papers.mtnet.propositions import equation_4_3, proposition_1, proposition_2
from quickstudy.papers.runner.items import Found, Missing
from quickstudy.papers.runner.measures import MEASURES, Reading, Trained, judged, overrides
from quickstudy.papers.runner.rows import SCALES
from quickstudy.papers.runner.work import Plan, chosen, found, work
from quickstudy.storage.run import Run
from quickstudy.training import config
from quickstudy.training.config.overrides import apply_overrides
from quickstudy.training.train import train
from quickstudy.training.watcher import Watcher

UNTRAINED = Trained(None, 0)
TRAININGS = [pytest.param(item, row, id=f"{item.name}-{row.name}") for item in ITEMS for row in item.rows if row.config]
IMAGES = [param for param in TRAININGS if param.values[0] in IMAGE_ITEMS]


def at(item, row, scale):
    """A row's configuration at a scale."""
    settings = {**item.scales[scale].settings, **row.scales.get(scale, {})}
    return config.parse_config(apply_overrides(row.config, overrides(settings)))


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_items_are_well_formed(item):
    assert set(item.scales) == set(SCALES) and all(scale.cost for scale in item.scales.values())
    names = [row.name for row in item.rows]
    assert len(set(names)) == len(names) and not any(" " in name for name in names)
    for cell in (cell for row in item.rows for cell in row.cells.values()):
        assert cell.measure in MEASURES or (cell.measure is None and cell.reported)


@pytest.mark.parametrize(("item", "row"), [param for param in TRAININGS if param.values[0] not in IMAGE_ITEMS])
def test_rows_of_drawn_tasks_build_at_every_scale(item, row):
    for scale in SCALES:
        setup = config.build(at(item, row, scale))
        assert setup.config.train.validate_every == 0
        assert setup.learner.engine.compile == (scale == "full")


@pytest.mark.parametrize(("item", "row"), IMAGES)
def test_rows_of_images_have_options_that_their_methods_and_nets_know(item, row):
    for scale in SCALES:
        asked = at(item, row, scale)
        assert asked.evaluate.options == {"queries": 1}
        ways = asked.tasks.options["ways"]
        side = asked.tasks.options.get("size", 84)
        inputs = (1, 28, 28) if item is OMNIGLOT_ITEM else (3, side, side)
        if asked.model is None:
            assert asked.train.steps == 0
            continue
        net, _ = config.build_part(asked.model, nets.NETS, "model", inputs=inputs, outputs=ways)
        learner, method = config.build_part(asked.method, METHODS, "method", {"loss": "cross_entropy"}, model=net)
        moved = {"block0.conv", "block1.conv", "block2.conv", "block3.conv", "head"}
        assert {name.rpartition(".")[0] for name in learner.adapts} == moved, "norms have a bias that no task moves"
        assert method.options["inner_loss"] == "class_sum_cross_entropy"


@pytest.mark.slow  # every picture is decoded once
@pytest.mark.parametrize("item", IMAGE_ITEMS, ids=lambda item: item.name)
def test_image_items_run_at_smoke_scale(item, real, tmp_path):
    real(item.needs[0])
    here = at_smoke(item, tmp_path)
    for row in item.rows:
        for column, cell in row.cells.items():
            assert cell.measure is None or 0 <= here.value(row.name, column) <= 100


def test_alpha_rows_differ_from_table_6_1_in_alpha_only():
    shared = [row for row in TABLE_6_2.rows if row.name.endswith("-0.01")]
    assert len(shared) == 3
    for row in shared:
        twin = next(one for one in TABLE_6_1.rows if one.name == row.name.partition("-")[0])
        assert row.config == twin.config, "equal trainings are run once"


def test_reported_numbers_are_those_printed():
    table = {row.name: [cell.reported[0].value for cell in row.cells.values()] for row in TABLE_6_1.rows if row.config}
    assert table["mtnet"] == [0.76, 0.49, 0.33, 0.49] and table["mnet"] == [0.88, 0.60, 0.41, 0.60]
    steps = {row.name: row.cells["10-shot"].reported for row in TABLE_6_2.rows}
    assert (steps["maml-10"][0].value, steps["maml-10"][0].interval) == (171.92, 25.04)
    assert steps["mtnet-1"][0].value == 0.61 and steps["tnet-0.0001"][0].value == 0.62
    maml = next(row for row in TABLE_6_1.rows if row.name == "maml").cells["10-shot"].reported
    assert [one.value for one in maml] == [0.71], "no number that the thesis does not print"
    characters = {row.name: row.cells for row in OMNIGLOT_ITEM.rows}
    assert characters["mtnet-20"]["20-way"].reported[0].value == 96.2
    assert characters["matching"]["5-way"].reported[0].value == 98.1


def made(item, values, more=None, wobble=0.0):
    """What would be found if these were the means: by row and column, tasks around them, three seeds."""
    noise = np.linspace(-1, 1, 50)
    readings = {}
    for (row, column), value in values.items():
        each = value + wobble * noise * (-1 if row == "mtnet" else 1)
        readings[row, column] = tuple(Reading(value, 0.1, each, "list", more or {}) for _ in range(3))
    return Found(item, "full", readings, {}, {})


def printed(item):
    """The thesis's own numbers as if found, and 4.25 for always answering 0."""
    first = {
        (row.name, column): cell.reported[0].value if cell.reported else 4.25
        for row in item.rows
        for column, cell in row.cells.items()
    }
    return made(item, first)


def verdicts(item, here):
    return [claim.judged(here).holds for claim in item.claims]


def test_the_thesis_s_own_numbers_meet_what_it_claims_but_for_m_net_at_20_shots():
    assert verdicts(TABLE_6_1, printed(TABLE_6_1)) == [True, False, True, True, True, True]
    assert verdicts(TABLE_6_2, printed(TABLE_6_2)) == [True, True, True, True]
    assert "3.58, T-net 1.21, MT-net 1.47" in TABLE_6_2.claims[3].judged(printed(TABLE_6_2)).evidence


def test_numbers_that_say_otherwise_are_not_let_through():
    level = {(row.name, column): 4.25 for row in TABLE_6_1.rows for column in row.cells}
    assert verdicts(TABLE_6_1, made(TABLE_6_1, level)) == [None, None, None, False, False, False]
    level = {(row.name, "10-shot"): 4.25 for row in TABLE_6_2.rows}
    assert verdicts(TABLE_6_2, made(TABLE_6_2, level)) == [False, False, False, False]


def test_what_takes_the_whole_budget_is_not_decided_by_less():
    whole = {claims.levels: TABLE_6_1, claims.robustness: TABLE_6_2}
    for judge, item in whole.items():
        assert [claim.decides for claim in item.claims if claim.judged is judge] == ["full"]


def test_a_difference_within_its_interval_is_not_decided_and_a_reversed_one_is_refused():
    names = {("maml", "10-shot"): 1.0, ("mtnet", "10-shot"): 0.99}
    assert claims.above(made(TABLE_6_1, names), "maml", "mtnet", "10-shot")[0] is True
    assert claims.above(made(TABLE_6_1, names, wobble=1.0), "maml", "mtnet", "10-shot")[0] is None
    assert claims.above(made(TABLE_6_1, names), "mtnet", "maml", "10-shot")[0] is False


def test_a_training_that_blew_up_is_a_failure_of_mtnet_and_what_is_said_of_maml():
    whole = dict(printed(TABLE_6_2).readings)
    nan = (Reading(float("nan"), more={"failed": "loss became nan"}),)
    there = Found(TABLE_6_2, "full", {**whole, ("maml-10", "10-shot"): nan}, {}, {"maml-10": {0: "loss became nan"}})
    assert claims.failures(there).holds and "training stopped" in claims.failures(there).evidence
    there = replace(there, readings={**whole, ("mtnet-10", "10-shot"): nan})
    assert claims.failures(there).holds is False


def test_tasks_that_diverged_count_though_a_reading_s_mean_is_over_the_others():
    whole = dict(printed(TABLE_6_2).readings)
    lost = (Reading(0.5, 0.1, np.full(50, 0.5), "list", {"tasks": 50, "finite": 49}),)
    there = Found(TABLE_6_2, "full", {**whole, ("tnet-0.1", "10-shot"): lost}, {}, {})
    assert claims.more_robust(there).holds is False and claims.robustness(there).holds is False
    there = replace(there, readings={**whole, ("mtnet-1", "10-shot"): lost})
    assert claims.still_learns(there).holds is False
    parted = (whole["mtnet-1", "10-shot"][0], Reading(4.1))
    verdict = claims.still_learns(replace(there, readings={**whole, ("mtnet-1", "10-shot"): parted}))
    assert verdict.holds is None and "learns in 1 of 2 seeds (0.61, 4.10)" in verdict.evidence
    table = dict(printed(TABLE_6_1).readings)
    there = Found(TABLE_6_1, "full", {**table, ("mtnet", "20-shot"): lost}, {}, {})
    assert claims.below_zero_predictor(there).holds is False, "in every column"
    part = np.where(np.arange(50) < 1, np.nan, 0.5)
    there = replace(there, readings={**table, ("mtnet", "10-shot"): (Reading(0.5, 0.1, part, "list"),)})
    assert claims.not_below("mtnet", "maml", "10-shot")(there).holds is None


def test_mtnet_alone_learns_at_alpha_1():
    whole = dict(printed(TABLE_6_2).readings)
    assert claims.still_learns(Found(TABLE_6_2, "full", whole, {}, {})).holds
    others = {**whole, ("tnet-1", "10-shot"): whole["mtnet-1", "10-shot"]}
    assert claims.still_learns(Found(TABLE_6_2, "full", others, {}, {})).holds is False


def test_errors_that_are_not_numbers_and_changes_that_do_not_span_prove_nothing():
    def found(value, apart=0):
        readings = {
            ("proposition-1", "error"): (
                Reading(value, more={"rank minus d, largest": apart}),
                Reading(-15.0, more={"rank minus d, largest": 0}),
            )
        }
        return Found(FIGURE_3, "full", readings, {}, {})

    assert claims.spans(found(-15.0)).holds
    assert claims.spans(found(-15.0, 2)).holds is False, "a cell that does not move stays in every subspace"
    assert claims.spans(found(-3.0)).holds is False
    assert claims.spans(found(float("nan"))).holds is False


def test_rows_with_unlike_numbers_of_seeds_are_judged_by_those_that_both_have():
    whole = dict(made(TABLE_6_1, {("maml", "10-shot"): 1.0, ("mtnet", "10-shot"): 0.5}).readings)
    whole["mtnet", "10-shot"] = whole["mtnet", "10-shot"][:1]
    held, said = claims.above(Found(TABLE_6_1, "full", whole, {}, {}), "maml", "mtnet", "10-shot")
    assert held and "1 of 1 seeds" in said


def test_rows_left_out_are_missing_rather_than_judged():
    part = made(TABLE_6_1, {("maml", "10-shot"): 0.7})
    for claim in TABLE_6_1.claims:
        with pytest.raises(Missing):
            claim.judged(part)


@pytest.mark.parametrize(
    ("fractions", "holds"), [((0.4, 0.5, 0.6), True), ((0.6, 0.5, 0.7), False), ((0.5, 0.4975, 0.6), None)]
)
def test_growth_of_fractions_is_judged_by_order_and_needs_five_seeds(fractions, holds):
    column = "adapts, sigmoid(zeta)"

    def grown(seeds):
        readings = {
            (f"order-{n}", column): tuple(Reading(value + 0.001 * seed * n) for seed in range(seeds))
            for n, value in enumerate(fractions)
        }
        return Found(FIGURE_6_1, "full", readings, {}, {})

    assert claims.fraction_grows(column)(grown(5)).holds is holds
    assert claims.fraction_grows(column)(grown(3)).holds is None


def trained(tmp_path, method, steps, **model):
    """A tiny run, trained with large steps so that T is far from where it began."""
    raw = regression(stepping(method), meta_lr=0.02)
    raw["model"] = {"name": "mlp", "hidden": [8, 3, 8], "std": None} | model
    raw["train"]["steps"] = steps
    raw["compute"]["compile"] = False
    setup = config.build(config.parse_config(raw))
    run = Run.create(tmp_path / method, setup.config.model_dump(mode="json"))
    train(setup, run)
    return Trained(run, 0)


def test_fractions_are_those_of_the_checkpoint_s_logits_and_the_two_signs_add_up_to_one(tmp_path):
    one = trained(tmp_path, "mtnet", 5)
    logits = [v for n, v in one.run.load("last").tensors.items() if n.startswith("model.rule.rate.logits")]
    assert sum(map(len, logits)) == 20
    assert update_fraction(one).value == pytest.approx(torch.cat(logits).double().sigmoid().mean().item(), abs=1e-7)
    assert update_fraction(one).value + update_fraction(one, sign=-1).value == pytest.approx(1)
    rows = {
        cell: update_fraction(one, cell=cell).value * n for cell, n in (("layer0", 8), ("layer1", 3), ("layer2", 8))
    }
    rows["head"] = update_fraction(one, cell="head").value
    assert sum(rows.values()) / 20 == pytest.approx(update_fraction(one).value)
    with pytest.raises(InputError, match="There is no cell"):
        update_fraction(one, cell="layer9")


def test_fractions_are_of_masks_only(tmp_path):
    with pytest.raises(InputError, match="Update fractions are those of masks"):
        update_fraction(trained(tmp_path, "tnet", 0))


@pytest.mark.parametrize("method", ["tnet", "mtnet"])
def test_trained_cells_move_by_the_closed_form_and_stay_in_the_plane(tmp_path, method):
    one = trained(tmp_path, method, 30)
    exact, plane = closed_form(one, tasks=20), outside_plane(one, tasks=20, cell="layer1")
    assert exact.value < -10 and plane.value < -10
    assert plane.more["ranks above the rows that adapt"] == 0 and plane.more["ranks equal to them"] > 0
    T, output, mask = (plane.arrays[name] for name in ("metric", "output", "mask"))
    assert np.abs(T - np.eye(3)).max() > 0.05, "at the identity the test would not see T"
    assert output.shape == (20, 3) and np.abs(output).max() > 0
    assert np.allclose(np.linalg.solve(T, output.T).T[mask == 0], 0, atol=1e-12)
    assert np.allclose(plane.arrays["weight_change"][mask == 0], 0, atol=1e-12)
    assert set(np.unique(mask)) == ({1.0} if method == "tnet" else {0.0, 1.0})


def test_the_closed_form_is_refused_where_there_are_more_steps(tmp_path):
    one = trained(tmp_path, "tnet", 0)
    settings = yaml.safe_load((one.run.path / "config.yaml").read_text())
    settings["method"] |= {"inner_steps": 2, "eval_inner_steps": 2}
    run = Run.create(tmp_path / "two", settings)
    train(config.build(config.parse_config(settings)), run)
    with pytest.raises(InputError, match="one gradient step"):
        closed_form(Trained(run, 0))


def test_propositions_hold_to_rounding():
    first, second = proposition_1(UNTRAINED, draws=4), proposition_2(UNTRAINED, draws=4)
    assert first.value < -9 and first.more["rank minus d, largest"] == 0
    assert second.value < -9 and second.more["steeper by"] < 1e-9
    assert equation_4_3(UNTRAINED, draws=4).value < -9 and equation_4_3(UNTRAINED, bias=True, draws=4).value < -9


def test_the_sentence_after_equation_4_5_is_true_of_a_whole_mask_and_false_of_a_part():
    assert proposition_2(UNTRAINED, sizes=((3, 3),), draws=2).more["outside the block"] == pytest.approx(0)
    assert proposition_2(UNTRAINED, sizes=((3, 2),), draws=2).more["outside the block"] > 0.01


def test_shares_and_gaps_by_hand():
    assert outside(np.array([[3.0], [4.0]]), np.array([[1.0], [0.0]])) == pytest.approx(0.8)
    assert outside(np.zeros((2, 1)), np.eye(2)) == 0
    assert gap(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(1.0)


def test_predicting_zero_is_the_error_of_a_net_that_answers_zero_on_the_same_tasks(tmp_path):
    one = trained(tmp_path, "maml", 0, std=1e-12)
    net, zero = judged(one, tasks=60), predicting_zero(UNTRAINED, tasks=60)
    assert net.tasks == zero.tasks
    np.testing.assert_allclose(net.each, zero.each, rtol=0.2)  # the bias of the output has moved by one step
    still = judged(one, tasks=60, settings={"method.inner_lr": 0.0})
    np.testing.assert_allclose(still.each, zero.each, rtol=1e-6)


def at_smoke(item, folder, names=None):
    plan = Plan(item, "smoke", 1, chosen(item, names), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work(Watcher(), plan.units(), folder, lambda one, seconds: None)
    return found(plan)[0]


def drawn(draw, here):
    sheet = draw(here)
    sheet.canvas.draw()
    return sheet.axes


@pytest.mark.parametrize("item", [TABLE_6_1, TABLE_6_2], ids=lambda item: item.name)
def test_figures_of_the_tables_show_every_row(item):
    (draw,) = item.figures.values()
    axes = drawn(draw, printed(item))
    if item is TABLE_6_1:
        assert [tick.get_text() for tick in axes[0].get_yticklabels()] == [row.label for row in item.rows[:-1]]
    else:
        assert {len(line.get_xdata()) for line in axes[0].lines} >= {6}


@pytest.mark.parametrize(("item", "names"), [(FIGURE_6_1, ["order-1"]), (FIGURE_3, ["tnet", "mtnet"])])
def test_figures_draw_from_what_a_smoke_run_found(item, names, tmp_path):
    here = at_smoke(item, tmp_path, names)
    for name, draw in item.figures.items():
        assert any(axes.has_data() for axes in drawn(draw, here)), name


@pytest.mark.slow  # twenty-five trainings
@pytest.mark.parametrize("item", [TABLE_6_1, TABLE_6_2], ids=lambda item: item.name)
def test_tables_run_at_smoke_scale(item, tmp_path):
    here = at_smoke(item, tmp_path)
    for row in item.rows:
        for column in row.cells:
            assert here.value(row.name, column) > 0
    (draw,) = item.figures.values()
    assert drawn(draw, here)
    assert all(claim.judged(here).evidence for claim in item.claims)


def test_methods_of_the_tables_are_the_library_s():
    assert {row.config["method"]["name"] for row in (*TABLE_6_1.rows, *TABLE_6_2.rows) if row.config} <= set(RECIPES)
