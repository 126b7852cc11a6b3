"""A run or a model from elsewhere that names a huge net: it is refused by its shapes, before memory is taken."""

import json

import pytest
import yaml

import quickstudy
from quickstudy.errors import InputError

HUGE = [300_000, 300_000]
"""Hidden layers whose weights alone need 360 GB."""

MISFIT = "belongs to another method or model: .*has shape"


@pytest.fixture
def enlarged(cli, place):
    """A run of this machine whose configuration was changed to a huge net after it had trained two steps."""
    assert cli("train", "sine.yaml", "--train.steps", 2, "--out", "run", "--quiet", "--no-tensorboard").code == 0
    path = place / "run" / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["model"]["hidden"] = HUGE
    path.write_text(yaml.safe_dump(settings))
    return place / "run"


def test_a_run_that_names_a_huge_net_is_not_loaded(enlarged):
    with pytest.raises(InputError, match=MISFIT):
        quickstudy.load(enlarged)


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "run"),
        ("train", "--resume", "run"),
        ("compare", "run", "run"),
        ("evaluate", "run", "--checkpoint", "last"),
        ("pack", "run", "out"),
    ],
)
def test_no_command_builds_it(cli, enlarged, words):
    done = cli(*words)
    assert done.code == 2
    assert "has shape" in done.err
    assert "Traceback" not in done.err


def test_one_that_is_too_large_only_by_an_override_is_not_built_either(cli, place):
    assert cli("train", "sine.yaml", "--train.steps", 2, "--out", "run", "--quiet", "--no-tensorboard").code == 0
    done = cli("evaluate", "run", "--model.hidden", json.dumps(HUGE))
    assert done.code == 2
    assert "has shape" in done.err


def test_a_run_without_a_checkpoint_is_built_as_before(cli, place):
    assert cli("train", "sine.yaml", "--train.steps", 2, "--out", "run", "--quiet", "--no-tensorboard").code == 0
    for file in (place / "run" / "checkpoints").iterdir():
        file.unlink()
    assert cli("train", "--resume", "run", "--quiet", "--no-tensorboard").code == 0


@pytest.mark.parametrize("kind", ["learner", "model"])
def test_a_saved_learner_that_names_a_huge_net_is_not_built(cli, place, kind):
    assert cli("train", "sine.yaml", "--train.steps", 2, "--out", "run", "--quiet", "--no-tensorboard").code == 0
    saved = place / "saved"
    if kind == "learner":
        quickstudy.load(place / "run").save(saved)
    else:
        quickstudy.FewShotRegressor(place / "run").fit([[0.0], [1.0]], [0.0, 1.0]).save(saved)
    values = json.loads((saved / "config.json").read_text())
    learner = values["learner"] if kind == "learner" else values["base"]["learner"]
    learner["model"]["hidden"] = HUGE
    (saved / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=MISFIT):
        quickstudy.open(saved)
