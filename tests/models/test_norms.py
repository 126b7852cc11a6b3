"""Norms under vmap: right second-order gradients, unchanged names, and separate statistics of support and query."""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from cases import NETS, WAYS, tasks
from quickstudy import (
    Constant,
    Descend,
    Engine,
    Examples,
    InputError,
    Learner,
    RuleLearner,
    anil,
    hypermaml,
    maml,
    meta_sgd,
    mtnet,
    wormhole,
)
from quickstudy.engine.engine import LoopFallbackWarning
from quickstudy.methods.cavia import cavia
from quickstudy.methods.mamlpp import mamlpp
from quickstudy.methods.sign_maml import sign_maml
from quickstudy.models.norms import SingleExampleWarning, describe_norms, with_safe_norms
from quickstudy.models.trace import layers_before_norm
from quickstudy.rules.criteria import cross_entropy
from quickstudy.rules.params import dotted_params
from quickstudy.types import pick

CLOSE = {"rtol": 1e-9, "atol": 1e-11}

Build = Callable[[], Learner]


pytestmark = pytest.mark.usefixtures("double")


NATIVE = [
    pytest.param(lambda: nn.BatchNorm1d(4), (6, 4), id="batch1d"),
    pytest.param(lambda: nn.BatchNorm1d(4), (6, 4, 5), id="batch1d-sequence"),
    pytest.param(lambda: nn.BatchNorm2d(4), (6, 4, 3, 3), id="batch2d"),
    pytest.param(lambda: nn.BatchNorm2d(4, affine=False), (6, 4, 3, 3), id="batch2d-plain"),
    pytest.param(lambda: nn.BatchNorm3d(4), (6, 4, 2, 2, 2), id="batch3d"),
    pytest.param(lambda: nn.LayerNorm(4), (6, 4), id="layer"),
    pytest.param(lambda: nn.LayerNorm((3, 4), bias=False), (6, 3, 4), id="layer-two-axes"),
    pytest.param(lambda: nn.InstanceNorm1d(4, affine=True), (6, 4, 5), id="instance1d"),
    pytest.param(lambda: nn.InstanceNorm2d(4, affine=True), (6, 4, 3, 3), id="instance2d"),
    pytest.param(lambda: nn.InstanceNorm2d(4), (6, 4, 3, 3), id="instance2d-plain"),
    pytest.param(lambda: nn.GroupNorm(2, 4), (6, 4, 3, 3), id="group"),
    pytest.param(lambda: nn.RMSNorm(4), (6, 4), id="rms"),
]


def scrambled(module: nn.Module) -> nn.Module:
    """A copy whose scales and biases are not 1 and 0."""
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(1.0, 0.5)
    return module


