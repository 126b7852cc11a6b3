r"""The amortised gain: a hypernetwork emits Wormhole's t, which Wormhole MAML searches for by gradient steps.

.. math:: t = t_0 + H(S), \qquad \phi = C(t)\,\theta - \alpha \nabla L_S(C(t)\,\theta)

C is a chart (eq. 3-7 of Wormhole MAML) on the parameters in `scope`, and :math:`\alpha` is `inner_lr`. H reads a
summary of the support set, as in `methods.set_emit`, and writes t: one number for the charts "scalar" and "tanh". So
the gain needs no rate and no second derivatives; the steps that follow it do.

The paper (Chang, Gao & Lou, 2022, section 5, https://arxiv.org/abs/2212.14094) leaves open how C is best found; this
is one answer, with the emission of HyperMAML (https://arxiv.org/abs/2205.15745). It is in no paper that we know.

An unknown `chart`, or a `scope` of layers whose output goes straight into norms, is an `InputError`.
"""

from typing import Unpack

from torch import nn

from quickstudy.methods.emission import find_linear_head
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import Options, make_rule_learner
from quickstudy.methods.wormhole import chart_in_scope
from quickstudy.models.set_hypernet import SetHypernet
from quickstudy.rules.combine import Chain
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.params import Selection, adaptable, trainable
from quickstudy.rules.rescale import Rescale, select_scope
from quickstudy.rules.set_emit import SetEmit


def amortised_gain(
    model: nn.Module,
    *,
    chart: str = "tanh",
    start: float = 1.0,
    rank: int = 1,
    scope: Selection | None = None,
    width: int = 64,
    enhance: bool = True,
    head: str | None = None,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    **options: Unpack[Options],
) -> Learner:
    """The amortised gain (HyperMAML x Wormhole): a hypernetwork emits the gain C, then gradient steps from C theta.

    `chart`, `start`, `rank` and `scope` are those of `wormhole`; `width` and `enhance` those of `set_emit`.
    """
    params = adaptable(model, options.get("adapts", trainable))
    norms = options.get("norms", "batch")
    C, names = chart_in_scope(model, params, chart, scope, start=start, rank=rank, norms=norms)
    t = C.start(select_scope(params, names))
    read = find_linear_head(model, head)
    emit = SetEmit(SetHypernet(t, read.inputs, read.outputs, width=width, enhance=enhance), list(t))
    rule = Chain([Rescale(emit, C, names), Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)])
    return make_rule_learner(model, read.open_to_inputs(rule), **options)
