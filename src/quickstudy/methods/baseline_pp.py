r"""Baseline++: Feature Transfer with a classifier of cosines instead of inner products.

.. math:: o_c = s\,\frac{w_c \cdot f(x)}{\lVert w_c \rVert\, \lVert f(x) \rVert}

:math:`o_c` is the output for class c, :math:`w_c` `[features]` its row, f the body and s the `scale`. A row is a
prototype of its class: training moves the features of a class towards it.

Reference: Chen et al., 2019, "A Closer Look at Few-shot Classification", section 3.2, "Baseline++"
(https://arxiv.org/abs/1904.04232). The released code fixes the scale s (2, or 30 for more than 200 classes); here it is
learned in training and stays in a task.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from quickstudy.errors import check_count, check_finite
from quickstudy.methods.feature_transfer import FeatureTransfer, body_and_linear
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Loss
from quickstudy.rules.criteria import get_criterion
from quickstudy.rules.descend import Constant, Descend


class Cosine(nn.Linear):
    """Scaled cosines between the features and the row of each class.

    Args:
        in_features: The size of a feature vector.
        out_features: The number of classes.
        scale: The first value of s, which is learned.
    """

    any_layout = True

    def __init__(self, in_features: int, out_features: int, scale: float) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.scale = nn.Parameter(torch.tensor(check_finite("scale", scale)))

    def forward(self, input: Float[Tensor, "n features"]) -> Float[Tensor, "n ways"]:
        return self.scale * F.normalize(input, dim=-1) @ F.normalize(self.weight, dim=-1).T


def baseline_pp(
    model: nn.Module,
    outputs: int,
    train_outputs: int,
    *,
    scale: float = 10.0,
    inner_lr: float = 0.1,
    eval_inner_steps: int = 100,
    loss: Loss = "cross_entropy",
    head: str | None = None,
    norms: str = "batch",
) -> Learner:
    """Baseline++ (Chen et al., 2019): supervised training, then a new head for each task; both by scaled cosines."""
    body, last = body_and_linear(model, head, "Baseline++")
    classifier = Cosine(last.in_features, check_count("train_outputs", train_outputs), scale).to(last.weight)
    rule = Descend(Constant(inner_lr), eval_inner_steps)
    return FeatureTransfer(body, classifier, outputs, rule, get_criterion(loss), norms)
