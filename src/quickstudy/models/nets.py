"""Small networks as plain modules: any other module works as well.

Each ends in a linear layer called `head`, so that head-only methods find it.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

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


DOWN = ("pool", "stride")
READOUT = ("flatten", "mean")
INIT = ("fan_out", "xavier")


def _image(inputs: Sequence[int], smallest: int, what: str, advice: str = "") -> tuple[int, int, int]:
    """Channels, height and width; refused unless they are three and large enough."""
    if len(inputs) != 3:
        raise InputError(f"A convolutional net needs inputs (channels, height, width), not {tuple(inputs)}. Try `mlp`.")
    channels, height, width = inputs
    if min(height, width) < smallest:
        raise InputError(
            f"{what} an image of {height}x{width} to nothing. "
            f"It works from {smallest}x{smallest} on{advice and ', or '}{advice}."
        )
    return channels, height, width


def _conv(channels: int, filters: int, init: str, stride: int) -> nn.Conv2d:
    # With a stride of 2, TensorFlow's SAME pads an even image on the right and bottom only; padding=1 pads both sides
    # and leaves that last edge unread, so its windows sit one pixel further left and up. Odd images agree, and so do
    # all sizes: n -> ceil(n / 2). It is SAME in a mirror: images and kernels turned by 180 degrees give its features.
    conv = nn.Conv2d(channels, filters, 3, stride=stride, padding=1)
    if init == "xavier":
        nn.init.xavier_uniform_(conv.weight)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
    else:
        nn.init.normal_(conv.weight, std=(2 / (9 * filters)) ** 0.5)
    return conv


def conv_net(
    inputs: Sequence[int],
    outputs: int,
    *,
    filters: int = 64,
    blocks: int = 4,
    norm: str = "batch",
    down: str = "pool",
    readout: str = "flatten",
    init: str = "fan_out",
    head_std: float | None = None,
) -> nn.Module:
    """Blocks of 3x3 convolution, norm and ReLU, each halving the image, then a linear head on the features.

    Args:
        inputs: `(channels, height, width)` of one image.
        outputs: The ways.
        filters: Channels of every block.
        blocks: Each halves the image; one that would leave nothing is refused.
        norm: "batch", "center" (batch norm with a bias and no scale), "layer", "group" or "none".
        down: How a block halves: "pool" (2x2 maximum, odd edges dropped) or "stride" (of the
            convolution, odd edges kept).
        readout: Features: "flatten" (every place of the last map) or "mean" (over places: one number per filter).
        init: Kernels: "fan_out" (normal, variance 2 / (9 filters), torch's own biases) or "xavier" (uniform, biases 0;
            the head too).
        head_std: The head's weights from a normal of this deviation instead.
    """
    for name, value, known in (
        ("norm", norm, NORMS),
        ("down", down, DOWN),
        ("readout", readout, READOUT),
        ("init", init, INIT),
    ):
        if value not in known:
            raise InputError(f"There is no {name} {value!r}. Choices of `{name}` are: {', '.join(known)}.")
    fewer = f"with at most {max(0, min(inputs[-2:], default=0).bit_length() - 1)} blocks for images of this size"
    smallest = 2**blocks if down == "pool" else 1  # a stride rounds up, so it never comes to nothing
    channels, height, width = _image(inputs, smallest, f"{blocks} blocks halve", fewer)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(blocks):
        conv = _conv(channels, filters, init, stride=2 if down == "stride" else 1)
        parts = OrderedDict(conv=conv, norm=_norm(norm, filters))
        if down == "pool":
            parts["pool"] = nn.MaxPool2d(2)
        parts["relu"] = nn.ReLU()  # after the maximum it gives the same numbers, on a quarter of the places
        layers[f"block{i}"] = nn.Sequential(parts)
        up = 0 if down == "pool" else 1
        channels, height, width = filters, (height + up) // 2, (width + up) // 2
    if readout == "mean":
        layers["mean"] = nn.AdaptiveAvgPool2d(1)
        height = width = 1
    layers["flatten"] = nn.Flatten()
    head = nn.Linear(channels * height * width, outputs)
    if head_std is not None:
        nn.init.normal_(head.weight, std=head_std)
    elif init == "xavier":
        nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.bias)
    layers["head"] = head
    return nn.Sequential(layers)


def conv4(inputs: Sequence[int], outputs: int, *, filters: int = 64, norm: str = "batch") -> nn.Module:
    """Conv4 as CloserLook and HyperMAML have it: flattened, 1600 features from 84x84 and 64 from 28x28.

    Reference: Chen et al., 2019 (https://arxiv.org/abs/1904.04232); HyperMAML, https://arxiv.org/abs/2205.15745.

    Args:
        inputs: `(channels, height, width)` of one image.
        outputs: The ways.
        filters: Channels of every block.
        norm: As in `conv_net`.
    """
    return conv_net(inputs, outputs, filters=filters, norm=norm)


def conv4_pool(inputs: Sequence[int], outputs: int, *, filters: int = 64, norm: str = "batch") -> nn.Module:
    """Conv4Pool, which HyperMAML's code trains on CUB and mini-ImageNet: Conv4 with a global average, 64 features.

    Args:
        inputs: `(channels, height, width)` of one image.
        outputs: The ways.
        filters: Channels of every block.
        norm: As in `conv_net`.
    """
    return conv_net(inputs, outputs, filters=filters, norm=norm, readout="mean")


def conv4_omniglot(inputs: Sequence[int], outputs: int, *, filters: int = 64, norm: str = "center") -> nn.Module:
    """MAML's and the T-net thesis's Omniglot net: strides instead of pooling (28, 14, 7, 4, 2) and a spatial mean.

    Kernels are Xavier uniform and the head's weights N(0, 1), as in the released code of both; norms have a bias only.
    Reference: Finn, Abbeel & Levine, 2017, section 5.2 (https://arxiv.org/abs/1703.03400); Lee, 2018 (thesis).

    Args:
        inputs: `(channels, height, width)` of one image.
        outputs: The ways.
        filters: Channels of every block.
        norm: As in `conv_net`.
    """
    return conv_net(
        inputs, outputs, filters=filters, norm=norm, down="stride", readout="mean", init="xavier", head_std=1.0
    )


def conv4_mini(inputs: Sequence[int], outputs: int, *, filters: int = 32, norm: str = "center") -> nn.Module:
    """MAML's and the T-net thesis's mini-ImageNet net: 32 filters and pooling; 800 features from 84x84.

    Reference: as for `conv4_omniglot`.

    Args:
        inputs: `(channels, height, width)` of one image.
        outputs: The ways.
        filters: Channels of every block.
        norm: As in `conv_net`.
    """
    return conv_net(inputs, outputs, filters=filters, norm=norm, init="xavier")


class _Residual(nn.Module):
    """Three convolutions beside a 1x1 one; the sum is rectified and halved."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for i, fan_in in enumerate((channels, width, width)):
            self.layers.add_module(f"conv{i}", nn.Conv2d(fan_in, width, 3, padding=1, bias=False))
            self.layers.add_module(f"norm{i}", _norm("batch", width))
            if i < 2:
                self.layers.add_module(f"relu{i}", nn.LeakyReLU(0.1))
        self.shortcut = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(channels, width, 1, bias=False), norm=_norm("batch", width))
        )
        self.relu = nn.LeakyReLU(0.1)
        self.pool = nn.MaxPool2d(2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.pool(self.relu(self.layers(x) + self.shortcut(x)))
        return halved


def resnet12(
    inputs: Sequence[int], outputs: int, *, widths: Sequence[int] = (64, 160, 320, 640), readout: str = "mean"
) -> nn.Module:
    """ResNet-12: four residual blocks of three 3x3 convolutions, batch norm and leaky ReLU.

    The blocks are MetaOptNet's (Lee et al., 2019, https://arxiv.org/abs/1904.03758), whose code flattens the last map
    (16 000 features of 84x84); FEAT (https://arxiv.org/abs/1812.03664) averages it (640). Drop-block is left out: its
    rate follows the training step, which no module here knows.

    Args:
        inputs: `(channels, height, width)` of one image.
        outputs: The ways.
        widths: Channels of each block; each halves the image.
        readout: Features: "mean" (over places: one number per channel) or "flatten" (every place of the last map).
    """
    if readout not in READOUT:
        raise InputError(f"There is no readout {readout!r}. Choices of `readout` are: {', '.join(READOUT)}.")
    channels, height, across = _image(inputs, 2 ** len(widths), f"{len(widths)} residual blocks halve")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, width in enumerate(widths):
        layers[f"block{i}"] = _Residual(channels, width)
        channels = width
    places = (height >> len(widths)) * (across >> len(widths))
    if readout == "mean":
        layers["mean"] = nn.AdaptiveAvgPool2d(1)
        places = 1
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(channels * places, outputs)
    return nn.Sequential(layers)


def lenet(
    inputs: Sequence[int], outputs: int, *, channels: Sequence[int] = (6, 16), hidden: int = 120, padding: int = 0
) -> nn.Module:
    """Wormhole MAML's MNIST net (section 4.3): 5x5 convolution, ReLU and 2x2 max-pooling, twice; two linear layers.

    The paper names no sizes; these are LeNet-5's (LeCun et al., 1998) up to its first linear layer.

    Args:
        inputs: `(channels, height, width)` of one image.
        outputs: The ways.
        channels: Channels of each convolution.
        hidden: Size of the layer before the head.
        padding: Around each convolution; 2 keeps the size, so that images below 16x16 work.
    """
    smallest = 1
    for _ in channels:
        smallest = max(1, 2 * smallest + 4 - 2 * padding)
    fan_in, height, width = _image(inputs, smallest, "Convolutions of 5x5 and pooling shrink", "with more `padding`")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, filters in enumerate(channels):
        conv = nn.Conv2d(fan_in, filters, 5, padding=padding)
        layers[f"block{i}"] = nn.Sequential(OrderedDict(conv=conv, relu=nn.ReLU(), pool=nn.MaxPool2d(2)))
        fan_in, height, width = filters, (height + 2 * padding - 4) // 2, (width + 2 * padding - 4) // 2
    layers["flatten"] = nn.Flatten()
    layers["hidden"] = nn.Linear(fan_in * height * width, hidden)
    layers["relu"] = nn.ReLU()
    layers["head"] = nn.Linear(hidden, outputs)
    return nn.Sequential(layers)


def linear(inputs: int | Sequence[int], outputs: int, *, std: float | None = None) -> nn.Module:
    """One linear layer: the papers' two-dimensional and average-threshold toys."""
    return mlp(inputs, outputs, hidden=(), std=std)


NETS = {f.__name__: f for f in (mlp, conv_net, linear, conv4, conv4_pool, conv4_omniglot, conv4_mini, resnet12, lenet)}
