"""Wormhole MAML's items: gradient surgery by its law, c by known answers, measures on tiny runs, figures at smoke."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made import at_smoke, row_of

from quickstudy.papers.catalog import items
from quickstudy.papers.runner.claims import decide
from quickstudy.papers.runner.figures import draw
from quickstudy.papers.runner.found import Found
from quickstudy.papers.runner.load import merge
from quickstudy.papers.runner.measures import Reading, Trained, evaluate_metric, zero_error
from quickstudy.papers.runner.work import choose_rows
from quickstudy.papers.wormhole.measures import (
    conflict,
    gains,
    outer_map,
    right_signs,
    wavelets,
    weights,
)
from quickstudy.papers.wormhole.stability import corrected_c, exact_c, printed_c
from quickstudy.papers.wormhole.surgery import after_surgery, cosines, operate, orders, resultant

BY_NAME = items("wormhole")
TANH, VANILLA = (row_of(BY_NAME["figure-3"], name).config for name in ("tanh", "vanilla"))
WAVELET = merge(row_of(BY_NAME["wavelet-size"], "n20-vanilla-1").config, {})


def trained(folder, raw, steps):
    """A training in a folder of its own."""
    one = BY_NAME["figure-3"]
    row = replace(row_of(one, "vanilla"), name="one", config=merge(raw, {"train": {"steps": steps}}))
    row = replace(row, cells={"|theta| at the end": row.cells["|theta| at the end"]})
    alone = replace(one, rows=(row,), scales={"smoke": replace(one.scales["full"])})
    return at_smoke(alone, folder).trained["one"][0]


# Surgery


def test_surgery_leaves_agreeing_gradients_alone(double):
    gradients = torch.rand(5, 3)
    torch.testing.assert_close(operate(gradients, orders(5)), gradients)


def test_two_conflicting_gradients_come_out_at_right_angles_to_each_other(double):
    first, second = torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 0.5])
    one, two = operate(torch.stack([first, second]), orders(2))
    torch.testing.assert_close(torch.stack([one @ second, two @ first]), torch.zeros(2))
    torch.testing.assert_close(one, torch.tensor([2.0, 1.0]) + 1.5 / 1.25 * second)


def test_opposite_gradients_are_lost(double):
    g = torch.randn(4)
    torch.testing.assert_close(operate(torch.stack([g, -3 * g]), orders(2)), torch.zeros(2, 4))


def test_surgery_meets_the_others_as_they_were_in_the_given_order(double):
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -2.0]])
    one = operate(gradients, torch.tensor([[1, 2, 0], [0, 1, 2], [0, 1, 2]]))[0]
    first = gradients[0] + 0.5 * gradients[1]  # (.5, .5), still against the third: -1.5 of 5
    torch.testing.assert_close(one, first + 1.5 / 5 * gradients[2])


def test_a_gradient_of_zero_changes_nothing(double):
    gradients = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert torch.equal(operate(gradients, orders(2)), gradients)


def test_what_surgery_leaves_is_what_the_formula_says(double):
    angles = torch.linspace(0.1, 3.1, 7)
    left = []
    for angle in angles:
        pair = torch.stack([torch.tensor([1.0, 0.0]), torch.stack([angle.cos(), angle.sin()])])
        left.append(resultant(operate(pair, orders(2)), pair))
    np.testing.assert_allclose(left, after_surgery(angles).numpy(), rtol=1e-12)


def test_cosines_and_resultants(double):
    gradients = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    torch.testing.assert_close(cosines(gradients)[0], torch.tensor([1.0, 0.0, -1.0]))
    assert resultant(gradients[:2]) == pytest.approx(5**0.5 / 3)
    assert resultant(gradients[[0, 0]]) == pytest.approx(1)


# The c of section 4.1


def test_exact_c_is_where_the_loss_is_least(double):
    z, y = torch.randn(20, 12), torch.randint(0, 2, (20, 12)).double()
    y[:, 0] = (z[:, 0] < 0).double()  # one point on the wrong side, one on the right: c is finite
    y[:, 1] = (z[:, 1] > 0).double()
    c = exact_c(z, y).requires_grad_(True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(c[:, None] * z, y, reduction="sum")
    (slope,) = torch.autograd.grad(loss, c)
    assert slope.abs().max() < 1e-9


def test_exact_c_is_infinite_where_z_tells_the_labels_apart(double):
    z = torch.tensor([[1.0, -2.0], [1.0, -2.0]])
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert exact_c(z, y).tolist() == [float("inf"), float("-inf")]


def test_the_corrected_formula_is_the_exact_c_to_first_order_and_the_printed_one_is_not(double):
    z = torch.randn(2000) * 3
    y = (torch.rand(2000) < torch.sigmoid(0.02 * z)).double()  # labels that hardly depend on z: c* is small
    assert exact_c(z, y).item() == pytest.approx(corrected_c(z, y).item(), rel=0.05)
    shifted = z + 1  # eq. 13 as printed sees the mean of z, also where labels say nothing
    assert abs(printed_c(shifted, y) - exact_c(shifted, y)) > 0.02


def test_both_formulas_by_hand(double):
    z, y = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([1.0, 0.0, 0.0])
    assert printed_c(z, y).item() == pytest.approx(1 / 6)
    assert corrected_c(z, y).item() == pytest.approx(2 * (1 - 2 + 1) / 6)


# Measures


@pytest.fixture(scope="module")
def tanh(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("tanh"), TANH, 60)


@pytest.fixture(scope="module")
def vanilla(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("vanilla"), VANILLA, 10)


def test_gains_have_the_tasks_signs_after_a_short_training(tanh):
    read = gains(tanh, of="agreed", tasks=100)
    assert read.value > 0.9
    assert read.more["size"] == pytest.approx(np.abs(read.arrays["gain"]).mean())
    assert gains(tanh, times=100.0, tasks=100).value == pytest.approx(100 * (read.arrays["gain"] < 0).mean())


def test_gradients_conflict_without_the_gain_and_not_with_it(tanh):
    plain, gain = (conflict(tanh, how=how, of="opposite", tasks=12).value for how in ("plain", "gain"))
    assert plain < 0 < gain
    left = {how: conflict(tanh, how=how, tasks=12) for how in ("plain", "surgery", "gain")}
    assert left["gain"].value > left["plain"].value
    assert left["surgery"].more["conflicting"] <= left["plain"].more["conflicting"]


def test_conflict_as_maml_is_the_same_for_maml_itself(vanilla):
    plain, own = conflict(vanilla, how="plain", tasks=6), conflict(vanilla, how="gain", tasks=6)
    np.testing.assert_allclose(plain.arrays["gradients"], own.arrays["gradients"])


def test_weights_are_read_at_both_ends(vanilla, tmp_path):
    still = trained(tmp_path, VANILLA, 0)
    read = weights(still, of="norm", pattern="")
    assert read.value == read.more["start"] > 0
    assert weights(vanilla, of="norm", pattern="").more["start"] == pytest.approx(read.value)
    assert len(weights(vanilla).arrays["weights"]) == 5


def test_c_is_right_where_nothing_is_off_and_wrong_labels_make_it_worse(tanh):
    assert right_signs(tanh, way="exact", tasks=50).value == 1
    assert right_signs(tanh, way="exact", tasks=50).more["infinite"] > 0.5
    assert right_signs(tanh, way="exact", sweep="both", off=2.5, tasks=50).value < 0.9


def test_always_answering_zero_is_judged_on_the_tasks_of_the_trainings(tmp_path):
    one = trained(tmp_path, WAVELET, 2)
    zero = zero_error(one, points=20, tasks=60)
    assert zero.tasks == evaluate_metric(one, tasks=60, of="loss").tasks
    assert zero.value == pytest.approx(0.157, rel=0.2)
    assert zero_error(one, points=20, tasks=60, times=10.0).value == pytest.approx(10 * zero.value)


def test_the_map_is_least_at_the_trained_minimum(tmp_path):
    row = BY_NAME["figure-2"].rows[0]
    one = trained(tmp_path, dict(row.config), 200)
    read = outer_map(one, grid=7, tasks=20)
    assert read.arrays["loss"].shape == (7, 7)
    np.testing.assert_allclose(read.arrays["stars"][0], -read.arrays["stars"][1], rtol=1e-6)
    assert read.value <= read.more["least"] + 0.05
    assert read.arrays["loss"][0, 6] != read.arrays["loss"][6, 0]  # rows are the second parameter


def test_the_wavelets_have_the_papers_range():
    assert wavelets(Trained(None, 0)).value == pytest.approx(0.867, abs=1e-3)
    assert wavelets(Trained(None, 0), of="smallest").value == pytest.approx(-0.387, abs=1e-3)


# Figures


@pytest.mark.parametrize(("worst", "bottom"), [(900.0, 0.1), (3.0, 0.0)])
def test_errors_far_apart_are_drawn_on_an_axis_that_shows_them(worst, bottom):
    one = BY_NAME["wavelet-size"]
    readings = {(row.name, column): (Reading(0.3),) for row in one.rows for column in ("MSE", "L1")}
    here = Found(one, "full", {**readings, ("n100-vanilla-5", "MSE"): (Reading(worst),)}, {}, {})
    axes = draw(here, "error-against-size").axes[0]
    low, high = axes.get_ylim()
    assert low <= 0.3 and worst <= high and (axes.get_yscale() == "log") == (bottom > 0)


DRAWN = {"figure-1": ["start", "early", "learning", "end"], "figure-5": ["default-vanilla", "default-tanh"]}


@pytest.mark.parametrize("name", ["figure-1", "figure-2", "figure-3", "figure-4", "figure-5"])
def test_figures_draw_at_smoke_scale(name, tmp_path):
    here = at_smoke(BY_NAME[name], tmp_path, DRAWN.get(name))
    for figure in here.item.figures:
        assert len(draw(here, figure).axes) >= 2
    for claim in here.item.claims:
        assert decide(claim, here).evidence


def test_stability_draws_at_smoke_scale(tmp_path):
    assert len(draw(at_smoke(BY_NAME["stability"], tmp_path, ["curves"]), "stability").axes) == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_every_item_runs_at_smoke_scale(name, tmp_path, real):
    for needed in BY_NAME[name].needs:
        real(needed)
    here = at_smoke(BY_NAME[name], tmp_path)
    assert {row for row, _ in here.readings} == {row.name for row in choose_rows(here.item, None, "smoke")}
    assert all(decide(claim, here).evidence for claim in here.item.claims)
