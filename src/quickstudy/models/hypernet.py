r"""HyperMAML's hypernetwork: from the support examples of a class to the update of that class's row of the head.

.. math:: (\Delta W_c, \Delta b_c) = H\Big(\tfrac{1}{K} \sum_{i: y_i = c} [e_i, p_i, y_i]\Big)

with K shots, features :math:`e_i`, the head's guesses :math:`p_i` and labels :math:`y_i`. One MLP serves all classes,
so the network does not grow with the ways. It reads guesses and labels by their position, so it is not symmetric under
a renaming of the classes.
"""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from quickstudy.errors import InputError, check_count
from quickstudy.rules.criteria import check_class_numbers, one_hot
from quickstudy.types import Params


class ClassHypernet(nn.Module):
    """An MLP from the mean of a class's support examples to its row of a linear head.

    Reference: Przewiezlikowski et al., 2022, section 3.3 and appendix E.1 (https://arxiv.org/abs/2205.15745).

    Args:
        head: The linear head whose update is emitted: `weight [ways, features]` and `bias [ways]`, or the one of them
            that adapts.
        width: The hidden size (256 or 512 in the paper).
        hidden_layers: One to three. The paper counts linear layers: its depth of 3 is 2 here.
        enhance: Whether the input contains the head's guesses beside features and label.
        labels: "one_hot" (the paper's text) or "index" (the released code: one column with the class number).
    """

    any_layout = True

    def __init__(
        self, head: Params, *, width: int = 256, hidden_layers: int = 2, enhance: bool = True, labels: str = "one_hot"
    ) -> None:
        super().__init__()
        width = check_count("width", width)
        if labels not in ("one_hot", "index"):
            raise InputError(f"`labels` are 'one_hot' or 'index', not {labels!r}.")
        if not 1 <= hidden_layers <= 3:
            raise InputError(f"`hidden_layers` was {hidden_layers}; the hypernetwork takes 1 to 3.")
        weights = [p for p in head.values() if p.ndim == 2]
        if len(weights) != 1 or any(len(p) != len(weights[0]) or p.ndim > 2 for p in head.values()):
            raise InputError(
                "The hypernetwork emits the rows of one linear head: a weight [ways, features] and its bias [ways]. "
                f"It was given {', '.join(f'{name} {list(p.shape)}' for name, p in head.items())}. "
                "Name the model's last linear layer as `head`."
            )
        (weight,) = weights
        self.ways, features = weight.shape
        self.columns = {name: features if p.ndim == 2 else 1 for name, p in head.items()}
        self.flat = {name for name, p in head.items() if p.ndim == 1}
        self.enhance = enhance
        self.labels = labels
        sizes = [features + (self.ways if enhance else 0) + (self.ways if labels == "one_hot" else 1)]
        sizes += [width] * hidden_layers + [sum(self.columns.values())]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out, dtype=weight.dtype, device=weight.device), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Float[Tensor, "n features"], guess: Float[Tensor, "n ways"], y: Int[Tensor, "n"]) -> Params:
        """The update of the head, by parameter name."""
        check_class_numbers(y)
        member = one_hot(y, self.ways, x)
        label = member if self.labels == "one_hot" else y.to(x.dtype)[:, None]
        rows = torch.cat([x, guess, label] if self.enhance else [x, label], dim=-1)
        # The mean over the shots of each class, [ways, columns]; a class without examples has a row of zeros.
        summary = member.T @ rows / member.sum(0).clamp(min=1)[:, None]
        parts = self.layers(summary).split(list(self.columns.values()), dim=-1)
        named = zip(self.columns, parts, strict=True)
        return {name: part.squeeze(-1) if name in self.flat else part for name, part in named}
