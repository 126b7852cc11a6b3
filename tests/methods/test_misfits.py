"""What does not fit is refused in one line by every method, whichever way a task is given to it."""

import inspect
import math

import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy import Examples, Task
from quickstudy.methods.registry import METHODS
from quickstudy.models.nets import mlp
from quickstudy.types import pick

WAYS = 3
FITS_ANY_WAYS = ("protonet", "nca", "matchingnet", "relationnet", "nearest_neighbour")


def make(name, **options):
    wanted = inspect.signature(METHODS[name]).parameters
    model = [mlp(4, WAYS)] if "model" in wanted else []
    return METHODS[name](*model, **{key: WAYS for key in ("outputs", "train_outputs") if key in wanted} | options)


def examples(tasks=2, n=6, ways=WAYS, seed=0):
    x = torch.randn(tasks, n, 4, generator=torch.Generator().manual_seed(seed))
    return Examples(x, (torch.arange(n) % ways).repeat(tasks, 1))


def batch(ways=WAYS, n=6):
    return Task(examples(n=n, ways=ways), examples(n=n, ways=ways, seed=1), torch.arange(2), {})


def with_examples(half, change):
    tasks = batch()
    return tasks._replace(**{half: change(*getattr(tasks, half))})


MISFITS = {
    "empty": lambda x, y: Examples(x[:, :0], y[:, :0]),
    "negative": lambda x, y: Examples(x, y - 101),
    "ignored": lambda x, y: Examples(x, torch.where(torch.arange(6) == 0, -100, y)),
    "lengths": lambda x, y: Examples(x, y[:, :5]),
    "tasks": lambda x, y: Examples(x[:1], y[:1]),
    "no axis": lambda x, y: Examples(x[0], y[0]),
    "nan": lambda x, y: Examples(torch.where(torch.arange(4) == 0, torch.nan, x), y),
    "infinity": lambda x, y: Examples(x * torch.inf, y),
    "array": lambda x, y: Examples(x.numpy(), y),
    "list": lambda x, y: Examples(x, y.tolist()),
    "none": lambda x, y: None,
}
WHOLE = {
    "key": lambda: batch()._replace(key=torch.arange(3)),
    "key type": lambda: batch()._replace(key=torch.arange(2.0)),
    "no key": lambda: batch()._replace(key=0),
    "no tasks": lambda: Task(examples(0), examples(0), torch.arange(0), {}),
    "empty list": list,
    "a batch in a list": lambda: [batch()],
}
CALLS = {
    "forward": lambda learner, tasks: learner(tasks),
    "evaluation": lambda learner, tasks: learner(tasks, evaluating=True),
    "meta_gradient": lambda learner, tasks: learner.meta_gradient(tasks),
}


def is_refused(call, name, tasks):
    try:
        call(make(name), tasks)
    except qs.InputError:
        return True
    return False


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", METHODS)
def test_every_misfit_of_a_batch_is_refused(name, call):
    for label, change in MISFITS.items():
        for half in ("support", "query"):
            assert is_refused(CALLS[call], name, with_examples(half, change)), (half, label)
    for label, tasks in WHOLE.items():
        assert is_refused(CALLS[call], name, tasks()), label


@pytest.mark.parametrize("name", METHODS)
def test_numbers_that_are_none_are_refused_when_built(name):
    """Every option of a method that has a number as its default, or may have one."""
    for option, parameter in inspect.signature(METHODS[name]).parameters.items():
        kinds = str(parameter.annotation)
        wrong = [math.nan, math.inf] if "float" in kinds and "Sequence" not in kinds else []
        wrong += [-1] if "int" in kinds and "Sequence" not in kinds and "tuple" not in kinds else []
        for value in wrong:
            with pytest.raises(qs.InputError, match="finite|above 0|whole number|or more|takes 1 to 3|at least"):
                make(name, **{option: value})


@pytest.mark.parametrize("name", METHODS)
def test_a_support_set_with_nan_is_refused_by_adapt(name):
    x, y = examples(1)
    x[0, 2, 1] = torch.nan
    with pytest.raises(qs.InputError, match="x of the support set holds NaN or infinity in 1 of 6 .* example 2"):
        make(name).adapt(Examples(x[0], y[0]))


def test_the_message_keeps_the_cause_and_says_what_was_given():
    tasks = with_examples("query", lambda x, y: Examples(torch.randn(2, 6, 5), y))
    with pytest.raises(qs.InputError, match="cannot be multiplied.*query x .2, 6, 5. of float32") as told:
        make("maml")(tasks)
    assert isinstance(told.value.__cause__, RuntimeError)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32, torch.uint64])
