"""Modules as strangers write them: what they reach, keep, share, wrap and switch, and every kind of layer.

Each takes `x [n, 4]` and gives `[n, 3]`. `ZOO` maps a name to what builds one.
"""

import functools
import threading
import warnings
import weakref
from collections import OrderedDict, deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

ZOO = {}


def zoo(build):
    ZOO[build.__name__] = build
    return build


class Once(torch.autograd.Function):
    """A sine that can be differentiated only once, as many compiled extensions are."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


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


@zoo
class NormsInList(nn.Module):
    """Norms as functions, their scales and biases in a list."""

    def __init__(self):
        super().__init__()
        self.a, self.f = nn.Linear(4, 8), nn.Linear(8, 3)
        self.scales = nn.ParameterList([nn.Parameter(1 + 0.3 * torch.randn(8)) for _ in range(2)])
        self.pairs = [(scale, nn.Parameter(0.3 * torch.randn(8))) for scale in self.scales]
        self.bias0, self.bias1 = (bias for _, bias in self.pairs)

    def forward(self, x):
        (w, b), (v, c) = self.pairs
        h = torch.tanh(F.layer_norm(self.a(x), (8,), w, b))
        return self.f(torch.tanh(F.batch_norm(h, None, None, v, c, training=True)))


@zoo
class FunctionalInstanceNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.f = nn.Linear(4, 8), nn.Linear(8, 3)
        self.w, self.b = nn.Parameter(1 + 0.3 * torch.randn(2)), nn.Parameter(0.3 * torch.randn(2))

    def forward(self, x):
        h = F.instance_norm(self.a(x).reshape(len(x), 2, 4), weight=self.w, bias=self.b)
        return self.f(torch.tanh(h.flatten(1)))


@zoo
class NormModuleInList(nn.Module):
    """A norm that is kept out of the tree, with its parameters registered beside it."""

    def __init__(self):
        super().__init__()
        norm = nn.LayerNorm(5)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        self.parts = [norm, torch.tanh]
        self.a, self.f, self.w, self.b = nn.Linear(4, 5), nn.Linear(5, 3), norm.weight, norm.bias

    def forward(self, x):
        h = self.a(x)
        for part in self.parts:
            h = part(h)
        return self.f(h)


@zoo
class KeywordHooks(Small):
    def __init__(self):
        super().__init__()

        def before(module, args, named):
            return (args[0] + self.scale, *args[1:]), named

        def after(module, args, named, out):
            return out * self.scale

        self.f.register_forward_pre_hook(before, with_kwargs=True)
        self.a.register_forward_hook(after, with_kwargs=True)

    def forward(self, x):
        return self.f(torch.tanh(self.a(x)))


@zoo
class BackwardHooks(Small):
    """Gradients that are scaled on their way back, at a module and at a tensor."""

    def __init__(self):
        super().__init__()
        self.a.register_full_backward_hook(lambda module, into, out: tuple(g if g is None else 0.5 * g for g in into))
        self.f.register_full_backward_pre_hook(lambda module, out: tuple(2 * g for g in out))

    def forward(self, x):
        return self.f(torch.tanh(self.a(x + 0 * self.scale)) * self.scale)


@zoo
class TensorHook(Small):
    def forward(self, x):
        h = torch.tanh(self.a(x)) * self.scale
        if h.requires_grad:
            h.register_hook(lambda g: 0.5 * g)
        return self.f(h)


@zoo
class StateDictHooks(Small):
    def __init__(self):
        super().__init__()
        self.register_state_dict_post_hook(lambda module, state, prefix, local: None)
        self.register_load_state_dict_pre_hook(lambda module, state, *rest: None)


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).T


class Scaled(nn.Module):
    """A parametrization with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.log = nn.Parameter(torch.tensor(0.2))

    def forward(self, weight):
        return self.log.exp() * weight

    def right_inverse(self, weight):
        return weight / self.log.exp()


