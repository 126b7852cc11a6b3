"""Emission, signs, closed forms, curvature, warps and decoders against formulas written out by hand. Float64."""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import NETS, Net, tasks
from quickstudy import (
    METHODS,
    Chain,
    Coadapt,
    Constant,
    Descend,
    Diagonal,
    Engine,
    Examples,
    GainAndShift,
    InputError,
    Learner,
    Masked,
    Objective,
    Params,
    Rescale,
    Rule,
    RuleLearner,
    Scalar,
    Task,
    bayes_hypermaml,
    emit_maml,
    emit_mtnet,
    emit_ridge,
    emit_tnet,
    gated_emission,
    hypermaml,
    leo,
    maml,
    meta_curvature,
    r2d2,
    sampled_sign,
    set_emit,
    tnet,
    warpgrad,
    wormhole,
)
from quickstudy.methods.baseline_pp import Cosine
from quickstudy.methods.emission import find_linear_head
from quickstudy.methods.emit_ridge import first_rate
from quickstudy.models.cells import with_metric
from quickstudy.models.nets import conv_net, linear, mlp
from quickstudy.models.set_hypernet import SetHypernet
from quickstudy.models.split import split_head
from quickstudy.rules.along_path import AlongPath
from quickstudy.rules.criteria import CRITERIA, get_criterion, mse
from quickstudy.rules.damped_newton import DampedNewton
from quickstudy.rules.gated import Gated
from quickstudy.rules.gaussian_emit import divergence_from_standard
from quickstudy.rules.mask import draw_switch
from quickstudy.rules.on_features import OnFeatures
from quickstudy.rules.ridge import Ridge
from quickstudy.rules.set_emit import SetEmit
from quickstudy.rules.sign import SampledSign
from quickstudy.tasks.synthetic.sine import Sine
from quickstudy.types import pick

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
BY_CLASS = ("protonet", "nca", "hypershot")

pytestmark = pytest.mark.usefixtures("double")


def regression_tasks(inputs: int = 1, outputs: int = 1, count: int = 3, loss: str = "mse") -> Task:
    """Linear functions with noise; for binary_cross_entropy whether they are above 0."""
    draw = torch.Generator().manual_seed(3)
    slope = torch.randn(count, inputs, outputs, generator=draw)

    def examples(n: int) -> Examples:
        x = torch.randn(count, n, inputs, generator=draw)
        y = x @ slope + 0.1 * torch.randn(count, n, outputs, generator=draw)
        return Examples(x, (y > 0).to(y.dtype) if loss == "binary_cross_entropy" else y)

    return Task(examples(5), examples(4), torch.arange(count), {})


def rule_of(learner: Learner) -> RuleLearner:
    assert isinstance(learner, RuleLearner)
    return learner


EMITTING = ("set_emit", "emit_maml", "emit_tnet", "emit_mtnet", "emit_ridge", "amortised_gain", "gated_emission")
FOR_NUMBERS = (*EMITTING, "sampled_sign", "r2d2", "meta_curvature", "warpgrad")


