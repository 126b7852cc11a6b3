"""Modules as strangers write them: what they reach, keep, share, wrap and switch, and every kind of layer.

Each takes `x [n, 4]` and gives `[n, 3]`. `ZOO` maps a name to what builds one.
"""

import functools
from collections import OrderedDict, deque

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

ZOO = {}


def zoo(build):
    ZOO[build.__name__] = build
    return build


class Small(nn.Module):
    """Two layers and a scale: what the kinds below reach in their own ways."""

    def __init__(self):
        super().__init__()
        self.a, self.f = nn.Linear(4, 5), nn.Linear(5, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.f(torch.tanh(self.a(x)) * self.scale)


zoo(Small)


@zoo
class InList(Small):
    def __init__(self):
        super().__init__()
        self.layers = [self.a, self.f]
        self.scales = {"all": (self.scale,)}

    def forward(self, x):
        return self.layers[1](torch.tanh(self.layers[0](x)) * self.scales["all"][0])


@zoo
class InLambda(Small):
    def __init__(self):
        super().__init__()
        self.act = lambda h: torch.tanh(h) * self.scale

    def forward(self, x):
        return self.f(self.act(self.a(x)))


@zoo
class InPartial(Small):
    def __init__(self):
        super().__init__()
        self.last = functools.partial(nn.functional.linear, weight=self.f.weight, bias=self.f.bias)

    def forward(self, x):
        return self.last(torch.tanh(self.a(x)) * self.scale)


@zoo
class InBoundMethod(Small):
    def __init__(self):
        super().__init__()
        self.first, self.steps = self.a.forward, deque([self.f.forward], maxlen=1)

    def forward(self, x):
        return self.steps[0](torch.tanh(self.first(x)) * self.scale)


class Holder:
    def __init__(self, net):
        self.net = net

    def __call__(self, h):
        return torch.tanh(h) * self.net.scale


@zoo
class InObject(Small):
    def __init__(self):
        super().__init__()
        self.holder = Holder(self)

    def forward(self, x):
        return self.f(self.holder(self.a(x)))


@zoo
class InHook(Small):
    def __init__(self):
        super().__init__()
        self.a.register_forward_hook(lambda module, args, out: out * self.scale)
        self.f.register_forward_pre_hook(lambda module, args: (args[0] + self.scale,))

    def forward(self, x):
        return self.f(torch.tanh(self.a(x)))


@zoo
class Checkpointed(Small):
    def forward(self, x):
        return self.f(checkpoint(lambda h: torch.tanh(self.a(h)) * self.scale, x, use_reentrant=False))


@zoo
class Keeps(Small):
    """Keeps what it computed in every way that people use: an attribute, a list, a dictionary, a buffer, a meter."""

    def __init__(self):
        super().__init__()
        self.seen, self.cache, self.meter = [], {}, Meter()
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.features = torch.tanh(self.a(x)) * self.scale
        self.seen.append(self.features)
        self.cache["last"] = self.features
        self.meter.last = self.features
        self.mean = 0.9 * self.mean + 0.1 * self.features.mean(0)
        self.count += 1
        return self.f(self.features)


class Meter:
    def __init__(self):
        self.last = None


@zoo
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight
        self.again = self.a

    def forward(self, x):
        return self.again(torch.tanh(self.b(torch.tanh(self.a(x)))))[:, :3]


@zoo
def recurrent():
    return Last(nn.GRU(2, 3, batch_first=True))


class Last(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.reshape(len(x), 2, 2))[0][:, -1]


@zoo
def lstm():
    return Last(nn.LSTM(2, 3, batch_first=True))


@zoo
def weight_normed():
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


@zoo
def orthogonal():
    return nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3))


@zoo
def spectral_normed():
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


@zoo
def transformer():
    layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True)
    return nn.Sequential(OrderedDict(lift=nn.Unflatten(1, (1, 4)), encoder=layer, down=nn.Flatten(), f=nn.Linear(4, 3)))


def layer(name, build, size=4, width=4):
    """A net around one layer that maps `[n, width]` to `[n, size]`."""

    def net():
        return nn.Sequential(OrderedDict(first=nn.Linear(4, width), layer=build(), last=nn.Linear(size, 3)))

    ZOO[name] = net


def images(name, build, size, channels=2):
    """A net around one layer that maps images `[n, channels, 4, 4]` to `size` numbers."""

    def net():
        lift = nn.Sequential(nn.Linear(4, channels * 16), nn.Unflatten(1, (channels, 4, 4)))
        return nn.Sequential(OrderedDict(first=lift, layer=build(), flat=nn.Flatten(), last=nn.Linear(size, 3)))

    ZOO[name] = net


for activation in (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus,
    nn.Softsign, nn.Tanhshrink, nn.Hardtanh, nn.Hardswish, nn.LogSigmoid, nn.PReLU, nn.Softshrink,
):  # fmt: skip
    layer(activation.__name__, activation)
