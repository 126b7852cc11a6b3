"""A call on a twin is a call on a real copy that holds the given tensors, and leaves the module as it was."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.func import grad, vmap

from quickstudy import Constant, Descend, Engine, Examples, RuleLearner, Task
from quickstudy.engine.second_derivatives import twice_differentiable
from quickstudy.engine.twin import Twins, copy_module
from quickstudy.errors import InputError
from quickstudy.rules.criteria import cross_entropy
from zoo import ZOO

pytestmark = pytest.mark.usefixtures("double")
X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double(), torch.arange(6) % 3
KINDS = (
    "Small", "InList", "InLambda", "InPartial", "InBoundMethod", "InObject", "InHook", "Checkpointed", "Keeps", "Tied",
    "recurrent", "lstm", "weight_normed", "orthogonal", "spectral_normed", "transformer",
)  # fmt: skip
EVERY = pytest.mark.parametrize("kind", KINDS)


def made(kind):
    torch.manual_seed(0)
    return ZOO[kind]().double()


def moved(net):
    """Other numbers for every parameter."""
    return {name: (p + 0.1 * torch.cos(p)).detach() for name, p in net.named_parameters()}


def real_copy(net, kind, params):
    """The same numbers in a net of its own, made as the first one was."""
    other = made(kind)
    for (_, p), value in zip(other.named_parameters(), params.values(), strict=True):
        p.data.copy_(value)
    for (_, b), value in zip(other.named_buffers(), net.buffers(), strict=True):
        b.copy_(value)
    return other


def state(net):
    tensors = {name: value.clone() for name, value in net.state_dict().items()}
    return tensors, {path: sorted(part.__dict__) for path, part in net.named_modules()}


def same(one, other):
    return one[1] == other[1] and all(torch.equal(value, other[0][name]) for name, value in one[0].items())


@EVERY
def test_a_call_on_a_twin_is_a_call_on_a_copy_with_the_given_tensors(kind):
    net = made(kind)
    before, params = state(net), moved(net)
    copied = real_copy(net, kind, params)
    for _ in range(2):  # the second call begins where the first one did
        torch.testing.assert_close(Twins(net).call(params, X), copied(X))
        copied = real_copy(net, kind, params)
    assert same(state(net), before)


@EVERY
def test_gradients_reach_the_given_tensors_and_second_derivatives_are_right(kind):
    net = made(kind).eval()
    twins, params = Twins(net), {n: p.requires_grad_() for n, p in moved(net).items()}

    def slope(params, steps=1e-1):
        """The loss after a gradient step."""
        loss = nn.functional.cross_entropy(twins.call(params, X), Y)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        after = {name: p - steps * g for (name, p), g in zip(params.items(), grads, strict=True)}
        return nn.functional.cross_entropy(twins.call(after, X.flip(0)), Y)

    with twice_differentiable():
        grads = torch.autograd.grad(slope(params), list(params.values()))
        toward = [torch.randn_like(p) for p in params.values()]
        ends = [
            slope(
                {
                    n: (p + s * 1e-5 * d).detach().requires_grad_()
                    for (n, p), d in zip(params.items(), toward, strict=True)
                }
            )
            for s in (1, -1)
        ]
    exact = sum((g * d).sum() for g, d in zip(grads, toward, strict=True))
    torch.testing.assert_close(exact, (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


@EVERY
def test_threads_do_not_see_each_other(kind):
    net = made(kind)
    twins, before = Twins(net), state(net)
    tasks = [{name: value + 0.01 * i for name, value in moved(net).items()} for i in range(24)]
    right = [twins.call(task, X) for task in tasks]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda task: twins.call(task, X), tasks))
    assert all(torch.equal(one, other) for one, other in zip(got, right, strict=True))
    assert same(state(net), before)


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k not in ("recurrent", "lstm", "Checkpointed", "Keeps", "spectral_normed")]
)
def test_vmap_and_grad_ride_a_twin(kind):
    net = made(kind).eval()
    twins, params = Twins(net), moved(net)
    x = torch.stack([X, X.flip(0)])

    def loss(params, x):
        return nn.functional.cross_entropy(twins.call(params, x), Y)

    with twice_differentiable():
        together = vmap(grad(loss), in_dims=(None, 0))(params, x)
        alone = [grad(loss)(params, one) for one in x]
    for name, value in together.items():
        torch.testing.assert_close(value, torch.stack([one[name] for one in alone]))


@EVERY
def test_a_copy_is_independent_also_where_closures_reach_its_parameters(kind):
    net = made(kind)
    net(X)  # what it keeps must not stand in the way
    copied = copy_module(net)
    before = copied.eval()(X).detach()
    net.eval()
    torch.testing.assert_close(before, net(X).detach())
    for p in net.parameters():
        p.data.add_(1.0)
    torch.testing.assert_close(copied(X).detach(), before)
    assert {id(p) for p in copied.parameters()}.isdisjoint(map(id, net.parameters()))


def test_a_tree_that_changed_is_planned_anew():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).double()
    twins = Twins(net)
    twins.call({}, X)
    net[1] = nn.Linear(4, 3).double()
    torch.testing.assert_close(twins.call({}, X), net(X))
    net[0].weight = nn.Parameter(torch.eye(4))
    torch.testing.assert_close(twins.call({"0.bias": torch.zeros(4)}, X), net[1](X))
    net.append(nn.Tanh())
    torch.testing.assert_close(twins.call({}, X), net(X))
    net[1].register_forward_hook(lambda module, args, out: 2 * out)
    torch.testing.assert_close(twins.call({}, X), net(X))


def test_deep_copies_of_twins_belong_to_the_copied_module():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 3).double()
            self.twins = Twins(self.net)

    one = Holds()
    two = copy.deepcopy(one)
    two.net.weight.data.zero_()
    assert torch.equal(two.twins.call({}, X), two.net(X)) and two.twins.root is two.net


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
def test_a_scripted_part_is_shared_and_its_own_tensors_cannot_be_given():
    body = torch.jit.script(nn.Sequential(nn.Linear(4, 5), nn.Tanh()).double().requires_grad_(False))
    net = nn.Sequential(body, nn.Linear(5, 3).double())
    given = {"1.weight": torch.ones(3, 5), "1.bias": torch.zeros(3)}
    torch.testing.assert_close(Twins(net).call(given, X), body(X) @ torch.ones(5, 3))
    torch.testing.assert_close(copy_module(net)(X), net(X))
    torch.testing.assert_close(Twins(body).call({}, X), body(X))
    with pytest.raises(InputError, match="scripted part"):
        Twins(net).call({"0.0.weight": torch.ones(5, 4)}, X)


class Counts(nn.Module):
    """It keeps an average in a tensor that is no buffer, alone and in a list, and changes both in place."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3).double()
        self.average, self.kept = torch.zeros(3).double(), [torch.zeros(3).double()]

    def forward(self, x):
        out = self.layer(x)
        for average in (self.average, *self.kept):
            average.mul_(0.9).add_(out.detach().mean(0))
        return out + self.average


