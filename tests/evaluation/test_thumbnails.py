"""Pictures of image tasks: what a result keeps for them, and what a report makes of it."""

import io
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from processes import Command, run_code
from quickstudy.cli.main import run_command
from quickstudy.evaluation.evaluate import PROTOCOLS, Protocol, evaluate
from quickstudy.evaluation.metrics import get_metric
from quickstudy.evaluation.thumbnails import (
    THUMBNAIL_BYTES,
    collect_thumbnails,
    count_confusions,
    make_contact_sheet,
    make_thumbnails,
    merge_confusions,
    predict_classes,
)
from quickstudy.methods.nearest_neighbour import NearestNeighbour
from quickstudy.reports import canvas, figures, image_figures
from quickstudy.reports.report import write_report
from quickstudy.storage.result import NO_ANSWER, QUERIES_SHOWN, EvaluationResult
from quickstudy.storage.run import Run
from quickstudy.tasks import Cross, Episodes, digits, drawings
from quickstudy.training.evaluate_run import evaluate_run

PNG = b"\x89PNG\r\n\x1a\n"
TASKS, QUERIES = 30, 15


@pytest.fixture(scope="module")
def evaluated_once(tmp_path_factory):
    run = tmp_path_factory.mktemp("once") / "run"
    assert run_command(["train", "digits-nearest", "--out", str(run), "--no-tensorboard", "--quiet"]) == 0
    assert run_command(["evaluate", str(run), "--evaluate.tasks", str(TASKS), "--quiet"]) == 0
    return run


@pytest.fixture
def run(place, evaluated_once):
    shutil.copytree(evaluated_once, "run")
    return Run.open("run")


@dataclass(frozen=True, eq=False)
class Named(Episodes):
    names: dict = field(default_factory=dict)


def family(classes=9, per=12, shape=(3, 84, 84), **options):
    """Noise, which nothing compresses, in the given shape."""
    rng = np.random.default_rng(0)
    images = rng.random((classes * per, *shape), dtype=np.float32)
    names = {i: f"Alphabet_of_$x_{i}$ <b>/character{i:02}" for i in range(classes)}
    options = {"ways": 3, "shots": 1, "queries": 5, "names": names} | options
    return Named.by_class(images, np.repeat(np.arange(classes), per), fractions=(0.34, 0.33, 0.33), **options)


def result_of(tasks, n=4, **summary):
    """A result of the nearest neighbour, as `evaluate_run` would keep it."""
    judged = evaluate(NearestNeighbour(tasks.outputs), tasks, get_metric("accuracy"), n=n)
    return EvaluationResult(
        {"split": "test", "hash": judged.hash, **summary},
        collect_thumbnails(tasks, "test", judged.example, [judged.confusion]),
    )


# -- what is kept --


def test_confusions_count_every_query_and_their_diagonal_is_the_accuracy(run):
    result = run.results()["test"]
    rows = result.arrays["confusion"]
    assert rows[:, 2].sum() == TASKS * 5 * QUERIES
    right = rows[rows[:, 0] == rows[:, 1], 2].sum()
    assert right / rows[:, 2].sum() == pytest.approx(result.summary["mean"], rel=1e-6)
    met = digits(queries=QUERIES).source("test", seed=0, size=50)(0, slice(0, TASKS)).about["classes"]
    for label, tasks in Counter(met.ravel().tolist()).items():
        assert rows[rows[:, 0] == label, 2].sum() == tasks * QUERIES


def test_confusions_are_what_a_loop_over_queries_counts():
    rng = torch.Generator().manual_seed(0)
    classes = torch.stack([torch.randperm(12, generator=rng)[:4] * 7 - 20 for _ in range(50)])
    y, guess = (torch.randint(low, 4, (50, 9), generator=rng) for low in (0, -1))
    by_hand = Counter(
        (int(own[t]), int(own[g]) if g >= 0 else NO_ANSWER)
        for own, true, said in zip(classes, y, guess, strict=True)
        for t, g in zip(true, said, strict=True)
    )
    whole = count_confusions(classes, y, guess)
    halves = [count_confusions(classes[part], y[part], guess[part]) for part in (slice(0, 20), slice(20, 50))]
    for rows in (whole, merge_confusions(halves)):
        assert {(t, g): count for t, g, count in rows.tolist()} == by_hand and len(rows) == len(by_hand)


def test_an_output_that_is_no_number_or_no_class_is_no_answer():
    output = torch.tensor([[0.0, 1.0, 0.0], [1.0, torch.nan, 0.0], [0.0, 0.0, 1.0], [0.0, torch.inf, 1.0]])
    assert predict_classes(output, ways=2).tolist() == [1, -1, -1, 1]