@pytest.mark.parametrize("loss", ["mse", "binary_cross_entropy"])
@pytest.mark.parametrize("name", FOR_NUMBERS)
@pytest.mark.parametrize(
    "build", [lambda: mlp(1, 1, hidden=(4,), std=0.5), lambda: linear(1, 1)], ids=["mlp", "linear"]
)
def test_regression_is_the_same_under_vmap_and_on_the_loop(
    name: str, loss: str, build: Callable[[], nn.Module]
) -> None:
    learner, batch = METHODS[name](build(), loss=loss), regression_tasks(loss=loss)
    found = []
    for learner.engine in (Engine("loop"), Engine("vmap")):
        outcome, gradients = learner.meta_gradient(batch)
        assert learner.engine.backend == learner.engine.settings.backend
        found.append([outcome.loss, outcome.output, *(g for g in gradients if g is not None)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["bayes_hypermaml", "leo"])
def test_what_writes_a_row_for_each_class_refuses_a_regression(name: str) -> None:
    with pytest.raises(InputError, match="compares no classes.*set_emit"):
        METHODS[name](mlp(1, 1), loss="mse")


@pytest.mark.parametrize("name", ["bayes_hypermaml", "leo", "protonet", "nca", "hypershot"])
@pytest.mark.parametrize("loss", ["mse", "binary_cross_entropy"])
def test_a_loss_is_judged_alike_by_its_name_and_as_a_function(name: str, loss: str) -> None:
    for given in (loss, CRITERIA[loss]):
        with pytest.raises(InputError, match=f"the loss '{loss}'"):
            METHODS[name](mlp(4, 3), *([3] if name in BY_CLASS else []), loss=given)


@pytest.mark.parametrize("loss", list(CRITERIA))
@pytest.mark.parametrize("name", ["r2d2", "set_emit", "emit_ridge", "emit_maml"])
def test_a_loss_makes_one_learner_by_its_name_and_as_a_function(name: str, loss: str) -> None:
    made = []
    for given in (loss, CRITERIA[loss]):
        torch.manual_seed(0)
        made.append(METHODS[name](mlp(4, 3), loss=given).state_dict())
    torch.testing.assert_close(made[1], made[0], rtol=0, atol=0)


@pytest.mark.parametrize("loss", ["cross_entropy", "class_sum_cross_entropy", "one_hot_mse"])
@pytest.mark.parametrize("where", ["loss", "inner_loss"])
def test_every_loss_of_classes_runs_under_vmap(loss: str, where: str) -> None:
    net = NETS[0]
    learner, batch = maml(net.build(), **{where: loss}), tasks(net)
    found = []
    for learner.engine in (Engine("loop"), Engine("vmap")):
        outcome, gradients = learner.meta_gradient(batch)
        assert learner.engine.backend == learner.engine.settings.backend
        found.append([outcome.loss, outcome.output, *(g for g in gradients if g is not None)])
    torch.testing.assert_close(found[1], found[0], **CLOSE)


# Emission


def test_the_set_hypernetwork_reads_the_mean_over_the_support_set() -> None:
    params = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
    network = SetHypernet(params, inputs=4, outputs=1, width=5)
    x, guess, y = torch.randn(6, 4), torch.randn(6, 1), torch.randn(6)
    summary = torch.stack([network.psi(torch.cat([x[i], guess[i], y[i : i + 1]])) for i in range(6)]).mean(0)
    numbers = network.rho(summary)
    emitted = network(x, guess, y)
    torch.testing.assert_close(emitted, {"a.weight": numbers[:6].reshape(2, 3), "a.bias": numbers[6:]}, **CLOSE)


def test_examples_given_twice_emit_what_they_emit_once() -> None:
    learner, batch = set_emit(mlp(1, 1, hidden=(4,), std=0.5), loss="mse"), regression_tasks()
    twice = batch._replace(support=Examples(*(torch.cat([part, part], 1) for part in batch.support)))
    torch.testing.assert_close(learner(twice).output, learner(batch).output, **CLOSE)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_features_are_the_output_of_the_body(net: Net) -> None:
    """Also where the head has a T, which the features must not contain."""
    learner = rule_of(emit_tnet(net.build(), summary="class"))
    with torch.no_grad():
        for name, p in learner.head.named_parameters():
            if name.endswith("metric"):
                p.add_(0.1 * torch.randn_like(p))
    assert isinstance(learner.rule, OnFeatures)
    support = pick(tasks(net).support, 0)
    read = learner.rule.with_features(learner.params(), learner.objective(support, {})).support.x
    body, _ = split_head(learner.head)
    torch.testing.assert_close(read, body(support.x), **CLOSE)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_emission_by_class_is_hypermaml(net: Net) -> None:
    """With the same hypernetwork: outputs and the gradients of all parameters."""
    by_class, known, batch = set_emit(net.build(), width=6), hypermaml(net.build(), width=6), tasks(net)
    body, head = split_head(rule_of(by_class).head)
    with torch.no_grad():
        rule_of(known).body.load_state_dict(body.state_dict())  # type: ignore[union-attr]
        rule_of(known).head.load_state_dict(head.state_dict())
        for mine, theirs in zip(rule_of(by_class).rule.parameters(), rule_of(known).rule.parameters(), strict=True):
            theirs.copy_(mine)
    mine, theirs = by_class.meta_gradient(batch), known.meta_gradient(batch)
    torch.testing.assert_close(mine[0], theirs[0], **CLOSE)
    total = [sum(float(g.square().sum()) for g in found[1] if g is not None) for found in (mine, theirs)]
    assert total[0] == pytest.approx(total[1], rel=1e-9)


class Pooled(nn.Module):
    """A linear layer at every place of a sequence, and the mean over the places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(x)).mean(1))


class FlattenedLate(Pooled):
    """As `Pooled`, with the places side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(x)).flatten(1))


