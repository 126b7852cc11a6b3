"""The vocabulary of claims, and its one rule for intervals, seeds, rows that are missing and rows that diverged."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from made import made, printed, reading

from quickstudy.evaluation.student import student
from quickstudy.papers.catalog import item
from quickstudy.papers.hypermaml.claims import time_is_linear
from quickstudy.papers.runner.claims import WORDS, all_hold, decide, most_hold, some_hold
from quickstudy.papers.runner.estimate import Bounds, Estimate, seeds_hold
from quickstudy.papers.runner.found import Found, MissingError, lost_tasks
from quickstudy.papers.runner.items import Cell, Claim, Item, Reported, Row
from quickstudy.papers.runner.measures import Reading

LOW, HIGH = np.linspace(50, 60, 20), np.linspace(55, 65, 20)
NAN = float("nan")


def claim(*parts, needs="all"):
    return Claim("", "", tuple((word, {"column": "x", **options}) for word, options in parts), needs=needs)


def holds(here, word, row="b", than="a", **options):
    names = {"row": row, "than": than} if than else {"row": row}
    return decide(claim((word, {**names, **options})), here).holds


def two(a, b, better=False):
    return made({("a", "x"): a, ("b", "x"): b}, better=better)


def test_a_difference_counts_beyond_its_interval():
    assert holds(two(LOW, HIGH), "above") is True and holds(two(LOW, HIGH), "below") is False
    assert holds(two(LOW, LOW[::-1]), "above") is None, "within its interval"
    verdict = decide(claim(("above", {"row": "b", "than": "a"})), two(LOW, HIGH))
    assert verdict.evidence.startswith("b - a = +5") and verdict.evidence.endswith(" (x; above in 3 of 3 seeds).")


@pytest.mark.parametrize(
    ("word", "options"),
    [("above", {}), ("below", {}), ("difference", {"at_least": 1}), ("above", {"by": 3}),
     ("above", {"by": 30}), ("in_order", {"rising": ["a", "b"], "row": None})],
)  # fmt: skip
def test_one_task_decides_no_difference(word, options):
    one = two([50.0], [55.0])
    options = {"row": "b", "than": "a"} | options
    names = {
        key: value for key, value in options.items() if value is not None and (word != "in_order" or key == "rising")
    }
    verdict = decide(claim((word, names)), one)
    assert verdict.holds is None and "b - a = +5 (one task) (x" in verdict.evidence


def test_a_verdict_takes_three_seeds_and_an_interval_over_tasks_and_seeds():
    for seeds in (1, 2, 3):
        few = two((LOW,) * seeds, (HIGH,) * seeds)
        assert holds(few, "above") is (True if seeds == 3 else None)
    differ = two((LOW,) * 3, (HIGH + 9, HIGH, LOW + 0.1))
    assert holds(differ, "above") is None, "sure over tasks, not over trainings"
    assert "above in 3 of 3 seeds" in decide(claim(("above", {"row": "b", "than": "a"})), differ).evidence
    unlike = two((LOW,) * 5, (HIGH,) * 3)
    assert holds(unlike, "above") is True, "of unlike numbers of seeds, those that both have"
    assert holds(two((LOW,) * 5, (HIGH,)), "above") is None


def test_where_seeds_differ_five_are_needed():
    three = two((LOW,) * 3, (LOW + 40, LOW + 41, LOW - 0.1))
    many = two((LOW,) * 12, (*(LOW + 40 + k / 10 for k in range(11)), LOW - 0.1))
    assert holds(three, "above") is None and holds(many, "above") is True
    assert holds(many, "within", than=None, above=60) is True and holds(three, "within", than=None, above=60) is None


def test_an_estimate_adds_the_variances_of_tasks_and_seeds():
    one = Estimate((1.0, 2.0, 3.0), tasks=0.5)
    assert one.half == pytest.approx((0.5**2 + (4.3027 / 3**0.5) ** 2) ** 0.5, rel=1e-4)
    assert Estimate((2.0,), 0.5).half == pytest.approx(0.5), "of one seed, over tasks"
    wide = Estimate((1.0, 2.0, 3.0), 0.0, comparisons=4).half
    assert wide == pytest.approx(student(1 - 0.05 / 4, 2) / 3**0.5) and student(0.95, 9) == pytest.approx(
        2.2622, rel=1e-4
    )
    keeps = [Estimate((0.5497,) * 3, tasks=half).keeps(Bounds(at_most=0.55)) for half in (0.0, 0.0002, 0.018)]
    assert keeps == [True, True, None], "by so little it holds only if the interval is as small"
    assert Estimate((0.6,) * 3, 0.01).keeps(Bounds(at_most=0.55)) is False


def test_an_open_verdict_says_what_it_would_take():
    wanted = Bounds(above=0.0)
    one = Estimate((1.0, 2.0, 3.5))
    assert one.keeps(wanted) is None
    needed = int(one.lacks(wanted).split()[1])
    assert 3 < needed < 8
    more = Estimate(tuple(np.interp(np.linspace(0, 2, needed + 2), [0, 1, 2], one.seeds)))  # of the same scatter
    assert more.keeps(wanted) is True
    assert Estimate((1.0, 2.0, 3.5), tasks=4.0).lacks(wanted) == "more test tasks are needed"
    assert Estimate((1.0, 2.0)).lacks(wanted) == "three seeds are needed" and Estimate((1.0,) * 3).lacks(wanted) == ""
    assert Estimate((-50.0, 50.0, 0.1)).lacks(wanted) == "100 seeds would not do"
    here = two((LOW,) * 3, (HIGH + 9, HIGH, LOW + 1))
    assert "about" in decide(claim(("above", {"row": "b", "than": "a"})), here).evidence


def reporting(paper, stand_in="", scale="full"):
    """Findings of two rows of which the paper prints numbers: a is 50 on every task and seed, b is 50 and a little."""
    rows = tuple(
        Row(name, name, {"x": Cell("judged", reported=(Reported(value),))}, stand_in=stand_in)
        for name, value in paper.items()
    )
    alike = tuple(np.full(20, 50.0) + k for k in (-0.2, 0.1, 0.3))
    here = made({("a", "x"): (np.full(20, 50.0),) * 3, ("b", "x"): alike}, Item("hypermaml", "", "", rows, {}, ""))
    return replace(here, scale=scale)


@pytest.mark.parametrize(
    ("paper", "expected"),
    [({"a": 50.0, "b": 70.0}, False), ({"a": 50.0, "b": 55.0}, None), ({"a": 70.0, "b": 50.0}, None)],
)  # the interval is +.07 +- .63: surely below a tenth of 20, not of 5; a paper's -20 says nothing of what is above
def test_a_tie_refuses_an_order_that_the_paper_shows_by_numbers(paper, expected):
    assert holds(reporting(paper), "above") is expected
    assert decide(claim(("in_order", {"rising": ["a", "b"]})), reporting(paper)).holds is expected
    turned = {"a": paper["b"], "b": paper["a"]}
    assert holds(reporting(turned), "below") is expected


def test_a_tie_is_held_against_the_papers_own_numbers_only():
    paper = {"a": 50.0, "b": 70.0}
    assert (
        "a tie, as the paper's difference is +20"
        in decide(claim(("above", {"row": "b", "than": "a"})), reporting(paper)).evidence
    )
    assert holds(reporting(paper, stand_in="other data"), "above") is None
    assert holds(reporting(paper, scale="cpu"), "above") is None
    assert holds(two((LOW,) * 3, (LOW - 0.2, LOW + 0.1, LOW + 0.3)), "above") is None, "nothing is printed"
    assert holds(reporting(paper), "above", by=1.0) is False, "what is asked by an amount is held against that"


def test_what_each_seed_shows():
    assert [seeds_hold(held) for held in ([True] * 3, [False] * 3, [True] * 2, [True, True, False])] == [
        True,
        False,
        None,
        None,
    ]
    assert seeds_hold([True] * 9 + [False] * 4) is None and seeds_hold([True] * 12 + [False]) is True
    assert seeds_hold([True] + [False] * 12) is False


def test_a_row_that_was_not_run_leaves_a_claim_open_that_the_others_do_not_settle():
    here, gone = two(LOW, HIGH), ("above", {"row": "b", "than": "c"})
    holds_, refused = ("above", {"row": "b", "than": "a"}), ("above", {"row": "a", "than": "b"})
    said = "Not run: made-up has no reading of c, x."
    assert decide(claim(gone), here).holds is None and decide(claim(gone), here).evidence == said
    for parts in itertools.permutations([holds_, gone]):
        assert decide(claim(*parts), here).holds is None and decide(claim(*parts), here).evidence.endswith(f". {said}")
    for parts in itertools.permutations([refused, gone, gone]):
        verdict = decide(claim(*parts), here)
        assert verdict.holds is False and verdict.evidence.startswith("a - b = -5") and verdict.evidence.endswith(said)
    assert decide(claim(holds_, holds_, gone, needs="most"), here).holds is True
    assert decide(claim(holds_, gone, needs="most"), here).holds is None
    assert decide(claim(holds_, gone, needs="some"), here).holds is True
    assert decide(claim(refused, gone, needs="some"), here).holds is None
    many = decide(claim(*[holds_] * 7, gone), here)
    assert many.holds is None and many.evidence == f"7 of 8 hold, 0 are refused. {said}"


@pytest.mark.parametrize("better", [True, False])
@pytest.mark.parametrize("late", ["a", "b"])
def test_only_the_row_that_is_behind_can_still_catch_up(better, late, monkeypatch):
    """b has the larger numbers: it leads where larger is better, and is behind where it is worse."""
    monkeypatch.setattr(Found, "rise", lambda self, row: (0.2, 0.1) if row == late else (0.1, 0.2))
    ahead = "b" if better else "a"
    for measure, settled in (("judged", late == ahead), ("update_norm", False)):
        rows = tuple(Row(name, name, {"x": Cell(measure)}) for name in "ab")
        here = made({("a", "x"): (LOW,) * 3, ("b", "x"): (HIGH,) * 3}, Item("hypermaml", "", "", rows, {}, "", better))
        here = replace(here, scale="cpu")
        for word, row, than in itertools.product(("above", "below"), "ab", "ab"):
            if row == than:
                continue
            verdict = (row == "b") == (word == "above")
            said = decide(claim((word, {"row": row, "than": than})), here)
            assert said.holds is (verdict if settled else None), (word, row, measure)
            assert (f"the validation of {late} had not stopped rising" in said.evidence) is not settled
            assert holds(replace(here, scale="full"), word, row, than) is verdict
        assert decide(claim(("ratio", {"row": "b", "over": "a", "above": 1})), here).holds is None


@pytest.mark.parametrize(
    ("times", "bounds", "verdict"),
    [
        (60.0, {"above": 1}, True),
        (60.0, {"above": 10}, None),
        (60.0, {"at_most": 1}, False),
        (9.0, {"above": 1}, None),
        (1 / 60, {"above": 1}, False),
        (1 / 60, {"below": 1}, True),
        (2.0, {"at_least": 1e-3, "at_most": 1e3}, True),
        (200.0, {"at_least": 1e-3, "at_most": 1e3}, None),
    ],
)
def test_a_ratio_far_beyond_its_bound_is_not_undone_by_longer_training(times, bounds, verdict, monkeypatch):
    monkeypatch.setattr(Found, "rise", lambda self, row: (0.2, 0.1))
    here = replace(two(LOW, LOW * times), scale="cpu")
    assert holds(here, "ratio", than=None, over="a", **bounds) is verdict
    assert holds(here, "above") is None, "a difference is open, however large"


def test_a_row_that_diverged_leaves_differences_open_and_others_decide():
    part = np.where(LOW < 51, NAN, HIGH)
    for lost in (part, np.full(20, NAN)):
        here = two(LOW, lost)
        for word in ("above", "below", "difference"):
            assert holds(here, word, **({"at_least": 0} if word == "difference" else {})) is None
        assert holds(here, "below", by=1.0) is None
    assert "2 of 20 tasks diverged" in decide(claim(("above", {"row": "b", "than": "a"})), two(LOW, part)).evidence
    stopped = Reading(NAN, more={"failed": "loss became nan"})
    here = replace(two(LOW, HIGH), readings={**two(LOW, HIGH).readings, ("b", "x"): (stopped,) * 3})
    assert holds(here, "above") is None
    three = made({("a", "x"): LOW, ("b", "x"): part, ("c", "x"): HIGH})
    assert decide(claim(*[("below", {"row": "c", "than": name}) for name in "ab"]), three).holds is False


@pytest.mark.parametrize(
    ("better", "above", "below"), [(False, True, False), (True, False, True), (None, False, False)]
)
def test_a_row_that_diverged_is_the_worst_there_is_to_a_bound(better, above, below):
    for lost in ([0.5, NAN], [NAN, NAN]):
        here = made({("b", "x"): lost, ("a", "x"): [1.0, 1.0]}, better=better)
        assert holds(here, "within", than=None, above=0.4) is above
        assert holds(here, "within", than=None, below=0.6) is below
        assert holds(here, "ratio", than=None, over="a", above=0.4) is above
    counted = reading([0.5, 0.5], tasks=50, finite=49)
    assert lost_tasks(counted) and not lost_tasks(reading([0.5], tasks=50, finite=50)), "told by the measure"


def test_all_or_most_of_the_parts():
    parts = [("above", {"row": row, "than": "a"}) for row in "bcd"]
    cells = {("a", "x"): LOW, ("b", "x"): HIGH, ("c", "x"): HIGH, ("d", "x"): LOW[::-1]}
    assert decide(claim(*parts), made(cells)).holds is None
    assert decide(claim(*parts, needs="most"), made(cells)).holds is True
    assert decide(claim(*parts), made({**cells, ("d", "x"): LOW - 9})).holds is False
    assert decide(claim(*parts[1:], needs="most"), made({**cells, ("c", "x"): LOW - 9})).holds is False
    assert (all_hold([True, None]), all_hold([None, False]), most_hold([True, None, None])) == (None, False, None)
    assert (some_hold([False, True, None]), some_hold([False, None]), some_hold([False] * 2)) == (True, None, False)
    some = decide(claim(*parts[:1], *[("above", {"row": "a", "than": "b"})] * 7, needs="some"), made(cells))
    assert some.holds is True and some.evidence.startswith("1 of 8 hold, 7 are refused; holds: b - a")
    many = [("above", {"row": "b", "than": "a"})] * 7 + [("above", {"row": "d", "than": "a"})]
    assert decide(claim(*many), made(cells)).evidence.startswith("7 of 8 hold, 0 are refused; open: d - a")


def test_by_so_much_at_least():
    assert holds(two([4.0] * 4, [1.0] * 4), "below", by=2.0) is True
    assert holds(two([4.0] * 4, [3.0] * 4), "below", by=2.0) is False


def test_intervals_are_widened_for_several_comparisons():
    noise = np.tile([1.0, -1.0], 10)
    here = two(LOW, LOW + 0.5 + noise)
    assert holds(here, "above") is True and holds(here, "above", comparisons=20) is None


def test_a_part_that_does_not_apply_is_left_out():
    cells = {("a", "x"): LOW, ("b", "x"): HIGH, ("b", "flips"): [50.0], ("c", "x"): LOW - 9, ("c", "flips"): [0.0]}
    where = {"column": "flips", "above": 5, "below": 95}
    parts = [("above", {"row": row, "than": "a", "where": where}) for row in "bc"]
    verdict = decide(claim(*parts), made(cells))
    assert verdict.holds is True and verdict.evidence.endswith("It does not apply: c, flips: 0.")
    assert decide(claim(parts[1]), made(cells)).holds is None


def test_a_small_difference_asks_for_an_interval_that_could_show_a_large_one():
    here = made({("a", "x"): LOW, ("b", "x"): LOW - 0.5, ("c", "x"): LOW - 3, ("d", "x"): LOW[::-1]})
    bounds = {"at_least": -1.0, "at_most": 1.0}
    assert [holds(here, "difference", row, **bounds) for row in "bcd"] == [True, False, None]
    assert holds(here, "difference", "b", at_least=-1.0) is True


def test_rows_in_order_over_tasks_and_over_seeds():
    here = made({("a", "x"): LOW, ("b", "x"): HIGH, ("c", "x"): HIGH[::-1]})
    order = WORDS["in_order"]
    assert (
        order(here, rising=["a", "b"], column="x")[0] is True
        and order(here, falling=["a", "b"], column="x")[0] is False
    )
    assert order(here, rising=["a", "b", "c"], column="x")[0] is None
    grown = made({(f"o{n}", "x"): tuple([v + 0.001 * s * n] for s in range(5)) for n, v in enumerate((0.4, 0.5, 0.6))})
    for names, expected in ((("o0", "o1", "o2"), True), (("o1", "o0", "o2"), False)):
        assert order(grown, rising=list(names), column="x", over_seeds=5)[0] is expected
    assert order(grown, rising=["o0", "o1"], column="x", over_seeds=6)[0] is None, "fewer seeds decide nothing"


def test_numbers_within_bounds_by_mean_and_by_seed():
    hold = [Bounds(at_most=1.0).hold(1.0), Bounds(below=1.0).hold(1.0), Bounds().hold(NAN), Bounds(below=1).hold(NAN)]
    assert hold == [True, False, False, False]
    here = made({("a", "x"): [2.0], ("b", "x"): [3.0], ("c", "x"): ([96.0], [90.0], [97.0])})
    assert holds(here, "ratio", than=None, over="a", at_most=1.5) is True
    assert holds(here, "ratio", than=None, over="a", below=1.5) is False, "nothing of it is below"
    assert holds(here, "excess", than=None, over="a", above=1.0) is False
    assert holds(here, "within", "c", None, seeds="each", at_least=95) is None
    assert holds(here, "within", "c", None, seeds="each", at_least=80) is True
    assert holds(here, "within", "c", None, seeds="worst", below=98) is True
    assert holds(made({("b", "x"): ([-15.0], [-15.0], [NAN])}), "within", than=None, seeds="worst", below=-8) is False
    steps = made({(f"m-{k}", "x"): [v] for k, v in ((0.1, 3.0), (0.01, 1.0), (10, 99.0))})
    assert decide(claim(("spread_of", {"rows": "m-0.*", "at_most": 3.0})), steps).holds is True
    assert decide(claim(("spread_of", {"rows": "m-*", "at_most": 3.0})), steps).holds is False


def test_a_ratio_of_paired_tasks_has_the_interval_of_what_tasks_add_to_it():
    noise = np.random.default_rng(0).normal(size=400)
    here = made({("a", "x"): 2 + 0.1 * noise, ("b", "x"): 3 + 0.15 * noise, ("c", "x"): 3 + 0.15 * noise[::-1]})
    assert here.ratio("b", "a", "x").half < 1e-9 < here.ratio("c", "a", "x").half
    assert here.ratio("c", "a", "x").mean == pytest.approx(np.log(1.5), rel=1e-2)


def test_a_share_of_another_row_is_a_ratio_which_errors_that_blow_up_decide():
    cells = {("maml", "x"): ([0.55], [0.55], [0.56]), ("a", "x"): ([0.54], [0.55], [0.55])}
    cells |= {("blown", "x"): ([9e4], [340.0], [1e3]), ("gone", "x"): ([0.4], [NAN], [0.4])}
    cells |= {("half", "x"): ([0.27], [0.28], [0.27]), ("wide", "x"): ([0.4], [0.6], [0.4])}
    here = made(cells)
    said = {row: holds(here, "ratio", row, None, over="maml", at_most=0.9) for row, _ in cells if row != "maml"}
    assert said == {"a": False, "blown": False, "gone": False, "half": True, "wide": None}
    assert decide(claim(("below", {"row": "blown", "than": "maml"})), here).holds is None, "the mean has no interval"


def test_zero_over_zero_leaves_a_ratio_open():
    none, some = ([0.0], [0.0], [0.0]), ([0.5], [0.5], [0.5])
    for row, over, verdict in ((none, none, None), (some, none, False), (none, some, True)):
        here = made({("a", "x"): row, ("b", "x"): over})
        assert holds(here, "ratio", "a", None, over="b", at_most=0.5) is verdict


def test_numbers_near_given_ones():
    here = made({("a", "x"): [2.0], ("b", "x"): ([3.0], [3.0], [3.6])})
    near = {"numbers": {"a": 2.1, "b": 3.1}}
    assert decide(claim(("near_numbers", {**near, "share": 0.1})), here).holds is None, "the interval of b is wide"
    exact = made({("a", "x"): [2.0], ("b", "x"): [3.0]})
    assert decide(claim(("near_numbers", {**near, "share": 0.1})), exact).holds is True
    assert decide(claim(("near_numbers", {**near, "away": 0.05})), exact).holds is False


def test_time_is_linear_in_the_steps():
    straight = made({(f"maml-{k}", "x"): [2 + 3 * k] for k in (0, 1, 2, 5)})
    curved = made({(f"maml-{k}", "x"): [2 + 3 * k**3] for k in (0, 1, 2, 5, 10)})
    for here, expected in ((straight, True), (curved, False)):
        assert time_is_linear(here, rows="maml-*", column="x", above=0.98)[0] is expected


def test_differences_are_paired_over_tasks_and_seeds():
    here = made({("maml", "x"): ([1.0, 5.0], [3.0, 5.0]), ("fast", "x"): ([1.0, 1.0], [1.0, 1.0])})
    over = here.difference("maml", "fast", "x")
    assert (over.estimate.mean, over.estimate.seeds, over.tasks) == (-2.5, (-2.0, -3.0), 2)
    assert over.estimate.tasks == pytest.approx(12.706205 * 1.5)
    other = replace(here.first("fast", "x"), tasks="other")
    with pytest.raises(MissingError, match="same tasks"):
        replace(here, readings={**here.readings, ("fast", "x"): (other,)}).difference("maml", "fast", "x")
    with pytest.raises(MissingError):
        here.log("maml")


# -- the thesis's own numbers --

TABLE_6_1, TABLE_6_2 = item("mtnet", "table-6.1"), item("mtnet", "table-6.2")


def verdicts(one, here):
    return [decide(claim, here).holds for claim in one.claims]


def test_the_thesis_s_own_numbers_meet_what_it_claims_but_for_m_net_at_20_shots():
    assert verdicts(TABLE_6_1, printed(TABLE_6_1)) == [True, False, True, True, True, True]
    assert verdicts(TABLE_6_2, printed(TABLE_6_2)) == [True, True, True, True]
    evidence = decide(TABLE_6_2.claims[3], printed(TABLE_6_2)).evidence
    assert all(f"largest over smallest {number}" in evidence for number in ("3.58", "1.21", "1.47"))


def test_numbers_that_say_otherwise_are_not_let_through():
    for one, expected in ((TABLE_6_1, [False] * 6), (TABLE_6_2, [False] * 4)):
        level = {(row.name, column): (np.full(5, 4.25),) * 3 for row in one.rows for column in row.cells}
        assert verdicts(one, made(level, one)) == expected


def test_what_takes_the_whole_budget_is_not_decided_by_less():
    assert [claim.decides for claim in TABLE_6_1.claims] == ["", "", "", "", "full", ""]
    assert [claim.decides for claim in TABLE_6_2.claims] == ["", "", "", "full"]


def test_a_training_that_blew_up_is_a_failure_of_mtnet_and_what_is_said_of_maml():
    whole = printed(TABLE_6_2).readings
    nan = (Reading(NAN, more={"failed": "loss became nan"}),) * 3
    for row, expected in (("maml-10", True), ("mtnet-10", False)):
        there = Found(TABLE_6_2, "full", {**whole, (row, "10-shot"): nan}, {}, {})
        assert decide(TABLE_6_2.claims[2], there).holds is expected


def test_mtnet_alone_learns_at_alpha_1_with_every_seed():
    whole, learns = printed(TABLE_6_2).readings, TABLE_6_2.claims[1]
    assert decide(learns, Found(TABLE_6_2, "full", whole, {}, {})).holds
    tnet = {**whole, ("tnet-1", "10-shot"): whole["mtnet-1", "10-shot"]}
    assert decide(learns, Found(TABLE_6_2, "full", tnet, {}, {})).holds is False
    learned, stuck = whole["mtnet-1", "10-shot"][0], reading([4.1] * 50)
    for of_13, holds in ((12, True), (7, None), (1, False)):
        some = {("mtnet-1", "10-shot"): (learned,) * of_13 + (stuck,) * (13 - of_13)}
        some |= {("zero", "10-shot"): whole["zero", "10-shot"][:1] * 13}
        verdict = decide(learns, Found(TABLE_6_2, "full", whole | some, {}, {}))
        assert verdict.holds is holds and f"{of_13} of 13 seeds" in verdict.evidence


def test_changes_that_do_not_span_prove_nothing():
    figure_3 = item("mtnet", "figure-3")
    spans = next(claim for claim in figure_3.claims if claim.source == "proposition 1")

    def found(value, missing=0):
        numbers = ((value, missing), (-15.0, 0), (-15.0, 0))
        readings = tuple(Reading(v, more={"rank minus d, largest": m}) for v, m in numbers)
        return Found(figure_3, "full", {("proposition-1", "error"): readings}, {}, {})

    assert decide(spans, found(-15.0)).holds
    for other in (found(-15.0, 2), found(-3.0), found(NAN)):
        assert decide(spans, other).holds is False


def test_a_bump_is_of_one_sign_and_within_the_papers_range():
    one = item("wormhole", "figure-5")
    bump = next(claim for claim in one.claims if "bump" in claim.text)

    def there(low, high):
        reading = Reading(1.0, arrays={"weights": np.linspace(low, high, 5)})
        return decide(bump, Found(one, "full", {("default-tanh", "largest |w|"): (reading,) * 3}, {}, {})).holds

    assert there(-0.35, 0.8) and there(-0.8, 0.3)
    assert not there(-0.5, 0.6), "of both signs"
    assert not there(-0.4, 2.0), "out of the range"