@zoo
def parametrized():
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    register_parametrization(net[0], "weight", Symmetric())
    register_parametrization(net[0], "weight", Scaled())
    register_parametrization(net[2], "bias", Scaled())
    return net


@zoo
def orthogonal_by_cayley():
    return nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="cayley"), nn.Linear(4, 3))


@zoo
def old_spectral_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


@zoo
def lazy():
    """Lazy layers after their first input; before it they are refused."""
    net = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(3))
    net(torch.zeros(1, 4))
    return net


@zoo
class TwoNames(nn.Module):
    """A block under two names, in a dictionary and in a list."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.named = nn.ModuleDict({"again": self.block, "last": nn.Linear(4, 3)})
        self.every = nn.ModuleList([self.block, self.named["last"]])

    def forward(self, x):
        return self.every[1](self.named["again"](self.block(x)))


@zoo
class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(0.5 * torch.randn(4, 4)), nn.Parameter(0.5 * torch.randn(4, 3))])
        self.biases = nn.ParameterDict({"0": nn.Parameter(torch.randn(4)), "1": nn.Parameter(torch.randn(3))})
        self.acts = nn.ModuleDict({"0": nn.Tanh(), "1": nn.Identity()})

    def forward(self, x):
        for i, weight in enumerate(self.weights):
            x = self.acts[str(i)](x @ weight + self.biases[str(i)])
        return x


@zoo
class Complex(nn.Module):
    """A complex parameter; a step goes against its conjugate gradient, as torch's optimizers go."""

    def __init__(self):
        super().__init__()
        self.w, self.f = nn.Parameter(torch.randn(4, 5, dtype=torch.cdouble)), nn.Linear(5, 3)

    def forward(self, x):
        return self.f((x.to(torch.cdouble) @ self.w).abs().tanh())


@zoo
class OtherBuffers(Small):
    """Buffers of numbers that are not real, and one that is not saved."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([True, False, True, True, True]))
        self.register_buffer("order", torch.tensor([4, 2, 0, 1, 3]))
        self.register_buffer("calls", torch.tensor(0), persistent=False)
        self.register_buffer("missing", None)

    def forward(self, x):
        self.calls += 1
        h = torch.tanh(self.a(x))[:, self.order]
        return self.f(torch.where(self.mask, h * self.scale, 0.1 * h))


@zoo
class Slots(Small):
    """A class with slots; one holds a parameter."""

    __slots__ = ("hidden_scale",)

    def __init__(self):
        super().__init__()
        self.hidden_scale = self.scale

    def forward(self, x):
        return self.f(torch.tanh(self.a(x)) * self.hidden_scale)


class SlottedHolder:
    __slots__ = ("net",)

    def __init__(self, net):
        self.net = net


@zoo
class InSlottedObject(Small):
    def __init__(self):
        super().__init__()
        self.holder = SlottedHolder(self)

    def forward(self, x):
        return self.f(torch.tanh(self.a(x)) * self.holder.net.scale)


@zoo
class InDataclass(Small):
    def __init__(self):
        super().__init__()
        self.parts = Parts(self.f, [self.scale])

    def forward(self, x):
        return self.parts.last(torch.tanh(self.a(x)) * self.parts.scales[0])


@dataclass(frozen=True)
class Parts:
    last: nn.Module
    scales: list


@zoo
class Draws(Small):
    """Has a generator of random numbers, which draws in training only."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        if self.training:
            x = x + torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        return super().forward(x)


@zoo
class Defaults(Small):
    def forward(self, x, depth: int = 2, *, slope: float = 0.5, scale=None):
        for _ in range(depth):
            x = x + slope * torch.tanh(x)
        return super().forward(x if scale is None else x * scale)


@zoo
class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.f = nn.EmbeddingBag(8, 5, mode="mean"), nn.Linear(5, 3)

    def forward(self, x):
        return self.f(self.words((x.abs() * 3).long().clamp(0, 7)))


