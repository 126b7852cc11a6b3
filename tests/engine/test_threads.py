"""Tasks side by side on threads: the numbers are those of one thread, bit by bit, or the tasks run one by one."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from quickstudy import Examples, Task, hypermaml, maml, mtnet
from quickstudy.engine.threads import draws_random_numbers, map_on_threads, use_threads
from quickstudy.methods.protonet import protonet
from quickstudy.models.nets import conv_net

SIDE, WAYS = 12, 3


def tasks(count=5):
    draw = torch.Generator().manual_seed(0)
    y = (torch.arange(6) % WAYS).repeat(count, 1)
    x, q = (torch.randn(count, 6, 1, SIDE, SIDE, generator=draw) for _ in range(2))
    return Task(Examples(x, y), Examples(q, y), torch.arange(count), {})


def net():
    torch.manual_seed(0)
    return conv_net((1, SIDE, SIDE), WAYS, filters=4, blocks=2)


class Drops(nn.Module):
    """A net whose forward draws random numbers, in a way that no class of a module tells."""

    def __init__(self, draw):
        super().__init__()
        self.net, self.draw = net(), draw

    def forward(self, x):
        return self.net(x * (1 + 0.1 * self.draw()))


METHODS = {
    "maml": lambda: maml(net(), inner_steps=2),
    "mtnet": lambda: mtnet(net(), inner_steps=2),
    "hypermaml": lambda: hypermaml(net()),
    "protonet": lambda: protonet(net(), WAYS),
}


@pytest.mark.parametrize("method", METHODS)
def test_threads_give_the_bits_of_one_thread(method):
    batch, found = tasks(), []
    for threads in (1, 2, 3):
        learner = METHODS[method]()
        with use_threads(threads):
            outcome, grads = learner.meta_gradient(batch)
            with torch.no_grad():
                evaluated = learner(batch, evaluating=True)
            differentiable = learner(batch).loss.detach()
            assert torch.get_num_threads() == threads
        assert learner.engine.backend == "loop"
        found.append([*outcome, *evaluated, differentiable, *(g for g in grads if g is not None)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(()).item(), random.random, np.random.rand], ids=["torch", "python", "numpy"]
)
def test_tasks_that_draw_random_numbers_run_in_their_order(draw):
    found = []
    for threads in (1, 3):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        with use_threads(threads):
            learner = maml(Drops(draw))
            found.append([learner.meta_gradient(tasks())[0].loss for _ in range(2)])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)


def test_an_error_in_one_task_is_the_error_of_the_batch():
    def run(number):
        if number == 2:
            raise ValueError("the third")
        return number

    for threads in (1, 4):
        with pytest.raises(ValueError, match="the third"):
            list(map_on_threads(run, 8, threads))
    assert list(map_on_threads(lambda number: number**2, 5, 3)) == [0, 1, 4, 9, 16]


def test_grad_mode_goes_along():
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            assert set(map_on_threads(lambda _: torch.is_grad_enabled(), 4, 2)) == {enabled}


def test_generators_are_left_as_they_were():
    states = torch.get_rng_state(), random.getstate()
    assert draws_random_numbers(lambda: torch.rand(2)) and not draws_random_numbers(lambda: 0)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]


def test_memory_bounds_how_many_run_at_once(monkeypatch):
    """Of a batch whose single task fills the memory, one runs at a time."""
    learner, batch = maml(net(), inner_steps=2), tasks()
    learner.engine.memory = 1
    seen = []
    real = torch.set_num_threads
    with use_threads(3):
        monkeypatch.setattr(torch, "set_num_threads", lambda n: (seen.append(n), real(n)))
        learner.meta_gradient(batch)
        assert seen == []
        learner.engine.memory = 10**12
        learner.meta_gradient(batch)
        assert seen[0] == 1
        monkeypatch.undo()
