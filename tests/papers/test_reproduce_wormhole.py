"""Wormhole MAML's items: gradient surgery by its law, c by known answers, measures on tiny runs, figures at smoke."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from quickstudy.papers.runner.items import Found
from quickstudy.papers.runner.measures import MEASURES, Reading, Trained, judged
from quickstudy.papers.runner.rows import Cell, Row
from quickstudy.papers.runner.work import Plan, chosen, found, work
from quickstudy.papers.wormhole import ITEMS, claims
from quickstudy.papers.wormhole import figures as draw
from quickstudy.papers.wormhole.measures import answering_zero, conflict, gains, outer_map, wavelets, weights
from quickstudy.papers.wormhole.rows import NEAR, threshold, wavelet
from quickstudy.papers.wormhole.stability import corrected, exact, printed, stability
from quickstudy.papers.wormhole.surgery import after_surgery, cosines, operated, orders, resultant
from quickstudy.training import config
from quickstudy.training.watcher import Watcher

BY_NAME = {item.name: item for item in ITEMS}


def ran(item, folder, rows=None, scale="smoke"):
    """An item's rows at smoke scale, as they were found."""
    plan = Plan(item, scale, 1, chosen(item, rows), folder)
    work(Watcher(), plan.units(), folder, lambda *_: None)
    return found(plan)[0]


def trained(folder, raw, steps):
    """A training in a folder of its own."""
    item = BY_NAME["figure-3"]
    row = replace(
        item.rows[0], name="one", cells={"w": Cell("weights")}, config=raw | {"train": raw["train"] | {"steps": steps}}
    )
    return ran(replace(item, rows=(row,), scales={"smoke": replace(item.scales["full"])}), folder).trained["one"][0]


# Surgery


def test_surgery_leaves_agreeing_gradients_alone(double):
    gradients = torch.rand(5, 3)
    torch.testing.assert_close(operated(gradients, orders(5)), gradients)


def test_two_conflicting_gradients_come_out_at_right_angles_to_each_other(double):
    first, second = torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 0.5])
    one, two = operated(torch.stack([first, second]), orders(2))
    torch.testing.assert_close(torch.stack([one @ second, two @ first]), torch.zeros(2))
    torch.testing.assert_close(one, torch.tensor([2.0, 1.0]) + 1.5 / 1.25 * second)


def test_opposite_gradients_are_lost(double):
    g = torch.randn(4)
    torch.testing.assert_close(operated(torch.stack([g, -3 * g]), orders(2)), torch.zeros(2, 4))


def test_surgery_meets_the_others_as_they_were_in_the_given_order(double):
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -2.0]])
    one = operated(gradients, torch.tensor([[1, 2, 0], [0, 1, 2], [0, 1, 2]]))[0]
    first = gradients[0] + 0.5 * gradients[1]  # (.5, .5), still against the third: -1.5 of 5
    torch.testing.assert_close(one, first + 1.5 / 5 * gradients[2])


def test_a_gradient_of_zero_changes_nothing(double):
    gradients = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert torch.equal(operated(gradients, orders(2)), gradients)


