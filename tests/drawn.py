"""Folders of real drawings, and runs that are trained on drawings for a few steps."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quickstudy.storage.run import Run
from quickstudy.tasks.images.drawings import read_drawings
from quickstudy.training.config import build, parse_config
from quickstudy.training.train import train

METHODS = {
    "protonet": {"name": "protonet"},
    "maml": {"name": "maml", "inner_lr": 0.2, "inner_steps": 2},
    "hypermaml": {"name": "hypermaml", "width": 16, "hidden_layers": 1},
    "mtnet": {"name": "mtnet", "inner_lr": 0.2},
    "unicorn_maml": {"name": "unicorn_maml", "inner_lr": 0.2},
    "nearest_neighbour": {"name": "nearest_neighbour"},
    "feature_transfer": {"name": "feature_transfer", "eval_inner_steps": 5},
    "hypershot": {"name": "hypershot"},
}


def settings(method, **changes):
    return {
        "tasks": {"name": "drawings", "split": "lake", "ways": 5, "shots": 1, "queries": 3, "size": 14},
        "model": None if method == "nearest_neighbour" else {"name": "conv_net", "filters": 8, "blocks": 2},
        "method": METHODS[method],
        "train": {"steps": 0 if method == "nearest_neighbour" else 4, "meta_batch_size": 2, "validate_every": 0},
        "compute": {"threads": 1},
        **changes,
    }


def train_run(path, given):
    config = parse_config(given)
    setup = build(config)
    run = Run.create(path, setup.config.model_dump(mode="json"))
    train(setup, run)
    return path


def draw(folder, counts, first=0, start=1200):
    """Class folders of real drawings, dark on white and larger than the nets want: {name: number of drawings}."""
    found = read_drawings()
    for place, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        images = np.flatnonzero(found.labels == start + place)[first : first + count]
        for number, image in enumerate(images):
            picture = Image.fromarray(255 - found.pixels[image, 0]).resize((60, 60), Image.Resampling.LANCZOS)
            picture.save(folder / name / f"{first + number}.png")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """`trained("maml")` is the path of a run on drawings, trained once a session for a few steps."""

    @cache
    def make(method):
        return train_run(tmp_path_factory.mktemp("runs") / method, settings(method))

    return make


@pytest.fixture(scope="session")
def sine(tmp_path_factory):
    """The path of a run on sines."""
    return train_run(
        tmp_path_factory.mktemp("runs") / "sine",
        {
            "tasks": {"name": "sine", "shots": 5, "queries": 5},
            "model": {"name": "mlp", "hidden": [8], "std": None},
            "method": {"name": "maml", "inner_lr": 0.01},
            "train": {"steps": 4, "meta_batch_size": 2, "validate_every": 0},
            "compute": {"threads": 1},
        },
    )


@pytest.fixture(name="folder")
def taught_folder(tmp_path):
    """Three classes of 2, 3 and 1 drawings."""
    return draw(tmp_path / "taught", {"ka": 2, "ga": 3, "nga": 1})


@pytest.fixture
def fresh(tmp_path):
    """Six new drawings of the same classes."""
    return sorted(Path(draw(tmp_path / "new", {"ka": 2, "ga": 2, "nga": 2}, first=5)).rglob("*.png"))


@pytest.fixture
def moved_run(trained, tmp_path):
    """`moved_run("maml")` is a copy of a run, far from its data."""

    def move(method):
        return Path(shutil.copytree(trained(method), tmp_path / "moved" / method))

    return move
