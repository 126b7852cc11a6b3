"""Laws that hold for every method on every net, in float64.

Tolerances: two correct orders of the same sums differ by 1e-15 to 1e-12 in float64, so 1e-9 leaves room and is far
below the 1e-4 of a wrong kernel. Central differences take a step of 1e-7, so small that it seldom crosses a kink of a
ReLU or a max-pooling. Their rounding error is about 1e-16 / 1e-7 = 1e-9, so 1e-7 + 1e-5 is allowed.
"""

import pytest
import torch
from torch import Tensor

from cases import CONV_BATCH_NORM, METHODS, MLP, NETS, Method, Net, each_method, each_method_and_net, learner, tasks
from quickstudy import Engine, Learner, RuleLearner, Task
from quickstudy.engine.twin import call_on
from quickstudy.rules.params import layer_of
from quickstudy.rules.torch_private import tree_map
from quickstudy.types import move, pick

CLOSE = {"rtol": 1e-9, "atol": 1e-11}

pytestmark = pytest.mark.usefixtures("double")


def filled(gradients: list[Tensor | None], model: Learner) -> list[Tensor]:
    """The gradients, with zeros for missing ones."""
    params = model.meta_params().values()
    return [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, params, strict=True)]


@each_method_and_net(CONV_BATCH_NORM)
def test_vmap_loop_and_chunks_agree(method: Method, net: Net) -> None:
    model, batch = learner(method, net), tasks(net)
    found = []
    for engine in (Engine("loop"), Engine("vmap"), Engine("vmap", chunk=2)):
        model.engine = engine
        outcome, gradients = model.meta_gradient(batch)
        found.append([outcome.loss, outcome.output, *filled(gradients, model), model(batch, evaluating=True).output])
        assert engine.backend == engine.settings.backend, "vmap fell back to the loop"
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], **CLOSE)


@each_method_and_net(CONV_BATCH_NORM, [method for method in METHODS if method.exact is not None])
def test_outer_gradient_is_the_central_difference(method: Method, net: Net) -> None:
    """Not for methods that stop a gradient by definition: their closed forms are among the known answers."""
    assert method.exact is not None
    model, batch = learner(method, net, **method.exact), tasks(net)
    params = list(model.meta_params().values())
    draw = torch.Generator().manual_seed(3)
    way = [torch.randn(p.shape, generator=draw) for p in params]
    with torch.no_grad():  # off the kink of a ReLU behind a layer that gives 0 as long as its bias is 0
        for p, w in zip(params, way, strict=True):
            p.add_(w, alpha=1e-3)
    _, gradients = model.meta_gradient(batch)
    slope = sum((g * w).sum() for g, w in zip(filled(gradients, model), way, strict=True))
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


@each_method_and_net(MLP)
def test_a_rule_of_zeros_changes_nothing(method: Method, net: Net) -> None:
    """With zeros in all of the rule's own parameters (step sizes, emission), the parameters do not change."""
    if method.still is None:
        pytest.skip("alpha 0 fits outputs of 0: test_a_strong_ridge_stays_at_its_prior has the law")
    model, task = learner(method, net, **method.still), pick(tasks(net), 0)
    assert isinstance(model, RuleLearner)
    own = [*model.rule.parameters(), *(b for n, b in model.rule.named_buffers() if n.endswith("value"))]
    with torch.no_grad():
        for value in own:
            value.zero_()
    noise = pick(model.draw(tasks(net)), 0)
    phi = model.update(task.support, noise)
    torch.testing.assert_close(phi, model.params(), rtol=0, atol=0)


@each_method_and_net(MLP)
def test_a_rule_moves_what_adapts_and_nothing_else(method: Method, net: Net) -> None:
    model, task = learner(method, net), pick(tasks(net), 0)
    assert isinstance(model, RuleLearner)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = model.adapt(task.support, key=10)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    head = adapted if model.body is None else adapted[1]  # type: ignore[index]
    own = {f"head.{name}": value for name, value in head.state_dict().items()}
    moved = {n.removeprefix("head.") for n, value in own.items() if not torch.equal(value, before[n])}
    shared = dict(model.head.named_parameters(remove_duplicate=False))
    ids = {id(shared[name]) for name in model.adapts}
    allowed = {name for name, p in shared.items() if id(p) in ids}  # a tied weight changes under both of its names
    assert moved, "nothing adapted"
    assert moved <= allowed


@each_method_and_net(CONV_BATCH_NORM)
def test_adapt_returns_a_module_that_predicts_the_same(method: Method, net: Net) -> None:
    model, batch = learner(method, net), tasks(net)
    adapted = model.adapt(pick(batch.support, 0), key=int(batch.key[0]))
    found = call_on(adapted, pick(batch.query, 0).x)
    torch.testing.assert_close(found, model(batch, evaluating=True).output[0], **CLOSE)