def test_repeats_are_counted_together(run, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "few", Protocol("few", 10, 3))
    mean = evaluate_run(run, protocol="few")["mean"]
    rows = run.results()["test"].arrays["confusion"]
    assert rows[:, 2].sum() == 3 * 10 * 5 * QUERIES
    assert rows[rows[:, 0] == rows[:, 1], 2].sum() / rows[:, 2].sum() == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize(("rotations", "copies"), [("classes", 4), ("mirrored", 8)])
def test_the_sheet_names_the_classes_that_it_shows_where_they_are_turned(rotations, copies):
    plain, turned = drawings("lake"), drawings("lake", rotations=rotations)
    base, sheet = (make_contact_sheet(family, ["train", "test"]) for family in (plain, turned))
    assert np.array_equal(sheet["sheet_x"], base["sheet_x"])
    names = [turned.class_name(label).partition(" at ")[0] for label in sheet["sheet_labels"].tolist()]
    assert names == [plain.class_name(label) for label in base["sheet_labels"].tolist()]
    assert sheet["sheet_classes"].tolist() == [766 * copies, 659 * copies]


def test_the_sheet_has_an_image_of_every_class_from_its_own_split(run):
    arrays = run.results()["test"].arrays
    tasks = digits(queries=QUERIES)
    assert arrays["sheet_splits"].tolist() == ["train"] * 10 + ["val"] * 10 + ["test"] * 10
    assert arrays["sheet_labels"].tolist() == [*range(10)] * 3 and arrays["sheet_shared"].tolist() == [*range(10)]
    for image, label, split in zip(arrays["sheet_x"], arrays["sheet_labels"], arrays["sheet_splits"], strict=True):
        own = [number for number in tasks.splits[split] if tasks.labels[number] == label]
        assert (np.round(255 * tasks.images[own]) == image).all((1, 2, 3)).any()


def test_the_example_keeps_its_labels_and_the_images_that_are_shown(run):
    arrays = run.results()["test"].arrays
    task = digits(queries=QUERIES).source("test", seed=0, size=50)(0, slice(0, 1))
    assert arrays["classes"].tolist() == task.about["classes"][0].tolist()
    assert arrays["query_y"].tolist() == task.query.y[0].tolist() and len(arrays["output"]) == 5 * QUERIES
    assert len(arrays["query_x"]) == 5 * QUERIES_SHOWN and arrays["query_x"].dtype == np.uint8
    for half, of in (("support", task.support), ("query", task.query)):
        shown = of.x[0][arrays[f"{half}_shown"]]
        np.testing.assert_array_equal(arrays[f"{half}_x"], (255 * shown).round())


def test_names_are_kept_for_the_classes_that_occur(run):
    arrays = result_of(family()).arrays
    assert arrays["names"].tolist() == [family().names[label] for label in arrays["labels"].tolist()]
    assert set(arrays["labels"]) == set(range(9))
    digit = run.results()["test"].arrays
    assert digit["names"].tolist() == [str(label) for label in digit["labels"].tolist()] == [*map(str, range(10))]


def test_a_result_of_large_images_stays_under_a_megabyte(tmp_path):
    tasks = family(classes=180, ways=5, shots=5, queries=7)
    kept_run = Run.create(tmp_path / "run", {})
    kept_run.write_result("test", {}, result_of(tasks, n=1).arrays)
    assert THUMBNAIL_BYTES < (kept_run.path / "results" / "test.npz").stat().st_size < 1_000_000


def test_thumbnails_fit_their_room_and_keep_the_order_of_values():
    ramp = np.linspace(-3, 5, 64 * 64, dtype=np.float32).reshape(1, 1, 64, 64).repeat(400, 0)
    small = make_thumbnails(ramp)
    assert small.size <= THUMBNAIL_BYTES and small.shape[2] == small.shape[3] < 64
    assert (small.min(), small.max()) == (0, 255) and (np.diff(small[0, 0].ravel().astype(int)) >= 0).all()
    assert make_thumbnails(np.full((2, 3, 4, 5), 7.0)).tolist() == np.zeros((2, 3, 4, 5)).tolist()


def test_tasks_that_are_no_images_keep_confusions_alone():
    points = np.random.default_rng(0).random((60, 2))
    arrays = result_of(Episodes.by_image(points, np.repeat(range(5), 12), (0.5, 0.0, 0.5), queries=2)).arrays
    assert arrays["support_x"].dtype == np.float32 and arrays["support_x"].shape == (5, 2)
    assert "confusion" in arrays and not any(name.startswith("sheet") for name in arrays)


