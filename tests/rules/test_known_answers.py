"""The rules against formulas written out by hand. Float64; equal up to rounding unless a test says otherwise."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cases import NETS, Net, tasks
from quickstudy import (
    Anneal,
    ByName,
    Chain,
    Chart,
    ClassHypernet,
    Coadapt,
    Constant,
    Descend,
    Emit,
    Examples,
    GainAndShift,
    InputError,
    Learned,
    Masked,
    Mix,
    MixLosses,
    Objective,
    Params,
    Rescale,
    Rule,
    RuleLearner,
    Scalar,
    Tanh,
    Task,
    anil,
    fomaml,
    hypermaml,
    maml,
    meta_sgd,
    mtnet,
    tnet,
    with_metric,
    wormhole,
)
from quickstudy.methods.wormhole import CHARTS, make_chart
from quickstudy.models.cells import cell_param_names
from quickstudy.models.nets import linear, mlp
from quickstudy.rules.criteria import class_sum_cross_entropy, cross_entropy, mse
from quickstudy.rules.params import adaptable, dotted_params
from quickstudy.types import pick

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


pytestmark = pytest.mark.usefixtures("double")


def bowl(params: Params, noise: dict[str, Tensor] | None = None, evaluating: bool = False) -> Objective:
    """The objective 1/2 |theta - 1|^2, whose gradient is theta - 1."""
    del params
    nothing = Examples(torch.zeros(1, 1), torch.zeros(1, 1))
    return Objective(
        lambda p: torch.cat([v.reshape(-1) for v in p.values()]),
        lambda out, y: 0.5 * (out - 1).square().sum(),
        nothing,
        noise or {},
        evaluating,
    )


def point(**values: Tensor) -> Params:
    return dict(values)


# Descent


def test_a_step_on_a_quadratic_multiplies_the_distance_by_one_minus_the_rate() -> None:
    theta = point(w=torch.tensor([3.0, -1.0]))
    for steps in range(4):
        phi = Descend(Constant(0.25), steps)(theta, bowl(theta))
        torch.testing.assert_close(phi["w"] - 1, 0.75**steps * (theta["w"] - 1), **CLOSE)


def test_evaluation_takes_as_many_steps_as_training_by_default() -> None:
    theta = point(w=torch.tensor([3.0]))
    rule = Descend(Constant(0.5), 2, eval_steps=4)
    assert len(list(rule.iterates(theta, bowl(theta)))) == 3
    assert len(list(rule.iterates(theta, bowl(theta, evaluating=True)))) == 5
    assert Descend(Constant(0.5), 2).eval_steps == 2


def test_the_direction_is_applied_to_the_gradient() -> None:
    theta = point(w=torch.tensor([3.0, -1.0]))
    phi = Descend(Constant(0.5), 1, direction=torch.sign)(theta, bowl(theta))
    torch.testing.assert_close(phi["w"], torch.tensor([2.5, -0.5]), **CLOSE)


def test_rates_with_decay_shrink_from_step_to_step() -> None:
    rates = Constant(0.8, decay=0.5)({"w": torch.zeros(1)}, 3, {})
    assert [float(rate["w"]) for rate in rates] == [0.8, 0.4, 0.2]


def test_meta_sgd_steps_by_its_own_rates_and_the_last_rate_repeats() -> None:
    theta = {"a.w": torch.zeros(2), "b.w": torch.zeros(2)}
    per_number = Learned(theta, (0.005, 0.1))
    values = dotted_params(per_number.values)
    assert all(((v >= 0.005) & (v <= 0.1)).all() for v in values.values())
    phi = Descend(per_number, 1)(theta, bowl(theta))
    torch.testing.assert_close(phi, values, **CLOSE)  # theta = 0: the step is the rate itself
    per_step = Learned(theta, 0.1, per="layer_step", steps=2)
    with torch.no_grad():
        per_step.values["a"].copy_(torch.tensor([0.5, 0.25]))
    rates = per_step(theta, 4, {})
    assert [rate["a.w"].item() for rate in rates] == [0.5, 0.25, 0.25, 0.25]
    assert [rate["b.w"].item() for rate in rates] == [0.1] * 4


@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_maml_has_the_query_gradient_at_phi(steps: int) -> None:
    net = NETS[2]
    torch.manual_seed(0)
    model = fomaml(net.build(), inner_steps=steps)
    batch = tasks(net, count=1)
    _, gradients = model.meta_gradient(batch)
    assert isinstance(model, RuleLearner)
    phi = {n: p.detach().requires_grad_() for n, p in model.update(pick(batch.support, 0), {}).items()}
    loss = cross_entropy(model.predict(phi, batch.query.x[0]), batch.query.y[0])
    expected = torch.autograd.grad(loss, list(phi.values()))
    torch.testing.assert_close(gradients, list(expected), **CLOSE)


def test_the_class_sum_is_ways_times_the_mean() -> None:
    output, y = torch.randn(10, 5), torch.arange(5).repeat(2)
    by_hand = F.cross_entropy(output, y, reduction="none").sum() / 2  # over shots: the released code's reduction
    torch.testing.assert_close(class_sum_cross_entropy(output, y), by_hand, **CLOSE)


# T W cells and masks


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_identity_metric_and_open_masks_are_maml_on_the_same_parameters(net: Net) -> None:
    torch.manual_seed(0)
    model, batch = net.build(), tasks(net)
    masked = mtnet(model, inner_steps=2)
    with torch.no_grad():
        for logit in masked.rule.rate.logits.values():  # type: ignore[union-attr]
            logit.fill_(1000.0)
    plain = maml(model, inner_steps=2, adapts=cell_param_names(model))
    torch.testing.assert_close(masked(batch), plain(batch), **CLOSE)
    torch.testing.assert_close(tnet(model, inner_steps=2)(batch), plain(batch), **CLOSE)
    with torch.no_grad():
        for logit in masked.rule.rate.logits.values():  # type: ignore[union-attr]
            logit.fill_(-1000.0)
    still = maml(model, inner_steps=0)
    torch.testing.assert_close(masked(batch), still(batch), **CLOSE)


@pytest.mark.parametrize(
    "conv",
    [
        {"padding": 1},
        {"stride": 2, "bias": False},
        {"padding": 1, "padding_mode": "reflect"},
        {"groups": 2, "padding": "same"},
    ],
    ids=str,
)
def test_a_metric_convolution_is_a_convolution_and_a_one_by_one(conv: dict[str, object]) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(2, 4, 3, **conv)  # type: ignore[arg-type]
    (cell,) = with_metric(nn.Sequential(plain))
    x = torch.randn(2, 2, 6, 6)
    torch.testing.assert_close(cell(x), plain(x), **CLOSE)
    with torch.no_grad():
        cell.metric.normal_()
    torch.testing.assert_close(cell(x), F.conv2d(plain(x), cell.metric[:, :, None, None]), **CLOSE)
    assert {"weight", "metric"} <= set(dict(cell.named_parameters()))


def one_cell(metric: Tensor, *, bias: bool, logits: Tensor | None, rate: float = 0.3) -> RuleLearner:
    """One cell and the squared error of one example; the masks are set by extreme logits."""
    n = len(metric)
    cell = with_metric(nn.Sequential(nn.Linear(4, n, bias=bias)))
    with torch.no_grad():
        cell[0].metric.copy_(metric)  # type: ignore[index]
    names = cell_param_names(cell)
    steps: Constant | Masked = Constant(rate)
    if logits is not None:
        steps = Masked(steps, adaptable(cell, names))
        with torch.no_grad():
            next(iter(steps.logits.values())).copy_(logits)
    return RuleLearner(cell, Descend(steps, 1), mse, adapts=names)


@pytest.mark.parametrize("bias", [True, False])
def test_a_step_moves_the_output_by_the_masked_metric(bias: bool) -> None:
    """Eq. 4.3 with masks: Delta y = -alpha (|x|^2 + 1) T diag(m) T^T grad_y; with m = 1 it spans T's columns."""
    torch.manual_seed(0)
    n, open_rows = 5, torch.tensor([True, False, True, True, False])
    T = torch.randn(n, n)
    model = one_cell(T, bias=bias, logits=torch.where(open_rows, 1000.0, -1000.0))
    moves = []
    for seed in range(8):
        x = torch.randn(1, 4, generator=torch.Generator().manual_seed(seed))
        y = torch.randn(1, n, generator=torch.Generator().manual_seed(100 + seed))
        noise = {name: torch.full(shape, 0.5) for name, shape in model.noise().items()}
        before = model.predict(model.params(), x)[0].detach()
        phi = model.update(Examples(x, y), noise)
        moved = (model.predict(phi, x)[0] - before).detach()
        grad_y = 2 * (before - y[0]) / n
        expected = -0.3 * (x.square().sum() + bias) * T @ torch.diag(open_rows.double()) @ T.T @ grad_y
        torch.testing.assert_close(moved, expected, **CLOSE)
        for name, value in phi.items():  # masked rows do not move, in the weight and in the bias
            held = model.params()[name]
            assert torch.equal(value[~open_rows], held[~open_rows])
            assert not torch.equal(value[open_rows], held[open_rows])
        moves.append(moved)
    span, columns = torch.stack(moves), T[:, open_rows]
    assert torch.linalg.matrix_rank(span) == open_rows.sum()
    assert torch.linalg.matrix_rank(torch.cat([span.T, columns], 1)) == open_rows.sum()