def test_class_numbers_may_have_any_integer_type(dtype):
    for name in ("maml", "protonet", "unicorn_maml"):
        learner, tasks = make(name), batch()
        short = tasks._replace(
            support=tasks.support._replace(y=tasks.support.y.to(dtype)),
            query=tasks.query._replace(y=tasks.query.y.to(dtype)),
        )
        assert torch.equal(learner(short).loss, learner(tasks).loss)
        x, y = (value[0] for value in tasks.support)
        assert torch.equal(learner.adapt(Examples(x, y.to(dtype)))(x), learner.adapt(Examples(x, y))(x))


def test_an_adaptation_that_diverges_is_no_module():
    learner = qs.maml(mlp(4, WAYS), inner_lr=1e30, inner_steps=5)
    x, y = (value[0] for value in batch().support)
    with pytest.raises(qs.InputError, match="diverged: .* Use a smaller `inner_lr`"):
        learner.adapt(Examples(x, y))


@pytest.mark.parametrize("name", FITS_ANY_WAYS)
@pytest.mark.parametrize("ways", [2, 3, 8])
def test_metric_methods_take_the_classes_that_a_task_has(name, ways):
    """Trained 3-way, they answer 2- and 8-way tasks as a learner that was built for these does, in every call."""
    learner, tasks = make(name), batch(ways, n=2 * ways)
    wanted = inspect.signature(METHODS[name]).parameters
    built = METHODS[name](*([mlp(4, WAYS)] if "model" in wanted else []), outputs=ways)
    built.load_state_dict(learner.state_dict())
    x, y = (value[0] for value in tasks.support)
    assert torch.equal(learner.adapt(Examples(x, y))(x), built.adapt(Examples(x, y))(x))
    for evaluating in (False, True):
        assert torch.equal(learner(tasks, evaluating=evaluating).output, built(tasks, evaluating=evaluating).output)
    if list(learner.parameters()):
        (outcome, grads), (other, right) = learner.meta_gradient(tasks), built.meta_gradient(tasks)
        assert torch.equal(outcome.loss, other.loss)
        assert all(torch.equal(g, r) for g, r in zip(grads, right, strict=True) if r is not None)
    assert learner(batch()).output.shape[-1] == WAYS


def test_transfer_methods_take_the_classes_that_a_task_has_in_evaluation():
    for name in ("baseline_pp", "feature_transfer"):
        learner, tasks = make(name), batch(5, n=10)
        x, y = (value[0] for value in tasks.support)
        assert learner.adapt(Examples(x, y))(x).shape == (10, 5)
        assert learner(tasks, evaluating=True).output.shape == (2, 10, 5)


def test_tasks_of_unequal_ways_in_one_sequence():
    learner = make("protonet")
    few, many = (pick(batch(ways, n=2 * ways), 0) for ways in (2, 4))
    outcome = learner([few, many])
    assert outcome.output.shape == (2, 8, 4)
    assert (
        torch.equal(outcome.output[0, :4, :2], learner([few]).output[0]) and outcome.output[0, :4, 2:].isneginf().all()
    )


def test_hypershot_says_why_it_cannot():
    with pytest.raises(qs.InputError, match="2 classes.*built for 3.*protonet"):
        make("hypershot")(batch(2))


@pytest.mark.parametrize("y", [[0, 2, 2], [0, 0, 0], [0, 1, 9]])
def test_a_gap_in_the_class_numbers_is_refused(y):
    with pytest.raises(qs.InputError, match="from 0 without a gap"):
        make("protonet").adapt(Examples(torch.randn(3, 4), torch.tensor(y)))


class WithSpare(torch.nn.Module):
    """A net with a layer that its forward does not read."""

    def __init__(self):
        super().__init__()
        self.body, self.spare, self.head = torch.nn.Linear(4, 5), torch.nn.Linear(4, 5), torch.nn.Linear(5, WAYS)

    def forward(self, x):
        return self.head(self.body(x).tanh())


@pytest.mark.parametrize(
    "build",
    [
        qs.maml,
        lambda net: qs.maml(net, adapts="head.*"),
        lambda net: METHODS["protonet"](net, WAYS),
        lambda net: METHODS["feature_transfer"](net, WAYS, WAYS),
    ],
    ids=["adapts", "trains only", "embeds", "transfers"],
)
def test_a_parameter_that_no_loss_depends_on_is_refused_by_name(build):
    with pytest.raises(qs.InputError, match=r"depend on them: \S*spare.weight, \S*spare.bias.*requires_grad_"):
        build(WithSpare()).meta_gradient(batch())
    frozen = WithSpare()
    frozen.spare.requires_grad_(False)
    build(frozen).meta_gradient(batch())


