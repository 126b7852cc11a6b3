"""The benchmark: all that is timed computes the same thing, and what was measured is reported. No test reads a time."""

import json
import os
import signal
import time
from contextlib import closing
from dataclasses import replace

import pytest
import torch

from processes import PATIENCE, Command, run_code
from quickstudy.bench import agreement, contenders, suites
from quickstudy.bench.contenders import CONTENDERS, PEERS, Contender, choose_peers
from quickstudy.bench.goals import BenchResult, Goal
from quickstudy.bench.implementations import ByHand, Library
from quickstudy.bench.machine import count_flops
from quickstudy.bench.measure import ContenderError, Processes, Timing
from quickstudy.bench.plots import draw_plots
from quickstudy.bench.workloads import BENCH_METHODS, WORKLOADS, Case
from quickstudy.errors import InputError

GOALS = suites.get_suite("targets").goals
EXACT = 1e-8
"""Float64; a bias before a batch norm, whose gradient is 0, is rounding at 1e-10 of the scale it is compared on."""

CASES = [
    *(
        Case(workload, method, tasks=2, steps=2, queries=1)
        for workload in ("sine", "omniglot")
        for method in BENCH_METHODS[:3]
    ),
    Case("omniglot", "hypermaml", tasks=2, queries=1),
    Case("omniglot20", "hypermaml", tasks=2, queries=1),
    Case("mini32", "maml", tasks=2, steps=1, queries=1),
]


@pytest.fixture(autouse=True)
def single():
    """Whatever ran before, torch's own default."""
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_loop_by_hand_computes_what_the_library_does(case):
    found = agreement.check_agreement(case, ["plain", "eager"])
    assert {name: isinstance(e, float) and e < EXACT for name, e in found.items()} == {"plain": True, "eager": True}


@pytest.mark.parametrize("peer", ["higher", "torchopt", "learn2learn", "jax"])
@pytest.mark.parametrize("workload", ["sine", "omniglot"])
def test_peers_compute_what_the_library_does(workload, peer):
    pytest.importorskip(peer, reason=f"{peer} is not installed: pip install 'quickstudy[peers]' has two of them")
    case = Case(workload, tasks=2, steps=2, queries=1)
    error = agreement.check_agreement(case, [peer])[peer]
    assert isinstance(error, float) and error < EXACT


def test_halves_of_the_tasks_average_to_the_whole():
    case = Case("sine", "mtnet", tasks=4, steps=2)
    whole, *halves = (
        Library(case, torch.float64, part, {}).gradients() for part in (slice(None), slice(0, 2), slice(2, 4))
    )
    two = replace(CONTENDERS["two workers"])
    assert [two.part(case, rank) for rank in (0, 1)] == [slice(0, 2), slice(2, 4)]
    for g, a, b in zip(whole, *halves, strict=True):
        torch.testing.assert_close((a + b) / 2, g)
    with pytest.raises(InputError, match="3 tasks do not divide among 2"):
        two.part(replace(case, tasks=3), 0)


def test_a_wrong_gradient_is_not_timed(monkeypatch):
    class Wrong(ByHand):
        def gradients(self):
            return [g * (1 + 1e-4) for g in super().gradients()]

    monkeypatch.setitem(contenders.IMPLEMENTATIONS, "plain", Wrong)
    found = agreement.check_agreement(Case("sine", tasks=2), ["plain"])["plain"]
    assert "meta-gradient is wrong: relative error 1.0e-04" in agreement.explain_disagreement(found)


def test_steps_are_the_same_step_by_hand_and_here():
    case = Case("sine", tasks=2)
    one, other = (maker(case, torch.float64, slice(None), {}) for maker in (Library, ByHand))
    before = [p.detach().clone() for p in one.parameters()]
    one.run(1)
    other.run(1)
    for p, q, start in zip(one.parameters(), other.parameters(), before, strict=True):
        torch.testing.assert_close(p, q)
        assert not torch.equal(p, start)


def test_operations_are_counted():
    """One task, K = 0 in evaluation: the query through 1-40-40-1, a multiplication and an addition each."""
    assert count_flops(Case("sine", tasks=3, steps=0, phase="evaluate", queries=7)) == 3 * 7 * 2 * (40 + 1600 + 40)


