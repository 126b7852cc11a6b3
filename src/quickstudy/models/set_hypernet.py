r"""A hypernetwork for tasks of any kind: from a summary of the whole support set to an update of any parameters.

.. math:: H(S) = \rho\Big(\tfrac{1}{n} \sum_i \psi(x_i, p_i, y_i)\Big)

with inputs or features :math:`x_i`, the model's guesses :math:`p_i` and targets :math:`y_i` of the n support examples.
The mean does not depend on the order of the examples, and takes any number of them. Nor does it depend on n: examples
given twice have the same summary.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from quickstudy.errors import InputError, check_count
from quickstudy.rules.criteria import one_hot
from quickstudy.types import Params


class SetHypernet(nn.Module):
    """Two MLPs with a mean between them.

    References: Zaheer et al., 2017, "Deep Sets", theorem 2 (https://arxiv.org/abs/1703.06114): with a sum in the place
    of the mean, every function of a set has this form; a mean does not see how many examples there are. Garnelo et
    al., 2018, "Conditional Neural Processes" (https://arxiv.org/abs/1807.01613) summarise a support set so, and feed
    the summary to one shared network instead of writing its parameters.

    Args:
        params: What is emitted; names and shapes are used. The first update is small.
        inputs: The size of x, flattened.
        outputs: The size of a guess and of a target: the classes, if targets are class numbers.
        width: The size of the summary and of the hidden layers.
        enhance: Whether the guesses are read beside x and y.
    """

    any_layout = True

    def __init__(self, params: Params, inputs: int, outputs: int, *, width: int = 64, enhance: bool = True) -> None:
        super().__init__()
        width = check_count("width", width)
        like = next(iter(params.values()))
        self.shapes = {name: tuple(p.shape) for name, p in params.items()}
        self.sizes = [p.numel() for p in params.values()]
        self.outputs = outputs
        self.enhance = enhance

        def layer(fan_in: int, fan_out: int) -> nn.Linear:
            return nn.Linear(fan_in, fan_out, dtype=like.dtype, device=like.device)

        last = layer(width, sum(self.sizes))
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
        self.psi = nn.Sequential(layer(inputs + (2 if enhance else 1) * outputs, width), nn.ReLU(), layer(width, width))
        self.rho = nn.Sequential(nn.ReLU(), layer(width, width), nn.ReLU(), last)

    def forward(
        self, x: Float[Tensor, "n inputs"], guess: Float[Tensor, "n outputs"], y: Shaped[Tensor, "n ..."]
    ) -> Params:
        """The update, by parameter name."""
        target = y.reshape(len(x), -1) if y.is_floating_point() else one_hot(y, self.outputs, x)
        if target.shape[-1] != self.outputs:
            raise InputError(
                f"The hypernetwork was made for targets of {self.outputs} numbers, or class numbers below that, and "
                f"given are {target.shape[-1]}. Give targets as the model's outputs have them: y [n, {self.outputs}]."
            )
        rows = torch.cat([x, guess, target] if self.enhance else [x, target], dim=-1)
        first = self.psi[0].weight
        assert isinstance(first, Tensor)
        parts = self.rho(self.psi(rows.to(first.dtype)).mean(0)).split(self.sizes)
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
