"""Gradient-based methods against their formulas by hand. Float64; equal up to rounding unless a test says otherwise."""

from collections import OrderedDict
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from cases import NETS, WAYS, Net, tasks
from quickstudy import Constant, Descend, Examples, InputError, LoRA, Objective, RuleLearner, Task, fomaml, maml
from quickstudy.methods.mamlpp import MultiStep, mamlpp
from quickstudy.methods.reptile import reptile
from quickstudy.methods.sign_maml import sign_maml
from quickstudy.methods.unicorn_maml import ShareRows, unicorn_maml
from quickstudy.rules.criteria import cross_entropy
from quickstudy.rules.descend import Learned
from quickstudy.training.config import schedule as schedules
from quickstudy.training.config.schedule import Ramp
from quickstudy.types import pick

CLOSE = {"rtol": 1e-10, "atol": 1e-12}

over_nets = pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)

pytestmark = pytest.mark.usefixtures("double")


def bowl(evaluating: bool = False) -> Objective:
    """The objective 1/2 |theta - 1|^2, whose gradient is theta - 1."""
    nothing = Examples(torch.zeros(1, 1), torch.zeros(1, 1))
    return Objective(
        lambda params: torch.cat([p.reshape(-1) for p in params.values()]),
        lambda out, y: 0.5 * (out - 1).square().sum(),
        nothing,
        {},
        evaluating,
    )


