"""What a user's own modules and losses may do, held against the same adaptation by plain torch in double precision."""

import pickle
import random
import threading
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import register_parametrization

from quickstudy import Engine, Examples, Task, anil, fomaml, maml, tnet
from quickstudy.engine.threads import map_on_threads
from quickstudy.errors import InputError
from quickstudy.methods.mtnet import SharedLayersWarning
from quickstudy.methods.protonet import protonet
from quickstudy.methods.r2d2 import r2d2
from quickstudy.methods.reptile import reptile
from quickstudy.methods.warpgrad import warpgrad
from quickstudy.rules.torch_private import outside_transforms

pytestmark = pytest.mark.usefixtures("double")
RATE, STEPS, WAYS = 0.1, 2, 3


def some_tasks(*shape: int, words: int = 0) -> Task:
    draw = torch.Generator().manual_seed(1)
    size = (3, 6, *shape), (3, 5, *shape)
    made = [torch.randint(0, words, s, generator=draw) if words else torch.randn(s, generator=draw) for s in size]
    labels = [(torch.arange(n) % WAYS).repeat(3, 1) for n in (6, 5)]
    return Task(*(Examples(x, y) for x, y in zip(made, labels, strict=True)), torch.arange(3), {})


def by_hand(net: nn.Module, tasks: Task, loss: Callable[..., Tensor] = F.cross_entropy) -> tuple[Tensor, list[Tensor]]:
    """The mean query loss after gradient steps on all parameters, and its gradient."""
    theta, losses = dict(net.named_parameters()), []
    for x, y, new, true in zip(*tasks.support, *tasks.query, strict=True):
        phi = theta
        for _ in range(STEPS):
            inner = loss(functional_call(net, phi, (x.clone(),)), y)
            grads = torch.autograd.grad(inner, list(phi.values()), create_graph=True)
            phi = {name: p - RATE * g for (name, p), g in zip(phi.items(), grads, strict=True)}
        losses.append(loss(functional_call(net, phi, (new.clone(),)), true))
    mean = torch.stack(losses).mean()
    return mean, list(torch.autograd.grad(mean, list(theta.values())))


def assert_by_hand(learner: Any, net: nn.Module, tasks: Task) -> None:
    outcome, grads = learner.meta_gradient(tasks)
    loss, expected = by_hand(net, tasks)
    assert torch.allclose(outcome.loss.mean(), loss)
    of_net = [g for name, g in zip(learner.meta_params(), grads, strict=True) if name.startswith("head.")]
    for g, wanted in zip(of_net, expected, strict=True):
        assert torch.allclose(g, wanted, atol=1e-10)


def own_maml(net: nn.Module, backend: str = "loop", **options: Any) -> Any:
    learner = maml(net, inner_lr=RATE, inner_steps=STEPS, **options)
    learner.engine = Engine(backend)
    return learner


# -- embeddings --


