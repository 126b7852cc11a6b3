"""A composition against its parts: what is compared has seen the same tasks, and its size is stated."""

import pytest
from made import at, at_smoke

from quickstudy.papers.catalog import items

CONTESTS = [one for name, one in items("beyond").items() if name.startswith("contest-")]
each_contest = pytest.mark.parametrize("contest", CONTESTS, ids=lambda one: one.name)


@each_contest
@pytest.mark.parametrize("scale", ["quick", "full"])
def test_all_methods_see_the_same_tasks_with_each_share(contest, scale):
    seen = {}
    for row in contest.rows:
        asked = at(contest, row, scale)
        method, _, share = row.name.partition("-")
        seen.setdefault(float(share), {})[method] = asked.train.steps * asked.train.meta_batch_size
    assert sorted(seen) == [0.01, 0.1, 1.0]
    for share, tasks in seen.items():
        assert set(tasks) == {"solved", "emission", "ridge", "stepped", "step"}
        assert set(tasks.values()) == {round(share * seen[1.0]["solved"])}


@each_contest
def test_validation_chooses_every_methods_outer_rate_from_the_same_ones(contest):
    (tried,) = {(one.setting, tuple(one.values)) for one in (row.tried["full"] for row in contest.rows)}
    assert tried == ("train.meta_lr", (0.001, 0.003, 0.01))
    assert {at(contest, row, "full").train.validate_tasks for row in contest.rows} == {200}


@each_contest
def test_a_composition_is_claimed_to_beat_its_parts_and_nothing_less(contest):
    parts = {"solved": {"emission", "ridge"}, "stepped": {"emission", "step"}}
    asked = {}
    for claim in contest.claims:
        for _, options in claim.parts:
            asked.setdefault(options["row"], set()).add(options["than"])
    wanted = {
        f"{one}-{share}": {f"{part}-{share}" for part in own}
        for one, own in parts.items()
        for share in ("1", "0.1", "0.01")
    }
    assert asked == wanted


def test_the_size_of_a_learner_counts_the_net_and_its_hypernetwork(tmp_path):
    contest = next(one for one in CONTESTS if one.name == "contest-wavelet")
    found = at_smoke(contest, tmp_path, ["solved-1", "emission-1", "ridge-1", "step-1"])
    net = 50 + 1
    width = 128
    emission = net + (50 + 2) * width + width + 2 * (width * width + width) + width * net + net
    ran = {row for row, _ in found.readings}
    sizes = {row: 1000 * found.value(row, "parameters") for row in ran}
    # R2-D2 has lambda, alpha and beta, the step lambda and alpha, and MT-net one T and one mask of one row.
    assert sizes == pytest.approx(
        {"solved-1": emission + 2, "emission-1": emission, "ridge-1": net + 3, "step-1": net + 2}
    )
