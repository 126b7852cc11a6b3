"""What the thesis's tables and figures are read from: update fractions and movements of cells.

The propositions and eq. 4.3 are readings too: cells are built as the proofs build them, and moved by the library's
rule. All of that is in float64, and a reading is the log10 of the largest relative error.
"""

from collections.abc import Iterator, Sequence
from math import log10

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.methods.mtnet import mtnet
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.papers.mtnet.cells import SMALLEST, gap, masks_of, movements, outside
from quickstudy.papers.runner.measures import Reading, Trained, measure
from quickstudy.storage.result import Array
from quickstudy.types import Examples

ALPHA = 0.125
"""A number that single precision holds exactly, as rates are kept."""
SURE = 60.0
"""A logit whose mask is decided whatever the draw: the noise's own logit stays within 38."""

Sizes = Sequence[Sequence[int]]
"""Pairs of n, the outputs of a cell, and d, those that adapt."""


@measure("update_fraction")
def update_fraction(one: Trained, *, cell: str = "", sign: int = 1, over: str = "rows") -> Reading:
    r"""The mean over logits of :math:`\sigma(\pm\zeta)`: how much of a masked learner adapts, or (-) does not.

    `cell` names one layer. By default all count: each row of logits as one (`over` "rows", as the text says), or each
    cell's mean as one ("cells", as the released code logs it: the one row of the output cell is a third). `sign` 1 is
    the probability of adapting by eq. 3.7; -1 is the formula that section 6.3 prints.
    """
    rate = masks_of(one.setup().learner)
    held = {group.rpartition(".")[0]: p.detach().double().numpy() for group, p in rate.probabilities().items()}
    if cell and cell not in held:
        raise InputError(f"There is no cell {cell!r}. Cells are: {', '.join(held)}.")
    every = [np.atleast_1d(p.mean()) if over == "cells" else p.ravel() for p in held.values()]
    chosen = held[cell] if cell else np.concatenate(every)
    arrays = {f"cell.{name}": p for name, p in held.items()}
    return Reading(float(chosen.mean() if sign > 0 else 1 - chosen.mean()), arrays=arrays)


@measure("closed_form")
def closed_form(one: Trained, *, tasks: int = 50) -> Reading:
    r"""How far trained cells are from :math:`\Delta A = -\alpha T\,\mathrm{diag}(m)\,T^\top\nabla_A L`, as log10.

    The gradient on the right is that of a plain network with the weights A = T W, in which no T is left. The training
    is that of a T-net or an MT-net with one inner step.
    """
    moved = movements(one, tasks)
    errors = [gap(found, wanted) for cell in moved for found, wanted in zip(cell.change, cell.predicted, strict=True)]
    condition = {f"condition of T, {cell.name}": float(np.linalg.cond(cell.metric)) for cell in moved}
    return Reading(decades(errors), more={"tasks": tasks, "cells": len(moved), **condition})


@measure("outside_plane")
def outside_plane(one: Trained, *, tasks: int = 200, cell: str = "", x: float = 1.0) -> Reading:
    """The largest share of a task's change that lies outside the span of T's columns where m = 1, as log10.

    Over all cells and every input at once, as the change of A = T W and of T b. `more` counts ranks: that of a change
    cannot be above the number of rows that adapt. Figures show the output changes of one `cell` at the input `x`.
    """
    moved = movements(one, tasks, x)
    changes = [(part.metric, *each) for part in moved for each in zip(part.change, part.mask, strict=True)]
    shares = [outside(change, metric[:, mask > 0.5]) for metric, change, mask in changes]
    ranks = np.array([np.linalg.matrix_rank(change) for _, change, _ in changes])
    rows = np.array([mask.sum() for *_, mask in changes])
    counts = {
        "ranks above the rows that adapt": int((ranks > rows).sum()),
        "ranks equal to them": int((ranks == rows).sum()),
    }
    drawn = next((part.drawn for part in moved if part.name == cell), {})
    return Reading(decades(shares), more={"tasks": tasks, **counts, "changes": len(ranks)}, arrays=drawn)