class OfTwo(Pooled):
    """Reads two tensors of an example; the first layer reads the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(2, 5)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(a)) + self.second(b))


@pytest.mark.parametrize("name", ["set_emit", "emit_ridge", "amortised_gain"])
@pytest.mark.parametrize("build", [Pooled, FlattenedLate, OfTwo])
def test_an_emission_reads_features_where_an_input_is_no_single_vector(name: str, build: type[nn.Module]) -> None:
    """Sequences and several tensors: every example changes what is emitted for the others."""
    one = (lambda n: (torch.randn(n, 4), torch.randn(n, 2))) if build is OfTwo else lambda n: torch.randn(n, 6, 4)
    more = {"scope": "head.*"} if name == "amortised_gain" else {"summary": "set"}
    learner = rule_of(METHODS[name](build(), head="head", **more))
    support, query = Examples(one(6), torch.arange(6) % 3), one(2)
    assert learner.predict(learner.update(support, {}), query).shape == (2, 3)
    reading = [part for part in learner.rule.modules() if isinstance(part, SetHypernet)]
    assert reading[0].psi[0].in_features == (30 if build is FlattenedLate else 5) + 2 * 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (lambda: mlp(4, 3, hidden=(5,)), 4),
        (lambda: mlp((2, 2), 3, hidden=(5,)), 4),
        (lambda: with_metric(mlp(4, 3, hidden=(5,))), 4),
        (lambda: nn.Linear(4, 3), 4),
        (lambda: conv_net((1, 4, 4), 3, filters=3, blocks=2), None),
    ],
    ids=["mlp", "flattened", "cells", "linear", "conv"],
)
def test_an_emission_reads_inputs_that_are_one_vector(build: Callable[[], nn.Module], inputs: int | None) -> None:
    assert find_linear_head(build()).flat_inputs == inputs


@pytest.mark.parametrize(
    "head",
    [lambda: Cosine(5, 3, 10.0), lambda: nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))],
    ids=["cosine", "weight_norm"],
)
@pytest.mark.parametrize("name", ["set_emit", "emit_ridge", "gated_emission", "r2d2", "leo", "amortised_gain"])
@pytest.mark.filterwarnings("ignore::quickstudy.methods.mtnet.SharedLayersWarning")
def test_a_head_that_is_not_linear_in_its_own_weight_is_refused(name: str, head: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(OrderedDict([("first", nn.Linear(4, 5)), ("act", nn.ReLU()), ("head", head())]))
    with pytest.raises(InputError, match=r"a linear head, W x \+ b, and 'head' is a"):
        METHODS[name](model)


def test_the_step_after_an_emission_begins_where_it_ends() -> None:
    model, batch = mlp(1, 1, hidden=(4,), std=0.5), regression_tasks()
    together = rule_of(emit_maml(model, loss="mse", inner_lr=0.3))
    support = pick(batch.support, 0)
    objective = together.objective(support, {})
    emit, step = together.rule.rules  # type: ignore[union-attr,misc]
    start = emit(together.params(), objective)
    gradient = torch.func.grad(objective.loss)(start)
    by_hand = {name: start[name] - 0.3 * gradient[name] for name in start}
    assert isinstance(step, Descend)
    torch.testing.assert_close(together.update(support, {}), by_hand, **CLOSE)


def test_an_emission_refuses_what_it_cannot_write() -> None:
    with pytest.raises(InputError, match="'set' or 'class', not 'row'"):
        set_emit(mlp(1, 1), loss="mse", summary="row")
    with pytest.raises(InputError, match="compares no classes. Use summary='set'"):
        set_emit(mlp(1, 1), loss="mse", summary="class")
    with pytest.raises(InputError, match="none of these adapts.*summary='set'"):
        set_emit(mlp(4, 3), adapts="layer0.*")
    with pytest.raises(InputError, match=r"a linear head, W x \+ b, and '1' is a ReLU"):
        set_emit(nn.Sequential(mlp(4, 3), nn.ReLU()), head="1")
    network = SetHypernet({"w": torch.zeros(2)}, 1, 1)
    with pytest.raises(InputError, match="writes w, which does not adapt. What adapts is: weight, bias"):
        RuleLearner(nn.Linear(1, 1), SetEmit(network, ["w"]), nn.functional.mse_loss)


def test_an_emission_learns_sine_waves() -> None:
    """After 300 steps of 8 tasks the error is at most three quarters of that of the untrained learner."""
    torch.manual_seed(0)
    learner = set_emit(mlp(1, 1, hidden=(20, 20), std=None), loss="mse").float()
    source, test = Sine(shots=10).source("train", size=8), Sine(shots=10).source("test", size=100)(0)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    with torch.no_grad():
        before = float(learner(test).loss.mean())
    for step in range(300):
        _, gradients = learner.meta_gradient(source(step))
        for p, g in zip(learner.meta_params().values(), gradients, strict=True):
            p.grad = g
        optimizer.step()
    with torch.no_grad():
        assert float(learner(test).loss.mean()) < 0.75 * before


# Through a rate


@pytest.mark.parametrize("draw", ["hard", "soft", "expected"])
def test_a_gated_step_is_a_step_at_that_rate(draw: str) -> None:
    model = mlp(4, 3, hidden=(5,), std=0.5)
    learner = rule_of(maml(model))
    params, support = learner.params(), pick(tasks(NETS[0]).support, 0)
    rate = Masked(Constant(0.3), params, draw=draw)
    gated = Gated(Descend(Constant(1.0), 1), rate)
    noise = {name: torch.rand(shape) for name, shape in rate.noise(params).items()}
    assert set(gated.noise(params)) == {f"rate.{name}" for name in noise}
    of_step = learner.objective(support, noise)
    of_gate = learner.objective(support, {f"rate.{name}": value for name, value in noise.items()})
    torch.testing.assert_close(gated(params, of_gate), Descend(rate, 1)(params, of_step), **CLOSE)


def test_an_emission_writes_the_rows_only_whose_mask_is_on() -> None:
    learner = rule_of(gated_emission(mlp(1, 1, hidden=(40,), std=0.5), loss="mse"))
    support, theta = pick(regression_tasks().support, 0), learner.params()
    noise = {name: torch.rand(shape) for name, shape in learner.noise().items()}
    phi = learner.update(support, noise)
    open_rows = noise["rate.mask.layer0.rows40"] > 0.5  # at the logit 0
    moved = (phi["layer0.weight"] != theta["layer0.weight"]).any(1)
    assert torch.equal(moved, open_rows) and torch.equal(phi["layer0.bias"] != theta["layer0.bias"], open_rows)
    assert 5 < int(open_rows.sum()) < 35


def test_what_stands_around_a_rule_keeps_the_losses_that_the_rule_is_trained_by() -> None:
    """A rule with two endpoints, inside another rule: both are trained, and the last one is where the rule ends."""
    theta = {"w": torch.tensor([3.0, -1.0])}
    nothing = Examples(torch.zeros(1, 1), torch.zeros(1, 1))
    task = Objective(lambda p: p["w"], lambda out, y: 0.5 * (out - 1).square().sum(), nothing)
    path = AlongPath(Constant(0.1), 2)
    around: list[Rule] = [
        Gated(path, Constant(0.3)),
        Rescale(path, Diagonal(), ["w"]),
        Coadapt(path, Scalar(), ["w"]),
        GainAndShift(path, Scalar(), ["w"]),
        SampledSign(path, ["w"], start=1.0, draw="expected"),
        OnFeatures(path, [], 1),
    ]
    for rule in around:
        (first, early), (second, last) = rule.endpoints(theta, task)
        assert (first, second) == (0.5, 0.5)
        torch.testing.assert_close(last, rule(theta, task), **CLOSE)
        assert not torch.allclose(early["w"], last["w"])
    gated = around[0].endpoints(theta, task)[0][1]["w"]
    torch.testing.assert_close(gated, theta["w"] - 0.3 * 0.1 * (theta["w"] - 1), rtol=1e-6, atol=0)


def test_features_are_refused_where_the_parameters_are_coordinates() -> None:
    """They would be the outputs. Also where the coordinates have the names of the parameters, and deeper inside."""
    model, head = nn.Linear(2, 1), ["weight", "bias"]
    reading = Chain([OnFeatures(DampedNewton(head), head, 2)])
    for rule in (
        Rescale(reading, Diagonal(), head),
        Rescale(reading, Scalar(), head),
        Coadapt(reading, Scalar(), head),
        GainAndShift(reading, Scalar(), head),
        SampledSign(reading, head),
    ):
        with pytest.raises(InputError, match=f"inside `{type(rule).__name__}`.*Put it outside"):
            RuleLearner(model, rule, mse)
    RuleLearner(model, OnFeatures(Rescale(Descend(Constant(0.1), 1), Scalar(), head), head, 2), mse)


@pytest.mark.parametrize(
    ("summary", "masked"), [("set", {"layer0.rows5", "head.rows3"}), ("class", {"head.rows3"})], ids=["set", "class"]
)
def test_there_are_masks_for_what_is_written_only(summary: str, masked: set[str]) -> None:
    learner = rule_of(gated_emission(mlp(4, 3, hidden=(5,), std=0.5), summary=summary))
    assert {name.rpartition("mask.")[2] for name in learner.noise()} == masked
    _, gradients = learner.meta_gradient(tasks(NETS[0]))
    trained = dict(zip(learner.meta_params(), gradients, strict=True))
    assert all(g is not None for name, g in trained.items() if "logits" in name)


# Signs


def test_the_expected_sign_is_the_tanh_of_half_the_logit() -> None:
    """So a step of t at the rate 4 gamma is Wormhole's at gamma."""
    net, batch = NETS[0], tasks(NETS[0])
    torch.manual_seed(0)
    expected = sampled_sign(net.build(), draw="expected", start=1.0, gain_lr=2.0, gain_steps=3)
    torch.manual_seed(0)
    known = wormhole(net.build(), chart="tanh", start=0.5, gain_lr=0.5, gain_steps=3)
    for mine, theirs in zip(expected.meta_gradient(batch), known.meta_gradient(batch), strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)


