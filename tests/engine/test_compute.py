"""Compute settings: threads are saved with the run, and a model that vmap gets wrong is trained on the loop."""

import os
import signal

import pytest
import torch
from torch import nn

from quickstudy.engine.gradient_check import WrongGradient
from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.storage.run import Run
from quickstudy.training.config import build, parse_config
from quickstudy.training.train import train
from quickstudy.training.watcher import Watcher
from zoo import Once

DIGITS = {
    "tasks": {"name": "digits", "ways": 3, "queries": 2},
    "model": {"name": "test_compute:own_norm"},
    "method": {"name": "maml", "inner_lr": 0.1},
    "train": {"steps": 2, "meta_batch_size": 2, "validate_every": 0},
}


class Own(nn.BatchNorm2d):
    """A norm that calls torch's kernel itself, where nothing can put another in its place."""

    def forward(self, input):
        return torch.ops.aten.native_batch_norm(input, self.weight, self.bias, None, None, True, 0.1, self.eps)[0]


def own_norm():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), Own(3, track_running_stats=False), nn.Tanh(), nn.Flatten(), nn.Linear(108, 3)
    )


def test_a_model_that_vmap_gets_wrong_is_trained_on_the_loop(tmp_path):
    setup = build(parse_config(DIGITS))
    run = Run.create(tmp_path / "run", setup.config.model_dump(mode="json"))
    with pytest.warns(WrongGradient, match="head.1 is wrong under vmap"):
        train(setup, run)
    assert setup.learner.engine.backend == "loop"


def test_a_model_that_vmap_gets_wrong_is_not_compiled_either(tmp_path):
    setup = build(parse_config(DIGITS, ["--compute.compile", "true"]))
    run = Run.create(tmp_path / "run", setup.config.model_dump(mode="json"))
    with pytest.warns(WrongGradient, match="head.1 is wrong under vmap"):
        train(setup, run)
    assert (setup.learner.engine.backend, setup.learner.engine.compile) == ("loop", False)


class Middle(nn.Module):
    def forward(self, x):
        return Once.apply(x)


class Dies(nn.Module):
    def forward(self, x):
        if torch.is_grad_enabled() and x.requires_grad:
            os.kill(os.getpid(), signal.SIGSEGV)
        return x


def once_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Middle(), nn.Linear(8, 3))


def dying_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Dies(), nn.Linear(8, 3))


@pytest.mark.filterwarnings("ignore:vmap refuses")
@pytest.mark.parametrize("backend", ["loop", "vmap"])
def test_a_function_without_a_second_derivative_is_named_when_training_starts(tmp_path, backend):
    settings = DIGITS | {"model": {"name": "test_compute:once_net"}, "compute": {"backend": backend}}
    setup = build(parse_config(settings))
    run = Run.create(tmp_path / "run", setup.config.model_dump(mode="json"))
    with pytest.warns(WrongGradient, match="head.2 is wrong everywhere"):
        train(setup, run)


def test_a_model_that_ends_the_process_is_refused_before_it_trains(tmp_path):
    setup = build(parse_config(DIGITS | {"model": {"name": "test_compute:dying_net"}}))
    run = Run.create(tmp_path / "run", setup.config.model_dump(mode="json"))
    with pytest.raises(InputError, match="ends the process: the process dies of SIGSEGV in head.2"):
        train(setup, run)


def test_threads_are_saved_with_the_run_and_restored_after_it(tmp_path):
    before = torch.get_num_threads()
    setup = build(parse_config(DIGITS, ["--compute.threads", "2", "--compute.backend", "loop"]))
    run = Run.create(tmp_path / "run", setup.config.model_dump(mode="json"))
    seen = []

    class Watch(Watcher):
        def step(self, step, loss):
            seen.append(torch.get_num_threads())

    train(setup, run, Watch())
    assert seen == [2, 2] and torch.get_num_threads() == before
    assert Run.open(run.path).config["compute"]["threads"] == 2
    assert build(parse_config(DIGITS)).config.compute.threads == before


def test_chunks_and_backends_can_be_chosen():
    setup = build(parse_config(DIGITS, ["--compute.backend", "vmap", "--compute.chunk", "1"]))
    assert (setup.learner.engine.backend, setup.learner.engine.settings.chunk) == ("vmap", 1)


def test_evaluation_switches_dropout_off_and_restores_the_modes():
    setup = build(parse_config(DIGITS))
    setup.learner.head.append(nn.Dropout(0.5))
    setup.learner.train()
    first, second = (evaluate(setup.learner, setup.family, setup.metric, n=5) for _ in range(2))
    assert (first.values == second.values).all() and setup.learner.training
