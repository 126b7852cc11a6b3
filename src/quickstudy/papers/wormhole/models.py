"""The one model that Wormhole MAML's figures need beside those that ship."""

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

from torch import nn


def weights_only(inputs: Sequence[int], outputs: int, *, low: float, high: float) -> nn.Module:
    """One linear layer without a bias, started uniformly between `low` and `high`: figure 5's w begins in U[-2, 3]."""
    layer = nn.Linear(prod(inputs), outputs, bias=False)
    nn.init.uniform_(layer.weight, low, high)
    return nn.Sequential(OrderedDict(head=layer))
