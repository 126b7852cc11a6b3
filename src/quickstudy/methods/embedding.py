"""What the metric-based baselines share: a body that embeds, and outputs that compare embeddings.

Nothing descends on a task. Its support set is embedded, `read` keeps what the method remembers of it, and `answer`
compares the queries' embeddings with that. The head of the model is left out: it has no part in these methods.
"""

from abc import abstractmethod
from copy import deepcopy

import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.errors import InputError
from quickstudy.methods.learner import Learner, Noise
from quickstudy.models.norms import (
    WarnsOfOne,
    is_transductive,
    keep_statistics,
    record_statistics,
    refuse_per_step,
    support_norms,
    with_safe_norms,
)
from quickstudy.models.split import split_head
from quickstudy.rules.criteria import criterion
from quickstudy.rules.params import with_prefix
from quickstudy.tasks.support import explain_misfit
from quickstudy.types import Criterion, Examples, Params

NORM = "norm:"
"""Before the names of a support set's statistics, which stand beside what a method keeps."""


class EmbeddingLearner(Learner):
    """A learner that classifies by comparing embeddings.

    Support and query are embedded one after the other, so that batch norms see one half of one task. Under
    norms="support" the statistics of the support set's pass serve every prediction.

    Args:
        model: Any module whose last layer is its head; all before it is the embedding. It is copied.
        ways: Classes in a task. Each has at least one support example.
        loss: The query loss.
        head: The head's name; by default the last Linear of the model.
        norms: "batch", "support" or "running": see `norms.safe`.
    """

    def __init__(
        self, model: nn.Module, ways: int, loss: str | Criterion, *, head: str | None = None, norms: str = "batch"
    ) -> None:
        super().__init__(criterion(loss))
        if ways < 2 or loss in ("mse", "binary_cross_entropy"):
            raise InputError(
                f"This method compares classes, and these tasks have {ways} output(s) judged by {loss!r}. "
                "Use it on tasks with two classes or more and the loss cross_entropy, such as `digits`."
            )
        body, _ = split_head(model, head)
        self.body = with_safe_norms(body, refuse_per_step(norms, "this method takes no step through them"))
        self.ways = ways

    def update(self, support: Examples, noise: Noise, evaluating: bool = False) -> Params:
        del noise
        kept = self.read(self.body(support.x), support.y, evaluating)
        waiting = {f"{NORM}{name}": norm for name, norm in support_norms(self).items()}
        if not waiting:
            return kept
        with record_statistics(waiting) as statistics:
            self.predict(kept, support.x)
        return kept | statistics

    def predict(self, params: Params, x: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        statistics = {f"learner.{name}": value for name, value in with_prefix(params, NORM).items()}
        output: Tensor = functional_call(_Predicts(self), statistics, (params, x), tie_weights=False)
        return output

    def adapt(self, support: Examples, *, key: int = 0, seed: int = 0) -> nn.Module:
        with explain_misfit(support):
            absent = sorted(set(range(self.ways)) - set(support.y.flatten().tolist()))
        if absent:
            raise InputError(
                f"The support set has no example of class {absent[0]} of {self.ways}, and this method compares with "
                "examples of every class. Give one or more of each, or build the learner for as many classes as there "
                "are."
            )
        return super().adapt(support, key=key, seed=seed)

    @abstractmethod
    def read(self, e: Float[Tensor, "n_s features"], y: Int[Tensor, "n_s"], evaluating: bool) -> Params:
        """What the method keeps of a support set, given its embeddings and labels. Names hold no dots."""

    @abstractmethod
    def answer(self, params: Params, e: Float[Tensor, "n features"]) -> Float[Tensor, "n ways"]:
        """The outputs for embedded queries under what `read` kept."""

    def module(self, params: Params) -> nn.Module:
        return Remembers(self, params)


class _Predicts(nn.Module):
    """A learner's prediction as a forward, so that statistics can be put into its norms for one call."""

    def __init__(self, learner: EmbeddingLearner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, params: Params, x: Tensor) -> Tensor:
        return self.learner.answer(params, self.learner.body(x))


class Remembers(nn.Module):
    """A copy of a learner with what it keeps of one task, as a plain module."""

    def __init__(self, learner: Learner, params: Params) -> None:
        super().__init__()
        self.learner = deepcopy(learner).eval().requires_grad_(False)
        keep_statistics(self.learner, with_prefix(params, NORM))
        for name, value in params.items():
            if not name.startswith(NORM):
                self.register_buffer(name, value)
        if is_transductive(self.learner):
            self.register_forward_pre_hook(WarnsOfOne())

    def forward(self, x: Tensor) -> Tensor:
        return self.learner.predict(dict(self.named_buffers(recurse=False)), x)


def class_means(e: Float[Tensor, "n_s features"], y: Int[Tensor, "n_s"], ways: int) -> Float[Tensor, "ways features"]:
    """The mean embedding of each class. Of a class without examples it is NaN, which training and evaluation report."""
    member = F.one_hot(y, ways).to(e.dtype)  # [n_s, ways]
    return member.T @ e / member.sum(0)[:, None]


def cosines(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> Float[Tensor, "n m"]:
    """The cosine of the angle between each row of `a` and each row of `b`."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
