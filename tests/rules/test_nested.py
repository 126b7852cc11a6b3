"""Rules inside rules that no recipe has, against loops by hand, and parts that cannot be joined. Float64."""

import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from quickstudy import (
    Chain,
    Coadapt,
    Constant,
    Descend,
    Engine,
    Examples,
    InputError,
    Learned,
    LowRank,
    Masked,
    Mix,
    MixLosses,
    Params,
    Rescale,
    Rule,
    RuleLearner,
    Scalar,
    Tanh,
    Task,
)
from quickstudy.methods.mamlpp import MultiStep
from quickstudy.rules.along_path import AlongPath
from quickstudy.rules.base import Rate
from quickstudy.rules.criteria import mse
from quickstudy.rules.descend import ByName
from quickstudy.rules.gated import Gated
from quickstudy.rules.gaussian_emit import GaussianEmit
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import adaptable
from quickstudy.rules.rescale import Anneal
from quickstudy.rules.sign import SampledSign
from quickstudy.types import pick

pytestmark = pytest.mark.usefixtures("double")

SHAPES = {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 4), "2.bias": (2,)}
ENGINES = {"vmap": lambda: Engine("vmap"), "loop": lambda: Engine("loop"), "again": lambda: Engine(recompute=True)}
every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def batch(count: int = 3) -> Task:
    draw = torch.Generator().manual_seed(1)

    def examples(n: int) -> Examples:
        return Examples(
            torch.randn(count, n, 3, generator=draw).double(), torch.randn(count, n, 2, generator=draw).double()
        )

    return Task(examples(6), examples(5), torch.arange(count), {})


def by_hand(p: Params, x: Tensor) -> Tensor:
    return torch.tanh(x @ p["0.weight"].T + p["0.bias"]) @ p["2.weight"].T + p["2.bias"]


def slopes(loss: Callable[[Params], Tensor], at: Params) -> Params:
    names = list(at)
    return dict(zip(names, torch.autograd.grad(loss(at), [at[n] for n in names], create_graph=True), strict=True))


def stop(p: Params) -> Params:
    return {name: value.detach().requires_grad_() for name, value in p.items()}


def compare(
    rule: Rule, hand: Callable[[Params, Callable[[Params], Tensor], Callable[[Params], Tensor]], Tensor], engine: Engine
) -> None:
    """Losses and meta-gradients of every task against `hand(theta, support loss, query loss)`."""
    learner = RuleLearner(net(), rule, mse, engine=engine)
    tasks = batch()
    outcome, gradients = learner.meta_gradient(tasks)
    theta = {name: p.detach().clone().requires_grad_() for name, p in net().named_parameters()}
    losses = []
    for s_x, s_y, q_x, q_y in zip(tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y, strict=True):
        losses.append(
            hand(
                theta,
                lambda p, x=s_x, y=s_y: (by_hand(p, x) - y).square().mean(),  # type: ignore[misc]
                lambda p, x=q_x, y=q_y: (by_hand(p, x) - y).square().mean(),  # type: ignore[misc]
            )
        )
    wanted = torch.autograd.grad(torch.stack(losses).mean(), list(theta.values()))
    torch.testing.assert_close(outcome.loss, torch.stack(losses).detach(), rtol=1e-12, atol=1e-13)
    found = dict(zip(learner.meta_params(), gradients, strict=True))
    for name, gradient in zip(theta, wanted, strict=True):
        torch.testing.assert_close(found[f"head.{name}"], gradient, rtol=1e-10, atol=1e-12)


# What training adds up, inside other rules


@every_engine
def test_a_gain_whose_chart_changes_trains_along_the_path(engine: Callable[[], Engine]) -> None:
    """Eq. 7 of WarpGrad on t, with beta 1, 2, 2 at the steps."""

    def hand(theta: Params, support: Callable[[Params], Tensor], query: Callable[[Params], Tensor]) -> Tensor:
        def scaled(t: Tensor, beta: float) -> Params:
            return theta | {"2.weight": torch.tanh(beta * t) * theta["2.weight"]}

        t, total = torch.tensor(1.0, dtype=torch.float64, requires_grad=True), torch.zeros(())
        for k, beta in enumerate((1.0, 2.0, 2.0)):
            t = t if k == 0 else t.detach().requires_grad_()
            t = t - 0.7 * torch.autograd.grad(support(scaled(t, beta)), t, create_graph=True)[0]
            total = total + query(scaled(t, 2.0)) / 3
        return total

    charts = [Tanh(slope=1.0), Tanh(slope=2.0)]
    compare(Anneal(AlongPath(Constant(0.7), 3), charts, ["2.weight"]), hand, engine())


