"""`FewShotClassifier`: a few labelled examples, then names for what is new."""

import warnings
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.evaluation.calibration import Calibration
from quickstudy.everyday.bases import (
    Base,
    LearnerBase,
    Progress,
    canonical_order,
    count_distinct,
    distance,
    open_base,
    run_outputs,
    save_taught,
    typical_shots,
)
from quickstudy.everyday.estimator import Estimator, as_weights, is_number
from quickstudy.everyday.items import read_taught
from quickstudy.everyday.labels import (
    as_label_array,
    check_classes,
    dump_labels,
    list_labels,
    number_labels,
    read_labels,
)
from quickstudy.storage.files import as_path

NEAR = 0.7
"""How far, in factors, ways and shots may be from those that calibrated before a warning: `exp(.7)` is 2."""
MANY_FAR = 0.25
"""The share of unlike inputs among those that are predicted together, above which there is a warning."""


class OutsideCalibrationWarning(UserWarning):
    """Probabilities are asked for where nothing calibrated them."""


class ServedNormsWarning(UserWarning):
    """A learner serves with other batch statistics than it was trained with."""


class FewShotClassifier(Estimator):
    """Learns classes from a few examples of each, and predicts their names.

    It has scikit-learn's conventions. X is a list of pictures (paths, PIL images, arrays of bytes), texts, or an array
    of numbers, whichever the base takes; y has labels of any hashable kind; classes may have unequal numbers of
    examples. `fit` also takes a folder with a folder of pictures for each class.

    >>> clf = FewShotClassifier().fit([[0.0], [1.0], [9.0]], ["low", "low", "high"])
    >>> clf.predict([[0.4], [7.0]]).tolist()
    ['low', 'high']
    >>> clf.update([[20.0], [21.0]], ["very high"] * 2).predict([[19.0]]).tolist()
    ['very high']

    Args:
        base: What the examples are taught to: "photos", "text", "timm:NAME", "hf:NAME", "open_clip:NAME/WEIGHTS", a
            run, a saved learner, a learner, a module that gives features; or None, for rows of numbers: the nearest
            class mean after each feature is standardised.
        norms: For a learner that was trained with batch statistics: "support" (those of the examples, so that no answer
            depends on its neighbours) or "trained".
        episodes: The validation tasks that calibrate a base whose tasks are at hand; 0 for none.
        trust: Whether to run code that a run or a saved learner names as `package.module:factory`.

    Attributes:
        classes_: The labels, in the order of the columns of `predict_proba`.
        adapted_: A plain module from inputs, as the base prepares them, to outputs `[n, classes]`.
        calibration_: What episodes say of the probabilities; None if nothing does.
        notes_: Remarks: what was not used, what serves in another way than it was trained.
    """

    estimator_type = "classifier"
    classes_: NDArray[Any]
    adapted_: nn.Module
    calibration_: Calibration | None
    notes_: list[str]
    n_features_in_: int
    _base: Base
    _x: Tensor
    _labels: list[Hashable]
    _typical_shots: int

    def fit(
        self,
        X: Any,  # noqa: N803  # scikit-learn's name
        y: Any = None,
        *,
        progress: Progress | None = None,
    ) -> "FewShotClassifier":
        """Learn from examples.

        Args:
            X: Examples; or a folder with a folder of pictures for each class, or a dataset of pairs, without y.
            y: Their labels.
            progress: Called with how many examples have been made ready, and of how many.
        """
        X, y, notes = read_taught(X, y)  # noqa: N806
        items, names = self._read_columns(X, first=True)
        labels = read_labels(y)
        _check_lengths(len(items), len(labels))
        check_classes(labels)
        base = open_base(self.base, norms=self.norms, episodes=self.episodes, trust=self.trust)
        for note in base.notes:
            warnings.warn(note, ServedNormsWarning, stacklevel=2)
        self._teach(base, base.prepare(items, progress), labels, [*base.notes, *notes])
        self._keep_columns(self._x[0].numel(), names)
        return self

    def update(
        self,
        X: Any,  # noqa: N803
        y: Any = None,
        *,
        progress: Progress | None = None,
    ) -> "FewShotClassifier":
        """Learn from more examples, of old classes or of new ones: the same as `fit` on all examples together."""
        self._check_fitted()
        X, y, notes = read_taught(X, y)  # noqa: N806
        items = self._read(X, first=False)
        labels = read_labels(y)
        _check_lengths(len(items), len(labels))
        x = self._prepare(items, progress)
        return self._teach(self._base, torch.cat([self._x, x]), [*self._labels, *labels], [*self.notes_, *notes])

    def _teach(
        self, base: Base, x: Tensor, labels: list[Hashable], notes: list[str], calibration: Calibration | None = None
    ) -> "FewShotClassifier":
        """Set everything that examples decide, once all of it is there."""
        classes = check_classes(labels)
        numbers = number_labels(labels, classes)
        y, ways = torch.from_numpy(numbers), len(classes)
        order = canonical_order(x, y)
        x, y, labels = x[order], y[order], [labels[number] for number in order.tolist()]
        adapted = base.adapt(x, y, ways).eval()
        if base.takes != "arrays":  # rows of numbers may well be alike
            notes = [*notes, *_tell_contradictions(x, labels)]
        shots = typical_shots(count_distinct(x, y))
        found = calibration or base.calibrate(adapted, x, y, ways, shots)
        self._base, self._x, self._labels, self._typical_shots = base, x, labels, shots
        self.adapted_, self.calibration_, self.notes_ = adapted, found, list(dict.fromkeys(notes))
        self.classes_ = as_label_array(classes)
        self.n_features_in_ = x[0].numel()
        return self

    @property
    def shots_(self) -> dict[Hashable, int]:
        """The number of examples of each class."""
        self._check_fitted()
        return {label: self._labels.count(label) for label in list_labels(self.classes_)}

    def _prepare(self, items: Any, progress: Progress | None = None) -> Tensor:
        x = self._base.prepare(items, progress)
        self._check_columns(x[0].numel())
        return x

    def outputs(self, X: Any, *, progress: Progress | None = None) -> Tensor:  # noqa: N803
        """The outputs of `adapted_` for new inputs, `[n, classes]`."""
        self._check_fitted()
        outputs = run_outputs(self.adapted_, self._prepare(self._read(X, first=False), progress))
        if outputs.isnan().any() or not outputs.amax(-1).isfinite().all():  # of a class it may be minus infinity
            raise InputError("The outputs are not numbers for some of these inputs. Are they scaled as the examples?")
        return outputs

    def predict(
        self,
        X: Any,  # noqa: N803
        *,
        unsure: Hashable | None = None,
        sure: float = 0.5,
    ) -> NDArray[Any]:
        """The most probable class of each input.

        Args:
            X: New inputs.
            unsure: What to answer where no class is probable enough; None: always the most probable class.
            sure: The least probability of an answer.
        """
        return self.names_of(self.outputs(X), unsure=unsure, sure=sure)

    def names_of(self, outputs: Tensor, *, unsure: Hashable | None = None, sure: float = 0.5) -> NDArray[Any]:
        """`predict`, given the outputs."""
        best = outputs.argmax(-1).tolist()
        if unsure is None:
            chosen: NDArray[Any] = self.classes_[best]
            return chosen
        if not is_number(sure) or not 0 <= sure <= 1:
            raise InputError(f"`sure` was {sure!r}: give the least probability of an answer, such as 0.5.")
        self.known_calibration("unsure")
        p = self.probabilities_of(outputs).amax(-1).tolist()
        names = list_labels(self.classes_)
        return as_label_array([names[k] if q >= sure else unsure for k, q in zip(best, p, strict=True)])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """The probability of each class, `[n, classes]`: calibrated, if `calibration_` is there."""
        p: NDArray[np.float64] = self.probabilities_of(self.outputs(X)).numpy()
        return p

    def predict_set(self, X: Any, *, coverage: float = 0.9) -> list[list[Hashable]]:  # noqa: N803
        """For each input the classes that it may have: the true one is among them with the probability `coverage`."""
        return self.sets_of(self.outputs(X), coverage)

    def sets_of(self, outputs: Tensor, coverage: float) -> list[list[Hashable]]:
        """`predict_set`, given the outputs. A set begins with the most probable class."""
        threshold = self.set_threshold(coverage)
        p = self.probabilities_of(outputs)
        inside = p >= threshold
        inside[torch.arange(len(p)), p.argmax(-1)] = True
        names = list_labels(self.classes_)
        order = p.argsort(-1, descending=True).tolist()
        return [[names[k] for k in of if own[k]] for of, own in zip(order, inside.tolist(), strict=True)]

    def set_threshold(self, coverage: float) -> float:
        """The least probability of a class in a set. What is wrong is said here, before anything is predicted."""
        if not is_number(coverage) or not 0 < coverage < 1:
            raise InputError(
                f"The coverage of sets was {coverage!r}; it is a probability between 0 and 1, such as 0.9."
            )
        return self.known_calibration("predict_set").threshold(coverage)

    def known_calibration(self, needed_by: str) -> Calibration:
        """The calibration; an error if there is none."""
        if self.calibration_ is None:
            raise InputError(
                f"`{needed_by}` needs calibrated probabilities, and nothing calibrates these: "
                + (
                    "the tasks of the base are not at hand. Give a run whose tasks are, or what `quickstudy pack` made."
                    if isinstance(self._base, LearnerBase)
                    else "no class has two examples that differ, of which one could be left out. Give more examples, "
                    "or a base with calibrations (quickstudy pack)."
                )
            )
        return self.calibration_

    def probabilities_of(self, outputs: Tensor) -> Tensor:
        """`predict_proba`, given the outputs, with a warning far from what calibrated them."""
        known = self.calibration_
        if known is None:
            return outputs.double().softmax(-1)
        ways, shots = len(self.classes_), self._typical_shots
        if known.episodes and distance(known, ways, shots) > NEAR:
            warnings.warn(
                f"Probabilities were calibrated with {known.ways} classes of {known.shots}, and there are {ways} of "
                f"{shots}: take them with care.",
                OutsideCalibrationWarning,
                stacklevel=4,
            )
        far = known.is_far(outputs)
        if known.episodes and far.double().mean() > MANY_FAR:
            warnings.warn(
                f"{int(far.sum())} of {len(far)} inputs are unlike everything that calibrated the probabilities "
                f"({known.source}): take them with care.",
                OutsideCalibrationWarning,
                stacklevel=4,
            )
        return known.probabilities(outputs)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """The share of right answers."""
        guesses, labels = list_labels(self.predict(X)), read_labels(y)
        _check_lengths(len(guesses), len(labels))
        classes = list_labels(self.classes_)
        if not set(labels) & set(classes):
            raise InputError(
                f"None of the labels in y is a class of this model: y has {labels[0]!r}, and the classes are "
                f"{', '.join(map(repr, classes[:10]))}{', ...' if len(classes) > 10 else ''}."
            )
        right = [one == other for one, other in zip(guesses, labels, strict=True)]
        return float(np.average(right, weights=as_weights(sample_weight, len(right))))

    def save(self, path: str | Path) -> None:
        """Save the model as a directory that `quickstudy.open` reads. It holds the examples as the base prepared them.

        A base that is an encoder is not in it, only its name and the hash of its weights; a learner is in it.
        """
        self._check_fitted()
        numbers = number_labels(self._labels, list_labels(self.classes_))
        config = {
            "kind": "classifier",
            "classes": dump_labels(list_labels(self.classes_)),
            **self._dump_columns(),
            "norms": self.norms,
            "calibration": None if self.calibration_ is None else self.calibration_.model_dump(mode="json"),
            "notes": self.notes_,
        }
        examples = {"examples.x": self._x, "examples.y": torch.from_numpy(numbers)}
        save_taught(as_path(path), self._base, config, examples)

    def export(self, path: str | Path, inputs: Any = None, *, learns: bool = False, ways: int | None = None) -> float:
        """Write the model as one file, of ONNX (.onnx) or of `torch.export` (.pt2), and compare it with PyTorch.

        Args:
            path: The file. It is written only if its outputs are those of PyTorch.
            inputs: Your own inputs, on which it is compared, as for `predict`; by default those that taught it, or
                random numbers where pictures are not kept.
            learns: Whether the file learns from any support set, instead of knowing what was taught.
            ways: Of a file that learns, the largest number of classes.

        Returns:
            The largest difference from PyTorch, as a part of the largest output.
        """
        from quickstudy.everyday.export import export_learning, export_taught  # it imports torch's exporters

        self._check_fitted()
        classes = list_labels(self.classes_)
        if learns:
            return export_learning(self._base, path, self._read_again(inputs), ways=ways, classes=len(classes))
        known = None if self.calibration_ is None else self.calibration_.model_dump(mode="json")
        names = [name if isinstance(name, str | int | float | bool) else str(name) for name in classes]
        about = {"classes": names, "calibration": known}
        return export_taught(self._base, self.adapted_, self._x, path, self._read_again(inputs), about)


def _tell_contradictions(x: Tensor, labels: Sequence[Hashable]) -> list[str]:
    """Say that the same picture or text was taught as two classes."""
    known: dict[bytes, Hashable] = {}
    for row, label in zip(x, labels, strict=True):
        first = known.setdefault(row.numpy().tobytes(), label)
        if first != label:
            return [f"an example of {first!r} is one of {label!r} too: at least one of the two labels is wrong"]
    return []


def _check_lengths(x: int, y: int) -> None:
    if x != y:
        raise InputError(f"Found input variables with inconsistent numbers of samples: X has {x} examples, y has {y}.")
    if not x:
        raise InputError("There are no examples: give one or more of each class.")
