r"""Warp layers: a map behind each linear layer that meta-training changes and a task does not.

.. math:: y = \omega(h), \qquad \omega(h) = T h + B\,\mathrm{relu}(A h), \qquad h = W x + b

T `[out, out]` starts as the identity, A `[units, out]` at random and B `[out, units]` as zero, so a new warp is the
identity. Without units it is T alone: the T W cells of a T-net (`models.cells`).

Reference: Flennerhag et al., 2020, section 2.2 (https://arxiv.org/abs/1909.00025). The paper leaves the form of a warp
layer open; this one acts on the outputs of a layer as a T does, at every position of a map.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.models.cells import MetricConv2d, MetricLinear, with_metric
from quickstudy.models.surgery import change_class
from quickstudy.rules.torch_private import convolve


class WarpLinear(MetricLinear):
    """A linear layer with a warp: parameters `metric` (T), `warp_in` (A) and `warp_out` (B) beside its own."""

    any_layout = True
    warp_in: Tensor
    warp_out: Tensor

    def forward(self, input: Tensor) -> Tensor:
        h = F.linear(input, self.weight, self.bias)
        return F.linear(h, self.metric) + F.linear(F.linear(h, self.warp_in).relu(), self.warp_out)


class WarpConv2d(MetricConv2d):
    """A convolution with a warp of its channels: parameters as in `WarpLinear`."""

    any_layout = True
    warp_in: Tensor
    warp_out: Tensor

    def forward(self, input: Tensor) -> Tensor:
        h = convolve(self, input, self.weight, self.bias)
        metric, into, out = (matrix[:, :, None, None] for matrix in (self.metric, self.warp_in, self.warp_out))
        return F.conv2d(h, metric) + F.conv2d(F.conv2d(h, into).relu(), out)


def with_warp(model: nn.Module, units: int) -> nn.Module:
    """A copy of `model` in which a warp follows every Linear and Conv2d that trains; parameters keep their names."""
    if units < 0:
        raise InputError(f"`units` was {units}; it counts the hidden units of a warp layer, so 0 or more.")
    cells = with_metric(model)
    for module in cells.modules() if units else ():
        if isinstance(module, MetricLinear | MetricConv2d) and not isinstance(module, WarpLinear | WarpConv2d):
            metric = module.metric.detach()
            change_class(module, WarpLinear if isinstance(module, MetricLinear) else WarpConv2d)
            outputs = len(metric)
            first = metric.new_empty(units, outputs).normal_() / outputs**0.5
            module.register_parameter("warp_in", nn.Parameter(first))
            module.register_parameter("warp_out", nn.Parameter(metric.new_zeros(outputs, units)))
    return cells