@measure("proposition_1")
def proposition_1(one: Trained, *, sizes: Sizes = ((3, 2), (5, 1), (8, 3)), draws: int = 20) -> Reading:
    """Proposition 1 by its construction: output changes span a given subspace U.

    T is a basis of R^n that begins with one of U, W = T^-1 A, and the first d logits say yes. The value is the largest
    share of a change outside U; `more` has the ranks of the changes over many losses.
    """
    shares, ranks = [], []
    for n, d, generator, basis, start, x in _cases(one, sizes, draws):
        learner = _cell(basis, start, d)
        changes = np.stack([_step(learner, x, y) for y in _normal(generator, 2 * n, n)])
        shares += [outside(change[:, None], basis[:, :d].numpy()) for change in changes]
        ranks.append(int(np.linalg.matrix_rank(changes, tol=1e-9 * np.linalg.norm(changes))) - d)
    return Reading(decades(shares), more={"cells": len(ranks), "rank minus d, largest": max(map(abs, ranks))})


@measure("proposition_2")
def proposition_2(one: Trained, *, sizes: Sizes = ((3, 2), (5, 1), (8, 3)), draws: int = 20) -> Reading:
    r"""Proposition 2: :math:`\Delta y = -\alpha\|x\|^2\, V G^{-1} V^\top\nabla_y L`.

    V is a basis of U, G a metric on its coordinates, H its root (G = H'H), and T begins with the columns of V H^-1.
    `more` has how much more any of 200 other directions in U descends per length in the metric (at most nothing), and
    the share of :math:`T\,\mathrm{diag}(m)\,T^\top` outside rows and columns where m is 1: none, by the thesis.
    """
    errors, better, elsewhere = [], [], []
    for n, d, generator, basis, start, x in _cases(one, sizes, draws):
        y, root = _normal(generator, n), _normal(generator, d, d)
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
        elsewhere.append(1 - float(M[:d, :d].square().sum() / M.square().sum()))
    more = {"cells": len(errors), "steeper by": float(np.max(better)), "outside the block": float(np.mean(elsewhere))}
    return Reading(decades(errors), more=more)


@measure("equation_4_3")
def equation_4_3(one: Trained, *, bias: bool = False, sizes: Sizes = ((3, 3), (8, 8)), draws: int = 20) -> Reading:
    r"""Eq. 4.3 for one example: :math:`\Delta y = -\alpha(\|x\|^2 + [\text{bias}])\, T T^\top\nabla_y L`.

    `bias` is that of the released code, which the thesis leaves out.
    """
    errors = []
    for n, _, generator, T, start, x in _cases(one, sizes, draws):
        y = _normal(generator, n)
        slope = 2 * (start @ x - y) / n
        wanted = -ALPHA * (x.square().sum() + bias) * T @ T.T @ slope
        errors.append(gap(_step(_cell(T, start, n, bias=bias), x, y), wanted.numpy()))
    return Reading(decades(errors), more={"cells": len(errors)})


def _cases(
    one: Trained, sizes: Sizes, draws: int
) -> Iterator[tuple[int, int, torch.Generator, Tensor, Tensor, Tensor]]:
    """n, d, the generator, and what it drew: a basis of R^n, A = T W, and an input."""
    generator = torch.Generator().manual_seed(one.seed)
    for n, d in [size for size in sizes for _ in range(draws)]:
        yield n, d, generator, _normal(generator, n, n), _normal(generator, n, 4), _normal(generator, 4)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _cell(T: Tensor, A: Tensor, d: int, bias: bool = False) -> RuleLearner:
    """An MT-net of one cell with A = T W, whose first d rows adapt."""
    layer = nn.Linear(A.shape[1], len(A), bias=bias, dtype=torch.float64)
    learner = mtnet(layer, inner_lr=ALPHA, loss="mse")
    assert isinstance(learner, RuleLearner)
    values = {"metric": T, "weight": torch.linalg.solve(T, A)} | ({"bias": torch.zeros(len(A))} if bias else {})
    learner.head.double().load_state_dict(values)
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
    return np.asarray(moved[0])


def decades(errors: Sequence[float]) -> float:
    """The largest of several errors as log10; NaN where one is, which `max` may pass over.

    >>> decades([0.0, 0.1]), decades([0.0, float("nan")])
    (-1.0, nan)
    """
    worst = float(np.max(errors))
    return log10(max(worst, SMALLEST)) if np.isfinite(worst) else worst