@pytest.mark.parametrize(("build", "shape"), NATIVE)
def test_a_safe_norm_is_the_native_one(build: object, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    native = scrambled(build())  # type: ignore[operator]
    twin = with_safe_norms(native)
    x = torch.randn(shape)
    torch.testing.assert_close(twin(x), native(x), **CLOSE)
    assert list(twin.state_dict()) == list(native.state_dict())
    assert [n for n, _ in twin.named_parameters()] == [n for n, _ in native.named_parameters()]
    assert type(native).__module__.startswith("torch"), "the user's own model was changed"


@pytest.mark.parametrize(("build", "shape"), NATIVE)
def test_second_order_under_vmap_is_the_loop_and_the_central_difference(build: object, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    kind = {2: nn.Linear(4, 4), 3: nn.Linear(shape[-1], shape[-1])}.get(len(shape), nn.Identity())
    flat = nn.Flatten()
    size = int(torch.tensor(shape[1:]).prod())
    parts = [("mix", kind), ("norm", scrambled(build())), ("act", nn.Tanh()), ("flat", flat)]  # type: ignore[operator]
    model = maml(nn.Sequential(OrderedDict([*parts, ("head", nn.Linear(size, WAYS))])), inner_steps=2, inner_lr=0.5)
    net = type(NETS[0])("", nn.Identity, shape[1:])
    batch = tasks(net)
    model.engine = Engine("loop")
    _, looped = model.meta_gradient(batch)
    model.engine = Engine("vmap")
    _, together = model.meta_gradient(batch)
    assert model.engine.backend == "vmap"
    torch.testing.assert_close(together, looped, **CLOSE)
    params = list(model.meta_params().values())
    way = [torch.randn_like(p) for p in params]
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, w in zip(params, way, strict=True):
                p.add_(w, alpha=sign * 1e-6)
            ends.append(model(batch).loss.mean())
    slope = sum((g * w).sum() for g, w in zip(together, way, strict=True) if g is not None)
    # A step of 1e-6: rounding 1e-10, truncation 1e-12 times the third derivative.
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-6, torch.as_tensor(slope), rtol=1e-6, atol=1e-7)


class Own(nn.BatchNorm2d):
    """A user's norm that calls torch's kernel itself, where nothing can put another in its place."""

    def forward(self, input: Tensor) -> Tensor:
        kernel = torch.ops.aten.native_batch_norm
        return kernel(input, self.weight, self.bias, None, None, True, 0.1, self.eps)[0]


def test_check_names_the_module_that_vmap_gets_wrong() -> None:
    torch.manual_seed(0)
    layers = [("conv", nn.Conv2d(1, 4, 3, padding=1)), ("own", Own(4, track_running_stats=False)), ("act", nn.Tanh())]
    model = nn.Sequential(OrderedDict([*layers, ("flat", nn.Flatten()), ("head", nn.Linear(64, WAYS))]))
    scrambled(model.own)
    learner = maml(model, inner_steps=2)
    found = learner.check(tasks(NETS[1]))
    assert found.modules == {"head.own": "under vmap"}
    assert "Own" in learner.norms
    assert "head.own" in str(found) and max(found.errors.values()) > 1e-6
    assert maml(nn.Sequential(nn.Flatten(), nn.Linear(16, WAYS))).check(tasks(NETS[1])).ok


def test_no_module_is_blamed_for_a_gradient_that_is_not_finite() -> None:
    found = maml(nn.Sequential(nn.Flatten(), nn.Linear(16, WAYS)), inner_lr=1e308, inner_steps=2).check(tasks(NETS[1]))
    assert found.ok and not found.errors
    assert "not finite" in str(found) and "wrong" not in str(found)


@pytest.mark.parametrize("engine", [Engine("loop"), Engine("vmap"), Engine("vmap", chunk=1)], ids=str)
@pytest.mark.parametrize("build", [maml, anil], ids=["head", "body"])
def test_support_and_query_are_normalised_apart(build: object, engine: Engine) -> None:
    """Without inner steps the output is that of the plain net on the query set, by the query set's statistics."""
    torch.manual_seed(0)
    net = NETS[1]
    plain, batch = net.build(), tasks(net)
    learner = build(plain, inner_steps=0)  # type: ignore[operator]
    learner.engine = copy.copy(engine)
    for i, output in enumerate(learner(batch).output):
        torch.testing.assert_close(output, plain(batch.query.x[i]), **CLOSE)


def test_the_support_gradient_uses_the_support_statistics() -> None:
    torch.manual_seed(0)
    net = NETS[1]
    plain, batch = net.build(), tasks(net)
    learner = maml(plain, inner_lr=0.3)
    assert isinstance(learner, RuleLearner)
    (x, y), (xq, _) = pick((batch.support, batch.query), 0)
    names, params = zip(*plain.named_parameters(), strict=True)
    loss = nn.functional.cross_entropy(functional_call(plain, dict(zip(names, params, strict=True)), (x,)), y)
    moved = [p - 0.3 * g for p, g in zip(params, torch.autograd.grad(loss, params), strict=True)]
    expected = functional_call(plain, dict(zip(names, moved, strict=True)), (xq,))
    torch.testing.assert_close(learner(batch).output[0], expected, **CLOSE)


def test_running_statistics_are_frozen_when_asked_for() -> None:
    torch.manual_seed(0)
    native = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, WAYS))
    native(torch.randn(20, 1, 4, 4))
    before = copy.deepcopy(native.state_dict())
    learner = maml(native, inner_steps=0, norms="running")
    batch = tasks(NETS[1])
    torch.testing.assert_close(learner(batch).output[0], native.eval()(batch.query.x[0]), **CLOSE)
    held = {n.removeprefix("head."): v for n, v in learner.state_dict().items() if n.startswith("head.")}
    torch.testing.assert_close(held, dict(before), rtol=0, atol=0)
    assert "frozen" in learner.norms
    assert learner.check(batch).ok
    with pytest.raises(InputError, match="keeps none"):
        maml(NETS[1].build(), norms="running")
    with pytest.raises(InputError, match="'batch', 'support', 'per_step', 'running', not 'moving'"):
        with_safe_norms(native, "moving")