@every_engine
@pytest.mark.parametrize("branch", ["along the path", "every step"])
def test_mixed_losses_take_every_endpoint_of_a_branch(engine: Callable[[], Engine], branch: str) -> None:
    def hand(theta: Params, support: Callable[[Params], Tensor], query: Callable[[Params], Tensor]) -> Tensor:
        total, p = torch.zeros(()), theta
        for k, weight in enumerate((0.25, 0.25, 0.5) if branch == "every step" else (1 / 3,) * 3):
            p = stop(p) if k and branch != "every step" else p
            g = slopes(support, p)
            p = {name: value - 0.2 * g[name] for name, value in p.items()}
            total = total + weight * query(p)
        g = slopes(support, theta)
        return 0.3 * total + 0.7 * query({name: value - 0.1 * g[name] for name, value in theta.items()})

    path: Rule = AlongPath(Constant(0.2), 3)
    if branch == "every step":
        path = MultiStep(Constant(0.2), [0.25, 0.25, 0.5])
    compare(MixLosses([path, Descend(Constant(0.1), 1)], [0.3, 0.7]), hand, engine())


def test_mixed_losses_take_every_draw_of_an_emission() -> None:
    class Same(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def forward(self, x: Tensor, guess: Tensor, y: Tensor) -> Params:
            return {name: torch.full(shape, self.by) for name, shape in SHAPES.items()}

    emission = GaussianEmit(Same(0.1), Same(0.0), log_variance=-4.0, draws=3)
    alone, mixed = (
        RuleLearner(net(), rule, mse)
        for rule in (Chain([emission]), MixLosses([emission, Mix([emission], [0.0])], [0.4, 0.6]))
    )
    tasks = batch()
    stay = RuleLearner(net(), Mix([Descend(Constant(0.0), 1)], [1.0]), mse)
    torch.testing.assert_close(mixed(tasks).loss, 0.4 * alone(tasks).loss + 0.6 * stay(tasks).loss)


def test_no_weight_at_all_is_a_loss_of_nothing() -> None:
    rule = MixLosses([Descend(Constant(0.1), 1), Descend(Constant(0.2), 1)], [0.0, 0.0])
    learner = RuleLearner(net(), rule, mse)
    assert learner(batch()).loss.tolist() == [0.0, 0.0, 0.0]
    evaluated = learner(batch(), evaluating=True).loss
    assert torch.equal(evaluated, RuleLearner(net(), Descend(Constant(0.1), 0), mse)(batch()).loss)


@every_engine
def test_values_of_each_step_train_along_the_path(engine: Callable[[], Engine]) -> None:
    """The scale and bias of each step are read at that step; the steps start from constants."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    learner = RuleLearner(model, AlongPath(Constant(0.1), 3), mse, norms="per_step", engine=engine())
    with torch.no_grad():
        for value in learner.rule.later.values():  # type: ignore[operator,union-attr]
            value.add_(0.1 * torch.arange(value.numel()).reshape(value.shape))
    tasks = batch()
    found = learner(tasks).loss
    start = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    later = {name: value.detach() for name, value in learner.rule.later.items()}  # type: ignore[operator,union-attr]
    norm = list(later)

    def loss(p: Params, half: Examples) -> Tensor:
        x, y = half
        h = x @ p["0.weight"].T + p["0.bias"]
        h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
        return (torch.tanh(h * p["1.weight"] + p["1.bias"]) @ p["3.weight"].T + p["3.bias"] - y).square().mean()

    for number in range(3):
        support, query = pick(tasks.support, number), pick(tasks.query, number)
        theta, total = {n: p for n, p in start.items() if n not in norm}, 0.0
        for k in range(3):
            beta = {n: start[n] if k == 0 else later[n][k - 1] for n in norm}
            g = slopes(lambda p, b=beta, own=support: loss(p | b, own), theta)  # type: ignore[misc]
            theta = stop({n: p - 0.1 * g[n] for n, p in theta.items()})
            total += loss(theta | beta, query).item() / 3
        assert found[number].item() == pytest.approx(total, rel=1e-12)


class OwnEndpoints(Descend):
    """A user's rule whose training is its own."""

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        return [(0.5, p) for p in self.iterates(params, objective)]


def per_step(rule: Rule) -> RuleLearner:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return RuleLearner(model, rule, mse, norms="per_step")


@pytest.mark.parametrize("make", [
    lambda rule: Anneal(rule, [Tanh()], ["2.weight"]),
    per_step,
])  # fmt: skip
def test_what_would_be_passed_by_is_refused(make: Callable[[Rule], object]) -> None:
    with pytest.raises(InputError, match="OwnEndpoints by `trained_iterates` and `weigh`.*`endpoints` of its own"):
        make(OwnEndpoints(Constant(0.1), 2))
    with pytest.raises(InputError, match="need a rule of gradient steps, not a Chain"):
        make(Chain([Descend(Constant(0.1), 2)]))


# Noise and observations of parts that are alike


@pytest.mark.parametrize("full", [False, True], ids=["rows", "weights"])
def test_a_mask_in_a_mask_draws_for_itself(full: bool) -> None:
    model = net()
    own = adaptable(model, "*")
    inner = Masked(Constant(0.2), own, per_weight=full)
    outer = Masked(inner, own, per_weight=full)
    learner = RuleLearner(model, Descend(outer, 1), mse)
    tasks = batch(400)
    noise = learner.draw(tasks, 0)
    group = "0.weight" if full else "0.rows4"
    both = noise[f"mask.{group}"] < 0.5, noise[f"rate.mask.{group}"] < 0.5
    assert abs((both[0] & both[1]).double().mean() - 0.25) < 0.05
    moved = learner.observe(tasks)["update.0.bias"]
    group = "0.bias" if full else "0.rows4"

    def drawn(mask: Masked, mark: str) -> Tensor:
        own = {name.removeprefix(mark): value for name, value in noise.items() if name.startswith(mark)}
        return torch.stack([mask.masks(pick(own, i))[group] for i in range(400)])

    assert torch.equal(moved > 0, (drawn(outer, "") * drawn(inner, "rate.")).sum(1) > 0)
    assert learner.observe(tasks).keys() >= {f"mask.{group}", f"rate.mask.{group}"}


@pytest.mark.parametrize("make", [Chain, lambda rules: Mix(rules, [0.5, 0.5])])
def test_parts_that_observe_the_same_are_told_apart(make: Callable[[Sequence[Rule]], Rule]) -> None:
    gains = [Rescale(Descend(Constant(0.7), 2), Tanh(), [name]) for name in ("2.weight", "0.weight")]
    learner = RuleLearner(net(), make(gains), mse)
    observed = learner.observe(batch())
    assert {"0.gain.t", "1.gain.t"} <= observed.keys() and "gain.t" not in observed
    alone = RuleLearner(net(), gains[0], mse).observe(batch())
    assert torch.equal(observed["0.gain.t"], alone["gain.t"])


# Weights that are learned


class LearnedMix(Mix):
    """A Mix with weights that train."""

    def __init__(self, rules: Sequence[Rule], weights: Sequence[float]) -> None:
        super().__init__(rules, weights)
        del self.weights
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float64))