def leaf(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values in new parameters."""
    return {name: p.detach().clone().requires_grad_() for name, p in params.items()}


def support_gradient(model: RuleLearner, params: dict[str, Tensor], support: Examples) -> dict[str, Tensor]:
    """The gradient of the support loss, by plain autograd."""
    own = leaf(params)
    grads = torch.autograd.grad(cross_entropy(model.predict(own, support.x), support.y), list(own.values()))
    return dict(zip(own, grads, strict=True))


def query_gradient(model: RuleLearner, params: dict[str, Tensor], query: Examples) -> list[Tensor]:
    """The gradient of the query loss at given parameters, by plain autograd."""
    own = leaf(params)
    return list(torch.autograd.grad(cross_entropy(model.predict(own, query.x), query.y), list(own.values())))


# Sign-MAML


def test_sign_steps_have_one_size() -> None:
    theta = {"w": torch.tensor([3.0, -1.0, 1.0])}
    rule = sign_maml(NETS[0].build(), inner_lr=0.5, inner_steps=2).rule
    torch.testing.assert_close(rule(theta, bowl())["w"], torch.tensor([2.0, 0.0, 1.0]), **CLOSE)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_outer_gradient_of_sign_maml_is_the_query_gradient_at_phi(steps: int) -> None:
    net = NETS[2]
    model, batch = sign_maml(net.build(), inner_lr=0.02, inner_steps=steps), tasks(net, count=1)
    theta = {name: p.detach() for name, p in model.params().items()}
    for _ in range(steps):
        grads = support_gradient(model, theta, pick(batch.support, 0))
        theta = {name: p - 0.02 * grads[name].sign() for name, p in theta.items()}
    _, gradients = model.meta_gradient(batch)
    torch.testing.assert_close(gradients, query_gradient(model, theta, pick(batch.query, 0)), **CLOSE)


def test_the_sign_of_a_gradient_has_no_derivative_to_lose() -> None:
    net = NETS[0]
    plain, batch = net.build(), tasks(net)
    whole = RuleLearner(plain, Descend(Constant(0.02), 2, direction=torch.sign), cross_entropy)
    torch.testing.assert_close(
        sign_maml(plain, inner_lr=0.02, inner_steps=2).meta_gradient(batch), whole.meta_gradient(batch), **CLOSE
    )


# Unicorn-MAML


def relabelled(batch: Task, order: Tensor) -> Task:
    """The same tasks, in which class c is called order[c]."""
    halves = (Examples(half.x, order[half.y]) for half in (batch.support, batch.query))
    return Task(*halves, batch.key, batch.about)


@over_nets
def test_relabelling_the_classes_permutes_the_outputs_and_nothing_else(net: Net) -> None:
    unicorn, plain, batch = unicorn_maml(net.build(), inner_steps=2), maml(net.build(), inner_steps=2), tasks(net)
    _, slopes = unicorn.meta_gradient(batch)
    for order in map(torch.tensor, permutations(range(WAYS))):
        other = relabelled(batch, order)
        torch.testing.assert_close(unicorn(other).output[:, :, order], unicorn(batch).output, **CLOSE)
        outcome, gradients = unicorn.meta_gradient(other)
        torch.testing.assert_close(outcome.loss, unicorn(batch).loss, **CLOSE)
        torch.testing.assert_close(gradients, slopes, **CLOSE)
    last = torch.arange(WAYS).flip(0)
    assert not torch.allclose(plain(relabelled(batch, last)).output[:, :, last], plain(batch).output, atol=1e-3)


def test_shared_rows_are_the_mean_and_equal_rows_stay_as_they_are() -> None:
    share, rows, kept = ShareRows(["w"]), torch.randn(5, 4), torch.randn(2, 3)
    seven = torch.randn(1, 4).repeat(7, 1).requires_grad_()  # 3 * (1/3) is exact in floating point, 7 * (1/7) is not
    shared = share({"w": rows, "body": kept}, bowl())
    torch.testing.assert_close(shared["w"], rows.mean(0).expand(5, 4), **CLOSE)
    assert shared["body"] is kept
    again = share({"w": shared["w"]}, bowl())
    assert torch.equal(again["w"], shared["w"])
    (pull,) = torch.autograd.grad((share({"w": seven}, bowl())["w"] * torch.randn(7, 4)).sum(), seven)
    assert torch.equal(pull, pull[:1].expand_as(pull)), "an optimizer would pull the rows apart"


def test_each_row_has_an_equal_part_of_the_shared_rows_gradient() -> None:
    net = NETS[0]
    model, batch = unicorn_maml(net.build(), inner_steps=2), tasks(net, count=1)
    support, query = pick((batch.support, batch.query), 0)
    theta = dict(model.params())
    one = leaf({"head.weight": theta["head.weight"][0], "head.bias": theta["head.bias"][0]})
    copied = theta | {name: torch.stack([row] * WAYS) for name, row in one.items()}
    phi = Descend(Constant(0.1), 2)(copied, model.objective(support, {}))
    by_hand = torch.autograd.grad(cross_entropy(model.predict(phi, query.x), query.y), list(one.values()))
    _, gradients = model.meta_gradient(batch)
    given = dict(zip(model.meta_params(), gradients, strict=True))
    for name, slope in zip(one, by_hand, strict=True):
        rows = given[f"head.{name}"]
        assert rows is not None
        assert torch.equal(rows, rows[:1].expand_as(rows)), "an optimizer would pull the rows apart"
        torch.testing.assert_close(rows.sum(0), slope, **CLOSE)


def test_training_keeps_the_rows_equal() -> None:
    net = NETS[1]
    model, batch = unicorn_maml(net.build()), tasks(net)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = model.params()["head.weight"].clone()
    for _ in range(5):
        for p, g in zip(model.meta_params().values(), model.meta_gradient(batch)[1], strict=True):
            p.grad = g
        optimizer.step()
    after = model.params()["head.weight"]
    assert torch.equal(after, after[:1].expand_as(after))
    assert not torch.equal(after, before)


def test_a_head_that_does_not_adapt_or_is_not_last_is_refused() -> None:
    net = NETS[0].build()
    with pytest.raises(InputError, match="head.weight, head.bias, which does not adapt"):
        unicorn_maml(net, adapts="layer0.*")
    with pytest.raises(InputError, match="computes more after it"):
        unicorn_maml(net, head="layer0")


def test_a_head_without_a_row_for_each_class_is_refused() -> None:
    """Of hidden units, or of the directions of LoRA, equal rows would be one; frozen rows would differ."""
    several = nn.Sequential(OrderedDict(body=nn.Linear(4, 6), head=nn.Sequential(nn.LayerNorm(6), nn.Linear(6, WAYS))))
    with pytest.raises(InputError, match="'head' is a Sequential"):
        unicorn_maml(several, head="head")
    with pytest.raises(InputError, match="a LowRankLinear"):
        unicorn_maml(LoRA(several, r=2, targets=["head.1"]))
    for name in ("weight", "bias"):
        net = NETS[0].build()
        net.get_parameter(f"head.{name}").requires_grad_(False)
        with pytest.raises(InputError, match=f"head.{name} is frozen: its rows would differ"):
            unicorn_maml(net)


# MAML++


def test_the_loss_is_the_weighted_sum_over_steps_at_their_own_rates() -> None:
    theta = {"a.w": torch.tensor([3.0]), "b.w": torch.tensor([-1.0])}
    rate = Learned(theta, 0.0, per="layer_step", steps=2)
    with torch.no_grad():
        rate.values["a"].copy_(torch.tensor([0.5, 0.25]))
        rate.values["b"].copy_(torch.tensor([0.1, 0.2]))
    ends = MultiStep(rate, [0.3, 0.7]).endpoints(theta, bowl())
    assert [float(weight) for weight, _ in ends] == pytest.approx([0.3, 0.7], rel=1e-12)
    for (_, end), (a, b) in zip(ends, [(0.5, 0.9), (0.5 * 0.75, 0.9 * 0.8)], strict=True):
        torch.testing.assert_close(end, {"a.w": 1 + a * torch.tensor([2.0]), "b.w": 1 - b * torch.tensor([2.0])})


@over_nets
def test_equal_weights_are_the_mean_of_maml_over_all_numbers_of_steps(net: Net) -> None:
    plain, batch = net.build(), tasks(net)
    every = [maml(plain, inner_lr=0.2, inner_steps=k)(batch) for k in (1, 2, 3)]
    outcome = mamlpp(plain, inner_lr=0.2, inner_steps=3)(batch)
    torch.testing.assert_close(outcome.loss, torch.stack([one.loss for one in every]).mean(0), **CLOSE)
    torch.testing.assert_close(outcome.output, every[-1].output, **CLOSE)


@over_nets
@pytest.mark.parametrize(("second", "recipe"), [(1.0, maml), (0.0, fomaml)])
def test_all_weight_on_the_last_step_is_maml_of_the_given_order(net: Net, second: float, recipe) -> None:
    plain, batch = net.build(), tasks(net)
    model = mamlpp(plain, inner_lr=0.2, inner_steps=2, step_weights=[0.0, 1.0], second_order=second)
    outcome, gradients = model.meta_gradient(batch)
    given = dict(zip(model.meta_params(), gradients, strict=True))
    other = recipe(plain, inner_lr=0.2, inner_steps=2)
    right, slopes = other.meta_gradient(batch)
    torch.testing.assert_close(outcome, right, **CLOSE)
    torch.testing.assert_close([given[name] for name in other.meta_params()], slopes, **CLOSE)


def test_half_of_the_second_order_is_half_way_between_the_two() -> None:
    net = NETS[0]
    plain, batch = net.build(), tasks(net)
    found = [mamlpp(plain, inner_steps=1, second_order=share).meta_gradient(batch)[1] for share in (0.0, 0.5, 1.0)]
    for first, half, second in zip(*found, strict=True):
        torch.testing.assert_close(half, (first + second) / 2, **CLOSE)
    assert not torch.allclose(found[0][0], found[2][0])


def test_steps_without_weight_are_skipped_but_never_the_last() -> None:
    theta = {"w": torch.tensor([3.0])}
    rate = Constant(0.5)
    assert [float(w) for w, _ in MultiStep(rate, [0.0, 1.0]).endpoints(theta, bowl())] == [1]
    ends = MultiStep(rate, [1.0, 0.0]).endpoints(theta, bowl())
    assert [(float(w), float(end["w"])) for w, end in ends] == [(1, 2), (0, 1.5)]


def test_schedules_change_the_weights_and_the_order() -> None:
    model = mamlpp(NETS[0].build(), inner_steps=2)
    plan = {
        "rule.weights": Ramp(start=0, end=300, before=(0.5, 0.5), after=(0, 1)),
        "rule.direction.second": Ramp(start=99, end=100, before=0, after=1),
    }
    schedules.check_schedules(model, plan)
    buffers = dict(model.named_buffers())
    for step, weights, second in [(0, [0.5, 0.5], 0), (99, [0.335, 0.665], 0), (100, None, 1), (300, [0, 1], 1)]:
        schedules.apply_schedules(model, plan, step)
        assert weights is None or buffers["rule.weights"].tolist() == pytest.approx(weights, abs=1e-6)
        assert buffers["rule.direction.second"].item() == second


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inner_steps": 0}, "`inner_steps` was 0"),
        ({"inner_steps": 3, "step_weights": [0.5, 0.5]}, "2 weights for 3 inner steps"),
    ],
)
def test_weights_that_do_not_fit_the_steps_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        mamlpp(NETS[0].build(), **options)
    with pytest.raises(InputError, match="`weights` is empty"):
        MultiStep(Constant(0.1), [])


# Reptile


@over_nets
@pytest.mark.parametrize("count", [1, 3])
def test_a_step_of_sgd_moves_towards_the_mean_of_phi_by_its_rate(net: Net, count: int) -> None:
    r"""theta + eps mean(phi_i - theta), up to 1e-15: the rounding of values of size 1."""
    eps = 0.25
    model, batch = reptile(net.build(), inner_lr=0.2, inner_steps=3), tasks(net, count=count)
    theta = {name: p.detach().clone() for name, p in model.params().items()}
    phis = [model.update(pick(batch.support, i), {}) for i in range(count)]
    optimizer = torch.optim.SGD(model.parameters(), lr=eps)
    for p, gradient in zip(model.meta_params().values(), model.meta_gradient(batch)[1], strict=True):
        p.grad = gradient
    optimizer.step()
    for name, p in model.params().items():
        by_hand = theta[name] + eps * torch.stack([phi[name] - theta[name] for phi in phis]).mean(0)
        torch.testing.assert_close(p, by_hand, rtol=0, atol=1e-15)


def test_the_gradient_is_theta_minus_phi_to_the_last_bit() -> None:
    net = NETS[0]
    model, batch = reptile(net.build(), inner_steps=2), tasks(net, count=1)
    model.engine.backend = "loop"
    phi = model.update(pick(batch.support, 0), {})
    _, gradients = model.meta_gradient(batch)
    assert all(torch.equal(g, p - phi[name]) for g, (name, p) in zip(gradients, model.params().items(), strict=True))


def test_the_reported_loss_is_the_query_loss() -> None:
    net = NETS[0]
    model, batch = reptile(net.build()), tasks(net)
    trained, judged = model(batch), model(batch, evaluating=True)
    assert torch.equal(trained.loss, judged.loss) and torch.equal(trained.output, judged.output)


def test_with_one_step_it_is_joint_training_on_all_support_sets() -> None:
    net = NETS[0]
    model, batch = reptile(net.build(), inner_lr=0.2, inner_steps=1), tasks(net)
    every = [support_gradient(model, model.params(), pick(batch.support, i)) for i in range(len(batch.key))]
    joint = [0.2 * torch.stack([own[name] for own in every]).mean(0) for name in model.adapts]
    torch.testing.assert_close(model.meta_gradient(batch)[1], joint, **CLOSE)


def test_the_query_set_does_not_train_reptile() -> None:
    net = NETS[0]
    model, batch = reptile(net.build()), tasks(net)
    other = batch._replace(query=tasks(net, seed=7).query)
    torch.testing.assert_close(model.meta_gradient(other)[1], model.meta_gradient(batch)[1], rtol=0, atol=0)


def test_reptile_refuses_norms_that_it_would_not_train() -> None:
    with pytest.raises(InputError, match="'per_step', but Reptile trains what its steps move.*mamlpp or maml"):
        reptile(NETS[1].build(), norms="per_step")
