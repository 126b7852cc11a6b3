r"""Feature Transfer: supervised training on all classes, then a new linear head for each task on frozen features.

.. math:: \min_{f, W} \; L(W f(x), y) \text{ over all training classes}; \qquad
          w \leftarrow w - \alpha \nabla_w L_S(w f(x)) \text{ in a task}

f is the body, W `[training classes, features]` the classifier of training and w `[ways, features]` that of a task;
:math:`\alpha` is `inner_lr`, and there are `eval_inner_steps` steps.

Reference: Chen et al., 2019, "A Closer Look at Few-shot Classification", section 3.2, "Baseline"
(https://arxiv.org/abs/1904.04232). The paper fits the head by SGD with momentum on batches of 4; here every step is
gradient descent on the whole support set.

A head that is not a Linear, or norms="per_step", is an `InputError`.
"""

from functools import partial
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from quickstudy.engine.twin import Twins, call_on, copy_module
from quickstudy.errors import InputError, check_count
from quickstudy.methods.learner import Learner, Noise
from quickstudy.methods.options import Loss
from quickstudy.methods.rule_learner import AdaptedBody
from quickstudy.models.norms import (
    WarnSingleExample,
    is_transductive,
    record_statistics,
    refuse_per_step,
    store_statistics,
    with_safe_norms,
)
from quickstudy.models.split import split_head
from quickstudy.rules.base import Rule
from quickstudy.rules.criteria import get_criterion
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import with_prefix
from quickstudy.types import Criterion, Examples, Inputs, Outcome, Params, Shape

BODY_PREFIX = "body:"
"""Begins the names of a support set's statistics, which are stored beside the classifier of a task."""


F = TypeVar("F", bound="FeatureTransfer")


class FeatureTransfer(Learner):
    """A body that is trained with a classifier of all training classes, and evaluated with a new one for each task.

    In training a task is a supervised batch: its queries are classified among all training classes, its support set is
    not used. In evaluation the body is frozen, and a new classifier of the same kind is fitted to the support set. Its
    initial values are torch's for a Linear, uniform within 1/sqrt(features), drawn from (seed, task key).

    Args:
        body: Computes the features `[n, features]`.
        classifier: The classifier of training: `weight [classes, features]`, and `bias [classes]` or None.
        ways: Classes in a task of the evaluation.
        rule: How a new classifier is fitted.
        criterion: The loss, in training and in a task.
        norms: "batch", "support" (in a task; in training the batch's own) or "running": see `with_safe_norms`.
    """

    ways: int

    def __init__(
        self, body: nn.Module, classifier: nn.Linear, ways: int, rule: Rule, criterion: Criterion, norms: str = "batch"
    ) -> None:
        super().__init__(criterion)
        check_count("outputs", ways)
        self.body = with_safe_norms(
            body, refuse_per_step(norms, "the steps of this method move a head that comes after the norms")
        )
        self.classifier = classifier
        self.body_twins, self.classifier_twins = Twins(self.body), Twins(classifier)
        self.ways = ways
        self.rule = rule

    def classify(self, params: Params, features: Tensor) -> Tensor:
        """The outputs of the classifier with other weights, one for each of their rows."""
        output: Tensor = self.classifier_twins.call(params, features)
        return output

    def for_labels(self: F, support: Tensor, *others: Tensor, evaluating: bool) -> F:
        """In training the labels are those of all training classes, so they say nothing about the classes of a task."""
        return super().for_labels(support, *others, evaluating=evaluating) if evaluating else self

    def solve(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        del support, noise
        output = self.classifier_twins.call({}, call_on(partial(self.body_twins.call, {}), self.unshared(query.x)))
        return Outcome(self.query_loss(output, query.y), output)

    def noise(self) -> dict[str, Shape]:
        rows = {"weight": (self.ways, self.classifier.in_features), "bias": (self.ways,)}
        return {name: shape for name, shape in rows.items() if getattr(self.classifier, name) is not None}

    def update(self, support: Examples, noise: Noise, evaluating: bool = False) -> Params:
        statistics: Params = {}
        body = self.body_twins.twin({})
        record_statistics(body, BODY_PREFIX, statistics)
        features = call_on(body, self.unshared(support.x)).detach()
        width, kind = self.classifier.in_features, self.classifier.weight.dtype
        start = {name: ((2 * u - 1) / width**0.5).to(kind) for name, u in noise.items()}
        loss = Objective(
            lambda params: self.classify(params, features),
            self.criterion,
            Examples(features, support.y),
            evaluating=evaluating,
        )
        return self.rule(start, loss) | statistics

    def predict(self, params: Params, x: Inputs) -> Float[Tensor, "n ways"]:
        features = call_on(partial(self.body_twins.call, with_prefix(params, BODY_PREFIX)), self.unshared(x))
        return self.classify(_head_params(params), features)

    def module(self, params: Params) -> nn.Module:
        body, head = copy_module(self.body), copy_module(self.classifier)
        store_statistics(body, with_prefix(params, BODY_PREFIX))
        for name, value in _head_params(params).items():
            setattr(head, name, nn.Parameter(value))
        head.out_features = self.ways
        adapted = AdaptedBody(body, head)
        if is_transductive(adapted):
            adapted.register_forward_pre_hook(WarnSingleExample())
        return adapted.eval().requires_grad_(False)


def _head_params(params: Params) -> Params:
    """The new classifier among what is stored of a task."""
    return {name: value for name, value in params.items() if not name.startswith(BODY_PREFIX)}


def body_and_linear(model: nn.Module, head: str | None, method: str) -> tuple[nn.Module, nn.Linear]:
    """The model without its last linear layer, and this layer."""
    body, last = split_head(model, head)
    if not isinstance(last, nn.Linear):
        raise InputError(
            f"{method} replaces the model's last Linear by a classifier, and `head` is a {type(last).__name__}. "
            "Name a Linear, or leave `head` out."
        )
    return body, last


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
    """Feature Transfer (Chen et al., 2019, "Baseline"): supervised training; each task fits a new linear head."""
    body, last = body_and_linear(model, head, "Feature Transfer")
    classifier = nn.Linear(last.in_features, check_count("train_outputs", train_outputs)).to(last.weight)
    rule = Descend(Constant(inner_lr), eval_inner_steps)
    return FeatureTransfer(body, classifier, outputs, rule, get_criterion(loss), norms)