def test_a_learned_weight_may_leave_zero() -> None:
    rule = LearnedMix([Descend(Constant(0.3), 1), Descend(Constant(0.1), 2)], [0.0, 0.5])
    learner = RuleLearner(net(), rule, mse)
    tasks = batch()
    _, gradients = learner.meta_gradient(tasks)
    found = dict(zip(learner.meta_params(), gradients, strict=True))["rule.weights"]
    assert found is not None
    for i in range(2):
        ends = []
        for step in (-1e-6, 1e-6):
            with torch.no_grad():
                rule.weights[i] += step
            ends.append(learner(tasks).loss.mean().item())
            with torch.no_grad():
                rule.weights[i] -= step
        assert found[i].item() == pytest.approx((ends[1] - ends[0]) / 2e-6, rel=1e-6)


# Parts of a user's own that do not fit


class Rates(Rate):
    """One step size, so many times whatever is asked for."""

    def __init__(self, count: int, leave_out: str = "") -> None:
        super().__init__()
        self.count, self.leave_out = count, leave_out

    def forward(self, params: Params, steps: int, noise: object) -> Sequence[Params]:
        return [{n: torch.tensor(0.1) for n in params if n != self.leave_out}] * self.count


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("make", [
    lambda rate: Descend(rate, 3),
    lambda rate: AlongPath(rate, 3),
    lambda rate: Descend(ByName({"0.": Constant(0.1), "": rate}), 3),
    lambda rate: Descend(Masked(rate, adaptable(net(), "*")), 3),
])  # fmt: skip
def test_a_rate_of_other_steps_is_refused(make: Callable[[Rate], Rule], count: int) -> None:
    learner = RuleLearner(net(), make(Rates(count)), mse)
    with pytest.raises(InputError, match=f"Rates gave rates for {count} steps, and the rule takes 3"):
        learner(batch())


