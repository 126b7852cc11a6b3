"""A run or a model from elsewhere that names a huge net: it is refused before memory is taken."""

import json

import pytest
import torch
import yaml

import quickstudy
from quickstudy.errors import InputError
from quickstudy.training.allowance import Allowance

HUGE = [300_000, 300_000]
"""Hidden layers whose weights alone need 360 GB."""

DEEP = [1] * 20_000
"""Hidden layers that need little memory for their numbers, and much for themselves."""

MISFIT = (
    "is of another net: its configuration describes one of [0-9]+ MiB in [0-9]+ tensors or more, and [0-9]+ tensors"
)


@pytest.fixture
def run(cli, place):
    """A run of two steps, in the directory `run`."""
    assert cli("train", "sine.yaml", "--train.steps", 2, "--out", "run", "--quiet", "--no-tensorboard").code == 0
    return place / "run"


@pytest.fixture
def enlarged(run):
    """The run, with a configuration that was changed to a huge net after it had trained."""
    path = run / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["model"]["hidden"] = HUGE
    path.write_text(yaml.safe_dump(settings))
    return run


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
    assert "is of another net" in done.err
    assert "Traceback" not in done.err


def test_one_that_is_too_large_only_by_an_override_is_not_built_either(cli, run):
    done = cli("evaluate", "run", "--model.hidden", json.dumps(HUGE))
    assert done.code == 2
    assert "is of another net" in done.err


def test_a_run_without_a_checkpoint_is_built_as_before(cli, run):
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    assert cli("train", "--resume", "run", "--quiet", "--no-tensorboard").code == 0


@pytest.mark.parametrize("hidden", [HUGE, DEEP], ids=["huge", "deep"])
@pytest.mark.parametrize("kind", ["learner", "model"])
def test_a_saved_learner_that_names_a_huge_net_is_not_built(run, tmp_path, kind, hidden):
    saved = tmp_path / "saved"
    if kind == "learner":
        quickstudy.load(run).save(saved)
    else:
        quickstudy.FewShotRegressor(run).fit([[0.0], [1.0]], [0.0, 1.0]).save(saved)
    values = json.loads((saved / "config.json").read_text())
    learner = values["learner"] if kind == "learner" else values["base"]["learner"]
    learner["model"]["hidden"] = hidden
    (saved / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=MISFIT):
        quickstudy.open(saved)


def test_building_counts_what_every_way_of_making_a_tensor_takes():
    generator = torch.Generator().manual_seed(0)
    made = (
        lambda n: torch.empty(n, n), lambda n: torch.zeros((n, n)), lambda n: torch.ones(n, n, dtype=torch.float64),
        lambda n: torch.full((n, n), 0.5), lambda n: torch.rand(n, n, generator=generator), lambda n: torch.randn(n, n),
        torch.eye, lambda n: torch.nn.Linear(n, n), lambda n: torch.nn.Conv2d(n, n, 3), lambda n: torch.nn.LSTM(n, n),
    )  # fmt: skip
    for make in made:
        with pytest.raises(InputError, match="It is of another net"), Allowance([], "It"):
            make(300_000)
        with Allowance([], "It"):
            make(30)


def test_all_tensors_together_count():
    with pytest.raises(InputError), Allowance([], "It"):
        torch.nn.Sequential(*(torch.nn.Linear(1 << 10, 1 << 10) for _ in range(100)))
