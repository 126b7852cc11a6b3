"""Pretraining and what it is for: batches, tasks from several families, transfer baselines, starting from a run."""

import inspect
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from processes import Command
from quickstudy import Engine
from quickstudy.errors import InputError
from quickstudy.evaluation.dry_run import draw_first_tasks
from quickstudy.methods.baseline_pp import Cosine
from quickstudy.methods.registry import METHODS
from quickstudy.models.nets import conv_net, mlp
from quickstudy.models.norms import SingleExampleWarning
from quickstudy.rules.torch_private import tree_leaves
from quickstudy.storage.run import Run
from quickstudy.tasks import Batches, Cross, Episodes, Gaussians, Sine, digits
from quickstudy.tasks.images.family import ImageEpisodes
from quickstudy.tasks.images.preparations import preparation_named
from quickstudy.tasks.splits import split_by_class
from quickstudy.training import config
from quickstudy.training.evaluate_run import evaluate_run
from quickstudy.training.init_from import InitFrom, apply_start, find_start, match_names
from quickstudy.training.train import StoppedError, check_training, train
from quickstudy.training.watcher import Watcher
from quickstudy.types import move, pick

BY_CLASS, BY_IMAGE = digits("class", ways=3), digits()
BODY = {"name": "conv_net", "filters": 4, "blocks": 2}
FEW = {"name": "digits", "ways": 3, "shots": 1, "queries": 3}
CROSS = {"name": "cross", "train": {"name": "batches", "of": FEW, "size": 16}, "val": FEW, "test": FEW}
PRETRAIN = {
    "tasks": CROSS,
    "model": BODY,
    "method": {"name": "feature_transfer", "eval_inner_steps": 3},
    "train": {"steps": 4, "meta_batch_size": 1, "validate_every": 2, "validate_tasks": 5},
    "evaluate": {"tasks": 5},
}
FINE = {
    "tasks": FEW,
    "model": BODY,
    "method": {"name": "maml", "inner_lr": 0.1},
    "train": {"steps": 4, "meta_batch_size": 2, "validate_every": 0, "checkpoint_every": 1},
    "evaluate": {"tasks": 5},
}


def trained(path, data, *overrides, watch=None):
    setup = config.build(config.parse_config(data, overrides))
    run = Run.create(path, setup.config.model_dump(mode="json"))
    train(setup, run, watch)
    return run


# -- batches --


@pytest.mark.parametrize(("of", "split"), [(BY_CLASS, "train"), (BY_CLASS, "val"), (BY_IMAGE, "test")])
class TestBatches:
    def test_part_is_the_slice_of_the_whole(self, of, split):
        source = Batches(of, size=20).source(split, seed=0, size=6)
        for part in (slice(0, 2), slice(2, 6), slice(5, 6), slice(None, None, 2)):
            halves = zip(tree_leaves(source(1, part)), tree_leaves(pick(source(1), part)), strict=True)
            assert all(torch.equal(a, b) for a, b in halves)

    def test_is_a_function_of_seed_split_and_step(self, of, split):
        def draw(seed=3, step=7):
            return Batches(of, size=20).source(split, seed=seed, size=2)(step).query.x

        assert torch.equal(draw(), draw())
        assert not torch.equal(draw(), draw(step=8)) and not torch.equal(draw(), draw(seed=4))

    def test_labels_are_places_among_the_sorted_training_classes(self, of, split):
        family = Batches(of, size=40)
        task = draw_first_tasks(family, split, size=3)
        classes = np.unique(of.labels[of.splits["train"]])
        assert family.outputs == len(classes)
        for half, numbers in ((task.support, "images_support"), (task.query, "images_query")):
            assert np.array_equal(classes[half.y], of.labels[task.about[numbers]])
            assert np.array_equal(half.x, of.images[task.about[numbers]])
        assert all(len(used.unique()) == 40 for used in task.about["images_query"])
        assert task.support.y.sort(1)[0].tolist() == [list(range(len(classes)))] * 3

    def test_support_is_of_training_images_and_never_in_its_own_query(self, of, split):
        about = Batches(of, size=40).source(split, size=50)(0).about
        assert set(about["images_support"].flatten().tolist()) <= set(of.splits["train"].tolist())
        assert not (about["images_support"][:, :, None] == about["images_query"][:, None]).any()


