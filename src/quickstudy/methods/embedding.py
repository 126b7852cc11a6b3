"""What metric-based methods share: a body that embeds examples, and outputs that compare embeddings.

There are no gradient steps on a task. Its support set is embedded, `summarize` computes what is stored of it, and
`compare` compares the embeddings of queries with that. The head of the model is not used.
"""

from abc import abstractmethod
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from quickstudy.engine.twin import Twins, call_on
from quickstudy.errors import InputError
from quickstudy.methods.learner import Learner, Noise
from quickstudy.models.norms import (
    WarnSingleExample,
    is_transductive,
    record_statistics,
    refuse_per_step,
    store_statistics,
    support_norms,
    with_safe_norms,
)
from quickstudy.models.split import split_head
from quickstudy.rules.criteria import check_class_numbers, compares_classes, describe_loss, get_criterion, one_hot
from quickstudy.rules.params import with_prefix
from quickstudy.types import Criterion, Examples, Inputs, Params

NORM_PREFIX = "norm:"
"""Begins the names of a support set's statistics, which are stored beside what `summarize` returns."""


class EmbeddingLearner(Learner):
    """A learner that classifies by comparing embeddings.

    Support and query are embedded separately, so that a batch norm sees one of the two. Under norms="support" the
    statistics of the support set serve every prediction.

    Args:
        model: Any module whose last layer is its head; the embedding is everything before. It is copied.
        ways: Classes in a task, each with at least one support example. Tasks may have another number: their labels
            decide.
        loss: The query loss.
        head: The name of the head; by default the last Linear of the model.
        norms: "batch", "support" or "running": see `with_safe_norms`.
    """

    ways: int

    def __init__(
        self, model: nn.Module, ways: int, loss: str | Criterion, *, head: str | None = None, norms: str = "batch"
    ) -> None:
        super().__init__(get_criterion(loss))
        if ways < 2 or compares_classes(loss) is False:
            raise InputError(
                f"This method compares classes, and these tasks have {ways} output(s) and the loss "
                f"{describe_loss(loss)}. Use it on tasks with two classes or more and the loss cross_entropy, such as "
                "`drawings`."
            )
        body, _ = split_head(model, head)
        self.body = with_safe_norms(body, refuse_per_step(norms, "this method takes no step through them"))
        self.ways = ways
        self.twins = Twins(self)

    def update(self, support: Examples, noise: Noise, evaluating: bool = False) -> Params:
        del noise
        check_class_numbers(support.y)
        twin: EmbeddingLearner = self.twins.twin({})
        summary = twin.summarize(call_on(twin.body, self.unshared(support.x)), support.y, evaluating)
        if not support_norms(self):
            return summary
        statistics: Params = {}
        twin = self.twins.twin({})
        record_statistics(twin, NORM_PREFIX, statistics)
        twin.compare(summary, call_on(twin.body, self.unshared(support.x)))
        return summary | statistics

    def predict(self, params: Params, x: Inputs) -> Float[Tensor, "n ways"]:
        twin: EmbeddingLearner = self.twins.twin(with_prefix(params, NORM_PREFIX))
        return twin.compare(params, call_on(twin.body, self.unshared(x)))

    def check_first_task(self, support: Examples) -> None:
        """Embed a first task: what that changes is refused."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            self.update(support, {})

    def check_support(self, support: Examples) -> None:
        """Refuse a support set that lacks a class: this method compares with examples of every class."""
        check_class_numbers(support.y)
        absent = sorted(set(range(self.ways)) - set(support.y.tolist()))
        if absent:
            raise InputError(
                f"The support set has no example of class {absent[0]} of {self.ways}, and this method compares with "
                "examples of every class. Give one or more of each, and number the classes from 0 without a gap."
            )

    @abstractmethod
    def summarize(self, e: Float[Tensor, "n_s features"], y: Int[Tensor, "n_s"], evaluating: bool) -> Params:
        """What is stored of a support set, given its embeddings and labels. Names contain no dots."""

    @abstractmethod
    def compare(self, params: Params, e: Float[Tensor, "n features"]) -> Float[Tensor, "n ways"]:
        """The outputs for embedded queries, given what `summarize` returned."""

    def module(self, params: Params) -> nn.Module:
        return AdaptedLearner(self, params)


class AdaptedLearner(nn.Module):
    """A copy of a learner with what it stores of one task, as a plain module."""

    def __init__(self, learner: Learner, params: Params) -> None:
        super().__init__()
        self.learner = deepcopy(learner).eval().requires_grad_(False)
        store_statistics(self.learner, with_prefix(params, NORM_PREFIX))
        for name, value in params.items():
            if not name.startswith(NORM_PREFIX):
                self.register_buffer(name, value)
        if is_transductive(self.learner):
            self.register_forward_pre_hook(WarnSingleExample())

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The outputs for what the model takes: a tensor, arguments, or keywords."""
        if args and kwargs:
            raise InputError(
                "Call this module with arguments or with keywords, as the examples that it was adapted to were given: "
                f"{len(args)} argument(s) and {', '.join(kwargs)} came together."
            )
        x = kwargs or (args[0] if len(args) == 1 else args)
        return self.learner.predict(dict(self.named_buffers(recurse=False)), x)


def class_means(e: Float[Tensor, "n_s features"], y: Int[Tensor, "n_s"], ways: int) -> Float[Tensor, "ways features"]:
    """The mean embedding of each class. It is NaN for a class without examples; training and evaluation report that."""
    member = one_hot(y, ways, e)
    return member.T @ e / member.sum(0)[:, None]


def pairwise_cosines(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> Float[Tensor, "n m"]:
    """The cosine of the angle between each row of `a` and each row of `b`."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
