r"""T-net's cells: a layer that is T W instead of W.

.. math:: y = T (W x + b)

T is a metric that the meta-learner shapes and a task leaves alone; only W and b adapt. T starts as the identity, sits
before the norm and the nonlinearity, and is there on the output layer too. Since both maps are linear, T is folded
into the weight: :math:`(T W) x + T b`, which costs a product of two small matrices instead of a 1x1 convolution.

Reference: Lee & Choi, 2018, eq. 3.1-3.5 (https://arxiv.org/abs/1801.05558). The paper leaves the bias out; the released
code has it inside W's side of T, as here.
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.norms import replace_modules, with_class


class MetricLinear(nn.Linear):
    """A linear layer with one more parameter, `metric [out, out]`."""

    metric: Tensor

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.metric @ self.bias
        return F.linear(input, self.metric @ self.weight, bias)


class MetricConv2d(nn.Conv2d):
    """A convolution followed by a 1x1 convolution with `metric [out, out]`."""

    metric: Tensor

    def forward(self, input: Tensor) -> Tensor:
        if self.groups > 1:  # T mixes the groups, so it cannot be folded into a grouped kernel
            y: Tensor = self._conv_forward(input, self.weight, self.bias)
            return F.conv2d(y, self.metric[:, :, None, None])
        bias = None if self.bias is None else self.metric @ self.bias
        weight = (self.metric @ self.weight.flatten(1)).reshape(self.weight.shape)
        output: Tensor = self._conv_forward(input, weight, bias)
        return output


METRIC: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: MetricLinear, nn.Conv2d: MetricConv2d}


def with_metric(model: nn.Module) -> nn.Module:
    """A copy of `model` in which every Linear and Conv2d is a T W cell; `weight` and `bias` keep their names.

    Subclasses of Linear and Conv2d with a forward of their own are left alone.
    """
    model = deepcopy(model)
    replace: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        if kind := METRIC.get(type(module)):
            cell = with_class(module, kind)
            rows = module.weight
            assert isinstance(rows, Tensor)
            cell.register_parameter("metric", nn.Parameter(torch.eye(len(rows), dtype=rows.dtype, device=rows.device)))
            replace[module] = cell
    if not replace:
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
        raise InputError(f"A T-net needs Linear or Conv2d layers; this model has none. It is made of: {kinds}.")
    return replace_modules(model, replace)


def cell_params(model: nn.Module) -> list[str]:
    """The names of W and b in every Linear and Conv2d, with a metric or without: what a T-net or M-net adapts.

    Tied parameters count once, under their first name.
    """
    kinds = (*METRIC, *METRIC.values())
    inside = {
        id(parameter)
        for module in model.modules()
        if type(module) in kinds
        for name, parameter in module.named_parameters(recurse=False)
        if name != "metric"
    }
    return [name for name, p in model.named_parameters() if id(p) in inside and p.requires_grad]