def test_a_sign_is_minus_one_or_one_and_the_steps_flip_a_wrong_one() -> None:
    """y = -x with theta = 1: wherever the draw begins, the sign that ends the steps is -1."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    learner = rule_of(sampled_sign(model, loss="mse", gain_lr=1.0, gain_steps=20, inner_steps=0))
    x = torch.linspace(-1, 1, 8)[:, None]
    for u in (0.05, 0.3, 0.5001, 0.8, 0.95):
        noise = {"0.sign": torch.tensor(u)}
        phi = learner.update(Examples(x, -x), noise)
        torch.testing.assert_close(phi["weight"], torch.full((1, 1), -1.0), **CLOSE)
    assert set(learner.noise()) == {"0.sign"}


def test_a_switch_is_on_with_the_probability_of_its_logit() -> None:
    u = (torch.arange(10000) + 0.5) / 10000
    drawn = draw_switch(torch.tensor(0.7), u, 1.0, "hard")
    assert drawn.mean().item() == pytest.approx(torch.tensor(0.7).sigmoid().item(), abs=1e-3)
    assert set(drawn.tolist()) == {0.0, 1.0}


def test_unknown_draws_are_refused() -> None:
    for build in (sampled_sign, emit_mtnet, gated_emission):
        with pytest.raises(InputError, match="'hard', 'soft' or 'expected', not 'maybe'"):
            build(mlp(4, 3), draw="maybe")


def test_an_emitted_gain_of_zeros_is_a_gain_that_takes_no_step() -> None:
    net, batch = NETS[1], tasks(NETS[1])
    torch.manual_seed(0)
    amortised = METHODS["amortised_gain"](net.build())
    torch.manual_seed(0)
    still = wormhole(net.build(), gain_steps=0)
    with torch.no_grad():
        for p in rule_of(amortised).rule.parameters():
            p.zero_()
    torch.testing.assert_close(amortised(batch), still(batch), **CLOSE)


# Closed forms


@pytest.mark.parametrize("n", [3, 30])
@pytest.mark.parametrize("adapting", [("weight", "bias"), ("weight",), ("bias",)], ids="-".join)
def test_the_ridge_solves_the_normal_equations(n: int, adapting: tuple[str, ...]) -> None:
    """With fewer examples than features and with more; the bias is a feature that is 1 everywhere."""
    head = nn.Linear(6, 2)
    for name, p in head.named_parameters():
        p.requires_grad_(name in adapting)
    learner = rule_of(r2d2(head, loss="mse", ridge=0.7, scale=3.0))
    with torch.no_grad():
        dict(learner.rule.named_parameters())["offset"].fill_(0.4)
    z, y = torch.randn(n, 6), torch.randn(n, 2)
    phi = learner.update(Examples(z, y), {})
    columns = {"weight": z, "bias": torch.ones(n, 1)}
    design = torch.cat([columns[name] for name in adapting], 1)
    at_prior = (0 if "weight" in adapting else z @ head.weight.T) + (0 if "bias" in adapting else head.bias)
    rows = torch.linalg.solve(design.T @ design + 0.7 * torch.eye(design.shape[1]), design.T @ (3 * y - at_prior))
    if "weight" in adapting:
        torch.testing.assert_close(phi["weight"], rows[:6].T, **CLOSE)
    if "bias" in adapting:
        torch.testing.assert_close(phi["bias"], rows[-1] + 0.4, **CLOSE)


def test_a_ridge_fits_targets_that_are_far_from_zero() -> None:
    """y = z + 100: without a column of ones the features would have to carry the 100."""
    z = torch.randn(20, 3)
    y = z[:, :1] + 100
    learner = rule_of(r2d2(nn.Linear(3, 1), loss="mse", ridge=1e-6))
    torch.testing.assert_close(learner.predict(learner.update(Examples(z, y), {}), z), y, rtol=0, atol=1e-3)


def test_a_ridge_for_logits_fits_signs() -> None:
    """Of targets 0 and 1: the outputs are on both sides of 0, and exchanging the two classes turns their sign."""
    z = torch.randn(6, 8)
    y = torch.tensor([0.0, 1, 0, 0, 1, 0])[:, None]
    learner = rule_of(r2d2(nn.Linear(8, 1), loss="binary_cross_entropy", ridge=0.1))
    output = learner.predict(learner.update(Examples(z, y), {}), z)
    other = learner.predict(learner.update(Examples(z, 1 - y), {}), z)
    assert torch.equal(output > 0, y > 0.5)
    torch.testing.assert_close(other, -output, **CLOSE)


@pytest.mark.parametrize(
    "build",
    [lambda: Ridge(2, ridge=1e-3), lambda: DampedNewton(["weight", "bias"], damping=1e-3)],
    ids=["ridge", "step"],
)
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_a_closed_form_is_solved_in_double_precision(build: Callable[[], Rule], kind: torch.dtype) -> None:
    """Features that are large and nearly the same in every example give the result of the same numbers as doubles."""
    z, y, head = (1000 + torch.randn(12, 4)).to(kind), torch.randn(12, 2).to(kind), nn.Linear(4, 2).to(kind)
    with torch.no_grad():
        for p in head.parameters():
            p.zero_()  # so that the outputs at the start are not rounded

    def solve(dtype: torch.dtype) -> Params:
        theta = {name: p.to(dtype) for name, p in head.named_parameters()}
        support = Examples(z.to(dtype), y.to(dtype))
        of_head = Objective(lambda p: nn.functional.linear(support.x, p["weight"], p["bias"]), mse, support)
        return build()(theta, of_head)

    exact = {name: p.to(kind) for name, p in solve(torch.float64).items()}
    torch.testing.assert_close(solve(kind), exact, rtol=1e-2 if kind == torch.bfloat16 else 1e-5, atol=0)


def test_a_strong_ridge_stays_at_its_prior() -> None:
    z, y = torch.randn(4, 6), torch.randn(4, 2)
    for prior in ("zero", "learned"):
        learner = rule_of(r2d2(nn.Linear(6, 2), loss="mse", ridge=1e12, prior=prior))
        phi, theta = learner.update(Examples(z, y), {}), learner.params()
        wanted = theta["weight"] if prior == "learned" else torch.zeros(2, 6)
        torch.testing.assert_close(phi["weight"], wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("fixed", [(), ("bias",)], ids=["all", "weight"])
@pytest.mark.parametrize("prior", ["zero", "learned"])
def test_a_weak_ridge_fits_the_support_set_from_any_prior(prior: str, fixed: tuple[str, ...]) -> None:
    z, y, labels = torch.randn(4, 6), torch.randn(4, 2), torch.tensor([1, 0, 1, 1])
    head = nn.Linear(6, 2)
    for name in fixed:
        head.get_parameter(name).requires_grad_(False)
    learner = rule_of(r2d2(head, loss="mse", ridge=1e-10, prior=prior))
    torch.testing.assert_close(learner.predict(learner.update(Examples(z, y), {}), z), y, rtol=0, atol=1e-6)
    learner, wanted = rule_of(r2d2(head, ridge=1e-10, prior=prior)), 10 * torch.eye(2)[labels]
    torch.testing.assert_close(learner.predict(learner.update(Examples(z, labels), {}), z), wanted, rtol=0, atol=1e-6)


OF_TORCH = {
    "mse": [nn.MSELoss(), F.mse_loss, partial(F.mse_loss, reduction="mean")],
    "binary_cross_entropy": [nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits],
    "cross_entropy": [nn.CrossEntropyLoss(), F.cross_entropy],
}


@pytest.mark.parametrize(("ours", "of_torch"), [(ours, one) for ours, several in OF_TORCH.items() for one in several])
@pytest.mark.parametrize("name", FOR_NUMBERS)
def test_a_loss_of_torch_is_taken_for_what_it_is(name: str, ours: str, of_torch: Any) -> None:
    """What a method decides by its loss, it decides alike for ours and for torch's."""
    if ours == "cross_entropy":
        net, batch = NETS[0].build, tasks(NETS[0])
    else:
        net, batch = (lambda: mlp(1, 1, hidden=(4,), std=0.5)), regression_tasks(loss=ours)
    losses = []
    for loss in (ours, of_torch):
        torch.manual_seed(0)
        losses.append(METHODS[name](net(), loss=loss)(batch).loss)
    assert torch.equal(*losses)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.HuberLoss(), F.l1_loss, nn.BCEWithLogitsLoss()])
