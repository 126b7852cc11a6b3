"""A run resumes with the pictures it began with, and is evaluated on pictures that it was not trained on."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from quickstudy.errors import InputError
from quickstudy.evaluation.leakage import LeakageWarning
from quickstudy.storage.run import Run
from quickstudy.tasks.images.drawings import read_drawings
from quickstudy.training import config
from quickstudy.training.evaluate_run import evaluate_run
from quickstudy.training.train import train

MODEL = {"name": "conv_net", "filters": 4, "blocks": 2}


@pytest.fixture(autouse=True)
def own_places(place, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(place / "cache"))
    return place


def draw_picture(folder, number):
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(values).save(folder / f"{number:03d}.png")


def pictures(place, name, classes=3, each=10):
    """Class folders of noise; the tasks over them, of two ways."""
    for number in range(classes * each):
        draw_picture(place / name / f"{name}{number // each}", number)
    return {"name": "folder", "path": str(place / name), "split": "image", "size": 8, "ways": 2, "queries": 1}


def setup_of(tasks, **more):
    steps = {"steps": 2, "meta_batch_size": 1, "validate_every": 0}
    data = {"tasks": tasks, "model": MODEL, "method": {"name": "protonet"}, "train": steps, "evaluate": {"tasks": 5}}
    return config.build(config.parse_config(data | more))


def train_run(tasks, path="run", **more):
    setup = setup_of(tasks, **more)
    run = Run.create(path, setup.config.model_dump(mode="json"))
    train(setup, run)
    return run


def resume(run):
    train(config.build(config.parse_config(run.config)), run)


# -- resuming --


@pytest.mark.parametrize("changed", ["train", "val", "test"])
def test_tasks_from_several_families_go_on_with_the_pictures_they_began_with(place, changed):
    run = train_run({"name": "cross"} | {split: pictures(place, split) for split in ("train", "val", "test")})
    resume(run)
    draw_picture(place / changed / f"{changed}0", 99)
    if changed == "test":  # what is tested later does not matter to training
        resume(run)
        return
    with pytest.raises(InputError, match=f"run was trained on {changed}, data .*Put the old files back"):
        resume(run)


# -- evaluation --


def evaluate(run, *overrides):
    return evaluate_run(run, overrides=overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ("--tasks.split", "class"),
        ("--tasks.seed", "7"),
        ("--tasks.only", "[shapes1, shapes2]"),
        ("--tasks.split", "class", "--tasks.recipe", "finn"),
        ("--evaluate.options", "{seed: 7}"),
        ("--tasks.seed", "7", "--evaluate.split", "val"),
    ],
)
def test_another_division_of_the_same_pictures_is_refused(place, overrides):
    run = train_run(pictures(place, "shapes", each=20))
    with pytest.raises(
        InputError, match=r"\d+ of the \d+ '(test|val)' pictures of shapes .* was trained on \(by image"
    ):
        evaluate(run, *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("--tasks.shots", "2"),
        ("--tasks.recipe", "finn"),
        ("--tasks.rotations", "augment"),
        ("--tasks.rotations", "classes"),
        ("--evaluate.split", "val"),
        ("--evaluate.split", "train"),
        ("--evaluate.seed", "3"),
    ],
)
def test_other_tasks_of_the_pictures_that_were_kept_apart_are_evaluated(place, overrides):
    assert evaluate(train_run(pictures(place, "shapes", each=20)), *overrides)["tasks"] == 5


def test_a_division_that_keeps_what_was_trained_on_apart_is_evaluated(place):
    """Laid out in folders, the test pictures of all classes and of some are the same pictures."""
    for number in range(60):
        draw_picture(place / "laid" / ("train", "test")[number % 2] / f"class{number // 20}", number)
    run = train_run(pictures(place, "shapes") | {"path": str(place / "laid"), "split": "layout"})
    assert evaluate(run, "--tasks.only", "[class0, class1]")["data"]["images"] == {"train": 20, "test": 20}


def test_pictures_that_changed_since_training_are_refused_unless_they_are_named(place):
    tasks = pictures(place, "shapes")
    run = train_run(tasks)
    draw_picture(place / "shapes" / "shapes0", 999)
    with pytest.raises(InputError, match="run was trained on shapes, data .* unknown which .* Put the old files back"):
        evaluate(run)
    with pytest.warns(LeakageWarning, match="may be of pictures it was trained on"):
        evaluate(run, "--tasks.path", tasks["path"])


def test_other_pictures_are_evaluated_without_a_warning(place, recwarn):
    run, other = train_run(pictures(place, "shapes")), pictures(place, "letters", classes=4)
    evaluate(run, "--tasks", json.dumps(other | {"seed": 7}))
    shutil.move(place / "shapes", place / "moved")  # a run can be evaluated when its own pictures are gone
    evaluate(run, "--tasks", json.dumps(other | {"seed": 8}))
    assert not [one for one in recwarn if one.category is LeakageWarning]


def test_pictures_that_were_moved_are_known_again(place, recwarn):
    run = train_run(pictures(place, "shapes"))
    (place / "elsewhere").mkdir()
    shutil.move(place / "shapes", place / "elsewhere" / "shapes")
    evaluate(run, "--tasks.path", str(place / "elsewhere" / "shapes"))
    assert not [one for one in recwarn if one.category is LeakageWarning]
    with pytest.warns(LeakageWarning):
        evaluate(run, "--tasks.path", str(place / "elsewhere" / "shapes"), "--tasks.seed", "7")


@pytest.mark.parametrize(("seed", "refused"), [(0, False), (7, True)])
def test_parts_of_one_set_that_are_divided_otherwise_are_refused(place, seed, refused):
    shapes = pictures(place, "shapes")
    run = train_run(
        {"name": "cross", "train": {"name": "batches", "of": shapes, "size": 8}, "test": shapes | {"seed": seed}},
        method={"name": "feature_transfer", "eval_inner_steps": 2},
    )
    if refused:
        with pytest.raises(InputError, match="are among those that run was trained on"):
            evaluate(run)
    else:
        assert evaluate(run)["tasks"] == 5


def drawn_folder(place, name, *, side=28, invert=False):
    """Some of Omniglot's drawings as files, by the names of their classes."""
    found = read_drawings()
    for number in range(0, 20 * 40):
        values = found.pixels[number, 0]
        folder = place / name / found.classes[found.labels[number]].replace("/", " ")
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(255 - values if invert else values).resize((side, side))
        picture.save(folder / f"{number:04d}.png")
    return {"name": "folder", "path": str(place / name), "size": 16, "ways": 2, "queries": 1, "split": "image"}


