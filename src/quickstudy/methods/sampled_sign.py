r"""The sampled sign: Wormhole's gain as a draw from -1 and +1, by MT-net's straight-through sampler.

.. math:: C = 2\,s - 1, \quad s \sim \mathrm{Bern}(\sigma(t)), \qquad
          t \leftarrow t - \gamma \nabla_t L_S(C\theta), \qquad \phi = C\theta - \alpha \nabla L_S(C\theta)

:math:`\gamma` is `gain_lr`, :math:`\alpha` is `inner_lr`, and C acts on the parameters in `scope`. Wormhole MAML
wants C near -1 or +1 and takes a tanh for it (section 2 of the paper, https://arxiv.org/abs/2212.14094); here it is one
of the two. The sampler is that of MT-net's masks (eq. 3.7-3.9, https://arxiv.org/abs/1801.05558). This composition is
in no paper that we know.

An unknown `draw`, or a `scope` of layers whose output goes straight into norms, is an `InputError`.
"""

from typing import Unpack

from torch import nn

from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Options, make_rule_learner
from quickstudy.methods.wormhole import chart_in_scope
from quickstudy.rules.combine import Chain
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.params import Selection, adaptable, trainable
from quickstudy.rules.sign import SampledSign


def sampled_sign(
    model: nn.Module,
    *,
    gain_lr: float = 1.0,
    gain_steps: int = 5,
    start: float = 0.0,
    temperature: float = 1.0,
    draw: str = "hard",
    scope: Selection | None = None,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    **options: Unpack[Options],
) -> Learner:
    """The sampled sign (Wormhole x MT-net): C is -1 or +1 by a draw whose logit each task finds, then gradient steps.

    `scope` selects the parameters that C multiplies: by default the last linear layer with its bias. `start` is the
    logit at which every task begins.
    """
    params = adaptable(model, options.get("adapts", trainable))
    _, names = chart_in_scope(model, params, "scalar", scope, norms=options.get("norms", "batch"))
    find = Descend(Constant(gain_lr), gain_steps)
    gain = SampledSign(find, names, start=start, temperature=temperature, draw=draw)
    rule = Chain([gain, Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)])
    return make_rule_learner(model, rule, **options)
