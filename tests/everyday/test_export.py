"""Exported files: equal to PyTorch on supports of every size, labelled, whole; refused where they would be wrong."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from quickstudy import Examples, FewShotClassifier, FewShotRegressor, InputError, RunError, hypermaml, maml
from quickstudy.everyday.export import export_classifier, export_learner
from quickstudy.methods.learner import Learner
from quickstudy.methods.registry import METHODS
from quickstudy.models.encoders.pictures import PictureEncoder, PicturePreparation
from quickstudy.models.nets import conv4, mlp
from quickstudy.tasks.images.decode import Decoding
from quickstudy.training.config.blueprint import Interface

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the exporters: pip install 'quickstudy[export]'")
onnx = pytest.importorskip("onnx", reason="needs the exporters: pip install 'quickstudy[export]'")
pytest.importorskip("onnxscript", reason="needs the exporters: pip install 'quickstudy[export]'")
# The exporter warns of its own parts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

WAYS = 4
LEARNERS = ["protonet", "nca", "matchingnet", "hypershot", "hypermaml", "switched"]


def net() -> nn.Module:
    torch.manual_seed(0)
    return conv4((1, 16, 16), WAYS, filters=4)


def learner(name: str, norms: str = "support") -> Learner:
    if name == "hypermaml":
        return hypermaml(net(), norms=norms, width=16)
    if name == "switched":  # its schedule has ended, and other weights were 0 before
        made = hypermaml(net(), norms=norms, width=16, emission=0.0)
        made.rule.note_zeros()
        made.rule.weights.copy_(torch.tensor([1.0, 0.0]))
        return made
    return METHODS[name](net(), WAYS, norms=norms)


def support(counts: list[int], seed: int = 0) -> Examples:
    """Examples of each class, in random order."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(WAYS).repeat_interleave(torch.tensor(counts))
    y = y[torch.randperm(len(y), generator=draw)]
    return Examples(torch.randn(len(y), 1, 16, 16, generator=draw) + 0.3 * y[:, None, None, None], y)


