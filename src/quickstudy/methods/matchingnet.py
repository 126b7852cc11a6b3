r"""Matching networks: a query's label is the support labels' average, weighted by attention.

.. math:: p(y \mid x) = \sum_i a(x, x_i)\, y_i, \qquad a(x, x_i) = \mathrm{softmax}_i\big(s \cos(f(x), f(x_i))\big)

:math:`x_i, y_i` are the support examples and their one-hot labels, f is the embedding and s the `scale`. The output is
:math:`\log p` `[n, ways]`, so that cross-entropy is the paper's loss: a log-softmax does not change it.

Full-context embeddings (section 2.1.2 of the paper: LSTMs that read the whole support set) are left out. Query and
support are embedded by the same f, as in the paper's basic model, in which s = 1.

Reference: Vinyals et al., 2016, eq. 1 and section 2.1.1 (https://arxiv.org/abs/1606.04080).

A `scale` that is not above 0 is an `InputError`.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.methods.embedding import EmbeddingLearner, pairwise_cosines
from quickstudy.methods.learner import Learner
from quickstudy.types import Criterion, Params


class MatchingNet(EmbeddingLearner):
    """Attention over the support embeddings: see `EmbeddingLearner` for the other arguments.

    Args:
        scale: The factor s on the cosines. At 1, two attention weights differ by a factor of e^2 at most.
    """

    def __init__(
        self,
        model: nn.Module,
        ways: int,
        loss: str | Criterion,
        *,
        scale: float = 1.0,
        head: str | None = None,
        norms: str = "batch",
    ) -> None:
        super().__init__(model, ways, loss, head=head, norms=norms)
        if not scale > 0:
            raise InputError(f"`scale` was {scale}; it multiplies cosines before a softmax, so it is above 0.")
        self.scale = scale

    def summarize(self, e: Float[Tensor, "n_s features"], y: Int[Tensor, "n_s"], evaluating: bool) -> Params:
        del evaluating
        return {"embeddings": e, "labels": F.one_hot(y, self.ways).to(e.dtype)}

    def compare(self, params: Params, e: Float[Tensor, "n features"]) -> Float[Tensor, "n ways"]:
        log_a = (self.scale * pairwise_cosines(e, params["embeddings"])).log_softmax(-1)  # [n, n_s]
        # log sum_i a_i y_i, computed from logarithms: with a large scale, a_i would round to 0.
        return (log_a[:, :, None] + params["labels"].log()).logsumexp(1)


def matchingnet(
    model: nn.Module,
    outputs: int,
    *,
    scale: float = 1.0,
    loss: str | Criterion = "cross_entropy",
    head: str | None = None,
    norms: str = "batch",
) -> Learner:
    """MatchingNet (Vinyals et al., 2016): cosine attention over the support set, without full-context embeddings."""
    return MatchingNet(model, outputs, loss, scale=scale, head=head, norms=norms)