def test_what_surgery_leaves_is_what_the_formula_says(double):
    angles = torch.linspace(0.1, 3.1, 7)
    left = []
    for angle in angles:
        pair = torch.stack([torch.tensor([1.0, 0.0]), torch.stack([angle.cos(), angle.sin()])])
        left.append(resultant(operated(pair, orders(2)), pair))
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
    c = exact(z, y).requires_grad_(True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(c[:, None] * z, y, reduction="sum")
    (slope,) = torch.autograd.grad(loss, c)
    assert slope.abs().max() < 1e-9


def test_exact_c_is_infinite_where_z_tells_the_labels_apart(double):
    z = torch.tensor([[1.0, -2.0], [1.0, -2.0]])
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert exact(z, y).tolist() == [float("inf"), float("-inf")]


def test_the_corrected_formula_is_the_exact_c_to_first_order_and_the_printed_one_is_not(double):
    z = torch.randn(2000) * 3
    y = (torch.rand(2000) < torch.sigmoid(0.02 * z)).double()  # labels that hardly depend on z: c* is small
    assert exact(z, y).item() == pytest.approx(corrected(z, y).item(), rel=0.05)
    shifted = z + 1  # eq. 13 as printed sees the mean of z, also where labels say nothing
    assert abs(printed(shifted, y) - exact(shifted, y)) > 0.02


def test_both_formulas_by_hand(double):
    z, y = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([1.0, 0.0, 0.0])
    assert printed(z, y).item() == pytest.approx(1 / 6)
    assert corrected(z, y).item() == pytest.approx(2 * (1 - 2 + 1) / 6)


# Measures


@pytest.fixture(scope="module")
def tanh(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("tanh"), threshold("tanh", 1, NEAR), 60)


@pytest.fixture(scope="module")
def vanilla(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("vanilla"), threshold("vanilla", 1, NEAR), 60)


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
    still = trained(tmp_path, threshold("vanilla", 1, NEAR), 0)
    read = weights(still, of="norm", pattern="")
    assert read.value == read.more["start"] > 0
    assert weights(vanilla, of="norm", pattern="").more["start"] == pytest.approx(read.value)
    assert len(weights(vanilla).arrays["weights"]) == 5


def test_c_is_right_where_nothing_is_off_and_wrong_labels_make_it_worse(tanh):
    assert stability(tanh, way="exact", tasks=50).value == 1
    assert stability(tanh, way="exact", tasks=50).more["infinite"] > 0.5
    assert stability(tanh, way="exact", sweep="both", off=2.5, tasks=50).value < 0.9


def test_always_answering_zero_is_judged_on_the_tasks_of_the_trainings(tmp_path):
    one = trained(tmp_path, wavelet("vanilla", 1, 20), 2)
    zero = answering_zero(one, points=20, tasks=60)
    assert zero.tasks == judged(one, tasks=60, of="loss").tasks
    assert zero.value == pytest.approx(0.157, rel=0.2)
    assert answering_zero(one, points=20, tasks=60, times=10.0).value == pytest.approx(10 * zero.value)


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


# Claims


def told(values, column="x", *others):
    """Found, from one list of values a row; a further dict for each further seed."""
    readings = {
        (row, column): tuple(
            Reading(float(np.mean(seed[row])), each=np.asarray(seed[row], dtype=float), tasks="t")
            for seed in (values, *others)
        )
        for row in values
    }
    item = replace(BY_NAME["figure-3"], rows=tuple(Row(name, name, {}) for name in "abc"))
    return Found(item, "full", readings, {}, {})


def test_claims_ask_for_differences_beyond_their_intervals():
    here = told({"a": [1, 2, 3, 4], "b": [0, 1, 2, 3.1], "c": [0, 5, 0, 5]})
    assert claims.below("", "", {"p": ("a", "b")}, "x").judged(here).holds
    assert claims.below("", "", {"p": ("b", "a")}, "x").judged(here).holds is False
    undecided = claims.below("", "", {"p": ("a", "b"), "q": ("a", "c")}, "x").judged(here)
    assert undecided.holds is None and "q: c - a = +0 ±" in undecided.evidence
    assert claims.lower_by("", "", {"p": ("a", "b")}, "x", 0.3).judged(here).holds
    assert not claims.lower_by("", "", {"p": ("a", "b")}, "x", 0.5).judged(here).holds
    assert claims.no_gain("", "", {"p": ("a", "b")}, "x", 0.1).judged(here).holds is False


def test_where_seeds_differ_nothing_is_decided():
    low, high = [0.0, 1.0, 2.0, 3.1], [1.0, 2.0, 3.0, 4.0]
    agree = told({"a": high, "b": low}, "x", {"a": high, "b": low})
    differ = told({"a": high, "b": [0.0, 0.0, 0.0, 0.0]}, "x", {"a": high, "b": [1.1, 2.1, 3.1, 4.1]})
    assert agree.surely("a", "b", "x")[0] == -1
    sign, over = differ.surely("a", "b", "x")
    assert sign == 0 and over.mean + over.interval < 0, "sure over tasks, not over trainings"
    pairs = {"p": ("a", "b")}
    for claim in (claims.below, claims.lower_by, claims.no_gain):
        more = () if claim is claims.below else (0.3,)
        assert claim("", "", pairs, "x", *more).judged(differ).holds is None
    assert claims.lower_by("", "", pairs, "x", 0.3).judged(agree).holds
    assert claims.lower_by("", "", pairs, "x", 0.5).judged(agree).holds is False, "no seed reaches it"


@pytest.mark.parametrize(("worst", "bottom"), [(900.0, 0.1), (3.0, 0.0)])
def test_errors_far_apart_are_drawn_on_an_axis_that_shows_them(worst, bottom):
    item = BY_NAME["wavelet-size"]
    readings = {(row.name, column): (Reading(0.3),) for row in item.rows for column in ("MSE", "L1")}
    last = next(row.name for row in item.rows if row.name.endswith("vanilla-5"))
    here = Found(item, "full", {**readings, (last, "MSE"): (Reading(worst),)}, {}, {})
    low, high = item.figures["error-against-size"](here).axes[0].get_ylim()
    assert bottom <= low <= 0.3 and worst <= high


def test_tasks_that_diverged_and_numbers_that_are_none_prove_nothing():
    nan = float("nan")
    here = told({"a": [4, 4, 4, 4], "b": [1, 1, 1, 1]})
    lost = told({"b": [1, 1, nan, 1]}).readings["b", "x"][0]
    part = replace(here, readings={**here.readings, ("b", "x"): (replace(lost, value=1.0),)})
    for claim in (
        claims.lower_by("", "", {"p": ("a", "b")}, "x", 0.3),
        claims.lower_by_amount("", "", {"p": ("a", "b")}, "x", 2.0),
    ):
        assert claim.judged(here).holds and not claim.judged(part).holds
    none = replace(here, readings={**here.readings, ("c", "x"): (Reading(nan),)})
    assert not claims.equal("", "", {"p": ("a", "a"), "q": ("a", "c")}, "x").judged(none).holds


def test_a_bump_is_of_one_sign_and_within_the_papers_range():
    bump = next(one for one in BY_NAME["figure-5"].claims if "bump" in one.text)

    def found(low, high):
        weights = {"weights": np.linspace(low, high, 5)}
        return Found(
            BY_NAME["figure-5"], "full", {("default-tanh", "largest |w|"): (Reading(1.0, arrays=weights),)}, {}, {}
        )

    assert bump.judged(found(-0.35, 0.8)).holds and bump.judged(found(-0.8, 0.3)).holds
    assert not bump.judged(found(-0.5, 0.6)).holds, "of both signs"
    assert not bump.judged(found(-0.4, 2.0)).holds, "out of the range"


def test_a_setting_whose_gain_never_flips_decides_nothing():
    here = told({"a": [1, 2], "b": [1, 2]})
    flips = told({"b": [0, 0]}, "flips")
    both = replace(here, readings={**here.readings, **flips.readings})
    verdict = claims.below_where_it_flips("", "", {"p": ("a", "b")}, "x", "flips").judged(both)
    assert verdict.holds is None and "C < 0 for 0%" in verdict.evidence


# Items


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_items_are_well_formed(item, real, tmp_path):
    if item.needs:
        real(item.needs[0])
    assert item.paper == "wormhole" and set(item.scales) == {"smoke", "quick", "full"}
    assert len({row.name for row in item.rows}) == len(item.rows)
    for row in item.rows:
        assert all(cell.measure in MEASURES for cell in row.cells.values())
    for scale in item.scales:
        for one in Plan(item, scale, 1, item.rows, tmp_path).units():
            if one.config is not None:
                config.parse_config({**one.config, "seed": 0})


@pytest.mark.parametrize("name", [item.name for item in ITEMS if not item.needs])
def test_every_method_builds(name):
    for row in BY_NAME[name].rows:
        if row.config is not None:
            config.build(config.parse_config(row.config))


@pytest.mark.slow
def test_the_methods_on_mnist_build(real):
    real("mnist")
    for row in BY_NAME["table-1-mnist"].rows[::5]:
        config.build(config.parse_config(row.config))


def test_reported_numbers_are_the_papers():
    def paper(item, row, column):
        [row] = [one for one in BY_NAME[item].rows if one.name == row]
        return [one.value for one in row.cells[column].reported]

    assert paper("table-1-threshold", "near-tanh-1", "10 x cross-entropy") == [1.56]
    assert paper("table-1-threshold", "wide-vanilla-5", "10 x cross-entropy") == [3.33]
    assert paper("table-1-threshold", "wide-diagonal-2", "10 x cross-entropy") == [2.42]
    assert paper("table-1-threshold", "near-scalar-1", "10 x cross-entropy") == []
    assert paper("table-1-wavelet", "tanh-2", "10 x L1") == paper("table-1-wavelet", "tanh-2", "10 x MSE") == [6.05]
    assert paper("table-1-mnist", "tanh-5", "error rate") == [0.009]


@pytest.mark.parametrize("name", ["figure-1", "figure-2", "figure-3", "figure-4", "figure-5"])
def test_figures_draw_at_smoke_scale(name, tmp_path):
    item = BY_NAME[name]
    here = ran(item, tmp_path)
    for figure in item.figures.values():
        assert len(figure(here).axes) >= 2
    for claim in item.claims:
        assert claim.judged(here).evidence


def test_stability_draws_at_smoke_scale(tmp_path):
    here = ran(BY_NAME["stability"], tmp_path, ["curves"])
    assert len(draw.stability(here).axes) == 6


def test_the_sweep_over_sizes_draws(tmp_path):
    item = BY_NAME["wavelet-size"]
    values = {row.name: [1.0, 2.0] for row in item.rows}
    here = replace(told(values, "MSE"), item=item)
    here = replace(here, readings={**here.readings, **told(values, "L1").readings})
    assert len(draw.error_against_size(here).axes) == 2
    assert not item.claims[1].judged(here).holds


@pytest.mark.slow
@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_every_item_runs_at_smoke_scale(item, tmp_path, real):
    if item.needs:
        real(item.needs[0])
    here = ran(item, tmp_path)
    assert {row for row, _ in here.readings} == {row.name for row in item.rows}
    for claim in item.claims:
        assert claim.judged(here).evidence
