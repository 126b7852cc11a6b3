"""The thesis's propositions and eq. 4.3 in numbers: cells built as its proofs build them, moved by the library's rule.

Everything is in float64, and every reading is the log10 of the largest relative error.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.methods.mtnet import mtnet
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.papers.mtnet.measures import decades, gap, largest, masks_of, outside
from quickstudy.papers.runner.measures import Array, Reading, Trained, measure
from quickstudy.types import Examples

ALPHA = 0.125
"""A number that single precision holds exactly, as rates are kept."""
SURE = 60.0
"""A logit whose mask is decided whatever the draw: the noise's own logit stays within 38."""


@measure
def proposition_1(
    one: Trained, *, sizes: Sequence[Sequence[int]] = ((3, 2), (5, 1), (8, 3)), draws: int = 20
) -> Reading:
    """Proposition 1 by its construction, as log10 of the error: output changes span a given subspace U.

    T is a basis of R^n that begins with one of U, W = T^-1 A, and the first d logits say yes, the rest no. The value is
    the largest share of a change outside U; `more` has the ranks of the changes over many losses.

    Args:
        one: Its seed is that of the draws.
        sizes: Pairs of n and d.
        draws: Cells of each.
    """
    shares, ranks = [], []
    for n, d, generator in _cases(one, sizes, draws):
        basis, start, x = _normal(generator, n, n), _normal(generator, n, 4), _normal(generator, 4)
        targets = _normal(generator, 2 * n, n)
        learner = _cell(basis, start, d)
        changes = np.stack([_step(learner, x, y) for y in targets])
        shares += [outside(change[:, None], basis[:, :d].numpy()) for change in changes]
        ranks.append(int(np.linalg.matrix_rank(changes, tol=1e-9 * np.linalg.norm(changes))) - d)
    return Reading(decades(largest(shares)), more={"cells": len(ranks), "rank minus d, largest": max(map(abs, ranks))})


@measure
def proposition_2(
    one: Trained, *, sizes: Sequence[Sequence[int]] = ((3, 2), (5, 1), (8, 3)), draws: int = 20
) -> Reading:
    r"""Proposition 2 in closed form, as log10 of the error.

    .. math:: \Delta y = -\alpha\|x\|^2\, V G^{-1} V^\top\nabla_y L

    V is a basis of U, G a metric on its coordinates, H its root (G = H'H), and T begins with the columns of V H^-1.
    `more` has two more readings: how much more any of 200 other directions in U descends per length in the metric (at
    most nothing), and the share of :math:`T\,\mathrm{diag}(m)\,T^\top` outside rows and columns where m is 1, which
    the thesis says is none.

    Args:
        one: Its seed is that of the draws.
        sizes: Pairs of n and d.
        draws: Cells of each.
    """
    errors, better, outside = [], [], []
    for n, d, generator in _cases(one, sizes, draws):
        basis, start, x, y = (_normal(generator, *shape) for shape in ((n, n), (n, 4), (4,), (n,)))
        root = _normal(generator, d, d)
        G = root.T @ root + torch.eye(d, dtype=root.dtype)
        V, H = basis[:, :d], torch.linalg.cholesky(G).T
        T = torch.cat([V @ torch.linalg.inv(H), basis[:, d:]], dim=1)
        slope = 2 * (start @ x - y) / n
        coordinates = -ALPHA * x.square().sum() * torch.linalg.solve(G, V.T @ slope)
        errors.append(gap(_step(_cell(T, start, d), x, y), (V @ coordinates).numpy()))
        others = _normal(generator, 200, d)
        speed = ((others @ V.T @ slope) / (others @ G * others).sum(1).sqrt()).abs().max()
        own = (slope @ V @ coordinates).abs() / (coordinates @ G @ coordinates).sqrt()
        better.append(float(speed / own - 1))
        M = T[:, :d] @ T[:, :d].T
        outside.append(1 - float(M[:d, :d].square().sum() / M.square().sum()))
    more = {"cells": len(errors), "steeper by": largest(better), "outside the block": float(np.mean(outside))}
    return Reading(decades(largest(errors)), more=more)


@measure
def equation_4_3(
    one: Trained, *, bias: bool = False, sizes: Sequence[Sequence[int]] = ((3, 3), (8, 8)), draws: int = 20
) -> Reading:
    r"""Eq. 4.3 for one example, as log10 of the error.

    .. math:: \Delta y = -\alpha(\|x\|^2 + [\text{bias}])\, T T^\top\nabla_y L

    Args:
        one: Its seed is that of the draws.
        bias: Whether the cell has the bias of the released code, which the thesis leaves out.
        sizes: Pairs of n and n.
        draws: Cells of each.
    """
    errors = []
    for n, _, generator in _cases(one, sizes, draws):
        T, start, x, y = (_normal(generator, *shape) for shape in ((n, n), (n, 4), (4,), (n,)))
        slope = 2 * (start @ x - y) / n
        wanted = -ALPHA * (x.square().sum() + bias) * T @ T.T @ slope
        errors.append(gap(_step(_cell(T, start, n, bias=bias), x, y), wanted.numpy()))
    return Reading(decades(largest(errors)), more={"cells": len(errors)})


def _cases(one: Trained, sizes: Sequence[Sequence[int]], draws: int) -> list[tuple[int, int, torch.Generator]]:
    generator = torch.Generator().manual_seed(one.seed)
    return [(n, d, generator) for n, d in sizes for _ in range(draws)]


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _cell(T: Tensor, A: Tensor, d: int, bias: bool = False) -> RuleLearner:
    """An MT-net of one cell with A = T W, whose first d rows adapt."""
    layer = nn.Linear(A.shape[1], len(A), bias=bias, dtype=torch.float64)
    learner = mtnet(layer, inner_lr=ALPHA, loss="mse")
    assert isinstance(learner, RuleLearner)
    with torch.no_grad():
        head = learner.head.double()
        head.get_parameter("metric").copy_(T)
        head.get_parameter("weight").copy_(torch.linalg.solve(T, A))
        if bias:
            head.get_parameter("bias").zero_()
        for logit in masks_of(learner).logits.values():
            logit.data = torch.where(torch.arange(len(T)) < d, SURE, -SURE).double()
    learner.rule.double()
    return learner


def _step(learner: RuleLearner, x: Tensor, y: Tensor) -> Array:
    """By how much one inner step on one example changes the output at it."""
    noise = {name: torch.full(shape, 0.5, dtype=torch.float64) for name, shape in learner.noise().items()}
    with torch.no_grad():
        phi = learner.update(Examples(x[None], y[None]), noise)
        moved = learner.predict(phi, x[None]) - learner.predict(learner.params(), x[None])
    change: Array = moved[0].numpy()
    return change
