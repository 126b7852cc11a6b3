"""Unusual models and combinations: which are refused, which give a warning, and which work."""

import copy
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cases import NETS, SHOTS, WAYS, tasks
from quickstudy import (
    ByName,
    ClassHypernet,
    Coadapt,
    Constant,
    Descend,
    Emit,
    Engine,
    InputError,
    Learned,
    Masked,
    MetricLinear,
    Mix,
    MixLosses,
    RuleLearner,
    Scalar,
    anil,
    hypermaml,
    maml,
    mnet,
    mtnet,
    tnet,
    with_metric,
    wormhole,
)
from quickstudy.methods.emit_ridge import emit_ridge
from quickstudy.methods.maml import meta_sgd
from quickstudy.methods.matchingnet import matchingnet
from quickstudy.methods.mtnet import SharedLayersWarning
from quickstudy.methods.nca import nca
from quickstudy.methods.r2d2 import r2d2
from quickstudy.methods.sampled_sign import sampled_sign
from quickstudy.models.nets import conv_net, mlp
from quickstudy.models.split import split_head
from quickstudy.rules.criteria import cross_entropy
from quickstudy.rules.params import adaptable, dotted_params, parameter_dict, select
from quickstudy.tasks.draws import Draws
from quickstudy.types import Examples, pick

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


pytestmark = pytest.mark.usefixtures("double")


# Wrong options are refused when the learner is built


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: maml(mlp(4, 3), adapts="encoder.*"), "matched none"),
        (lambda: maml(mlp(4, 3).requires_grad_(False)), "matched none"),
        (lambda: maml(mlp(4, 3), adapts=lambda name: False), "matched none"),
        (lambda: wormhole(mlp(4, 3), scope="encoder.*"), "matched none"),
        (lambda: wormhole(mlp(4, 3), adapts="layer0.*"), "does not adapt"),
        (lambda: wormhole(mlp(4, 3), chart="tan"), "Did you mean `tanh`"),
        (lambda: wormhole(mlp(4, 3), reading="liberal"), "no reading 'liberal'. Did you mean `literal`"),
        (lambda: wormhole(mlp(4, 3), sharpen=0.0), "`sharpen` was 0.0. It is above 0"),
        (lambda: wormhole(mlp(4, 3), sharpen=math.inf), "`sharpen` was inf. It is above 0 and finite"),
        (lambda: wormhole(mlp(4, 3), sharpen=2.0, chart="scalar"), "needs the chart 'tanh'"),
        (lambda: wormhole(mlp(4, 3), sharpen=2.0, gain_steps=1), "it needs 2 steps or more"),
        (lambda: wormhole(mlp(4, 3), sharpen=2.0, reading="coadapt"), "a reading in which C is found first"),
        (lambda: anil(mlp(4, 3), head="fc"), "no module 'fc'"),
        (lambda: anil(nn.Sequential(nn.Flatten())), "no Linear layer"),
        (lambda: anil(nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(-1))), "computes more after it"),
        (lambda: hypermaml(nn.Sequential(nn.Linear(4, 4), nn.Bilinear(4, 4, 3)), head="1"), "one linear head"),
        (lambda: hypermaml(mlp(4, 3), hidden_layers=4), "1 to 3"),
        (lambda: hypermaml(mlp(4, 3), mixing="both"), r"'update' \(eq. 7\) or 'loss'"),
        (lambda: tnet(nn.Sequential(nn.Flatten())), "needs Linear or Conv2d"),
        (lambda: mnet(nn.Sequential(nn.LSTM(4, 3))), "this model has none"),
        (lambda: mtnet(mlp(4, 3), draw="maybe"), "'hard', 'soft' or 'expected'"),
        (lambda: mtnet(mlp(4, 3), temperature=0.0), "above 0"),
        (lambda: maml(mlp(4, 3), inner_steps=-1), "0 or more"),
        (lambda: maml(mlp(4, 3), loss="crossentropy"), "Did you mean `cross_entropy`"),
        (lambda: conv_net((1, 8, 8), 3, blocks=4), "at most 3 blocks"),
        (lambda: conv_net((8,), 3), "Try `mlp`"),
        (lambda: conv_net((1, 8, 8), 3, blocks=2, norm="bath"), "no norm 'bath'"),
        (lambda: Engine("jit"), "no backend 'jit'"),
        (lambda: Engine("vmap", chunk=0), "1 or more"),
        (lambda: Engine("vmap", chunk=1.5), "`chunk` was 1.5; it counts tasks"),  # type: ignore[arg-type]
        (lambda: Engine(compile="yes"), "`compile` was 'yes'"),  # type: ignore[arg-type]
        (lambda: Engine(recompute="no"), "`recompute` 'no': give True or False"),  # type: ignore[arg-type]
        (lambda: Engine(memory="1GB"), "`memory` was '1GB'; it is a number of bytes"),  # type: ignore[arg-type]
        (lambda: Mix([Descend(Constant(0.1), 1)], [0.5, 0.5]), "one weight per rule"),
        (lambda: Mix([], []), "no rules"),
        (lambda: Learned({"w": torch.zeros(2)}, 0.1, per="epoch"), "per 'parameter', 'layer' or 'layer_step'"),
    ],
)
def test_wrong_options_are_refused_when_built(build: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build()


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("temperature", lambda value: mtnet(mlp(4, 3), temperature=value)),
        ("temperature", lambda value: sampled_sign(mlp(4, 3), temperature=value)),
        ("ridge", lambda value: r2d2(mlp(4, 3), ridge=value)),
        ("damping", lambda value: emit_ridge(mlp(4, 3), damping=value)),
        ("scale", lambda value: nca(mlp(4, 3), 3, scale=value)),
        ("scale", lambda value: matchingnet(mlp(4, 3), 3, scale=value)),
    ],
)
def test_what_must_be_above_0_is_finite_too(name: str, build: Callable[[float], object], value: float) -> None:
    with pytest.raises(InputError, match=rf"`{name}` was {value}; .* above 0 and finite"):
        build(value)