@pytest.mark.parametrize("example", [(4, 6), (4, 5, 3), (4, 3, 3, 3)])
@pytest.mark.parametrize("affine", [False, True])
def test_instance_norms_that_keep_statistics_are_frozen_too(example: tuple[int, ...], affine: bool) -> None:
    torch.manual_seed(0)
    kind = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[len(example) - 2]
    size = math.prod(example)
    native = nn.Sequential(kind(4, affine=affine, track_running_stats=True), nn.Flatten(), nn.Linear(size, WAYS))
    for _ in range(5):
        native(2 + 3 * torch.randn(20, *example))
    x, y = torch.randn(6, *example), torch.arange(6) % WAYS
    for steps in (0, 2):
        learner = maml(native, inner_steps=steps, inner_lr=0.1, norms="running")
        assert "frozen" in learner.norms
        reference = copy.deepcopy(native).eval()
        for _ in range(steps):
            loss = nn.functional.cross_entropy(reference(x), y)
            grads = torch.autograd.grad(loss, [*reference.parameters()])
            with torch.no_grad():
                for p, g in zip(reference.parameters(), grads, strict=True):
                    p.sub_(0.1 * g)
        torch.testing.assert_close(learner.adapt(Examples(x, y))(x), reference(x).detach(), **CLOSE)
    plain = maml(nn.Sequential(kind(4, affine=affine), nn.Flatten(), nn.Linear(size, WAYS)), norms="running")
    assert plain.norms == "no batch statistics"  # it keeps none: those of each example are its own in every mode


def on_support(build: Callable[..., Learner], **options: object) -> Learner:
    """A learner under norms="support" on the net with batch norms, whose scales and biases are not 1 and 0."""
    torch.manual_seed(0)
    return build(scrambled(NETS[1].build()), norms="support", **options)


SUPPORT = [
    pytest.param(lambda: on_support(maml, inner_lr=0.3, inner_steps=2), id="maml"),
    pytest.param(lambda: on_support(anil, inner_lr=0.3, inner_steps=2), id="anil"),
    pytest.param(lambda: on_support(mtnet, inner_lr=0.3, draw="expected"), id="mtnet"),
    pytest.param(lambda: on_support(wormhole, inner_lr=0.3, gain_steps=2), id="wormhole"),
    pytest.param(lambda: on_support(cavia), id="cavia"),
    pytest.param(
        lambda: on_support(hypermaml, width=8, enhance=False, emission=0.5, mixing="loss"), id="hypermaml-two-endpoints"
    ),
]
by_support = pytest.mark.parametrize("build", SUPPORT)


@by_support
def test_under_support_statistics_a_prediction_depends_on_nothing_else_in_its_batch(build: Build) -> None:
    learner, batch = build(), tasks(NETS[1])
    whole = learner(batch, evaluating=True).output
    less = batch._replace(query=Examples(batch.query.x[:, :2], batch.query.y[:, :2]))
    torch.testing.assert_close(learner(less, evaluating=True).output, whole[:, :2], **CLOSE)
    adapted = learner.adapt(pick(batch.support, 0), key=int(batch.key[0]))
    one_by_one = torch.cat([adapted(x[None]) for x in batch.query.x[0]])
    torch.testing.assert_close(one_by_one, whole[0], **CLOSE)