def test_a_metric_on_a_subspace_can_be_built() -> None:
    """Proposition 2: from a basis V of a subspace and a metric G, T makes the step -alpha |x|^2 V G^-1 V^T grad_y."""
    torch.manual_seed(1)
    n, d = 5, 2
    V, factor = torch.randn(n, d), torch.randn(d, d)
    metric = factor @ factor.T + torch.eye(d)
    root = torch.linalg.cholesky(torch.linalg.inv(metric))  # G^-1 = root root^T
    T = torch.cat([V @ root, torch.randn(n, n - d)], 1)
    model = one_cell(T, bias=False, logits=torch.tensor([1e3] * d + [-1e3] * (n - d)))
    x, y = torch.randn(1, 4), torch.randn(1, n)
    noise = {name: torch.full(shape, 0.5) for name, shape in model.noise().items()}
    before = model.predict(model.params(), x)[0].detach()
    moved = model.predict(model.update(Examples(x, y), noise), x)[0].detach() - before
    grad_y = 2 * (before - y[0]) / n
    expected = -0.3 * x.square().sum() * V @ torch.linalg.inv(metric) @ V.T @ grad_y
    torch.testing.assert_close(moved, expected, **CLOSE)


def test_the_hard_mask_has_the_straight_through_gradient() -> None:
    r"""dL/dzeta = dL/dm (at the hard m) times the slope of sigma((zeta + logit u) / c)."""
    torch.manual_seed(0)
    zeta, u, c = torch.randn(4), torch.rand(4), 0.7
    params = {"fc.weight": torch.randn(4, 3), "fc.bias": torch.randn(4)}
    rate = Masked(Constant(0.2), params, temperature=c)
    with torch.no_grad():
        rate.logits["fc/rows4"].copy_(zeta)
    phi = Descend(rate, 2)(params, bowl(params, {"mask.fc.rows4": u}))
    outer = sum((p * p).sum() for p in phi.values())
    (given,) = torch.autograd.grad(outer, list(rate.parameters()))

    s = ((zeta + (u / (1 - u)).log()) / c).sigmoid()
    m = (s > 0.5).double().requires_grad_()
    by_hand = {}
    for name, p in params.items():
        gate = m[:, None] if p.ndim == 2 else m
        by_hand[name] = p
        for _ in range(2):
            by_hand[name] = by_hand[name] - 0.2 * gate * (by_hand[name] - 1)
    torch.testing.assert_close(phi, by_hand, **CLOSE)
    (slope,) = torch.autograd.grad(sum((p * p).sum() for p in by_hand.values()), m)
    torch.testing.assert_close(given, slope * s * (1 - s) / c, **CLOSE)


