r"""BayesHMAML: HyperMAML whose hypernetwork emits a distribution of the head, not one head.

.. math:: \phi \sim q = N(\theta + H_\mu(S),\ \mathrm{diag}\,e^{H_\sigma(S)}), \qquad
          L = \mathbb{E}_q\, L_Q(\phi) + \gamma\, \mathrm{KL}(q\, \|\, N(0, I))

:math:`\theta` is the head, `weight [ways, features]` and `bias [ways]`; the body is the same for all tasks. The two H
are hypernetworks as in `hypermaml`, and :math:`\gamma` is `kl_weight`. Evaluation uses the mean of q.

Reference: Borycki et al., 2022, section 3 (https://arxiv.org/abs/2210.02796), by the authors of HyperMAML. Their
hypernetwork has a common body for mean and variance; here there are two. They raise gamma during training, as a
schedule on the buffer `kl_weight` does, and begin with gradient steps, which are left out.

A head that is not linear or not last, or a loss that does not compare classes, is an `InputError`.
"""

from typing import Unpack

import torch
from torch import Tensor, nn

from quickstudy.errors import check_finite
from quickstudy.methods.emission import refuse_numbers
from quickstudy.methods.learner import Learner, Noise
from quickstudy.methods.options import HeadOptions, make_rule_learner
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.models.hypernet import ClassHypernet
from quickstudy.models.split import split_head
from quickstudy.rules.gaussian_emit import GaussianEmit, divergence_from_standard
from quickstudy.rules.params import adaptable, trainable
from quickstudy.types import Examples, Outcome


class BayesHyperMAML(RuleLearner):
    """A learner of a `GaussianEmit` whose training loss has the divergence from the prior beside the query loss."""

    any_layout = True
    rule: GaussianEmit
    kl_weight: Tensor

    def solve(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        mean, log_variance = self.rule.posterior(self.params(), self.objective(support, noise))
        drawn = self.rule.sample(mean, log_variance, noise)
        outcome = self.outcome_at([(1 / len(drawn), phi) for phi in drawn], support, query)
        divergence = divergence_from_standard(mean, log_variance)
        return outcome._replace(loss=outcome.loss + self.kl_weight * divergence)


def bayes_hypermaml(
    model: nn.Module,
    *,
    kl_weight: float = 0.001,
    log_variance: float = 0.0,
    draws: int = 1,
    width: int = 256,
    hidden_layers: int = 2,
    enhance: bool = True,
    labels: str = "one_hot",
    head: str | None = None,
    **options: Unpack[HeadOptions],
) -> Learner:
    """BayesHMAML (Borycki et al., 2022): a hypernetwork emits mean and variance of the head; the loss has a KL term.

    `kl_weight` is gamma, the buffer `kl_weight` for schedules. `log_variance` is added to the emitted logarithm of the
    variance, and `draws` are the heads that training draws for a task.
    """
    refuse_numbers(options.get("loss", "cross_entropy"), "BayesHMAML")
    body, last = split_head(model, head)
    rows = adaptable(last, trainable)
    mean, spread = (
        ClassHypernet(rows, width=width, hidden_layers=hidden_layers, enhance=enhance, labels=labels) for _ in range(2)
    )
    rule = GaussianEmit(mean, spread, log_variance=log_variance, draws=draws)
    learner = make_rule_learner(last, rule, body=body, kind=BayesHyperMAML, **options)
    learner.register_buffer("kl_weight", torch.tensor(check_finite("kl_weight", kl_weight)), persistent=False)
    return learner
