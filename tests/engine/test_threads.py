"""Tasks side by side on threads: the numbers are those of one thread, bit by bit, or the tasks run one by one."""

import contextvars
import random
import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm
from torch.overrides import TorchFunctionMode

from quickstudy import Examples, Task, hypermaml, maml, mtnet
from quickstudy.engine.threads import draws_random_numbers, map_on_threads, use_threads
from quickstudy.methods.protonet import protonet
from quickstudy.models.nets import conv_net
from quickstudy.types import pick

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


SCALE: contextvars.ContextVar[float] = contextvars.ContextVar("scale", default=1.0)
LOCAL = threading.local()


class Doubled(TorchFunctionMode):
    """A mode of a user's own, which holds for one thread."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 2 if func is torch.conv2d else result


class Reads(nn.Module):
    """A net that multiplies its inputs by what a function finds."""

    def __init__(self, find, **held):
        super().__init__()
        self.net, self.find = net(), find
        vars(self).update(held)

    def forward(self, x):
        return self.net(x * self.find(self))


OWN_TO_A_THREAD = {
    "a context variable": lambda: Reads(lambda self: SCALE.get()),
    "a local": lambda: Reads(lambda self: getattr(LOCAL, "scale", 1.0)),
    "numpy's generator": lambda: Reads(lambda self: 1 + 0.3 * self.rng.normal(), rng=np.random.default_rng(0)),
    "python's generator": lambda: Reads(lambda self: 1 + 0.3 * self.rng.random(), rng=random.Random(0)),
    "a generator in a dictionary": lambda: Reads(
        lambda self: 1 + 0.3 * self.held["rng"].standard_normal(), held={"rng": np.random.RandomState(0)}
    ),
    "an array that it writes to": lambda: Reads(lambda self: 1 + 0.1 * float(COUNTED.__iadd__(1)[0])),
    "a mode": net,
}
COUNTED = np.zeros(1)


@pytest.mark.filterwarnings("ignore:.*A second call on the same task")
@pytest.mark.parametrize("way", OWN_TO_A_THREAD)
def test_what_belongs_to_one_thread_goes_along_or_tasks_run_in_order(way):
    batch, found = tasks(), []
    LOCAL.scale = 3.0
    token = SCALE.set(3.0)
    try:
        for threads in (1, 2, 2):
            COUNTED[:] = 0
            learner = maml(OWN_TO_A_THREAD[way](), inner_steps=1)
            with use_threads(threads), Doubled() if way == "a mode" else nullcontext():
                if threads == 1 and way != "a mode":  # both look at the first task once more
                    learner.begin(batch)
                found.append(learner.meta_gradient(batch)[0].loss)
    finally:
        SCALE.reset(token)
        del LOCAL.scale
    assert torch.equal(found[1], found[2])
    if way in ("a context variable", "a local", "a mode"):
        assert torch.allclose(found[0], found[1])
        plain = maml(OWN_TO_A_THREAD[way](), inner_steps=1)
        assert not torch.equal(plain(batch).loss, found[0]), "it has an effect"


class Warming(nn.Module):
    """Noise that begins when a number of the module says so."""

    def __init__(self):
        super().__init__()
        self.net, self.p = net(), 0.0
        self.register_buffer("share", torch.zeros(()))

    def forward(self, x):
        p = max(self.p, float(self.share))
        return self.net(nn.functional.dropout(x, p) if self.training and p else x)


@pytest.mark.parametrize("way", ["dropout", "a number", "a buffer"])
def test_noise_that_begins_later_is_that_of_one_thread(way):
    batch, found = tasks(), []
    for threads in (1, 2, 2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Dropout(0.0), net()) if way == "dropout" else Warming()
        learner = maml(model, inner_steps=1)
        with use_threads(threads):
            learner.meta_gradient(batch)
            if way == "a buffer":
                learner.head.share.fill_(0.5)
            else:
                (learner.head[0] if way == "dropout" else learner.head).p = 0.5
            torch.manual_seed(0)
            found.append(learner.meta_gradient(batch)[0].loss)
    assert torch.equal(found[1], found[2])
    assert torch.allclose(found[0], found[1])


class Kept(nn.Module):
    """A net that computes a parametrized weight once for several layers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4, WAYS)
        self.middle = weight_norm(nn.Conv2d(4, 4, 3, padding=1))

    def forward(self, x):
        h = self.first(x)
        with parametrize.cached():
            for _ in range(3):
                h = self.middle(h).tanh()
        return self.last(h.mean((2, 3)))


@pytest.mark.parametrize("outside", [False, True])
def test_parametrized_values_that_are_kept_are_those_of_a_task(outside):
    batch, found = tasks(), []
    for threads in (1, 2, 2, 2):
        torch.manual_seed(0)
        learner = maml(Kept(), inner_lr=0.5, inner_steps=2)
        with use_threads(threads), parametrize.cached() if outside and threads > 1 else nullcontext():
            outcome, grads = learner.meta_gradient(batch)
            adapted = learner.adapt(pick(batch.support, 0))
        found.append((outcome.loss, *grads, *adapted.parameters()))
    for other in found[1:]:
        assert all(map(torch.allclose, found[0], other))