def queries(count: int = 5, seed: int = 9) -> Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def run(path: Path, *values: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    (logits,) = session.run(["logits"], {name: value.numpy() for name, value in zip(names, values, strict=True)})
    return torch.from_numpy(logits)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_learns_elsewhere_as_it_does_here(name, tmp_path):
    """On 100 random supports of unequal shots, and on any number of queries."""
    made = learner(name)
    export_learner(made, (support([2] * WAYS), queries()), tmp_path / "learner.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "learner.onnx", providers=["CPUExecutionProvider"])
    draw = torch.Generator().manual_seed(3)
    for seed in range(100):
        counts = torch.randint(1, 5, (WAYS,), generator=draw).tolist()
        few, asked = support(counts, seed), queries(1 + seed % 4, seed)
        given = {"support_x": few.x.numpy(), "support_y": few.y.numpy(), "query_x": asked.numpy()}
        (logits,) = session.run(["logits"], given)
        expected = made.adapt(few)(asked)
        worst = (torch.from_numpy(logits) - expected).abs().max() / max(1.0, float(expected.abs().max()))
        assert worst < 1e-5, f"support {seed} with {counts} examples"


def test_a_learner_for_many_ways_tells_fewer_apart(tmp_path):
    made = learner("protonet")
    export_learner(made, (support([2] * WAYS), queries()), tmp_path / "wide.onnx", ways=7)
    few = support([3, 1, 0, 0])
    logits = run(tmp_path / "wide.onnx", *few, queries())
    torch.testing.assert_close(logits[:, :2], made.adapt(few)(queries()), rtol=1e-5, atol=1e-4)
    assert (logits[:, 2:] == -torch.inf).all() and logits.shape == (5, 7)
    with pytest.raises(InputError, match="built for 4 classes; ProtoNet takes any number"):
        export_learner(learner("hypermaml"), (support([1] * WAYS), queries()), tmp_path / "x.onnx", ways=7)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("name", ["protonet", "hypermaml", "maml"])
def test_a_classifier_is_the_same_in_every_number_of_inputs(name, suffix, tmp_path):
    made = maml(net(), inner_lr=0.1, norms="support") if name == "maml" else learner(name)
    adapted = made.adapt(support([1, 2, 3, 1]))
    path = tmp_path / f"pets{suffix}"
    about = {"classes": ["ant", "bée", "cat", "dog"], "calibration": {"temperature": 1.5}}
    assert export_classifier(adapted, queries(), path, about) < 1e-5
    if suffix == ".onnx":
        model = onnx.load(path)
        said = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(said["quickstudy.classes"]) == about["classes"] and said["quickstudy.kind"] == "classifier"
        assert json.loads(said["quickstudy.calibration"]) == {"temperature": 1.5} and said["quickstudy.format"] == "1"
        assert [opset.version for opset in model.opset_import if not opset.domain] == [20]
        answer = [run(path, queries(count)) for count in (1, 3, 40)]
    else:
        extra = {"quickstudy.json": ""}
        program = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra).module()
        assert json.loads(extra["quickstudy.json"])["classes"] == about["classes"]
        answer = [program(queries(count)) for count in (1, 3, 40)]
    for found in answer:
        torch.testing.assert_close(found, adapted(queries(len(found))), rtol=1e-5, atol=1e-4)
    assert list(tmp_path.iterdir()) == [path]


def test_one_example_is_enough_to_compare_on(tmp_path):
    adapted = learner("protonet").adapt(support([1] * WAYS))
    export_classifier(adapted, queries(1), tmp_path / "one.onnx")
    assert run(tmp_path / "one.onnx", queries(6)).shape == (6, WAYS)


# -- models that were taught --


def encoder() -> PictureEncoder:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    half = (0.5, 0.5, 0.5)
    return PictureEncoder("tiny", "tiny", network, 32, PicturePreparation(Decoding(16, 3, fit="crop"), half, half))


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    draw = np.random.default_rng(seed)
    return [Image.fromarray(draw.integers(0, 256, (20, 17, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("own_cache")
def test_a_classifier_of_pictures_is_exported_with_its_encoder(tmp_path):
    """It takes prepared pictures, answers with the same names, and says how pictures are prepared."""
    labels = ["ant", "bee", 3, "ant", "bee", 3, "ant"]
    taught = FewShotClassifier(encoder()).fit(pictures(7), labels)
    taught.export(tmp_path / "pets.onnx", pictures(3, seed=1))
    said = {entry.key: entry.value for entry in onnx.load(tmp_path / "pets.onnx").metadata_props}
    names = json.loads(said["quickstudy.classes"])
    preparation = json.loads(said["quickstudy.preparation"])
    assert preparation["side"] == 16 and preparation["fit"] == "crop" and preparation["mean"] == [0.5, 0.5, 0.5]
    assert json.loads(said["quickstudy.calibration"])["temperature"] > 0
    new = pictures(30, seed=2)
    x = torch.cat([encoder().preparation(picture) for picture in new])
    found = run(tmp_path / "pets.onnx", x).argmax(1).tolist()
    assert [names[number] for number in found] == taught.predict(new).tolist()


@pytest.mark.usefixtures("own_cache")
def test_an_encoder_that_learns_is_exported_with_its_learning(tmp_path):
    """The file is taught elsewhere, and answers as the classifier that was taught here."""
    labels = [0, 1, 2, 0, 1, 0, 2]
    shown, new = pictures(7), pictures(12, seed=3)
    taught = FewShotClassifier(encoder()).fit(shown, labels)
    taught.export(tmp_path / "learner.onnx", learns=True, ways=5)
    few, asked = (torch.cat([encoder().preparation(one) for one in some]) for some in (shown, new))
    logits = run(tmp_path / "learner.onnx", few, torch.tensor(labels), asked)
    torch.testing.assert_close(logits[:, :3], taught.outputs(new), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ways", [2, 3, None])
def test_a_learner_of_many_ways_is_exported_with_fewer(tmp_path, ways):
    """The file tells so many classes apart as asked for, and answers as the classifier that was taught here."""
    learner = METHODS["protonet"](nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6)), 6)
    draw = torch.Generator().manual_seed(0)
    support, query = torch.randn(6, 4, generator=draw), torch.randn(5, 4, generator=draw)
    y = torch.arange(6) % 2
    export_learner(learner, (Examples(support, y), query), tmp_path / "a.onnx", ways=ways)
    logits = run(tmp_path / "a.onnx", support, y, query)
    assert logits.shape == (5, ways or 6)
    wanted = learner.adapt(Examples(support, y))(query)
    torch.testing.assert_close(logits[:, :2], wanted[:, :2], rtol=1e-4, atol=1e-4)
    if ways is None:
        return
    with pytest.raises(InputError, match=f"has {ways + 1} classes, and `ways` was {ways}"):
        export_learner(
            learner, (Examples(support, torch.arange(6) % (ways + 1)), query), tmp_path / "b.onnx", ways=ways
        )


@pytest.mark.usefixtures("own_cache")
def test_a_shipped_learner_is_exported_with_fewer_ways(tmp_path):
    taught = FewShotClassifier("drawings").fit(pictures(4), [0, 1, 0, 1])
    assert taught.export(tmp_path / "few.onnx", learns=True, ways=3) < 1e-4


def test_inputs_with_other_columns_are_not_compared(tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 5))
    for taught in (FewShotClassifier().fit(x, [0, 1] * 4), FewShotRegressor().fit(x, x[:, 0])):
        with pytest.raises((InputError, ValueError), match="X has 3 features, but FewShot.* is expecting 5 features"):
            taught.export(tmp_path / "c.onnx", x[:, :3])


@pytest.mark.parametrize("estimator", [FewShotClassifier(), FewShotRegressor()])
def test_what_was_not_taught_is_not_exported(estimator, tmp_path):
    with pytest.raises((InputError, NotFittedError), match="is not fitted yet"):  # the latter with scikit-learn
        estimator.export(tmp_path / "a.onnx")


def test_several_tensors_as_one_input_are_no_array():
    several = Interface(inputs={"words": (3,), "mask": (3,)}, outputs=2, train_outputs=2, loss="cross_entropy")
    with pytest.raises(InputError, match="takes several tensors as one input .*Use `learner.adapt`"):
        several.single_input()


def test_rows_of_numbers_and_a_regressor_are_exported(tmp_path):
    rows = FewShotClassifier().fit([[0.0, 1.0], [1.0, 0.0], [5.0, 5.0]], ["low", "low", "high"])
    assert rows.export(tmp_path / "rows.onnx") < 1e-9
    x = torch.tensor([[0.5, 0.5], [4.0, 4.5]], dtype=torch.float64)
    torch.testing.assert_close(run(tmp_path / "rows.onnx", x), rows.outputs(x), rtol=1e-9, atol=1e-9)
    with pytest.raises(InputError, match="Nothing was learnt before these examples"):
        rows.export(tmp_path / "a.onnx", learns=True)
    line = FewShotRegressor().fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0])
    assert line.export(tmp_path / "line.pt2") < 1e-9
    with pytest.raises(InputError, match="A regressor is exported as it was taught"):
        line.export(tmp_path / "a.onnx", learns=True)


@pytest.mark.usefixtures("own_cache")
def test_the_verb_exports_a_taught_model_and_a_packed_learner(cli, place):
    for number, picture in enumerate(pictures(40)):
        folder = place / "pets" / f"kind {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number}.png")
    small = ("--tasks.size", 16, "--train.steps", 2, "--train.milestones", "[]", "--train.validate_tasks", 2)
    options = (
        "--tasks.queries",
        1,
        "--model.filters",
        4,
        "--method.norms",
        "support",
        "--no-tensorboard",
        "--out",
        "run",
    )
    assert cli("train", "folder", "--tasks.path", "pets", *small, *options, "--no-tensorboard").code == 0
    assert cli("adapt", "pets", "--from", "run", "--out", "pets.model").code == 0
    done = cli("export", "pets.model", "pets/*/*.png", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert (
        said["file"] == "pets.onnx"
        and said["difference"] < 1e-5
        and (place / "pets.onnx").stat().st_size == said["bytes"]
    )
    for kind, name in (("onnx-learner", "run-learner.onnx"), ("torch", "pets.pt2")):
        done = cli("export", "run" if kind == "onnx-learner" else "pets.model", "--to", kind)
        assert done.code == 0 and done.out.strip() == name and "differ from PyTorch's by" in done.err
    for words, said in (
        ((), "Give the directory of a model"),
        (("pets.model", "--to", "onyx"), "There is no kind 'onyx' of file. Did you mean `onnx`"),
        (("pets.model", "--ways", 3), "`--ways` goes with --to onnx-learner"),
        (("run",), "A learner has not been taught"),
        (("nothing",), "nothing"),
    ):
        done = cli("export", *words)
        assert done.code == 2 and said in done.err and done.err.count("\n") == 1


# -- what is refused --


@pytest.mark.parametrize("name", ["protonet", "hypermaml"])
def test_batch_statistics_are_refused_with_the_way_out(name, tmp_path):
    made = learner(name, norms="batch")
    for attempt in (
        lambda: export_learner(made, (support([1] * WAYS), queries()), tmp_path / "a.onnx"),
        lambda: export_classifier(made.adapt(support([1] * WAYS)), queries(), tmp_path / "a.onnx"),
    ):
        with pytest.raises(InputError, match="an answer depends on its neighbours.*Serve it with norms='support'"):
            attempt()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: maml(net(), inner_lr=0.1, norms="support"), "takes gradient steps"),
        (lambda: hypermaml(net(), norms="support", emission=0.5), "takes gradient steps"),
        (lambda: METHODS["mamlpp"](net()), "takes gradient steps"),
        (lambda: METHODS["nearest_neighbour"](WAYS), "NearestNeighbour is not exported with its learning"),
    ],
)
def test_learners_that_are_not_one_pass_are_refused(build, said, tmp_path):
    with pytest.raises(InputError, match=f"{said}.*Export the adapted model instead"):
        export_learner(build(), (support([1] * WAYS), queries()), tmp_path / "a.onnx")