def test_masks_are_bernoulli_and_a_row_shares_its_bias() -> None:
    net = Net("wide", lambda: mlp(4, 3, hidden=(200,)), (4,))
    torch.manual_seed(0)
    model, batch = mtnet(net.build()), tasks(net, count=40)
    masked = model.rule.rate  # type: ignore[union-attr]
    with torch.no_grad():
        masked.logits["layer0/rows200"].fill_(1.0)
    noise = model.draw(batch)
    drawn = torch.stack([masked.masks(pick(noise, i))["layer0.rows200"] for i in range(40)])
    share, sd = torch.tensor(1.0).sigmoid(), (0.7311 * 0.2689 / 8000) ** 0.5
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert abs(drawn.mean() - share) < 4 * sd  # one in 16 000 seeds would fail; this seed is fixed
    rates = masked(dict(model.params().items()), 3, pick(noise, 0))  # type: ignore[operator]
    gate = drawn[0] * 0.1
    for rate in rates:  # the same mask for every step, shared by the row and its bias
        torch.testing.assert_close(rate["layer0.weight"], gate[:, None], **CLOSE)
        torch.testing.assert_close(rate["layer0.bias"], gate, **CLOSE)


# Wormhole


@pytest.mark.parametrize("name", [name for name in CHARTS if name not in ("tanh", "low_rank_literal")])
def test_a_gain_of_one_that_takes_no_step_is_maml(name: str) -> None:
    for net in NETS:
        torch.manual_seed(0)
        model, batch = net.build(), tasks(net)
        gained = wormhole(model, chart=name, gain_steps=0, inner_steps=2)
        torch.testing.assert_close(gained(batch), maml(model, inner_steps=2)(batch), **CLOSE)