def test_a_loss_of_numbers_is_refused_where_classes_are_read(loss: Any) -> None:
    for name in ("leo", "bayes_hypermaml"):
        with pytest.raises(InputError, match="compares no classes"):
            METHODS[name](nn.Linear(6, 2), loss=loss)
    with pytest.raises(InputError, match="This method compares classes"):
        METHODS["protonet"](nn.Linear(6, 2), 2, loss=loss)
    with pytest.raises(InputError, match="The loss is the class MSELoss itself; give a loss, such as MSELoss()"):
        maml(nn.Linear(6, 2), loss=nn.MSELoss)  # type: ignore[arg-type]


def test_a_ridge_refuses_what_does_not_exist() -> None:
    with pytest.raises(InputError, match="`ridge` was 0"):
        r2d2(nn.Linear(6, 2), ridge=0.0)
    with pytest.raises(InputError, match="'zero' or 'learned', not 'none'"):
        r2d2(nn.Linear(6, 2), prior="none")
    with pytest.raises(InputError, match="'given' or 'signs', not 'ranks'"):
        Ridge(2, targets="ranks")


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("adapting", [("weight", "bias"), ("weight",), ("bias",)], ids="-".join)
def test_a_damped_step_on_a_squared_error_is_the_ridge_towards_its_start(
    outputs: int, adapting: tuple[str, ...]
) -> None:
    z, y, head = torch.randn(4, 6), torch.randn(4, outputs), nn.Linear(6, outputs)
    for name, p in head.named_parameters():
        p.requires_grad_(name in adapting)
    ridge = rule_of(r2d2(head, loss="mse", ridge=0.7, prior="learned"))
    step = RuleLearner(head, DampedNewton(adapting, damping=0.7, rate=first_rate("mse", outputs)), mse)
    torch.testing.assert_close(step.update(Examples(z, y), {}), ridge.update(Examples(z, y), {}), **CLOSE)


