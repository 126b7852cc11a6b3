"""Small networks as plain modules: any other module works as well.

Each ends in a linear layer called `head`, so that head-only methods find it.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from quickstudy.errors import InputError


def _dense(fan_in: int, fan_out: int, std: float | None) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    if std is not None:
        nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
        nn.init.zeros_(layer.bias)
    return layer


def mlp(
    inputs: int | Sequence[int], outputs: int, *, hidden: Sequence[int] = (40, 40), std: float | None = 0.01
) -> nn.Module:
    """Linear and ReLU layers: the thesis's sine net is `mlp(1, 1)`.

    Args:
        inputs: The size of one x; several axes are flattened.
        outputs: The size of the output.
        hidden: Sizes of the hidden layers.
        std: Weights from a normal cut off at 2 sigma, biases 0 (the papers' .01); None for torch's own start.
    """
    axes = (inputs,) if isinstance(inputs, int) else tuple(inputs)
    fan_in = 1
    for axis in axes:
        fan_in *= axis
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if len(axes) > 1:
        layers["flatten"] = nn.Flatten()
    for i, width in enumerate(hidden):
        layers[f"layer{i}"] = _dense(fan_in, width, std)
        layers[f"relu{i}"] = nn.ReLU()
        fan_in = width
    layers["head"] = _dense(fan_in, outputs, std)
    return nn.Sequential(layers)


NORMS = ("batch", "center", "layer", "group", "none")


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels, track_running_stats=False)
    if kind == "center":  # a bias and no scale, as in the thesis's convolutional net; its epsilon is 1e-3
        norm = nn.BatchNorm2d(channels, eps=1e-3, track_running_stats=False)
        norm.weight.requires_grad_(False)
        return norm
    if kind == "layer":
        return nn.GroupNorm(1, channels)
    if kind == "group":
        return nn.GroupNorm(min(8, channels), channels)
    return nn.Identity()


def conv_net(
    inputs: Sequence[int], outputs: int, *, filters: int = 64, blocks: int = 4, norm: str = "batch"
) -> nn.Module:
    """Blocks of 3x3 convolution, norm, ReLU and 2x2 max-pooling, then a linear head on the flattened features.

    Args:
        inputs: `(channels, height, width)` of one image.
        outputs: The ways.
        filters: Channels of every block.
        blocks: Each halves the image; one that would leave nothing is refused.
        norm: "batch", "center" (batch norm with a bias and no scale), "layer", "group" or "none".
    """
    if len(inputs) != 3:
        raise InputError(f"A convolutional net needs inputs (channels, height, width), not {tuple(inputs)}. Try `mlp`.")
    if norm not in NORMS:
        raise InputError(f"There is no norm {norm!r}. Norms are: {', '.join(NORMS)}.")
    channels, height, width = inputs
    if min(height, width) < 2**blocks:
        raise InputError(
            f"{blocks} blocks halve a {height}x{width} image to nothing. Use at most "
            f"{min(height, width).bit_length() - 1} blocks for images of this size."
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(blocks):
        conv = nn.Conv2d(channels, filters, 3, padding=1)
        nn.init.normal_(conv.weight, std=(2 / (9 * filters)) ** 0.5)
        layers[f"block{i}"] = nn.Sequential(
            OrderedDict(conv=conv, norm=_norm(norm, filters), relu=nn.ReLU(), pool=nn.MaxPool2d(2))
        )
        channels, height, width = filters, height // 2, width // 2
    layers["flatten"] = nn.Flatten()
    head = nn.Linear(channels * height * width, outputs)
    nn.init.zeros_(head.bias)
    layers["head"] = head
    return nn.Sequential(layers)


def linear(inputs: int | Sequence[int], outputs: int, *, std: float | None = None) -> nn.Module:
    """One linear layer: the papers' two-dimensional and average-threshold toys."""
    return mlp(inputs, outputs, hidden=(), std=std)


NETS = {f.__name__: f for f in (mlp, conv_net, linear)}
