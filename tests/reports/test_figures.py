"""Figures and reports, from runs made of invented numbers."""

import base64
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from processes import Command, run_code
from quickstudy.errors import InputError, RunError
from quickstudy.reports import canvas, figures
from quickstudy.reports.report import format_amount, format_score, write_report
from quickstudy.storage.result import EvaluationResult
from quickstudy.storage.run import Run

PNG = b"\x89PNG\r\n\x1a\n"


def image_task(rng, ways=5, shots=2, queries=5, channels=1, size=14):
    prototypes = rng.random((ways, channels, size, size)) > 0.6
    support_y, query_y = np.repeat(np.arange(ways), shots), np.repeat(np.arange(ways), queries)
    output = 2.0 * np.eye(ways)[query_y] + rng.normal(size=(ways * queries, ways))
    output[-1] = math.nan
    noisy = [prototypes[y] * 0.8 + 0.2 * rng.random((len(y), channels, size, size)) for y in (support_y, query_y)]
    return {"support_x": noisy[0], "support_y": support_y, "query_x": noisy[1], "query_y": query_y, "output": output}


def curve_task(rng, shots=10, queries=100):
    support_x, query_x = rng.uniform(-5, 5, (shots, 1)), rng.uniform(-5, 5, (queries, 1))
    return {
        "support_x": support_x,
        "support_y": 3 * np.sin(support_x),
        "query_x": query_x,
        "query_y": 3 * np.sin(query_x),
        "output": 2.7 * np.sin(query_x + 0.1),
    }


def plane_task(rng, ways=3, shots=5, queries=30):
    support_y, query_y = np.repeat(np.arange(ways), shots), np.repeat(np.arange(ways), queries)
    support_x, query_x = (np.stack([np.cos(2 * y), np.sin(2 * y)], 1) for y in (support_y, query_y))
    output = np.eye(ways)[query_y] + 0.4 * rng.normal(size=(ways * queries, ways))
    return {
        "support_x": support_x + 0.2 * rng.normal(size=support_x.shape),
        "support_y": support_y,
        "query_x": query_x + 0.3 * rng.normal(size=query_x.shape),
        "query_y": query_y,
        "output": output,
    }


def invent(path, task=image_task, seed=0, metric="accuracy", logs=True, tested=True, **summary):
    """A run as training and testing would have left it."""
    rng = np.random.default_rng(seed)
    run = Run.create(path, {"method": "mtnet", "inner_lr": 0.01, "steps": 2000})
    accuracy = metric == "accuracy"
    if logs:
        with run.writing():
            for step in range(10, 2001, 10):
                loss = 1.6 * math.exp(-step / 500) + 0.2 + 0.1 * rng.random()
                run.log({"kind": "train", "step": step, "loss": loss, "metric": 0.5, "lr": 1e-3, "seconds": step / 9})
                if step % 200 == 0:
                    level = 1 - 0.6 * math.exp(-step / 500) if accuracy else loss
                    row = {"loss": loss, "metric": level, "interval": 0.02, "finite": 200, "tasks": 200}
                    run.log({"kind": "val", "step": step, **row})
                    run.log({"kind": "probe", "step": step, "name": "gain", "value": 0.4 + step / 5000})
                    value = [[0.1, step / 2000], [0.3, 0.5]]
                    run.log({"kind": "probe", "step": step, "name": "mask <b>", "value": value})
                    wide = np.sort(rng.random(64)).tolist()
                    run.log({"kind": "probe", "step": step, "name": "rates", "value": wide})
            run.log({"kind": "train", "step": 2010, "loss": math.inf})
    if tested:
        values = rng.binomial(75, 0.95, 600) / 75 if accuracy else rng.exponential(0.5, 600)
        values[0] = math.nan
        told = {
            "name": "test",
            "method": "mtnet",
            "metric": metric,
            "mean": float(np.nanmean(values)),
            "interval": float(1.96 * np.nanstd(values) / 600**0.5),
            "tasks": 600,
            "finite": 599,
            "loss": 0.2,
            "hash": "ab12cd34ef56ab78",
            "adapt_ms": 3.42,
            "train_seconds": 812.3,
            "protocol": "finn",
            "data": {"name": "omniglot", "split": "1200/423 characters", "classes shared": 0, "licence": ["MIT"]},
            "norms": "batch statistics (transductive)",
            "parameters": 112005,
        }
        run.write_result("test", told | summary, {"metric": values, "loss": values, **task(rng)})
    return run


