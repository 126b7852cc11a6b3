r"""Reptile: the initial parameters move towards the adapted ones; the query loss is not differentiated.

.. math:: \theta \leftarrow \theta + \epsilon\,\frac{1}{T} \sum_i (\phi_i - \theta)

:math:`\phi_i` are the parameters after the inner steps on task i of T. This is gradient descent on half the squared
distance to each :math:`\phi_i`, as a constant (section 5.2 of the paper): :math:`\nabla_\theta \tfrac{1}{2} |\theta -
\phi_i|^2 = \theta - \phi_i`. So any optimizer can train it; the formula above is SGD at the rate :math:`\epsilon` (the
paper's Adam variant is Adam).

Reference: Nichol, Achiam & Schulman, 2018, algorithms 1 and 2 (https://arxiv.org/abs/1803.02999). Here, inner steps are
gradient steps on the whole support set; in the paper they are Adam steps without momentum on minibatches of it. The
paper uses more shots in training than in testing: set `tasks.shots`, and that of the test in `evaluate.options`.
Parameters that do not adapt are not trained. norms="per_step" is an `InputError`.
"""

from typing import Unpack

import torch
from torch import nn

from quickstudy.methods.learner import Learner, Noise
from quickstudy.methods.options import Options, make_rule_learner
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.models.norms import refuse_per_step
from quickstudy.rules.descend import Constant, Descend
from quickstudy.types import Examples, Outcome


class Reptile(RuleLearner):
    """A learner whose outer gradient is theta - phi; the loss that it reports is the query loss."""

    any_layout = True

    def solve(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        theta = self.params()
        with torch.no_grad():
            phi = self.update(support, noise)
            loss, output = self.query_outcome(phi, query)
        distance = 0.5 * torch.stack([(p - phi[name]).abs().square().sum() for name, p in theta.items()]).sum()
        return Outcome(loss + (distance - distance.detach()), output)  # the loss's value, the distance's gradient


def reptile(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 5,
    eval_inner_steps: int | None = None,
    **options: Unpack[Options],
) -> Learner:
    """Reptile (Nichol et al., 2018): the outer gradient is theta - phi. With one inner step, it is joint training."""
    rule = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)
    refuse_per_step(options.get("norms", "batch"), "Reptile trains what its steps move, and no step moves such norms")
    return make_rule_learner(model, rule, kind=Reptile, **options)