def test_what_is_0_in_single_precision_is_refused() -> None:
    torch.set_default_dtype(torch.float32)
    with pytest.raises(InputError, match=r"`ridge` was 0.0; .* above 0 and finite"):
        r2d2(mlp(4, 3), ridge=1e-60)
    with pytest.raises(InputError, match=r"`damping` was 0.0; .* above 0 and finite"):
        emit_ridge(mlp(4, 3), damping=1e-60)


@pytest.mark.parametrize("init", [math.inf, math.nan, (0.0, math.inf), (math.nan, 1.0), (0.1, 0.01)])
def test_a_learned_rate_starts_between_finite_bounds(init: float | tuple[float, float]) -> None:
    with pytest.raises(InputError, match="a finite number or between two, the lower first, not at"):
        meta_sgd(mlp(4, 3), inner_lr=init)


def test_a_rate_built_for_other_parameters_is_refused_when_built() -> None:
    net = mlp(4, 3, hidden=(5,))
    some = adaptable(net, "head.*")
    for rate in (Masked(Constant(0.1), some), Learned(some, 0.1)):
        with pytest.raises(InputError, match="built for other parameters"):
            RuleLearner(net, Descend(rate, 1), cross_entropy)
    emit = Emit(ClassHypernet({"other.weight": torch.zeros(3, 4)}, width=4))
    learner = RuleLearner(nn.Linear(4, 3), emit, cross_entropy)
    with pytest.raises(InputError, match="built for other parameters"):
        learner(tasks(NETS[0]))


# Heads


class Untraceable(nn.Module):
    """A forward that cannot be traced, because it depends on the values of its input."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.first, self.fc, self.scale = nn.Linear(4, 4), nn.Linear(4, WAYS), scale

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        if x.shape[0] > 10_000 and bool(x.sum() > 0):
            h = -h
        return self.fc(h) * self.scale if self.scale != 1 else self.fc(h)


class BranchingOnValues(Untraceable):
    """As above, with a Python branch on the values themselves."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.detach().sum()) < 1e9 else x