def used(family, split):
    return set(family.source(split, size=300)(0).about["images_query"].flatten().tolist())


def test_validation_is_on_the_tasks_own_images_where_the_classes_are_shared():
    family = Batches(BY_IMAGE, size=64)
    assert used(family, "train") == set(BY_IMAGE.splits["train"].tolist())
    assert used(family, "val") == set(BY_IMAGE.splits["val"].tolist())
    assert "0.1" not in family.describe()["split_rule"]


def test_validation_is_on_a_tenth_of_each_training_class_where_they_are_not():
    family = Batches(BY_CLASS, size=64)
    trained_on, held = used(family, "train"), used(family, "val")
    assert not trained_on & held and trained_on | held == set(BY_CLASS.splits["train"].tolist())
    counts = np.bincount(BY_CLASS.labels[sorted(held)])
    assert len(counts) == 6 and set(counts.tolist()) <= {17, 18, 19}  # a tenth of 177 to 183
    assert used(Batches(BY_CLASS, size=64, seed=1), "val") != held
    assert json.loads(json.dumps(family.describe()))["images"] == {"train": len(trained_on), "val": len(held)}


def test_every_image_gets_its_turn():
    numbers = Batches(BY_CLASS, size=64).source("train", size=2000)(0).about["images_query"]
    counts = torch.bincount(numbers.flatten())
    counts = counts[counts > 0]
    # 128 000 draws over 975 images: 131 each, standard deviation 11; six of these.
    assert len(counts) == 975 and counts.min() > 65 and counts.max() < 197


