"""`learner.check` sees by itself each kind of silent fault, in modules and in losses, and ends no process."""

import functools
import os
import signal
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.checkpoint import checkpoint

from quickstudy import Engine, Examples, Task, fomaml, maml
from quickstudy.engine.gradient_check import WrongGradient
from quickstudy.methods.protonet import protonet
from zoo import Once

pytestmark = pytest.mark.usefixtures("double")


class Net(nn.Module):
    def __init__(self, middle=None):
        super().__init__()
        self.a, self.f, self.middle = nn.Linear(4, 8), nn.Linear(8, 3), middle or nn.Tanh()

    def forward(self, x):
        return self.f(self.middle(self.a(x)))


def batch(inputs=(4,)):
    draw = torch.Generator().manual_seed(1)
    y = (torch.arange(6) % 3).repeat(2, 1)
    support, query = (Examples(torch.randn(2, 6, *inputs, generator=draw).double(), y) for _ in range(2))
    return Task(support, query, torch.arange(2), {})


def found(net, build=maml, **options):
    return build(net, **{"inner_lr": 0.3, **options}).check(batch())


class Forgets(torch.autograd.Function):
    """Its backward computes with numbers, so its second derivative is zero without a word."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].detach().cos()


class Stale(torch.autograd.Function):
    """Runs its forward again in the backward, with the weight that it kept: what a recomputed block may do."""

    @staticmethod
    def forward(ctx, x, weight, kept):
        ctx.save_for_backward(x, kept)
        return x @ weight

    @staticmethod
    def backward(ctx, g):
        x, kept = ctx.saved_tensors
        return g @ kept.T, x.T @ g, None


class Applies(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Affine(nn.Module):
    """A norm as a function, with a scale and a bias in a list."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.w, self.b = norm, nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))
        self.pair = [self.w, self.b]

    def forward(self, x):
        return torch.tanh(self.norm(x, *self.pair))


AFFINE = {
    "layer_norm": lambda x, w, b: torch.native_layer_norm(x, (8,), w, b, 1e-5)[0],
    "batch_norm": lambda x, w, b: torch.native_batch_norm(x, w, b, None, None, True, 0.1, 1e-5)[0],
    "batch_norm_below_python": lambda x, w, b: torch.ops.aten.native_batch_norm(x, w, b, None, None, True, 0.1, 0.1)[0],
}
"""Kernels that are called by themselves: the functions that nets call are computed in another way."""


@pytest.mark.parametrize("kind", AFFINE)
def test_a_kernel_that_is_wrong_under_vmap_is_named(kind):
    report = found(Net(Affine(AFFINE[kind])))
    assert not report.vmap_ok and report.modules == {"head.middle": "under vmap"}
    assert found(Net(Affine(AFFINE[kind])), fomaml).ok


@pytest.mark.parametrize("function", [Once.apply, Forgets.apply])
def test_a_function_without_a_second_derivative_is_named(function):
    report = found(Net(Applies(function)))
    assert not report.ok and report.modules == {"head.middle": "everywhere"}
    assert found(Net(Applies(torch.sin))).ok
    assert found(Net(Applies(function)), fomaml).ok  # it needs none


def test_a_function_without_a_second_derivative_is_seen_in_a_parametrization():
    net = Net()
    register_parametrization(net.a, "weight", Applies(Once.apply))
    assert found(net).modules == {"head.a.parametrizations.weight.0": "everywhere"}


def test_a_kernel_that_is_wrong_everywhere_is_named():
    class Fused(nn.Linear):
        def forward(self, x):
            return F.linear(x, torch.ops.aten._weight_norm_interface(self.weight, self.weight[:, :1] ** 2, 0)[0])

    net = Net()
    net.middle = Fused(8, 8, bias=False)
    assert found(net).modules == {"head.middle": "everywhere"}
    net.middle = parametrizations.weight_norm(nn.Linear(8, 8))
    assert found(net).ok


