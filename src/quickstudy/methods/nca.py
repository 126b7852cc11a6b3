r"""Neighbourhood components: in training, every example of a task is classified by all the others.

.. math:: L = -\frac{1}{n} \sum_i \log
          \frac{\sum_{j \ne i,\; y_j = y_i} \exp(s \cos(f(x_i), f(x_j)))}{\sum_{j \ne i} \exp(s \cos(f(x_i), f(x_j)))},
          \qquad o_k(x) = s \cos(f(x), c_k)

f is the embedding, and s is one learned number above 0. In training, support and query are one set of n examples and
L compares all pairs in it; n counts those i that are not alone in their class. ProtoNet compares queries with
prototypes only: from one support example and three queries of a class it learns three pairs, and here six.

In a task :math:`c_k` `[features]` is the mean of the support embeddings of class k, each of length 1, and
:math:`o_k` `[n, ways]` the output, as for ProtoNet. In training a batch norm sees all examples of a task at once, also
under norms="support", which says whose statistics serve a query in a task.

Batches are tasks; in the paper a batch has examples of all training classes. The paper compares by minus the squared
distance; here it is the cosine.

Reference: Laenen & Bertinetto, 2021 (https://arxiv.org/abs/2012.09831), who train a net by the loss of Goldberger et
al., 2004, and find class means best to classify by.

A `scale` that is not above 0 and finite, or a loss other than cross_entropy, is an `InputError`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from quickstudy.engine.twin import call_on
from quickstudy.errors import InputError
from quickstudy.methods.embedding import EmbeddingLearner, class_means, pairwise_cosines
from quickstudy.methods.learner import Learner, Noise
from quickstudy.rules.criteria import cross_entropy, describe_loss, get_criterion
from quickstudy.rules.params import log_parameter
from quickstudy.rules.torch_private import tree_map
from quickstudy.types import Criterion, Examples, Outcome, Params


def neighbour_loss(similarity: Float[Tensor, "n n"], y: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """L, given s cos(f(x_i), f(x_j)) of each pair and the labels."""
    others = ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    alike = others & (y[:, None] == y)
    has_alike = alike.any(1)
    # A row without another example of its class would be log 0; it counts all others as alike, which is log 1.
    alike = alike | others & ~has_alike[:, None]
    right, every = (similarity.masked_fill(~those, -torch.inf).logsumexp(1) for those in (alike, others))
    return (every - right).sum() / has_alike.sum().clamp(min=1)


class NCA(EmbeddingLearner):
    """All pairs in training, class means by cosines in a task: see `EmbeddingLearner` for the other arguments.

    Args:
        scale: The first value of s. Its logarithm is what is learned.
    """

    def __init__(
        self,
        model: nn.Module,
        ways: int,
        loss: str | Criterion,
        *,
        scale: float = 10.0,
        head: str | None = None,
        norms: str = "batch",
    ) -> None:
        super().__init__(model, ways, loss, head=head, norms=norms)
        if get_criterion(loss) is not cross_entropy:
            raise InputError(
                f"`nca` trains by a loss of its own, over pairs, so the loss {describe_loss(loss)} cannot be used: "
                "leave it out."
            )
        like = next(self.body.parameters(), torch.zeros(()))
        self.log_scale = log_parameter("scale", scale, "it multiplies cosines before a softmax", like)

    def solve(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        del noise
        twin: EmbeddingLearner = self.twins.twin({})
        every = tree_map(lambda *halves: torch.cat(halves), support, query)
        e, n = call_on(twin.body, every.x), len(support.y)
        loss = neighbour_loss(self.log_scale.exp() * pairwise_cosines(e, e), every.y)
        return Outcome(loss, twin.compare(twin.summarize(e[:n], support.y, evaluating=False), e[n:]))

    def summarize(self, e: Float[Tensor, "n_s features"], y: Int[Tensor, "n_s"], evaluating: bool) -> Params:
        del evaluating
        return {"means": class_means(F.normalize(e, dim=-1), y, self.ways)}

    def compare(self, params: Params, e: Float[Tensor, "n features"]) -> Float[Tensor, "n ways"]:
        return self.log_scale.exp() * pairwise_cosines(e, params["means"])


def nca(
    model: nn.Module,
    outputs: int,
    *,
    scale: float = 10.0,
    loss: str | Criterion = "cross_entropy",
    head: str | None = None,
    norms: str = "batch",
) -> Learner:
    """NCA (Laenen & Bertinetto, 2021): all pairs of a task's examples in training, the nearest class mean in a task."""
    return NCA(model, outputs, loss, scale=scale, head=head, norms=norms)