def test_tensors_that_are_no_buffers_are_each_calls_own():
    net = Counts()
    twins = Twins(net)
    first = twins.call({}, X)
    assert torch.equal(twins.call({}, X), first)
    assert not net.average.any() and not net.kept[0].any()


class Halves(nn.Module):
    """Its forward changes its input in place."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x):
        return self.layer(x.mul_(0.5).add_(0.1))


class Honest(Halves):
    """The same function."""

    def forward(self, x):
        return self.layer(x * 0.5 + 0.1)


@pytest.mark.parametrize("backend", ["loop", "vmap"])
@pytest.mark.parametrize("behind", ["nothing", "a body"])
def test_a_learner_leaves_its_inputs_as_they_are_and_every_step_sees_them(behind, backend):
    body = nn.Linear(4, 4).double() if behind == "a body" else None
    learners = []
    for net in (Halves(), Honest()):
        net.load_state_dict(learners[0].head.state_dict() if learners else net.state_dict())
        learners.append(RuleLearner(net, Descend(Constant(0.3), 3), cross_entropy, body=body, engine=Engine(backend)))
    tasks = Task(Examples(X[None].clone(), Y[None]), Examples(X[None].clone(), Y[None]), torch.zeros(1).long(), {})
    (outcome, grads), (right, right_grads) = (learner.meta_gradient(tasks) for learner in learners)
    torch.testing.assert_close(outcome.loss, right.loss)
    torch.testing.assert_close(grads, right_grads)
    assert torch.equal(tasks.support.x[0], X) and torch.equal(tasks.query.x[0], X)
    x = X.clone()
    adapted, wanted = (learner.adapt(Examples(x, Y)) for learner in learners)
    assert torch.equal(x, X)
    torch.testing.assert_close(adapted(x.clone()), wanted(x))
