"""What the verbs about taught models share: opening one, describing it, and the page with its pictures."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quickstudy.errors import InputError
from quickstudy.storage.files import as_path

if TYPE_CHECKING:
    from quickstudy.cli.terminal import Console
    from quickstudy.everyday.classifier import FewShotClassifier
    from quickstudy.everyday.items import Taught


def open_classifier(path: str, trust: bool) -> FewShotClassifier:
    """The classifier at a path; anything else that can be opened is refused."""
    from quickstudy.everyday.classifier import FewShotClassifier
    from quickstudy.everyday.opening import open as open_model

    opened = open_model(path, trust=trust)
    if not isinstance(opened, FewShotClassifier):
        raise InputError(_explain_other(opened, path))
    return opened


def _explain_other(opened: object, path: str) -> str:
    """The message where something else than a taught classifier was opened."""
    if type(opened).__name__ == "FewShotRegressor":
        return f"{path} predicts quantities: use it from Python, by quickstudy.open({path!r})."
    tasks = (getattr(opened, "blueprint", None) or {}).get("tasks")
    if tasks is not None and tasks.get("picture") is None and tasks.get("encoder") is None:
        kind = "FewShotClassifier" if tasks.get("loss") == "cross_entropy" else "FewShotRegressor"
        return (
            f"{path} holds a learner of numbers, and it was taught no task yet. Teach it from Python: "
            f"quickstudy.{kind}({path!r}).fit(X, y)."
        )
    return f"{path} holds a learner, which knows no classes yet. Teach it first: quickstudy adapt FOLDER --from {path}."


def describe_model(classifier: FewShotClassifier) -> dict[str, Any]:
    """A model in plain values: its base, its classes with their examples, and what is known of its probabilities."""
    known = classifier.calibration_
    return {
        "base": classifier._base.name,
        "classes": {name: classifier.shots_[label] for label, name in name_classes(classifier.shots_).items()},
        "calibration": None if known is None else str(known),
        "notes": classifier.notes_,
    }


def count_distinct_examples(classifier: FewShotClassifier) -> int:
    """How many different examples a classifier was taught."""
    return len({row.numpy().tobytes() for row in classifier._x})


def name_classes(labels: Iterable[Hashable]) -> dict[Hashable, str]:
    """Classes in words; of those that read alike, such as 1 and "1", with their quotes."""
    listed = list(labels)
    count = Counter(map(str, listed))
    return {label: str(label) if count[str(label)] == 1 else repr(label) for label in listed}


def name_by_known_classes(names: Iterable[Hashable], classes: Iterable[Hashable]) -> list[Hashable]:
    """Names of folders, as the classes that they are: a model may have been taught with numbers."""
    known = {str(label): label for label in classes} | {label: label for label in classes}
    return [known.get(name, name) for name in names]


def tell_taught(
    console: Console, classifier: FewShotClassifier, taught: Taught, report: str | None, known_notes: Sequence[str] = ()
) -> None:
    """Say what was remarked on, beside what was known, and what calibrated the model; write the page if asked to."""
    for note in dict.fromkeys([*taught.notes, *classifier.notes_]):
        if note not in {*known_notes, *classifier._base.notes}:  # those of a base are warnings, shown already
            console.note(note)
    known = classifier.calibration_
    if known is None:
        console.note("nothing calibrates the probabilities: give two examples of a class, or a base with tasks")
    else:
        console.note(f"calibrated with {known}")
    if report is not None:
        write_page(console, Path(report), classifier, list(zip(taught.items, taught.labels, strict=True)), [])


def find_inputs(given: Sequence[str], takes: str) -> list[Any]:
    """What is to be predicted: files by path or pattern, the pictures of folders, and with `-` the lines of stdin.

    For a model of texts, each word of the command line is a text. A name of nothing that is there stays: beside others
    it is one that cannot be read.
    """
    from quickstudy.everyday.items import pictures_in

    words: list[str] = []
    for word in given:
        words += [line.rstrip("\r\n") for line in sys.stdin if line.strip()] if word == "-" else [word]
    if takes == "texts":
        return words
    if takes != "pictures":
        raise InputError("This model takes rows of numbers: use it from Python, by quickstudy.open(MODEL).predict(X).")
    found: list[Any] = []
    for word in words:
        place = as_path(word)
        if os.path.isdir(place):
            found += pictures_in(place)
        elif os.path.exists(place):
            found.append(place)
        else:
            matched = sorted(path for path in map(Path, glob(str(place), recursive=True)) if path.is_file())
            found += matched or [place]
    if not any(map(os.path.exists, found)) and words:
        raise InputError(f"There is no file {words[0]!r}, and nothing that fits it as a pattern.")
    return found


def write_page(
    console: Console,
    folder: Path,
    classifier: FewShotClassifier,
    taught: Sequence[tuple[Any, Any]],
    predicted: Sequence[tuple[Any, Any, float]],
) -> None:
    """Write the page with pictures of what was taught and what was predicted, and say where it is."""
    from quickstudy.everyday.items import open_item
    from quickstudy.reports.taught import Shown, write_taught_page

    def show(item: Any, label: Any, p: float | None = None) -> Shown:
        return Shown(Path(item).name if isinstance(item, str | Path) else "", partial(open_item, item), str(label), p)

    page = write_taught_page(
        folder, describe_model(classifier), [show(*one) for one in taught], [show(*one) for one in predicted]
    )
    console.note(f"pictures of what was taught and predicted: {page}")
