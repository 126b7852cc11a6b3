"""EfficientNet-Lite0: a small network for photographs, 4.7 million parameters, 1280 features.

The names of its parameters are those of the published weights, so that these load as they are. Padding is that of
TensorFlow, where the weights come from: an odd pixel goes to the right and to the bottom.

Reference: Tan & Le, 2019 (https://arxiv.org/abs/1905.11946); Liu, 2020, "Higher accuracy on vision models with
EfficientNet-Lite" (without squeeze and excitation, with ReLU6).
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Of each stage: its blocks, the side of their kernels, the first one's stride, the expansion, the channels."""
FEATURES = 1280
CLASSES = 1000


class _SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow does, without a bias: an output has `ceil(side / stride)` positions."""

    def __init__(self, channels: int, filters: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, filters, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in input.shape[-2:])
        padded = F.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(padded)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _Block(nn.Module):
    """Expand the channels, convolve each alone, project; what comes in is added where the sizes are the same."""

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = _SameConv2d(channels, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = _SameConv2d(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = _SameConv2d(wide, filters, 1), _norm(filters)
        self.expands, self.adds = expansion > 1, stride == 1 and channels == filters

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        output: Tensor = y + x if self.adds else y
        return output


class Lite0(nn.Module):
    """Lite0 without its classifier: the features before it. `_fc` is kept, so that published weights load strictly."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _SameConv2d(3, 32, 3, 2), _norm(32)
        blocks, channels = [], 32
        for repeats, kernel, stride, expansion, filters in STAGES:
            for number in range(repeats):
                blocks.append(_Block(channels, filters, kernel, stride if number == 0 else 1, expansion))
                channels = filters
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = _SameConv2d(channels, FEATURES, 1), _norm(FEATURES)
        self._fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 1280"]:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        x = F.relu6(self._bn1(self._conv_head(self._blocks(x))))
        features: Tensor = x.mean((2, 3))
        return features
