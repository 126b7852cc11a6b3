"""T-net and MT-net (Lee & Choi, 2018), with the variants that leave out T or mask single weights."""

import warnings
from collections.abc import Sequence
from typing import Unpack

from torch import nn

from quickstudy.errors import InputError
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import HeadOptions, rule_learner
from quickstudy.models.cells import cell_params, with_metric
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.mask import Masked
from quickstudy.rules.params import adaptable, layer_of
from quickstudy.types import Params


def tnet(
    model: nn.Module,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    eval_inner_steps: int | None = None,
    **options: Unpack[HeadOptions],
) -> Learner:
    """T-net (Lee & Choi, 2018, algorithm 1): each layer is T W; a task moves W and its bias only."""
    cells = with_metric(model)
    rule = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)
    return rule_learner(cells, rule, adapts=_cells(cells), **options)


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
    """MT-net (Lee & Choi, 2018, algorithm 2): a T-net whose rows adapt or not by one draw per task."""
    cells = with_metric(model)
    rate = Masked(Constant(inner_lr), _weights(cells), draw=draw, temperature=temperature)
    rule = Descend(rate, inner_steps, eval_steps=eval_inner_steps)
    return rule_learner(cells, rule, adapts=_cells(cells), **options)


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
    """MT-net-full: one mask logit per weight instead of one per row."""
    cells = with_metric(model)
    rate = Masked(Constant(inner_lr), _weights(cells), draw=draw, temperature=temperature, per_weight=True)
    rule = Descend(rate, inner_steps, eval_steps=eval_inner_steps)
    return rule_learner(cells, rule, adapts=_cells(cells), **options)


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
    cells = model
    rate = Masked(Constant(inner_lr), _weights(cells), draw=draw, temperature=temperature)
    rule = Descend(rate, inner_steps, eval_steps=eval_inner_steps)
    return rule_learner(cells, rule, adapts=_cells(cells), **options)


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
    """M-net-full: one mask logit per weight, without the metric T."""
    cells = model
    rate = Masked(Constant(inner_lr), _weights(cells), draw=draw, temperature=temperature, per_weight=True)
    rule = Descend(rate, inner_steps, eval_steps=eval_inner_steps)
    return rule_learner(cells, rule, adapts=_cells(cells), **options)


class SharedLayers(UserWarning):
    """Layers that T and masks do not act on."""


def _cells(model: nn.Module) -> Sequence[str]:
    names = cell_params(model)
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
            SharedLayers,
            stacklevel=4,
        )
    return names


def _weights(cells: nn.Module) -> Params:
    return adaptable(cells, _cells(cells))
