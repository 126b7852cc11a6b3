"""Losses by name, each with its reduction.

The reduction of the inner loss changes the effective inner step size. MT-net's released code divides the inner
cross-entropy, a sum over the support, by the shots, which is N times the mean: at 5 ways its rate of 0.4 equals 2.0
with a mean.
"""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.types import Criterion


def cross_entropy(output: Float[Tensor, "n ways"], y: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """Mean over examples."""
    _refuse_values(y)
    return F.cross_entropy(output, y)


def class_sum_cross_entropy(output: Float[Tensor, "n ways"], y: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """Sum over classes of the mean over the examples of a class; for classes of equal size, ways times the mean."""
    _refuse_values(y)
    return output.shape[-1] * F.cross_entropy(output, y)


def _refuse_values(y: Tensor) -> None:
    """Refuse quantities where classes are read: torch takes them for probabilities, and one output has just one."""
    if y.is_floating_point():
        raise InputError(
            "The loss is cross entropy, which reads class numbers, and y holds floating-point values. For quantities "
            "give loss='mse'; for probabilities of classes, a function of your own."
        )


def one_hot_mse(output: Float[Tensor, "n ways"], y: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """Squared error of each class's sigmoid, against 1 for the true class and 0 otherwise; mean over both axes."""
    return (output.sigmoid() - one_hot(y, output.shape[-1], output)).square().mean()


def mse(output: Float[Tensor, "n *out"], y: Float[Tensor, "n *out"]) -> Float[Tensor, ""]:
    """Mean over examples and outputs."""
    if output.shape != y.shape:  # [n, 1] against [n] would broadcast to [n, n] without an error
        advice = f"Give the model {y.shape[-1]} outputs." if y.ndim == output.ndim else "Give y [n, outputs]."
        raise InputError(f"The output has the shape {list(output.shape)}; the targets have {list(y.shape)}. {advice}")
    return (output - y).square().mean()


def binary_cross_entropy(output: Float[Tensor, "n 1"], y: Float[Tensor, "n 1"]) -> Float[Tensor, ""]:
    """Mean over examples; `output` is a logit, `y` is 0 or 1."""
    return F.binary_cross_entropy_with_logits(output, y)


def one_hot(y: Int[Tensor, "n"], ways: int, like: Float[Tensor, "..."]) -> Float[Tensor, "n ways"]:
    """A row for each label, with 1 at its class and 0 elsewhere, in the type and on the device of another tensor.

    Not `F.one_hot`: it reads the values of the labels, which a gradient under `vmap` and the compiler refuse.
    """
    return torch.eye(ways, dtype=like.dtype, device=like.device)[y]


CRITERIA: dict[str, Criterion] = {
    f.__name__: f for f in (cross_entropy, class_sum_cross_entropy, one_hot_mse, mse, binary_cross_entropy)
}


def check_class_numbers(y: Tensor) -> None:
    """Refuse targets of another kind for what reads the classes of the examples themselves."""
    if y.ndim != 1 or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        kind = str(y.dtype).removeprefix("torch.")
        raise InputError(
            f"This method reads the class of each support example, and the y of a task is {list(y.shape)} of {kind}. "
            "Give class numbers from 0, as integers: y [n]."
        )


OF_CLASSES = (cross_entropy, class_sum_cross_entropy, one_hot_mse, F.cross_entropy, F.nll_loss, F.multi_margin_loss)
MODULES_OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
OF_NUMBERS = (mse, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.poisson_nll_loss, F.gaussian_nll_loss)
MODULES_OF_NUMBERS = (
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss, nn.GaussianNLLLoss),
    *(nn.BCELoss, nn.SoftMarginLoss),  # of answers yes and no
)
OF_LOGITS = (binary_cross_entropy, F.binary_cross_entropy_with_logits, F.multilabel_soft_margin_loss)
MODULES_OF_LOGITS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)


def compares_classes(loss: str | Criterion) -> bool | None:
    """Whether a loss compares classes: one of ours or of torch's, by name or as it is; None for one from elsewhere."""
    criterion = without_options(get_criterion(loss))
    if criterion in OF_CLASSES or isinstance(criterion, MODULES_OF_CLASSES):
        return True
    numbers = criterion in OF_NUMBERS or isinstance(criterion, MODULES_OF_NUMBERS) or reads_logits(criterion)
    return False if numbers else None


def reads_logits(loss: str | Criterion) -> bool:
    """Whether a loss reads each output as the logit of a yes, as binary cross entropy does, torch's too."""
    criterion = without_options(get_criterion(loss))
    return criterion in OF_LOGITS or isinstance(criterion, MODULES_OF_LOGITS)


def is_squared_error(loss: str | Criterion) -> bool:
    """Whether a loss is the mean squared error over examples and outputs, torch's too."""
    given = get_criterion(loss)
    criterion, options = without_options(given), given.keywords if isinstance(given, partial) else {}
    is_mean = getattr(criterion, "reduction", options.get("reduction", "mean")) == "mean"
    return is_mean and (criterion in (mse, F.mse_loss) or isinstance(criterion, nn.MSELoss))


def without_options(criterion: Criterion) -> Criterion:
    """The function or module of which a criterion is a `functools.partial`."""
    while isinstance(criterion, partial):
        criterion = criterion.func
    return criterion


def check_loss(loss: object, what: str) -> Tensor:
    """Refuse what is no number of which a gradient can be taken: the result of a user's own loss may be anything."""
    if not isinstance(loss, Tensor):
        raise InputError(
            f"The {what} of one task is a {type(loss).__name__}. Give a loss that returns a tensor with one number; "
            "leave out what makes a plain number of it, such as `.item()`."
        )
    if loss.numel() != 1:
        raise InputError(
            f"The {what} of one task has the shape {list(loss.shape)}, and it is one number. Give a loss that reduces "
            "it, such as reduction='mean'."
        )
    return loss


def describe_loss(loss: str | Criterion) -> str:
    """The name of a loss in quotes, also where it was given as a function or a module."""
    if isinstance(loss, str):
        return repr(loss)
    criterion = without_options(loss)
    return repr(getattr(criterion, "__name__", type(criterion).__name__))


def get_criterion(given: str | Criterion) -> Criterion:
    """A criterion by its name; a function is returned as it is."""
    if isinstance(given, type):
        raise InputError(f"The loss is the class {given.__name__} itself; give a loss, such as {given.__name__}().")
    if callable(given):
        return given
    if given not in CRITERIA:
        raise InputError(f"There is no loss {given!r}. {suggest_nearest(given, CRITERIA)}")
    return CRITERIA[given]