class Words(nn.Module):
    """A user's own class around a table: nobody knows beforehand that it has padding."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(8, 5, **options), nn.Linear(20, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.table(x).flatten(1))


@pytest.mark.parametrize("backend", ["vmap", "loop"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("padding", [1, -2])
def test_the_padding_of_an_embedding_has_no_gradient(backend: str, own: bool, padding: int) -> None:
    torch.manual_seed(0)
    options = {"padding_idx": padding}
    net = Words(**options) if own else nn.Sequential(nn.Embedding(8, 5, **options), nn.Flatten(), nn.Linear(20, WAYS))
    learner, tasks = own_maml(net, backend), some_tasks(4, words=8)
    assert (tasks.support.x == padding % 8).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_by_hand(learner, net, tasks)
    assert learner.check(tasks).ok


@pytest.mark.parametrize("build", [fomaml, anil, reptile, lambda net: protonet(net, WAYS)])
def test_the_padding_has_none_in_other_methods(build: Callable[[nn.Module], Any]) -> None:
    torch.manual_seed(0)
    net, tasks, found = Words(padding_idx=1), some_tasks(4, words=8), []
    for backend in ("vmap", "loop"):
        learner = build(net)
        learner.engine = Engine(backend)
        found.append(learner.meta_gradient(tasks)[1])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("backend", ["vmap", "loop"])
def test_a_gradient_that_is_scaled_by_frequency_is_so_in_every_derivative(backend: str) -> None:
    """Torch's own second derivative leaves the scale out, so the reference scales by hand."""
    torch.manual_seed(0)
    net, tasks = Words(scale_grad_by_freq=True), some_tasks(4, words=8)

    class ByHand(Words):
        def forward(self, x: Tensor) -> Tensor:
            rows = self.table.weight[x]
            share = 1 / torch.bincount(x.flatten(), minlength=8)[x].to(rows.dtype)
            return self.last((rows.detach() + (rows - rows.detach()) * share[..., None]).flatten(1))

    same = ByHand()
    same.load_state_dict(net.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the check sees that it is no gradient of the loss, and is right
        assert_by_hand(own_maml(net, backend), same, tasks)


def test_a_table_with_sparse_gradients_adapts_as_a_dense_one() -> None:
    torch.manual_seed(0)
    sparse, dense = Words(sparse=True), Words()
    dense.load_state_dict(sparse.state_dict())
    assert_by_hand(own_maml(sparse), dense, some_tasks(4, words=8))


# -- the user's tensors stay as they are --


def test_a_forward_and_its_check_add_to_no_gradient_of_the_users() -> None:
    torch.manual_seed(0)
    after, scale = nn.Linear(WAYS, WAYS), nn.Parameter(torch.ones(()))
    tasks = some_tasks(4)
    tasks.support.x.requires_grad_()
    learner = own_maml(nn.Linear(4, WAYS), "vmap", loss=lambda o, y: F.cross_entropy(scale * after(o), y))
    loss = learner(tasks).loss.mean()
    assert after.weight.grad is None and scale.grad is None and tasks.support.x.grad is None
    loss.backward()
    expected = after.weight.grad.clone()
    after.weight.grad = None
    learner(tasks).loss.mean().backward()
    assert torch.allclose(after.weight.grad, expected)


class Halving(nn.Module):
    """A forward that changes its input in place; of some, only in training."""

    def __init__(self, *, always: bool) -> None:
        super().__init__()
        self.always = always
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.always:
            x.mul_(0.5)
        return self.last(self.norm(self.first(x)).tanh())


@pytest.mark.parametrize("first", ["adapt", "call"])
def test_an_input_that_is_changed_in_training_alone_is_given_anew(first: str) -> None:
    torch.manual_seed(0)
    net, tasks = Halving(always=False), some_tasks(4)
    learner = own_maml(net)
    if first == "adapt":
        learner.adapt(Examples(tasks.support.x[0], tasks.support.y[0]))
    learner.train()
    net.train()
    net.norm.track_running_stats = False
    assert_by_hand(learner, net, tasks)


@pytest.mark.parametrize("build", [lambda n: anil(n, norms="support"), lambda n: protonet(n, WAYS, norms="support"),
                                   lambda n: r2d2(n, norms="support")])  # fmt: skip
def test_statistics_of_the_support_set_are_of_the_input_as_it_was(build: Callable[[nn.Module], Any]) -> None:
    torch.manual_seed(0)

    class Copying(Halving):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clone())

    changing, twin = Halving(always=True), Copying(always=True)
    twin.load_state_dict(changing.state_dict())
    tasks = some_tasks(4)
    before = [leaf.clone() for half in (tasks.support, tasks.query) for leaf in half]
    one, other = build(changing), build(twin)
    for learner in (one, other):
        learner.engine = Engine("loop")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.allclose(one(tasks).loss, other(tasks).loss)
        new = torch.randn(4, 4)
        adapted = [learner.adapt(Examples(tasks.support.x[0], tasks.support.y[0])) for learner in (one, other)]
        assert torch.allclose(adapted[0](new.clone()), adapted[1](new.clone()))
        one.observe(tasks)
    after = [leaf for half in (tasks.support, tasks.query) for leaf in half]
    assert all(map(torch.equal, before, after))


def test_a_weight_that_is_detached_in_evaluation_is_refused_there_too() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u, self.v = nn.Parameter(torch.randn(5, WAYS)), nn.Parameter(torch.randn(4, 5))

        def forward(self, x: Tensor) -> Tensor:
            weight = self.v @ self.u
            return x @ (weight if self.training else weight.detach())

    tasks = some_tasks(4)
    learner = own_maml(Fused())
    learner.train()
    learner(tasks)
    with pytest.raises(InputError, match=r"the support loss does not depend on them: u, v"):
        learner.adapt(Examples(tasks.support.x[0], tasks.support.y[0]))


# -- randomness --


class Noisy(nn.Module):
    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.first, self.last, self.draw = nn.Linear(4, 6), nn.Linear(6, WAYS), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh() * (1 + self.draw()))


