"""The laws for methods that are learners of their own, and their formulas written out by hand.

A method is added by one line in `BASELINES`. Float64; tolerances and the step of the central difference are those of
test_laws.py, for the reasons given there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import NETS, WAYS, Net, tasks
from quickstudy import Engine, Examples, InputError, Learner, Run, Task
from quickstudy.methods.baseline_pp import baseline_pp
from quickstudy.methods.feature_transfer import feature_transfer
from quickstudy.methods.hypershot import hypershot
from quickstudy.methods.matchingnet import FullContext, matchingnet
from quickstudy.methods.nca import nca, neighbour_loss
from quickstudy.methods.nearest_neighbour import nearest_neighbour
from quickstudy.methods.protonet import protonet
from quickstudy.methods.relationnet import relationnet
from quickstudy.models.nets import conv_net, linear
from quickstudy.models.norms import SingleExampleWarning
from quickstudy.training.config import Config, build
from quickstudy.training.restore import restore
from quickstudy.training.train import train
from quickstudy.types import move, pick

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


@dataclass(frozen=True)
class Baseline:
    """A method, with what the laws need to know about it.

    Args:
        name: As on the command line.
        build: A learner for `WAYS` classes.
        equivariant: Whether renaming the classes of a task renames the outputs and changes nothing else.
        options: Its options in a configuration.
    """

    name: str
    build: Callable[..., Learner]
    equivariant: bool = True
    options: tuple[tuple[str, object], ...] = ()


BASELINES = [
    Baseline("protonet", lambda model, **more: protonet(model, WAYS, **more)),
    Baseline("nca", lambda model, **more: nca(model, WAYS, **more)),
    Baseline("matchingnet", lambda model, **more: matchingnet(model, WAYS, **more)),
    Baseline(
        "matchingnet", lambda model, **more: matchingnet(model, WAYS, scale=100.0, **more), options=(("scale", 100.0),)
    ),
    Baseline("relationnet", lambda model, **more: relationnet(model, WAYS, width=6, **more)),
    Baseline(
        "relationnet",
        lambda model, **more: relationnet(model, WAYS, width=6, loss="one_hot_mse", **more),
        options=(("width", 6),),
    ),
    # Its hypernetwork reads the kernel matrix by position, so renamed classes give another classifier.
    Baseline(
        "hypershot", lambda model, **more: hypershot(model, WAYS, hidden=(7,), target=(5,), **more), equivariant=False
    ),
    Baseline(
        "hypershot",
        lambda model, **more: hypershot(
            model, WAYS, hidden=(7,), target=(5,), inner_lr=0.1, eval_inner_steps=2, **more
        ),
        equivariant=False,
        options=(("eval_inner_steps", 2),),
    ),
]

over_baselines = pytest.mark.parametrize(
    "baseline", BASELINES, ids=lambda b: "_".join([b.name, *(f"{k}_{v}" for k, v in b.options)])
)
over_nets = pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)


pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture
def single(double: None) -> None:
    """Runs are in single precision, as the digits are. The fixture `double` restores the precision afterwards."""
    torch.set_default_dtype(torch.float32)


def learner(baseline: Baseline, net: Net) -> Learner:
    torch.manual_seed(0)
    return baseline.build(net.build())


# Laws


@pytest.mark.parametrize(
    "build",
    [
        lambda model: matchingnet(model, WAYS, context="full"),
        lambda model: relationnet(model, WAYS),
        lambda model: hypershot(model, WAYS, eval_inner_steps=1),
        lambda model: feature_transfer(model, WAYS, WAYS, eval_inner_steps=1),
        lambda model: baseline_pp(model, WAYS, WAYS, eval_inner_steps=1),
    ],
    ids=["matchingnet", "relationnet", "hypershot", "feature_transfer", "baseline_pp"],
)
def test_new_parts_have_the_precision_of_the_model(single: None, build: Callable[[nn.Module], Learner]) -> None:
    net = NETS[1]
    learner, batch = build(net.build().double()), move(tasks(net), torch.float64)
    assert {p.dtype for p in learner.meta_params().values() if p.ndim} == {torch.float64}
    assert learner(batch, evaluating=True).output.dtype == torch.float64


@over_nets
@over_baselines
def test_vmap_loop_and_chunks_agree(baseline: Baseline, net: Net) -> None:
    model, batch = learner(baseline, net), tasks(net)
    found = []
    for engine in (Engine("loop"), Engine("vmap"), Engine("vmap", chunk=2)):
        model.engine = engine
        outcome, gradients = model.meta_gradient(batch)
        found.append([outcome.loss, outcome.output, *gradients, model(batch, evaluating=True).output])
        assert model.engine.backend == engine.backend, "vmap fell back to the loop"
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], **CLOSE)


@over_nets
@over_baselines
def test_outer_gradient_is_the_central_difference(baseline: Baseline, net: Net) -> None:
    model, batch = learner(baseline, net), tasks(net)
    _, gradients = model.meta_gradient(batch)
    params = list(model.meta_params().values())
    draw = torch.Generator().manual_seed(3)
    way = [torch.randn(p.shape, generator=draw) for p in params]
    slope = sum((g * w).sum() for g, w in zip(gradients, way, strict=True) if g is not None)
    step = 1e-7
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, w in zip(params, way, strict=True):
                p.add_(w, alpha=sign * step)
            ends.append(model(batch).loss.mean())
            for p, w in zip(params, way, strict=True):
                p.sub_(w, alpha=sign * step)
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), torch.as_tensor(slope), rtol=1e-5, atol=1e-7)


@over_nets
@over_baselines
def test_every_parameter_that_trains_has_a_gradient(baseline: Baseline, net: Net) -> None:
    """The head of the model, which these methods do not use, is not among their parameters."""
    model, batch = learner(baseline, net), tasks(net)
    _, gradients = model.meta_gradient(batch)
    assert all(g is not None for g in gradients)
    assert any(g.abs().sum() > 0 for g in gradients if g is not None)


@over_nets
@over_baselines
def test_renamed_classes_rename_the_outputs(baseline: Baseline, net: Net) -> None:
    model, batch = learner(baseline, net), tasks(net)
    new = torch.tensor([2, 0, 1])  # class k becomes new[k]
    renamed = batch._replace(
        support=batch.support._replace(y=new[batch.support.y]), query=batch.query._replace(y=new[batch.query.y])
    )
    before, after = model(batch, evaluating=True), model(renamed, evaluating=True)
    if baseline.equivariant:
        torch.testing.assert_close(after.output[..., new], before.output, **CLOSE)
        torch.testing.assert_close(after.loss, before.loss, **CLOSE)
    else:
        assert (after.output[..., new] - before.output).abs().max() > 1e-4


@over_nets
@over_baselines
def test_the_order_of_the_support_does_not_matter(baseline: Baseline, net: Net) -> None:
    model, batch = learner(baseline, net), tasks(net)
    order = torch.randperm(batch.support.y.shape[1], generator=torch.Generator().manual_seed(5))
    shuffled = batch._replace(support=Examples(batch.support.x[:, order], batch.support.y[:, order]))
    before, after = model(batch, evaluating=True).output, model(shuffled, evaluating=True).output
    torch.testing.assert_close(after, before, **CLOSE)


@over_nets
@over_baselines
def test_adapt_returns_a_module_of_its_own_that_predicts_the_same(baseline: Baseline, net: Net) -> None:
    model, batch = learner(baseline, net), tasks(net)
    model(batch)
    outputs = model(batch, evaluating=True).output[0]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = model.adapt(pick(batch.support, 0), key=int(batch.key[0]))
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)  # later training of the learner does not change the module
    torch.testing.assert_close(adapted(batch.query.x[0]), outputs, **CLOSE)
    assert not any(p.requires_grad for p in adapted.parameters())


@over_nets
@over_baselines
def test_the_same_seed_gives_the_same_numbers_and_state_round_trips(baseline: Baseline, net: Net) -> None:
    batch = tasks(net)
    first, again = learner(baseline, net), learner(baseline, net)
    torch.testing.assert_close(again.meta_gradient(batch), first.meta_gradient(batch), rtol=0, atol=0)
    torch.manual_seed(99)
    other = baseline.build(net.build())
    assert not torch.equal(other(batch).loss, first(batch).loss)
    other.load_state_dict(first.state_dict())
    torch.testing.assert_close(other(batch), first(batch), rtol=0, atol=0)


@over_nets
@over_baselines
def test_a_task_is_independent_of_its_batch(baseline: Baseline, net: Net) -> None:
    model, batch = learner(baseline, net), tasks(net)
    torch.testing.assert_close(model(pick(batch, slice(1, 2))), pick(model(batch), slice(1, 2)), **CLOSE)


@over_baselines
def test_tasks_of_unequal_sizes_run_on_the_loop(baseline: Baseline) -> None:
    model, net = learner(baseline, NETS[0]), NETS[0]
    small, large = tasks(net, count=1, shots=1, queries=1), tasks(net, count=1, shots=3, queries=4, seed=2)
    together = model([pick(small, 0), pick(large, 0)])
    torch.testing.assert_close(together.loss, torch.cat([model(small).loss, model(large).loss]), **CLOSE)


MAPS = Net("maps", lambda: conv_net((1, 8, 8), WAYS, filters=3, blocks=1), (1, 8, 8))


def check_each_query_stands_alone(model: Learner) -> None:
    batch = tasks(MAPS)
    found = []
    for engine in (Engine("loop"), Engine("vmap")):
        model.engine = engine
        outcome, gradients = model.meta_gradient(batch)
        found.append([outcome.loss, outcome.output, *gradients])
        assert model.engine.backend == engine.backend, "vmap fell back to the loop"
    torch.testing.assert_close(found[1], found[0], **CLOSE)
    every = model(batch, evaluating=True).output
    first = batch._replace(query=Examples(batch.query.x[:, :1], batch.query.y[:, :1]))
    torch.testing.assert_close(model(first, evaluating=True).output, every[:, :1], **CLOSE)
    adapted = model.adapt(pick(batch.support, 0), key=int(batch.key[0]))
    torch.testing.assert_close(adapted(batch.query.x[0, :1]), every[0, :1], **CLOSE)


@over_baselines
def test_under_support_statistics_a_query_does_not_depend_on_the_others(baseline: Baseline) -> None:
    torch.manual_seed(0)
    check_each_query_stands_alone(baseline.build(MAPS.build(), norms="support"))


def test_norms_in_a_relation_module_use_the_support_sets_statistics_too() -> None:
    check_each_query_stands_alone(relationnet(MAPS.build(), WAYS, width=4, maps=(4, 4), norms="support"))


@over_baselines
def test_a_module_that_normalises_one_example_by_itself_warns(baseline: Baseline) -> None:
    batch = tasks(MAPS)
    adapted = baseline.build(MAPS.build()).adapt(pick(batch.support, 0))
    with pytest.warns(SingleExampleWarning):
        adapted(batch.query.x[0, :1])


# Runs

DIGITS = {
    "tasks": {"name": "digits", "ways": WAYS, "shots": 2, "queries": 3},
    "model": {"name": "conv_net", "filters": 4, "blocks": 2},
    "train": {"steps": 3, "meta_batch_size": 2, "validate_every": 3, "validate_tasks": 2},
    "evaluate": {"tasks": 4},
    "compute": {"threads": 1},
}


@over_baselines
def test_a_learner_is_restored_from_its_run(baseline: Baseline, place: object, single: None) -> None:
    config = Config.model_validate({**DIGITS, "method": {"name": baseline.name, **dict(baseline.options)}})
    setup = build(config)
    before = [p.clone() for p in setup.learner.parameters()]
    run = Run.create("run", setup.config.model_dump(mode="json"))
    train(setup, run)
    assert any(not torch.equal(p, old) for p, old in zip(setup.learner.parameters(), before, strict=True))
    again, _ = restore(run, "last")
    batch = setup.family.source("test", seed=0, size=3)(0)
    torch.testing.assert_close(again.learner(batch, evaluating=True), setup.learner(batch, evaluating=True))


def test_the_command_line_trains_and_evaluates_a_baseline(cli, single) -> None:
    model = ("--model", "{name: conv_net, filters: 4, blocks: 2}")
    trained = cli(
        "train", "digits-maml", "--method", "{name: hypershot}", *model, "--train.steps", 3, "--train.milestones", "[]",
        "--train.validate_every", 0, "--out", "run",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    for finetuned in ((), ("--method.eval_inner_steps", 2)):
        judged = cli("evaluate", "run", "--evaluate.tasks", 5, *finetuned)
        assert judged.code == 0 and "hypershot" in judged.out + judged.err, judged.err


# Known answers


def rows(batch: Task) -> tuple[Tensor, Tensor, Tensor]:
    """One task, with flat inputs."""
    task = pick(batch, 0)
    return task.support.x.flatten(1), task.support.y, task.query.x.flatten(1)


def untouched(inputs: int = 4) -> nn.Module:
    """A model whose embedding is the input: a head and nothing before it."""
    return linear(inputs, WAYS)


def test_protonet_on_the_inputs_is_the_nearest_mean() -> None:
    batch = tasks(NETS[0])
    support, y, query = rows(batch)
    means = [support[y == k].mean(0) for k in range(WAYS)]
    by_hand = torch.tensor([[-sum(float(q[j] - c[j]) ** 2 for j in range(4)) for c in means] for q in query])
    model = protonet(untouched(), WAYS)
    torch.testing.assert_close(model(batch).output[0], by_hand, **CLOSE)
    torch.testing.assert_close(model.adapt(pick(batch.support, 0))(query), by_hand, **CLOSE)


def test_protonet_of_one_shot_is_the_nearest_neighbour() -> None:
    batch = tasks(NETS[0], shots=1)
    torch.testing.assert_close(protonet(untouched(), WAYS)(batch), nearest_neighbour(WAYS)(batch), **CLOSE)


def test_matchingnet_of_one_shot_is_a_softmax_of_cosines() -> None:
    batch = tasks(NETS[0], shots=1)
    support, _, query = rows(batch)
    cosines = torch.stack([F.cosine_similarity(query, s[None]) for s in support], dim=1)
    for scale in (1.0, 10.0):
        output = matchingnet(untouched(), WAYS, scale=scale)(batch).output[0]
        torch.testing.assert_close(output.exp(), (scale * cosines).softmax(-1), **CLOSE)


def test_matchingnet_adds_up_the_attention_of_a_class() -> None:
    batch = tasks(NETS[0], shots=3)
    support, y, query = rows(batch)
    attention = torch.stack([F.cosine_similarity(query, s[None]) for s in support], dim=1).softmax(-1)
    by_hand = torch.stack([attention[:, y == k].sum(1) for k in range(WAYS)], dim=1)
    outcome = matchingnet(untouched(), WAYS)(batch)
    torch.testing.assert_close(outcome.output[0].exp(), by_hand, **CLOSE)
    paper = -by_hand[torch.arange(len(query)), batch.query.y[0]].log().mean()
    torch.testing.assert_close(outcome.loss[0], paper, **CLOSE)


@pytest.mark.parametrize("context", ["none", "full"])
def test_matchingnet_has_the_gradient_of_the_classes_that_a_task_has(context: str) -> None:
    """A batch in which one task lacks the last class: its loss and gradient are those of the task alone."""
    torch.manual_seed(0)
    batch, learner = tasks(NETS[0], shots=3), matchingnet(NETS[0].build(), WAYS, context=context)
    halves = []
    for half in (batch.support, batch.query):
        y = half.y.clone()
        y[0][y[0] == WAYS - 1] = 0
        halves.append(half._replace(y=y))
    mixed = pick(batch._replace(support=halves[0], query=halves[1]), slice(2))
    outcome, gradients = learner.meta_gradient(mixed)
    assert outcome.output[0, :, -1].eq(-torch.inf).all() and outcome.loss.isfinite().all()
    parts = [
        learner.with_ways(ways).meta_gradient(pick(mixed, slice(at, at + 1))) for at, ways in ((0, WAYS - 1), (1, WAYS))
    ]
    torch.testing.assert_close(outcome.loss, torch.cat([part.loss for part, _ in parts]), **CLOSE)
    for whole, *own in zip(gradients, *(g for _, g in parts), strict=True):
        torch.testing.assert_close(whole, sum(own) / 2, **CLOSE)


def test_nca_of_one_shot_compares_by_cosines() -> None:
    batch = tasks(NETS[0], shots=1)
    support, _, query = rows(batch)
    cosines = torch.stack([F.cosine_similarity(query, s[None]) for s in support], dim=1)
    torch.testing.assert_close(nca(untouched(), WAYS, scale=7.0)(batch).output[0], 7.0 * cosines, **CLOSE)


def test_nca_trains_on_every_pair_of_a_task() -> None:
    batch = tasks(NETS[0], shots=2, queries=1)
    support, y, query = rows(batch)
    x, labels = torch.cat([support, query]), [*y.tolist(), *batch.query.y[0].tolist()]
    terms = []
    for i, label in enumerate(labels):
        weights = {j: torch.exp(7.0 * F.cosine_similarity(x[i], x[j], dim=0)) for j in range(len(x)) if j != i}
        terms.append(-torch.log(sum(w for j, w in weights.items() if labels[j] == label) / sum(weights.values())))
    torch.testing.assert_close(nca(untouched(), WAYS, scale=7.0)(batch).loss[0], torch.stack(terms).mean(), **CLOSE)


def test_nca_leaves_out_an_example_that_is_alone_in_its_class() -> None:
    """Its loss would be infinite, and the gradient of everything NaN."""
    torch.manual_seed(0)
    e = torch.randn(5, 3, requires_grad=True)
    y = torch.tensor([0, 0, 1, 2, 2])
    similarity = F.normalize(e, dim=-1) @ F.normalize(e, dim=-1).T
    rows_of = [
        similarity[i][torch.arange(5) != i].logsumexp(0) - similarity[i, j] for i, j in ((0, 1), (1, 0), (3, 4), (4, 3))
    ]
    loss = neighbour_loss(similarity, y)
    torch.testing.assert_close(loss, torch.stack(rows_of).mean(), **CLOSE)
    loss.backward()
    assert e.grad is not None and e.grad.isfinite().all() and e.grad.abs().max() > 0
    alone = neighbour_loss(similarity.detach(), torch.arange(5))
    assert alone == 0


def test_full_context_is_that_of_the_released_code() -> None:
    """Torch's own LSTM in both directions, and attention by hand, with the same weights."""
    torch.manual_seed(0)
    model = matchingnet(untouched(), WAYS, scale=100.0, context="full")
    context = model.context
    assert isinstance(context, FullContext)
    size = context.forwards.hidden_size
    both = nn.LSTM(size, size, bidirectional=True)
    for suffix, cell in (("", context.forwards), ("_reverse", context.backwards)):
        for name, value in cell.named_parameters():
            getattr(both, f"{name}_l0{suffix}").data = value.data
    support, queries = torch.randn(6, size), torch.randn(4, size)
    read, _ = both(support[:, None])
    g = support + read[:, 0, :size] + read[:, 0, size:]
    torch.testing.assert_close(context.of_support(support), g, **CLOSE)
    for query, found in zip(queries, context.of_queries(queries, g), strict=True):
        h, c = query[None], torch.zeros(1, size)
        for _ in range(6):
            attention = (h @ g.T).softmax(-1)
            h, c = nn.LSTMCell.forward(context.reader, torch.cat([query[None], attention @ g], 1), (h, c))
            h = h + query
        torch.testing.assert_close(found, h[0], **CLOSE)
    model(tasks(NETS[0])).loss.mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in context.parameters())
    with pytest.raises(InputError, match="no context 'ful'. Did you mean `full`"):
        matchingnet(untouched(), WAYS, context="ful")


