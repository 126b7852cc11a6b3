"""Labels of any hashable kind, and their numbers from 0. Labels that are equal in Python are one class.

The order of the classes depends on the labels alone, not on the order of the examples: numbers and texts are sorted,
and labels of several kinds are sorted within each kind.
"""

import json
import math
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.everyday.items import check_ordered
from quickstudy.tasks.arrays import as_array

NO_Y = "This estimator requires y to be passed, but the target y is None"
LABEL_KINDS = "numbers, texts, booleans, and tuples of these"


def read_labels(y: Any) -> list[Hashable]:
    """The labels of a user's y, as values of Python."""
    if y is None:
        raise InputError(f"{NO_Y}: give a label for each example.")
    if isinstance(y, str | bytes):
        raise InputError(f"y is the text {y!r}: give a list with a label for each example.")
    check_ordered("y", y)
    if isinstance(y, Tensor | np.ma.MaskedArray):
        y = as_array(y)
    elif hasattr(y, "to_numpy"):  # a column of a table
        y = y.to_numpy()
    elif hasattr(y, "__array__"):
        y = np.asarray(y)
    if isinstance(y, np.ndarray):
        y = _column(y)
        y = list_labels(y)
    try:
        labels = [_as_python(label) for label in y]
    except TypeError:
        raise InputError(f"y is a {type(y).__name__}: give a list with a label for each example.") from None
    for number, label in enumerate(labels):
        if _names_nothing(label):
            shown = "NaN" if isinstance(label, float) and math.isnan(label) else label
            raise InputError(
                f"The label of example {number} is {shown}, which names no class: give its class, or leave the example "
                "out."
            )
        if not _is_hashable(label):
            raise InputError(
                f"The label of example {number} is a {type(label).__name__}, which cannot name a class. Give "
                f"{LABEL_KINDS}."
            )
    if all(isinstance(label, int | float) for label in labels) and any(label != round(label) for label in labels):
        raise InputError(
            "Unknown label type: continuous. y has fractions, and a class is not a quantity: use FewShotRegressor, or "
            "give names of classes."
        )
    return labels


def list_labels(labels: NDArray[Any]) -> list[Any]:
    """An array of labels as values of Python; dates of nanoseconds, which Python lacks, stay NumPy's."""
    first = labels[:1].tolist()
    dates = labels.dtype.kind in "mM" and bool(first) and isinstance(first[0], int)
    return list(labels) if dates else labels.tolist()


def _as_python(label: Any) -> Any:
    """A label without the types of NumPy and torch, also inside of a tuple."""
    if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:  # hashed by what it is, and not by what it holds
        label = as_array(label)[()]
    if isinstance(label, np.generic):
        plain = label.item()
        return label if isinstance(label, np.datetime64 | np.timedelta64) and isinstance(plain, int) else plain
    return tuple(map(_as_python, label)) if type(label) is tuple else label


def _column(y: NDArray[Any]) -> NDArray[Any]:
    """An array of labels as one column."""
    if y.ndim == 2 and y.shape[1] == 1:
        _warn_column()
        return y[:, 0]
    if y.ndim != 1:
        raise InputError(f"y has the shape {list(y.shape)}: give one label for each example, [n].")
    return y


def _warn_column() -> None:
    """Warn as scikit-learn does, whose users know this warning."""
    import warnings

    try:
        from sklearn.exceptions import DataConversionWarning as Kind
    except ImportError:
        Kind = UserWarning  # noqa: N806  # a class
    warnings.warn(
        "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples,), for "
        "example using ravel().",
        Kind,
        stacklevel=5,
    )


def _names_nothing(label: Any) -> bool:
    """Whether a label, or a part of it, is missing or no finite number."""
    if type(label) is tuple:
        return any(map(_names_nothing, label))
    if isinstance(label, Decimal):
        return not label.is_finite()
    return label is None or (isinstance(label, float) and not math.isfinite(label)) or _is_missing(label)


def _is_missing(label: Any) -> bool:
    """Whether a label is a missing value of pandas, which equals nothing, not even itself."""
    if isinstance(label, np.datetime64 | np.timedelta64):
        return bool(np.isnat(label))
    return type(label).__name__ in ("NAType", "NaTType")


