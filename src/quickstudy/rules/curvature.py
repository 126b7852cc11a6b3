"""Gradients that learned matrices transform along each of their axes."""

import torch

from quickstudy.rules.base import Rate, check_built_for
from quickstudy.rules.descend import Descend
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import dotted_params, parameter_dict
from quickstudy.types import Params, Shape


class Curved(Descend):
    r"""Gradient steps whose gradients are multiplied by a matrix along each axis.

    .. math:: \theta_{k+1} = \theta_k - r_k \odot M(\nabla L_S(\theta_k)), \qquad
              M(G)_{pqr} = \sum_{oif} (M_o)_{po}\, (M_i)_{qi}\, (M_f)_{rf}\; G_{oif}

    o are the outputs of a layer, i its inputs and f the positions of a convolution's kernel, taken together; a linear
    layer has one position. All matrices start as the identity. A bias (and any other vector) has one factor for each
    entry.

    Reference: Park & Oliva, 2019, section 3.2 (https://arxiv.org/abs/1902.03356). It is block-diagonal
    preconditioning, as in K-FAC, with blocks that are learned.

    Args:
        rate: The step sizes r.
        params: The parameters that adapt; names and shapes are used.
        steps: Inner steps in training.
        eval_steps: Inner steps in evaluation; by default as many.
    """

    def __init__(self, rate: Rate, params: Params, steps: int, *, eval_steps: int | None = None) -> None:
        super().__init__(rate, steps, eval_steps=eval_steps)
        self.names = list(params)
        matrices: Params = {}
        for name, p in params.items():
            like = p.detach()
            if p.ndim < 2:
                matrices[f"{name}.factor"] = torch.ones_like(like)
                continue
            for axis, size in zip("oif", (*p.shape[:2], p[0, 0].numel()), strict=True):
                matrices[f"{name}.{axis}"] = torch.eye(size, dtype=like.dtype, device=like.device)
        self.matrices = parameter_dict(matrices)

    def curve(self, gradients: Params) -> Params:
        """M of each gradient."""
        m = dotted_params(self.matrices)
        curved: Params = {}
        for name, g in gradients.items():
            if g.ndim < 2:
                curved[name] = m[f"{name}.factor"] * g
                continue
            product = torch.einsum("oif,po->pif", g.reshape(*g.shape[:2], -1), m[f"{name}.o"])
            product = torch.einsum("pif,qi->pqf", product, m[f"{name}.i"])
            curved[name] = torch.einsum("pqf,rf->pqr", product, m[f"{name}.f"]).reshape(g.shape)
        return curved

    def step(self, params: Params, rate: Params, objective: Objective) -> Params:
        curved = self.curve(objective.gradient(params))
        return {name: p - rate[name] * curved[name] for name, p in params.items()}

    def noise(self, params: Params) -> dict[str, Shape]:
        check_built_for(self.names, params, "A curvature")
        return super().noise(params)