@by_support
def test_under_support_statistics_vmap_is_the_loop_and_the_central_difference(build: Build) -> None:
    learner, batch = build(), tasks(NETS[1])
    learner.engine = Engine("loop")
    outcome, looped = learner.meta_gradient(batch)
    for engine in (Engine("vmap"), Engine("vmap", chunk=2)):
        learner.engine = engine
        again, together = learner.meta_gradient(batch)
        assert learner.engine.backend == "vmap"
        torch.testing.assert_close((again.output, together), (outcome.output, looped), **CLOSE)
    params = list(learner.meta_params().values())
    way = [torch.randn_like(p) for p in params]
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, w in zip(params, way, strict=True):
                p.add_(w, alpha=sign * 1e-7)
            ends.append(learner(batch).loss.mean())
    slope = sum((g * w).sum() for g, w in zip(together, way, strict=True) if g is not None)
    # As in the laws: a step of 1e-7 seldom crosses a kink, and rounding is 1e-9.
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-7, torch.as_tensor(slope), rtol=1e-5, atol=1e-7)
    assert learner.check(batch).ok


def test_on_the_support_set_itself_both_policies_are_one_function() -> None:
    """The recorded variance is the biased one, which a batch norm uses; the statistics are those after adaptation."""
    torch.manual_seed(0)
    plain, batch = scrambled(NETS[1].build()), tasks(NETS[1])
    own = batch._replace(query=batch.support)
    for build in (maml, anil):
        by_batch, by_support = (
            build(plain, inner_lr=0.3, inner_steps=2, norms=norms) for norms in ("batch", "support")
        )
        torch.testing.assert_close(by_support(own).output, by_batch(own).output, **CLOSE)


def test_an_adapted_module_holds_the_statistics_and_a_learner_does_not() -> None:
    learner, batch = on_support(anil), tasks(NETS[1])
    assert list(learner.state_dict()) == list(anil(NETS[1].build()).state_dict())
    adapted = learner.adapt(pick(batch.support, 0))
    names = {name for name in adapted.state_dict() if "support_" in name}
    assert names == {f"0.block{i}.norm.support_{what}" for i in (0, 1) for what in ("mean", "var")}
    twin = copy.deepcopy(adapted)
    other = learner.adapt(pick(batch.support, 1))
    twin.load_state_dict(other.state_dict())
    x = batch.query.x[0]
    torch.testing.assert_close(twin(x), other(x), rtol=0, atol=0)
    assert not torch.allclose(adapted(x), other(x))
    first = adapted[0].block0  # type: ignore[index]
    torch.testing.assert_close(first.norm.support_mean, first.conv(batch.support.x[0]).mean((0, 2, 3)), **CLOSE)


def test_support_statistics_at_the_root_in_a_body_and_without_image_axes() -> None:
    torch.manual_seed(0)
    net = NETS[0]
    batch = tasks(net)
    head = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, WAYS))
    learner = RuleLearner(head, Descend(Constant(0.3), 1), cross_entropy, body=nn.BatchNorm1d(4), norms="support")
    assert learner.check(batch).ok
    adapted = learner.adapt(pick(batch.support, 0))
    assert {"0.support_mean", "1.1.support_mean"} <= set(adapted.state_dict())
    torch.testing.assert_close(adapted(batch.query.x[0]), learner(batch).output[0], **CLOSE)


def per_step(build: Callable[..., Learner], steps: int = 3, **options: object) -> RuleLearner:
    """A learner under norms="per_step" whose scales and biases differ from step to step."""
    torch.manual_seed(0)
    learner = build(scrambled(NETS[1].build()), norms="per_step", inner_steps=steps, **options)
    assert isinstance(learner, RuleLearner)
    scrambled(learner.rule.get_submodule("per_step.later"))
    return learner


