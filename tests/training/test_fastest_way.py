"""The way in which tasks run is measured for long trainings only, remembered, and part of a run's record."""

import itertools

import pytest
import torch

from quickstudy.engine.engine import Engine
from quickstudy.engine.threads import use_threads
from quickstudy.methods.registry import RECIPES
from quickstudy.models import nets
from quickstudy.storage.run import Run
from quickstudy.tasks.images.store import cache_root
from quickstudy.training import config
from quickstudy.training.fastest_way import WORTH_MEASURING, find_fastest_way
from quickstudy.training.train import train
from quickstudy.types import Examples, Task

SIDE = 12


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))


def make_learner(**engine):
    torch.manual_seed(0)
    learner = RECIPES["maml"](nets.conv_net((1, SIDE, SIDE), 3, filters=4, down="stride"), inner_lr=0.1)
    learner.engine = Engine(**engine)
    return learner


def draw_images(count=3):
    def examples(each):
        y = torch.arange(3).repeat(each).expand(count, -1).contiguous()
        return Examples(torch.randn(*y.shape, 1, SIDE, SIDE), y)

    torch.manual_seed(1)
    return Task(examples(1), examples(2), torch.arange(count), {})


def read_clock(*seconds):
    """A clock by which the calls of one after the other take so many seconds."""
    times = itertools.chain.from_iterable((0.0, second) for second in seconds)
    return lambda: next(times)


def settled(**engine):
    learner, tasks = make_learner(**engine), draw_images()
    learner.meta_gradient(tasks)
    return learner, tasks


def test_the_fastest_way_by_the_clock_is_taken_and_remembered():
    with use_threads(2):
        learner, tasks = settled()
        rounds = [5.0, 3.0, 4.0] * 3
        found = find_fastest_way(learner, tasks, 100, read_clock(9.0, 9.0, *rounds))
        assert found == ("loop", {"vmap": 5.0, "loop": 3.0, "threads": 4.0})
        again, other = settled()[0], make_learner()
        assert find_fastest_way(again, tasks, 100, read_clock()) == ("loop", {})
        other.meta_gradient(draw_images(4))  # batches of another size have an entry of their own
        assert find_fastest_way(other, draw_images(4), 1, read_clock(9.0, 9.0)) is None


def test_a_damaged_memory_is_measured_again():
    learner, tasks = settled()
    rounds = [5.0, 3.0] * 3
    for text in ("{", "[]", '{"way": 3}', '{"way": "sideways"}'):
        assert find_fastest_way(learner, tasks, 100, read_clock(9.0, 9.0, *rounds))[0] == "loop"
        (entry,) = (cache_root() / "ways").iterdir()
        entry.write_text(text)


@pytest.mark.parametrize("engine", [{"backend": "loop"}, {"backend": "vmap"}, {"recompute": True}])
def test_nothing_is_measured_where_something_else_decides(engine):
    learner, tasks = settled(**engine)
    assert find_fastest_way(learner, tasks, 10**9, read_clock()) is None


def test_nothing_is_measured_for_a_short_training_or_a_net_without_convolutions():
    learner, tasks = settled()
    assert find_fastest_way(learner, tasks, 2, read_clock(1.0, WORTH_MEASURING / 2 - 1e-3)) is None
    assert find_fastest_way(learner, draw_images(1), 10**9, read_clock()) is None  # one task has nothing beside it
    dense = RECIPES["maml"](torch.nn.Sequential(torch.nn.Flatten(), nets.mlp(SIDE**2, 3, hidden=[4])), inner_lr=0.1)
    dense.meta_gradient(tasks)
    assert dense.engine.ways() == ()


def test_every_way_has_the_same_gradients():
    learner, tasks = settled()
    with use_threads(2):
        whole = {}
        for way in ("vmap", "loop", "threads"):
            learner.engine = Engine()
            learner.engine.take(way)
            _, grads = learner.meta_gradient(tasks)
            assert learner.engine.way == way
            whole[way] = torch.cat([g.flatten() for g in grads if g is not None])
    for way in ("vmap", "threads"):
        torch.testing.assert_close(whole[way], whole["loop"], rtol=1e-4, atol=1e-6)


class Refuses(torch.nn.Module):
    """A module that `vmap` refuses."""

    def forward(self, x):
        return x if float(x.detach().sum()) > 0 else 2 * x


def test_a_way_that_is_refused_is_no_candidate():
    net = nets.conv_net((1, SIDE, SIDE), 3, filters=4, down="stride")
    learner, tasks = RECIPES["maml"](torch.nn.Sequential(Refuses(), net), inner_lr=0.1), draw_images()
    learner.meta_gradient(tasks)
    found = find_fastest_way(learner, tasks, 100, read_clock(9.0, 9.0, 1.0, 1.0, 1.0))
    assert found == ("loop", {"loop": 1.0})


def test_a_run_records_its_way_and_a_resumed_run_takes_it(tmp_path):
    """As after a measurement on another machine: the checkpoint says `vmap`, and the rule would take the loop."""
    asked = {
        "tasks": {"name": "drawings", "ways": 3, "queries": 2},
        "model": {"name": "conv_net", "filters": 4, "down": "stride"},
        "method": {"name": "maml", "inner_lr": 0.1},
        "train": {"steps": 4, "meta_batch_size": 2, "validate_every": 0},
    }
    given = config.parse_config(asked)
    run = Run.create(tmp_path / "run", given.model_dump(mode="json"))
    short = config.parse_config(asked | {"train": {**asked["train"], "steps": 2}})
    train(config.build(short), run)
    checkpoint = run.load("last")
    assert checkpoint.state["way"] is None  # two steps are not worth it
    with run.writing():
        run.save("last", checkpoint.tensors, checkpoint.state | {"way": "vmap"})
    setup = config.build(given)
    train(setup, run)
    assert setup.learner.engine.backend == "vmap" and run.load("last").state["way"] == "vmap"
    assert '"kind": "way"' not in (run.path / "metrics.jsonl").read_text()