def smooth(output, y):
    return Once.apply(F.log_softmax(output, -1)).gather(1, y[:, None]).mean()


def scaled(output, y):
    return F.cross_entropy(F.layer_norm(output, (3,), torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.1, 0.2, 0.3])), y)


def zero_second(output, y):
    return F.cross_entropy(Forgets.apply(output), y)


@pytest.mark.parametrize("loss", [smooth, zero_second])
def test_a_loss_without_a_second_derivative_is_named(loss):
    report = found(Net(), loss=loss)
    assert report.modules == dict.fromkeys(["criterion", "inner_criterion"], "everywhere") or "criterion" in str(report)
    assert not report.ok


def test_a_query_loss_may_have_one_derivative_only():
    assert found(Net(), loss=F.cross_entropy).ok


def test_a_block_that_runs_again_with_other_weights_is_seen():
    class Recomputes(Net):
        def __init__(self):
            super().__init__()
            self.kept = self.f.weight.detach().T.clone()

        def forward(self, x):
            return Stale.apply(self.middle(self.a(x)), self.f.weight.T, self.kept) + self.f.bias

    class Checkpoints(Net):
        def forward(self, x):
            return self.f(checkpoint(lambda h: self.middle(self.a(h)), x, use_reentrant=False))

    assert not found(Recomputes()).ok
    assert found(Checkpoints()).ok


ELSEWHERE = {}


class HalfElsewhere(Net):
    """Reads a layer from `self` and once more from a table outside."""

    def __init__(self):
        super().__init__()
        ELSEWHERE["f"] = self.f

    def forward(self, x):
        h = self.middle(self.a(x))
        return self.f(h) + ELSEWHERE["f"](h)


class Unregistered(Net):
    """Weights that are no parameters."""

    def __init__(self):
        super().__init__()
        self.extra = [torch.randn(3, requires_grad=True)]

    def forward(self, x):
        return super().forward(x) + self.extra[0].to(x.dtype)


class InDefault(Net):
    def __init__(self):
        super().__init__()
        ELSEWHERE["call"] = functools.partial(F.linear, weight=self.f.weight)

    def forward(self, x):
        h = self.middle(self.a(x))
        return self.f(h) + ELSEWHERE["call"](h)


@pytest.mark.parametrize("kind", [HalfElsewhere, Unregistered, InDefault])
def test_a_tensor_that_is_read_behind_the_adaptation_is_noticed(kind):
    report = found(kind())
    assert not report.ok and "from elsewhere" in str(report)


class Remembers(Net):
    """Keeps the last input outside of the module."""

    def forward(self, x):
        last = ELSEWHERE.get("x", 0.0)
        ELSEWHERE["x"] = x.detach().mean(0)
        return super().forward(x + last)


class AlwaysDrops(Net):
    def forward(self, x):
        return self.f(F.dropout(self.middle(self.a(x)), 0.5))


@pytest.mark.parametrize("kind", [Remembers, AlwaysDrops])
def test_a_forward_whose_second_call_is_another_function_is_noticed(kind):
    ELSEWHERE.pop("x", None)
    learner = maml(kind(), inner_lr=0.3)
    learner.engine = Engine("loop")
    report = learner.check(batch())
    assert not report.ok and ("second call" in str(report) or "changes" in str(report))


class Dies(nn.Module):
    def forward(self, x):
        if torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGSEGV)
        return x


def test_a_module_that_ends_the_process_is_named_and_this_process_lives():
    report = found(Net(Dies()))
    assert not report.ok and "head.middle" in report.fatal and "SIGSEGV" in str(report)


def test_a_norm_of_groups_on_pictures_with_channels_last_is_tried_in_a_copy_of_the_process():
    net = nn.Sequential(nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 3))
    tasks = batch((6, 6, 4))
    turned = Task(*(Examples(half.x.permute(0, 1, 4, 2, 3), half.y) for half in tasks[:2]), *tasks[2:])
    report = maml(net).check(turned)  # torch 2.13 dies of it; a right answer, in another layout, is right too
    assert report.ok or "SIGSEGV in head" in report.fatal