def test_a_rate_that_leaves_a_parameter_out_is_refused() -> None:
    for rule in (Descend(Rates(2, "2.bias"), 2), Gated(Descend(Constant(0.1), 1), Rates(1, "2.bias"))):
        with pytest.raises(InputError, match=r"Rates gave no rate for 2\.bias"):
            RuleLearner(net(), rule, mse)(batch())


class Gives(Rule):
    """A rule that gives what a function makes of the parameters."""

    def __init__(self, make: Callable[[Params], Params]) -> None:
        super().__init__()
        self.make = make

    def forward(self, params: Params, objective: Objective) -> Params:
        return self.make(params)


MISFITS = {
    "a shape": (lambda p: p | {"2.bias": p["2.bias"].sum()}, r"It gave 2\.bias of shape \(\), not \(2,\)"),
    "missing": (lambda p: {n: v for n, v in p.items() if n != "0.weight"}, r"It gave no 0\.weight"),
    "spare": (lambda p: p | {"2.wieght": p["2.weight"]}, r"It gave 2\.wieght, which does not adapt"),
    "a wider shape": (lambda p: p | {"2.bias": p["2.bias"].expand(5, 2)}, r"It gave 2\.bias of shape \(5, 2\)"),
}


@every_engine
@pytest.mark.parametrize(("make", "said"), MISFITS.values(), ids=MISFITS)
def test_a_rule_that_gives_other_parameters_is_refused(
    make: Callable[[Params], Params], said: str, engine: Callable[[], Engine]
) -> None:
    tasks = batch()
    for call in (
        lambda own: own(tasks),
        lambda own: own(tasks, evaluating=True),
        lambda own: own.adapt(Examples(tasks.support.x[0], tasks.support.y[0])),
        lambda own: own.meta_gradient(tasks),
    ):
        with pytest.raises(InputError, match=said):
            call(RuleLearner(net(), Gives(make), mse, engine=engine(), allow_unused=True))


class Chart2(Scalar):
    """A chart that gives what a function makes of C theta."""

    def __init__(self, make: Callable[[Params], Params]) -> None:
        super().__init__()
        self.make = make

    def forward(self, t: Params, params: Params) -> Params:
        return self.make(super().forward(t, params))


@pytest.mark.parametrize("wrap", [Rescale, Coadapt, lambda inner, chart, scope: Anneal(inner, [chart], scope)])
@pytest.mark.parametrize(("make", "said"), [
    (lambda p: p | {"0.bias": torch.zeros(4)}, r"0\.bias too"),
    (lambda p: {}, r"2\.weight not"),
    (lambda p: {"2.wieght": p["2.weight"]}, r"2\.wieght too and 2\.weight not"),
])  # fmt: skip
def test_a_chart_that_leaves_its_scope_is_refused(
    wrap: Callable[..., Rule], make: Callable[[Params], Params], said: str
) -> None:
    rule = wrap(Descend(Constant(0.1), 1), Chart2(make), ["2.weight"])
    with pytest.raises(InputError, match=f"Chart2 gave .* for other parameters than those in scope: {said}"):
        RuleLearner(net(), rule, mse)(batch())


