"""A rule that reads features, in a model whose every layer adapts."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.rules.base import Rule
from quickstudy.rules.objective import Objective
from quickstudy.types import Examples, Params, Shape


class OnFeatures(Rule):
    r"""Gives a rule the inputs of the linear head in the place of the inputs of the model.

    .. math:: e_i = g_\theta(x_i), \qquad f_\theta(x) = W\,g_\theta(x) + b

    The features e `[n, features]` are the output of the model whose head is the identity: W = I, b = 0 (and T = I). So
    they are those of the parameters at which the rule begins, and their gradient reaches all layers. The support loss
    stays a function of all parameters. A learner with a `body` needs none of this: its rule sees features already.

    It needs the parameters themselves. So it stands outside a rule that moves coordinates of them, such as `Rescale`:
    inside, an open head would be a change of the coordinates.

    Args:
        rule: What reads the features.
        head: The names of the head's parameters: its weight, and its bias and metric if it has them.
        features: The number of features.
    """

    def __init__(self, rule: Rule, head: Sequence[str], features: int) -> None:
        super().__init__()
        self.rule = rule
        self.head = tuple(head)
        self.features = features

    def with_features(self, params: Params, objective: Objective) -> Objective:
        """The same objective with the features as the inputs of its support set."""
        like = next(params[name] for name in (*self.head, *params) if name in params).detach()
        identity = torch.eye(self.features, dtype=like.dtype, device=like.device)
        zero = like.new_zeros(self.features)
        open_head = {name: zero if name.endswith("bias") else identity for name in self.head}
        return replace(objective, support=Examples(objective.predict(params | open_head), objective.support.y))

    def forward(self, params: Params, objective: Objective) -> Params:
        return self.rule(params, self.with_features(params, objective))

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        return self.rule.endpoints(params, self.with_features(params, objective))

    def noise(self, params: Params) -> dict[str, Shape]:
        return self.rule.noise(params)

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        return self.rule.observe(params, self.with_features(params, objective))


def refuse_features_inside(outer: Rule, inner: Rule) -> None:
    """Refuse `OnFeatures` inside a rule that moves coordinates: it would take the outputs for the features."""
    if any(isinstance(part, OnFeatures) for part in inner.modules()):
        name = type(outer).__name__
        raise InputError(
            f"`OnFeatures` is inside `{name}`, where the parameters are coordinates, and it needs the head itself. Put "
            f"it outside {name}: OnFeatures({name}(rule, ...), head, features)."
        )
