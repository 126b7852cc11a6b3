r"""Prototypical networks: a query is of the class whose mean embedding is nearest.

.. math:: c_k = \frac{1}{|S_k|} \sum_{(x_i, y_i) \in S_k} f(x_i), \qquad
          p(y = k \mid x) = \mathrm{softmax}_k\big(-\lVert f(x) - c_k \rVert^2\big)

Reference: Snell, Swersky & Zemel, 2017, eq. 1 and 2 (https://arxiv.org/abs/1703.05175).
"""

from jaxtyping import Float, Int
from torch import Tensor, nn

from quickstudy.methods.embedding import EmbeddingLearner, class_means
from quickstudy.methods.learner import Learner
from quickstudy.types import Criterion, Params


class ProtoNet(EmbeddingLearner):
    """Minus the squared Euclidean distance to each class's prototype: see `EmbeddingLearner` for the arguments."""

    def read(self, e: Float[Tensor, "n_s features"], y: Int[Tensor, "n_s"], evaluating: bool) -> Params:
        del evaluating
        return {"prototypes": class_means(e, y, self.ways)}

    def answer(self, params: Params, e: Float[Tensor, "n features"]) -> Float[Tensor, "n ways"]:
        return -(e[:, None] - params["prototypes"]).square().sum(-1)


def protonet(
    model: nn.Module,
    outputs: int,
    *,
    loss: str | Criterion = "cross_entropy",
    head: str | None = None,
    norms: str = "batch",
) -> Learner:
    """ProtoNet (Snell et al., 2017): nearest class mean in a learned embedding; nothing descends on the task."""
    return ProtoNet(model, outputs, loss, head=head, norms=norms)