HOLDS = """
import torch
from quickstudy.bench.implementations import ByHand
from quickstudy.bench.memory import measure_peak_above
from quickstudy.bench.workloads import Case

class Holds(ByHand):
    def gradients(self):
        torch.ones(10_000_000)
        return super().gradients()

print(measure_peak_above(Holds(Case("sine", tasks=1), torch.float32, slice(None), {})))
"""


def test_peak_memory_sees_what_a_step_held_for_a_moment(tmp_path):
    """In a process of its own: one that has freed much memory takes forty megabytes of that instead of new ones."""
    done = Command(HOLDS, cwd=tmp_path, target=run_code).wait()
    assert done.code == 0 and 39e6 < int(done.out) < 60e6, done


def test_the_smoke_suite_from_the_command_line(cli, place):
    done = cli("bench", "smoke", "--rounds", 2, "--seconds", 0.05, "--peers", "none", "--json", "--out", "here")
    assert done.code == 0, done.err
    machine, timed, memory, written = map(json.loads, done.out.splitlines())
    assert machine["machine"]["peak, one thread"]["threads"] == 1
    assert set(timed["contenders"]) == {"plain", "eager"}
    for row in timed["contenders"].values():
        assert row["error"] < EXACT and len(row["rounds"]) == 2 and row["gflops"] > 0
    assert timed["contenders"]["plain"]["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert memory["peak_bytes"]["eager"] > 0
    whole = json.loads((place / "here" / "bench.json").read_text())
    assert whole["cells"][0]["contenders"] == timed["contenders"]
    assert written == {"written": ["here/bench.json"]}  # one case makes no curve


def test_a_contender_that_cannot_take_part_says_why():
    with closing(Processes("two workers")) as both:
        with pytest.raises(ContenderError, match="1 tasks do not divide among 2 processes"):
            both.ask("build", case={"workload": "sine", "tasks": 1})
        both.ask("build", case={"workload": "sine", "tasks": 2})
        both.ask("repeat", times=1)  # they average their gradients
        both.children[1].kill()
        with pytest.raises(ContenderError, match="its process ended|Connection"):  # of which process is read first
            both.ask("repeat", times=1)
        with pytest.raises(ContenderError, match="its process has ended"):
            both.ask("repeat", times=1)


def test_curves_are_drawn_where_one_thing_varies(tmp_path):
    pytest.importorskip("matplotlib")
    found = BenchResult()
    for count in (1, 4):
        case = Case("sine", tasks=count)
        found.timings[case] = Timing(case, "plain", {"plain": [0.2, 0.1]}, {}, {"plain": 0.0}, 1)
    for steps in (1, 5):
        found.memory[Case("omniglot", steps=steps)] = {"eager": 10**8, "recompute": "this engine has no `recompute`"}
    names = sorted(path.name for path in draw_plots(found, tmp_path))
    assert names == [
        "steps-omniglot-maml-tasks4-train-shots1-queries15-memory.png",
        "tasks-sine-maml-steps1-train-shots10-queries10.png",
    ]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_goals_are_read_off():
    case = Case("sine", "maml", 25, 5)
    found = BenchResult({case: Timing(case, "plain", {"plain": [6.0, 7.0], "eager": [1.0, 1.0]}, {}, {}, 1)})
    checked = {(goal.reading, goal.name, goal.case): goal.check(found) for goal in GOALS}
    first, second = checked.pop(("speedup", "eager", case)), checked.pop(("speedup", "compiled", case))
    assert (first["value"], first["met"]) == (6.5, True)
    assert (second["value"], second["met"]) == (None, None)  # nobody was compiled
    assert all(goal["met"] is None for goal in checked.values())
    waves = {"workload": "sine", "tasks": 25, "steps": 5}
    inverse = Goal.read("{case}", case=waves, time="eager", over="plain", at_most=0.1).check(found)
    assert (inverse["goal"], inverse["sign"], inverse["met"]) == (str(case), "<=", False)
    assert inverse["value"] == pytest.approx(1 / 6.5)
    share = Goal.read("{case}", case=waves, peak="plain", at_least=0.5)
    assert share.check(found)["met"] is None  # the peak is not known
    found = BenchResult({case: Timing(case, "plain", {"plain": [2.0]}, {}, {}, 12 * 10**9)}, peak=10.0)
    assert share.value(found) == pytest.approx(0.6)
    memory = {Case("omniglot", "maml", 4, k): {"recompute": 10 * k} for k in (5, 100)}
    whole = BenchResult(memory=memory, command={"cold": 80.0, "warm": "it failed"})
    told = [(goal["value"], goal["met"]) for goal in (goal.check(whole) for goal in GOALS[-3:])]
    assert told == [(20.0, False), (80.0, True), (None, None)]


@pytest.mark.parametrize("name", suites.SUITES)
def test_suites_are_of_known_cases_and_contenders(name):
    suite = suites.get_suite(name)
    assert suite.speed or suite.memory
    for cell in (*suite.speed, *suite.memory):
        assert cell.case.workload in WORKLOADS and set(cell.names) <= set(CONTENDERS)
        assert cell.case.method == "maml" or not set(cell.names) & set(PEERS)
    assert len({cell.case for cell in suite.speed}) == len(suite.speed)


def test_the_baseline_has_the_defaults(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    left = CONTENDERS["plain"].environment()
    assert not {"OMP_NUM_THREADS", "MALLOC_ARENA_MAX"} & set(left)
    assert Contender("plain", "", threads=2).environment()["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sines"], "Did you mean `sine`?"),
        (["smoke", "--methods", "mamls"], "Did you mean `maml`?"),
        (["smoke", "--methods", "hypermaml"], "Nothing of this suite is left"),
        (["smoke", "--peers", "hihger"], "Did you mean `higher`?"),
        (["smoke", "--rounds", "0"], "at least one is needed"),
        (["smoke", "--seconds", "0"], "above 0"),
        (["smoke", "--seconds", "nan"], "a number above 0"),
        (["smoke", "--seconds", "inf"], "a number above 0"),
        (["smoke", "--train.steps", "5"], "`--train.steps` is no option of `quickstudy bench`"),
    ],
)
def test_wrong_words_are_refused(cli, words, said):
    done = cli("bench", *words)
    assert done.code == 2
    assert said in " ".join(done.err.split())


