"""Parameters with a value of their own at every inner step: MAML++'s batch norms, for one."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.rules.base import Rule
from quickstudy.rules.descend import Descend, Steps, check_steps, last
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import dotted_params, parameter_dict
from quickstudy.rules.torch_private import stand_in_for
from quickstudy.types import Params, Shape


class PerStep(Rule):
    r"""Gradient steps with some parameters that no step moves, and that have a learned value for each step.

    .. math:: \theta_{k+1} = \theta_k - r_k \odot d(\nabla_\theta L_S(\theta_k, \beta_{\min(k, K-1)}))

    :math:`\beta_0` is the model's own value of these parameters; :math:`\beta_1, \dots, \beta_{K-1}` are learned here.
    K is the number of steps in training. After step k the parameters are :math:`(\theta_{k+1}, \beta_k)`; steps
    beyond K use the last value. With K = 1 the model's own value serves.

    The parts of the inner rule are found under the same paths as without `PerStep` (`rule.rate.value`), for schedules
    and for the checkpoints of learners; the values of the steps are `rule.per_step.later`.

    Reference: Antoniou, Edwards & Storkey, 2019, section 4, "per-step batch normalization weights and biases"
    (https://arxiv.org/abs/1810.09502). The paper keeps running statistics for each step as well; these are left out.

    Args:
        rule: The gradient steps.
        params: The parameters with a value for each step; names, shapes and first values are used.
    """

    rule: Descend

    def __init__(self, rule: Rule, params: Params) -> None:
        super().__init__()
        rule = check_steps(rule, "Parameters with a value for each step")
        stand_in_for(self, rule)
        self.__dict__["rule"] = rule  # no child: its parts would have two paths
        later = {name: p.detach().repeat(max(rule.steps - 1, 0), *[1] * p.ndim) for name, p in params.items()}
        self.per_step = nn.ModuleDict({"later": parameter_dict(later)})

    @property
    def later(self) -> Params:
        """The values of the steps after the first, `[K - 1, *shape]` by name."""
        later = self.per_step["later"]
        assert isinstance(later, nn.ParameterDict)
        return dotted_params(later)

    def split(self, params: Params) -> tuple[Params, list[Params]]:
        """What the steps move, and the values of the other parameters at each step."""
        later = self.later
        missing = [name for name in later if name not in params]
        if missing:
            raise InputError(f"{', '.join(missing)} have a value for each step, but are not among what adapts.")
        theta = {name: p for name, p in params.items() if name not in later}
        first = {name: params[name] for name in later}
        return theta, [first, *(dict(zip(later, step, strict=True)) for step in zip(*later.values(), strict=True))]

    def iterates(self, params: Params, objective: Objective, steps: Steps) -> Iterator[Params]:
        """theta_0, theta_1, ... with each step's own values; `steps` is what yields the iterates of the inner rule."""
        theta, own = self.split(params)

        def beta(step: int) -> Params:
            return own[min(step, len(own) - 1)]

        def at_step(step: int) -> Objective:
            return objective.pullback(lambda theta: theta | beta(step))

        for k, theta_k in enumerate(steps(theta, objective, at_step)):
            yield theta_k | beta(max(k - 1, 0))

    def forward(self, params: Params, objective: Objective) -> Params:
        return last(self.iterates(params, objective, self.rule.iterates))

    def endpoints(self, params: Params, objective: Objective) -> list[tuple[Tensor | float, Params]]:
        return self.rule.weigh(self.iterates(params, objective, self.rule.trained_iterates))

    def noise(self, params: Params) -> dict[str, Shape]:
        return self.rule.noise(self.split(params)[0])

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        return self.rule.observe(self.split(params)[0], objective)

    def restart(self, params: Params) -> None:
        """Set the values of all steps to the given ones, when the model's have changed since this was built."""
        with torch.no_grad():
            for name, value in self.later.items():
                value.copy_(params[name].expand_as(value))
