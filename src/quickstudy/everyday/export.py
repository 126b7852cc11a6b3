"""Export: an adapted classifier, or a learner that learns elsewhere, as one file of ONNX or of `torch.export`.

An exported file is run before it is kept, and its answers are compared with PyTorch's: on the given inputs, and on
batches of other sizes. A file that differs is never kept. What a program needs beside the numbers (class names,
preparation, calibration) is in the file's metadata.

| file | inputs | outputs |
|---|---|---|
| classifier | `x [n, *input]` | `logits [n, classes]` |
| learner | `support_x [s, *input]`, `support_y [s]`, `query_x [n, *input]` | `logits [n, ways]` |

A learner is exported if it takes no gradient steps: ProtoNet, NCA, MatchingNet and HyperShot, and HyperMAML by its
emission alone. Steps would be unrolled into the graph, and an exporter may differentiate them silently wrong.
"""

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.engine.twin import call_on, copy_module
from quickstudy.errors import InputError, RunError, describe_error
from quickstudy.everyday.bases import Base, EncoderBase, LearnerBase
from quickstudy.everyday.heads import nearest_mean_learner
from quickstudy.everyday.items import read_items
from quickstudy.methods.embedding import EmbeddingLearner
from quickstudy.methods.learner import Learner
from quickstudy.methods.misfits import explain_support_misfit
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.models.encoders.pictures import PictureEncoder
from quickstudy.models.norms import is_transductive
from quickstudy.rules.combine import Mix
from quickstudy.rules.criteria import one_hot
from quickstudy.rules.descend import Descend
from quickstudy.rules.skipping import Skipping
from quickstudy.storage.files import dumps, explain_disk_errors, write_atomic
from quickstudy.types import Examples

EXPORT_FORMAT = 1
OPSET = 20
ROUNDING = 1e-5
"""The largest difference of an output, as a part of the largest output (at least of 1): rounding is far below it."""
MOST_BYTES = 2**31 - 2**20
"""An ONNX file is one protobuf message, which cannot be larger than 2 GiB."""
SUFFIXES = (".onnx", ".pt2")
INSTALL_EXPORT = "pip install 'quickstudy[export]'"

RunFile = Callable[..., Tensor]
"""Runs an exported file on inputs in their order."""


def export_classifier(
    module: nn.Module, example: Tensor, path: str | Path, metadata: Mapping[str, Any] | None = None
) -> float:
    """Export an adapted classifier.

    Args:
        module: From `[n, *input]` to `[n, classes]`, as `adapt` returns it.
        example: Inputs on which the file is compared with the module, `[n, *input]`: the user's own.
        path: Where it goes; `.onnx` is ONNX, `.pt2` is `torch.export`.
        metadata: What the file says of itself: class names, preparation, calibration. Plain values by name.

    Returns:
        The largest difference from PyTorch, as a part of the largest output.
    """
    if not isinstance(example, Tensor) or example.ndim < 1 or not len(example):
        raise InputError("Give one or more inputs, [n, *input], on which the exported file is compared with PyTorch.")
    _refuse_transductive(module)
    frozen = _OneInput(copy_module(module).eval().requires_grad_(False))
    several = example if len(example) > 1 else torch.cat([example, example])
    trials = [(example,), (several,), (several[:1],)]
    about = {"kind": "classifier", **(metadata or {})}
    return _export(frozen, {"x": several}, {"x": "n"}, trials, Path(path), about)


def export_learner(
    learner: Learner,
    example: tuple[Examples, Tensor],
    path: str | Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    ways: int | None = None,
) -> float:
    """Export a learner that takes no gradient steps: the file learns from any support set, of unequal shots too.

    Of classes without an example the logit is minus infinity. So a file for 10 ways also tells 2 classes apart.

    Args:
        learner: ProtoNet and its kin, or HyperMAML by its emission alone.
        example: A support set and queries, on which the file is compared with PyTorch.
        path: As for `export_classifier`.
        metadata: As for `export_classifier`.
        ways: The largest number of classes; by default the learner's own. Only ProtoNet and its kin take another.
    """
    return _export_learner(learner, None, example, Path(path), metadata or {}, ways)


