"""`FewShotRegressor`: a few examples of a function, then its values elsewhere."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.everyday.bases import Base, LearnerBase, canonical_order, open_base, run_outputs, save_taught
from quickstudy.everyday.estimator import Estimator, as_values, as_weights
from quickstudy.everyday.heads import PerOutput
from quickstudy.storage.files import as_path


class FewShotRegressor(Estimator):
    """Learns a function from a few examples, and predicts its values.

    >>> reg = FewShotRegressor().fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0])
    >>> reg.predict([[3.0]]).round(2).tolist()
    [7.0]

    Args:
        base: A run on tasks of regression, a saved learner, a learner, or an encoder; or None, for rows of numbers:
            ridge regression, whose penalty is the one with the smallest error on examples that are left out.
        norms: See `FewShotClassifier`.
        episodes: The validation tasks that measure the usual error of a base; 0 for none.
        trust: See `FewShotClassifier`.

    Attributes:
        adapted_: A plain module from inputs, as the base prepares them, to values `[n, outputs]`.
        deviation_: The usual error of a value: of examples that were left out, for each of several outputs, or on
            validation tasks of the base.
    """

    estimator_type = "regressor"
    adapted_: nn.Module
    deviation_: PerOutput
    n_features_in_: int
    _base: Base
    _x: Tensor
    _y: Tensor
    _flat: bool

    def fit(self, X: Any, y: Any = None) -> "FewShotRegressor":  # noqa: N803  # scikit-learn's name
        """Learn from examples: X `[n, ...]` and y `[n]` or `[n, outputs]`."""
        items, names = self._read_columns(X, first=True)
        values, flat = as_values(y, len(items))
        base = open_base(self.base, norms=self.norms, episodes=self.episodes, trust=self.trust)
        self._teach(base, base.prepare(items), torch.from_numpy(values), flat)
        self._keep_columns(self._x[0].numel(), names)
        return self

    def update(self, X: Any, y: Any) -> "FewShotRegressor":  # noqa: N803
        """Learn from more examples: the same as `fit` on all of them together."""
        self._check_fitted()
        x = self._prepare(X)
        values = torch.from_numpy(as_values(y, len(x))[0])
        if values.shape[1] != self._y.shape[1]:
            raise InputError(f"y has {values.shape[1]} outputs, and the examples before have {self._y.shape[1]}.")
        return self._teach(self._base, torch.cat([self._x, x]), torch.cat([self._y, values]), self._flat)

    def _teach(
        self, base: Base, x: Tensor, y: Tensor, flat: bool, known_deviation: PerOutput | None = None
    ) -> "FewShotRegressor":
        order = canonical_order(x, y)
        x, y = x[order], y[order]
        adapted, deviation = base.adapt_regression(x, y)
        deviation = deviation if known_deviation is None else known_deviation
        self._base, self._x, self._y, self._flat = base, x, y, flat
        self.adapted_, self.deviation_ = adapted.eval(), deviation
        self.n_features_in_ = x[0].numel()
        return self

    def _prepare(self, values: Any) -> Tensor:
        x = self._base.prepare(self._read(values, first=False))
        self._check_columns(x[0].numel())
        return x

    def predict(self, X: Any, *, std: bool = False) -> Any:  # noqa: N803
        """The values `[n]`, or `[n, outputs]` as y was given; with `std` also how far each is usually off."""
        self._check_fitted()
        values: NDArray[np.float64] = run_outputs(self.adapted_, self._prepare(X)).double().numpy()
        if not np.isfinite(values).all():
            raise InputError("The values are not finite for some of these inputs. Are they scaled as the examples?")
        shown = values[:, 0] if self._flat else values
        if std and np.isnan(self.deviation_).any():
            raise InputError(
                "`std` needs the usual error of the base, and its tasks are not at hand. Give a run whose tasks are, "
                "or a learner that `quickstudy pack` has measured."
                if isinstance(self._base, LearnerBase)
                else "`std` needs the error on an example that is left out, and all examples are the same. Give two or "
                "more that differ."
            )
        if std and not np.isfinite(self.deviation_).all():
            raise InputError("`std` is beyond the largest number: the values of y are too large. Scale them.")
        return (shown, np.broadcast_to(self.deviation_, shown.shape).copy()) if std else shown

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """R squared: 1 for exact values, 0 for the mean of y."""
        values = np.asarray(self.predict(X))
        values = values[:, None] if values.ndim == 1 else values
        true, _ = as_values(y, len(values))
        if true.shape != values.shape:
            raise InputError(f"y has {true.shape[1]} outputs for each example, and this model {values.shape[1]}.")
        weight = as_weights(sample_weight, len(true))
        mean = np.average(true, axis=0, weights=weight)
        left, whole = (weight @ np.square(true - guess) for guess in (values, mean))
        if len(true) < 2:
            warnings.warn("R squared of one example is not defined: it is NaN.", UserWarning, stacklevel=2)
            return float("nan")
        # As scikit-learn has it: values that do not vary are met exactly, or not at all.
        shares = np.where(whole > 0, left / np.where(whole > 0, whole, 1), left > 0)
        return float(np.mean(1 - shares))

    def save(self, path: str | Path) -> None:
        """Save the model as a directory that `quickstudy.open` reads; see `FewShotClassifier.save`."""
        self._check_fitted()
        config = {"kind": "regressor", "norms": self.norms, "flat": self._flat, **self._dump_columns()}
        if np.isfinite(self.deviation_).all():
            config["deviation"] = self.deviation_ if isinstance(self.deviation_, float) else self.deviation_.tolist()
        save_taught(as_path(path), self._base, config, {"examples.x": self._x, "examples.y": self._y})

    def export(self, path: str | Path, inputs: Any = None, *, learns: bool = False, ways: int | None = None) -> float:
        """Write the model as one file; see `FewShotClassifier.export`. A regressor cannot be one that learns."""
        from quickstudy.everyday.export import export_taught

        del ways
        self._check_fitted()
        if learns:
            raise InputError("A regressor is exported as it was taught, without its learning.")
        about = {"kind": "regressor", "base": self._base.regression}
        return export_taught(self._base, self.adapted_, self._x, path, self._read_again(inputs), about)
