"""The one net that HyperMAML's tables need beside those that ship: the maps that a relation module reads."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


def conv4_unpooled(inputs: Sequence[int], outputs: int, *, filters: int = 64) -> nn.Module:
    """Conv4 whose last two blocks do not pool, and whose first two do not pad: 19x19 maps from 84x84, 5x5 from 28x28.

    Reference: Chen et al., 2019, Conv4NP and Conv4SNP in backbone.py (wyharveychen/CloserLookFewShot).
    """
    channels, height, width = inputs
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(4):
        pooled = i < 2
        conv = nn.Conv2d(channels, filters, 3, padding=0 if pooled else 1)
        nn.init.normal_(conv.weight, std=(2 / (9 * filters)) ** 0.5)
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv=conv, norm=nn.BatchNorm2d(filters, track_running_stats=False)
        )
        if pooled:
            parts["pool"] = nn.MaxPool2d(2)
            height, width = (height - 2) // 2, (width - 2) // 2
        parts["relu"] = nn.ReLU()
        layers[f"block{i}"] = nn.Sequential(parts)
        channels = filters
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(filters * height * width, outputs)
    return nn.Sequential(layers)
