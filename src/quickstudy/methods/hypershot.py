r"""HyperShot: a hypernetwork computes the classifier of a task from the similarities of its classes.

.. math:: K_{kl} = \cos(c_k, c_l), \qquad \phi = H_\eta(K), \qquad
          p(y \mid x) = \mathrm{softmax}\big(t_\phi(\cos(f(x), c_1), \dots, \cos(f(x), c_N))\big)

with f the embedding, :math:`c_k` `[features]` the mean embedding of class k of the support set, K the kernel `[ways,
ways]` and :math:`t_\phi` a small MLP. With one shot, the c are the embedded support examples. With more shots, the mean
is one of the choices of the released code; another is a matrix over all examples, which depends on their order. H reads
K by position, so it is not symmetric under a renaming of the classes.

HyperShot+ft: in evaluation, gradient steps on the support loss change :math:`\eta`, and the classifier is computed
again. (The released code takes Adam steps, which change f as well.)

Reference: Sendera et al., 2023 (https://arxiv.org/abs/2203.11378).

Tasks with fewer than two classes, or a loss of regression, are an `InputError`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from quickstudy.engine.twin import Twins
from quickstudy.errors import InputError
from quickstudy.methods.embedding import EmbeddingLearner, class_means, pairwise_cosines
from quickstudy.methods.learner import Learner
from quickstudy.models.nets import mlp
from quickstudy.models.split import split_head
from quickstudy.rules.base import Rule
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.objective import Objective
from quickstudy.types import Criterion, Examples, Params

H = TypeVar("H", bound="HyperShot")


class HyperShot(EmbeddingLearner):
    """A classifier of kernel values, computed from kernel values: see `EmbeddingLearner` for the other arguments.

    Args:
        finetune: How the hypernetwork's parameters adapt to a task's support loss before they compute its classifier.
        hidden: Sizes of the hypernetwork's hidden layers.
        target: Sizes of the emitted classifier's hidden layers.
    """

    def __init__(
        self,
        model: nn.Module,
        ways: int,
        loss: str | Criterion,
        finetune: Rule,
        *,
        hidden: Sequence[int] = (256, 256),
        target: Sequence[int] = (64,),
        head: str | None = None,
        norms: str = "batch",
    ) -> None:
        super().__init__(model, ways, loss, head=head, norms=norms)
        self.finetune = finetune
        self.layers = list(pairwise([ways, *target, ways]))  # (in, out) of each layer of t
        self.network = mlp(ways * ways, sum((a + 1) * b for a, b in self.layers), hidden=hidden, std=None)
        like = next(split_head(model, head)[1].parameters(), None)
        if like is not None:
            self.network.to(like)
        self.network_twins = Twins(self.network)

    def with_ways(self: H, ways: int) -> H:
        raise InputError(
            f"The labels have {ways} classes, and this HyperShot was built for {self.ways}: its hypernetwork reads a "
            "kernel of that size. Build it for the number of classes of your tasks, or use protonet, which takes any."
        )

    def eta(self) -> Params:
        """The hypernetwork's parameters."""
        return dict(self.network.named_parameters())

    def emit(self, eta: Params, kernel: Float[Tensor, "ways ways"]) -> Params:
        """phi = H(K): the weight and bias of each layer of the classifier t."""
        emitted = self.network_twins.call(eta, kernel.flatten())
        layers = torch.split(emitted, [(a + 1) * b for a, b in self.layers])
        phi: Params = {}
        for i, ((a, b), numbers) in enumerate(zip(self.layers, layers, strict=True)):
            phi |= {f"weight{i}": numbers[: a * b].reshape(b, a), f"bias{i}": numbers[a * b :]}
        return phi

    def summarize(self, e: Float[Tensor, "n_s features"], y: Int[Tensor, "n_s"], evaluating: bool) -> Params:
        means = class_means(e, y, self.ways)
        kernel = pairwise_cosines(means, means)

        def classify(eta: Params) -> Tensor:
            return self.compare({"means": means} | self.emit(eta, kernel), e)

        objective = Objective(classify, self.criterion, Examples(e, y), evaluating=evaluating)
        return {"means": means} | self.emit(self.finetune(self.eta(), objective), kernel)

    def compare(self, params: Params, e: Float[Tensor, "n features"]) -> Float[Tensor, "n ways"]:
        h = pairwise_cosines(e, params["means"])
        for i in range(len(self.layers)):
            h = F.linear(h.relu() if i else h, params[f"weight{i}"], params[f"bias{i}"])
        return h


def hypershot(
    model: nn.Module,
    outputs: int,
    *,
    hidden: Sequence[int] = (256, 256),
    target: Sequence[int] = (64,),
    inner_lr: float = 0.01,
    eval_inner_steps: int = 0,
    loss: str | Criterion = "cross_entropy",
    head: str | None = None,
    norms: str = "batch",
) -> Learner:
    """HyperShot (Sendera et al., 2023): a classifier computed from the kernel of the support set.

    `hidden` and `target` are the sizes of the hidden layers of the hypernetwork and of the classifier. HyperShot+ft has
    `eval_inner_steps` above 0: in evaluation, that many steps of size `inner_lr` adapt the hypernetwork to a task.
    """
    finetune = Descend(Constant(inner_lr), 0, eval_steps=eval_inner_steps)
    return HyperShot(model, outputs, loss, finetune, hidden=hidden, target=target, head=head, norms=norms)
