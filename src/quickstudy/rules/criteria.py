"""Losses by name, with their reductions spelled out.

The reduction of the inner loss is half of the inner step size: the papers' inner cross-entropy is a sum over classes
(sum over the support divided by the shots), N times the mean, so their rate .4 at 5 ways is 2.0 under a mean.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.types import Criterion


def cross_entropy(output: Float[Tensor, "n ways"], y: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """Mean over examples."""
    return F.cross_entropy(output, y)


def class_sum_cross_entropy(output: Float[Tensor, "n ways"], y: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """Sum over classes of the mean over a class's examples, for classes of equal size: ways times the mean."""
    return output.shape[-1] * F.cross_entropy(output, y)


def one_hot_mse(output: Float[Tensor, "n ways"], y: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """Mean over examples and classes, between each class's sigmoid and 1 for the true class, 0 for the others."""
    return (output.sigmoid() - F.one_hot(y, output.shape[-1])).square().mean()


def mse(output: Float[Tensor, "n *out"], y: Float[Tensor, "n *out"]) -> Float[Tensor, ""]:
    """Mean over examples and outputs."""
    if output.shape != y.shape:  # [n, 1] against [n] would broadcast to n x n, and adapt to nonsense
        advice = f"Give the model {y.shape[-1]} outputs." if y.ndim == output.ndim else "Give y [n, outputs]."
        raise InputError(f"The output has the shape {list(output.shape)}; the tasks want {list(y.shape)}. {advice}")
    return (output - y).square().mean()


def binary_cross_entropy(output: Float[Tensor, "n 1"], y: Float[Tensor, "n 1"]) -> Float[Tensor, ""]:
    """Mean over examples; `output` is a logit, `y` is 0 or 1."""
    return F.binary_cross_entropy_with_logits(output, y)


CRITERIA: dict[str, Criterion] = {
    f.__name__: f for f in (cross_entropy, class_sum_cross_entropy, one_hot_mse, mse, binary_cross_entropy)
}


def criterion(given: str | Criterion) -> Criterion:
    """A criterion by name, or the one given."""
    if callable(given):
        return given
    if given not in CRITERIA:
        raise InputError(f"There is no loss {given!r}. {suggest_nearest(given, CRITERIA)}")
    return CRITERIA[given]