def test_unused_parameters_can_be_allowed():
    _, grads = qs.maml(WithSpare(), allow_unused=True).meta_gradient(batch())
    assert len(grads) == 6


def test_a_schedule_may_bring_a_part_of_the_rule_in_later():
    _, grads = METHODS["hypermaml"](mlp(4, WAYS), emission=0.0).meta_gradient(batch())
    assert any(g is not None for g in grads)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")
def test_a_scripted_part_that_should_adapt_is_refused_with_the_way_out():
    net = torch.nn.Sequential(torch.jit.script(torch.nn.Linear(4, 5)), torch.nn.Tanh(), torch.nn.Linear(5, WAYS))
    with pytest.raises(qs.InputError, match="scripted part.*before torch.jit.script"):
        qs.maml(net)(batch())


def complex_batch():
    def double(half):
        return Examples(half.x + 0j, half.y)

    tasks = batch()
    return tasks._replace(support=double(tasks.support), query=double(tasks.query))


def of_size(output, y):
    return torch.nn.functional.cross_entropy(output.abs(), y)


def test_a_step_size_is_real_also_of_complex_parameters():
    torch.manual_seed(0)
    net = nn.Linear(4, WAYS, dtype=torch.cfloat)
    plain, learned = (method(net, inner_lr=0.1, loss=of_size)(complex_batch()) for method in (qs.maml, qs.meta_sgd))
    assert torch.equal(plain.loss, learned.loss)
    _, gradients = qs.reptile(net, inner_lr=0.1, inner_steps=1, loss=of_size).meta_gradient(complex_batch())
    _, firsts = qs.fomaml(net, inner_lr=0.1, inner_steps=0, loss=of_size).meta_gradient(
        complex_batch()._replace(query=complex_batch().support)
    )
    for one, other in zip(gradients, firsts, strict=True):  # theta - phi is the rate times the support gradient
        torch.testing.assert_close(one, 0.1 * other)


def test_nan_in_complex_inputs_is_refused_by_name():
    tasks = complex_batch()
    tasks.support.x[0, 2, 1] = torch.nan
    with pytest.raises(qs.InputError, match=r"x of support holds NaN or infinity in 1 of 2 tasks"):
        qs.maml(nn.Linear(4, WAYS, dtype=torch.cfloat), loss=of_size).meta_gradient(tasks)


def test_a_meta_gradient_is_computed_where_gradients_are_off():
    learner = make("maml")
    _, wanted = learner.meta_gradient(batch())
    with torch.no_grad():
        _, found = learner.meta_gradient(batch())
        assert not torch.is_grad_enabled()
    assert all(map(torch.equal, wanted, found))
    with torch.inference_mode(), pytest.raises(qs.InputError, match="Inference mode is on"):
        learner.meta_gradient(batch())


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (nn.CrossEntropyLoss(reduction="none"), r"support loss of one task has the shape \[6\], and it is one number"),
        (lambda output, y: 0.5, "support loss of one task is a float"),
        (lambda output, y: (output.sum(), 1), "support loss of one task is a tuple"),
    ],
)
def test_a_loss_that_is_no_number_is_named(loss, said):
    with pytest.raises(qs.InputError, match=said):
        qs.maml(mlp(4, WAYS), loss=loss)(batch())
    with pytest.raises(qs.InputError, match=said.replace("support", "query")):
        qs.protonet(mlp(4, WAYS), WAYS, loss=loss)(batch())


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.scale, self.b = nn.Linear(4, 5), nn.Parameter(torch.tensor(1.5)), nn.Linear(5, WAYS)

    def forward(self, x):
        return self.b(self.a(x) * self.scale.reshape(1, 1))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_a_parameter_that_is_one_number_keeps_its_type(kind):
    net, one = Scaled().to(kind), examples(1)
    learner = qs.maml(net, inner_lr=0.1, inner_steps=2)
    adapted = learner.adapt(Examples(one.x[0].to(kind), one.y[0]))
    assert {p.dtype for p in adapted.state_dict().values()} == {kind}
    assert adapted(one.x[0].to(kind)).dtype == kind


def test_the_biases_of_any_module_are_shifted():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.attention = nn.LSTM(4, 4, batch_first=True), nn.MultiheadAttention(4, 1, batch_first=True)
            self.head = nn.Linear(4, WAYS)

        def forward(self, x):
            h, _ = self.lstm(x[:, None])
            return self.head(self.attention(h, h, h)[0][:, 0])

    biases = {"lstm.bias_ih_l0", "lstm.bias_hh_l0", "attention.in_proj_bias", "attention.out_proj.bias", "head.bias"}
    assert set(qs.cavia(Reads()).params()) == biases