PER_STEP = [
    pytest.param(lambda: per_step(maml, inner_lr=0.3), id="maml"),
    pytest.param(lambda: per_step(maml, inner_lr=0.3, eval_inner_steps=5), id="more-steps-at-the-end"),
    pytest.param(lambda: per_step(meta_sgd, inner_lr=0.3, per="layer_step"), id="rates-per-step"),
    pytest.param(lambda: per_step(mamlpp, inner_lr=0.3), id="maml++"),
    pytest.param(
        lambda: per_step(mamlpp, inner_lr=0.3, step_weights=[0.0, 0.3, 0.7], eval_inner_steps=2), id="annealed"
    ),
    pytest.param(lambda: per_step(mtnet, inner_lr=0.3, draw="expected"), id="mtnet"),
]


@pytest.mark.parametrize("build", PER_STEP)
def test_per_step_norms_obey_the_laws(build: Build) -> None:
    learner, batch = build(), tasks(NETS[1])
    learner.engine = Engine("vmap")
    _, gradients = learner.meta_gradient(batch)
    assert learner.engine.backend == "vmap" and learner.check(batch).ok
    params = list(learner.meta_params().values())
    assert all(g is not None for g in gradients)
    way = [torch.randn_like(p) for p in params]
    ends = []
    for sign in (1, -2, 1):
        with torch.no_grad():
            for p, w in zip(params, way, strict=True):
                p.add_(w, alpha=sign * 1e-7)
            ends.append(learner(batch).loss.mean())
    slope = sum((g * w).sum() for g, w in zip(gradients, way, strict=True))
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-7, torch.as_tensor(slope), rtol=1e-5, atol=1e-7)
    adapted = learner.adapt(pick(batch.support, 0), key=int(batch.key[0]))
    torch.testing.assert_close(adapted(batch.query.x[0]), learner(batch, evaluating=True).output[0], **CLOSE)


def by_hand(learner: RuleLearner, support: Examples, steps: int) -> list[dict[str, Tensor]]:
    """theta_1, theta_2, ... with the scales and biases of the step that led to each, at a rate of 0.3."""
    plain, theta = NETS[1].build(), learner.params()
    later = dotted_params(learner.rule.get_submodule("per_step.later"))
    assert set(later) == {f"block{i}.norm.{what}" for i in (0, 1) for what in ("weight", "bias")}
    found = []
    for k in range(steps):
        if k > 0:
            theta = theta | {name: value[min(k - 1, 1)] for name, value in later.items()}
        loss = nn.functional.cross_entropy(functional_call(plain, theta, (support.x,)), support.y)
        moved = [name for name in theta if name not in later]
        grads = torch.autograd.grad(loss, [theta[name] for name in moved], create_graph=True)
        theta = theta | {name: theta[name] - 0.3 * g for name, g in zip(moved, grads, strict=True)}
        found.append(theta)
    return found


def test_each_step_has_its_own_scale_and_bias_and_the_last_serves_the_queries() -> None:
    learner, batch = per_step(maml, inner_lr=0.3, steps=3, eval_inner_steps=4), tasks(NETS[1])
    support, query = pick((batch.support, batch.query), 0)
    *_, theta = by_hand(learner, support, 4)
    expected = functional_call(NETS[1].build(), theta, (query.x,))
    torch.testing.assert_close(learner(batch, evaluating=True).output[0], expected, **CLOSE)