@pytest.mark.parametrize("name", ["cross_entropy", "class_sum_cross_entropy", "one_hot_mse"])
def test_the_first_rate_undoes_the_reduction_of_the_support_loss(name: str) -> None:
    """Ten times the gradient of the sum over the examples, of losses that are sums over the outputs."""
    f, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])

    def total(f: Tensor) -> Tensor:
        if name == "one_hot_mse":
            return (f.sigmoid() - nn.functional.one_hot(y, 3)).square().sum()
        return nn.functional.cross_entropy(f, y, reduction="sum")

    wanted = torch.func.grad(total)(f)
    slope = torch.func.grad(lambda f: len(y) * get_criterion(name)(f, y))(f)
    torch.testing.assert_close(first_rate(name, 3) * slope, 10 * wanted, **CLOSE)


def test_the_first_rate_is_that_of_the_support_loss() -> None:
    learner = rule_of(emit_ridge(mlp(4, 3, hidden=(5,)), loss="cross_entropy", inner_loss="class_sum_cross_entropy"))
    rates = [p for name, p in learner.rule.named_parameters() if name.endswith(".rate")]
    torch.testing.assert_close(rates, [torch.tensor(10 / 3)], rtol=1e-6, atol=0)


def test_the_closed_step_moves_a_bias_alone() -> None:
    """The bias goes to the mean of what is left, shrunk by the damping."""
    learner = rule_of(emit_ridge(mlp(1, 1, hidden=(4,), std=0.5), loss="mse", adapts="head.bias", enhance=False))
    support = pick(regression_tasks().support, 0)
    emit = learner.rule.rules[0]  # type: ignore[union-attr,index]
    start = emit(learner.params(), learner.objective(support, {}))
    left = (support.y - learner.predict(start, support.x)).sum() / (len(support.y) + 1)
    torch.testing.assert_close(learner.update(support, {})["head.bias"], start["head.bias"] + left, **CLOSE)


def test_a_damped_step_on_classes_goes_along_the_kernel_of_the_features() -> None:
    """The bias is a feature that is 1 everywhere, and the gradient in the outputs is p - y."""
    support, head = pick(tasks(NETS[0]).support, 0), nn.Linear(4, 3)
    learner = RuleLearner(head, DampedNewton(["weight", "bias"], damping=0.7, rate=0.2), nn.functional.cross_entropy)
    z = torch.cat([support.x, torch.ones(len(support.x), 1)], 1)
    slope = head(support.x).softmax(-1) - nn.functional.one_hot(support.y, 3)
    rows = 0.2 * z.T @ torch.linalg.inv(z @ z.T + 0.7 * torch.eye(len(z))) @ slope
    phi = learner.update(support, {})
    torch.testing.assert_close(phi["weight"], head.weight - rows[:4].T, **CLOSE)
    torch.testing.assert_close(phi["bias"], head.bias - rows[4], **CLOSE)


def test_the_closed_step_after_an_emission_reads_the_features_of_the_emitted_net() -> None:
    """Written out: emit all layers, compute the features anew, and solve."""
    learner, batch = rule_of(emit_ridge(mlp(1, 1, hidden=(4,), std=0.5), loss="mse")), regression_tasks()
    support = pick(batch.support, 0)
    emit, after = learner.rule.rules  # type: ignore[union-attr,misc]
    objective = learner.objective(support, {})
    start = emit(learner.params(), objective)
    features = (support.x @ start["layer0.weight"].T + start["layer0.bias"]).relu()
    z = torch.cat([features, torch.ones(len(features), 1)], 1)
    f = features @ start["head.weight"].T + start["head.bias"]
    rows = 0.5 * z.T @ torch.linalg.inv(z @ z.T + torch.eye(len(z))) @ (2 * (f - support.y))
    phi = learner.update(support, {})
    assert isinstance(after, OnFeatures)
    torch.testing.assert_close(phi["head.weight"], start["head.weight"] - rows[:4].T, **CLOSE)
    torch.testing.assert_close(phi["head.bias"], start["head.bias"] - rows[4], **CLOSE)
    torch.testing.assert_close(phi["layer0.weight"], start["layer0.weight"], rtol=0, atol=0)