def test_a_saturated_tanh_that_takes_no_step_is_maml() -> None:
    net = NETS[0]
    torch.manual_seed(0)
    model, batch = net.build(), tasks(net)
    with pytest.warns(UserWarning, match="flat"):
        gained = wormhole(model, start=25.0, gain_steps=0)
    torch.testing.assert_close(gained(batch), maml(model)(batch), **CLOSE)


@settings(max_examples=30, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3),
    name=st.sampled_from([name for name in CHARTS if name not in ("tanh", "low_rank_literal")]),
    rank=st.integers(1, 3),
)
def test_every_chart_starts_at_the_identity(shapes: list[list[int]], name: str, rank: int) -> None:
    params = {f"layer{i}.weight": torch.randn(shape) for i, shape in enumerate(shapes)}
    made: Chart = make_chart(name, params, rank=rank)
    torch.testing.assert_close(made(made.start(params), params), params, rtol=0, atol=0)


def test_the_low_rank_gain_has_that_rank() -> None:
    params = {"w": torch.randn(3, 4)}
    made = make_chart("low_rank", params, rank=2)
    t = {name: torch.randn_like(value) for name, value in made.start(params).items()}
    C = torch.stack([made(t, {"w": e.reshape(3, 4)})["w"].reshape(-1) for e in torch.eye(12)], 1)
    assert torch.linalg.matrix_rank(C - torch.eye(12)) == 2
    literal = make_chart("low_rank_literal", params, rank=2)
    t = literal.start(params)
    C = torch.stack([literal(t, {"w": e.reshape(3, 4)})["w"].reshape(-1) for e in torch.eye(12)], 1)
    assert torch.linalg.matrix_rank(C) == 2


def slope_task(sign: float) -> Examples:
    x = torch.linspace(-1, 1, 9)[:, None]
    return Examples(x, sign * x)


def test_a_gain_finds_the_sign_of_a_task() -> None:
    """y = +-x with theta = 1: C must become +-1, which tanh approaches."""
    model = RuleLearner(nn.Linear(1, 1, bias=False), Rescale(Descend(Constant(5.0), 100), Tanh(), ["weight"]), mse)
    with torch.no_grad():
        model.head.weight.fill_(1.0)  # type: ignore[union-attr, operator]
    for sign in (1.0, -1.0):
        assert float(model.update(slope_task(sign), {})["weight"].detach()) == pytest.approx(sign, abs=0.02)