def test_maml_plus_plus_weighs_the_query_losses_under_the_norms_of_their_steps() -> None:
    weights = [0.5, 0.2, 0.3]
    learner, batch = per_step(mamlpp, inner_lr=0.3, step_weights=weights), tasks(NETS[1])
    support, query = pick((batch.support, batch.query), 0)
    outputs = [functional_call(NETS[1].build(), theta, (query.x,)) for theta in by_hand(learner, support, 3)]
    losses = [w * nn.functional.cross_entropy(out, query.y) for w, out in zip(weights, outputs, strict=True)]
    outcome = learner(pick(batch, slice(0, 1)))
    torch.testing.assert_close(outcome.loss[0], torch.stack(losses).sum(), **CLOSE)
    torch.testing.assert_close(outcome.output[0], outputs[-1], **CLOSE)
    params = list(learner.meta_params().values())
    expected = torch.autograd.grad(torch.stack(losses).sum(), params, allow_unused=True)
    held = [torch.zeros_like(p) if g is None else g for p, g in zip(params, expected, strict=True)]
    _, found = learner.meta_gradient(pick(batch, slice(0, 1)))
    rates = [name.startswith("rule.rate") for name in learner.meta_params()]
    for rate, ours, theirs in zip(rates, found, held, strict=True):
        if not rate:  # by hand, the rates are one number
            torch.testing.assert_close(ours, theirs, **CLOSE)


def test_per_step_norms_change_no_path_of_a_rule() -> None:
    for build in (maml, meta_sgd, mamlpp, sign_maml):
        plain, own = (build(NETS[1].build(), norms=norms, inner_steps=2) for norms in ("batch", "per_step"))
        buffers = {name for name, _ in plain.named_buffers() if name.startswith("rule.")}
        assert buffers == {name for name, _ in own.named_buffers() if name.startswith("rule.")}
        rates = {
            name for name in own.state_dict() if name.startswith("rule.") and not name.startswith("rule.per_step.")
        }
        assert rates <= set(plain.state_dict())


def test_a_buffer_of_the_rule_is_one_with_and_without_the_path_through_per_step() -> None:
    for learner in (per_step(mamlpp).float(), copy.deepcopy(per_step(mamlpp)), copy.deepcopy(per_step(mamlpp)).float()):
        assert learner.rule.weights is learner.rule.rule.weights


def test_two_learners_can_share_a_rule_and_only_one_has_values_per_step() -> None:
    rule = Descend(Constant(0.1), 2)
    own = RuleLearner(NETS[1].build(), rule, cross_entropy, norms="per_step")
    plain = RuleLearner(NETS[1].build(), rule, cross_entropy)
    assert "every inner step" in own.norms and not dict(plain.rule.named_parameters())


def test_with_one_step_the_norms_are_the_models_own() -> None:
    plain, batch = scrambled(NETS[1].build()), tasks(NETS[1])
    own = maml(plain, norms="per_step", inner_lr=0.3)
    shared = maml(plain, inner_lr=0.3, adapts=lambda name: ".norm." not in name)
    torch.testing.assert_close(own(batch), shared(batch), rtol=0, atol=0)
    assert "every inner step" in own.norms and "transductive" in own.norms


def test_per_step_norms_need_steps_that_run_through_a_norm() -> None:
    for build in (wormhole, cavia):
        with pytest.raises(InputError, match="gradient steps.*norms='support'"):
            build(NETS[1].build(), norms="per_step")
    for build, net in ((anil, NETS[1]), (maml, NETS[3])):
        with pytest.raises(InputError, match="no batch norm.*maml, not anil"):
            build(net.build(), norms="per_step")


def test_a_norm_that_runs_twice_has_no_support_statistics() -> None:
    norm = nn.BatchNorm1d(4)
    model = nn.Sequential(nn.Linear(4, 4), norm, nn.Tanh(), nn.Linear(4, 4), norm, nn.Linear(4, WAYS))
    with pytest.raises(InputError, match="head:1 runs more than once.*norms='batch'"):
        maml(model, norms="support")(tasks(NETS[0]))