@pytest.mark.parametrize("changes", [{"size": 12}, {"fit": "stretch", "size": 20}])
def test_the_same_pictures_under_another_name_and_decoding_are_refused(place, changes):
    run = train_run(drawn_folder(place, "shapes"))
    copy = drawn_folder(place, "copy", side=40, invert=True)
    with pytest.raises(InputError, match="pictures of copy .* are among those that run was trained on"):
        evaluate(run, "--tasks", json.dumps(copy | changes | {"seed": 7}))
    same = evaluate(run, "--tasks", json.dumps(copy | changes))  # divided as in training
    assert same["tasks"] == 5


def test_drawings_of_another_size_and_split_are_refused(place):
    tasks = {"name": "drawings", "split": "complete", "ways": 2, "queries": 1}
    run = train_run(tasks)
    for changes in ({"split": "finn"}, {"split": "finn", "size": 20}):
        with pytest.raises(InputError, match="pictures of drawings .* are among those that run was trained on"):
            evaluate(run, "--tasks", json.dumps(tasks | changes), "--evaluate.split", "test")


def test_other_pictures_with_the_same_names_are_evaluated(place):
    run = train_run(pictures(place / "one", "parts", classes=12))
    other = pictures(place / "two", "parts", classes=12)
    for number, file in enumerate(sorted((place / "two" / "parts").rglob("*.png"))):
        values = np.random.default_rng(1000 + number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(values).save(file)
    for changes in ({"seed": 1}, {"split": "class", "size": 6}):
        assert evaluate(run, "--tasks", json.dumps(other | {"seed": 3} | changes))["tasks"] == 5


def test_tasks_that_are_no_pictures_may_be_changed(place):
    run = train_run({"name": "gaussians", "queries": 2}, model={"name": "mlp", "hidden": [4]})
    assert evaluate(run, "--tasks.shots", "2")["tasks"] == 5
