r"""Emission through T and the mask: the hypernetwork writes only the rows that the mask of a task opens.

.. math:: y = T (W x + b), \qquad \phi = \theta + m \odot H(S), \qquad m_j \sim \mathrm{Bern}(\sigma(\zeta_j))

H is the hypernetwork of `methods.set_emit`, which writes the :math:`\theta = (W, b)` of every layer or the rows of the
head. m is one mask a task over the rows j that H writes, with the learned logits :math:`\zeta` (see `Masked`). T
`[out, out]` is learned and shared by all tasks, so that H writes in the coordinates that T gives. No gradient is taken
in a task.

HyperMAML (https://arxiv.org/abs/2205.15745) times MT-net (https://arxiv.org/abs/1801.05558); in no paper that we know.

A head that is not linear or not last, or an unknown `summary` or `draw`, is an `InputError`.
"""

from typing import Unpack

from torch import nn

from quickstudy.methods.emission import choose_summary, emit_then, find_linear_head
from quickstudy.methods.learner import Learner
from quickstudy.methods.mtnet import adaptable_cells
from quickstudy.methods.options import HeadOptions, make_rule_learner
from quickstudy.models.cells import with_metric
from quickstudy.rules.descend import Constant
from quickstudy.rules.gated import Gated
from quickstudy.rules.mask import Masked
from quickstudy.rules.params import adaptable


def gated_emission(
    model: nn.Module,
    *,
    summary: str | None = None,
    width: int = 64,
    enhance: bool = True,
    head: str | None = None,
    draw: str = "hard",
    temperature: float = 1.0,
    **options: Unpack[HeadOptions],
) -> Learner:
    """Emission through T and the mask (HyperMAML x MT-net): one draw per task decides which rows are written."""
    cells = with_metric(model)
    names = adaptable_cells(cells)
    summary = choose_summary(summary, options.get("loss", "cross_entropy"))
    if summary == "class":  # nothing but the head is written, so nothing else adapts or has a mask
        head_names = find_linear_head(cells, head).names
        names = [name for name in names if name in head_names] or names
    params = adaptable(cells, names)
    emit = emit_then([], cells, params, summary=summary, width=width, enhance=enhance, head=head)
    rule = Gated(emit, Masked(Constant(1.0), params, draw=draw, temperature=temperature))
    return make_rule_learner(cells, rule, adapts=names, **options)