@pytest.mark.parametrize("library", ["python", "numpy"])
def test_recomputed_steps_draw_what_they_drew(library: str) -> None:
    torch.manual_seed(0)
    net = Noisy(lambda: random.random() if library == "python" else np.random.random())
    tasks = some_tasks(4)
    one = tasks._replace(support=Examples(*(leaf[:1] for leaf in tasks.support)),
                         query=Examples(*(leaf[:1] for leaf in tasks.query)), key=tasks.key[:1])  # fmt: skip
    found = []
    for recompute in (False, True):
        learner = own_maml(net)
        learner.engine = Engine("loop", recompute=recompute)
        learner.trusted = True  # the check would draw
        learner.checked = frozenset({True, False})
        random.seed(3)
        np.random.seed(3)
        found.append((learner.meta_gradient(one)[1], random.random(), np.random.random()))
    for g, other in zip(found[0][0], found[1][0], strict=True):
        assert torch.allclose(g, other, atol=1e-12)
    assert found[0][1:] == found[1][1:], "and what is drawn afterwards is the same"


@pytest.mark.parametrize("kind", ["generator", "counter"])
def test_recomputed_steps_that_come_out_otherwise_are_refused(kind: str) -> None:
    torch.manual_seed(0)
    own, calls = torch.Generator().manual_seed(0), []

    def draw() -> float:
        calls.append(kind)
        return float(torch.rand((), generator=own)) if kind == "generator" else 1 / len(calls)

    learner = own_maml(Noisy(draw))
    learner.engine, learner.trusted = Engine("loop", recompute=True), True
    with pytest.raises(InputError, match="a step that was computed again came to other parameters"):
        learner.meta_gradient(some_tasks(4))


class Drawn(nn.Module):
    """Convolutions over images, so that tasks run on threads, and dropout or noise of a generator of its own."""

    def __init__(self, *, own: bool) -> None:
        super().__init__()
        self.conv, self.last, self.drop = nn.Conv2d(1, 2, 3), nn.Linear(162, WAYS), nn.Dropout(0.5)
        self.draw = torch.Generator() if own else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if self.training and self.draw is not None:
            h = h + torch.randn(h.shape, generator=self.draw)
        return self.last((h if self.draw is not None else self.drop(h)).tanh().flatten(1))


@pytest.mark.parametrize("own", [True, False])
def test_on_threads_one_seed_gives_one_result_also_after_evaluation(own: bool) -> None:
    torch.manual_seed(0)
    learner, tasks = own_maml(Drawn(own=own)), some_tasks(1, 11, 11)
    learner.trusted = True
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        learner.eval()
        learner.meta_gradient(tasks)
        learner.train()
        learner.meta_gradient(tasks)  # a first task is looked at in each mode
        results = set()
        for _ in range(6):
            torch.manual_seed(3)
            if own:
                learner.head.draw.manual_seed(3)
            results.add(float(learner.meta_gradient(tasks)[0].loss.sum()))
    finally:
        torch.set_num_threads(before)
    assert len(results) == 1


def test_threads_work_in_the_precision_of_their_caller() -> None:
    a, names = torch.ones(2, 2, dtype=torch.float32), set()

    def work(number: int) -> torch.dtype:
        names.add(threading.get_ident())
        return (a @ a).dtype

    with torch.autocast("cpu", torch.bfloat16):
        assert {*map_on_threads(work, 4, 2)} == {torch.bfloat16}
    assert {*map_on_threads(work, 4, 2)} == {torch.float32} and threading.get_ident() not in names


# -- modules that are told apart by more than their forward --


class Standardised(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight - weight.mean(), bias)


@pytest.mark.parametrize("build", [tnet, warpgrad])
def test_a_convolution_that_computes_something_else_is_no_cell(build: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Standardised(1, 2, 3), nn.Flatten(), nn.Linear(18, WAYS))
    tasks = some_tasks(1, 5, 5)
    expected = torch.stack([F.cross_entropy(net(x), y) for x, y in zip(*tasks.query, strict=True)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SharedLayersWarning)
        assert torch.allclose(build(net, inner_steps=1, inner_lr=1e-30)(tasks).loss, expected)


def test_a_forward_that_was_put_on_an_instance_is_called() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                        nn.Linear(144, WAYS))  # fmt: skip
    net[1].forward = lambda x: 3 * x
    net[1].weight.requires_grad_(False)
    net[1].bias.requires_grad_(False)
    tasks = some_tasks(1, 12, 12)
    learner = maml(net, inner_lr=1e-30, inner_steps=1)
    learner.engine = Engine("loop")
    expected = torch.stack([F.cross_entropy(net(x), y) for x, y in zip(*tasks.query, strict=True)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.allclose(learner(tasks).loss, expected)


@pytest.mark.parametrize("build", [maml, anil, tnet, lambda net: protonet(net, WAYS)])
def test_a_hook_on_a_parameter_is_refused(build: Callable[[nn.Module], Any]) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, WAYS))
    net[0].weight.register_hook(lambda g: 0 * g)
    with pytest.raises(InputError, match=r"0\.weight has a hook \(register_hook\), which a learner cannot keep"):
        build(net)