def test_a_damped_step_refuses_what_does_not_exist() -> None:
    with pytest.raises(InputError, match="`damping` was 0"):
        emit_ridge(mlp(4, 3), damping=0.0)
    with pytest.raises(InputError, match="moves head.weight, head.bias, which does not adapt"):
        emit_ridge(mlp(1, 1), loss="mse", adapts="layer0.*")


# Curvature and warps


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_curvature_of_the_identity_is_maml(net: Net) -> None:
    torch.manual_seed(0)
    curved = meta_curvature(net.build(), inner_steps=2)
    torch.manual_seed(0)
    plain = maml(net.build(), inner_steps=2)
    torch.testing.assert_close(curved(tasks(net)), plain(tasks(net)), **CLOSE)


@pytest.mark.parametrize("build", [lambda: nn.Linear(3, 2), lambda: nn.Conv2d(3, 2, 3)], ids=["linear", "conv"])
def test_curvature_is_a_kronecker_product(build: Callable[[], nn.Module]) -> None:
    layer = build()
    rule = rule_of(meta_curvature(layer)).rule
    matrices = dict(rule.named_parameters())
    with torch.no_grad():
        for p in matrices.values():
            p.add_(torch.randn_like(p))
    weight = dict(layer.named_parameters())["weight"]
    g = torch.randn_like(weight)
    o, i, f = (matrices[f"matrices.weight/{axis}"] for axis in "oif")
    curved = rule.curve({"weight": g})["weight"]  # type: ignore[operator]
    torch.testing.assert_close(curved.flatten(), torch.kron(torch.kron(o, i), f) @ g.flatten(), **CLOSE)


def test_a_tnet_of_one_layer_is_a_curvature_of_its_product() -> None:
    """M_o = T T^T on the parameter T W, without a bias."""
    layer, T, support = nn.Linear(4, 3, bias=False), torch.randn(3, 3), pick(tasks(NETS[0]).support, 0)
    cell = rule_of(tnet(layer, inner_lr=0.3))
    product = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        dict(cell.head.named_parameters())["metric"].copy_(T)
        product.weight.copy_(T @ layer.weight)
    curved = rule_of(meta_curvature(product, inner_lr=0.3))
    with torch.no_grad():
        dict(curved.rule.named_parameters())["matrices.weight/o"].copy_(T @ T.T)
    moved = curved.update(support, {})["weight"]
    torch.testing.assert_close(T @ cell.update(support, {})["weight"], moved, **CLOSE)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_a_tnet_is_warpgrad_with_linear_warps_and_one_step(net: Net) -> None:
    """The same model, rule and loss: the same gradient of T, W and b. A T that is not the identity."""
    torch.manual_seed(0)
    warped = warpgrad(net.build(), units=0, inner_steps=1)
    torch.manual_seed(0)
    known = tnet(net.build(), inner_steps=1)
    with torch.no_grad():
        for p, q in zip(warped.parameters(), known.parameters(), strict=True):
            p.add_(0.1 * torch.randn_like(p))
            q.copy_(p)
    (mine, own), (theirs, other) = warped.meta_gradient(tasks(net)), known.meta_gradient(tasks(net))
    torch.testing.assert_close(mine, theirs, **CLOSE)
    assert warped.meta_params().keys() == known.meta_params().keys()
    torch.testing.assert_close(own, other, **CLOSE)


@pytest.mark.parametrize("net", NETS[:2], ids=lambda net: net.name)
def test_a_new_warp_is_the_identity_and_then_bends(net: Net) -> None:
    torch.manual_seed(0)
    warped = warpgrad(net.build(), units=4)
    torch.manual_seed(0)
    plain = maml(net.build(), inner_steps=0)
    x = tasks(net).query.x[0]
    torch.testing.assert_close(warped.predict(rule_of(warped).params(), x), plain.predict({}, x), **CLOSE)
    bent = [p for name, p in warped.named_parameters() if name.endswith("warp_out")]
    assert len(bent) == len([n for n in warped.meta_params() if n.endswith("metric")])
    with torch.no_grad():
        bent[0].add_(1.0)
    assert not torch.allclose(warped.predict(rule_of(warped).params(), x), plain.predict({}, x))


def test_a_path_is_trained_one_step_ahead_of_its_points() -> None:
    """Two steps at the rate .1 on 1/2 |theta - 1|^2, which is also the query loss: theta is trained by the first."""
    theta = torch.tensor([3.0], requires_grad=True)
    nothing = Examples(torch.zeros(1, 1), torch.zeros(1, 1))
    bowl = Objective(lambda p: p["a"], lambda out, y: 0.5 * (out - 1).square().sum(), nothing)
    ends = AlongPath(Constant(0.1), 2).endpoints({"a": theta}, bowl)
    assert [weight for weight, _ in ends] == [0.5, 0.5]
    values = [phi["a"].detach() - 1 for _, phi in ends]
    torch.testing.assert_close(values, [torch.tensor([1.8]), torch.tensor([1.62])], rtol=0, atol=1e-6)
    total = torch.stack([weight * bowl.loss(phi) for weight, phi in ends]).sum()
    (gradient,) = torch.autograd.grad(total, theta)
    torch.testing.assert_close(gradient, torch.tensor([0.5 * 0.9**2 * 2.0]), rtol=0, atol=1e-6)


def test_warps_that_do_not_exist_and_norms_of_each_step_are_refused() -> None:
    with pytest.raises(InputError, match="`units` was -1"):
        warpgrad(mlp(4, 3), units=-1)
    with pytest.raises(InputError, match="'per_step', but WarpGrad"):
        warpgrad(NETS[1].build(), norms="per_step")


# Distributions and decoders