class Reader(HTMLParser):
    """What a browser would be asked to show or fetch."""

    def __init__(self, page):
        super().__init__()
        self.images, self.fetched, self.tags, self.text = [], [], set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attributes = dict(attrs)
        if tag == "img":
            self.images.append(attributes)
        self.fetched += [value for name, value in attrs if name in ("src", "href") and not value.startswith("data:")]

    def handle_data(self, data):
        self.text += data


def read(path):
    return Reader(path.read_text(encoding="utf-8"))


def test_a_report_holds_the_numbers_and_the_figures_and_fetches_nothing(tmp_path):
    runs = [invent(tmp_path / "a"), invent(tmp_path / "b", seed=1, mean=0.9712, interval=0.0041, finite=600)]
    path = write_report(runs, tmp_path / "out")
    page = read(path)
    assert path == tmp_path / "out" / "index.html"
    for part in ("97.1 ± 0.4 %", "(1 of 600 diverged)", "3.42", "812", "112,005", "omniglot", "transductive", "finn"):
        assert part in page.text
    for part in ("95% interval over", "inner_lr: 0.01", "torch:", "ab12cd34ef56"):
        assert part in page.text
    names = {file.stem: file.read_bytes() for file in (tmp_path / "out").glob("*.png")}
    assert names.keys() == {"learning", "spread-accuracy", "task-a", "task-b", "probes-a", "probes-b"}
    embedded = [base64.b64decode(image["src"].split(",")[1]) for image in page.images]
    assert sorted(embedded) == sorted(names.values()) and all(png.startswith(PNG) for png in embedded)
    assert all(image["alt"] for image in page.images)
    assert not page.fetched and not page.tags & {"script", "link", "iframe"}
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    assert "task lists" not in page.text


@pytest.mark.parametrize(("logs", "tested"), [(False, True), (True, False), (False, False)])
def test_what_a_run_lacks_is_said(tmp_path, logs, tested):
    page = read(write_report([invent(tmp_path / "run", logs=logs, tested=tested)], tmp_path / "out"))
    assert ("No run has logged" in page.text) == (not logs)
    assert ("it was not tested" in page.text) == (not tested)
    assert len(page.images) == 2 * (logs + tested)


def test_a_summary_without_most_of_its_entries_still_makes_a_page(tmp_path):
    run = invent(tmp_path / "run", logs=False, tested=False)
    run.write_result("test", {"mean": 0.5}, {})
    page = read(write_report([run], tmp_path / "out"))
    assert "0.500" in page.text and not page.images


def test_everything_is_escaped(tmp_path):
    bad = "<script>alert('&')</script>"
    place = tmp_path / 'a&<i>b" onerror="c'
    run = invent(place, method=bad, norms=bad, hash=bad, data={bad: bad}, protocol=bad, metric=bad)
    (run.path / "config.yaml").write_text(f'format: 1\nnote: "{bad}"\n')
    path = write_report([Run.open(run.path)], tmp_path / "out")
    page = read(path)
    assert "script" not in page.tags and "i" not in page.tags and "b" not in page.tags
    assert page.text.count(bad) >= 6
    assert all(image.keys() == {"width", "height", "src", "alt"} for image in page.images)
    assert sum('run a&<i>b" onerror="c' in image["alt"] for image in page.images) == 2
    assert all(re.fullmatch(r"[\w-]+\.(png|html)", file.name) for file in path.parent.iterdir())


def test_different_task_lists_are_pointed_out(tmp_path):
    runs = [invent(tmp_path / "a", logs=False), invent(tmp_path / "b", logs=False, hash="ffff0000")]
    page = read(write_report(runs, tmp_path / "out"))
    assert "different task lists (ab12cd34ef56: a; ffff0000: b)" in page.text