def _is_hashable(label: Any) -> bool:
    if type(label) is tuple:
        return all(map(_is_hashable, label))
    if isinstance(label, Tensor):
        return False  # by its identity, which tells no classes apart
    try:
        hash(label)
    except TypeError:
        return False
    return True


def sort_classes(labels: Iterable[Hashable]) -> list[Hashable]:
    """The classes of labels, each once, in an order that does not depend on the order of the labels."""
    classes = list(dict.fromkeys(labels))
    if not any(isinstance(label, frozenset) for label in classes):  # which `<` orders in part only
        with suppress(TypeError):
            return sorted(classes)  # type: ignore[type-var]  # what cannot be compared is sorted below
    return sorted(classes, key=lambda label: (_kind_of(label), _text_of(label)))


def _kind_of(label: Hashable) -> str:
    return "number" if isinstance(label, int | float) else type(label).__name__


def _text_of(label: Hashable) -> tuple[float, str]:
    if isinstance(label, frozenset):
        return 0.0, repr(sorted(map(repr, label)))
    if isinstance(label, int | float):
        with suppress(OverflowError):
            return float(label), ""
        return math.inf if label > 0 else -math.inf, repr(label)  # a whole number beyond the floats
    return 0.0, repr(label)


def number_labels(labels: Sequence[Hashable], classes: Sequence[Hashable]) -> NDArray[np.int64]:
    """The place of each label among the classes."""
    place = {label: number for number, label in enumerate(classes)}
    return np.array([place[label] for label in labels], dtype=np.int64)


def as_label_array(labels: Sequence[Hashable]) -> NDArray[Any]:
    """Labels as an array: of integers, floats, booleans or texts where they are of one kind, else of objects."""
    kinds = {type(label) for label in labels}
    if len(kinds) == 1 and kinds <= {np.datetime64, np.timedelta64}:
        return np.array(labels)
    if len(kinds) == 1 and kinds <= {int, float, bool, str}:
        with suppress(OverflowError):
            found = np.array(labels)
            if found.tolist() == list(labels):  # NumPy may make a float of 2**63, and "a\0" loses its end
                return found
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array


def check_classes(labels: Sequence[Hashable]) -> list[Hashable]:
    """The classes, if they are two or more."""
    classes = sort_classes(labels)
    if len(classes) < 2:
        raise InputError(
            f"All {len(labels)} examples are of one class, {classes[0]!r}, and a classifier tells two or more classes "
            "apart. Add examples of another class, such as 'other'."
        )
    return classes


def dump_labels(classes: Sequence[Hashable]) -> str:
    """Classes as JSON, in which a tuple is {"tuple": [...]}."""
    return json.dumps([_to_plain(label) for label in classes], ensure_ascii=False, allow_nan=False)


def _to_plain(label: Hashable) -> Any:
    if isinstance(label, tuple) and type(label) is tuple:
        return {"tuple": [_to_plain(part) for part in label]}
    if type(label) in (str, int, float, bool):
        return label
    raise InputError(
        f"The class {label!r} is a {type(label).__name__}, which a file cannot hold. Labels that can be saved are "
        f"{LABEL_KINDS}."
    )


def load_labels(text: str) -> list[Hashable]:
    """Classes from what `dump_labels` wrote. Anything else is a ValueError.

    >>> load_labels(dump_labels(["cat", 3, ("a", 1)]))
    ['cat', 3, ('a', 1)]
    """
    values = json.loads(text)
    if not isinstance(values, list):
        raise ValueError("the classes are no list")
    classes = [_from_plain(value) for value in values]
    if len(set(classes)) != len(classes):
        raise ValueError("a class is there twice")
    return classes


def _from_plain(value: Any) -> Hashable:
    if isinstance(value, dict) and set(value) == {"tuple"} and isinstance(value["tuple"], list):
        return tuple(_from_plain(part) for part in value["tuple"])
    if isinstance(value, str | int | bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"{value!r} is no label")
