"""Nearest neighbour on the raw inputs: what a task's images say without any learning."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from quickstudy.methods.embedding import Remembers
from quickstudy.methods.learner import Learner, Noise
from quickstudy.rules.criteria import criterion
from quickstudy.types import Criterion, Examples, Params


class NearestNeighbour(Learner):
    """A query is of the class of the support example nearest to it (Euclidean distance between flattened inputs).

    The output for a class is minus the squared distance to its nearest example, so that argmax decides.

    Args:
        ways: Classes in a task.
        loss: The criterion that is reported beside the accuracy.
    """

    def __init__(self, ways: int, loss: str | Criterion = "cross_entropy") -> None:
        super().__init__(criterion(loss))
        self.ways = ways

    def update(self, support: Examples, noise: Noise, evaluating: bool = False) -> Params:
        del noise, evaluating
        return {"x": support.x.flatten(1), "member": F.one_hot(support.y, self.ways).bool()}  # member [n_s, ways]

    def predict(self, params: Params, x: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        # Not by a product of matrices, which rounds, nor through [n, n_s, features], gigabytes for photographs.
        gaps = torch.cdist(x.flatten(1), params["x"], compute_mode="donot_use_mm_for_euclid_dist")
        closeness = -gaps.square()  # [n, n_s]
        return closeness[:, :, None].masked_fill(~params["member"], -torch.inf).amax(1)

    def module(self, params: Params) -> nn.Module:
        return Remembers(self, params)


def nearest_neighbour(outputs: int, *, loss: str | Criterion = "cross_entropy") -> Learner:
    """Nearest neighbour on the raw inputs; nothing is trained."""
    return NearestNeighbour(outputs, loss)