def test_a_head_that_is_not_last_is_refused_at_the_first_run_where_it_cannot_be_traced() -> None:
    batch = tasks(NETS[0])
    body, head = split_head(BranchingOnValues(1.0))
    x = batch.support.x[0]
    torch.testing.assert_close(head(body(x)), head(body(x)), rtol=0, atol=0)
    learner = anil(BranchingOnValues(2.0))
    learner.engine = Engine("loop")
    with pytest.raises(InputError, match="computes more after it"):
        learner(batch)


def test_splitting_does_not_change_the_users_model() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.calls = nn.Linear(4, WAYS), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.fc(torch.tanh(x))

    model = Counting()
    body, head = split_head(model)
    x = torch.randn(2, 4)
    torch.testing.assert_close(head(body(x)), model(x), **CLOSE)
    assert model.calls == 1 and isinstance(model.fc, nn.Linear)
    wormhole(model)
    assert model.calls == 1


def test_a_learner_from_a_split_model_can_be_copied_and_adapted_twice() -> None:
    learner, batch = anil(NETS[1].build()), tasks(NETS[1])
    copied = copy.deepcopy(learner)
    torch.testing.assert_close(copied(batch), learner(batch), rtol=0, atol=0)
    adapted = copy.deepcopy(learner.adapt(pick(batch.support, 0)))
    torch.testing.assert_close(adapted(batch.query.x[0]), learner(batch, evaluating=True).output[0], **CLOSE)


# Cells


def test_a_frozen_layer_has_no_metric_and_no_mask() -> None:
    net = mlp(4, 3, hidden=(5,))
    net.layer0.requires_grad_(False)  # type: ignore[union-attr]
    learner = mtnet(net)
    assert isinstance(learner, RuleLearner)
    assert learner.adapts == ("head.weight", "head.bias")
    assert [n for n, _ in learner.named_parameters() if n.endswith("metric")] == ["head.head.metric"]


def test_a_subclass_with_the_same_forward_is_a_cell_and_other_layers_are_named() -> None:
    class Mine(nn.Linear):
        pass

    cells = with_metric(nn.Sequential(Mine(4, 4), Mine(4, 3)))
    assert all(isinstance(module, MetricLinear) for module in cells)
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 3))
    with pytest.warns(SharedLayersWarning, match="share 0.parametrizations"):
        learner = mnet(normed)
    assert isinstance(learner, RuleLearner) and learner.adapts == ("1.weight", "1.bias")


def test_a_warning_about_shared_layers_names_the_line_that_made_the_learner(tmp_path: Path) -> None:
    """In a process of its own: the checks of types in tests add calls in between."""
    masked = ["mtnet", "mnet", "mtnet_full", "mnet_full", "emit_mtnet", "gated_emission"]
    names = ["tnet", *masked, "emit_tnet", "warpgrad"]
    program = tmp_path / "program.py"
    program.write_text(
        "from torch import nn\nfrom quickstudy.methods.registry import METHODS\n"
        "model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 3))\n"
        + "".join(f'METHODS["{name}"](model)\n' for name in names)
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    warned = re.findall(r"program\.py:(\d+): SharedLayersWarning", done.stderr)
    assert warned == [str(line) for line in range(4, 4 + len(names))], done.stderr


def test_a_layer_used_twice_in_one_parent_is_one_cell_in_both_places() -> None:
    shared = nn.Linear(4, 4)
    cells = with_metric(nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(4, 3)))
    assert cells[0] is cells[2] and isinstance(cells[0], MetricLinear)  # type: ignore[index]


def test_the_metric_is_not_bypassed_in_a_transformer() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.Unflatten(1, (1, 4)), layer, nn.Flatten(), nn.Linear(4, WAYS))
    with pytest.warns(SharedLayersWarning, match="self_attn"):
        learner = tnet(model)
    with torch.no_grad():
        for name, p in learner.named_parameters():
            if name.endswith("metric"):
                p.add_(0.3 * torch.randn_like(p))
    batch = tasks(NETS[0])
    adapted = learner.adapt(pick(batch.support, 0))
    with torch.no_grad():
        torch.testing.assert_close(adapted(batch.query.x[0]), learner(batch, evaluating=True).output[0], **CLOSE)


