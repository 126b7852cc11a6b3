"""What the two estimators share: scikit-learn's conventions, with its classes where it is installed, and without."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quickstudy.errors import InputError
from quickstudy.everyday.items import Items, read_items
from quickstudy.everyday.labels import NO_Y

if TYPE_CHECKING:

    class BaseEstimator:
        """What a type checker reads in place of scikit-learn's class."""

        n_features_in_: int

        def __sklearn_tags__(self) -> Any:
            """What the estimator can do."""

    class ClassifierMixin:
        """The same for classifiers."""

    class RegressorMixin:
        """The same for regressors."""

    NotFittedError: type[Exception]
    validate_data: Any
    SKLEARN: bool
else:
    try:
        from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import validate_data

        SKLEARN = True
    except ImportError:
        from quickstudy.errors import InputError as NotFittedError

        SKLEARN = False

        class ClassifierMixin:
            """Nothing, where scikit-learn is missing."""

        class RegressorMixin:
            """Nothing, where scikit-learn is missing."""

        class BaseEstimator:
            """Parameters by name, as scikit-learn has them."""

            def get_params(self, deep=True):
                """The parameters of the constructor."""
                del deep
                return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

            def set_params(self, **params):
                """Change parameters of the constructor."""
                for name, value in params.items():
                    setattr(self, name, value)
                return self

            def __repr__(self):
                given = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
                return f"{type(self).__name__}({given})"


class Estimator(BaseEstimator):
    """What is taught by examples: it reads a user's X as its base wants it."""

    base: Any

    def _is_fitted(self) -> bool:
        return hasattr(self, "adapted_")

    def __sklearn_is_fitted__(self) -> bool:
        return self._is_fitted()

    def _check_fitted(self) -> None:
        if not self._is_fitted():
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet: call fit with some examples first."
            )

    def _read(self, values: Any, *, first: bool) -> Items:
        """A user's X. Rows of numbers are checked as scikit-learn does, where it is installed.

        Args:
            values: The X.
            first: Whether it is the X of `fit`, whose columns later ones must have.
        """
        if self.base is None and _are_no_numbers(values):
            raise InputError(
                "base=None takes rows of numbers. For pictures or texts give a base that reads them: base='photos', "
                "base='text', a run, or a saved learner."
            )
        if self.base is None and SKLEARN:
            values = validate_data(
                self, values, reset=first, dtype="numeric", accept_sparse=False, allow_nd=True, ensure_all_finite=True
            )
        return read_items(values)

    def _check_columns(self, found: int) -> None:
        if found != self.n_features_in_:
            raise InputError(
                f"X has {found} features, but {type(self).__name__} is expecting {self.n_features_in_} features as "
                "input: give the same columns as in fit."
            )


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
        values = np.asarray(y)
        if values.dtype.kind == "c":
            raise InputError("Complex data not supported: y holds complex values. Give real ones.")
        shape, values = values.shape, values.astype(np.float64)
    except (TypeError, ValueError) as error:
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
