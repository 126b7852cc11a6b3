r"""Emission from a summary of the support set, for regression as for classes, alone or before gradient steps.

.. math:: \theta' = \theta + H(S), \qquad \phi = \theta' - \alpha\, m \odot \nabla L_S(\theta')

A hypernetwork H finds the region of a task, and gradient steps find the place in it. The steps are those of MAML
(m = 1), of a T-net (every layer is T W, and only W and its bias move) or of an MT-net (m is a mask over rows, see
`Masked`). :math:`\alpha` is `inner_lr`. `summary` says what H reads and writes:

- "set": the mean of :math:`\psi(x_i, p_i, y_i)` over the whole support set gives the update of every parameter that
  adapts (`SetHypernet`). x are the inputs, if the model begins with a linear layer; else the features of its head.
- "class": the mean of the features, guesses and label of each class gives the update of its row of the head, as in
  HyperMAML (`ClassHypernet`). The default where the loss compares classes.

This composition is in no paper that we know. Its parts are HyperMAML (https://arxiv.org/abs/2205.15745), whose H writes
the rows of classes only, and MAML or MT-net (https://arxiv.org/abs/1801.05558). Related: MMAML (Vuorio et al., 2019,
https://arxiv.org/abs/1910.13616) modulates a network by an embedding of the task, by scale and shift, and then takes
gradient steps. H is larger than the net whose parameters it writes: state its size beside a result.

A head that is not linear or not last, an unknown `summary`, or classes as the summary of a regression is an
`InputError`.
"""

from typing import Unpack

from torch import nn

from quickstudy.methods.emission import choose_summary, emit_then
from quickstudy.methods.learner import Learner
from quickstudy.methods.mtnet import adaptable_cells
from quickstudy.methods.options import HeadOptions, Options, make_rule_learner
from quickstudy.models.cells import with_metric
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.mask import Masked
from quickstudy.rules.params import adaptable, trainable


def set_emit(
    model: nn.Module,
    *,
    summary: str | None = None,
    width: int = 64,
    enhance: bool = True,
    head: str | None = None,
    **options: Unpack[Options],
) -> Learner:
    """Emission alone: a hypernetwork reads the support set and writes the update of the parameters, for any targets."""
    params = adaptable(model, options.get("adapts", trainable))
    summary = choose_summary(summary, options.get("loss", "cross_entropy"))
    rule = emit_then([], model, params, summary=summary, width=width, enhance=enhance, head=head)
    return make_rule_learner(model, rule, **options)


def emit_maml(
    model: nn.Module,
    *,
    summary: str | None = None,
    width: int = 64,
    enhance: bool = True,
    head: str | None = None,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    **options: Unpack[Options],
) -> Learner:
    """Emission, and then MAML's gradient steps on all parameters."""
    params = adaptable(model, options.get("adapts", trainable))
    summary = choose_summary(summary, options.get("loss", "cross_entropy"))
    steps = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)
    rule = emit_then([steps], model, params, summary=summary, width=width, enhance=enhance, head=head)
    return make_rule_learner(model, rule, **options)


def emit_tnet(
    model: nn.Module,
    *,
    summary: str | None = None,
    width: int = 64,
    enhance: bool = True,
    head: str | None = None,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    **options: Unpack[HeadOptions],
) -> Learner:
    """Emission, and then a T-net's gradient steps: each layer is T W; W and its bias are emitted and adapt."""
    cells = with_metric(model)
    names = adaptable_cells(cells)
    summary = choose_summary(summary, options.get("loss", "cross_entropy"))
    steps = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)
    params = adaptable(cells, names)
    rule = emit_then([steps], cells, params, summary=summary, width=width, enhance=enhance, head=head)
    return make_rule_learner(cells, rule, adapts=names, **options)


def emit_mtnet(
    model: nn.Module,
    *,
    summary: str | None = None,
    width: int = 64,
    enhance: bool = True,
    head: str | None = None,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    draw: str = "hard",
    temperature: float = 1.0,
    **options: Unpack[HeadOptions],
) -> Learner:
    """Emission, and then an MT-net's gradient steps: those of a T-net, on the rows that one draw per task picks."""
    cells = with_metric(model)
    names = adaptable_cells(cells)
    summary = choose_summary(summary, options.get("loss", "cross_entropy"))
    params = adaptable(cells, names)
    rate = Masked(Constant(inner_lr), params, draw=draw, temperature=temperature)
    steps = Descend(rate, inner_steps, eval_steps=eval_inner_steps)
    rule = emit_then([steps], cells, params, summary=summary, width=width, enhance=enhance, head=head)
    return make_rule_learner(cells, rule, adapts=names, **options)