def test_relationnet_scores_each_class_mean_with_each_query() -> None:
    batch = tasks(NETS[0])
    support, y, query = rows(batch)
    model = relationnet(untouched(), WAYS, loss="one_hot_mse")
    score = model.get_submodule("relation")
    by_hand = torch.stack(
        [score(torch.cat([support[y == k].mean(0).expand_as(query), query], dim=1))[:, 0] for k in range(WAYS)], 1
    )
    outcome = model(batch)
    torch.testing.assert_close(outcome.output[0], by_hand, **CLOSE)
    right = (batch.query.y[0][:, None] == torch.arange(WAYS)).double()
    torch.testing.assert_close(outcome.loss[0], (1 / (1 + (-by_hand).exp()) - right).square().mean(), **CLOSE)


def test_relationnet_on_maps_concatenates_the_channels_of_class_and_query() -> None:
    batch = tasks(MAPS)
    model = relationnet(MAPS.build(), WAYS, width=4, maps=(4, 4))
    seen: list[Tensor] = []
    model.get_submodule("relation.1").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.engine = Engine("loop")
    model(pick(batch, slice(0, 1)))
    body = model.get_submodule("body")
    support, query = body(batch.support.x[0]).unflatten(1, (3, 4, 4)), body(batch.query.x[0]).unflatten(1, (3, 4, 4))
    pair = seen[-1].reshape(len(query), WAYS, 6, 4, 4)[4, 2]
    torch.testing.assert_close(pair[:3], support[batch.support.y[0] == 2].mean(0), **CLOSE)
    torch.testing.assert_close(pair[3:], query[4], **CLOSE)
    assert model.meta_gradient(batch)[0].loss.isfinite().all()