@each_method_and_net(MLP)
def test_the_order_of_the_support_does_not_matter(method: Method, net: Net) -> None:
    model, batch = learner(method, net), tasks(net)
    order = torch.randperm(batch.support.y.shape[1], generator=torch.Generator().manual_seed(5))
    shuffled = batch._replace(support=tree_map(lambda value: value[:, order], batch.support))
    torch.testing.assert_close(model(shuffled).output, model(batch).output, **CLOSE)


@each_method_and_net(MLP)
def test_state_round_trips(method: Method, net: Net) -> None:
    model, batch = learner(method, net), tasks(net)
    with torch.no_grad():
        for p in model.meta_params().values():
            p.add_(0.1)
    torch.manual_seed(99)
    other = method.build(net.build())
    assert not torch.equal(other(batch).loss, model(batch).loss)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(batch), model(batch), rtol=0, atol=0)


@each_method_and_net(CONV_BATCH_NORM)
def test_a_task_is_independent_of_its_batch(method: Method, net: Net) -> None:
    """So are its masks, a function of (seed, key), and its norms, which see one set of examples of one task."""
    model, batch = learner(method, net), tasks(net)
    alone = model(pick(batch, slice(1, 2)))
    torch.testing.assert_close(alone, pick(model(batch), slice(1, 2)), **CLOSE)


@pytest.mark.parametrize(
    ("method", "net"),
    [
        pytest.param(
            method,
            net,
            id=f"{method.name}-{net.name}",
            marks=() if method.name in ("maml", "hypermaml") and net in (MLP, CONV_BATCH_NORM) else pytest.mark.slow,
        )
        for method in METHODS
        for net in NETS
    ],
)
def test_a_learner_passes_its_own_check(method: Method, net: Net) -> None:
    """The quick suite has a body and none, a norm and none: the check does not depend on the rule in other ways."""
    found = learner(method, net).check(tasks(net))
    assert found.ok and (found.errors or found.refused or not learner(method, net).meta_params())


@each_method
def test_tasks_of_unequal_sizes_run_on_the_loop(method: Method) -> None:
    net = NETS[0]
    model = learner(method, net)
    small, large = tasks(net, count=1, shots=1, queries=1), tasks(net, count=1, shots=3, queries=4, seed=2)
    together = model([pick(small, 0), pick(large, 0)])
    torch.testing.assert_close(together.loss, torch.cat([model(small).loss, model(large).loss]), **CLOSE)
    torch.testing.assert_close(together.output[1], model(large).output[0], **CLOSE)
    assert together.output[0, 3:].isnan().all()


@each_method
def test_per_task_gradients_average_to_the_meta_gradient(method: Method) -> None:
    net = NETS[0]
    model, batch = learner(method, net), tasks(net)
    _, mean = model.meta_gradient(batch)
    _, total = model.meta_gradient(batch, reduction="sum")
    own = model.task_gradients(batch)
    torch.testing.assert_close([g.mean(0) for g in own.values()], filled(mean, model), **CLOSE)
    torch.testing.assert_close([g.sum(0) for g in own.values()], filled(total, model), **CLOSE)


@pytest.mark.parametrize("backend", ["loop", "vmap"])
@each_method
def test_evaluation_builds_no_outer_graph(method: Method, backend: str) -> None:
    net = NETS[0]
    model = learner(method, net)
    model.engine = Engine(backend)
    with torch.no_grad():
        outcome = model(tasks(net), evaluating=True)
    assert outcome.output.grad_fn is None and not outcome.output.requires_grad


@each_method
def test_single_precision_and_mixed_models_work(method: Method) -> None:
    net = NETS[1]
    model = learner(method, net).float()
    batch: Task = move(tasks(net), torch.float32)
    outcome, _ = model.meta_gradient(batch)
    assert outcome.loss.dtype == torch.float32 and outcome.loss.isfinite().all()


@each_method
def test_what_a_rule_observes_is_per_task_and_named_by_layer(method: Method) -> None:
    net = NETS[0]
    model, batch = learner(method, net), tasks(net)
    assert isinstance(model, RuleLearner)
    seen = model.observe(batch)
    assert {f"update.{name}" for name in model.adapts} <= set(seen)
    assert all(len(value) == len(batch.key) for value in seen.values())
    layers = {layer_of(name) for name in model.adapts}
    masks = {name.removeprefix("mask.").rpartition(".")[0] for name in seen if name.startswith("mask.")}
    assert masks <= layers