def _export_learner(
    learner: Learner,
    encoder: nn.Module | None,
    example: tuple[Examples, Tensor],
    path: Path,
    metadata: Mapping[str, Any],
    ways: int | None,
) -> float:
    """`export_learner`, of a learner that reads the features of an encoder, if there is one."""
    support, query = example
    served = _learns_at_once(learner, ways)
    largest = int(support.y.max()) + 1 if len(support.y) else 0
    if largest > (ways or largest):
        raise InputError(
            f"The support set has {largest} classes, and `ways` was {ways}, the most that the file is to tell apart: "
            "give a larger number, or fewer classes."
        )
    with explain_support_misfit(support):
        part = LearningModule(served, support, encoder)
    x, y = support.x, support.y.long()
    inputs = {"support_x": x, "support_y": y, "query_x": query}
    inputs = {name: value if len(value) > 1 else torch.cat([value, value]) for name, value in inputs.items()}
    order = torch.arange(len(x)).flip(0)
    half = order[: max(1, len(x) // 2 + 1)]
    trials = [(x, y, query), (x[order], y[order], query[:1]), (x[half], y[half], query)]
    sizes = {"support_x": "s", "support_y": "s", "query_x": "n"}
    return _export(part, inputs, sizes, trials, path, {"kind": "learner", "ways": part.ways, **metadata})


def export_taught(
    base: Base, module: nn.Module, taught: Tensor, path: str | Path, inputs: Any, about: Mapping[str, Any]
) -> float:
    """Export what a base was taught, from inputs as the base prepares them: of `photos`, prepared pictures.

    Args:
        base: The base.
        module: What it adapted to the examples.
        taught: The examples, prepared.
        path: As for `export_classifier`.
        inputs: A user's own inputs, on which the file is compared with PyTorch: pictures or rows of numbers, as for
            `predict`. By default those that taught the model, or random numbers where pictures are not kept.
        about: What the file says of itself, beside its base.
    """
    module, x = _with_encoder(base, module, taught, inputs)
    return export_classifier(module, x, path, {**_describe_base(base), **about})


def export_learning(
    base: Base, path: str | Path, inputs: Any = None, *, ways: int | None = None, classes: int = 2
) -> float:
    """Export a base with its learning, instead of what it was taught; see `export_learner`.

    Args:
        base: The base.
        path: As for `export_classifier`.
        inputs: As for `export_taught`.
        ways: As for `export_learner`.
        classes: How many were taught: the ways of an encoder, unless others are given.
    """
    learner, shape = _learner_of(base, ways or max(classes, 2))
    encoder = _picture_encoder(base)
    shape = shape if encoder is None else _picture_shape(encoder)
    known = _ways(learner) if ways is None else min(ways, _ways(learner))
    count = 2 * known
    draw = torch.Generator().manual_seed(0)
    x = _prepare(base, inputs) if inputs is not None else torch.randn(count, *shape, generator=draw)
    y = torch.arange(len(x)) % min(known, len(x))
    network = None if encoder is None else encoder.network
    return _export_learner(learner, network, (Examples(x, y), x), Path(path), _describe_base(base), ways)


def _describe_base(base: Base) -> dict[str, Any]:
    """What a program must know of the inputs: their preparation, or the encoder whose features they are."""
    encoder = base.encoder if isinstance(base, EncoderBase | LearnerBase) else None
    about: dict[str, Any] = {"base": base.name}
    if isinstance(encoder, PictureEncoder):
        return about | {"encoder": encoder.digest, "preparation": encoder.preparation.key_fields()}
    if encoder is not None:
        return about | {"encoder": encoder.digest, "preparation": {"features of": encoder.name}}
    tasks = base.tasks if isinstance(base, LearnerBase) else None
    return about if tasks is None or tasks.picture is None else about | {"preparation": asdict(tasks.picture)}


def _prepare(base: Base, inputs: Any) -> Tensor:
    """A user's inputs as the exported file takes them."""
    items = read_items(inputs)
    encoder = _picture_encoder(base)
    if encoder is None:
        return base.prepare(items)
    encoder.encode(items)  # what is no picture is refused by its name
    return torch.cat([encoder.preparation(item) for item in items])


def _picture_encoder(base: Base) -> PictureEncoder | None:
    """The encoder of pictures that a base has before all else; None if it has none."""
    encoder = base.encoder if isinstance(base, EncoderBase | LearnerBase) else None
    return encoder if isinstance(encoder, PictureEncoder) else None


def _picture_shape(encoder: PictureEncoder) -> tuple[int, ...]:
    how = encoder.preparation.decoding
    return (how.channels, how.side, how.side)


def _with_encoder(base: Base, adapted: nn.Module, taught: Tensor, inputs: Any) -> tuple[nn.Module, Tensor]:
    """The whole module from prepared inputs to outputs, and inputs to compare on."""
    encoder = _picture_encoder(base)
    if inputs is not None:
        x = _prepare(base, inputs)
    elif encoder is not None:
        x = torch.randn(2, *_picture_shape(encoder), generator=torch.Generator().manual_seed(0))
    else:
        x = taught
    return adapted if encoder is None else nn.Sequential(encoder.network, adapted), x


def _learner_of(base: Base, ways: int) -> tuple[Learner, tuple[int, ...]]:
    """The learner of a base, and the shape of one of its inputs: of its features, if it has an encoder."""
    if isinstance(base, LearnerBase):
        if base.tasks is None:
            raise InputError("It is not known what this learner takes: use export_learner, with examples.")
        return base.learner, base.tasks.single_input()
    if isinstance(base, EncoderBase):
        size = base.encoder.features
        return nearest_mean_learner(size, ways), (size,)
    raise InputError(
        "Nothing was learnt before these examples, so there is no learner. Export the model as it was taught."
    )


class LearningModule(nn.Module):
    """A learner as a function of a support set and queries.

    Args:
        learner: A learner that takes no gradient steps.
        support: A support set, for what the learner asks of a first task.
        encoder: A network whose features the learner reads; None if it reads the inputs.
    """

    def __init__(self, learner: Learner, support: Examples, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.learner = copy_module(learner).eval().requires_grad_(False)
        self.encoder = None if encoder is None else copy_module(encoder).eval().requires_grad_(False)
        with torch.no_grad():
            self.learner.check_once(support._replace(x=self.encode(support.x)))
        self.ways = _ways(self.learner)
        for part in self.learner.modules():
            if isinstance(part, Skipping):
                part.note_zeros()  # a trace cannot decide by numbers

    def encode(self, x: Tensor) -> Tensor:
        """What the learner reads."""
        features: Tensor = x if self.encoder is None else self.encoder(x)
        return features

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        member = one_hot(support_y, self.ways, support_x)
        params = self.learner.update(Examples(self.encode(support_x), support_y), {}, evaluating=True)
        logits = self.learner.predict(params, self.encode(query_x))
        return torch.where(member.sum(0) > 0, logits, -torch.inf)


class _OneInput(nn.Module):
    """A module as a function of one tensor, whatever else its forward would take."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = call_on(self.module, x)
        return output


def _ways(learner: Learner) -> int:
    if learner.ways is not None:
        return learner.ways
    assert isinstance(learner, RuleLearner)
    return len(next(iter(learner.params().values())))


def _refuse_transductive(module: nn.Module) -> None:
    if is_transductive(module):
        raise InputError(
            "This model normalises by the statistics of its batch (norms='batch'), so an answer depends on its "
            "neighbours and a file of it would answer for one batch size. Serve it with norms='support': "
            "`quickstudy pack RUN OUT`, or --method.norms support (in Python norms='support')."
        )


def _learns_at_once(learner: Learner, ways: int | None) -> Learner:
    """The learner for a number of ways, if its update is one pass through networks."""
    if isinstance(learner, RuleLearner):
        steps = {part for part in learner.modules() if isinstance(part, Descend)}
        if steps - _skipped(learner.rule):
            raise InputError(
                "This learner takes gradient steps, which an exporter may get silently wrong. Export the adapted model "
                "instead (a classifier), or a learner without steps: protonet, or hypermaml with emission 1."
            )
        if learner.noise():
            raise InputError("This learner draws random numbers for each task. Export the adapted model instead.")
        if ways not in (None, _ways(learner)):
            raise InputError(f"This learner is built for {_ways(learner)} classes; ProtoNet takes any number of them.")
        _refuse_transductive(learner)  # last: other norms would not help the ones above
        return learner
    if not isinstance(learner, EmbeddingLearner):
        raise InputError(
            f"A {type(learner).__name__} is not exported with its learning. Export the adapted model instead (a "
            "classifier), or use protonet, or hypermaml with emission 1."
        )
    _refuse_transductive(learner)
    return learner if ways in (None, learner.ways) else learner.with_ways(ways)


def _skipped(rule: nn.Module) -> set[nn.Module]:
    """The parts of a rule that do not run, as their branch of a `Mix` has weight 0."""
    return {
        part
        for mix in rule.modules()
        if isinstance(mix, Mix)
        for is_zero, branch in zip(mix.zeros(), mix.rules, strict=True)
        if is_zero
        for part in branch.modules()
    }


def _export(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    sizes: Mapping[str, str],
    trials: Sequence[tuple[Tensor, ...]],
    path: Path,
    about: Mapping[str, Any],
) -> float:
    """Export, compare, and only then write."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} ends in {path.suffix!r}: give a name that ends in .onnx or .pt2.")
    if not path.parent.is_dir():
        raise InputError(f"There is no directory {path.parent} for the exported file.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"Nothing can be written in {path.parent}. Give another path for the exported file.")
    try:
        plain = json.loads(dumps({"format": EXPORT_FORMAT, **about}))
    except TypeError as error:
        raise InputError(f"The metadata hold what is no plain value: {error}.") from error
    make = _to_onnx if path.suffix == ".onnx" else _to_torch
    try:
        data, run = make(module, inputs, sizes, plain)
    except (InputError, RunError):
        raise
    except Exception as error:  # exporters fail in many ways
        raise InputError(
            f"The model cannot be exported: {describe_error(error)[:300]}. A forward whose path depends on the numbers "
            "that it is given, or on code below Python, has no graph."
        ) from error
    worst = max(_compare_outputs(module, run, trial) for trial in trials)
    with explain_disk_errors(path, "Free some space, or give another path."):
        write_atomic(path, data)
    return worst


def _compare_outputs(module: nn.Module, run: RunFile, trial: tuple[Tensor, ...]) -> float:
    """The difference of the file's outputs from PyTorch's; an error if it is more than rounding."""
    with torch.no_grad():
        expected = module(*trial)
    found = run(*trial)
    if found.shape != expected.shape:
        raise RunError(
            f"The exported file gives {list(found.shape)} where PyTorch gives {list(expected.shape)}. It was not kept."
        )
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        raise RunError("The exported file gives NaN or infinity elsewhere than PyTorch. It was not kept.")
    scale = max(1.0, float(expected[finite].abs().max())) if finite.any() else 1.0
    worst = float((found - expected)[finite].abs().max()) / scale if finite.any() else 0.0
    if worst > ROUNDING:
        raise RunError(
            f"The exported file differs from PyTorch by {worst:.2g} of its largest output, where {ROUNDING:g} is "
            "allowed for rounding. It was not kept."
        )
    return worst


def _to_onnx(
    module: nn.Module, inputs: Mapping[str, Tensor], sizes: Mapping[str, str], about: Mapping[str, Any]
) -> tuple[bytes, RunFile]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise InputError(f"An ONNX file needs {error.name}, which is not installed: {INSTALL_EXPORT}.") from error
    program = _trace(module, inputs, sizes).run_decompositions({torch.ops.aten.cdist.default: _cdist})
    with _quiet_exporter():
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=list(inputs), output_names=["logits"], verbose=False
        )
    assert exported is not None
    model = exported.model_proto
    for key, value in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"quickstudy.{key}", value if isinstance(value, str) else dumps(value)
    if model.ByteSize() > MOST_BYTES:
        raise InputError(f"The model takes {model.ByteSize()} bytes, and an ONNX file holds 2 GiB. Export it as .pt2.")
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*values: Tensor) -> Tensor:
        given = {name: value.detach().cpu().numpy() for name, value in zip(names, values, strict=True)}
        (output,) = session.run(None, given)
        return torch.from_numpy(np.asarray(output))

    return data, run


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Leave out what the exporter says about its own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _to_torch(
    module: nn.Module, inputs: Mapping[str, Tensor], sizes: Mapping[str, str], about: Mapping[str, Any]
) -> tuple[bytes, RunFile]:
    program = _trace(module, inputs, sizes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"quickstudy.json": dumps(about)})
    data = buffer.getvalue()
    loaded = torch.export.load(io.BytesIO(data)).module()

    def run(*values: Tensor) -> Tensor:
        with torch.no_grad():
            output: Tensor = loaded(*values)
        return output

    return data, run


def _trace(module: nn.Module, inputs: Mapping[str, Tensor], sizes: Mapping[str, str]) -> torch.export.ExportedProgram:
    """The graph of a module, with the number of examples left open."""
    dims = {name: torch.export.Dim(name, min=1) for name in dict.fromkeys(sizes.values())}
    shapes = tuple({0: dims[sizes[name]]} for name in inputs)
    # Copies: one tensor that is given as two inputs would be one input of the graph.
    values = tuple(value.detach().clone() for value in inputs.values())
    with torch.no_grad():
        return torch.export.export(module, values, dynamic_shapes=shapes, strict=False)


def _cdist(x: Tensor, y: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """Distances by the plain formula: the exporter knows no other."""
    del compute_mode
    gaps = (x[..., :, None, :] - y[..., None, :, :]).abs()
    return gaps.square().sum(-1).sqrt() if p == 2 else gaps.pow(p).sum(-1).pow(1 / p)