def test_results_that_cannot_be_written_are_refused_before_anything_is_measured(cli, place):
    (place / "taken").write_text("")
    done = cli("bench", "smoke", "--out", "taken")
    assert done.code == 1 and done.out == ""
    assert "taken could not be written" in done.err and "--out DIRECTORY" in done.err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no polite kill")
def test_a_polite_kill_ends_the_contenders_and_leaves_no_folder(place):
    (place / "tmp").mkdir()
    words = ["bench", "smoke", "--rounds", "1", "--seconds", "60", "--peers", "none", "--quiet"]
    bench = Command(*words, cwd=place, env={"TMPDIR": str(place / "tmp")})
    end = time.monotonic() + PATIENCE
    while not list((place / "tmp").glob("*/errors")) and time.monotonic() < end:  # a contender's process has started
        time.sleep(0.05)
    bench.send_signal(signal.SIGTERM)
    done = bench.wait()
    assert (done.code, done.err) == (1, "error: Interrupted.\n")
    assert not list((place / "tmp").iterdir())


def test_wrong_cases_are_refused():
    with pytest.raises(InputError, match="Did you mean `omniglot`"):
        Case("omniglots")
    with pytest.raises(InputError, match="none on sine"):
        Case("sine", "hypermaml")
    assert choose_peers(None) == list(PEERS) and choose_peers(["none"]) == []


def test_cases_are_chosen_by_their_printed_name():
    part = suites.get_suite("mini").only(["maml", "hypermaml"], [], "mini64*5-shot*train")
    assert [str(cell.case) for cell in part.speed] == [
        "mini64 maml K5 5-shot T2 train",
        "mini64 hypermaml 5-shot T2 train",
    ]
    assert suites.get_suite("targets").goals and not suites.get_suite("targets").only(None, [], "sine*").goals
    with pytest.raises(InputError, match=r"the cases 'mini46\*'\. Its cases are: mini32 maml K5 1-shot T2 train, "):
        suites.get_suite("mini").only(None, [], "mini46*")