def test_hypershot_classifies_kernels_by_weights_that_the_kernel_emits() -> None:
    batch = tasks(NETS[0])
    support, y, query = rows(batch)
    model = hypershot(untouched(), WAYS, hidden=(7,), target=(5,))
    means = torch.stack([support[y == k].mean(0) for k in range(WAYS)])
    kernel = F.cosine_similarity(means[:, None], means[None], dim=-1)
    numbers = model.get_submodule("network")(kernel.reshape(-1))
    assert len(numbers) == (WAYS * 5 + 5) + (5 * WAYS + WAYS)
    w0, b0, w1, b1 = numbers.split([WAYS * 5, 5, 5 * WAYS, WAYS])
    k = F.cosine_similarity(query[:, None], means[None], dim=-1)
    by_hand = (k @ w0.reshape(5, WAYS).T + b0).relu() @ w1.reshape(WAYS, 5).T + b1
    torch.testing.assert_close(model(batch).output[0], by_hand, **CLOSE)


def test_hypershot_finetunes_its_hypernetwork_on_the_support_in_evaluation_only() -> None:
    batch = pick(tasks(NETS[0]), slice(0, 1))

    def made(steps: int) -> Learner:
        torch.manual_seed(0)
        return hypershot(untouched(), WAYS, hidden=(7,), target=(5,), inner_lr=0.1, eval_inner_steps=steps)

    plain, tuned = made(0), made(1)
    torch.testing.assert_close(tuned(batch), plain(batch), rtol=0, atol=0)
    support_as_query = batch._replace(query=batch.support)
    network = plain.get_submodule("network")
    grads = torch.autograd.grad(plain(support_as_query).loss[0], list(network.parameters()))
    with torch.no_grad():
        for p, g in zip(network.parameters(), grads, strict=True):
            p.sub_(0.1 * g)
    torch.testing.assert_close(tuned(batch, evaluating=True), plain(batch, evaluating=True), **CLOSE)