# Rates by name, gains


def test_rates_by_name_compose_with_masks_and_learned_rates() -> None:
    net = mlp(4, 3, hidden=(5,), std=0.5)
    params = adaptable(net, "*")
    first = {n: p for n, p in params.items() if n.startswith("layer0.")}
    rest = {n: p for n, p in params.items() if not n.startswith("layer0.")}
    rate = ByName({"layer0.": Masked(Constant(0.2), first), "": Learned(rest, 0.3, per="layer")})
    learner = RuleLearner(net, Descend(rate, 2), cross_entropy)
    assert set(learner.noise()) == {"0.mask.layer0.rows5"}
    batch = tasks(NETS[0])
    assert learner.check(batch).ok
    assert "mask.layer0.rows5" in learner.observe(batch)
    with pytest.raises(InputError, match="No rate is given for 'head.weight'"):
        RuleLearner(net, Descend(ByName({"layer0.": Constant(0.1)}), 1), cross_entropy)


def test_coadaptation_observes_its_gain_beside_a_layer_called_gain() -> None:
    net = nn.Sequential()
    net.add_module("gain", nn.Linear(4, 4))
    net.add_module("head", nn.Linear(4, WAYS))
    rates = ByName({"gain:": Constant(0.5), "": Constant(0.1)})
    rule = Coadapt(Descend(rates, 2), Scalar(), ["head.weight", "head.bias"])
    learner, batch = RuleLearner(net, rule, cross_entropy), tasks(NETS[0])
    phi = learner.update(pick(batch.support, 0), {})
    assert set(phi) == set(learner.adapts) and not torch.equal(phi["gain.weight"], learner.params()["gain.weight"])
    assert learner.observe(batch)["gain.c"].shape == (3,)


def test_a_gain_that_can_rotate_a_layer_is_allowed_before_a_norm() -> None:
    wormhole(NETS[1].build(), scope="block0.conv.*", chart="diagonal")
    wormhole(NETS[1].build(), scope="block0.conv.*", chart="low_rank")
    with pytest.raises(InputError, match="straight into a norm"):
        wormhole(NETS[1].build(), scope="block0.conv.*", chart="per_layer")
    running = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, WAYS))
    wormhole(running, scope="0.*", norms="running")


def test_mixed_losses_without_weight_change_nothing() -> None:
    nothing = MixLosses([Descend(Constant(0.1), 1)], [0.0])
    learner = RuleLearner(nn.Linear(4, WAYS), nothing, cross_entropy)
    batch = tasks(NETS[0])
    still = maml(learner.head, inner_steps=0)
    torch.testing.assert_close(learner(batch, evaluating=True), still(batch, evaluating=True), **CLOSE)
    assert learner(batch).loss.abs().max() == 0  # the sum of no losses


# Support sets and modes


def test_a_class_without_support_gives_a_number() -> None:
    learner, batch = hypermaml(NETS[0].build(), width=8), tasks(NETS[0])
    y = batch.support.y.clamp(max=WAYS - 2)
    assert learner(batch._replace(support=batch.support._replace(y=y))).loss.isfinite().all()


def test_adapt_switches_dropout_off_and_restores_the_modes() -> None:
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, WAYS))
    learner, support = maml(model), pick(tasks(NETS[0]).support, 0)
    x = torch.randn(6, 4)
    learner.head[0].eval()  # type: ignore[index, union-attr]
    modes = [module.training for module in learner.modules()]
    torch.testing.assert_close(learner.adapt(support)(x), learner.adapt(support)(x), rtol=0, atol=0)
    assert [module.training for module in learner.modules()] == modes


def test_tasks_of_unequal_sizes_have_a_meta_gradient() -> None:
    learner = maml(NETS[0].build())
    small, large = tasks(NETS[0], count=1, shots=1), tasks(NETS[0], count=1, shots=SHOTS + 1, seed=4)
    _, together = learner.meta_gradient([pick(small, 0), pick(large, 0)])
    _, first = learner.meta_gradient(small)
    _, second = learner.meta_gradient(large)
    by_hand = [(a + b) / 2 for a, b in zip(first, second, strict=True)]  # type: ignore[operator]
    torch.testing.assert_close(together, by_hand, **CLOSE)