def same_hypernetworks(bayes: RuleLearner, known: RuleLearner) -> None:
    """Give HyperMAML the body, the head and the hypernetwork of the mean."""
    with torch.no_grad():
        known.body.load_state_dict(bayes.body.state_dict())  # type: ignore[union-attr]
        known.head.load_state_dict(bayes.head.state_dict())
        mean: nn.Module = bayes.rule.mean  # type: ignore[assignment]
        for p, q in zip(mean.parameters(), known.rule.parameters(), strict=True):
            q.copy_(p)


@pytest.mark.parametrize("net", NETS[:2], ids=lambda net: net.name)
def test_without_spread_and_divergence_bayes_is_hypermaml(net: Net) -> None:
    bayes = rule_of(bayes_hypermaml(net.build(), log_variance=-math.inf, kl_weight=0.0, width=6))
    known = rule_of(hypermaml(net.build(), width=6))
    same_hypernetworks(bayes, known)
    batch = tasks(net)
    torch.testing.assert_close(bayes(batch, evaluating=True), known(batch, evaluating=True), **CLOSE)


def test_evaluation_takes_the_mean_and_training_draws_around_it() -> None:
    """The draws of ten thousand uniform numbers have the emitted mean and deviation."""
    learner = rule_of(bayes_hypermaml(nn.Linear(4, 3), width=6, draws=10000))
    support = pick(tasks(NETS[0]).support, 0)
    mean, log_variance = learner.rule.posterior(learner.params(), learner.objective(support, {}))  # type: ignore[operator]
    noise = {name: torch.rand(shape) for name, shape in learner.noise().items()}
    drawn = torch.stack([phi["weight"] for phi in learner.rule.sample(mean, log_variance, noise)])  # type: ignore[operator]
    sigma = (0.5 * log_variance["weight"]).exp()
    assert ((drawn.mean(0) - mean["weight"]).abs() < 5 * sigma / 100).all()
    torch.testing.assert_close(drawn.std(0), sigma, rtol=0.05, atol=0)
    torch.testing.assert_close(learner.update(support, {}, evaluating=True), mean, rtol=0, atol=0)


def test_the_divergence_is_torchs() -> None:
    mean: Params = {"a": torch.randn(3, 2), "b": torch.randn(3)}
    log_variance: Params = {name: torch.randn_like(p) for name, p in mean.items()}
    wanted = torch.zeros(())
    for name, mu in mean.items():
        q = torch.distributions.Normal(mu, (0.5 * log_variance[name]).exp())
        wanted = wanted + torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(divergence_from_standard(mean, log_variance), wanted, **CLOSE)


def test_the_divergence_is_in_the_loss_of_training_only() -> None:
    torch.manual_seed(0)
    light = bayes_hypermaml(nn.Linear(4, 3), kl_weight=0.0, width=6)
    torch.manual_seed(0)
    heavy = bayes_hypermaml(nn.Linear(4, 3), kl_weight=2.0, width=6)
    batch = tasks(NETS[0])
    learner = rule_of(heavy)
    for i, (a, b) in enumerate(zip(light(batch).loss, heavy(batch).loss, strict=True)):
        objective = learner.objective(pick(batch.support, i), {})
        posterior = learner.rule.posterior(learner.params(), objective)  # type: ignore[operator]
        torch.testing.assert_close(b - a, 2 * divergence_from_standard(*posterior), **CLOSE)
    torch.testing.assert_close(light(batch, evaluating=True), heavy(batch, evaluating=True), **CLOSE)


def test_a_step_on_the_code_is_a_step_on_the_head_through_the_decoder() -> None:
    r"""phi = theta + D z0 - alpha D D^T g, with g the gradient at theta + D z0."""
    learner = rule_of(leo(nn.Linear(4, 3), latent=2, inner_lr=0.5, inner_steps=1, finetune_steps=0))
    support = pick(tasks(NETS[0]).support, 0)
    rescale = learner.rule.rules[0]  # type: ignore[union-attr,index]
    decode: Tensor = rescale.chart.decode.weight  # [features + 1, latent]
    objective = learner.objective(support, {})
    guess = objective.predict(learner.params()).softmax(-1)
    z = rescale.inner.rules[0].network(support.x, guess, support.y)["z"]
    theta = torch.cat([learner.params()["weight"], learner.params()["bias"][:, None]], 1)
    x = torch.cat([support.x, torch.ones(len(support.x), 1)], 1)

    def loss(rows: Tensor) -> Tensor:
        return nn.functional.cross_entropy(x @ rows.T, support.y)

    start = theta + z @ decode.T
    by_hand = start - 0.5 * torch.func.grad(loss)(start) @ decode @ decode.T
    phi = learner.update(support, {})
    torch.testing.assert_close(torch.cat([phi["weight"], phi["bias"][:, None]], 1), by_hand, **CLOSE)


def test_a_code_is_the_mean_relation_of_a_class_to_all_examples() -> None:
    learner = rule_of(leo(nn.Linear(4, 3), latent=2))
    encoder = learner.rule.rules[0].inner.rules[0].network  # type: ignore[union-attr,index]
    support = pick(tasks(NETS[0]).support, 0)
    codes = encoder(support.x, torch.zeros(len(support.x), 3), support.y)["z"]
    e = encoder.embed(support.x)
    for c in range(3):
        own = [i for i, y in enumerate(support.y.tolist()) if y == c]
        relations = [encoder.relate(torch.cat([e[i], e[j]])) for i in own for j in range(len(e))]
        torch.testing.assert_close(codes[c], torch.stack(relations).mean(0), **CLOSE)


def test_a_code_of_no_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="`latent` was 0"):
        leo(mlp(4, 3), latent=0)
