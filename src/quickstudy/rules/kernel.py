"""The linear system that the closed forms of a linear head share."""

import torch
from torch import Tensor

from quickstudy.types import Params


def solve_in_kernel(features: Tensor, head: Params, damping: Tensor, right: Tensor) -> Params:
    r"""What a closed form adds to a linear head, by name.

    .. math:: \Lambda = Z^T (Z Z^T + \lambda I)^{-1} R

    Z has n rows. Its columns belong to the parameters that adapt: the features to a weight, and a column of ones to a
    bias. The system has n equations, whatever the number of features. It is built and solved in double precision: of
    rounded features (`compute.autocast`), :math:`Z Z^T` in half precision can have negative eigenvalues.

    Args:
        features: The inputs of the head, `[n, ...]`.
        head: The parameters of the head that adapt: a weight `[outputs, features]`, a bias `[outputs]`, or both.
        damping: :math:`\lambda`, one number.
        right: R `[n, outputs]`.
    """
    z = features.flatten(1).double()
    columns = {name: z if p.ndim == 2 else z.new_ones(len(z), 1) for name, p in head.items()}
    design = torch.cat([*columns.values()], 1)
    gram = design @ design.T + damping.double() * torch.eye(len(z), dtype=z.dtype, device=z.device)
    rows = torch.linalg.solve(gram, right.double()).T @ design  # [outputs, columns]
    parts = rows.split([column.shape[1] for column in columns.values()], dim=1)
    return {name: part.reshape(p.shape).to(p.dtype) for (name, p), part in zip(head.items(), parts, strict=True)}
