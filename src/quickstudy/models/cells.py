r"""T-net's cells: layers with T W in place of W.

.. math:: y = T (W x + b)

T is a metric that only meta-training changes; a task adapts W and b. T starts as the identity, is applied before the
norm and the nonlinearity, and the output layer has one too. Both maps are linear, so the weight is :math:`T W` and the
bias :math:`T b`: a product of two small matrices instead of a 1x1 convolution.

Reference: Lee, 2018 (thesis), eq. 3.1-3.5; ICML version: Lee & Choi, https://arxiv.org/abs/1801.05558. The thesis has
no bias; in the released code, T multiplies it, as here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from quickstudy.engine.twin import copy_module
from quickstudy.errors import InputError
from quickstudy.models.surgery import change_class, leave_fast_paths, refuse_parameter_hooks
from quickstudy.rules.params import check_module
from quickstudy.rules.torch_private import convolve


class MetricLinear(nn.Linear):
    """A linear layer with one more parameter, `metric [out, out]`."""

    any_layout = True
    metric: Tensor

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.metric @ self.bias
        return F.linear(input, self.metric @ self.weight, bias)


class MetricConv2d(nn.Conv2d):
    """A convolution followed by a 1x1 convolution with `metric [out, out]`."""

    any_layout = True
    metric: Tensor

    def forward(self, input: Tensor) -> Tensor:
        if self.groups > 1:  # T mixes the groups, so T W is no grouped kernel
            y = convolve(self, input, self.weight, self.bias)
            return F.conv2d(y, self.metric[:, :, None, None])
        bias = None if self.bias is None else self.metric @ self.bias
        weight = (self.metric @ self.weight.flatten(1)).reshape(self.weight.shape)
        return convolve(self, input, weight, bias)


own_conv = nn.Conv2d._conv_forward
"""What the forward of a Conv2d calls, and a subclass may replace."""


def is_plain(module: nn.Module) -> bool:
    """Whether a module is a Linear or Conv2d whose forward is that of its class, with a weight of its own.

    A subclass may compute something else, such as cosines. A computed weight (weight norm and other parametrizations)
    is no weight of its own.
    """
    plain = type(module).forward in (nn.Linear.forward, nn.Conv2d.forward, MetricLinear.forward, MetricConv2d.forward)
    if "forward" in module.__dict__ or getattr(type(module), "_conv_forward", own_conv) is not own_conv:
        return False
    return plain and isinstance(getattr(module, "weight", None), nn.Parameter) and not is_parametrized(module)


def is_cell(module: nn.Module, *, parent: nn.Module | None = None) -> bool:
    """Whether a module is a Linear or Conv2d that trains its weight and uses it in its own forward.

    The projection inside an attention layer does not count: the attention reads that weight itself.
    """
    weight = getattr(module, "weight", None)
    trains = isinstance(weight, nn.Parameter) and weight.requires_grad
    return trains and is_plain(module) and not isinstance(parent, nn.MultiheadAttention)


def find_cells(model: nn.Module) -> list[nn.Module]:
    """The Linear and Conv2d layers of a model that can be T W cells; each is listed once."""
    found: dict[int, nn.Module] = {id(model): model} if is_cell(model) else {}
    for parent in model.modules():
        for child in parent.children():
            if is_cell(child, parent=parent):
                found[id(child)] = child
    return list(found.values())


def with_metric(model: nn.Module) -> nn.Module:
    """A copy of `model` in which every Linear and Conv2d that trains is a T W cell; parameters keep their names.

    T has no effect where other code than the layer's forward reads the weight (`F.linear(x, self.fc.weight)`).
    """
    refuse_parameter_hooks(model)
    model = copy_module(model)
    cells = find_cells(model)
    for cell in cells:
        if isinstance(cell, MetricLinear | MetricConv2d):  # its T stays, as it was trained
            continue
        if hasattr(cell, "metric"):
            raise InputError(
                f"A {type(cell).__name__} has an attribute `metric` of its own, which is the name of T in a T-net. "
                "Give it another name."
            )
        change_class(cell, MetricLinear if isinstance(cell, nn.Linear) else MetricConv2d)
        rows = cell.weight
        assert isinstance(rows, Tensor)
        cell.register_parameter("metric", nn.Parameter(torch.eye(len(rows), dtype=rows.dtype, device=rows.device)))
    if not cells:
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
        raise InputError(f"A T-net needs Linear or Conv2d layers that train; this model has none, only: {kinds}.")
    leave_fast_paths(model)  # which read W without T
    return model


def cell_param_names(model: nn.Module) -> list[str]:
    """The names of W and b in every Linear and Conv2d, with a metric or without: what a T-net or M-net adapts.

    Tied parameters are listed once, under their first name.
    """
    check_module(model)
    inside = {
        id(parameter)
        for module in find_cells(model)
        for name, parameter in module.named_parameters(recurse=False)
        if name != "metric"
    }
    return [name for name, p in model.named_parameters() if id(p) in inside and p.requires_grad]
