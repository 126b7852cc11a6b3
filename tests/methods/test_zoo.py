"""Whatever module a stranger brings, MAML on it is MAML: a real SGD loop on a real net, and a true meta-gradient."""

import pytest
import torch
from torch import nn

from quickstudy import Engine, Examples, InputError, Task, maml
from zoo import ZOO

# What vmap refuses runs on the loop and says so; kernels tell of their speed, torch of its prototypes.
pytestmark = [pytest.mark.usefixtures("double"), pytest.mark.filterwarnings("ignore")]

SAMPLE = (
    "Small", "InLambda", "InList", "Checkpointed", "Keeps", "Tied", "LowRank", "transformer", "Conv2d", "pruned",
    "NormsInList", "InDataclass", "KeywordHooks", "parametrized", "TwoNames", "CallsFunctionally",
    "FunctionWithRule", "FakeQuantized",
)  # fmt: skip
UNREACHED = ("NormModuleInList", "GlobalPart", "ReentrantCheckpoint")
"""They read parameters where no twin can put others, or hide them from `torch.autograd.grad`: refused by name."""
REPLACED = ("BackwardHooks", "TensorHook", "FakeQuantized")
"""Their backward is another one than that of their forward, on purpose; `check` must say so."""
ALL = [kind if kind in SAMPLE else pytest.param(kind, marks=pytest.mark.slow) for kind in ZOO]
KINDS = [kind for kind in ALL if getattr(kind, "values", (kind,))[0] not in UNREACHED]
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
    if kind in REPLACED:
        assert not learner.check(tasks).ok
        return
    _, grads = learner.meta_gradient(tasks)
    params = list(learner.meta_params().values())
    draw = torch.Generator().manual_seed(2)
    toward = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in params]
    exact = sum(float((g.conj() * d).real.sum()) for g, d in zip(grads, toward, strict=True) if g is not None)
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


@pytest.mark.parametrize("kind", [k for k in KINDS if getattr(k, "values", (k,))[0] not in REPLACED])
def test_the_check_finds_no_fault(kind):
    report = maml(made(kind), inner_lr=RATE, inner_steps=STEPS).check(batch())
    assert report.ok, str(report)


@pytest.mark.parametrize("kind", UNREACHED)
def test_parameters_that_cannot_be_reached_are_refused_by_name(kind):
    learner, tasks = maml(made(kind), inner_lr=RATE), batch()
    for call in (
        learner,
        learner.meta_gradient,
        lambda tasks: learner.adapt(Examples(tasks.query.x[0], tasks.query.y[0])),
    ):
        with pytest.raises(InputError, match="should adapt, but the support loss does not depend on them"):
            call(tasks)


def test_a_lazy_layer_adapts_after_its_first_input_and_is_refused_before():
    with pytest.raises((InputError, ValueError), match="[Ll]azy|uninitialized"):
        maml(nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 3))).adapt(Examples(torch.randn(6, 4), torch.arange(6) % 3))