def turned_classes(count=12, each=10):
    """Tasks in which a class turned by a quarter is another class; pictures of noise, so that no two are alike."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (count * each, 1, 6, 6), dtype=np.uint8)
    labels = np.repeat(np.arange(count), each)
    return ImageEpisodes(
        pixels, labels, split_by_class(labels, (0.6, 0.2, 0.2), 0), ways=3, queries=1, rotations="classes",
        names=[f"class {n}" for n in range(count)], recipe=preparation_named("none"), size=6, digest="0" * 12,
    )  # fmt: skip


def test_a_picture_is_held_out_with_all_its_turns():
    of = turned_classes()
    family = Batches(of, size=6, hold_out=0.3)
    trained_on, held = used(family, "train"), used(family, "val")
    assert not trained_on & held and trained_on | held == set(of.splits["train"].tolist())
    for split, numbers in (("train", trained_on), ("val", held)):
        assert family.describe()["images"][split] == 4 * len(numbers)


def test_in_a_batch_of_turned_classes_all_pictures_differ_and_every_turn_gets_its_turn():
    of = turned_classes()
    family = Batches(of, size=12, hold_out=0.3)
    assert family.outputs == 28
    batch = family.source("train", size=300)(0)
    classes = np.unique(of.labels[of.splits["train"]])
    for half, numbers in ((batch.support, "images_support"), (batch.query, "images_query")):
        assert np.array_equal(classes[half.y // 4], of.labels[batch.about[numbers]])
    for x, y, number in zip(batch.query.x[0], batch.query.y[0].tolist(), batch.about["images_query"][0], strict=True):
        assert np.array_equal(x.numpy(), np.rot90(of.images[number], y % 4, (1, 2)) / np.float32(255))
    small = Batches(of, size=21, hold_out=0.3).source("train", size=100)(0).about
    assert all(len(row.unique()) == 12 for row in batch.about["images_query"])
    assert not (small["images_support"][:, :, None] == small["images_query"][:, None]).any()
    turns = torch.bincount(batch.query.y.flatten() % 4)
    assert turns.min() > 780 and turns.max() < 1020  # of 3600 draws a quarter, standard deviation 26


def few(count):
    """A training class of a few images beside one of nine."""
    labels = np.repeat([0, 1], [count, 9])
    return Episodes(
        np.zeros((count + 9, 1, 4, 4), np.uint8), labels, {"train": np.arange(count + 9)}, ways=2, queries=1
    )


def test_a_class_of_two_images_is_trained_on():
    family = Batches(few(2), hold_out=0.25, size=1)
    assert {0, 1} <= used(family, "train") and 0 not in used(family, "val")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Batches(turned_classes(), size=36).source("train", size=1), "'train' has 35 to draw from"),
        (lambda: Batches(few(1), hold_out=0.6), "class '0' has 1, .* leaves 0. Leave that class out"),
        (lambda: Batches(few(1), hold_out=0.0), "class '0' has 1. Add images to it"),
        (lambda: Batches(few(2), hold_out=0.26), "class '0' has 2, .* leaves 1. Lower hold_out to 0.25"),
        (lambda: Batches(few(9), hold_out=0.99), "class '0' has 9, .* leaves 0. Lower hold_out to 0.83"),
        (lambda: Batches(few(2), hold_out=0.9), "class '0' has 2, .* leaves 0. Lower hold_out to 0.25"),
        (lambda: Batches(BY_CLASS, size=0), "size=0"),
        (lambda: Batches(BY_CLASS, hold_out=1.0), "hold_out=1.0 is not a fraction"),
        (lambda: Batches(Sine()), "`of` is a Sine, which has none.*name: digits"),
        (lambda: Batches(BY_CLASS, size=970).source("train", size=1), "970 images.*'train' has 969 .*Lower size"),
        (lambda: Batches(BY_CLASS, size=109).source("val", size=1), "'val' has 108 .*raise hold_out"),
        (lambda: Batches(BY_CLASS).source("test", size=1), "no 'test'.*6 training classes.*name: cross"),
        (lambda: Batches(BY_CLASS, hold_out=0.0).source("val", size=1), "no 'val'.*They have train"),
    ],
)
def test_batches_refuse_what_cannot_be_drawn(build, words):
    with pytest.raises(InputError, match=words):
        build()


def test_supervised_learning_is_maml_without_inner_steps(tmp_path):
    data = {
        "tasks": {"name": "batches", "of": FEW},
        "model": {**BODY, "filters": 16},
        "method": {"name": "maml", "inner_steps": 0},
        "train": {"steps": 60, "meta_batch_size": 1, "meta_lr": 0.01, "validate_tasks": 20},
    }
    rows = [row for row in trained(tmp_path / "run", data).metrics() if row["kind"] == "val"]
    assert rows[-1]["metric"] > 0.85  # ten digits, chance is .1


# -- cross --


def test_a_cross_gives_each_part_its_split():
    family = Cross(train=Batches(BY_CLASS, size=8), test=BY_CLASS)
    for split, part in (("train", family.train), ("test", BY_CLASS)):
        halves = zip(
            tree_leaves(family.source(split, seed=2, size=3)(5, slice(1, 3))),
            tree_leaves(part.source(split, seed=2, size=3)(5, slice(1, 3))),
            strict=True,
        )
        assert all(torch.equal(a, b) for a, b in halves)
    assert (family.of_split("train").outputs, family.of_split("test").outputs, family.outputs) == (6, 3, 3)
    assert family.describe().keys() == {"name", "train", "test"}
    assert family.describe()["test"] == BY_CLASS.describe()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: Cross(train=BY_IMAGE, test=Episodes.by_image(np.zeros((60, 3, 4, 4)), np.repeat([0, 1, 2], 20))),
            r"`train` has inputs of the shape \[1, 8, 8\] and `test` \[3, 4, 4\].*`size` and `channels`",
        ),
        (lambda: Cross(train=Sine(), test=BY_IMAGE), "inputs of the shape"),
        (lambda: Cross(train=BY_IMAGE, test=BY_IMAGE, val=BY_CLASS), "`test` has 5 outputs and `val` 3.*same ways"),
        (lambda: Cross(train=BY_CLASS, test=BY_CLASS).source("val", size=1), "no `val` part"),
        (lambda: Cross(train=BY_CLASS, test=BY_CLASS).source("tset", size=1), "no split 'tset'"),
        (lambda: Cross(train=BY_IMAGE, test=BY_CLASS, val=BY_CLASS).source("val", size=1), "no 'val' images"),
    ],
)
def test_a_cross_refuses_what_does_not_go_together(build, words):
    with pytest.raises(InputError, match=words):
        build()


def test_a_cross_refuses_parts_of_different_losses():
    class Levels(Gaussians):
        loss = "mse"

    with pytest.raises(InputError, match="the loss cross_entropy and `test` mse"):
        Cross(train=Gaussians(), test=Levels())


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ({**CROSS, "train": {"name": "batchs"}}, "no tasks.train 'batchs'. Did you mean `batches`"),
        ({**CROSS, "test": {**FEW, "shot": 1}}, "`tasks.test.shot` is no option of 'digits'. Did you mean `shots`"),
        ({**CROSS, "test": 3}, "`tasks.test`"),
        ({"name": "cross", "train": FEW}, "needs `tasks.test`"),
        ({"name": "batches", "of": {**FEW, "ways": "x"}}, "`tasks.of.ways`"),
        ({"name": "batches", "of": "sine"}, "`of` is a Sine"),
    ],
)
def test_mistakes_inside_nested_tasks_are_told_with_their_place(tasks, words):
    with pytest.raises(InputError, match=words):
        config.build(config.parse_config({**FINE, "tasks": tasks}))


def test_nested_tasks_are_resolved_and_overridden(tmp_path):
    setup = config.build(config.parse_config(PRETRAIN, ["--tasks.train.size", "8", "--tasks.val", "null"]))
    said = setup.config.model_dump()["tasks"]
    assert said["train"] == {
        "name": "batches", "of": {**FEW, "split": "image", "seed": 0}, "size": 8, "hold_out": 0.1, "seed": 0,
    }  # fmt: skip
    assert said["val"] is None
    assert config.build(config.parse_config(setup.config.model_dump(mode="json"))).config == setup.config


# -- baselines --


def transfer(name, ways=3, **options):
    torch.manual_seed(0)
    return METHODS[name](conv_net((1, 8, 8), ways, filters=4, blocks=2), ways, 6, **options)


over_baselines = pytest.mark.parametrize("name", ["feature_transfer", "baseline_pp"])
FAMILY = Cross(train=Batches(BY_CLASS, size=10), test=BY_CLASS)


def doubles(split, size=3):
    return move(FAMILY.source(split, size=size)(0), torch.float64)


@pytest.mark.usefixtures("double")
@over_baselines
class TestBaselines:
    def test_training_is_cross_entropy_over_all_classes_and_blind_to_the_support(self, name):
        learner, batch = transfer(name), doubles("train")
        for i, loss in enumerate(learner(batch).loss):
            one = pick(batch, i)
            expected = F.cross_entropy(learner.classifier(learner.body(one.query.x)), one.query.y)
            torch.testing.assert_close(loss, expected)
        other = batch._replace(support=batch.support._replace(x=batch.support.x + 1))
        torch.testing.assert_close(learner(other).loss, learner(batch).loss, rtol=0, atol=0)
        assert learner(batch).output.shape == (3, 10, 6)

    def test_vmap_and_loop_agree(self, name):
        learner = transfer(name, eval_inner_steps=4)
        found = []
        for engine in (Engine("loop"), Engine("vmap")):
            learner.engine = engine
            outcome, gradients = learner.meta_gradient(doubles("train"))
            found.append([outcome, gradients, learner(doubles("test"), evaluating=True)])
            assert learner.engine.backend == engine.backend
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)  # summed in another order

    def test_a_task_fits_a_head_and_moves_nothing_else(self, name):
        learner, batch = transfer(name), doubles("test")
        before = {key: value.clone() for key, value in learner.state_dict().items()}
        params = learner.update(pick(batch.support, 0), pick(learner.draw(batch), 0), evaluating=True)
        assert params["weight"].shape == (3, 16) and not any(p.requires_grad for p in learner.draw(batch).values())
        torch.testing.assert_close(dict(learner.state_dict()), before, rtol=0, atol=0)
        fitted = learner.query_outcome(params, pick(batch.support, 0))
        fresh = learner.query_outcome(transfer(name, eval_inner_steps=0).update(
            pick(batch.support, 0), pick(learner.draw(batch), 0)), pick(batch.support, 0))  # fmt: skip
        assert fitted.loss < 0.5 * fresh.loss

    def test_adapt_returns_a_module_that_predicts_the_same(self, name):
        learner, batch = transfer(name, eval_inner_steps=4), doubles("test")
        adapted = learner.adapt(pick(batch.support, 0), key=int(batch.key[0]))
        torch.testing.assert_close(adapted(batch.query.x[0]), learner(batch, evaluating=True).output[0])
        assert adapted[1].out_features == 3

    def test_by_the_support_sets_statistics_each_query_stands_alone(self, name):
        learner, batch = transfer(name, eval_inner_steps=4, norms="support"), doubles("test")
        plain, training = transfer(name, eval_inner_steps=4), doubles("train")
        torch.testing.assert_close(learner(training), plain(training), rtol=0, atol=0)  # those have no support set
        found = []
        for engine in (Engine("loop"), Engine("vmap")):
            learner.engine = engine
            found.append(learner(batch, evaluating=True).output)
            assert learner.engine.backend == engine.backend
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)
        one = batch._replace(query=batch.query._replace(x=batch.query.x[:, :1], y=batch.query.y[:, :1]))
        torch.testing.assert_close(learner(one, evaluating=True).output, found[0][:, :1])
        assert not torch.allclose(plain(one, evaluating=True).output, plain(batch, evaluating=True).output[:, :1])
        adapted = learner.adapt(pick(batch.support, 0), key=int(batch.key[0]))
        torch.testing.assert_close(adapted(batch.query.x[0, :1]), found[0][0, :1])

    def test_a_module_that_normalises_one_example_by_itself_says_so(self, name):
        batch = doubles("test")
        adapted = transfer(name, eval_inner_steps=1).adapt(pick(batch.support, 0))
        with pytest.warns(SingleExampleWarning):
            adapted(batch.query.x[0, :1])

    def test_norms_per_step_are_refused(self, name):
        with pytest.raises(InputError, match="'per_step', but the steps of this method move a head.*mamlpp"):
            transfer(name, norms="per_step")

    def test_checks_itself(self, name):
        assert transfer(name).check(doubles("train")).ok


@pytest.mark.usefixtures("double")
def test_a_step_of_the_head_is_softmax_regression_by_hand():
    learner, batch = transfer("feature_transfer", eval_inner_steps=1, inner_lr=0.3), doubles("test")
    support, noise = pick(batch.support, 1), pick(learner.draw(batch), 1)
    features = learner.body(support.x)
    weight, bias = (2 * noise["weight"] - 1) / 4, (2 * noise["bias"] - 1) / 4  # 16 features
    error = ((features @ weight.T + bias).softmax(1) - F.one_hot(support.y, 3)) / 3
    params = learner.update(support, noise, evaluating=True)
    torch.testing.assert_close(params["weight"], weight - 0.3 * error.T @ features)
    torch.testing.assert_close(params["bias"], bias - 0.3 * error.sum(0))


def test_a_cosine_head_sees_directions_only():
    head = Cosine(2, 2, scale=5.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[3.0, 0.0], [1.0, 1.0]]))
    x = torch.tensor([[2.0, 0.0], [0.0, 7.0]])
    torch.testing.assert_close(head(x), torch.tensor([[5.0, 5 / 2**0.5], [0.0, 5 / 2**0.5]]))
    torch.testing.assert_close(head(9 * x), head(x))


def test_baseline_pp_learns_its_scale_in_training_and_keeps_it_in_a_task():
    learner = transfer("baseline_pp", scale=4.0)
    assert "classifier.scale" in learner.meta_params() and set(learner.noise()) == {"weight"}
    _, gradients = learner.meta_gradient(FAMILY.source("train", size=1)(0))
    assert gradients[list(learner.meta_params()).index("classifier.scale")].abs() > 0
    assert learner.adapt(pick(BY_CLASS.source("test", size=1)(0).support, 0))[1].scale == 4.0


def test_a_transfer_needs_a_linear_layer_to_replace():
    with pytest.raises(InputError, match="Baseline.. replaces .* by a classifier, and `head` is a Tanh"):
        METHODS["baseline_pp"](nn.Sequential(nn.Linear(64, 3), nn.Tanh()), 3, 6, head="1")


def test_other_classes_in_training_are_for_transfer_only():
    with pytest.raises(InputError, match="need 10 outputs"):
        check_training(config.build(config.parse_config({**PRETRAIN, "method": {"name": "maml"}})))


def test_batches_for_pretraining_are_not_evaluated_on(tmp_path):
    with pytest.raises(InputError, match="'train' of these tasks are batches for pretraining.*Evaluate on 'test'"):
        check_training(config.build(config.parse_config({**PRETRAIN, "evaluate": {"split": "train"}})))
    run = trained(tmp_path / "pre", {**PRETRAIN, "train": {"steps": 0}})
    with pytest.raises(InputError, match="'train' of these tasks are batches for pretraining"):
        evaluate_run(run, overrides=["--evaluate.split", "train"])
    assert evaluate_run(run, overrides=["--evaluate.split", "val"])["tasks"] == 5


def test_baselines_learn_digits_and_are_compared_on_the_tasks_of_others(tmp_path):
    few = {"name": "digits", "split": "class", "ways": 3, "shots": 5, "queries": 5}
    data = {
        "tasks": {"name": "cross", "train": {"name": "batches", "of": few}, "test": few},
        "model": {**BODY, "filters": 16},
        "method": {"name": "baseline_pp", "eval_inner_steps": 20},
        "train": {"steps": 60, "meta_batch_size": 1, "meta_lr": 0.01, "validate_every": 0},
    }
    result = evaluate_run(trained(tmp_path / "pp", data), overrides=["--evaluate.tasks", "40"])
    assert result["mean"] > 0.75 and result["init_from"] is None  # chance is 1/3
    other = {**data, "tasks": few, "method": "maml", "train": {"steps": 0}}
    assert (
        evaluate_run(trained(tmp_path / "maml", other), overrides=["--evaluate.tasks", "40"])["hash"] == result["hash"]
    )


# -- starting from a run --


@pytest.fixture(scope="module")
def pretrained_once(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("once") / "pre", PRETRAIN).path


@pytest.fixture
def pretrained(place, pretrained_once):
    shutil.copytree(pretrained_once, "pre")
    return Run.open("pre")


def begun(*overrides, data=FINE, **asked):
    setup = config.build(config.parse_config({**data, "init_from": {"run": "pre", **asked}}, overrides))
    found = find_start(setup.config.init_from, setup.learner, setup.model_shapes)
    apply_start(found, setup.learner)
    return found, setup.learner


@pytest.mark.parametrize(
    ("method", "slot"), [("maml", "head"), ("mtnet", "head"), ("hypermaml", "body"), ("baseline_pp", "body")]
)
def test_a_body_pretrained_by_transfer_starts_any_learner(pretrained, method, slot):
    found, learner = begun("--method", f"{{name: {method}}}")
    theirs, ours = pretrained.load("best").tensors, learner.state_dict()
    blocks = [name for name in theirs if name.startswith("model.body.")]
    assert len(blocks) == 8 == len(found.loaded)
    for name in blocks:
        assert torch.equal(ours[name.replace("model.body", slot)], theirs[name])
    assert found.unused == ["classifier.bias", "classifier.weight"] and "`best` of step" in found.source
    assert found.skipped == (
        [] if method == "baseline_pp" else [f"head.{n} is missing there" for n in ("weight", "bias")]
    )


def test_a_head_of_any_name_goes_over_between_methods_that_split_it_off(place, monkeypatch):
    (place / "named.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, inputs, outputs):\n"
        "        super().__init__()\n"
        "        self.enc, self.fc = nn.Linear(64, 8), nn.Linear(8, outputs)\n"
        "    def forward(self, x):\n"
        "        return self.fc(self.enc(x.flatten(1)).relu())\n"
    )
    monkeypatch.syspath_prepend(place)
    split = {**FINE, "model": "named:Net", "method": {"name": "anil", "inner_lr": 0.1}}
    trained("pre", split)
    source = Run.open("pre").load("last").tensors
    found, learner = begun(data=split)
    assert sorted(found.loaded) == ["enc.bias", "enc.weight", "fc.bias", "fc.weight"] and not found.unused
    assert torch.equal(learner.state_dict()["head.weight"], source["model.head.weight"])
    whole, _ = begun(data={**split, "method": {"name": "maml", "inner_lr": 0.1}})
    assert sorted(whole.loaded) == sorted(found.loaded) and not whole.unused
    assert begun(data=split, only=["fc.*"])[0].loaded == ["fc.weight", "fc.bias"]


def test_a_head_goes_over_where_its_shape_is_the_same(place):
    trained("pre", FINE)
    source = Run.open("pre").load("last").tensors
    found, learner = begun("--method", "{name: hypermaml}")
    assert found.skipped == [] and torch.equal(learner.state_dict()["head.weight"], source["model.head.head.weight"])
    found, learner = begun("--tasks.ways", "4")
    assert found.skipped[0] == "head.weight has shape [3, 16] there, not [4, 16]" and len(found.loaded) == 8
    found, _ = begun(only="block0.*")
    assert found.loaded == [f"block0.{n}" for n in ("conv.weight", "conv.bias", "norm.weight", "norm.bias")]
    found, learner = begun(run="pre/checkpoints/last.safetensors")
    assert torch.equal(learner.state_dict()["head.head.weight"], source["model.head.head.weight"])


def test_the_norms_of_every_step_start_from_the_source(pretrained):
    _, learner = begun("--method", "{name: mamlpp, norms: per_step, inner_steps: 3}")
    theirs, later = pretrained.load("best").tensors, learner.rule.later
    assert len(later) == 4
    for name, steps in later.items():
        source = theirs[f"model.body.{name}"]
        assert not torch.equal(source, source.round()), "nothing to tell from a fresh norm"
        assert torch.equal(steps, source.expand(2, -1)) and torch.equal(learner.params()[name], source)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "nearest_neighbour"])
def test_places_of_a_model_are_found_in_every_learner(name):
    model = mlp(4, 3, hidden=(5,))
    outputs = [p for p in inspect.signature(METHODS[name]).parameters if p.endswith("outputs")]
    learner = METHODS[name](model, **dict.fromkeys(outputs, 3))
    own, found = learner.state_dict(), match_names(list(model.state_dict()), learner.state_dict())
    assert found.keys() >= {"layer0.weight", "layer0.bias"}
    for tensor, place in found.items():  # a learner copies its model (Unicorn-MAML of its head the first row)
        assert torch.equal(own[place][0], model.state_dict()[tensor][0]), f"{tensor} is not {place}"


@pytest.mark.parametrize(
    ("overrides", "asked", "words"),
    [
        (["--model.filters", "5"], {}, r"another architecture: block0.conv.weight has shape \[4, 1, 3, 3\] there, not"),
        (["--model.blocks", "3"], {}, "another architecture: block2.conv.weight is missing there"),
        ([], {"only": "blok*"}, "'blok\\*', which matches no tensor of the model.*body.block0.conv.bias"),
        ([], {"freeze": "blok*"}, "`init_from.freeze` has 'blok\\*', which matches no parameter.*block0"),
        ([], {"run": "per"}, "no run at per .*Did you mean `pre`"),
        ([], {"only": "head.*"}, "head.weight is missing there; head.bias is missing there"),
        (
            ["--method", "{name: nearest_neighbour}", "--model", "null"],
            {},
            "`init_from` loads a model.*Leave `init_from` out",
        ),
        (["--init_from.fraeze", "x"], {}, "`init_from.fraeze` is no setting. Did you mean `freeze`"),
    ],
)
def test_what_cannot_be_started_from_is_refused(pretrained, overrides, asked, words):
    with pytest.raises(InputError, match=words):
        begun(*overrides, **asked)


def test_frozen_features_neither_train_nor_adapt(pretrained):
    data = {**FINE, "init_from": {"run": "pre", "freeze": "block*"}}
    run = trained("fine", data)
    source, ours = pretrained.load("best").tensors, run.load("last").tensors
    for name in (n for n in source if n.startswith("model.body.")):
        assert torch.equal(ours[name.replace("body", "head")], source[name])
    assert config.build(config.parse_config(run.config)).learner.meta_params().keys() == {
        "head.head.weight",
        "head.head.bias",
    }


def test_the_source_is_needed_once(pretrained):
    """A run that was stopped goes on without it, to the same bits; so do evaluations, and the result names it."""

    class Stops(Watcher):
        def step(self, step, loss):
            self.stopping = True

    data = {**FINE, "init_from": "pre"}
    whole = trained("whole", data)
    with pytest.raises(StoppedError):
        trained("stopped", data, watch=Stops())
    shutil.rmtree("pre")
    resumed = Run.open("stopped")
    train(config.build(config.parse_config(resumed.config)), resumed)
    torch.testing.assert_close(resumed.load("last").tensors, whole.load("last").tensors, rtol=0, atol=0)
    assert resumed.load("last").state["initial"]["source"].startswith("pre, `best`")


def test_overrides_after_a_bare_run_keep_it():
    words = ["--init_from", "runs/pre", "--init_from.freeze", "[block*]"]
    assert config.parse_config(FINE, words).init_from == InitFrom(run="runs/pre", freeze=("block*",))


def test_pretrain_then_meta_train_from_a_terminal(cli, place):
    (place / "pre.yaml").write_text(yaml.safe_dump(PRETRAIN))
    (place / "fine.yaml").write_text(yaml.safe_dump(FINE))
    assert cli("train", "pre.yaml", "--out", "pre").code == 0
    words = ("train", "fine.yaml", "--init-from", "pre", "--init-from.freeze", "block0.*", "--out", "fine")
    done = Command(*words, cwd=place).wait()
    assert done.code == 0 and "start: 8 tensors from pre, `best` of step" in done.err
    shutil.move("pre", "elsewhere")
    told = json.loads(cli("evaluate", "fine", "--json").out)
    assert len(told["init_from"]["loaded"]) == 8 and told["init_from"]["skipped"] == [
        "head.weight is missing there",
        "head.bias is missing there",
    ]
    assert Run.open("fine").config["init_from"] == {"run": "pre", "only": ["*"], "freeze": ["block0.*"]}
    assert cli("report", "fine", "elsewhere").code == 0
    refused = cli("train", "fine.yaml", "--init-from", "pre", "--out", "other")
    assert refused.code == 2 and "There is no run at pre" in refused.err and not (place / "other").exists()
    assert "belongs to the training" in cli("evaluate", "fine", "--init-from", "elsewhere").err
