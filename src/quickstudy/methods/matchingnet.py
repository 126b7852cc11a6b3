r"""Matching networks: a query's label is the support labels' average, weighted by attention.

.. math:: p(y \mid x) = \sum_i a(x, x_i)\, y_i, \qquad a(x, x_i) = \mathrm{softmax}_i\big(s \cos(f(x), f(x_i))\big)

:math:`x_i, y_i` are the support examples and their one-hot labels, f is the embedding and s the `scale`. The output is
:math:`\log p` `[n, ways]`, so that cross-entropy is the paper's loss: a log-softmax does not change it.

Query and support are embedded by the same f, as in the paper's basic model, in which s = 1. With `context: full` each
embedding depends on the whole support set (`FullContext`). Chen et al., whose numbers later papers quote, use that with
s = 100.

Reference: Vinyals et al., 2016, eq. 1, sections 2.1.1 and 2.1.2 and the appendix (https://arxiv.org/abs/1606.04080);
Chen et al., 2019, methods/matchingnet.py (wyharveychen/CloserLookFewShot).

A `scale` that is not above 0 and finite is an `InputError`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from quickstudy.errors import InputError, check_positive, suggest_nearest
from quickstudy.methods.embedding import EmbeddingLearner, pairwise_cosines
from quickstudy.methods.learner import Learner
from quickstudy.models.split import split_head
from quickstudy.rules.criteria import one_hot
from quickstudy.types import Criterion, Params


class MemoryCell(nn.LSTMCell):
    """Torch's LSTM cell by its equations: its own kernel has no batching rule, so `vmap` refuses it."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        h, c = state
        gates = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = gates.chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class FullContext(nn.Module):
    r"""Embeddings that depend on the whole support set.

    A support embedding is read by an LSTM in both directions, whose outputs are added to it. A query's embedding takes
    as many steps of an LSTM with attention to these as there are support examples:

    .. math:: g_i = e_i + \overrightarrow{h}_i + \overleftarrow{h}_i, \qquad
              h_k = \mathrm{LSTM}([f, r_{k-1}], h_{k-1}) + f, \quad r_k = \mathrm{softmax}(h_k g^\top)\, g

    with :math:`h_0 = f`, and an LSTM whose cell begins at 0. The order of the support set matters.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.forwards = MemoryCell(features, features)
        self.backwards = MemoryCell(features, features)
        self.reader = MemoryCell(2 * features, features)

    def of_support(self, e: Float[Tensor, "n_s features"]) -> Float[Tensor, "n_s features"]:
        """g: each support embedding in its context."""
        ahead = torch.stack(self._read(self.forwards, e))
        behind = torch.stack(self._read(self.backwards, e.flip(0))[::-1])
        return e + ahead + behind

    def of_queries(
        self, f: Float[Tensor, "n features"], g: Float[Tensor, "n_s features"]
    ) -> Float[Tensor, "n features"]:
        """Each query's embedding after attending to the support set."""
        h, c = f, torch.zeros_like(f)
        for _ in range(len(g)):
            read = (h @ g.T).softmax(-1) @ g
            h, c = self.reader(torch.cat([f, read], dim=1), (h, c))
            h = h + f
        return h

    @staticmethod
    def _read(cell: MemoryCell, e: Tensor) -> list[Tensor]:
        h, c, outputs = torch.zeros_like(e[:1]), torch.zeros_like(e[:1]), []
        for one in e:
            h, c = cell(one[None], (h, c))
            outputs.append(h[0])
        return outputs


CONTEXTS = ("none", "full")
"""What an embedding depends on besides its own example."""


class MatchingNet(EmbeddingLearner):
    """Attention over the support embeddings: see `EmbeddingLearner` for the other arguments.

    Args:
        scale: The factor s on the cosines. At 1, two attention weights differ by a factor of e^2 at most.
        context: How embeddings depend on the support set; None: not at all.
    """

    def __init__(
        self,
        model: nn.Module,
        ways: int,
        loss: str | Criterion,
        *,
        scale: float = 1.0,
        context: FullContext | None = None,
        head: str | None = None,
        norms: str = "batch",
    ) -> None:
        super().__init__(model, ways, loss, head=head, norms=norms)
        check_positive("scale", scale, "it multiplies cosines before a softmax")
        self.scale = scale
        self.context = context

    def summarize(self, e: Float[Tensor, "n_s features"], y: Int[Tensor, "n_s"], evaluating: bool) -> Params:
        del evaluating
        e = e if self.context is None else self.context.of_support(e)
        return {"embeddings": e, "labels": one_hot(y, self.ways, e)}

    def compare(self, params: Params, e: Float[Tensor, "n features"]) -> Float[Tensor, "n ways"]:
        e = e if self.context is None else self.context.of_queries(e, params["embeddings"])
        log_a = (self.scale * pairwise_cosines(e, params["embeddings"])).log_softmax(-1)  # [n, n_s]
        # log sum_i a_i y_i, computed from logarithms: with a large scale, a_i would round to 0. Of a class without an
        # example it is log 0, and is set so at the end: the gradient of a logsumexp over nothing else is NaN.
        missing = (params["labels"] == 0).all(0)
        log_y = params["labels"].masked_fill(missing, 1.0).log()
        return (log_a[:, :, None] + log_y).logsumexp(1).masked_fill(missing, -torch.inf)


def matchingnet(
    model: nn.Module,
    outputs: int,
    *,
    scale: float = 1.0,
    context: str = "none",
    loss: str | Criterion = "cross_entropy",
    head: str | None = None,
    norms: str = "batch",
) -> Learner:
    """MatchingNet (Vinyals et al., 2016): cosine attention over the support set.

    `context` is "none", or "full": LSTMs read the whole support set before embeddings are compared.
    """
    if context not in CONTEXTS:
        raise InputError(f"There is no context {context!r}. {suggest_nearest(context, CONTEXTS)}")
    reader = None
    if context == "full":
        _, last = split_head(model, head)
        if not isinstance(last, nn.Linear):
            raise InputError(f"`head` is a {type(last).__name__}; the size of the features is read from a Linear head.")
        reader = FullContext(last.in_features).to(last.weight)
    return MatchingNet(model, outputs, loss, scale=scale, context=reader, head=head, norms=norms)
