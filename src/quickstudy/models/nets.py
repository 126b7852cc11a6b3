"""Small networks as plain modules; any other module works as well.

Each ends in a linear layer with the name `head`, so that methods that adapt the head find it.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from quickstudy.errors import InputError


def _linear_layer(fan_in: int, fan_out: int, std: float | None) -> nn.Linear:
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
        std: The deviation of the weights, normal and cut off at 2 sigma, with biases 0 (0.01 in the papers); None for
            torch's own initial values.
    """
    axes = (inputs,) if isinstance(inputs, int) else tuple(inputs)
    fan_in = 1
    for axis in axes:
        fan_in *= axis
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if len(axes) > 1:
        layers["flatten"] = nn.Flatten()
    for i, width in enumerate(hidden):
        layers[f"layer{i}"] = _linear_layer(fan_in, width, std)
        layers[f"relu{i}"] = nn.ReLU()
        fan_in = width
    layers["head"] = _linear_layer(fan_in, outputs, std)
    return nn.Sequential(layers)


NORM_KINDS = ("batch", "center", "layer", "group", "none")


def _norm_layer(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels, track_running_stats=False)
    if kind == "center":  # a bias and no scale, and an epsilon of 1e-3, as in the thesis's convolutional net
        norm = nn.BatchNorm2d(channels, eps=1e-3, track_running_stats=False)
        norm.weight.requires_grad_(False)
        return norm
    if kind == "layer":
        return nn.GroupNorm(1, channels)
    if kind == "group":
        return nn.GroupNorm(min(8, channels), channels)
    return nn.Identity()


DOWNSAMPLINGS = ("pool", "stride")
READOUTS = ("flatten", "mean")
INITS = ("fan_out", "xavier")
MAX_BLOCKS = 64
"""Of a `conv_net`. A larger number is a slip, and would fill the memory before anything else is said."""


def _check_image(inputs: Sequence[int], smallest: int, what: str, advice: str = "") -> tuple[int, int, int]:
    """Channels, height and width; an error unless they are three and large enough."""
    if len(inputs) != 3:
        raise InputError(f"A convolutional net needs inputs (channels, height, width), not {tuple(inputs)}. Try `mlp`.")
    channels, height, width = inputs
    if min(height, width) < smallest:
        raise InputError(
            f"{what} an image of {height}x{width} to nothing. "
            f"It works from {smallest}x{smallest} on{advice and ', or '}{advice}."
        )
    return channels, height, width


