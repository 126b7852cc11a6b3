"""Whatever module a stranger brings, MAML on it is MAML: a real SGD loop on a real net, and a true meta-gradient."""

import warnings

import pytest
import torch
from torch import nn

from quickstudy import Engine, Examples, Task, maml
from zoo import ZOO

pytestmark = pytest.mark.usefixtures("double")

SAMPLE = ("Small", "InLambda", "InList", "Checkpointed", "Keeps", "Tied", "LowRank", "transformer", "Conv2d", "pruned")
KINDS = [kind if kind in SAMPLE else pytest.param(kind, marks=pytest.mark.slow) for kind in ZOO]
RATE, STEPS = 0.1, 2


def made(kind: str) -> nn.Module:
    """A net in evaluation mode, but for the low-rank one, which would be merged; batch norms by their batch."""
    torch.manual_seed(0)
    net = ZOO[kind]().double().train(kind == "LowRank")
    for part in net.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.track_running_stats, part.running_mean, part.running_var = False, None, None
    return net


def batch() -> Task:
    draw = torch.Generator().manual_seed(1)
    x, q = torch.randn(2, 6, 4, generator=draw), torch.randn(2, 6, 4, generator=draw)
    y = (torch.arange(6) % 3).repeat(2, 1)
    return Task(Examples(x.double(), y), Examples(q.double(), y), torch.arange(2), {})


def sgd(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Gradient steps in place; buffers that the forward changes are put back, as a task's are."""
    moving, before = [p for p in net.parameters() if p.requires_grad], [b.clone() for b in net.buffers()]
    for _ in range(STEPS):
        loss = nn.functional.cross_entropy(net(x), y)
        grads = torch.autograd.grad(loss, moving)
        with torch.no_grad():
            for p, g in zip(moving, grads, strict=True):
                p.sub_(g, alpha=RATE)
            for b, value in zip(net.buffers(), before, strict=True):
                b.copy_(value)


@pytest.mark.parametrize("kind", KINDS)
def test_adapting_is_gradient_descent_on_a_real_net_and_changes_nothing_else(kind):
    learner, tasks, copied = maml(made(kind), inner_lr=RATE, inner_steps=STEPS), batch(), made(kind)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    modes = [part.training for part in learner.modules()]
    x, y = tasks.support.x[0], tasks.support.y[0]
    adapted = learner.adapt(Examples(x, y))
    sgd(copied, x, y)
    torch.testing.assert_close(adapted(tasks.query.x[0]), copied(tasks.query.x[0]).detach(), rtol=1e-9, atol=1e-10)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert [part.training for part in learner.modules()] == modes


@pytest.mark.parametrize("backend", ["loop", "vmap"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_meta_gradient_is_the_central_difference(kind, backend):
    learner, tasks = maml(made(kind), inner_lr=RATE, inner_steps=STEPS), batch()
    learner.engine = Engine(backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what vmap refuses runs on the loop, and says so; kernels tell of their speed
        _, grads = learner.meta_gradient(tasks)
    params = list(learner.meta_params().values())
    draw = torch.Generator().manual_seed(2)
    toward = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in params]
    exact = sum(float((g * d).sum()) for g, d in zip(grads, toward, strict=True) if g is not None)
    learner.engine = Engine("loop")
    errors = []
    for step in (1e-5, 1e-6, 1e-7):  # one of them steps over no kink of a ReLU
        ends = []
        for sign in (1, -2, 1):
            with torch.no_grad():
                for p, d in zip(params, toward, strict=True):
                    p.add_(d, alpha=sign * step)
                ends.append(float(learner(tasks).loss.mean()))
        errors.append(abs((ends[0] - ends[1]) / (2 * step) - exact) / max(1e-3, abs(exact)))
    assert min(errors) < 1e-5, errors