def test_a_result_of_several_lists_says_what_its_spread_is(tmp_path):
    lists = {"hash": "ab12cd34ef56+ffff0000ffff", "spread": "standard deviation over 2 task lists", "tasks": 1200}
    runs = [invent(tmp_path / "a", logs=False), invent(tmp_path / "b", logs=False, **lists)]
    page = read(write_report(runs, tmp_path / "out"))
    assert page.text.count("± is the standard deviation over 2 task lists") == 1
    assert "different task lists (ab12cd34ef56: a; ab12cd34ef56 and 1 more: b)" in page.text
    assert "b (the first list of tasks)" in (tmp_path / "out" / "index.html").read_text()


def test_validation_curves_have_the_name_of_their_own_metric(tmp_path):
    run = invent(tmp_path / "a", metric="mae")
    with run.writing():
        row = {"step": 10, "loss": 0.5, "metric": 0.5, "interval": 0.1, "finite": 9, "tasks": 9}
        run.log({"kind": "val", "name": "mse", **row})
    other = invent(tmp_path / "b", metric="mae")
    assert figures.metric_name(run, run.metrics()) == "mse" and figures.metric_name(other, other.metrics()) == "mae"


def test_classes_that_are_ruled_out_are_no_answers():
    output = np.array([[1, -np.inf], [-np.inf, 2], [np.nan, 0]])
    assert canvas.predicted_classes(output).tolist() == [0, 1, -1]


def test_a_run_without_versions_has_a_report(tmp_path):
    run = invent(tmp_path / "run")
    (run.path / "versions.json").unlink()
    assert "not recorded" in read(write_report([run], tmp_path / "out")).text


def test_runs_of_one_name_are_told_apart_and_one_run_twice_stands_once(tmp_path):
    runs = [invent(tmp_path / seed / "run", logs=False, tested=False) for seed in ("s0", "s1")]
    page = read(write_report([*runs, runs[0]], tmp_path / "out"))
    assert "2 runs compared" in page.text and "Run s0/run" in page.text and "Run s1/run" in page.text


def test_different_metrics_do_not_share_an_axis(tmp_path):
    runs = [invent(tmp_path / "a"), invent(tmp_path / "b", curve_task, metric="mse", mean=0.5271, interval=0.0558)]
    page = read(write_report(runs, tmp_path / "out"))
    assert {"spread-accuracy.png", "spread-mse.png"} <= {file.name for file in (tmp_path / "out").iterdir()}
    assert "0.527 ± 0.056" in page.text


def test_a_report_needs_runs_and_a_directory(tmp_path):
    with pytest.raises(InputError, match="at least one run"):
        write_report([], tmp_path / "out")
    run = invent(tmp_path / "run", logs=False, tested=False)
    with pytest.raises(InputError, match="is a file"):
        write_report([run], run.path / "config.yaml")
    with pytest.raises(RunError, match="could not be written"):
        write_report([run], run.path / "config.yaml" / "out")


@pytest.mark.parametrize(
    ("mean", "interval", "metric", "shown"),
    [
        (0.9712, 0.0041, "accuracy", "97.1 ± 0.4 %"),
        (0.9999, 0.00012, "accuracy", "99.99 ± 0.01 %"),
        (1.0, 0.0, "accuracy", "100.0 ± 0.0 %"),
        (0.5271, 0.0558, "mse", "0.527 ± 0.056"),
        (123.4, 14.2, "mse", "123 ± 14"),
        (1e30, 2e30, "mse", "1e+30 ± 2e+30"),
        (0.5, math.nan, "mse", "0.500"),
        (math.nan, math.nan, "accuracy", "nan %"),
    ],
)
def test_amounts_have_the_digits_that_their_interval_allows(mean, interval, metric, shown):
    assert format_amount(mean, interval, metric) == shown