def test_an_adapted_module_warns_once_of_a_batch_of_one() -> None:
    torch.manual_seed(0)
    batch = tasks(NETS[1], queries=1)
    single = batch._replace(query=Examples(batch.query.x[:, :1], batch.query.y[:, :1]))
    for build in (maml, anil):
        for engine in (Engine("loop"), Engine("vmap")):
            learner = build(NETS[1].build())
            learner.engine = engine
            learner.meta_gradient(single)  # a warning here would be an error
            learner(single, evaluating=True)
        adapted = learner.adapt(pick(batch.support, 0))
        adapted(batch.query.x[0])
        twin = copy.deepcopy(adapted)
        for module in (adapted, twin):
            with pytest.warns(SingleExampleWarning, match="norms='support'"):
                module(batch.query.x[0, :1])
            module(batch.query.x[0, :1])
    for quiet in (maml(NETS[1].build(), norms="support"), maml(NETS[3].build())):
        quiet.adapt(pick(batch.support, 0))(batch.query.x[0, :1])


def test_the_norm_policy_is_described() -> None:
    assert "transductive" in describe_norms(with_safe_norms(NETS[1].build()).modules())
    assert "of the support set" in maml(NETS[1].build(), norms="support").norms
    assert describe_norms(with_safe_norms(NETS[3].build()).modules()) == "no batch statistics"


def test_a_norm_used_twice_is_replaced_in_both_places() -> None:
    norm = nn.LayerNorm(4)
    model = with_safe_norms(nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 4), norm), "b": norm}))
    assert model["a"][1] is model["b"]  # type: ignore[index]
    assert type(model["b"]) is not nn.LayerNorm  # type: ignore[index]


def test_layers_before_a_norm_are_found() -> None:
    assert layers_before_norm(NETS[1].build(), ["block0.conv", "block1.conv", "head"]) == ["block0.conv", "block1.conv"]


class Recurrent(nn.Module):
    """An LSTM, which vmap refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 3, batch_first=True)
        self.head = nn.Linear(3, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x[:, :, None])[0][:, -1])


def test_a_model_that_vmap_refuses_runs_on_the_loop_with_one_warning() -> None:
    torch.manual_seed(0)
    learner, batch = maml(Recurrent()), tasks(NETS[0])
    with pytest.warns(LoopFallbackWarning, match="one after the other"):
        first = learner(batch)
    learner.meta_gradient(batch)  # a second warning would be an error
    learner.engine = Engine("loop")
    torch.testing.assert_close(first, learner(batch), **CLOSE)
    assert "refuses" in str(learner.check(batch))


def test_a_refusal_in_the_backward_pass_falls_back_too() -> None:
    torch.manual_seed(0)
    learner, batch = maml(Recurrent()), tasks(NETS[0])
    with pytest.warns(LoopFallbackWarning):
        _, gradients = learner.meta_gradient(batch)
    again = maml(Recurrent())
    again.load_state_dict(learner.state_dict())
    again.engine = Engine("loop")
    torch.testing.assert_close(gradients, again.meta_gradient(batch)[1], **CLOSE)


def test_attention_runs_in_second_order() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.Unflatten(1, (1, 4)), layer, nn.Flatten(), nn.Linear(4, WAYS))
    learner, batch = maml(model, inner_steps=2), tasks(NETS[0])
    assert learner.check(batch).ok
    learner.eval()
    with torch.no_grad():
        together = learner(batch, evaluating=True)
    adapted = learner.adapt(pick(batch.support, 0))
    torch.testing.assert_close(adapted(batch.query.x[0]), together.output[0], **CLOSE)


def test_dropout_follows_the_mode_of_the_module_and_runs_under_vmap() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, WAYS))
    learner, batch = maml(model), tasks(NETS[0])
    assert not torch.equal(learner(batch).output, learner(batch).output)
    learner.eval()
    torch.testing.assert_close(learner(batch).output, learner(batch).output, rtol=0, atol=0)
    assert learner.check(batch).ok


def test_an_error_in_the_users_model_is_told_with_its_cause() -> None:
    learner = maml(nn.Linear(5, WAYS))
    with pytest.raises(InputError, match="shapes cannot be multiplied") as told:
        learner(tasks(NETS[0]))
    assert isinstance(told.value.__cause__, RuntimeError)
    assert learner.engine.backend == "vmap"
