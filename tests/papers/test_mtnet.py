"""The thesis's items: rows that differ as they should, measures with known answers, figures of cells."""

import numpy as np
import pytest
import torch
import yaml
from made import at_smoke

from quickstudy.errors import InputError
from quickstudy.papers.catalog import item, items
from quickstudy.papers.mtnet.cells import gap, outside
from quickstudy.papers.mtnet.measures import (
    closed_form,
    equation_4_3,
    outside_plane,
    proposition_1,
    proposition_2,
    update_fraction,
)
from quickstudy.papers.runner.figures import draw
from quickstudy.papers.runner.load import merge
from quickstudy.papers.runner.measures import Trained, evaluate_metric, zero_error
from quickstudy.storage.run import Run
from quickstudy.training import config
from quickstudy.training.train import train

UNTRAINED = Trained(None, 0)


def test_alpha_rows_differ_from_table_6_1_in_alpha_only():
    shared = [row for row in item("mtnet", "table-6.2").rows if row.name.endswith("-0.01")]
    twins = {row.name: row.config for row in item("mtnet", "table-6.1").rows}
    assert len(shared) == 3
    for row in shared:
        assert row.config == twins[row.name.partition("-")[0]], "equal trainings are run once"


def test_in_images_every_cell_moves_and_no_norm():
    for name in ("table-6.3-omniglot", "table-6.3-mini"):
        for row in item("mtnet", name).rows:
            if row.config and row.config["train"]["steps"] and not row.name.startswith("hypermaml"):
                assert row.config["method"]["inner_loss"] == "class_sum_cross_entropy"
                adapts = row.config["method"].get("adapts", ["*.conv.*", "head.*"])
                assert adapts == ["*.conv.*", "head.*"] and row.config["evaluate"] == {"options": {"queries": 1}}


def trained(tmp_path, method, steps, **model):
    """A tiny run, trained with large steps so that T is far from where it began."""
    (base,) = (row.config for row in item("mtnet", "table-6.1").rows if row.name == method)
    small = {"name": "mlp", "hidden": [8, 3, 8], "std": None} | model
    raw = merge(base, {"model": small, "train": {"steps": steps, "meta_lr": 0.02}, "compute": {"compile": False}})
    setup = config.build(config.parse_config(raw))
    run = Run.create(tmp_path / method, setup.config.model_dump(mode="json"))
    train(setup, run)
    return Trained(run, 0)


def test_columns_of_one_evaluation_share_it_and_others_do_not(tmp_path):
    one, judged = trained(tmp_path, "tnet", 5), evaluate_metric
    error = judged(one, tasks=20)
    assert judged(one, tasks=20, of="loss", times=10.0).value == pytest.approx(10 * error.value, rel=1e-6)
    assert len(one.made) == 1
    fewer = judged(one, tasks=20, settings={"tasks.shots": 5})
    assert len(one.made) == 2 and fewer.value != error.value
    assert judged(Trained(one.run, 0), tasks=20, settings={"tasks.shots": 5}).each.tolist() == fewer.each.tolist()


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
    means = [update_fraction(one, cell=cell).value for cell in ("layer0", "layer1", "layer2", "head")]
    assert update_fraction(one, over="cells").value == pytest.approx(sum(means) / 4)
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
    net, zero = evaluate_metric(one, tasks=60), zero_error(UNTRAINED, tasks=60)
    assert net.tasks == zero.tasks
    np.testing.assert_allclose(net.each, zero.each, rtol=0.2)  # the bias of the output has moved by one step
    still = evaluate_metric(one, tasks=60, settings={"method.inner_lr": 0.0})
    np.testing.assert_allclose(still.each, zero.each, rtol=1e-6)


@pytest.mark.parametrize(("name", "rows"), [("figure-6.1", ["order-1"]), ("figure-3", ["tnet", "mtnet"])])
def test_figures_draw_from_what_a_smoke_run_found(name, rows, tmp_path):
    here = at_smoke(item("mtnet", name), tmp_path, rows)
    for figure in here.item.figures:
        sheet = draw(here, figure)
        sheet.canvas.draw()
        assert any(axes.has_data() for axes in sheet.axes), figure


@pytest.mark.slow  # dozens of trainings, and every picture is decoded once
@pytest.mark.parametrize("one", items("mtnet").values(), ids=lambda one: one.name)
def test_every_item_runs_at_smoke_scale(one, real, tmp_path):
    for name in one.needs:
        real(name)
    here = at_smoke(one, tmp_path)
    assert set(here.readings) == {(row.name, column) for row in one.rows if not row.quoted for column in row.cells}
    assert all(draw(here, name) for name in one.figures)