def test_a_score_says_how_many_tasks_diverged():
    summary = {"metric": "mse", "mean": 0.61, "interval": 0.05, "tasks": 600, "finite": 597}
    assert format_score(summary) == "0.610 ± 0.050 (3 of 600 diverged)"
    assert format_score(summary | {"finite": 0, "mean": math.nan}) == "all 600 tasks diverged"
    single = summary | {"metric": "mse", "tasks": 1, "finite": 1}
    for interval in ("nan", math.nan, 0.0):  # earlier versions wrote 0
        assert format_score(single | {"mean": 0.61, "interval": interval}) == "0.610 (one task)"
    assert format_score({}) == "\N{EN DASH}"


@pytest.mark.parametrize(
    ("task", "caption"),
    [
        (image_task, "queries of this task are right.*✓"),
        (lambda rng: image_task(rng, ways=12, channels=3), "The first 10 of 12 classes"),
        (curve_task, "Mean squared error on this task: 0.0"),
        (plane_task, "Large outlined points"),
    ],
    ids=["gray", "colour", "curve", "plane"],
)
def test_an_example_task_is_drawn(task, caption):
    png, said = figures.draw_example_task(EvaluationResult({}, task(np.random.default_rng(0))))
    assert png.startswith(PNG) and re.search(caption, said)


@pytest.mark.parametrize(
    "change",
    [
        {"output": None},
        {"support_x": np.zeros((10, 3)), "query_x": np.zeros((25, 3))},
        {"support_x": np.zeros((10, 4, 5, 5)), "query_x": np.zeros((25, 4, 5, 5))},
        {"query_x": np.zeros((0, 1, 14, 14)), "output": np.zeros((0, 5)), "query_y": np.zeros(0, int)},
    ],
    ids=["no output", "three features", "four channels", "no queries"],
)
def test_what_cannot_be_drawn_is_left_out(change):
    arrays = image_task(np.random.default_rng(0)) | change
    arrays = {name: array for name, array in arrays.items() if array is not None}
    assert figures.draw_example_task(EvaluationResult({}, arrays)) is None


def test_diverged_tasks_and_predictions_do_not_break_a_figure():
    rng = np.random.default_rng(0)
    task = curve_task(rng)
    task["output"][:50] = math.inf
    task["output"][50:] = 1e30
    assert figures.draw_example_task(EvaluationResult({}, task))
    for values in ([math.nan], [], [0.5], [0.5, 0.5, 1e30], rng.standard_cauchy(500), [[0.25, 0.5]]):
        result = EvaluationResult({}, {"metric": np.array(values, dtype=float)})
        for metric in ("accuracy", "mse"):
            png = figures.draw_spread({"run": result}, metric)
            assert (png is None) == (not np.isfinite(values).any())


def test_without_matplotlib_the_install_line_is_given(tmp_path):
    run = invent(tmp_path / "run", logs=False)
    code = (
        "import sys\n"
        "from quickstudy.errors import InputError\n"
        "from quickstudy.reports import figures\n"
        "from quickstudy.storage.run import Run\n"
        "assert 'matplotlib' not in sys.modules\n"
        "sys.modules['matplotlib'] = None\n"
        "try: figures.draw_example_task(Run.open(sys.argv[1]).results()['test'])\n"
        "except InputError as error: print(error)\n"
    )
    done = Command(code, run.path, cwd=tmp_path, target=run_code).wait()
    assert 'pip install "quickstudy[plot]"' in done.out, done.err


# -- axes --


def test_an_axis_of_accuracies_ends_at_all_and_at_none():
    _, (axes,) = canvas.new_figure(4.0, 3.0)
    axes.plot([0, 1], [-0.4, 1.4])
    canvas.percent_if(axes, "accuracy")
    assert axes.get_ylim() == (-0.02, 1.02)
    _, (axes,) = canvas.new_figure(4.0, 3.0)
    axes.plot([0, 1], [0.6, 0.7])
    before = axes.get_ylim()
    canvas.percent_if(axes, "accuracy")
    assert axes.get_ylim() == before


@pytest.mark.parametrize("steps", [1, 3, 60_000])
def test_steps_are_counted_in_whole_numbers(steps):
    _, (axes,) = canvas.new_figure(4.0, 3.0)
    axes.plot([0, steps], [0, 1])
    canvas.whole_steps(axes)
    assert all(tick == round(tick) for tick in axes.get_xticks())