def _conv_layer(channels: int, filters: int, init: str, stride: int) -> nn.Conv2d:
    # With a stride of 2, TensorFlow's SAME pads an even image on the right and at the bottom only. padding=1 pads all
    # sides and does not read the last ones, so its windows are one pixel further left and up. Output sizes are the
    # same, ceil(n / 2), and so is the output for odd images. For even ones it is SAME on images and kernels turned by
    # 180 degrees.
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
    filters: int | Sequence[int] = 64,
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
        filters: Channels of every block, or of each: `[32, 64, 88, 64]`.
        blocks: Each halves the image; more than the image allows are an error.
        norm: "batch", "center" (batch norm with a bias and no scale), "layer", "group" or "none".
        down: How a block halves the image: "pool" (2x2 maximum; an odd edge is left out) or "stride" (of the
            convolution; an odd edge is read).
        readout: The features: "flatten" (all positions of the last map) or "mean" (over positions, one per filter).
        init: Initial kernels: "fan_out" (normal, variance 2 / (9 filters), torch's own biases) or "xavier" (uniform,
            biases 0; the head too).
        head_std: The deviation of the head's initial weights, if they are to be normal.
    """
    for name, value, known in (
        ("norm", norm, NORM_KINDS),
        ("down", down, DOWNSAMPLINGS),
        ("readout", readout, READOUTS),
        ("init", init, INITS),
    ):
        if value not in known:
            raise InputError(f"There is no {name} {value!r}. Choices of `{name}` are: {', '.join(known)}.")
    if not 0 <= blocks <= MAX_BLOCKS:
        raise InputError(f"`blocks` was {blocks}; give at most {MAX_BLOCKS}, and 0 or more.")
    counts = list(filters) if isinstance(filters, Sequence) else [filters] * blocks
    if len(counts) != blocks:
        raise InputError(
            f"`filters` has {len(counts)} numbers, and there are {blocks} blocks. Give one number for all blocks, or "
            "one for each."
        )
    if any(count < 1 for count in counts):
        raise InputError(f"`filters` was {filters}; a block has 1 filter or more.")
    fewer = f"with at most {max(0, min(inputs[-2:], default=0).bit_length() - 1)} blocks for images of this size"
    smallest = 2**blocks if down == "pool" else 1  # a stride rounds up, so one pixel always remains
    channels, height, width = _check_image(inputs, smallest, f"{blocks} blocks halve", fewer)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, count in enumerate(counts):
        conv = _conv_layer(channels, count, init, stride=2 if down == "stride" else 1)
        parts = OrderedDict(conv=conv, norm=_norm_layer(norm, count))
        if down == "pool":
            parts["pool"] = nn.MaxPool2d(2)
        parts["relu"] = nn.ReLU()  # after the maximum: the same values from a quarter of the positions
        layers[f"block{i}"] = nn.Sequential(parts)
        up = 0 if down == "pool" else 1
        channels, height, width = count, (height + up) // 2, (width + up) // 2
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
    """Conv4 of CloserLook and HyperMAML: flattened, 1600 features from 84x84 and 64 from 28x28.

    Reference: Chen et al., 2019 (https://arxiv.org/abs/1904.04232); HyperMAML, https://arxiv.org/abs/2205.15745.

    Args:
        inputs: `(channels, height, width)` of one image.
        outputs: The ways.
        filters: Channels of every block.
        norm: As in `conv_net`.
    """
    return conv_net(inputs, outputs, filters=filters, norm=norm)


def conv4_pool(inputs: Sequence[int], outputs: int, *, filters: int = 64, norm: str = "batch") -> nn.Module:
    """Conv4Pool of HyperMAML's code for CUB and mini-ImageNet: Conv4 with a global average, 64 features.

    Args:
        inputs: `(channels, height, width)` of one image.
        outputs: The ways.
        filters: Channels of every block.
        norm: As in `conv_net`.
    """
    return conv_net(inputs, outputs, filters=filters, norm=norm, readout="mean")


def conv4_omniglot(inputs: Sequence[int], outputs: int, *, filters: int = 64, norm: str = "center") -> nn.Module:
    """The Omniglot net of MAML and of the T-net thesis: strides instead of pooling (28, 14, 7, 4, 2), a spatial mean.

    Kernels start Xavier uniform and the head's weights N(0, 1), as in the released code of both. Norms have no scale.
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
    """The mini-ImageNet net of MAML and of the T-net thesis: 32 filters and pooling; 800 features from 84x84.

    Reference: as for `conv4_omniglot`.

    Args:
        inputs: `(channels, height, width)` of one image.
        outputs: The ways.
        filters: Channels of every block.
        norm: As in `conv_net`.
    """
    return conv_net(inputs, outputs, filters=filters, norm=norm, init="xavier")


class _ResidualBlock(nn.Module):
    """Three convolutions, with a 1x1 convolution as their shortcut; then a leaky ReLU and 2x2 pooling."""

    any_layout = True

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for i, fan_in in enumerate((channels, width, width)):
            self.layers.add_module(f"conv{i}", nn.Conv2d(fan_in, width, 3, padding=1, bias=False))
            self.layers.add_module(f"norm{i}", _norm_layer("batch", width))
            if i < 2:
                self.layers.add_module(f"relu{i}", nn.LeakyReLU(0.1))
        self.shortcut = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(channels, width, 1, bias=False), norm=_norm_layer("batch", width))
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
    rate depends on the training step, which a module does not know.

    Args:
        inputs: `(channels, height, width)` of one image.
        outputs: The ways.
        widths: Channels of each block; each halves the image.
        readout: The features: "mean" (over positions, one per channel) or "flatten" (all positions of the last map).
    """
    if readout not in READOUTS:
        raise InputError(f"There is no readout {readout!r}. Choices of `readout` are: {', '.join(READOUTS)}.")
    channels, height, across = _check_image(inputs, 2 ** len(widths), f"{len(widths)} residual blocks halve")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, width in enumerate(widths):
        layers[f"block{i}"] = _ResidualBlock(channels, width)
        channels = width
    positions = (height >> len(widths)) * (across >> len(widths))
    if readout == "mean":
        layers["mean"] = nn.AdaptiveAvgPool2d(1)
        positions = 1
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(channels * positions, outputs)
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
        padding: Around each convolution; 2 keeps the size, so that images smaller than 16x16 work.
    """
    smallest = 1
    for _ in channels:
        smallest = max(1, 2 * smallest + 4 - 2 * padding)
    shrink = "Convolutions of 5x5 and pooling shrink"
    fan_in, height, width = _check_image(inputs, smallest, shrink, "with more `padding`")
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
    """One linear layer: the model of the papers' two-dimensional and average-threshold problems."""
    return mlp(inputs, outputs, hidden=(), std=std)


NETS = {f.__name__: f for f in (mlp, conv_net, linear, conv4, conv4_pool, conv4_omniglot, conv4_mini, resnet12, lenet)}