# What is refused


@over_baselines
def test_tasks_without_classes_are_refused(baseline: Baseline) -> None:
    sine = {"tasks": "sine", "model": "mlp", "method": {"name": baseline.name, **dict(baseline.options)}}
    with pytest.raises(InputError, match="compares classes.*1 output.*'mse'.*such as `drawings`"):
        build(Config.model_validate(sine))


@over_baselines
def test_norms_per_step_are_refused_where_no_step_runs_through_them(baseline: Baseline) -> None:
    with pytest.raises(InputError, match="'per_step', but this method takes no step.*mamlpp or maml"):
        baseline.build(MAPS.build(), norms="per_step")


def test_options_without_a_meaning_are_refused() -> None:
    with pytest.raises(InputError, match="compares classes.*'mse'"):
        nca(untouched(), WAYS, loss="mse")
    with pytest.raises(InputError, match="the loss 'one_hot_mse' cannot be used: leave it out"):
        nca(untouched(), WAYS, loss="one_hot_mse")
    with pytest.raises(InputError, match="`scale` was 0"):
        matchingnet(untouched(), WAYS, scale=0.0)
    with pytest.raises(InputError, match="`maps` is 3x3, which does not divide the model's 4 features"):
        relationnet(untouched(), WAYS, maps=(3, 3))


@pytest.mark.parametrize("method", [protonet, matchingnet])
def test_a_class_without_examples_is_refused(method):
    learner = method(linear(4, 3), 3)
    with pytest.raises(InputError, match="no example of class 1 of 3"):
        learner.adapt(Examples(torch.randn(3, 4), torch.tensor([0, 2, 2])))