@zoo
class NestedEncoder(nn.Module):
    """An encoder with a mask of padding, which torch runs on nested tensors in evaluation mode."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True)
        self.encoder, self.f = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True), nn.Linear(4, 3)

    def forward(self, x):
        words = x[:, None] * x.new_tensor([1.0, 0.5, 0.0])[:, None]
        padding = torch.tensor([False, False, True]).expand(len(x), 3)
        return self.f(self.encoder(words, src_key_padding_mask=padding)[:, 0])


@zoo
class FastAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.f = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        words = torch.stack([x, x.flip(1)], 1)
        return self.f(self.net(words, words, words, need_weights=False)[0].mean(1))


@zoo
class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Transformer(4, 2, 1, 1, 5, dropout=0.0, batch_first=True)
        self.f = nn.Linear(4, 3)

    def forward(self, x):
        words = torch.stack([x, x.flip(1)], 1)
        return self.f(self.net(words, words[:, :1])[:, 0])


@zoo
class CheckpointedSequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.f = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 3)

    def forward(self, x):
        return self.f(checkpoint_sequential(self.net, 2, x, use_reentrant=False))


@zoo
class ReentrantCheckpoint(Small):
    def forward(self, x):
        return self.f(checkpoint(self.a, x.requires_grad_() if x.is_leaf else x, use_reentrant=True) * self.scale)


@zoo
class ChannelsLast(nn.Module):
    """Convolutions whose weights and inputs have their channels last."""

    def __init__(self):
        super().__init__()
        self.conv, self.f = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(3 * 16, 3)
        self.lift = nn.Linear(4, 32)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        images = self.lift(x).reshape(len(x), 2, 4, 4).contiguous(memory_format=torch.channels_last)
        return self.f(torch.tanh(self.conv(images)).flatten(1))


@zoo
class FakeQuantized(nn.Module):
    """Weights that are rounded in the forward and straight through in the backward."""

    def __init__(self):
        super().__init__()
        self.a, self.f = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        weight = torch.fake_quantize_per_tensor_affine(self.a.weight, 0.01, 0, -128, 127)
        return self.f(torch.tanh(F.linear(x, weight, self.a.bias)))


@zoo
class Autocasts(Small):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.a(x.float().to(self.a.weight.dtype))
        return self.f(torch.tanh(h.to(x.dtype)) * self.scale)


@zoo
def compiled():
    return torch.compile(Small(), backend="eager")


@zoo
def compiled_in_place():
    net = Small()
    net.compile(backend="eager")
    return net


@zoo
def data_parallel():
    return nn.DataParallel(Small())


@zoo
class CallsFunctionally(Small):
    """Calls a layer of its own with weights that it computes: a hypernetwork."""

    def forward(self, x):
        given = {"weight": self.a.weight * self.scale, "bias": self.a.bias + 0.1}
        return self.f(torch.tanh(functional_call(self.a, given, (x,))))


@zoo
class TakesGradients(Small):
    """An energy model: its output is a gradient."""

    def forward(self, x):
        def energy(x):
            return super(TakesGradients, self).forward(x).square().sum()

        return self.f(torch.tanh(self.a(x - 0.1 * torch.func.grad(energy)(x))))


@zoo
class TapeInside(Small):
    def forward(self, x):
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            (g,) = torch.autograd.grad(super().forward(at).square().sum(), at, create_graph=True)
        return self.f(torch.tanh(self.a(x - 0.1 * g)))


@zoo
class InPlace(Small):
    """Changes what it computed, and a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("work", torch.zeros(6, 5))

    def forward(self, x):
        h = self.a(x).tanh_()
        self.work.copy_(h.detach())
        return self.f(h.mul(self.scale).add_(0.1))


@zoo
class Spectrum(nn.Module):
    def __init__(self):
        super().__init__()
        self.filter, self.f = nn.Parameter(torch.randn(3, 2)), nn.Linear(4, 3)

    def forward(self, x):
        bands = torch.fft.rfft(x) * torch.view_as_complex(self.filter)
        return self.f(torch.tanh(torch.fft.irfft(bands, n=4)))