def test_check_finds_a_kernel_that_is_wrong_on_the_loop_too() -> None:
    """Weight norm's fused kernel on a CPU has a wrong double backward in torch 2.13, vmap or not."""

    class WeightNormed(nn.Linear):
        """It calls the kernel itself, where nothing can put another in its place."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight, _ = torch._weight_norm_interface(self.weight, self.weight[:, :1].exp(), 0)
            return nn.functional.linear(x, weight, self.bias)

    model = nn.Sequential(WeightNormed(4, 4, bias=False), nn.Tanh(), nn.Linear(4, WAYS))
    found = maml(model, inner_lr=0.5).check(tasks(NETS[0]))
    assert "everywhere" in found.modules.values() and "first-order" in str(found)


def test_draws_are_those_of_a_new_generator_whatever_was_drawn_before() -> None:
    """Also in several threads at once."""

    def draw(step: int) -> list[float]:
        return Draws(3, "val", step).uniform("phase", 5).tolist()

    def draw_anew(step: int) -> list[float]:
        place = {
            "key": np.array([3, crc32(b"phase")], dtype=np.uint64),
            "counter": np.array([0, step, 1, 0], np.uint64),
        }
        bits = np.random.Philox(**place).random_raw(5)
        return (((bits >> np.uint64(11)).astype(float) + 0.5) / 2**53).tolist()

    steps = [7, 2**63, 0, 7, 12]
    assert [draw(step) for step in steps] == [draw_anew(step) for step in steps]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, range(500))) == [draw_anew(step) for step in range(500)]


def test_per_task_noise_is_the_same_in_any_batch_and_differs_between_tasks_and_seeds() -> None:
    learner, batch = mtnet(NETS[0].build()), tasks(NETS[0])
    noise = learner.draw(batch)
    for name, value in noise.items():
        assert torch.equal(value[1:], learner.draw(pick(batch, slice(1, 3)))[name])
        assert not torch.equal(value[0], value[1])
        assert not torch.equal(value, learner.draw(batch, seed=1)[name])


# What a forward writes to, and what a loss reads behind the learner's back


class Shrinking(nn.Module):
    """A forward that changes its own weight, as some hand-made normalisations do."""

    def __init__(self, write: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer, self.write = nn.Linear(4, WAYS), write

    def forward(self, x: Tensor) -> Tensor:
        self.write(self.layer.weight)
        return self.layer(x)


def shrink(weight: Tensor) -> None:
    with torch.no_grad():
        weight.mul_(0.9)


def clamp(weight: Tensor) -> None:
    weight.data.clamp_(-0.1, 0.1)


def embedded(x: Tensor) -> Examples:
    return Examples((x > 0).long() + 2 * torch.arange(x.shape[1]), torch.arange(len(x)) % WAYS)


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: maml(Shrinking(shrink)), "layer.weight"),
        (lambda: maml(Shrinking(clamp)), "layer.weight"),
        (lambda: maml(Shrinking(shrink), adapts="*.bias"), "head.layer.weight"),
        (lambda: maml(nn.Sequential(nn.Embedding(8, 4, max_norm=0.1), nn.Flatten(), nn.Linear(16, WAYS))), "0.weight"),
        (
            lambda: anil(nn.Sequential(nn.Embedding(8, 4, max_norm=0.1), nn.Flatten(), nn.Linear(16, WAYS))),
            "body.0.weight",
        ),
    ],
)
def test_a_forward_that_writes_to_a_parameter_is_refused(build: Callable[[], RuleLearner], names: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2 * WAYS, 4)
    learner = build()
    embeds = any(isinstance(part, nn.Embedding) for part in learner.modules())
    support = embedded(x) if embeds else Examples(x, torch.arange(len(x)) % WAYS)
    before = {name: p.clone() for name, p in learner.params().items()}
    with pytest.raises(InputError, match=rf"The forward writes to {names} in place"):
        learner.adapt(support)
    assert all(torch.equal(p, before[name]) for name, p in learner.params().items())


class Decayed(nn.Module):
    """A loss with weight decay on a model that it holds."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(output, y) + sum(p.square().sum() for p in self.model.parameters())


