r"""Reptile: the start moves towards where tasks lead, and no query loss is differentiated.

.. math:: \theta \leftarrow \theta + \epsilon\,\frac{1}{T} \sum_i (\phi_i - \theta)

This is gradient descent on half the squared distance to each :math:`\phi_i`, held fixed (section 5.2 of the paper):
:math:`\nabla_\theta \tfrac{1}{2} |\theta - \phi_i|^2 = \theta - \phi_i`. So it is trained by any optimizer; the formula
above is SGD at rate :math:`\epsilon` (the paper's Adam variant is Adam).

Reference: Nichol, Achiam & Schulman, 2018, algorithms 1 and 2 (https://arxiv.org/abs/1803.02999). Inner steps here are
plain gradient steps on the whole support set; the paper's are on minibatches of it, by Adam without momentum. It draws
more shots for training than for testing: `tasks.shots` of the configuration, with the test's in `evaluate.options`.
Parameters that do not adapt are not trained.
"""

from typing import Unpack

import torch
from torch import nn

from quickstudy.methods.learner import Learner, Noise
from quickstudy.methods.options import Options, rule_learner
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.models.norms import refuse_per_step
from quickstudy.rules.descend import Constant, Descend
from quickstudy.types import Examples, Outcome


class Reptile(RuleLearner):
    """A learner whose outer gradient is theta - phi; the loss that it reports is still the query loss."""

    def solve(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        theta = self.params()
        with torch.no_grad():
            phi = self.update(support, noise)
            loss, output = self.judge(phi, query)
        distance = 0.5 * torch.stack([(p - phi[name]).square().sum() for name, p in theta.items()]).sum()
        return Outcome(loss + (distance - distance.detach()), output)  # the loss's value, the distance's gradient


def reptile(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 5,
    eval_inner_steps: int | None = None,
    **options: Unpack[Options],
) -> Learner:
    """Reptile (Nichol et al., 2018): the outer gradient is theta - phi. With one inner step it is joint training."""
    rule = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)
    refuse_per_step(options.get("norms", "batch"), "Reptile trains what its steps move, and no step moves such norms")
    return rule_learner(model, rule, kind=Reptile, **options)
