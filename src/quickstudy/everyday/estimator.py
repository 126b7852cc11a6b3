"""What the two estimators share: scikit-learn's conventions, without an import of scikit-learn.

That import takes as long as torch's. So the classes have what scikit-learn asks of an estimator (parameters by name,
tags, a score), and its code is imported when it is there and needed: for the checks of rows of numbers.
"""

import inspect
from contextlib import suppress
from copy import copy
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.evaluation.calibration import EPISODES
from quickstudy.everyday.bases import Base
from quickstudy.everyday.items import Items, check_ordered, read_items
from quickstudy.everyday.labels import NO_Y
from quickstudy.tasks.arrays import as_array

E = TypeVar("E", bound="Estimator")


def is_number(value: object) -> bool:
    """Whether a value is one real number of Python's or NumPy's."""
    return isinstance(value, Real) and not isinstance(value, bool)


def as_weights(weights: Any, count: int) -> NDArray[np.float64]:
    """The weights of so many examples, which are all 1 by default."""
    if weights is None:
        return np.ones(count)
    given = np.asarray(as_array(weights) if isinstance(weights, Tensor) else weights)
    if given.dtype.kind not in "fiub" or given.shape != (count,):
        raise InputError(
            f"`sample_weight` has the shape {list(given.shape)} and the type {given.dtype}, and there are {count} "
            "examples: give one number for each."
        )
    found = given.astype(np.float64)
    if not (np.isfinite(found).all() and (found >= 0).all() and found.sum() > 0):
        raise InputError("`sample_weight` holds NaN or a negative number, or is 0 throughout: give numbers above 0.")
    return found


