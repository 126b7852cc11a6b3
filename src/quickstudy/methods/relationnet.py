r"""Relation networks: a learned module computes how well a query and a class fit together.

.. math:: r_k(x) = g\big([c_k, f(x)]\big)

with f the embedding, :math:`c_k` `[features]` the mean embedding of class k (the paper adds up feature maps) and g the
relation module. The output is the relation score before its sigmoid, so the loss decides between two variants.
"one_hot_mse" is the paper's (eq. 2: the squared error of the sigmoid scores against the one-hot label). "cross_entropy"
uses a softmax over the classes instead of sigmoids, as the code of Chen et al. can; it is the default because it learns
faster.

Reference: Sung et al., 2018, eq. 1 and 2 (https://arxiv.org/abs/1711.06025); Chen et al., 2019
(https://arxiv.org/abs/1904.04232).

A head that is not a Linear, or `maps` that do not divide the features, is an `InputError`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from quickstudy.errors import InputError, check_count
from quickstudy.methods.embedding import EmbeddingLearner, class_means
from quickstudy.methods.learner import Learner
from quickstudy.models.nets import conv_net, mlp
from quickstudy.models.norms import with_safe_norms
from quickstudy.models.split import split_head
from quickstudy.types import Criterion, Params


class RelationNet(EmbeddingLearner):
    """A relation score for each pair of query and class: see `EmbeddingLearner` for the other arguments.

    Args:
        relation: The module g, from `[pairs, 2 * features]` (the class first) to `[pairs, 1]`.
    """

    def __init__(
        self,
        model: nn.Module,
        relation: nn.Module,
        ways: int,
        loss: str | Criterion,
        *,
        head: str | None = None,
        norms: str = "batch",
    ) -> None:
        super().__init__(model, ways, loss, head=head, norms=norms)
        self.relation = with_safe_norms(relation, norms)

    def summarize(self, e: Float[Tensor, "n_s features"], y: Int[Tensor, "n_s"], evaluating: bool) -> Params:
        del evaluating
        return {"means": class_means(e, y, self.ways)}

    def compare(self, params: Params, e: Float[Tensor, "n features"]) -> Float[Tensor, "n ways"]:
        n = len(e)
        classes = params["means"].expand(n, -1, -1)
        queries = e[:, None].expand(-1, self.ways, -1)
        pairs = torch.cat([classes, queries], dim=-1)  # [n, ways, 2 * features]
        scores: Tensor = self.relation(pairs.flatten(0, 1))
        return scores.reshape(n, self.ways)


def relation_module(features: int, width: int, maps: tuple[int, int] | None) -> nn.Module:
    """The module g: one hidden layer on flat features, or the paper's two convolutional blocks on feature maps.

    Args:
        features: The size of an embedding.
        width: The size of the hidden layer (8 in the paper, after the convolutions).
        maps: The height and width of the feature maps that an embedding consists of; None for a plain vector.
    """
    if maps is None:
        return mlp(2 * features, 1, hidden=(width,), std=None)
    height, breadth = maps
    channels, rest = divmod(features, height * breadth)
    if rest:
        raise InputError(f"`maps` is {height}x{breadth}, which does not divide the model's {features} features.")
    # Flattened maps begin with the channel, so a concatenated pair of embeddings has the channels of both.
    pair = (2 * channels, height, breadth)
    blocks = conv_net(pair, width, filters=channels, blocks=2)
    return nn.Sequential(nn.Unflatten(1, pair), blocks, nn.ReLU(), nn.Linear(width, 1))


def relationnet(
    model: nn.Module,
    outputs: int,
    *,
    width: int = 64,
    maps: tuple[int, int] | None = None,
    loss: str | Criterion = "cross_entropy",
    head: str | None = None,
    norms: str = "batch",
) -> Learner:
    """RelationNet (Sung et al., 2018): a learned score for query and class mean; `loss` one_hot_mse is the paper's.

    With `maps`, the height and width of the feature maps before they are flattened, g is convolutional, as in the
    paper. Otherwise g is an MLP on the features.
    """
    _, last = split_head(model, head)
    if not isinstance(last, nn.Linear):
        raise InputError(f"`head` is a {type(last).__name__}; the size of the features is read from a Linear head.")
    relation = relation_module(last.in_features, check_count("width", width), maps).to(last.weight)
    return RelationNet(model, relation, outputs, loss, head=head, norms=norms)
