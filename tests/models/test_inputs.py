"""Models with inputs of several tensors: keywords for a transformer, arguments for a net of two inputs, and LoRA."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import test_laws as laws
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import METHODS, ONE_OF_EACH_KIND, WAYS, Method, Net, learner, tasks
from quickstudy import Examples, InputError, LoRA, Task, TaskFamily, baseline_pp, evaluate, feature_transfer, maml
from quickstudy.evaluation.dry_run import draw_first_tasks
from quickstudy.evaluation.metrics import METRICS
from quickstudy.methods.protonet import protonet
from quickstudy.tasks.base import TaskSource
from quickstudy.tasks.check import check_task
from quickstudy.types import pick

pytestmark = pytest.mark.usefixtures("double")

CLOSE = {"rtol": 1e-9, "atol": 1e-11}
WORDS, LENGTH, WIDTH = 7, 5, 4


class Transformer(nn.Module):
    """A small transformer as transformers writes them: keywords, a mask, attention that is fused, and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)
        self.classifier = nn.Linear(WIDTH, WAYS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        h = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        mask = attention_mask[:, None].bool()
        attended = F.scaled_dot_product_attention(self.query(h), self.key(h), self.value(h), attn_mask=mask)
        h = self.norm(h + attended)
        h = (h * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        return SimpleNamespace(logits=self.classifier(h), hidden_states=h)


class TwoInputs(nn.Module):
    """A net of a picture and a row of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.row = (
            nn.Conv2d(1, 2, 3),
            nn.BatchNorm2d(2, track_running_stats=False),
            nn.Linear(3, 4),
        )
        self.head = nn.Linear(6, WAYS)

    def forward(self, picture: Tensor, row: Tensor) -> Tensor:
        seen = torch.tanh(self.norm(self.conv(picture))).mean((2, 3))
        return self.head(torch.cat([seen, torch.tanh(self.row(row))], -1))


def draw_words(y: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
    words = torch.randint(0, WORDS, (*y.shape, LENGTH), generator=draw)
    words[..., 0] = y
    lengths = torch.randint(2, LENGTH + 1, y.shape, generator=draw)
    return {"input_ids": words, "attention_mask": (torch.arange(LENGTH) < lengths[..., None]).to(words)}


def draw_two(y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    picture = torch.randn(*y.shape, 1, 4, 4, generator=draw) + 0.3 * y[..., None, None, None]
    return picture, torch.randn(*y.shape, 3, generator=draw)


TRANSFORMER = Net("transformer", Transformer, draw=draw_words)
TWO = Net("two_inputs", TwoInputs, draw=draw_two)
LOW_RANK = Net("lora", lambda: LoRA(Transformer(), r=2), draw=draw_words)
SEVERAL = [TRANSFORMER, TWO, LOW_RANK]
KINDS = [method for method in METHODS if method.name in ONE_OF_EACH_KIND and method.name != "mtnet"]
"""MT-net's cells replace the layers that LoRA has wrapped; it is tried on the transformer alone."""
MTNET = next(method for method in METHODS if method.name == "mtnet")
PROTONET = Method("protonet", lambda model, **options: protonet(model, WAYS, norms="batch", **options))
ANIL = next(method for method in METHODS if method.name == "anil")
CASES = [(method, net) for net in SEVERAL for method in (*KINDS, ANIL, PROTONET)] + [(MTNET, TRANSFORMER)]
SHARED = "ignore:T and masks act on plain Linear and Conv2d layers"  # what MT-net says of the embeddings


@pytest.mark.parametrize(
    "law",
    [
        laws.test_vmap_loop_and_chunks_agree,
        laws.test_outer_gradient_is_the_central_difference,
        laws.test_adapt_returns_a_module_that_predicts_the_same,
        laws.test_the_order_of_the_support_does_not_matter,
        laws.test_a_task_is_independent_of_its_batch,
    ],
    ids=lambda law: law.__name__.removeprefix("test_"),
)
@pytest.mark.parametrize(("method", "net"), CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings(SHARED)
def test_laws(law: Callable[..., None], method: Method, net: Net) -> None:
    law(method, net)


@pytest.mark.parametrize("net", SEVERAL, ids=lambda net: net.name)
def test_a_learner_passes_its_own_check(net: Net) -> None:
    laws.test_a_learner_passes_its_own_check(KINDS[0], net)


def test_tasks_of_unequal_sizes_run_one_by_one() -> None:
    model = learner(KINDS[0], TRANSFORMER)
    small, large = tasks(TRANSFORMER, count=1, shots=1), tasks(TRANSFORMER, count=1, shots=3, seed=2)
    together = model([pick(small, 0), pick(large, 0)])
    torch.testing.assert_close(together.loss, torch.cat([model(small).loss, model(large).loss]), **CLOSE)


def test_one_step_is_the_step_of_a_real_optimizer() -> None:
    """On the model as it is, called by its keywords."""
    batch = tasks(TRANSFORMER)
    torch.manual_seed(0)
    net = Transformer()
    adapted = maml(net, inner_lr=0.3).adapt(pick(batch.support, 0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    x, y = pick(batch.support, 0)
    F.cross_entropy(net(**x).logits, y).backward()
    optimizer.step()
    query = pick(batch.query, 0).x
    torch.testing.assert_close(adapted(**query).logits, net(**query).logits, **CLOSE)


def test_with_a_compiler_steps_are_prepared_together() -> None:
    """The pieces into which a batch of steps is cut are the batches that were given."""
    model = learner(KINDS[0], TWO)
    steps = [tasks(TWO, seed=seed) for seed in (1, 2)]
    assert model.engine.backend == "auto"
    prepared = model._prepare(steps, seed=0)
    assert prepared is not None
    for (support, query, _), step in zip(prepared, steps, strict=True):
        torch.testing.assert_close((support, query), (step.support, step.query), rtol=0, atol=0)


# -- tasks and evaluation --


@dataclass(frozen=True)
class Sentences(TaskFamily):
    """Sentences that begin with the number of their class."""

    loss = "cross_entropy"
    announced: object = None

    @property
    def inputs(self):
        return self.announced or {"input_ids": (LENGTH,), "attention_mask": (LENGTH,)}

    @property
    def outputs(self):
        return WAYS

    def sample(self, draws, size, part):
        draw = torch.Generator().manual_seed(int(draws.step))
        batch = tasks(Net("words", Transformer, draw=draw_words), count=size, seed=int(draw.initial_seed()))
        return pick(batch.support, part), pick(batch.query, part), {}

    def describe(self):
        return {"name": "sentences"}


def test_a_family_of_sentences_is_drawn_shuffled_checked_trained_on_and_evaluated() -> None:
    family = Sentences()
    batch = draw_first_tasks(family, "train", size=4)
    check_task(batch, WAYS)
    assert torch.equal(batch.support.x["input_ids"][..., 0], batch.support.y), "x and y are put into the same order"
    assert not torch.equal(batch.support.y[0], batch.support.y[1])
    torch.manual_seed(0)
    model = maml(Transformer(), inner_lr=0.5, inner_steps=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    source: TaskSource = family.source("train", size=8)
    for step in range(40):
        optimizer.zero_grad()
        model(source(step)).loss.mean().backward()
        optimizer.step()
    summary = evaluate(model, family, METRICS["accuracy"], n=60)
    assert summary.spread.mean > 0.8 and "support_x" not in summary.example and "support_y" in summary.example
    assert summary.hash == evaluate(model, family, METRICS["accuracy"], n=60).hash


@pytest.mark.parametrize(
    "announced", [{"input_ids": (LENGTH,)}, (LENGTH,), {"input_ids": (3,), "attention_mask": (5,)}]
)
def test_inputs_other_than_announced_are_refused(announced: object) -> None:
    with pytest.raises(InputError, match="Make the two agree"):
        draw_first_tasks(Sentences(announced), "train")


OWN = """
import torch
from quickstudy import Examples, TaskFamily
from quickstudy.types import pick
from torch import nn

class Pairs(TaskFamily):
    loss = "cross_entropy"
    inputs = {inputs}
    outputs = 2
    def sample(self, draws, size, part):
        def half(name):
            y = torch.arange(6).remainder(2).repeat(size, 1)
            x = torch.from_numpy(draws.normal(name, size, 6, 3)).float() + y[..., None]
            return pick(Examples({x}, y), part)
        return half("support"), half("query"), {{}}
    def describe(self):
        return {{"name": "pairs"}}

class Net(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Embedding(2, 4)
        self.head = nn.Linear(4, outputs)
    def forward(self, x, kind):
        return self.head(torch.tanh(self.a(x) + self.b(kind)))

def net(outputs: int) -> nn.Module:
    return Net(outputs)
"""


@pytest.mark.parametrize(
    ("inputs", "x"),
    [
        ('{"x": (3,), "kind": ()}', '{"x": x, "kind": (x[..., 0] > 0).long()}'),
        ("((3,), ())", "(x, (x[..., 0] > 0).long())"),
    ],
    ids=["keywords", "arguments"],
)
def test_a_run_on_such_tasks_is_trained_resumed_and_evaluated(cli, place, inputs, x) -> None:
    torch.set_default_dtype(torch.float32)
    name = f"own_{len(inputs)}"
    (place / f"{name}.py").write_text(OWN.format(inputs=inputs, x=x))
    (place / "own.yaml").write_text(
        f"tasks: {name}:Pairs\nmodel: {name}:net\nmethod: {{name: maml, inner_lr: 0.3}}\n"
        "train: {steps: 6, meta_batch_size: 2, validate_every: 3, validate_tasks: 4, checkpoint_every: 3}\n"
        "evaluate: {tasks: 6}\n"
    )
    done = cli("train", "own.yaml", "--out", "run", "--no-tensorboard", "--test")
    assert done.code == 0, done.err
    assert cli("train", "--resume", "run", "--no-tensorboard").code == 0
    done = cli("evaluate", "run", "--evaluate.tasks", 4)
    assert done.code == 0, done.err
    done = cli("report", "run")
    assert done.code == 0, done.err


# -- misfits --


def broken(batch: Task, half: str, change: Callable[[dict[str, Tensor]], object]) -> Task:
    examples = getattr(batch, half)
    return batch._replace(**{half: Examples(change(dict(examples.x)), examples.y)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x | {"attention_mask": x["attention_mask"][:, :-1]}, r"x\['attention_mask'\] \[3, 5, 5\]"),
        (lambda x: x | {"attention_mask": [1]}, r"x\['attention_mask'\]\[0\] of support is a int: give a tensor"),
        (lambda x: {}, "Each of one or more examples has an x and a y; support has x a dict"),
        (lambda x: {"input_ids": x["input_ids"]}, "missing 1 required positional argument: 'attention_mask'"),
        (
            lambda x: x | {"attention_mask": x["attention_mask"] * torch.nan},
            r"x\['attention_mask'\] of support holds NaN",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(change: Callable[..., object], said: str) -> None:
    model, batch = learner(KINDS[0], TRANSFORMER), tasks(TRANSFORMER)
    with pytest.raises(InputError, match=said) as refused:
        model(broken(batch, "support", change))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: {}, "query.x is a dict without tensors"),
        (lambda x: x | {"attention_mask": None}, r"query.x\['attention_mask'\] is a NoneType: give a tensor"),
        (
            lambda x: x | {"attention_mask": x["attention_mask"][:, :-1]},
            r"8 inputs in query.x\['attention_mask'\] and 9",
        ),
        (lambda x: x | {"attention_mask": x["attention_mask"][..., :-1]}, r"Support inputs have the shape .*\[4\]"),
        (
            lambda x: x | {"attention_mask": x["attention_mask"] / 0},
            r"query.x\['attention_mask'\] holds NaN or infinity",
        ),
    ],
)
def test_a_source_that_gives_what_does_not_fit_is_told(change: Callable[..., object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_task(broken(tasks(TRANSFORMER), "query", change), WAYS)


def test_nearest_neighbour_compares_one_tensor() -> None:
    from quickstudy.methods.nearest_neighbour import nearest_neighbour

    with pytest.raises(InputError, match="compares inputs that are one tensor"):
        nearest_neighbour(WAYS)(tasks(TRANSFORMER))


# -- LoRA --


def test_low_rank_changes_are_a_product_added_to_the_weight() -> None:
    batch = tasks(TRANSFORMER)
    torch.manual_seed(0)
    plain = Transformer()
    net = LoRA(plain, r=2, targets=["query", "value"], alpha=6.0)
    x = pick(batch.query, 0).x
    torch.testing.assert_close(net(**x).logits, plain(**x).logits, rtol=0, atol=0)
    with torch.no_grad():
        for name in ("query", "value"):
            layer = net.model.get_submodule(name)
            layer.up.normal_()
            plain.get_submodule(name).weight.add_(3 * layer.up @ layer.down)
    torch.testing.assert_close(net(**x).logits, plain(**x).logits, **CLOSE)


def test_only_the_changes_and_the_head_train_and_the_model_is_copied() -> None:
    plain = Transformer()
    trained = [name for name, p in LoRA(plain, r=1).named_parameters() if p.requires_grad]
    low = [f"model.{layer}.{part}" for layer in ("query", "value") for part in ("down", "up")]
    assert trained == [*low, "model.classifier.weight", "model.classifier.bias"]
    assert all(p.requires_grad for p in plain.parameters()) and isinstance(plain.query, nn.Linear)
    norms = LoRA(plain, targets="*er*", trains=["norm.*"])
    assert [name for name, p in norms.named_parameters() if p.requires_grad] == [
        "model.query.down", "model.query.up", "model.norm.weight", "model.norm.bias",
        "model.classifier.down", "model.classifier.up",
    ]  # fmt: skip
    assert [name for name, p in LoRA(plain, trains=[]).named_parameters() if p.requires_grad] == low


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"r": 0}, "`r` was 0; a rank is a whole number of at least 1"),
        ({"alpha": float("inf")}, "`alpha` was inf; it is a finite number"),
        ({"targets": ["q_proj"]}, "`targets` was 'q_proj' and matched no Linear layer.*Layers are: query, key, value"),
        ({"targets": []}, "`targets` was empty"),
        ({"trains": "head.*"}, "`trains` was 'head.[*]' and matched none"),
    ],
)
def test_changes_that_cannot_be_made_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LoRA(Transformer(), **options)


def test_attention_that_reads_its_weight_itself_cannot_be_a_target() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 4)
    assert LoRA(layer, targets=["linear1"], trains=[]) is not None
    with pytest.raises(InputError, match="matched no Linear layer that is called by itself"):
        LoRA(layer, targets=["out_proj"], trains=[])


def test_what_lora_is_asked_to_train_trains_also_in_a_layer_that_it_changes():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    trained = [
        n for n, p in LoRA(net, targets=["0"], trains=["0.bias", "2.bias"]).named_parameters() if p.requires_grad
    ]
    assert sorted(trained) == ["model.0.bias", "model.0.down", "model.0.up", "model.2.bias"]
    every = [n for n, p in LoRA(net, targets=["0", "2"], trains="*.bias").named_parameters() if p.requires_grad]
    assert {"model.0.bias", "model.2.bias"} <= set(every) and "model.2.weight" not in every


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda net: maml(net, adapts=["2.weight", "2.wieght"]), "`adapts` has '2.wieght'.*`2.weight`"),
        (lambda net: LoRA(net, targets=["0", "qeury"]), "`targets` has 'qeury', which is no Linear layer"),
        (lambda net: LoRA(net, targets=["0"], trains=["2.bias", "2.wieght"]), "`trains` has '2.wieght'"),
    ],
)
def test_a_name_that_names_nothing_is_refused_beside_names_that_do(make, said):
    with pytest.raises(InputError, match=said):
        make(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))


class Pair(nn.Module):
    """It takes one or two inputs, and returns a dictionary."""

    def __init__(self):
        super().__init__()
        self.enc, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, one, two=None):
        return {"logits": self.head(self.enc(one if two is None else one + two).relu())}


@pytest.mark.parametrize("make", [feature_transfer, baseline_pp])
def test_a_module_that_transfer_adapts_takes_what_the_model_took(make):
    learner, x, y = make(Pair(), 3, 3), torch.rand(6, 4), torch.tensor([0, 1, 2] * 2)
    assert learner.adapt(Examples(x, y))(x).shape == (6, 3)
    by_name = learner.adapt(Examples({"one": x, "two": x}, y))
    assert torch.equal(by_name(one=x, two=x), learner.adapt(Examples((x, x), y))(x, x))