class Cube(torch.autograd.Function):
    """With a rule for `vmap` that torch derives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return g * 3 * ctx.saved_tensors[0] ** 2


@zoo
class FunctionWithRule(Small):
    def forward(self, x):
        return self.f(torch.tanh(Cube.apply(self.a(x)) * self.scale))


class OldCube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return g * 3 * ctx.saved_tensors[0] ** 2


@zoo
class FunctionWithoutRule(Small):
    def forward(self, x):
        return self.f(torch.tanh(OldCube.apply(self.a(x)) * self.scale))


@zoo
def scripted_part():
    frozen = nn.Sequential(nn.Linear(4, 5), nn.Tanh()).requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return nn.Sequential(torch.jit.script(frozen), nn.Linear(5, 3))


@zoo
class Branches(Small):
    """Control flow that depends on the numbers."""

    def forward(self, x):
        h = torch.tanh(self.a(x)) * self.scale
        return self.f(h if h.mean() > 0 else 0.5 * h)


@zoo
class ReadsItem(Small):
    def forward(self, x):
        return super().forward(x / x.abs().max().item())


@zoo
class ReadsNumpy(Small):
    def forward(self, x):
        return super().forward(x + torch.from_numpy(np.cos(x.detach().numpy())))


@zoo
class GlobalPart(nn.Module):
    """A layer that the forward takes from a table outside."""

    def __init__(self):
        super().__init__()
        self.a, self.f = nn.Linear(4, 5), nn.Linear(5, 3)
        TABLE["last"] = self.f

    def forward(self, x):
        return TABLE["last"](torch.tanh(self.a(x)))


TABLE = {}


@zoo
class Cached(Small):
    """A method that remembers its results."""

    @functools.lru_cache  # noqa: B019
    def angles(self, n):
        return torch.arange(n).cos()

    def forward(self, x):
        return super().forward(x + self.angles(4))


@zoo
class Scatter(nn.Module):
    """Messages between the examples of a batch, as in nets over graphs."""

    def __init__(self):
        super().__init__()
        self.a, self.f = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        to = torch.arange(len(x)).roll(1)
        sums = torch.zeros_like(h).index_add(0, to, h)
        return self.f(h + sums.scatter_reduce(0, to[:, None].expand_as(h), h, "amax"))


@zoo
class MixtureOfExperts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 2), nn.ModuleList(nn.Linear(4, 3) for _ in range(2))

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        return torch.einsum("ne,nek->nk", weights, outputs)


@zoo
class ParametersInTuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 3)])
        self.pairs = tuple((layer.weight, layer.bias) for layer in self.layers)

    def forward(self, x):
        for weight, bias in self.pairs:
            x = F.linear(torch.sin(x), weight, bias)
        return x


@zoo
class Alias(Small):
    """A view of a parameter's data, made once: in a real net it follows the parameter."""

    def __init__(self):
        super().__init__()
        self.first_rows = self.a.weight.data[:2]

    def forward(self, x):
        return super().forward(x) + (x @ self.first_rows.T.to(x.dtype)).mean()


class Child(nn.Module):
    def __init__(self, parent):
        super().__init__()
        self.parent = weakref.ref(parent)

    def forward(self, h):
        return self.parent().f(h * self.parent().scale)


@zoo
class InWeakReference(Small):
    """A child that knows its parent, without keeping it alive."""

    def __init__(self):
        super().__init__()
        self.child = Child(self)

    def forward(self, x):
        return self.child(torch.tanh(self.a(x)))


@zoo
class Locked(Small):
    def __init__(self):
        super().__init__()
        self.lock, self.names = threading.Lock(), (str(i) for i in range(3))

    def forward(self, x):
        with self.lock:
            return super().forward(x)


@zoo
class InplaceFirst(nn.Sequential):
    """Its first layer changes the input in place."""

    def __init__(self):
        super().__init__(nn.ReLU(inplace=True), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
