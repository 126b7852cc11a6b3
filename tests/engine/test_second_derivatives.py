"""Where torch's own kernels have no right second derivative, a model that calls them has one all the same."""

import subprocess
import sys
import threading
from textwrap import dedent

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quickstudy import Engine, Examples, Task, maml
from quickstudy.engine.second_derivatives import twice_differentiable
from quickstudy.rules.torch_private import function_modes

pytestmark = pytest.mark.usefixtures("double")

N, WIDTH = 6, 8
DRAW = torch.Generator().manual_seed(0)
W, B = 0.5 + torch.rand(WIDTH, generator=DRAW).double(), torch.randn(WIDTH, generator=DRAW).double()
STATE = torch.zeros(WIDTH).double(), torch.ones(WIDTH).double()
X3 = torch.randn(N, WIDTH, 5, generator=DRAW).double()
HEADS = torch.randn(2, 4, 5, 6, generator=DRAW).double()


def spread(h):
    """Sequences whose variance is never near 0, where a norm bends too sharply for a central difference."""
    return (h[..., None] * X3).tanh() + X3


CALLS = {
    "layer norm": lambda h, w, b: F.layer_norm(h, (WIDTH,), w, b),
    "layer norm, torch's": lambda h, w, b: torch.layer_norm(h, [WIDTH], w, b, 1e-5, False),
    "layer norm by keywords": lambda h, w, b: F.layer_norm(input=h, normalized_shape=(WIDTH,), bias=b, weight=w),
    "layer norm without a bias": lambda h, w, b: F.layer_norm(h, (WIDTH,), w) * b,
    "batch norm": lambda h, w, b: F.batch_norm(h, None, None, w, b, training=True),
    "batch norm, torch's": lambda h, w, b: torch.batch_norm(h, w, b, None, None, True, 0.1, 1e-5, False),
    "batch norm of given statistics": lambda h, w, b: F.batch_norm(h, *STATE, w, b),
    "batch norm of sequences": lambda h, w, b: F.batch_norm(h[..., None] * X3, None, None, w, b, True).mean(-1),
    "instance norm": lambda h, w, b: (
        F.instance_norm((h[..., None] * X3).tanh() + X3, weight=w, bias=b).square().mean(-1)
    ),
    "instance norm, torch's": lambda h, w, b: (
        torch.instance_norm(spread(h), w, b, None, None, True, 0.1, 1e-5, False).square().mean(-1)
    ),
    "group norm": lambda h, w, b: F.group_norm(h, 2, w, b),
    "group norm, torch's": lambda h, w, b: torch.group_norm(h, 2, w, b),
    "weight norm": lambda h, w, b: h @ torch._weight_norm(torch.outer(w, b) + torch.eye(WIDTH), w[:, None], 0).T,
    "weight norm by columns": lambda h, w, b: h @ torch._weight_norm(torch.outer(w, b) + torch.eye(WIDTH), w[None], 1),
    "weight norm of the whole": lambda h, w, b: h @ torch._weight_norm(torch.outer(w, b), w.sum(), -1),
    "attention": lambda h, w, b: F.scaled_dot_product_attention(h[None] * w, h[None] + b, h[None])[0],
    "rms norm": lambda h, w, b: F.rms_norm(h, (WIDTH,), w) + b,
}


class Calls(nn.Module):
    """A layer whose output goes through one of the calls above."""

    def __init__(self, call):
        super().__init__()
        self.first, self.last = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3)
        self.w, self.b, self.call = nn.Parameter(W.clone()), nn.Parameter(B.clone()), call

    def forward(self, x):
        return self.last(self.call(self.first(x), self.w, self.b).tanh())


def learner_and_tasks(net, inputs=(4,)):
    draw = torch.Generator().manual_seed(1)
    y = (torch.arange(N) % 3).repeat(2, 1)
    halves = (Examples(torch.randn(2, N, *inputs, generator=draw).double(), y) for _ in range(2))
    return maml(net.double(), inner_lr=0.3, inner_steps=2), Task(*halves, torch.arange(2), {})


@pytest.mark.parametrize("backend", ["vmap", "loop"])
@pytest.mark.parametrize("call", CALLS)
def test_the_users_own_backward_is_the_central_difference(call, backend):
    torch.manual_seed(0)
    learner, tasks = learner_and_tasks(Calls(CALLS[call]))
    learner.engine = Engine(backend)
    params = list(learner.parameters())
    toward = [torch.randn_like(p) for p in params]
    grads = torch.autograd.grad(learner(tasks).loss.mean(), params)
    exact = sum(float((g * d).sum()) for g, d in zip(grads, toward, strict=True))
    ends = []
    for sign in (1.0, -2.0):
        with torch.no_grad():
            for p, d in zip(params, toward, strict=True):
                p.add_(d, alpha=sign * 1e-5)
        ends.append(float(learner(tasks).loss.mean().detach()))
    assert exact == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-8)
    assert learner.engine.backend == backend


