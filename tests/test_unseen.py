"""A run goes on with the pictures it began with, and is judged on pictures that it has not seen."""

import numpy as np
import pytest
from PIL import Image

from quickstudy import config, train
from quickstudy.errors import InputError
from quickstudy.runs import Run

MODEL = {"name": "conv_net", "filters": 4, "blocks": 2}


@pytest.fixture(autouse=True)
def own_places(place, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(place / "cache"))
    return place


def drawn(folder, number):
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(values).save(folder / f"{number:03d}.png")


def pictures(place, name, classes=3, each=10):
    """Class folders of noise; the tasks over them, of two ways."""
    for number in range(classes * each):
        drawn(place / name / f"{name}{number // each}", number)
    return {"name": "folder", "path": str(place / name), "split": "image", "size": 8, "ways": 2, "queries": 1}


def setup_of(tasks, **more):
    steps = {"steps": 2, "meta_batch_size": 1, "validate_every": 0}
    data = {"tasks": tasks, "model": MODEL, "method": {"name": "protonet"}, "train": steps, "evaluate": {"tasks": 5}}
    return config.build(config.parse(data | more))


def trained(tasks, path="run", **more):
    setup = setup_of(tasks, **more)
    run = Run.create(path, setup.config.model_dump(mode="json"))
    train(setup, run)
    return run


def resumed(run):
    train(config.build(config.parse(run.config)), run)


# -- going on --


@pytest.mark.parametrize("changed", ["train", "val", "test"])
def test_tasks_from_several_families_go_on_with_the_pictures_they_began_with(place, changed):
    run = trained({"name": "cross"} | {split: pictures(place, split) for split in ("train", "val", "test")})
    resumed(run)
    drawn(place / changed / f"{changed}0", 99)
    if changed == "test":  # what is tested later does not matter to training
        resumed(run)
        return
    with pytest.raises(InputError, match=f"run was trained on {changed}, data .*Put the files back"):
        resumed(run)