def test_gradients_of_opposite_tasks_cancel_without_a_gain_and_agree_with_it() -> None:
    """Why Wormhole works: the outer gradients of the tasks +-x cancel in MAML, and agree after C has found the sign."""
    half = [slope_task(1.0), slope_task(-1.0)]
    both = Examples(torch.stack([h.x for h in half]), torch.stack([h.y for h in half]))
    batch = Task(both, both, torch.arange(2), {})
    cosines = {}
    for name, rule in {
        "descent": Descend(Constant(0.01), 1),
        "gain": Chain([Rescale(Descend(Constant(5.0), 10), Tanh(), ["weight"]), Descend(Constant(0.01), 1)]),
    }.items():
        model = RuleLearner(nn.Linear(1, 1, bias=False), rule, mse)
        with torch.no_grad():
            model.head.weight.fill_(0.3)  # type: ignore[union-attr, operator]
        own = model.task_gradients(batch)["head.weight"].reshape(2, -1)
        cosines[name] = float(F.cosine_similarity(own[0], own[1], dim=0))
    assert cosines == {"descent": pytest.approx(-1.0), "gain": pytest.approx(1.0)}


def test_the_literal_reading_is_c_theta_plus_delta_of_theta() -> None:
    theta = point(w=torch.tensor([3.0, -1.0]))
    gain, descend = Rescale(Descend(Constant(0.1), 2), Scalar(), ["w"]), Descend(Constant(0.25), 1)
    literal = Mix([gain, descend], weights=[1.0, 1.0])(theta, bowl(theta))
    delta = descend(theta, bowl(theta))["w"] - theta["w"]
    torch.testing.assert_close(literal["w"], gain(theta, bowl(theta))["w"] + delta, **CLOSE)


def test_algorithm_1_takes_its_gradients_before_c_moves() -> None:
    """Lines 6 to 8 with C = c on the quadratic: g at c0 theta; c - gamma theta.g; phi = c theta - alpha g."""
    theta = torch.tensor([3.0, -1.0])
    g = theta - 1
    rates = ByName({"gain:": Constant(0.2), "": Constant(0.25)})
    phi = GainAndShift(Descend(rates, 1), Scalar(), ["w"])(point(w=theta), bowl({}))["w"]
    torch.testing.assert_close(phi, (1 - 0.2 * theta @ g) * theta - 0.25 * g, **CLOSE)


def test_where_c_flips_the_shift_follows_the_gradient_and_theta_under_c_does_not() -> None:
    """theta = 3 has g = 2, and c moves from 1 to -.8: the step of .1 is -.1 g for the shift and +.8 (.1 g) under C."""
    rates = ByName({"gain:": Constant(0.3), "": Constant(0.1)})
    shifted, under = (
        rule(Descend(rates, 1), Scalar(), ["w"])(point(w=torch.tensor([3.0])), bowl({}))["w"]
        for rule in (GainAndShift, Coadapt)
    )
    torch.testing.assert_close(shifted, torch.tensor([-2.4 - 0.2]), **CLOSE)
    torch.testing.assert_close(under, torch.tensor([-2.4 + 0.16]), **CLOSE)


def test_annealing_uses_the_slope_of_each_step() -> None:
    theta, t = torch.tensor([3.0, -1.0]), torch.tensor(0.5, requires_grad=True)
    for beta in (1.0, 2.0, 4.0):
        (slope,) = torch.autograd.grad(0.5 * ((beta * t).tanh() * theta - 1).square().sum(), t)
        t = (t - 0.1 * slope).detach().requires_grad_(True)
    rule = Anneal(Descend(Constant(0.1), 3), [Tanh(0.5, beta) for beta in (1.0, 2.0, 4.0)], ["w"])
    torch.testing.assert_close(rule.find(point(w=theta), bowl({}))["t"], t.detach(), **CLOSE)
    torch.testing.assert_close(rule(point(w=theta), bowl({}))["w"], (4 * t.detach()).tanh() * theta, **CLOSE)
    drawn = [chart.slope for chart in wormhole(NETS[0].build(), sharpen=4.0, gain_steps=3).rule.rules[0].charts]  # type: ignore[index, union-attr]
    assert drawn == [1.0, 2.5, 4.0]


