r"""Feature Transfer: ordinary supervised training, then a new linear head for each task on frozen features.

.. math:: \min_{f, W} \; L(W f(x), y) \text{ over all training classes}; \qquad
          w \leftarrow w - \alpha \nabla_w L_S(w f(x)) \text{ in a task}

Reference: Chen et al., 2019, "A Closer Look at Few-shot Classification", section 3.2, "Baseline"
(https://arxiv.org/abs/1904.04232). The paper fits the head by SGD with momentum on batches of 4; here each of the
steps is plain gradient descent on the whole support set.
"""

from copy import deepcopy

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.errors import InputError
from quickstudy.methods.learner import Learner, Noise
from quickstudy.methods.options import Loss
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
from quickstudy.rules.base import Rule
from quickstudy.rules.criteria import criterion
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import with_prefix
from quickstudy.types import Criterion, Examples, Outcome, Params, Shape

BODY = "body:"
"""Before the names of a support set's statistics, which stand beside a task's classifier."""


class Transfer(Learner):
    """A body trained under a classifier of all training classes, and judged under a new one for each task.

    In training a task is a supervised batch: its query is classified among all training classes, its support is not
    looked at. In evaluation the body is frozen and a new classifier of the same kind is fitted to the support. It
    starts where torch starts a Linear, uniform within 1/sqrt(features), drawn from (seed, task key).

    Args:
        body: What gives the features `[n, features]`.
        classifier: Of the training classes: `weight [classes, features]`, and `bias [classes]` or None.
        ways: Classes in a task of the evaluation.
        rule: How a new classifier is fitted.
        criterion: The loss, in training and in a task.
        norms: "batch", "support" (in a task; training batches go by their own) or "running": see `norms.safe`.
    """

    def __init__(
        self, body: nn.Module, classifier: nn.Linear, ways: int, rule: Rule, criterion: Criterion, norms: str = "batch"
    ) -> None:
        super().__init__(criterion)
        self.body = with_safe_norms(body, refuse_per_step(norms, "the steps of this method move a head behind them"))
        self.classifier = classifier
        self.ways = ways
        self.rule = rule

    def classify(self, params: Params, features: Tensor) -> Tensor:
        """The classifier's outputs under other weights, for as many classes as these have rows."""
        output: Tensor = functional_call(self.classifier, params, (features,))
        return output

    def solve(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        del support, noise
        output = self.classifier(self.body(query.x))
        return Outcome(self.criterion(output, query.y), output)

    def noise(self) -> dict[str, Shape]:
        rows = {"weight": (self.ways, self.classifier.in_features), "bias": (self.ways,)}
        return {name: shape for name, shape in rows.items() if getattr(self.classifier, name) is not None}

    def update(self, support: Examples, noise: Noise, evaluating: bool = False) -> Params:
        waiting = {f"{BODY}{name}": norm for name, norm in support_norms(self.body).items()}
        with record_statistics(waiting) as statistics:
            features = self.body(support.x).detach()
        start = {name: (2 * u - 1) / self.classifier.in_features**0.5 for name, u in noise.items()}
        loss = Objective(
            lambda params: self.classify(params, features),
            self.criterion,
            Examples(features, support.y),
            evaluating=evaluating,
        )
        return self.rule(start, loss) | statistics

    def predict(self, params: Params, x: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        features = functional_call(self.body, with_prefix(params, BODY), (x,), tie_weights=False)
        return self.classify(_of_head(params), features)

    def module(self, params: Params) -> nn.Module:
        body, head = deepcopy(self.body), deepcopy(self.classifier)
        keep_statistics(body, with_prefix(params, BODY))
        for name, value in _of_head(params).items():
            setattr(head, name, nn.Parameter(value))
        head.out_features = self.ways
        adapted = nn.Sequential(body, head)
        if is_transductive(adapted):
            adapted.register_forward_pre_hook(WarnsOfOne())
        return adapted.eval().requires_grad_(False)


def _of_head(params: Params) -> Params:
    """The new classifier among what a task keeps."""
    return {name: value for name, value in params.items() if not name.startswith(BODY)}


def body_and_features(model: nn.Module, head: str | None, method: str) -> tuple[nn.Module, int]:
    """The model without its last linear layer, and how many features that layer read."""
    body, last = split_head(model, head)
    if not isinstance(last, nn.Linear):
        raise InputError(
            f"{method} puts a classifier in the place of the model's last Linear, and `head` is a "
            f"{type(last).__name__}. Name a Linear, or leave `head` out."
        )
    return body, last.in_features


def feature_transfer(
    model: nn.Module,
    outputs: int,
    train_outputs: int,
    *,
    inner_lr: float = 0.1,
    eval_inner_steps: int = 100,
    loss: Loss = "cross_entropy",
    head: str | None = None,
    norms: str = "batch",
) -> Learner:
    """Feature Transfer (Chen et al., 2019, "Baseline"): supervised training; a task fits a new linear head."""
    body, features = body_and_features(model, head, "Feature Transfer")
    rule = Descend(Constant(inner_lr), eval_inner_steps)
    return Transfer(body, nn.Linear(features, train_outputs), outputs, rule, criterion(loss), norms)