WRONG = {
    "an empty scope": (lambda: Rescale(Descend(Constant(0.1), 1), Tanh(), []), "`scope` is empty"),
    "a sign of nothing": (lambda: SampledSign(Descend(Constant(0.1), 1), []), "`scope` is empty"),
    "no charts": (lambda: Anneal(Descend(Constant(0.1), 1), [], ["2.weight"]), "`charts` is empty"),
    "no number": (lambda: Constant(float("nan")), "is a finite number"),
    "no steps of their own": (lambda: Learned(adaptable(net(), "*"), 0.1, per="layer_step", steps=0), "`steps` was 0"),
    "a rate that is shadowed": (
        lambda: RuleLearner(net(), Descend(ByName({"": Constant(0.1), "2.": Constant(1.0)}), 1), mse),
        r"The rate of '2\.' is left with no parameter",
    ),
    "a rate of nothing": (
        lambda: RuleLearner(net(), Descend(ByName({"3.": Constant(1.0), "": Constant(0.1)}), 1), mse),
        r"The rate of '3\.' is left with no parameter",
    ),
    "a factor of others": (
        lambda: RuleLearner(
            net(), Rescale(Descend(Constant(0.1), 1), LowRank(adaptable(net(), "0.*"), 1), ["2.weight"]), mse
        ),
        "A low-rank gain was built for other parameters",
    ),
}


@pytest.mark.parametrize(("make", "said"), WRONG.values(), ids=WRONG)
def test_parts_that_cannot_be_joined_are_named(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


COPY = (
    "takes a copy of the numbers that it is given, so they would not be learned. Give plain numbers; for learned ones "
    "write a class of your own that holds the nn.Parameter (for a rate there is `Learned`)."
)
NO_PARTS = """
import torch
from quickstudy import *
from quickstudy.rules.gated import Gated
number = torch.nn.Parameter(torch.tensor(0.5))
for make in (
    lambda: Descend(0.1, 1), lambda: Descend(Constant(0.1), 1.5), lambda: Descend(Constant, 1),
    lambda: Chain([Constant(0.1)]), lambda: Chain(Descend(Constant(0.1), 1)), lambda: Constant("abc"),
    lambda: Gated(Constant(0.1), Constant(0.1)), lambda: Rescale(Constant(0.1), Tanh(), ["a"]),
    lambda: Rescale(Descend(Constant(0.1), 1), Tanh, ["a"]), lambda: ByName({"": 0.1}),
    lambda: Constant(number), lambda: Mix([Descend(Constant(0.1), 1)], [number]),
    lambda: Mix([Descend(Constant(0.1), 1)], torch.nn.Parameter(torch.ones(1))),
    lambda: LoRA(torch.nn.Linear(3, 3), r=2.0, targets=[""]), lambda: maml(torch.nn.Linear(3, 3), adapts=3),
):
    try:
        made = make()
    except InputError as refusal:
        print(refusal)
print(Mix([Descend(Constant(0.1), 1)], torch.ones(1)).weights.tolist())
"""


def test_what_is_no_part_is_named() -> None:
    """In a process of its own, as a user has it: the types of arguments are not checked there."""
    done = subprocess.run([sys.executable, "-c", NO_PARTS], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "The rate of gradient steps is a Rate, such as Constant(0.01); 0.1 was given.",
        "`steps` was 1.5; it counts gradient steps, so give a whole number.",
        "The rate of gradient steps is a Rate, such as Constant(0.01); Constant was given.",
        "Each part of a Chain is a Rule, such as Descend(Constant(0.01), 1); a Constant was given.",
        "Chain takes a list of rules: Chain([rule, ...]); a Descend was given.",
        "A constant rate is a number, such as 0.01, not 'abc' (decay 1.0).",
        "What is gated is a Rule, such as Emit(network); a Constant was given.",
        "What finds a gain is a Rule, such as Descend(Constant(1.0), 1); a Constant was given.",
        "What a gain means is a Chart, such as Tanh(); Tanh was given.",
        "The rate of '' is a Rate, such as Constant(0.01); 0.1 was given.",
        f"A constant rate {COPY}",
        f"A Mix {COPY}",
        f"A Mix {COPY}",
        "`r` was 2.0; a rank is a whole number of at least 1.",
        "`adapts` was 3; give a pattern such as 'head.*', a list of names, or a predicate.",
        "[1.0]",
    ]