layer("Softmax", lambda: nn.Softmax(-1))
layer("LogSoftmax", lambda: nn.LogSoftmax(-1))
layer("GLU", nn.GLU, size=2)
layer("LayerNorm", lambda: nn.LayerNorm(4))
layer("RMSNorm", lambda: nn.RMSNorm(4))
layer("BatchNorm1d", lambda: nn.BatchNorm1d(4))
layer("Bilinear", lambda: Twice(nn.Bilinear(4, 4, 4)))
layer("Identity", nn.Identity)
layer("Dropout", lambda: nn.Dropout(0.5))
images("Conv2d", lambda: nn.Conv2d(2, 3, 3), 12)
images("Conv2d_grouped", lambda: nn.Conv2d(2, 4, 3, groups=2, padding=1), 64)
images("Conv2d_dilated", lambda: nn.Conv2d(2, 3, 2, dilation=2, stride=2), 3)
images("ConvTranspose2d", lambda: nn.ConvTranspose2d(2, 1, 2), 25)
images("BatchNorm2d", lambda: nn.BatchNorm2d(2), 32)
images("GroupNorm", lambda: nn.GroupNorm(2, 2), 32)
images("InstanceNorm2d", lambda: nn.InstanceNorm2d(2, affine=True), 32)
images("MaxPool2d", lambda: nn.MaxPool2d(2), 8)
images("AvgPool2d", lambda: nn.AvgPool2d(2), 8)
images("AdaptiveAvgPool2d", lambda: nn.AdaptiveAvgPool2d(2), 8)
images("AdaptiveMaxPool2d", lambda: nn.AdaptiveMaxPool2d(2), 8)
images("LPPool2d", lambda: nn.Sequential(nn.Softplus(), nn.LPPool2d(2, 2)), 8)
images("PixelShuffle", lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.PixelShuffle(2)), 64)
images("Upsample", lambda: nn.Upsample(scale_factor=2, mode="bilinear"), 128)
images("ReflectionPad2d", lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(2, 1, 3)), 16)
images("Conv1d", lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 2, 3)), 28)
images("Conv3d", lambda: nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 2, 2)), 18)
images("Unfold", lambda: nn.Sequential(nn.Unfold(2), nn.Flatten(), nn.Linear(72, 4)), 4)


class Twice(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x, x)


@zoo
class Embedded(nn.Module):
    """Words instead of numbers: each input picks a row of a table."""

    def __init__(self):
        super().__init__()
        self.words, self.f = nn.Embedding(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.f(self.words((x.abs() * 3).long().clamp(0, 7)).mean(1))


@zoo
def rnn():
    return Last(nn.RNN(2, 3, batch_first=True))


@zoo
def bidirectional():
    return nn.Sequential(Last(nn.GRU(2, 3, batch_first=True, bidirectional=True)), nn.Linear(6, 3))


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.f = nn.MultiheadAttention(2, 1, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        x = x.reshape(len(x), 2, 2)
        out, self.weights = self.net(x, x, x)
        return self.f(out.flatten(1))


zoo(Attends)


@zoo
class Attention(nn.Module):
    """Scaled dot products by torch's own function, whose fused kernels have no second derivative."""

    def __init__(self):
        super().__init__()
        self.qkv, self.f = nn.Linear(2, 6), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(x.reshape(len(x), 1, 2, 2)).chunk(3, -1)
        return self.f(F.scaled_dot_product_attention(q, k, v).flatten(1))


@zoo
class LowRank(nn.Linear):
    """A frozen weight beside a product of two small ones; `eval` merges them, `train` takes them apart."""

    def __init__(self):
        super().__init__(4, 3)
        self.weight.requires_grad_(False)
        self.A, self.B = nn.Parameter(torch.randn(2, 4)), nn.Parameter(0.1 * torch.randn(3, 2))
        self.merged = False

    def train(self, mode=True):
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.B @ self.A).data
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        return F.linear(x, self.weight if self.merged else self.weight + self.B @ self.A, self.bias)


@zoo
class FreezesNorms(nn.Sequential):
    """Keeps its norm in evaluation mode, as fine-tuned encoders do."""

    def __init__(self):
        super().__init__(nn.Linear(4, 5), nn.LayerNorm(5), nn.Dropout(0.5), nn.Linear(5, 3))

    def train(self, mode=True):
        super().train(mode)
        self[2].eval()
        return self


@zoo
def pruned():
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    prune.l1_unstructured(net[0], "weight", 0.5)
    return net


@zoo
class InProperty(Small):
    @property
    def last(self):
        return self.f

    def forward(self, x):
        return self.last(torch.tanh(self.a(x)) * self.scale)


@zoo
class InDictionaryOfLambdas(Small):
    def __init__(self):
        super().__init__()
        self.parts = {"first": lambda x: self.a(x + 0.0), "last": lambda h: self.f(h * self.scale)}

    def forward(self, x):
        return self.parts["last"](torch.tanh(self.parts["first"](x)))


@zoo
class Recursive(Small):
    def forward(self, x, depth=2):
        return (
            self.forward(x + 0.1 * self.f(torch.tanh(self.a(x))).mean(-1, keepdim=True), depth - 1)
            if depth
            else super().forward(x)
        )


@zoo
class Residual(Small):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.table = nn.ParameterDict({"shift": nn.Parameter(torch.randn(4))})

    def forward(self, x):
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return super().forward(x + self.table["shift"])


@zoo
class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.core = nn.Parameter(0.3 * torch.randn(3, 4, 4))

    def forward(self, x):
        return torch.einsum("ni,kij,nj->nk", x, self.core, x)


@zoo
class Solves(nn.Module):
    """An implicit layer: the solution of a linear system."""

    def __init__(self):
        super().__init__()
        self.m, self.f = nn.Parameter(0.1 * torch.randn(4, 4)), nn.Linear(4, 3)

    def forward(self, x):
        return self.f(torch.linalg.solve(torch.eye(4, dtype=x.dtype) + self.m, x.T).T)


@zoo
class CheckpointedBlocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
        self.f = nn.Linear(4, 3)

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.f(x)


@zoo
class CheckpointedMethod(Small):
    def block(self, x):
        return torch.tanh(self.a(x)) * self.scale

    def forward(self, x):
        return self.f(checkpoint(self.block, x, use_reentrant=False))