@pytest.mark.parametrize("call", CALLS)
def test_the_plain_formula_has_the_values_of_the_kernel(call):
    h = torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(2)).double()
    right = CALLS[call](h, W, B)
    with twice_differentiable():
        torch.testing.assert_close(CALLS[call](h, W, B), right)
        many = torch.vmap(lambda h: CALLS[call](h, W, B))(torch.stack([h, h + 1]))
    torch.testing.assert_close(many[0], right)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
        {"attn_mask": torch.linspace(-1, 1, 25).reshape(5, 5).double()},
    ],
    ids=["plain", "causal", "scale", "mask", "bias"],
)
def test_attention_takes_every_option_of_torch(options):
    right = F.scaled_dot_product_attention(HEADS, HEADS.flip(0), HEADS, **options)
    with twice_differentiable():
        torch.testing.assert_close(F.scaled_dot_product_attention(HEADS, HEADS.flip(0), HEADS, **options), right)
    grouped = F.scaled_dot_product_attention(HEADS, HEADS[:, :2], HEADS[:, :2], enable_gqa=True)
    with twice_differentiable():
        plain = F.scaled_dot_product_attention(HEADS, HEADS[:, :2], HEADS[:, :2], enable_gqa=True)
    torch.testing.assert_close(plain, grouped)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("mask", ["none", "causal", "padding"])
def test_multi_head_attention_keeps_its_two_results(mask, weights):
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True).double(), torch.randn(3, 5, 8).double()
    options = {"need_weights": weights}
    if mask == "causal":
        options |= {"attn_mask": nn.Transformer.generate_square_subsequent_mask(5).double(), "is_causal": True}
    if mask == "padding":
        options["key_padding_mask"] = torch.arange(5).expand(3, 5) > 3
    right = attention(x, x, x, **options)
    with twice_differentiable():
        plain = attention(x, x, x, **options)
    torch.testing.assert_close(plain[0], right[0])
    assert (plain[1] is None) == (right[1] is None) == (not weights)
    if weights:
        torch.testing.assert_close(plain[1], right[1])


FLAT, STARTS = torch.tensor([0, 1, 2, 2, 5, 4, 1]), torch.tensor([0, 2, 2, 5])
BAGS = {
    "rows": ((torch.tensor([[0, 1, 1], [2, 5, 3]]), None), {}),
    "rows with padding": ((torch.tensor([[0, 1, 1], [1, 1, 1], [2, 5, 3]]), None), {"padding_idx": 1}),
    "rows, padding from the end": ((torch.tensor([[0, 5, 1], [5, 5, 5]]), None), {"padding_idx": -1}),
    "offsets, one bag empty": ((FLAT, STARTS), {}),
    "offsets to the last": ((FLAT, torch.tensor([0, 2, 5, 7])), {"include_last_offset": True}),
    "offsets with padding": ((FLAT, STARTS), {"padding_idx": 2}),
}


@pytest.mark.parametrize("mode", ["sum", "mean", "max", "weighted", "by frequency"])
@pytest.mark.parametrize("bags", BAGS)
def test_a_bag_of_embeddings_has_the_numbers_of_its_kernel_and_a_second_derivative(bags, mode):
    (words, offsets), options = BAGS[bags]
    draw = torch.Generator().manual_seed(1)
    table = torch.randn(6, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    more = {"mode": mode if mode in ("sum", "mean", "max") else "sum"}
    more |= {"scale_grad_by_freq": True} if mode == "by frequency" else {}
    if mode == "weighted":
        more["per_sample_weights"] = torch.rand(words.shape, generator=draw, dtype=torch.float64, requires_grad=True)

    def bag(t, *w):
        weights = {"per_sample_weights": w[0]} if w else {}
        return F.embedding_bag(words, t, offsets, **options, **(more | weights))

    inputs = [table, *(value for value in more.values() if isinstance(value, torch.Tensor))]
    weight = torch.randn(bag(*inputs).shape, generator=draw, dtype=torch.float64)

    def gradient():
        return torch.autograd.grad((bag(*inputs).sin() * weight).sum(), inputs, allow_unused=True)

    more.pop("scale_grad_by_freq", None)
    kernel, first = bag(*inputs), gradient()
    if mode == "by frequency":  # the kernel scales the gradient of a word by how often another one is there
        more["scale_grad_by_freq"] = True
        first = (first[0] / words.flatten().bincount(minlength=6).clamp(min=1)[:, None],)
    with twice_differentiable():
        assert torch.allclose(bag(*inputs), kernel, rtol=1e-12)
        for plain, right in zip(gradient(), first, strict=True):
            assert torch.allclose(plain, right, rtol=1e-12)
        if mode != "by frequency":  # whose gradient is not that of its value
            assert torch.autograd.gradgradcheck(lambda *given: bag(*given).sin(), inputs)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_bag_of_embeddings_adapts_under_vmap_as_on_the_loop(mode):
    draw = torch.Generator().manual_seed(2)
    x, y = torch.randint(0, 9, (2, 3, 6, 4), generator=draw), (torch.arange(6) % 3).repeat(3, 1)
    tasks, found = Task(Examples(x[0], y), Examples(x[1], y), torch.arange(3), {}), []
    for backend in ("vmap", "loop"):
        torch.manual_seed(0)
        learner = maml(nn.Sequential(nn.EmbeddingBag(9, 5, mode=mode, padding_idx=0), nn.Linear(5, 3)), inner_lr=0.5)
        learner.engine = Engine(backend)
        outcome, grads = learner.meta_gradient(tasks)
        found.append([outcome.loss, *grads])
        assert learner.check(tasks).ok
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other)