class ByNumbers(nn.Module):
    """Its path depends on the numbers that it is given."""

    def forward(self, x):
        return x * 2 if float(x.sum()) > 0 else x


class ByMode(nn.Module):
    """Another function while it is recorded: an exporter's silent error, made on purpose."""

    def forward(self, x):
        return x * (1.01 if torch.compiler.is_compiling() else 1.0)


def test_a_file_that_would_be_wrong_is_not_kept(tmp_path):
    path = tmp_path / "kept.onnx"
    path.write_text("older")
    with pytest.raises(InputError, match="cannot be exported: .*whose path depends on the numbers"):
        export_classifier(ByNumbers(), torch.ones(3, 2), path)
    with pytest.raises(RunError, match="differs from PyTorch by 0.01 of its largest output.*It was not kept"):
        export_classifier(ByMode(), torch.ones(3, 2), path)
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("example", "path", "about", "said"),
    [
        (torch.ones(3, 2), "a.bin", {}, "ends in '.bin': give a name that ends in .onnx or .pt2"),
        (torch.ones(3, 2), "none/a.onnx", {}, "There is no directory"),
        (torch.ones(0, 2), "a.onnx", {}, "Give one or more inputs"),
        ([1], "a.onnx", {}, "Give one or more inputs"),
        (torch.ones(3, 2), "a.onnx", {"classes": object()}, "hold what is no plain value"),
    ],
)
def test_what_cannot_be_exported_says_why(example, path, about, said, tmp_path):
    with pytest.raises(InputError, match=said):
        export_classifier(mlp(2, 3), example, tmp_path / path, about)
