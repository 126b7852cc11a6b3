"""Reproductions: what is run, kept, taken up again and shown, whatever the paper."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made import Impatient

from quickstudy.errors import InputError, RunError
from quickstudy.papers.beyond.combined import PARTS, combined
from quickstudy.papers.catalog import PAPERS, items
from quickstudy.papers.runner import tables
from quickstudy.papers.runner.found import Found
from quickstudy.papers.runner.items import Cell, Claim, Item, Reported, Row, Scale
from quickstudy.papers.runner.measures import Trained
from quickstudy.papers.runner.results import result, result_name
from quickstudy.papers.runner.store import Store
from quickstudy.papers.runner.work import Plan, collect, stand_ins, work
from quickstudy.training.train import StoppedError
from quickstudy.training.watcher import Watcher

MACHINE = {"cores": 2, "processor": "some", "torch": "2.13.0"}


def sine(name, **method):
    """A row of MAML on sine waves."""
    return Row(
        name,
        name.upper(),
        {
            "10-shot": Cell("judged", {"tasks": 50}, (Reported(0.7, 0.07, "table"), Reported(0.8, source="text"))),
            "loss": Cell("judged", {"tasks": 50, "of": "loss"}),
        },
        {
            "tasks": {"name": "sine", "shots": 10, "queries": 10},
            "model": {"name": "mlp", "hidden": [8]},
            "method": {"name": "maml", "inner_lr": 0.01, **method},
            "train": {"steps": 400, "checkpoint_every": 10, "validate_every": 0},
            "compute": {"threads": 1},
        },
    )


def replace_cells(row, **cells):
    return dataclasses.replace(row, cells=cells)


FASTER = {"row": "fast", "over": "maml", "column": "10-shot", "below": 1.0}


def made(*rows, **more):
    """An item of these rows."""
    scales = {"smoke": Scale({"train.steps": 2}), "quick": Scale({"train.steps": 20}), "full": Scale(seeds=2)}
    claims = (Claim("Faster is better.", "nowhere", (("ratio", FASTER),)),)
    return Item("mtnet", "item", "An item", rows, scales, "squared error", False, claims=claims, **more)


QUOTED = Row("quoted", "Quoted", {"10-shot": Cell(reported=(Reported(0.5, 0.05, "table"),))})


@pytest.fixture
def plan(tmp_path):
    """`plan(*rows, scale="quick", seeds=1)` in a directory of its own."""

    def make(*rows, scale="quick", seeds=1):
        one = made(*rows)
        return Plan(one, scale, seeds, one.rows, tmp_path / "out")

    return make


def done(one, watch=None):
    """Run a plan; the names of the units that this took."""
    said = []
    work(watch or Watcher(), one.units(), one.folder, lambda unit, seconds: said.append((unit.row, unit.seed)))
    return said


# -- running --


def test_what_is_done_is_not_done_again(plan):
    one = plan(sine("maml"), sine("again"), QUOTED)
    assert done(one) == [("maml", 0)], "two rows of one configuration are one training"
    assert done(one) == []
    assert done(plan(sine("maml"), sine("fast", inner_lr=0.1))) == [("fast", 0)]
    assert len(list((one.folder / "runs").glob("*/config.yaml"))) == 2


def test_a_new_seed_adds_to_the_old_ones(plan):
    done(plan(sine("maml")))
    assert done(plan(sine("maml"), seeds=3)) == [("maml", 1), ("maml", 2)]
    here, _ = collect(plan(sine("maml"), seeds=3))
    values = here.each_seed("maml", "10-shot")
    assert len(set(values)) == 3
    assert here.value("maml", "10-shot") == pytest.approx(np.mean(values))
    assert here.first("maml", "10-shot").tasks == here.all("maml", "10-shot")[2].tasks, (
        "all seeds are on the same tasks"
    )


def test_a_seed_whose_forerunner_is_missing_is_not_paired_with_another(plan):
    one = plan(sine("maml"), seeds=3)
    last = one.units()[2]
    work(Watcher(), [one.units()[0], last], one.folder, lambda unit, seconds: None)
    assert len(collect(one)[0].all("maml", "10-shot")) == 1
    done(one)
    assert len(collect(one)[0].all("maml", "10-shot")) == 3


def test_what_was_interrupted_goes_on_and_ends_the_same(plan, tmp_path):
    one = plan(sine("maml"))
    with pytest.raises(StoppedError):
        done(one, Impatient(15))
    assert not Store(one.folder).is_done(one.units()[0])
    assert done(one) == [("maml", 0)]
    other = Plan(one.item, "quick", 1, one.rows, tmp_path / "other")
    done(other)
    assert collect(one)[0].each_seed("maml", "10-shot") == collect(other)[0].each_seed("maml", "10-shot")


def test_another_process_is_left_alone_at_its_work(plan):
    one = plan(sine("maml"), sine("fast", inner_lr=0.1))
    with Store(one.folder).hold(one.units()[0]) as mine:
        assert mine
        assert done(one) == [("fast", 0)]
    assert done(one) == [("maml", 0)]


def test_what_another_process_leaves_is_taken_up_in_the_end(plan):
    one = plan(sine("maml"), sine("fast", inner_lr=0.1))
    held = Store(one.folder).hold(one.units()[0])
    held.__enter__()
    said = []

    def tell(unit, seconds):
        said.append(unit.row)
        if unit.row == "fast":
            held.__exit__(None, None, None)

    work(Watcher(), one.units(), one.folder, tell)
    assert said == ["fast", "maml"]


def test_a_training_that_diverges_is_shown_so(plan):
    one = plan(sine("maml"), sine("fast", inner_lr=1e12, inner_steps=5))
    done(one)
    here, about = collect(one)
    shown = result(one, here, about, MACHINE)
    assert "nan" in shown["stopped"]["fast"]["0"] or "inf" in shown["stopped"]["fast"]["0"]
    _, lines, _ = tables.lines(shown)
    assert [line[3] for line in lines if line[0] == "FAST"] == ["diverged", "diverged"]
    assert done(one) == []


@pytest.mark.parametrize("byte", [0, 70, -30])
def test_a_damaged_reading_is_named_and_made_again_when_it_is_deleted(plan, byte):
    one = plan(sine("maml"))
    done(one)
    before = collect(one)[0].each_seed("maml", "10-shot")
    for packed in (one.folder / "readings").glob("*.npz"):
        data = bytearray(packed.read_bytes())
        data[byte] ^= 0xFF
        packed.write_bytes(data)
    with pytest.raises(RunError, match="^.*damaged.*$"):
        collect(one)
    for table in (one.folder / "readings").glob("*.json"):
        table.unlink()
    done(one)
    assert collect(one)[0].each_seed("maml", "10-shot") == before


def test_a_reading_that_lacks_what_it_should_say_is_named(plan):
    one = plan(sine("maml"))
    done(one)
    for table in (one.folder / "readings").glob("*.json"):
        table.write_text(table.read_text().replace('"seconds"', '"secnds"'))
    with pytest.raises(RunError, match="seconds: Field required.*delete"):
        collect(one)


# -- what is said of it --


def test_a_result_holds_both_numbers_their_gap_and_every_departure(plan):
    one = plan(sine("maml"), sine("fast", inner_lr=0.1), QUOTED, seeds=3)
    done(one)
    here, about = collect(one)
    shown = result(one, here, about, MACHINE)
    first = shown["rows"][0]
    assert first["gap"] == pytest.approx(here.value("maml", "10-shot") - 0.7)
    assert first["departs"] == ["Scale `quick`: `train.steps` 20 instead of 400."]
    assert shown["rows"][-1]["ours"] is None
    ratio = np.exp(here.ratio("fast", "maml", "10-shot").mean)
    assert f"{ratio:.2g}" in shown["claims"][0]["evidence"]
    _, lines, notes = tables.lines(shown)
    assert lines[0][2] == "0.70 ± 0.07 (table); 0.80 (text)" and lines[-1][3] == "quoted" and len(notes) == 1
    rows = list(csv.DictReader(tables.as_csv(shown).splitlines()))
    assert float(rows[0]["here"]) == first["ours"]["value"] and rows[0]["paper"] == "0.7"
    assert shown["command"] == "quickstudy reproduce mtnet item --scale quick --seeds 3"


def test_the_seconds_of_a_result_are_also_those_of_trainings_on_another_machine(plan):
    """Of these the readings are here, and the checkpoints are not."""
    one = plan(sine("maml"), sine("fast", inner_lr=0.1), seeds=2)
    done(one)
    before = result(one, *collect(one), MACHINE)["seconds"]
    assert before > sum(how["training"] for how in collect(one)[1]) / 2 > 0
    for folder in (one.folder / "runs").glob("*/checkpoints"):
        shutil.rmtree(folder)
    assert result(one, *collect(one), MACHINE)["seconds"] == pytest.approx(before)


def test_a_stand_in_is_named_only_where_the_papers_pictures_were_not_at_hand(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    trained_on = {"tasks": {"name": "cross", "train": {"name": "mini_imagenet"}, "test": {"name": "omniglot"}}}
    (tmp_path / "mini_imagenet_tiny64").mkdir()
    assert stand_ins(trained_on) == ["mini_imagenet_tiny64"]
    (tmp_path / "mini_imagenet").mkdir()
    assert stand_ins(trained_on) == []

    one = plan(dataclasses.replace(sine("maml"), stand_in="other waves"))
    done(one)
    shown = result(one, *collect(one), MACHINE)["rows"][0]
    assert shown["stand_in"] == "" and "gap" in shown
    for reading in (one.folder / "readings").glob("*.json"):
        reading.write_text(reading.read_text().replace('"stand_ins": []', '"stand_ins": ["waves"]'))
    shown = result(one, *collect(one), MACHINE)["rows"][0]
    assert shown["stand_in"] == "other waves" and "gap" not in shown


def test_a_smoke_run_decides_nothing(plan):
    one = plan(sine("maml"), sine("fast", inner_lr=0.1), scale="smoke")
    done(one)
    assert result(one, *collect(one), MACHINE)["claims"][0]["holds"] is None


def test_a_scale_below_the_one_that_decides_leaves_a_claim_open(plan):
    one = plan(sine("maml"), sine("fast", inner_lr=1e12, inner_steps=5), seeds=3)  # which diverges, and that is sure
    done(one)
    (claim,) = result(one, *collect(one), MACHINE)["claims"]
    assert claim["holds"] is not None and not claim["own"]
    late = dataclasses.replace(one.item, decides="full")
    own = dataclasses.replace(one.item, claims=tuple(dataclasses.replace(c, decides="full") for c in one.item.claims))
    for less in (late, own):
        one = dataclasses.replace(one, item=less)
        (claim,) = result(one, *collect(one), MACHINE)["claims"]
        assert (
            claim["holds"] is None and f"The `{one.scale}` scale does not decide it; `full` does." in claim["evidence"]
        )


def test_a_claim_about_rows_that_were_not_run_is_not_decided(plan):
    both = plan(sine("maml"), sine("fast", inner_lr=0.1))
    one = dataclasses.replace(both, rows=both.rows[:1])
    done(one)
    claim = result(one, *collect(one), MACHINE)["claims"][0]
    assert claim["holds"] is None and "no reading of fast" in claim["evidence"]
    assert claim["evidence"].endswith(
        "It takes `quickstudy reproduce mtnet item --scale quick --seeds 3 --rows maml,fast`."
    )


def test_an_open_claim_says_which_rows_lack_seeds_or_what_is_not_here(plan):
    alike = plan(sine("maml"), sine("fast"), seeds=3)
    done(alike)
    (claim,) = result(alike, *collect(alike), MACHINE)["claims"]
    assert claim["holds"] is not None and "It takes" not in claim["evidence"]
    few = dataclasses.replace(alike, seeds=2)
    (claim,) = result(few, *collect(few), MACHINE)["claims"]
    assert claim["holds"] is None and "--seeds 3 --rows maml,fast`." in claim["evidence"]
    asked = [dataclasses.replace(one, takes="other data") for one in alike.item.claims]
    gone = dataclasses.replace(few, item=dataclasses.replace(alike.item, claims=tuple(asked)))
    (claim,) = result(gone, *collect(gone), MACHINE)["claims"]
    assert claim["holds"] is None and claim["evidence"].endswith("It takes other data.")


def test_an_open_claim_names_a_scale_that_the_item_has(plan):
    one = plan(sine("maml"), sine("fast"), scale="smoke")
    done(one)
    for names, said in ((("smoke", "full"), "--scale full --seeds 3 --rows maml,fast`."), (("smoke",), "")):
        scales = {name: one.item.scales[name] for name in names}
        fewer = dataclasses.replace(one, item=dataclasses.replace(one.item, scales=scales))
        (claim,) = result(fewer, *collect(fewer), MACHINE)["claims"]
        assert fewer.item.decides == "quick" and claim["holds"] is None
        assert said in claim["evidence"] and ("It takes" in claim["evidence"]) == bool(said)


def test_numbers_of_the_paper_whose_row_was_left_out_are_shown_as_not_run(plan):
    one = plan(sine("maml"), sine("fast", inner_lr=0.1), QUOTED)
    part = dataclasses.replace(one, rows=one.rows[:1])
    done(part)
    shown = result(part, *collect(part), MACHINE)
    _, lines, _ = tables.lines(shown)
    assert [(line[0], line[1]) for line in lines if "not run" in line] == [("FAST", "10-shot")]
    assert "FAST" not in [line[0] for line in lines if line[1] == "loss"], "the paper has no number for it"


def test_the_cpu_scale_decides_orders_once_validation_has_stopped_rising(plan, monkeypatch):
    rows = [sine("maml"), sine("fast", inner_lr=1e12, inner_steps=5)]
    one = plan(*rows, scale="cpu", seeds=3)
    item = dataclasses.replace(one.item, scales={**one.item.scales, "cpu": Scale({"train.steps": 20})}, decides="cpu")
    item = dataclasses.replace(item, rows=tuple(rows))
    one = dataclasses.replace(one, item=item)
    done(one)
    shown = result(one, *collect(one), MACHINE)
    (claim,) = shown["claims"]
    assert claim["holds"] is False and tables.verdict(claim, "cpu") == "DOES NOT REPRODUCE at cpu scale"
    assert not any("gap" in line for line in shown["rows"]), "its numbers are not held against the paper's"
    assert "here, at `cpu` scale" in tables.lines(shown)[0] and result_name(shown) == "item-cpu"
    monkeypatch.setattr(Found, "rise", lambda self, row: (0.2, 0.1) if row == "maml" else (0.1, 0.2))
    shown = result(one, *collect(one), MACHINE)
    (claim,) = shown["claims"]
    assert claim["holds"] is None and claim["evidence"].endswith(
        ": the validation of MAML had not stopped rising, so longer training is needed."
    )
    assert "MAML (maml): +0.2000 ± 0.1000, not enough" in shown["notes"][-1]


def test_what_a_computation_costs_is_decided_however_long_the_training_was(plan, monkeypatch):
    rows = [replace_cells(sine("maml"), ms=Cell("milliseconds")), replace_cells(sine("fast"), ms=Cell("milliseconds"))]
    one = plan(*rows, scale="cpu", seeds=3)
    claims = (
        Claim("It ends.", "nowhere", (("ratio", {"row": "fast", "over": "maml", "column": "ms", "below": 1e9}),)),
    )
    item = dataclasses.replace(one.item, scales={"cpu": Scale({"train.steps": 20})}, decides="cpu", claims=claims)
    one = dataclasses.replace(one, item=item)
    done(one)
    monkeypatch.setattr(Found, "rise", lambda self, row: (0.2, 0.1))
    (claim,) = result(one, *collect(one), MACHINE)["claims"]
    assert claim["holds"] is True


def test_whether_validation_still_rises_is_judged_against_its_scatter():
    class Logged:
        def __init__(self, values):
            self.values = values

        def metrics(self):
            return [{"kind": "train", "step": 1}, *({"kind": "val", "metric": value} for value in self.values)]

    def found(*curves):
        return Found(made(), "cpu", {}, {"maml": tuple(Trained(Logged(one), 0) for one in curves)}, {})

    noise = np.random.default_rng(0).normal(size=(3, 20)) * 0.01
    level, rising = noise + 0.8, noise + np.linspace(0, 1, 20)
    assert not found(*-level).is_rising("maml") and found(*-rising).is_rising("maml")
    rise, half = found(*-rising).rise("maml")
    assert rise == pytest.approx(4 / 19, abs=0.01) and 0 < half < 0.1
    assert found([0.5] * 9).rise("maml") is None, "fewer than two validations in a fifth"


# -- the command --


def test_the_command_runs_lists_and_writes_pages(cli):
    words = ("reproduce", "mtnet", "table-6.1", "--scale", "smoke", "--rows", "maml,tne*", "--out", "out")
    ran = cli(*words, "--json")
    assert ran.code == 0, ran.err
    shown, written = [json.loads(line) for line in ran.out.splitlines()]
    assert {line["row"] for line in shown["rows"] if line["ours"]} == {"maml", "tnet"}
    for path in written["written"]:
        assert "Table 6.1" in Path(path).read_text()
    again = cli(*words)
    assert again.code == 0 and "(2 are here already)" in again.err and "Table 6.1" in again.out
    listed = cli("reproduce", "--list", "--json")
    assert {json.loads(line)["item"] for line in listed.out.splitlines()} == {
        name for paper in PAPERS for name in items(paper)
    }


def test_what_is_trained_is_noted_where_nobody_watches(cli):
    ran = cli("reproduce", "wormhole", "figure-2", "--scale", "smoke", "--out", "out")
    assert ran.code == 0 and ran.err.count("seed 0: ") == 2, ran.err


@pytest.mark.slow
def test_several_processes_know_the_measures_of_a_paper(shell):
    ran = shell("reproduce", "mtnet", "figure-3", "--scale", "smoke", "--workers", "2", "--json")
    shown = json.loads(ran.out.splitlines()[0])
    assert ran.code == 0 and all(line["ours"] for line in shown["rows"]), ran.err
    assert Path("reproductions/mtnet/figure-3-3.3.svg").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Say which paper: mtnet, wormhole, hypermaml, beyond"),
        (("mtnett",), "Did you mean `mtnet`"),
        (("mtnet",), "Nothing of mtnet has been run in reproductions"),
        (("mtnet", "table-61"), "Did you mean `table-6.1`"),
        (("mtnet", "table-6.1", "--scale", "ful"), "Did you mean `full`"),
        (("mtnet", "table-6.1", "--rows", "maml,tnt"), "no row 'tnt'"),
        (("mtnet", "table-6.1", "--seeds", "0"), "`--seeds` was 0"),
        (("mtnet", "table-6.1", "--workers", "-1"), "`--workers` was -1"),
        (("mtnet", "all", "--rows", "maml"), "--rows names rows of one item"),
        (("mtnet", "table-6.1", "--train.steps", "5"), "no option"),
    ],
)
def test_mistakes_are_named(cli, words, said):
    ended = cli("reproduce", *words)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err and "Traceback" not in ended.err


def test_image_sets_that_are_missing_are_named_before_anything_runs(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path / "empty"))
    ended = cli("reproduce", "beyond", "shots", "--scale", "smoke")
    assert ended.code == 2 and "needs the image set 'omniglot'" in ended.err
    assert not Path("reproductions").exists()


def test_all_leaves_out_what_has_no_pictures_here(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path / "empty"))
    ended = cli("reproduce", "beyond", "all", "--scale", "ful")
    assert ended.code == 2 and "Did you mean `full`" in ended.err
    assert "ways is left out: omniglot is not here" in ended.err


# -- combinations --


@pytest.mark.parametrize(("parts", "said"), [(["metrics"], "Did you mean `metric`"), (["emission"], "set `adapted`")])
def test_combinations_that_cannot_be(parts, said):
    from torch import nn

    with pytest.raises(InputError, match=said):
        combined(nn.Linear(3, 2), parts=parts)


def test_parts_at_rest_are_gradient_steps_alone(double):
    """A metric that is the identity changes nothing; every other part is seen in the outcome."""
    import torch
    from torch import nn

    from cases import NETS, tasks

    batch = tasks(NETS[0])
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    outcomes = {}
    for part in (None, *PARTS):
        torch.manual_seed(0)
        model = combined(net, parts=[part] if part else [], adapted="head")
        outcomes[part] = model(batch).loss
    torch.testing.assert_close(outcomes["metric"], outcomes[None])
    for part in PARTS[1:]:
        assert not torch.allclose(outcomes[part], outcomes[None]), part


def test_a_number_of_one_task_is_shown_without_an_interval():
    ours = {"value": 0.5, "interval": float("nan"), "tasks": 1, "finite": 1}
    assert tables.our_number(ours, 2) == "0.50 (one task)"
    assert tables.amount(123456.0, float("nan"), 2) == "1.23e+05"


@pytest.mark.parametrize("change", [{"at": np.zeros(3)}, {"at": np.zeros(0)}, {"at": np.zeros((400, 2, 2))}], ids=str)
def test_readings_whose_arrays_do_not_fit_are_named(cli, place, change):
    words = ("reproduce", "wormhole", "figure-4", "--scale", "smoke", "--out", "out", "--quiet")
    assert cli(*words).code == 0
    for path in (place / "out" / "readings").glob("*.npz"):
        np.savez(path, **{**np.load(path), **change})
    done = cli(*words)
    assert done.code == 1 and "do not fit wormhole figure-4" in done.err and done.err.count("\n") == 1
