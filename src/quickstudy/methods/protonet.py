r"""Prototypical networks: the class of a query is the one with the nearest mean embedding.

.. math:: c_k = \frac{1}{|S_k|} \sum_{(x_i, y_i) \in S_k} f(x_i), \qquad
          p(y = k \mid x) = \mathrm{softmax}_k\big(-\lVert f(x) - c_k \rVert^2\big)

f is the embedding, :math:`S_k` the support examples of class k and :math:`c_k` `[features]` its prototype. The output
is minus the squared distance, `[n, ways]`.

Reference: Snell, Swersky & Zemel, 2017, eq. 1 and 2 (https://arxiv.org/abs/1703.05175).
"""

from jaxtyping import Float, Int
from torch import Tensor, nn

from quickstudy.methods.embedding import EmbeddingLearner, class_means
from quickstudy.methods.learner import Learner
from quickstudy.types import Criterion, Params


class ProtoNet(EmbeddingLearner):
    """Minus the squared Euclidean distance to each class's prototype: see `EmbeddingLearner` for the arguments."""

    def summarize(self, e: Float[Tensor, "n_s features"], y: Int[Tensor, "n_s"], evaluating: bool) -> Params:
        del evaluating
        return {"prototypes": class_means(e, y, self.ways)}

    def compare(self, params: Params, e: Float[Tensor, "n features"]) -> Float[Tensor, "n ways"]:
        return -(e[:, None] - params["prototypes"]).square().sum(-1)


def protonet(
    model: nn.Module,
    outputs: int,
    *,
    loss: str | Criterion = "cross_entropy",
    head: str | None = None,
    norms: str = "batch",
) -> Learner:
    """ProtoNet (Snell et al., 2017): the nearest class mean in a learned embedding, without gradient steps."""
    return ProtoNet(model, outputs, loss, head=head, norms=norms)
