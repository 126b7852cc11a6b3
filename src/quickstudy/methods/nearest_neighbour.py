r"""Nearest neighbour on the raw inputs: how far one gets without learning.

.. math:: o_k(x) = -\min_{i: y_i = k} \lVert x - x_i \rVert^2

:math:`x_i, y_i` are the support examples and their labels; x is a flattened input. The output is `[n, ways]`.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from quickstudy.errors import InputError, check_count
from quickstudy.methods.embedding import AdaptedLearner
from quickstudy.methods.learner import Learner, Noise
from quickstudy.rules.criteria import check_class_numbers, get_criterion, one_hot
from quickstudy.types import Criterion, Examples, Params


class NearestNeighbour(Learner):
    """Predicts the class of the nearest support example, by Euclidean distance between flattened inputs.

    Args:
        ways: Classes in a task.
        loss: The criterion that is reported beside the accuracy.
    """

    ways: int

    def __init__(self, ways: int, loss: str | Criterion = "cross_entropy") -> None:
        super().__init__(get_criterion(loss))
        self.ways = check_count("outputs", ways)

    def update(self, support: Examples, noise: Noise, evaluating: bool = False) -> Params:
        del noise, evaluating
        check_class_numbers(support.y)
        if not isinstance(support.x, Tensor):
            raise InputError(
                "This method compares inputs that are one tensor. Use protonet on a model that reads yours."
            )
        member = one_hot(support.y, self.ways, support.x).bool()  # [n_s, ways]
        return {"x": support.x.flatten(1), "member": member}

    def predict(self, params: Params, x: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        # Not by a matrix product, which rounds, and not by differences [n, n_s, features], gigabytes for photographs.
        gaps = torch.cdist(x.flatten(1), params["x"], compute_mode="donot_use_mm_for_euclid_dist")
        closeness = -gaps.square()  # [n, n_s]
        return closeness[:, :, None].masked_fill(~params["member"], -torch.inf).amax(1)

    def module(self, params: Params) -> nn.Module:
        return AdaptedLearner(self, params)


def nearest_neighbour(outputs: int, *, loss: str | Criterion = "cross_entropy") -> Learner:
    """Nearest neighbour on the raw inputs; nothing is trained."""
    return NearestNeighbour(outputs, loss)