def test_the_gain_by_hand() -> None:
    """One number c on the quadratic: dL/dc = theta . (c theta - 1)."""
    theta = torch.tensor([3.0, -1.0])
    c = torch.tensor(1.0)
    for _ in range(3):
        c = c - 0.05 * theta @ (c * theta - 1)
    found = Rescale(Descend(Constant(0.05), 3), Scalar(), ["w"]).find(point(w=theta), bowl({}))
    torch.testing.assert_close(found["c"], c, **CLOSE)


def test_first_order_gain_keeps_only_the_product() -> None:
    theta = torch.tensor([3.0, -1.0], requires_grad=True)
    for first_order in (False, True):
        rule = Rescale(Descend(Constant(0.05), 3, first_order=first_order), Scalar(), ["w"])
        c = float(rule.find(point(w=theta), bowl({}))["c"].detach())
        (g,) = torch.autograd.grad(rule(point(w=theta), bowl({}))["w"].sum(), theta)
        assert torch.allclose(g, torch.full((2,), c)) == first_order


def test_the_default_scope_is_the_last_linear_layer_and_a_scope_before_norms_is_refused() -> None:
    net = NETS[1]
    model = wormhole(net.build())
    assert model.rule.rules[0].scope == ("head.weight", "head.bias")  # type: ignore[index, union-attr]
    with pytest.raises(InputError, match="straight into a norm"):
        wormhole(net.build(), scope="block*.conv.*")
    wormhole(net.build(), scope=["block*.conv.*", "head.*"])
    with pytest.raises(InputError, match="matched none"):
        wormhole(net.build(), scope="classifier.*")


# HyperMAML


def hyper(weights: list[float], mix: type[Mix] = Mix) -> tuple[RuleLearner, Task]:
    torch.manual_seed(0)
    head = linear(4, 3)
    emit = Emit(ClassHypernet(adaptable(head, "*"), width=8))
    return RuleLearner(head, mix([emit, Descend(Constant(0.3), 1)], weights), cross_entropy), tasks(NETS[0])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_equation_7(share: float) -> None:
    """theta + lambda H + (1 - lambda) (-alpha grad), lambda = 0, 1/2, 1."""
    model, batch = hyper([share, 1 - share])
    support = pick(batch.support, 0)
    theta = model.params()
    guess = F.linear(support.x, theta["head.weight"], theta["head.bias"]).softmax(-1)
    emitted = model.rule.rules[0].network(support.x, guess, support.y)  # type: ignore[index, union-attr]
    loss = cross_entropy(F.linear(support.x, theta["head.weight"], theta["head.bias"]), support.y)
    grads = dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))
    by_hand = {n: p + share * emitted[n] - (1 - share) * 0.3 * grads[n] for n, p in theta.items()}
    torch.testing.assert_close(model.update(support, {}), by_hand, **CLOSE)


def test_a_branch_of_weight_zero_is_not_run() -> None:
    class Fails(Rule):
        def forward(self, params: Params, objective: Objective) -> Params:
            raise AssertionError("run")

    theta = point(w=torch.tensor([3.0]))
    mixed = Mix([Fails(), Descend(Constant(1.0), 1)], [0.0, 1.0])
    torch.testing.assert_close(mixed(theta, bowl(theta))["w"], torch.tensor([1.0]), **CLOSE)


def test_appendix_b_adds_up_two_losses() -> None:
    together, batch = hyper([0.3, 0.7], MixLosses)
    emitted, _ = hyper([1.0, 0.0])
    descended, _ = hyper([0.0, 1.0])
    by_hand = 0.3 * emitted(batch).loss + 0.7 * descended(batch).loss
    torch.testing.assert_close(together(batch).loss, by_hand, **CLOSE)


def test_the_gradient_of_theta_does_not_pass_through_the_guesses() -> None:
    """The outer gradient is that of theta + H(features, fixed guesses, labels)."""
    model, batch = hyper([1.0, 0.0])
    _, given = model.meta_gradient(batch)
    theta = model.params()
    losses = []
    for i in range(len(batch.key)):
        (x, y), (xq, yq) = pick((batch.support, batch.query), i)
        guess = F.linear(x, theta["head.weight"], theta["head.bias"]).softmax(-1).detach()
        delta = model.rule.rules[0].network(x, guess, y)  # type: ignore[index, union-attr]
        phi = {n: p + delta[n] for n, p in theta.items()}
        losses.append(cross_entropy(F.linear(xq, phi["head.weight"], phi["head.bias"]), yq))
    by_hand = torch.autograd.grad(torch.stack(losses).mean(), list(model.meta_params().values()))
    torch.testing.assert_close(given, list(by_hand), **CLOSE)