def test_tasks_from_several_families_keep_what_the_part_that_is_judged_keeps():
    alone, joined = result_of(family()).arrays, result_of(Cross(train=family(classes=12), test=family())).arrays
    for name in ("confusion", "classes"):
        assert np.array_equal(joined[name], alone[name])
    of_test = alone["sheet_splits"] == "test"
    assert set(joined["sheet_splits"]) == {"test"}
    assert joined["sheet_labels"].tolist() == alone["sheet_labels"][of_test].tolist()
    assert set(joined["names"]) <= set(alone["names"])
    assert image_figures.draw_contact_sheet(EvaluationResult({"split": "test"}, joined)) is not None


# -- what is drawn --


def test_a_report_shows_the_three_pictures_and_says_of_what(run, tmp_path):
    page = write_report([run], tmp_path / "out")
    assert {"task-run", "confusion-run", "classes-run"} <= {file.stem for file in page.parent.glob("*.png")}
    text = page.read_text()
    named = run.results()["test"].summary["hash"]
    assert text.count(f"`test` (test split, list {named})") == 2
    rows = run.results()["test"].arrays["confusion"]
    wrong = rows[rows[:, 0] != rows[:, 1], 2].sum()
    assert f"{wrong:,} of {TASKS * 5 * QUERIES:,} queries" in text
    assert "by image (classes shared)" in text and "10 classes are in more than one split" in text
    assert "The first 8 of 15 queries a class are shown." in text


def colours(png):
    """Which of the two frames a picture has."""
    pixels = imread(io.BytesIO(png))[..., :3]
    return {name for name in ("RIGHT", "WRONG") if (abs(pixels - to_rgb(getattr(canvas, name))).max(-1) < 0.01).any()}


@pytest.mark.parametrize(("shift", "frames"), [(0, {"RIGHT"}), (1, {"WRONG"}), (None, {"WRONG"})])
def test_right_and_wrong_queries_have_frames_of_their_own(shift, frames):
    result = result_of(family(shape=(1, 12, 18)))
    y = result.arrays["query_y"]
    output = np.full((len(y), 3), np.nan) if shift is None else np.eye(3)[(y + shift) % 3]
    png, caption = figures.draw_example_task(EvaluationResult({}, result.arrays | {"output": output}))
    assert png.startswith(PNG) and colours(png) == frames
    assert caption.startswith(f"{0 if shift != 0 else len(y)} of {len(y)} queries")


def test_splits_by_class_are_shown_to_be_disjoint():
    png, caption = image_figures.draw_contact_sheet(result_of(family()))
    assert png.startswith(PNG) and "No class is in two splits." in caption


@pytest.mark.parametrize("classes", [18, 90])
def test_few_classes_make_a_matrix_and_many_a_list_of_pairs(classes):
    result = result_of(family(classes, shape=(1, 8, 8)), n=60)
    rows = result.arrays["confusion"]
    rows[0, 1] = NO_ANSWER
    png, caption = image_figures.draw_confusion(result)
    assert png.startswith(PNG) and ("A row is a true class" in caption) == (classes == 18)
    wrong = rows[rows[:, 0] != rows[:, 1]]
    assert caption.startswith(f"{wrong[:, 2].sum():,} of {60 * 3 * 5:,} queries")
    assert (f"most frequent of {len(wrong):,} pairs" in caption) == (classes == 90)


def test_many_classes_without_a_mistake_need_no_picture():
    every = np.arange(40)
    png, caption = image_figures.draw_confusion(
        EvaluationResult({}, {"confusion": np.stack([every, every, every + 1], 1)})
    )
    assert png is None and "Every one of 820 queries was right" in caption


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("query_x", "No example task that can be drawn"),
        ("sheet_labels", "The images of classes saved with its results do not fit together"),
        ("sheet_classes", "The images of classes saved with its results do not fit together"),
        ("confusion", "The confusions saved with its results do not fit together"),
    ],
)
def test_pictures_that_do_not_fit_together_are_skipped_and_said(run, tmp_path, name, said):
    summary, arrays = run.results()["test"]
    run.write_result("test", summary, arrays | {name: arrays[name][:0]})
    text = write_report([run], tmp_path / "out").read_text()
    assert said in text and len(re.findall("<figure>", text)) == 3  # the spread, and the other two


def test_a_damaged_file_is_one_sentence(cli, run):
    data = run.path / "results" / "test.npz"
    data.write_bytes(data.read_bytes()[:-200])
    done = cli("report", "run")
    (line,) = done.err.splitlines()
    assert done.code == 1 and "test.npz is missing or damaged" in line


def test_what_is_kept_needs_no_matplotlib(tmp_path):
    code = (
        "import sys\n"
        "import quickstudy.training.evaluate_run, quickstudy.reports.image_figures\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    done = Command(code, cwd=tmp_path, target=run_code).wait()
    assert done.code == 0, done.err