@pytest.mark.parametrize("method", [maml, mtnet, anil, hypermaml])
@pytest.mark.parametrize("held", [False, True])
def test_a_loss_that_reads_the_model_it_was_built_beside_is_refused(
    method: Callable[..., RuleLearner], held: bool
) -> None:
    torch.manual_seed(0)
    net, batch = mlp(4, WAYS, hidden=(5,)), tasks(NETS[0])
    loss = Decayed(net) if held else Decayed(net).forward
    learner = method(net, loss=loss)
    for call in (lambda: learner.adapt(pick(batch.support, 0)), lambda: learner.meta_gradient(batch)):
        with pytest.raises(InputError, match=r"The loss reads .*weight.* of the module that this learner was"):
            call()


def test_a_loss_may_have_parameters_of_its_own_and_take_what_the_forward_returns_beside() -> None:
    torch.manual_seed(0)
    net, batch = mlp(4, WAYS, hidden=(5,)), tasks(NETS[0])
    nn.init.zeros_(net[-1].bias)
    own = nn.Parameter(torch.zeros(WAYS))  # equal to the bias, and not the bias
    learner = maml(net, loss=lambda output, y: cross_entropy(output + own, y))
    learner(batch).loss.mean().backward()
    assert own.grad is not None and own.grad.abs().sum() > 0

    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(4, WAYS, hidden=(5,))

        def forward(self, x: Tensor) -> Tensor:
            decay = torch.stack([p.square().sum() for p in self.net.parameters()]).sum()
            return torch.cat([self.net(x), decay.expand(len(x), 1)], 1)

    def decayed(output: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(output[:, :-1], y) + output[0, -1]

    told = Told()
    learner = maml(told, inner_lr=0.1, inner_steps=1, loss=decayed)
    support = pick(batch.support, 0)
    expected = copy.deepcopy(told)
    grads = torch.autograd.grad(decayed(expected(support.x), support.y), [*expected.parameters()])
    for p, g, mine in zip(expected.parameters(), grads, learner.adapt(support).parameters(), strict=True):
        torch.testing.assert_close(mine, (p - 0.1 * g).detach(), **CLOSE)


def test_truth_values_stay_what_they_are_for_a_loss_of_ones_own() -> None:
    torch.manual_seed(0)
    net, x, y = nn.Linear(4, 1), torch.randn(6, 4), torch.arange(6) % 2 == 0

    def margin(output: Tensor, y: Tensor) -> Tensor:
        return nn.functional.softplus(output[~y].mean() - output[y].mean())

    grads = torch.autograd.grad(margin(net(x), y), [*net.parameters()])
    adapted = maml(net, inner_lr=0.1, loss=margin).adapt(Examples(x, y))
    for p, g, mine in zip(net.parameters(), grads, adapted.parameters(), strict=True):
        torch.testing.assert_close(mine, (p - 0.1 * g).detach(), **CLOSE)
    for loss in ("cross_entropy", nn.CrossEntropyLoss(), partial(nn.functional.cross_entropy, label_smoothing=0.1)):
        learner = maml(nn.Linear(4, 2), loss=loss)
        one, other = (learner.adapt(Examples(x, labels)).weight for labels in (y, y.long()))
        assert torch.equal(one, other)


# Names


def test_parameter_names_that_a_module_dictionary_reserves_are_kept() -> None:
    params = {name: torch.zeros(2) for name in ("values", "keys", "a.values", "weight", "")}
    assert set(dotted_params(parameter_dict(params))) == set(params)


def test_select_takes_patterns_lists_and_predicates() -> None:
    names = ["a.weight", "a.bias", "b.weight"]
    assert select(names, "a.*", "x") == names[:2]
    assert select(names, ["a.bias", "b.*"], "x") == names[1:]
    assert select(names, lambda n: n.endswith("weight"), "x") == [names[0], names[2]]


def test_plain_nets_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mtnet(NETS[1].build())
