"""Laws over every item of every paper: what it is made of, builds, is claimed of it and is drawn."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made import at, made, row_of

import quickstudy.papers
from quickstudy.errors import InputError
from quickstudy.methods.registry import METHODS
from quickstudy.models import nets
from quickstudy.papers.catalog import PAPERS, item, items
from quickstudy.papers.runner.claims import decide
from quickstudy.papers.runner.figures import draw
from quickstudy.papers.runner.found import Found
from quickstudy.papers.runner.items import SCALES
from quickstudy.papers.runner.load import fill, overlay, read_item, scopes
from quickstudy.papers.runner.measures import known_options
from quickstudy.papers.runner.work import Plan, choose_rows
from quickstudy.training import config
from quickstudy.training.config import schedule

EVERY = [one for paper in PAPERS for one in items(paper).values()]
OUTER_RATES = "outer-rates", "quick"  # whose columns are the best and the last checkpoint
DATA = Path(quickstudy.papers.__file__).parent
TABLES = sorted(DATA.glob("*/*.csv"))
every_item = pytest.mark.parametrize("one", EVERY, ids=lambda one: f"{one.paper}-{one.name}")


@every_item
def test_items_are_sound(one):
    names = [row.name for row in one.rows]
    assert len(set(names)) == len(names) and all(name and not set(name) & set(", ") for name in names)
    assert set(SCALES) - {"cpu"} <= set(one.scales) and all(scale.cost for scale in one.scales.values())
    for row in one.rows:
        assert row.cells and (not row.quoted or all(cell.reported for cell in row.cells.values()))
        stands_for = {"hypermaml", "mtnet"} & {one.paper} and {"cub", "mini_imagenet", "emnist"} & set(one.needs)
        real = one.name == "digits"  # tested on MNIST itself
        assert row.quoted or not stands_for or row.stand_in or real, f"{row.name} does not say what its data stand for"
    for scale in one.scales:
        for unit in Plan(one, scale, 1, one.rows, Path("nowhere")).units():
            if unit.config is not None:
                asked = config.parse_config({**unit.config, "seed": 0})
                validated = asked.train.validate_every is None
                tuned = scale == "cpu" or (one.name, scale) == OUTER_RATES
                tuned |= one.name.startswith("contest-") and scale == "full"
                assert not asked.train.steps or validated == tuned
                assert asked.compute.compile == (scale == "full" and unit.config["compute"].get("compile", False))
            for asked in unit.asked.values():
                assert known_options(asked.measure, asked.options) == asked.options


def test_every_training_builds_at_every_scale():
    """The net and the method of each configuration, for its own pictures; what a schedule moves is there."""
    done = set()
    for one, row, scale in [(i, row, scale) for i in EVERY for row in i.rows if row.config for scale in i.scales]:
        asked = at(one, row, scale)
        options = sorted(asked.method.options), asked.tasks.options.get("size"), sorted(asked.train.schedules)
        parts = asked.method.options.get("parts"), asked.method.options.get("chart")
        key = repr((asked.model, asked.method.name, options, parts))
        if key in done or ("resnet12" in key and scale == "full"):
            continue
        done.add(key)
        if not one.needs:
            config.build(asked)
        elif asked.model is not None:
            options = asked.tasks.options.get("test", {"name": asked.tasks.name, **asked.tasks.options})
            context = {"inputs": _inputs(options), "outputs": options.get("ways", 2), "train_outputs": 7}
            net, _ = config.build_part(asked.model, nets.NETS, "model", None, **context)
            learner, _ = config.build_part(
                asked.method, METHODS, "method", {"loss": "cross_entropy"}, model=net, **context
            )
            schedule.check_schedules(learner, asked.train.schedules)
            if one.paper == "mtnet":
                moved = {f"block{i}.conv" for i in range(4)} | {"head"}
                alone = {""}  # HyperMAML's learner is the head by itself
                wanted = alone if asked.method.name == "hypermaml" else moved
                assert {name.rpartition(".")[0] for name in learner.adapts} == wanted, "no task moves a norm's bias"
    assert len(done) > 60


def _inputs(options):
    coloured = options["name"] in ("mini_imagenet", "cub")
    side = options.get("size", 84 if coloured else 28)
    return (3 if coloured else 1, side, side)


@pytest.mark.slow
def test_every_quick_training_builds_on_the_pictures(real):
    for name in ("omniglot", "emnist", "cub", "mini_imagenet", "mnist"):
        real(name)
    done = set()
    for one, row in [(i, row) for i in EVERY if i.needs for row in i.rows if row.config]:
        asked = at(one, row, "quick")
        if repr(asked) not in done:
            done.add(repr(asked))
            setup = config.build(asked)
            assert setup.family.source("train", seed=0, size=1)(0).support.y.numel()
            judged = setup.eval_family.of_split("test").source("test", seed=0, size=1)(0)
            assert one.paper != "hypermaml" or judged.query.y.numel() == 75


def test_pictures_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    one = item("hypermaml", "table-3")
    with pytest.raises(InputError, match="quickstudy data prepare omniglot"):
        config.build(at(one, row_of(one, "hypermaml"), "full"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_reported_number_is_shown_once(path):
    with path.open() as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["table", "row", "column", "value", "interval", "source"]
    one = item(path.parent.name, path.stem)
    there = Counter((line["row"], line["column"], line["source"]) for line in lines)
    shown = Counter(
        (row.name, column, told.source)
        for row in one.rows
        for column, cell in row.cells.items()
        for told in cell.reported
    )
    assert there == shown and set(there.values()) == {1}
    assert {line["table"] for line in lines} == {path.stem}
    with pytest.raises(InputError, match="which is no cell"):
        read_item(one.paper, one.name, {"rows": []}, {}, {("a", "b"): ()})


NUMBERS = [
    ("mtnet", "table-6.1", "mtnet", "20-shot", 0.33, 0.04),
    ("mtnet", "table-6.1", "mnet", "10-shot", 0.60, 0.06),
    ("mtnet", "table-6.2", "maml-10", "10-shot", 171.92, 25.04),
    ("mtnet", "table-6.2", "tnet-0.0001", "10-shot", 0.62, 0.06),
    ("mtnet", "table-6.3-omniglot", "mtnet-20", "20-way", 96.2, 0.4),
    ("mtnet", "table-6.3-omniglot", "matching", "5-way", 98.1, None),
    ("wormhole", "table-1-threshold", "near-tanh-1", "10 x cross-entropy", 1.56, None),
    ("wormhole", "table-1-threshold", "wide-diagonal-2", "10 x cross-entropy", 2.42, None),
    ("wormhole", "table-1-wavelet", "tanh-2", "10 x L1", 6.05, None),
    ("wormhole", "table-1-mnist", "tanh-5", "error rate", 0.009, None),
    ("hypermaml", "table-1", "sign-maml-mini-1", "mini-ImageNet 1-shot", 42.90, 1.50),
    ("hypermaml", "table-6", "protonet-cub-1", "CUB 1-shot", 52.52, 1.90),
    ("hypermaml", "table-6", "quoted-pamela", "mini-ImageNet 5-shot", 70.51, 0.67),
    ("hypermaml", "table-2", "matchingnet-fce-characters-1", "Omniglot to EMNIST 1-shot", 75.01, 2.09),
    ("hypermaml", "table-3", "hypermaml", "bias", 27.72, 0.68),
    ("hypermaml", "table-4", "maml-100", "seconds", 212.62, 2.24),
    ("hypermaml", "table-7", "maml-5", "mini-ImageNet 5-shot", 80.81, 0.14),
    ("hypermaml", "table-8", "mini-maml-2", "mini-ImageNet accuracy", 48.71, 0.19),
]


@pytest.mark.parametrize(("paper", "name", "row", "column", "value", "half"), NUMBERS)
def test_numbers_are_the_papers(paper, name, row, column, value, half):
    told = row_of(item(paper, name), row).cells[column].reported[0]
    assert (told.value, told.interval) == (value, half)


def test_the_same_quantity_with_four_values_shows_all():
    (cell,) = row_of(item("hypermaml", "table-2"), "hypermaml-characters-1").cells.values()
    assert [one.value for one in cell.reported] == [79.07, 79.84, 80.78, 79.10]


def test_tables_1_and_6_of_hypermaml_have_the_same_numbers():
    one, six = _numbers(("table-1", "table-6"))
    shared = set(one) & set(six)
    assert len(shared) > 20 and all(one[key] == six[key] for key in shared)


def _numbers(names):
    return [
        {
            (row.label, column): cell.reported[0].value
            for row in item("hypermaml", name).rows
            for column, cell in row.cells.items()
            if cell.reported
        }
        for name in names
    ]


def findings(one, rng):
    """Made-up numbers for all that an item reads, with what its own claims look for."""
    cells = {}
    for row in one.rows:
        for column, cell in row.cells.items():
            if cell.measure is not None:
                cells[row.name, column] = rng.uniform(1, 90) + rng.uniform(0, 0.5, size=8)
    here = made(cells, one)
    extra = {"start": 1.0, "median": 1.0, "from exact": 0.1, "size": 0.1, "from a task's own": 0.1}
    extra |= {"ranks above the rows that adapt": 0, "rank minus d, largest": 0, "steeper by": 0.0}
    arrays = {"stars": np.array([[0.5, 0.5]]), "weights": np.array([-0.3, 0.8])}
    readings = {
        key: tuple(replace(r, more=extra | {"outside the block": 0.7}, arrays=arrays) for r in every)
        for key, every in here.readings.items()
    }
    return replace(here, readings=readings)


@every_item
def test_every_claim_comes_to_a_verdict_and_needs_its_rows(one):
    here = findings(one, np.random.default_rng(0))
    for claim in one.claims:
        assert claim.short and len(claim.short) < 70 and claim.parts
        if "shrinks" in dict(claim.parts):  # which reads what a training has logged
            continue
        verdict = decide(claim, here)
        assert verdict.holds in (True, False, None) and verdict.evidence.endswith(".")
        nothing = decide(claim, Found(one, "full", {}, {}, {}))
        assert nothing.holds is None and nothing.evidence.startswith("Not run: ")


def test_every_word_of_a_claim_names_rows_that_there_are():
    from fnmatch import fnmatchcase

    for one in EVERY:
        names, columns = {row.name for row in one.rows}, {column for row in one.rows for column in row.cells}
        for claim in one.claims:
            for _, options in claim.parts:
                told = [options[key] for key in ("row", "than", "over") if key in options]
                assert all(any(fnmatchcase(name, pattern) for name in names) for pattern in told), (one.name, told)
                assert options["column"] in columns, (one.name, options)


@pytest.mark.parametrize(
    "one",
    [one for one in EVERY if any(kind in ("dots", "curves") for f in one.figures.values() for kind in f)],
    ids=lambda one: f"{one.paper}-{one.name}",
)
def test_dots_and_curves_are_drawn_whole_and_with_rows_left_out(one):
    whole = findings(one, np.random.default_rng(0))
    part = replace(whole, readings=dict(list(whole.readings.items())[:3]))
    for name, figure in one.figures.items():
        if set(figure) & {"dots", "curves"}:
            for here in (whole, part) if one.name in ("table-6.1", "table-4") else (whole,):
                sheet = draw(here, name)
                assert any(axes.has_data() for axes in sheet.axes)
                for axes in sheet.axes if "dots" in figure else ():
                    shown = [tick.get_text() for tick in axes.get_yticklabels()]
                    ran = [row.label for row in one.rows if (row.name, axes.get_title(loc="left")) in here.readings]
                    assert not axes.get_visible() or len(shown) == len(ran) or "always answering 0" in ran


def test_no_paper_imports_another():
    for path in DATA.glob("*/*.py"):
        others = [name for name in PAPERS if name != path.parent.name]
        imported = [
            line for line in path.read_text().splitlines() if "import " in line and "quickstudy.papers." in line
        ]
        assert not any(f"papers.{name}" in line for name in others for line in imported), path


def test_the_command_line_s_names_are_looked_up_with_a_hint():
    with pytest.raises(InputError, match="Did you mean `table-6.1`"):
        item("mtnet", "table-6-1")
    with pytest.raises(InputError, match="no row 'mmal' to run"):
        choose_rows(item("mtnet", "table-6.1"), ["mmal"], "full")


def test_data_is_layered_and_filled():
    scope = {"m": "maml", "a": 0.5, "own": {"maml": {"rate": {"lr": "{a}"}}}, "base": {"x": {"y": 1, "z": [1]}}}
    assert overlay(["base", {"x": {"z": []}}, "own.{m}.rate", "own.{m}.none?"], scope) == {
        "x": {"y": 1, "z": []},
        "lr": 0.5,
    }
    assert [fill("{m.key}-{n}", one) for one in scopes({"m in own": ["maml"], "n": [1, 2]}, scope)] == [
        "maml-1",
        "maml-2",
    ]
    with pytest.raises(InputError, match="There is no 'lr' for 'own.lr'. Names are: maml"):
        fill("{own.lr}", scope)