@pytest.mark.parametrize(("labels", "columns"), [("one_hot", 4 + 3 + 3), ("index", 4 + 3 + 1)])
def test_the_hypernetwork_reads_the_mean_of_each_class(labels: str, columns: int) -> None:
    torch.manual_seed(0)
    network = ClassHypernet({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}, width=8, labels=labels)
    assert network.layers[0].in_features == columns
    x, guess, y = torch.randn(6, 4), torch.rand(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    delta = network(x, guess, y)
    for way in range(3):
        label = torch.eye(3)[way] if labels == "one_hot" else torch.tensor([float(way)])
        row = torch.cat([x[y == way].mean(0), guess[y == way].mean(0), label])
        out = network.layers(row)
        torch.testing.assert_close(torch.cat([delta["weight"][way], delta["bias"][way, None]]), out, **CLOSE)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_enhancement_and_depth(layers: int) -> None:
    network = ClassHypernet({"weight": torch.zeros(3, 4)}, width=8, hidden_layers=layers, enhance=False)
    assert network.layers[0].in_features == 4 + 3
    assert sum(isinstance(m, nn.Linear) for m in network.layers) == layers + 1


def test_the_body_runs_outside_the_rule_and_is_trained() -> None:
    net = NETS[1]
    for build in (anil, hypermaml):
        torch.manual_seed(0)
        model = build(net.build())
        assert isinstance(model, RuleLearner) and model.body is not None
        assert set(model.adapts) == {"weight", "bias"}
        _, gradients = model.meta_gradient(tasks(net))
        body = [g for g, n in zip(gradients, model.meta_params(), strict=True) if n.startswith("body.")]
        # The bias of a convolution before a batch norm has no effect: its gradient is zero, but it exists.
        assert body and all(g is not None for g in body)


# Composition


@settings(max_examples=25, deadline=None)
@given(a=st.floats(0, 1), b=st.floats(0, 1), steps=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_chains_are_associative_and_mixes_are_linear(a: float, b: float, steps: tuple[int, int]) -> None:
    theta = point(w=torch.tensor([3.0, -1.0]))
    f, g, h = (Descend(Constant(r), s) for r, s in zip((a, b, 0.5), (*steps, 1), strict=True))
    left, right = Chain([Chain([f, g]), h]), Chain([f, Chain([g, h])])
    torch.testing.assert_close(left(theta, bowl(theta)), right(theta, bowl(theta)), **CLOSE)
    mixed = Mix([f, g], weights=[a, b])(theta, bowl(theta))["w"]
    ends = [r(theta, bowl(theta))["w"] for r in (f, g)]
    by_hand = a * ends[0] + b * ends[1] + (1 - a - b) * theta["w"]
    torch.testing.assert_close(mixed, by_hand, rtol=1e-6, atol=1e-6)  # the weights are in single precision


def test_noise_of_parts_does_not_mix() -> None:
    params = {"fc.weight": torch.zeros(3, 2), "fc.bias": torch.zeros(3)}
    chain = Chain([Descend(Masked(Constant(1.0), params), 1), Descend(Masked(Constant(1.0), params), 1)])
    assert set(chain.noise(params)) == {"0.mask.fc.rows3", "1.mask.fc.rows3"}


def test_options_reach_the_rule() -> None:
    net = NETS[0]
    model = meta_sgd(net.build(), per="layer", inner_lr=0.3)
    assert {float(v.detach()) for v in model.rule.rate.values.values()} == {0.3}  # type: ignore[union-attr]


def test_an_enormous_number_of_steps_is_refused_before_memory_is_taken_for_it():
    with pytest.raises(InputError, match="at most 1000000 gradient steps"):
        Descend(Constant(0.1), 1, eval_steps=2**64)