class Casts(Net):
    """Computes a part in single precision, which is no fault."""

    def forward(self, x):
        return self.f(self.middle(self.a(x)).float().exp().to(x.dtype))


class ReadsItem(Net):
    def forward(self, x):
        return super().forward(x / x.abs().max().item())


@pytest.mark.parametrize("kind", [Net, Casts, ReadsItem])
def test_what_is_right_is_not_blamed(kind):
    assert found(kind()).ok


@pytest.mark.parametrize("dead", [1.0, 3.0, 30.0])
def test_a_model_that_stands_on_a_kink_as_it_is_built_is_not_blamed(dead):
    """For some examples, or for all, the units of the first layer are 0; so is what the second one makes of them."""
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    nn.init.constant_(net[0].bias, -dead)
    nn.init.zeros_(net[2].bias)
    with torch.no_grad():
        assert (net[:3](batch().support.x) == 0).all(-1).any()
    assert found(net).ok
    net[1] = Applies(Forgets.apply)
    assert not found(net).ok  # what is wrong is so nearby too


def test_tensors_that_are_no_buffers_are_no_obstacle_in_float64():
    class Shifts(Net):
        def __init__(self):
            super().__init__()
            self.mixing = torch.randn(4, 4, dtype=torch.float32)

        def forward(self, x):
            return super().forward(x @ self.mixing)

    learner = maml(Shifts().float())
    assert learner.check(batch()).ok


def test_a_check_leaves_the_learner_and_the_random_numbers_as_they_were():
    learner = maml(Net(nn.Dropout()), inner_lr=0.3)
    before, state = {n: v.clone() for n, v in learner.state_dict().items()}, torch.get_rng_state()
    learner.check(batch())
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert learner.training and torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in learner.parameters())


def test_an_error_of_the_model_is_raised_here():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        maml(nn.Linear(5, 3)).check(batch())


def test_methods_that_adapt_nothing_by_gradients_are_checked_too():
    assert protonet(Net(), outputs=3).check(batch()).ok


class Rewrites(nn.Module):
    """Calls torch's kernel itself, where nothing can put another in its place."""

    def __init__(self):
        super().__init__()
        self.a, self.f = nn.Linear(4, 8), nn.Linear(8, 3)
        self.w, self.b = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))

    def forward(self, x):
        return self.f(torch.ops.aten.native_layer_norm(self.a(x), [8], self.w, self.b, 1e-5)[0].tanh())


@pytest.mark.parametrize("way", ["forward", "meta_gradient"])
def test_a_loop_of_ones_own_is_told_too_and_gets_the_right_gradient(way):
    torch.manual_seed(0)
    learner, tasks = maml(Rewrites(), inner_lr=0.3, inner_steps=2), batch()
    right = maml(Rewrites(), inner_lr=0.3, inner_steps=2)
    right.load_state_dict(learner.state_dict())
    right.engine = Engine("loop")
    before = torch.get_rng_state()

    def differentiate():
        if way == "forward":
            return torch.autograd.grad(learner(tasks).loss.mean(), list(learner.parameters()))
        return learner.meta_gradient(tasks)[1]

    with pytest.warns(WrongGradient, match="wrong under vmap"):
        grads = differentiate()
    assert learner.engine.backend == "loop" and torch.equal(torch.get_rng_state(), before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WrongGradient)
        wanted = right.meta_gradient(tasks)[1]
    torch.testing.assert_close(list(grads), list(wanted))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is told once
        learner(tasks).loss.mean().backward()


def test_known_nets_are_not_checked_before_they_are_used(monkeypatch):
    learner = maml(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)))
    calls = []
    inner = type(learner).solve
    monkeypatch.setattr(type(learner), "solve", lambda self, *args: (calls.append(1), inner(self, *args))[1])
    learner.engine = Engine("loop")
    learner.meta_gradient(batch())
    assert len(calls) == len(batch().key)
