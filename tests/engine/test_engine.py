"""All ways to run a batch give the meta-gradient of the plain loop: recomputed, compiled, in another layout."""

import copy
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from test_laws import CLOSE, filled
from torch import nn

from cases import METHODS, MLP, NETS, WAYS, Method, Net, each_method_and_net, learner, tasks
from quickstudy import Chain, Constant, Descend, Engine, InputError, Rescale, RuleLearner, Scalar, maml
from quickstudy.engine.autodiff import CompileRefusedWarning, tape_gradient
from quickstudy.engine.engine import LoopFallbackWarning, channels_last
from quickstudy.engine.memory import peak_bytes
from quickstudy.rules.criteria import cross_entropy
from quickstudy.types import pick

pytestmark = pytest.mark.usefixtures("double")


def gradients(model, batch, engine):
    model.engine = engine
    outcome, found = model.meta_gradient(batch)
    return [outcome.loss, outcome.output, *filled(found, model)]


@each_method_and_net(MLP)
def test_recompute_changes_no_result(method: Method, net: Net) -> None:
    model, batch = learner(method, net), tasks(net)
    plain = gradients(model, batch, Engine("loop"))
    torch.testing.assert_close(gradients(model, batch, Engine(recompute=True)), plain, **CLOSE)
    assert model.engine.backend == "loop"


class Attended(nn.Module):
    """Attention, whose fused kernels have no second derivative."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, WAYS)

    def forward(self, x):
        x = x[:, None] * torch.linspace(1, 2, 3)[:, None]
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, WAYS)),
        lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, WAYS)),
        Attended,
    ],
    ids=["weight norm", "layer norm", "attention"],
)
@pytest.mark.parametrize("own", [False, True])
def test_a_replayed_step_calls_kernels_by_their_plain_formulas_too(build, own):
    """torch calls a backward without the modes that the forward had: the fused kernel would be wrong there."""
    model, batch = maml(build(), inner_lr=0.5, inner_steps=2), tasks(NETS[0])

    def found(engine):
        model.engine = engine
        if not own:
            return model.meta_gradient(batch)[1]
        model.zero_grad()
        model(batch).loss.mean().backward()
        return [p.grad.clone() for p in model.meta_params().values()]

    torch.testing.assert_close(found(Engine(recompute=True)), found(Engine("loop")), **CLOSE)


def test_the_gradient_of_a_replayed_step_stops_at_what_it_reads():
    """phi is computed from the features and from frozen parameters; the steps of the gain read all three."""
    head = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, WAYS))
    body = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
    rule = Chain([Descend(Constant(0.3), 2), Rescale(Descend(Constant(0.5), 2), Scalar(), ["2.weight"])])
    model, batch = RuleLearner(head, rule, cross_entropy, body=body, adapts="2.*"), tasks(NETS[0])
    plain = gradients(model, batch, Engine("loop"))
    torch.testing.assert_close(gradients(model, batch, Engine(recompute=True)), plain, **CLOSE)


class _Scaled(torch.autograd.Function):
    """A user's autograd function as most are written: `torch.func` refuses it."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return x * scale

    @staticmethod
    def backward(ctx, grad):
        x, scale = ctx.saved_tensors
        return grad * scale, (grad * x).sum(0)


class _Scaling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4) + 0.5)
        self.fc = nn.Linear(4, WAYS)

    def forward(self, x):
        return self.fc(_Scaled.apply(x, self.scale)).tanh()


class _Multiplying(_Scaling):
    def forward(self, x):
        return self.fc(x * self.scale).tanh()


@pytest.mark.parametrize("options", [{}, {"recompute": True}, {"memory": 10**9}], ids=str)
def test_a_users_autograd_function_gives_the_gradients_of_plain_operators(options):
    """Also for features and for parameters that do not adapt, and before `vmap` has refused it."""
    found = []
    for head in (_Multiplying(), _Scaling()):
        torch.manual_seed(0)
        for p in head.parameters():
            nn.init.uniform_(p, 0.5, 1.0)
        body, batch = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), tasks(NETS[0])
        model = RuleLearner(head, Descend(Constant(0.3), 2), cross_entropy, body=body, adapts="fc.*")
        adapted = model.adapt(pick(batch.support, 0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LoopFallbackWarning)
            found.append([adapted(batch.query.x[0]), *gradients(model, batch, Engine(**options))])
    assert model.engine.backend == "loop"
    torch.testing.assert_close(found[1], found[0], **CLOSE)


def test_replayed_steps_refuse_a_second_derivative_of_the_outer_loss():
    model = maml(nn.Linear(4, WAYS))
    model.engine = Engine("loop", recompute=True)
    loss = model(tasks(NETS[0])).loss.sum()
    with pytest.raises(InputError, match="without `recompute`"):
        torch.autograd.grad(loss, list(model.parameters()), create_graph=True)


def test_replayed_steps_need_memory_for_their_parameters_only():
    """With ten steps more, the plain tape grows by far more than ten sets of parameters, the replayed one by less."""
    need = {}
    for recompute in (False, True):
        for steps in (2, 12):
            model = maml(nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 3)), inner_steps=steps)
            model.engine = Engine("loop", recompute=recompute)
            batch = tasks(NETS[0], shots=40)
            need[recompute, steps] = peak_bytes(lambda m=model, b=batch: m.meta_gradient(b))
    parameters = sum(p.numel() for p in model.head.parameters()) * 8
    grown = {recompute: (need[recompute, 12] - need[recompute, 2]) / 10 for recompute in (False, True)}
    assert grown[True] < 3 * parameters < grown[False], (grown, parameters)


compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: install g++")


def compiled(*words: str) -> dict:
    script = Path(__file__).parents[1] / "compiled.py"
    done = subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, timeout=3600, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@compiler
def test_compilation_changes_no_result_and_a_model_that_it_refuses_runs_uncompiled() -> None:
    found = compiled("mtnet,hypermaml", "mlp", "refused")
    refused = found["rows"].pop("refused")
    assert len(found["rows"]) == 2
    assert all(row["error"] < 1e-12 and not row["refused"] for row in found["rows"].values()), found["rows"]
    assert refused["refused"] and refused["error"] < 1e-12 and refused["backend"] == "vmap", refused
    assert sum("so it runs uncompiled" in said for said in found["said"]) == 1


@compiler
@pytest.mark.slow
@pytest.mark.parametrize("net", ["mlp", "layer_norm", "tied_and_frozen", "conv_batch_norm", "conv_group_norm"])
def test_compilation_changes_no_result_of_any_method(net: str) -> None:
    rows = compiled("", net)["rows"]
    assert len(rows) == len(METHODS)
    assert all(row["error"] < 1e-12 and not row["refused"] for row in rows.values()), rows


def test_convolutions_on_a_cpu_are_not_compiled_and_a_warning_says_so():
    model = maml(nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(3 * 10 * 10, 3)))
    with pytest.warns(CompileRefusedWarning, match="run task by task"):
        gradients(model, tasks(Net("images", nn.Identity, (1, 12, 12))), Engine(compile=True))
    assert (model.engine.backend, model.engine.compile) == ("loop", False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backend": "vmap", "recompute": True}, "one task at a time"),
        ({"compile": True, "recompute": True}, "do not work together"),
        ({"compile": True, "autocast": "bf16"}, "do not work together"),
        ({"compile": True, "backend": "loop"}, "do not work together"),
        ({"recompute": True, "autocast": "bf16"}, "do not work together"),
    ],
    ids=str,
)
def test_settings_that_exclude_each_other_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        Engine(**options)


def test_a_copied_learner_compiles_for_itself():
    engine = Engine("vmap", compile=True)
    copied = copy.deepcopy(engine)
    assert copied.settings == engine.settings and copied._compiler is not engine._compiler


def test_a_tape_gradient_stops_at_the_parameters():
    """b is computed from a; as with `torch.func.grad`, the gradient for a must not flow through b."""
    a = torch.tensor(2.0, requires_grad=True)
    params = {"a": a, "b": 3 * a}

    def loss(at):
        return at["a"] ** 2 * at["b"]

    found = tape_gradient(loss)(params)
    expected = torch.func.grad(loss)(params)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(sum(found.values()), a, retain_graph=True), torch.autograd.grad(sum(expected.values()), a)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_the_layout_of_images_changes_no_number(channels):
    x = torch.randn(5, channels, 6, 7)
    turned = channels_last(x)
    assert torch.equal(turned, x) and turned.stride() == (channels * 42, 1, channels * 7, channels)
    assert nn.functional.conv2d(turned, torch.randn(2, channels, 3, 3)).is_contiguous(memory_format=torch.channels_last)


IN_A_NEW_PROCESS = """
import sys, torch
import quickstudy.methods.maml
print("heavy", [name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
import ctypes
import quickstudy.engine.allocator as allocator
calls, load = [], ctypes.CDLL
allocator.ctypes = type("ctypes", (), {"CDLL": staticmethod(lambda name: calls.append(name) or load(name))})
import quickstudy
print("imported", len(calls))
sys.argv = ["quickstudy", "info"]
import quickstudy.__main__ as command
command.main()
print("ran", len(calls))
"""


def test_importing_is_cheap_and_only_programs_change_the_allocator():
    """The compiler, whose import takes longer than torch's, is imported when it is needed. One process tests both."""
    words = [sys.executable, "-c", IN_A_NEW_PROCESS]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert "heavy []" in done.stdout, done.stdout
    assert "imported 0" in done.stdout and "ran 1" in done.stdout, done.stdout + done.stderr