def test_no_switch_of_the_process_is_touched_and_no_other_thread_sees_it():
    def switches():
        backends = torch.backends
        return (
            backends.mha.get_fastpath_enabled(),
            backends.cuda.flash_sdp_enabled(),
            backends.cuda.math_sdp_enabled(),
            backends.cuda.mem_efficient_sdp_enabled(),
        )

    before, seen = switches(), []

    def look():
        seen.append((switches(), torch.overrides._get_current_function_mode()))

    with twice_differentiable():
        other = threading.Thread(target=look)
        other.start()
        other.join()
        assert switches() == before
    assert seen == [(before, None)]


def test_group_norm_of_images_in_channels_last_survives():
    """In a process of its own: torch's kernel would end it."""
    program = """
        import torch, quickstudy as qs
        from torch import nn
        F = nn.functional
        class Functional(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(144, 3)
                self.w, self.b = nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(4))
            def forward(self, x):
                return self.head(F.group_norm(self.conv(x), 2, self.w, self.b).flatten(1))
        class Turns(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm, self.head = nn.GroupNorm(2, 4), nn.Linear(144, 3)
            def forward(self, x):
                return self.head(self.norm(x.contiguous(memory_format=torch.channels_last)).flatten(1))
        nets = [nn.Sequential(nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 3)), Functional(), Turns()]
        nets.append(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 3)))
        x, y = torch.randn(2, 6, 6, 6, 4).permute(0, 1, 4, 2, 3), (torch.arange(6) % 3).repeat(2, 1)
        tasks = qs.Task(qs.Examples(x, y), qs.Examples(x, y), torch.arange(2), {})
        for net in nets:
            for layout in (torch.contiguous_format, torch.channels_last):
                for backend in ("vmap", "loop"):
                    learner = qs.maml(net.to(memory_format=layout))
                    learner.engine = qs.Engine(backend)
                    learner(tasks).loss.mean().backward()
                    learner.meta_gradient(tasks)
                    learner.adapt(qs.Examples(x[0], y[0]))(x[0])
        print("survived")
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", dedent(program)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "survived\n", (done.returncode, done.stderr[-2000:])


class Own(nn.Linear):
    """A layer of a user's."""


def looks_at_calls(learner):
    with learner.engine.kernels():
        return any(isinstance(mode, twice_differentiable) for mode in function_modes())


@pytest.mark.parametrize(
    ("net", "needed"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)), False),
        (lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)), False),  # it gets a safe class
        (lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.Linear(4, 3)), True),
        (lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2), nn.Linear(4, 3)), True),
        (lambda: nn.Sequential(Own(4, 4), nn.Linear(4, 3)), True),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), True),
    ],
)
def test_known_nets_are_not_slowed_down(net, needed):
    learner = maml(net())
    learner.engine.settle(learner, torch.zeros(2, 3, 4))
    assert looks_at_calls(learner) == needed


def test_a_hook_and_a_loss_of_the_users_are_looked_at():
    hooked = nn.Sequential(nn.Linear(4, 3))
    hooked[0].register_forward_hook(lambda module, args, out: out)
    for learner in (maml(hooked), maml(nn.Linear(4, 3), loss=lambda out, y: F.cross_entropy(2 * out, y))):
        learner.engine.settle(learner, torch.zeros(2, 3, 4))
        assert looks_at_calls(learner)
