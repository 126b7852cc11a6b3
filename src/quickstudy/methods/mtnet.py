r"""T-net and MT-net, with the variants that have no T or mask single weights.

.. math:: y = T (W x + b), \qquad W \leftarrow W - \alpha\, m \odot \nabla_W L_S, \qquad
          m_j \sim \mathrm{Bern}(\sigma(\zeta_j))

T `[out, out]` is a metric that meta-training changes and a task does not (see `models.cells`). m is a mask over the
rows j of W `[out, ...]` and of b `[out]`, drawn once per task with the logits :math:`\zeta` `[out]` (see `Masked`).
:math:`\alpha` is `inner_lr`.

Reference: Lee & Choi, 2018, algorithms 1 and 2 (https://arxiv.org/abs/1801.05558); Lee, 2018 (thesis), eq. 3.1-3.9.

A model without a Linear or Conv2d layer that trains is an `InputError`. Other layers with weights are shared by all
tasks, with a warning.
"""

import warnings
from collections.abc import Sequence
from typing import Unpack

from torch import nn

from quickstudy.errors import InputError
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import HeadOptions, make_rule_learner
from quickstudy.models.cells import cell_param_names, with_metric
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.mask import Masked
from quickstudy.rules.params import adaptable, layer_of


def tnet(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    **options: Unpack[HeadOptions],
) -> Learner:
    """T-net (Lee & Choi, 2018, algorithm 1): each layer is T W; a task adapts W and its bias only."""
    cells = with_metric(model)
    rule = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)
    return make_rule_learner(cells, rule, adapts=adaptable_cells(cells), **options)


def mtnet(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    draw: str = "hard",
    temperature: float = 1.0,
    **options: Unpack[HeadOptions],
) -> Learner:
    """MT-net (Lee & Choi, 2018, algorithm 2): a T-net in which one draw per task decides which rows adapt."""
    cells = with_metric(model)
    names = adaptable_cells(cells)
    rate = Masked(Constant(inner_lr), adaptable(cells, names), draw=draw, temperature=temperature)
    rule = Descend(rate, inner_steps, eval_steps=eval_inner_steps)
    return make_rule_learner(cells, rule, adapts=names, **options)


def mtnet_full(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    draw: str = "hard",
    temperature: float = 1.0,
    **options: Unpack[HeadOptions],
) -> Learner:
    """MT-net-full: a mask logit for each weight instead of each row."""
    cells = with_metric(model)
    names = adaptable_cells(cells)
    rate = Masked(Constant(inner_lr), adaptable(cells, names), draw=draw, temperature=temperature, per_weight=True)
    rule = Descend(rate, inner_steps, eval_steps=eval_inner_steps)
    return make_rule_learner(cells, rule, adapts=names, **options)


def mnet(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    draw: str = "hard",
    temperature: float = 1.0,
    **options: Unpack[HeadOptions],
) -> Learner:
    """M-net: MT-net's masks without the metric T."""
    names = adaptable_cells(model)
    rate = Masked(Constant(inner_lr), adaptable(model, names), draw=draw, temperature=temperature)
    rule = Descend(rate, inner_steps, eval_steps=eval_inner_steps)
    return make_rule_learner(model, rule, adapts=names, **options)


def mnet_full(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    draw: str = "hard",
    temperature: float = 1.0,
    **options: Unpack[HeadOptions],
) -> Learner:
    """M-net-full: a mask logit for each weight, without the metric T."""
    names = adaptable_cells(model)
    rate = Masked(Constant(inner_lr), adaptable(model, names), draw=draw, temperature=temperature, per_weight=True)
    rule = Descend(rate, inner_steps, eval_steps=eval_inner_steps)
    return make_rule_learner(model, rule, adapts=names, **options)


class SharedLayersWarning(UserWarning):
    """Warns of layers on which T and masks do not act."""


def adaptable_cells(model: nn.Module) -> Sequence[str]:
    """The names of W and b of all cells; an error where there are none."""
    names = cell_param_names(model)
    if not names:
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
        raise InputError(f"Masks act on Linear and Conv2d layers that train; this model has none, only: {kinds}.")
    others = {
        layer_of(name)
        for name, p in model.named_parameters()
        if p.requires_grad and p.ndim > 1 and name not in names and not name.endswith("metric")
    }
    if others:
        warnings.warn(
            f"T and masks act on plain Linear and Conv2d layers; all tasks will share {', '.join(sorted(others))}.",
            SharedLayersWarning,
            stacklevel=3,
        )
    return names