class Estimator:
    """What is taught by examples: it reads a user's X as its base wants it."""

    _base: Base
    n_features_in_: int
    feature_names_in_: NDArray[Any]
    estimator_type: str
    """What scikit-learn calls it: "classifier" or "regressor"."""

    def __init__(
        self, base: Any = None, *, norms: str = "support", episodes: int = EPISODES, trust: bool = False
    ) -> None:
        self.base = base
        self.norms = norms
        self.episodes = episodes
        self.trust = trust

    @classmethod
    def _names(cls) -> list[str]:
        return list(inspect.signature(cls).parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters of the constructor, by name."""
        del deep
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self: E, **params: Any) -> E:
        """Change parameters of the constructor."""
        for name, value in params.items():
            if name not in self._names():
                raise InputError(
                    f"Invalid parameter {name!r} for estimator {type(self).__name__}. "
                    f"{suggest_nearest(name, self._names())}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = {n: v for n, v in self.get_params().items() if v is not defaults[n].default}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        classifies = self.estimator_type == "classifier"
        return Tags(
            estimator_type=self.estimator_type,
            target_tags=TargetTags(required=True, multi_output=not classifies),
            classifier_tags=ClassifierTags() if classifies else None,
            regressor_tags=None if classifies else RegressorTags(),
            input_tags=InputTags(),
        )

    def _is_fitted(self) -> bool:
        return hasattr(self, "adapted_")

    def __sklearn_is_fitted__(self) -> bool:
        return self._is_fitted()

    def _check_fitted(self) -> None:
        if not self._is_fitted():
            message = f"This {type(self).__name__} instance is not fitted yet: call fit with some examples first."
            if has_sklearn():
                from sklearn.exceptions import NotFittedError

                raise NotFittedError(message)
            raise InputError(message)

    def _read(self, values: Any, *, first: bool) -> Items:
        """A user's X. Rows of numbers are checked as scikit-learn does, where it is installed.

        Args:
            values: The X.
            first: Whether it is the X of `fit`, whose columns later ones must have.
        """
        return self._read_columns(values, first=first)[0]

    def _read_again(self, values: Any) -> Items | None:
        """A user's own inputs for a comparison, if there are some, with the columns of `fit`."""
        if values is None:
            return None
        items = self._read(values, first=False)
        if self.base is None and isinstance(items, Tensor):
            self._check_columns(items[0].numel())
        return items

    def _read_columns(self, values: Any, *, first: bool) -> tuple[Items, NDArray[Any] | None]:
        """A user's X, and the names of its columns if it is a table that has them. A fit that fails changes nothing."""
        check_ordered("X", values)
        if self.base is None and _are_no_numbers(values):
            raise InputError(
                "base=None takes rows of numbers. For pictures or texts give a base that reads them: base='photos', "
                "base='text', a run, or a saved learner."
            )
        names = column_names(values)
        if self.base is None:
            values = as_rows(as_array(values) if np.ma.is_masked(values) else values)
            if has_sklearn():
                from sklearn.utils.validation import validate_data

                reader = copy(self)  # it is the copy that learns the columns of a fit
                values = validate_data(
                    reader, values, reset=first, dtype="numeric", accept_sparse=False, ensure_all_finite=True
                )
        if not first and not (self.base is None and has_sklearn()):  # which checks it in its own words
            self._check_names(names)
        if isinstance(values, str) and not first and self._base.takes == "texts":
            values = [values]  # also where there is a file or a folder of that name
        return read_items(values), names

    def _check_names(self, names: NDArray[Any] | None) -> None:
        """Refuse a table with other columns, or with the same in another order, than the one of `fit`."""
        known = getattr(self, "feature_names_in_", None)
        if known is not None and names is not None and known.tolist() != names.tolist():
            raise InputError(
                f"X has the columns {', '.join(names)}, and `fit` had {', '.join(known)}: give these, in this order."
            )

    def _dump_columns(self) -> dict[str, list[str]]:
        """The names of the columns, for a file."""
        names = getattr(self, "feature_names_in_", None)
        return {} if names is None else {"columns": names.tolist()}

    def _keep_columns(self, width: int, names: NDArray[Any] | None) -> None:
        """What later inputs are held against."""
        self.n_features_in_ = width
        if names is not None:
            self.feature_names_in_ = names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _check_columns(self, found: int) -> None:
        if found != self.n_features_in_:
            raise InputError(
                f"X has {found} features, but {type(self).__name__} is expecting {self.n_features_in_} features as "
                "input: give the same columns as in fit."
            )


def has_sklearn() -> bool:
    """Whether scikit-learn is installed."""
    return find_spec("sklearn") is not None


def column_names(values: Any) -> NDArray[Any] | None:
    """The names of a table's columns, if all of them are texts."""
    columns = getattr(values, "columns", None)
    if columns is None or not all(isinstance(name, str) for name in columns):
        return None
    return np.array(list(columns), dtype=object)


def as_rows(values: Any) -> Any:
    """An array, a tensor or nested lists of numbers with more axes than two, as rows; anything else as it is."""
    if isinstance(values, Tensor):
        values = as_array(values)
    if isinstance(values, list | tuple) and values and isinstance(values[0], list | tuple | np.ndarray | Tensor):
        with suppress(ValueError, TypeError, RuntimeError):  # of unequal lengths: what reads them says so
            nested = np.stack([as_array(one) if isinstance(one, Tensor) else np.asarray(one) for one in values])
            values = nested if nested.ndim > 2 else values
    if isinstance(values, np.ndarray) and values.ndim > 2 and len(values):
        return values.reshape(len(values), -1)
    return values


def _are_no_numbers(values: Any) -> bool:
    """Whether an X is a text, a path, a picture, or a list of these."""
    kinds = (str, Path, Image.Image)
    return isinstance(values, kinds) or (
        isinstance(values, list | tuple) and bool(values) and isinstance(values[0], kinds)
    )


def as_values(y: Any, n: int) -> tuple[NDArray[np.float64], bool]:
    """The values of a regression as `[n, outputs]`, and whether they were given as `[n]`."""
    if y is None:
        raise InputError(f"{NO_Y}: give a value for each example.")
    try:
        if hasattr(y, "detach"):
            y = y.detach().cpu()
        values = as_array(y) if np.ma.is_masked(y) else np.asarray(y)
        if values.dtype.kind == "c":
            raise InputError("Complex data not supported: y holds complex values. Give real ones.")
        missing = np.isnat(values) if values.dtype.kind in "mM" else None
        shape, values = values.shape, values.astype(np.float64)
        if missing is not None:
            values[missing] = np.nan
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"y holds no numbers ({error}): give a value for each example.") from error
    flat = values.ndim == 1
    if flat:
        values = values[:, None]
    if values.ndim != 2 or len(values) != n:
        raise InputError(f"y has the shape {list(shape)} for {n} examples: give [{n}] or [{n}, outputs].")
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise InputError(
            f"y holds NaN or infinity in {len(bad)} of {n} examples, first in example {bad[0]}. Repair these, or leave "
            "them out."
        )
    return values, flat
