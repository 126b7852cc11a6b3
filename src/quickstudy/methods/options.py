"""The options that most methods share, and the function that makes their learner."""

from typing import Annotated, Any, NamedTuple, TypedDict, Unpack

from torch import nn

from quickstudy.methods.learner import Learner
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.models.norms import per_step_params
from quickstudy.rules.base import Rule
from quickstudy.rules.criteria import get_criterion
from quickstudy.rules.params import Selection, adaptable, trainable
from quickstudy.types import Criterion, Params

Loss = str | Criterion


class Default(NamedTuple):
    """The value of an option that is not given; a resolved configuration contains it."""

    value: Any


class HeadOptions(TypedDict, total=False):
    """Options of a method that itself decides which parameters adapt.

    `loss` is the query loss, by name or as a function; `inner_loss` is the support loss, if it differs. `norms` is
    "batch", "support", "running" or "per_step": see `quickstudy.models.norms.with_safe_norms`. `allow_unused` lets
    parameters adapt that the support loss does not depend on; the first task refuses them otherwise.
    """

    loss: Annotated[Loss, Default("cross_entropy")]
    inner_loss: Annotated[Loss | None, Default(None)]
    norms: Annotated[str, Default("batch")]
    allow_unused: Annotated[bool, Default(False)]


class Options(HeadOptions, total=False):
    """Options of a method that can adapt any parameters: `adapts` is a pattern, names or a predicate; default: all."""

    adapts: Annotated[Selection, Default(trainable)]


def make_rule_learner(
    model: nn.Module,
    rule: Rule,
    *,
    loss: Loss = "cross_entropy",
    inner_loss: Loss | None = None,
    adapts: Selection = trainable,
    norms: str = "batch",
    allow_unused: bool = False,
    body: nn.Module | None = None,
    kind: type[RuleLearner] = RuleLearner,
) -> Learner:
    """A learner of one rule, with losses by name or as functions."""
    inner = None if inner_loss is None else get_criterion(inner_loss)
    return kind(
        model,
        rule,
        get_criterion(loss),
        inner_criterion=inner,
        body=body,
        adapts=adapts,
        norms=norms,
        allow_unused=allow_unused,
    )


def select_moved_params(model: nn.Module, **options: Unpack[Options]) -> Params:
    """The parameters that gradient steps move: those that adapt, except those with a value for each step."""
    own = per_step_params(model) if options.get("norms") == "per_step" else {}
    every = adaptable(model, options.get("adapts", trainable))
    return {name: p for name, p in every.items() if name not in own}