# -- views that were made once --


class Waves(nn.Module):
    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.randn(4, WAYS, dtype=torch.complex128))
        self.q = view(self.p)

    def forward(self, x: Tensor) -> Tensor:
        turned = self.q if self.q.is_complex() else self.q + 0j
        return (x.to(self.p.dtype) @ (self.p + 0.5 * turned)).abs() + (self.p * turned).imag.sum()


@pytest.mark.parametrize("view", [torch.conj, torch.real, torch.imag, lambda p: p.conj().real, lambda p: p[1:2]])
def test_views_of_a_complex_parameter_follow_it(view: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    net, tasks = Waves(view), some_tasks(4)
    anew = Waves(view)
    anew.load_state_dict(net.state_dict())
    anew.forward = lambda x: _viewing(anew, view, x)  # type: ignore[method-assign]
    learner = own_maml(net)
    assert outside_transforms()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = learner(tasks)
    assert torch.allclose(outcome.loss.mean(), by_hand(anew, tasks)[0])


def _viewing(module: Waves, view: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    module.q = view(module.p)
    return Waves.forward(module, x)


# -- what is chosen --


class TiedEnds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.mid, self.dec = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.dec.weight = self.emb.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.dec(self.mid(self.emb(x)).tanh())


def test_a_tied_parameter_is_picked_by_any_of_its_names() -> None:
    assert list(maml(TiedEnds(), adapts="dec.*").params()) == ["emb.weight", "dec.bias"]
    assert list(maml(TiedEnds(), adapts=["emb.weight"]).params()) == ["emb.weight"]
    assert list(maml(TiedEnds(), adapts=lambda name: name.startswith("dec")).params()) == ["dec.bias"]


def test_a_head_may_be_made_of_several_layers() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 5), nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, WAYS))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).tanh())

    torch.manual_seed(0)
    net, tasks = Parts(), some_tasks(4)
    learner = anil(net, head="head", inner_lr=RATE, inner_steps=1)
    assert list(learner.params()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    same = maml(net, adapts="head.*", inner_lr=RATE, inner_steps=1)
    assert torch.allclose(learner(tasks).loss, same(tasks).loss)
    with pytest.raises(InputError, match="`head` is 'body', but the model computes more after it"):
        anil(net, head="body")


class Closing(nn.Module):
    """An activation that reads a parameter of its module, and is random in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale, self.head = nn.Linear(4, 6), nn.Parameter(torch.ones(6)), nn.Linear(6, WAYS)
        self.act = lambda h: F.dropout((h * self.scale).tanh(), 0.5, self.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.body(x)))


@pytest.mark.parametrize("build", [maml, anil, tnet, lambda net: protonet(net, WAYS), r2d2])
def test_a_function_of_a_module_follows_the_copies_of_it(build: Callable[[nn.Module], Any]) -> None:
    torch.manual_seed(0)
    net, tasks = Closing(), some_tasks(4)
    learner = build(net)
    support, new = Examples(tasks.support.x[0], tasks.support.y[0]), tasks.query.x[0]
    learner.train()
    adapted = learner.adapt(support)
    assert torch.equal(adapted(new), adapted(new)), "dropout is off"
    before = adapted(new)
    with torch.no_grad():
        net.scale.fill_(-9.0)
    assert torch.equal(adapted(new), before) and torch.allclose(learner.adapt(support)(new), before)
    with torch.no_grad():
        next(p for name, p in learner.named_parameters() if name.endswith("scale")).fill_(-9.0)
    assert not torch.allclose(learner.adapt(support)(new), before), "it is the learner's own that is read"


# -- layers of a class of their own --


class Gauged(nn.BatchNorm2d):
    """A subclass with torch's forward that adds what other code of its module asks for."""

    def gauge(self) -> Tensor:
        return 1 + self.weight.square().mean()


class Counting(nn.BatchNorm2d):
    """A subclass that changes a buffer in what it adds."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("asked", torch.zeros(()))

    def gauge(self) -> Tensor:
        self.asked += 1
        return 1 + self.weight.square().mean()


class GaugedLinear(nn.Linear):
    def gauge(self) -> Tensor:
        return 1 + self.weight.square().mean()


class Doubled(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return 2 * w


class Particular(nn.Module):
    """Reads its layers as their own classes let it, by one of several ways."""

    def __init__(self, way: str, norm: nn.Module) -> None:
        super().__init__()
        self.way, self.conv, self.norm, self.last = way, nn.Conv2d(1, 3, 2), norm, GaugedLinear(27, WAYS)
        self.listed = [self.conv, self.norm]
        self.keyed = {"last": self.last}

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "listed":
            for layer in self.listed:
                x = layer(x)
            return self.keyed["last"](x.tanh().flatten(1))
        h = self.norm(self.conv(x))
        if self.way == "asked":
            h = h * self.norm.gauge() * self.last.gauge()
        if self.way == "found":
            kinds = (nn.BatchNorm2d, nn.LayerNorm, nn.InstanceNorm2d)
            h = h * (1 + sum(m.weight.square().mean() for m in self.modules() if isinstance(m, kinds)))
        return self.last(h.tanh().flatten(1))


OWN_NORMS = {
    "batch norm": lambda: nn.BatchNorm2d(3),
    "own batch norm": lambda: Gauged(3),
    "counting": lambda: Counting(3),
    "layer norm": lambda: nn.LayerNorm([3, 3, 3]),
    "instance norm": lambda: nn.InstanceNorm2d(3, affine=True),
    "computed batch scale": lambda: register_parametrization(nn.BatchNorm2d(3), "weight", Doubled()),
    "computed layer scale": lambda: register_parametrization(nn.LayerNorm([3, 3, 3]), "weight", Doubled()),
    "computed instance scale": lambda: register_parametrization(nn.InstanceNorm2d(3, affine=True), "weight", Doubled()),
}
READ = [(way, name) for way in ("listed", "found", "called") for name in OWN_NORMS]
READ += [("asked", "own batch norm"), ("asked", "counting")]


@pytest.mark.parametrize("backend", ["vmap", "loop"])
@pytest.mark.parametrize(("way", "name"), READ)
def test_a_layer_is_still_one_of_its_class_wherever_it_is_held(way: str, name: str, backend: str) -> None:
    torch.manual_seed(0)
    net = Particular(way, OWN_NORMS[name]())
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    learner = own_maml(net, backend)
    tasks = some_tasks(1, 4, 4)
    if (way, name, backend) == ("asked", "counting", "vmap"):
        learner.engine = Engine("auto")  # which leaves vmap: it refuses a buffer that is changed in place
    for _ in range(2):
        assert_by_hand(learner, net, tasks)
    kept = {key: value for key, value in learner.head.state_dict().items() if key in before}
    assert kept.keys() == before.keys() and all(torch.equal(kept[key], before[key]) for key in before)


@pytest.mark.parametrize("way", ["listed", "asked", "found", "called"])
def test_a_cell_is_still_one_of_its_class_wherever_it_is_held(way: str) -> None:
    torch.manual_seed(0)
    net = Particular(way, Gauged(3))
    learner = tnet(net, inner_lr=RATE, inner_steps=STEPS)
    last = learner.head.last
    assert isinstance(last, GaugedLinear) and last is learner.head.keyed["last"] and last is not net.last
    assert isinstance(net.last, GaugedLinear) and type(net.last) is GaugedLinear
    x = torch.randn(5, 1, 4, 4)
    assert torch.allclose(learner.head(x), net(x))
    _, grads = learner.meta_gradient(some_tasks(1, 4, 4))
    of_metrics = [g for name, g in zip(learner.meta_params(), grads, strict=True) if name.endswith("metric")]
    assert len(of_metrics) == 2 and all(g.abs().sum() > 0 for g in of_metrics)


@pytest.mark.parametrize("build", [maml, tnet, lambda net: warpgrad(net, units=2), lambda net: protonet(net, WAYS)])
def test_layers_of_their_own_class_survive_a_pickle_and_a_copy(build: Callable[[nn.Module], Any]) -> None:
    torch.manual_seed(0)
    learner, tasks = build(Particular("found", Gauged(3))), some_tasks(1, 4, 4)
    wanted = learner.meta_gradient(tasks)[0].loss
    for again in (deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert torch.equal(again.meta_gradient(tasks)[0].loss, wanted)
