"""MAML++'s batch norms: every inner step has a scale and a bias of its own."""

from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.objective import Objective
from quickstudy.params import by_name, held
from quickstudy.rules.base import Rule
from quickstudy.rules.descend import Descend
from quickstudy.types import Params, Shape


class PerStep(Rule):
    r"""Gradient steps, each under parameters of its own, which are learned across tasks and which no step moves.

    .. math:: \theta_{k+1} = \theta_k - r_k \odot \nabla_\theta L_S(\theta_k, \beta_{\min(k, K-1)}), \qquad
              \phi = (\theta_K, \beta_{K-1})

    :math:`\beta_0` is the model's own value of these parameters, :math:`\beta_1, \dots, \beta_{K-1}` are kept here, K
    being the steps of training; the last serves the queries, and every step beyond. With K = 1 nothing is new.

    Reference: Antoniou, Edwards & Storkey, 2019, section 4, "per-step batch normalization weights and biases"
    (https://arxiv.org/abs/1810.09502). Their running statistics for each step are left out: statistics are the batch's.

    Args:
        descend: The gradient steps on everything else that the learner adapts.
        own: The parameters with a value for every step; names, shapes and first values are used.
    """

    def __init__(self, descend: Rule, own: Params) -> None:
        super().__init__()
        if not isinstance(descend, Descend):
            raise InputError(
                f"Parameters per step need a rule of gradient steps, and this one is a {type(descend).__name__}. Of "
                "the methods, maml, fomaml, meta_sgd, tnet and the masked ones have one; else use norms='support'."
            )
        self.descend = descend
        later = max(descend.steps, 1) - 1
        self.later = held({name: p.detach().repeat(later, *[1] * p.ndim) for name, p in own.items()})

    def forward(self, params: Params, objective: Objective) -> Params:
        theta, beta = self.apart(params)
        steps = self.descend.eval_steps if objective.evaluating else self.descend.steps
        for k, rate in enumerate(self.descend.rate(theta, steps, objective.noise)):
            theta = self.descend.step(theta, rate, _under(objective, beta[min(k, len(beta) - 1)]))
        return theta | beta[-1]

    def apart(self, params: Params) -> tuple[Params, list[Params]]:
        """What the steps move, and the values of the rest at each step."""
        later = by_name(self.later)
        theta = {name: p for name, p in params.items() if name not in later}
        first = {name: params[name] for name in later}
        return theta, [first, *({n: v[k] for n, v in later.items()} for k in range(max(self.descend.steps, 1) - 1))]

    def noise(self, params: Params) -> dict[str, Shape]:
        return self.descend.noise(self.apart(params)[0])

    def observe(self, params: Params, objective: Objective) -> dict[str, Tensor]:
        return self.descend.observe(self.apart(params)[0], objective)


def _under(objective: Objective, beta: Params) -> Objective:
    """The objective as a function of theta alone."""
    return objective.pullback(lambda theta: theta | beta)
