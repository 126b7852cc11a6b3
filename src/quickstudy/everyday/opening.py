"""Opening what was saved: a classifier, a regressor, a learner or a run, whichever a directory holds."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, FiniteFloat, ValidationError
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.evaluation.calibration import Calibration
from quickstudy.everyday.bases import LEARNER, Base, EncoderBase, LearnerBase, TableBase, open_known_encoder
from quickstudy.everyday.classifier import FewShotClassifier
from quickstudy.everyday.labels import load_labels
from quickstudy.everyday.regressor import FewShotRegressor
from quickstudy.methods.learner import Learner
from quickstudy.rules.params import with_prefix
from quickstudy.storage.checkpoints import describe_misfit
from quickstudy.storage.files import as_path
from quickstudy.storage.model_files import CONFIG_FILE, TENSORS_FILE, is_model, read_model
from quickstudy.storage.records import first_fault
from quickstudy.training.restore import load, load_learner, make_learner

Opened = FewShotClassifier | FewShotRegressor | Learner


class _SavedBase(BaseModel, frozen=True, extra="forbid"):
    """What a model says of its base."""

    kind: Literal["table", "encoder", "learner"]
    name: str = ""
    digest: str = ""
    learner: dict[str, Any] = {}


class _SavedModel(BaseModel, frozen=True, extra="forbid"):
    """What a classifier or a regressor says in its config."""

    format: int
    quickstudy: str
    sha256: str
    kind: Literal["classifier", "regressor"]
    base: _SavedBase
    norms: Literal["support", "trained"] = "support"
    classes: str = Field("[]", description="JSON")
    calibration: Calibration | None = None
    notes: list[str] = []
    columns: list[str] | None = Field(None, description="their names, of a table")
    flat: bool = True
    deviation: FiniteFloat | list[FiniteFloat] | None = None


def open(path: str | Path, *, base: Any = None, trust: bool = False) -> Opened:  # noqa: A001  # quickstudy.open
    """Open a saved model: what `FewShotClassifier.save`, `FewShotRegressor.save` or `Learner.save` wrote, or a run.

    Args:
        path: The directory.
        base: The encoder of a model whose base was a module of your own; its hash must be the one that the model has.
        trust: Whether to run code that the directory names as `package.module:factory`, although you did not make it
            here.
    """
    path = as_path(path)
    if not is_model(path):
        if os.path.isfile(path / "config.yaml"):
            return load(path, trust=trust)
        read_model(path)  # says what is wrong
    values, tensors = read_model(path)
    if values.get("kind") == "learner":
        return load_learner(path, trust=trust)
    try:
        saved = _SavedModel.model_validate(values)
        classes = load_labels(saved.classes)
    except ValidationError as error:
        raise InputError(
            f"{path / CONFIG_FILE} does not describe a model ({first_fault(error)}): it was changed, or saved by "
            "another version."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path / CONFIG_FILE} was changed or damaged: {error}.") from error
    made = _open_base(path, saved.base, tensors, base, trust)
    x, y = _examples(path, saved, made, classes, tensors)
    names = None if saved.columns is None else np.array(saved.columns, dtype=object)
    if saved.kind == "regressor":
        regressor = FewShotRegressor(None if isinstance(made, TableBase) else made, norms=saved.norms)
        known = np.array(saved.deviation) if isinstance(saved.deviation, list) else saved.deviation
        if isinstance(known, np.ndarray) and len(known) != y.shape[1]:
            raise InputError(f"{path / CONFIG_FILE} was changed: it has {len(known)} errors for {y.shape[1]} outputs.")
        regressor._teach(made, x, y, saved.flat, known)
        regressor._keep_columns(x[0].numel(), names)
        return regressor
    classifier = FewShotClassifier(None if isinstance(made, TableBase) else made, norms=saved.norms)
    labels = [classes[number] for number in y.tolist()]
    classifier._teach(made, x, labels, saved.notes, saved.calibration)
    classifier._keep_columns(x[0].numel(), names)
    return classifier


def _examples(
    path: Path, saved: _SavedModel, made: Base, classes: list[Any], tensors: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The examples that a model was taught by, held against what they must be."""
    place = path / TENSORS_FILE
    known = {"examples.x", "examples.y"}
    strange = [name for name in tensors if name not in known and not name.startswith(LEARNER)]
    missing = [name for name in known if name not in tensors]
    if strange or missing:
        fault = f"{missing[0]} is missing" if missing else f"{strange[0]} is unexpected"
        raise InputError(f"{place} is not of this model: {fault}. Save the model again, or use a copy of it.")
    x, y = tensors["examples.x"], tensors["examples.y"]
    faults = [
        f"{name} {fault}"
        for name, value in (("examples.x", x), ("examples.y", y))
        if (fault := describe_misfit(value, torch.zeros_like(value)))
    ]
    if x.ndim < 2 or not len(x) or len(x) != len(y) or not x.is_floating_point():
        faults.append("the examples do not fit together")
    elif saved.base.kind != "table" and x.dtype != torch.float32:
        faults.append("the examples have another type than their base reads")
    elif saved.base.kind != "learner" and x.ndim != 2:
        faults.append("the examples are no rows of features, as this base has them")
    elif saved.kind == "classifier" and (
        y.ndim != 1 or y.dtype != torch.int64 or sorted(set(y.tolist())) != list(range(len(classes)))
    ):
        faults.append("the class numbers of the examples do not fit the classes")
    elif saved.kind == "regressor" and (y.ndim != 2 or y.dtype != torch.float64):
        faults.append("the values of the examples have another shape or type")
    if faults:
        raise InputError(f"{place} is damaged: {faults[0]}. Save the model again, or use a copy of it.")
    if isinstance(made, LearnerBase):
        try:
            x = made.prepare(x)
        except InputError as misfit:
            raise InputError(
                f"{place} is damaged: its examples are not what {made.name} reads. {misfit} Save the model again, or "
                "use a copy of it."
            ) from misfit
    return x, y


def _open_base(path: Path, saved: _SavedBase, tensors: Mapping[str, Tensor], given: Any, trust: bool) -> Base:
    """The base of a saved model."""
    if saved.kind == "table":
        return TableBase()
    if saved.kind == "learner":
        own = with_prefix(tensors, LEARNER)
        return LearnerBase(make_learner(saved.learner, own, path, trust=trust), saved.name)
    try:
        return EncoderBase(open_known_encoder(saved.name, saved.digest, str(path), given))
    except InputError as refusal:
        if given is None and str(path) not in str(refusal):
            raise InputError(
                f"{path} was taught to the encoder {saved.name!r}, which is not here: {refusal} If it is a module of "
                "your own, give it: quickstudy.open(path, base=module)."
            ) from refusal
        raise
