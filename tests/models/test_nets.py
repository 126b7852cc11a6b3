"""The shipped nets: the papers' sizes and numbers of parameters, the position of T, and the laws on small nets."""

from collections.abc import Callable
from functools import partial

import pytest
import test_laws as laws
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import METHODS, ONE_OF_EACH_KIND, WAYS, Net
from quickstudy import InputError, MetricConv2d, with_metric
from quickstudy.models.nets import NETS, conv4, conv4_mini, conv4_omniglot, conv4_pool, conv_net, lenet, resnet12
from quickstudy.models.split import split_head
from quickstudy.training import config

pytestmark = pytest.mark.usefixtures("double")

EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


# Known answers. conv: 9 in out + out; norm: out for each of bias and scale; head: (features + 1) ways.
PUBLISHED = [
    # 640 + 3 * 36 928 and 325 for the head in all three; four norms of 64, with a bias, or with a scale as well
    pytest.param(conv4_omniglot, (1, 28, 28), 5, 64, 640 + 110_784 + 256 + 325, id="thesis-omniglot"),
    pytest.param(conv4, (1, 28, 28), 5, 64, 112_261, id="conv4-28"),
    pytest.param(conv4_pool, (1, 28, 28), 5, 64, 112_261, id="conv4-pool-28"),
    # 896 + 3 * 9 248 + 128 + 801 * 5
    pytest.param(conv4_mini, (3, 84, 84), 5, 800, 32_773, id="thesis-mini"),
    # 1 792 + 110 784 + 512, and 1601 * 5 or 65 * 5
    pytest.param(conv4, (3, 84, 84), 5, 1600, 121_093, id="conv4-84"),
    pytest.param(conv4_pool, (3, 84, 84), 5, 64, 113_413, id="conv4-pool-84"),
    # A block is 10 in out + 18 out^2 + 8 out: 76 160 + 564 480 + 2 357 760 + 9 425 920; and 641 * 5, or 16 001 * 5
    pytest.param(resnet12, (3, 84, 84), 5, 640, 12_424_320 + 3_205, id="resnet12"),
    pytest.param(
        partial(resnet12, readout="flatten"), (3, 84, 84), 5, 16_000, 12_424_320 + 80_005, id="resnet12_flatten"
    ),
    # (25 + 1) * 6 + (150 + 1) * 16 + (256 + 1) * 120 + 121 * 2
    pytest.param(lenet, (1, 28, 28), 2, 120, 33_654, id="wormhole-mnist"),
]


@pytest.mark.parametrize(("build", "inputs", "ways", "features", "count"), PUBLISHED)
def test_features_and_parameters_are_the_published_ones(
    build: Callable[..., nn.Module], inputs: tuple[int, ...], ways: int, features: int, count: int
) -> None:
    with torch.device("meta"):  # shapes only: nothing is computed
        net = build(inputs, ways)
        body, head = split_head(net)
        assert body(torch.empty(2, *inputs)).shape == (2, features)
        assert net(torch.empty(2, *inputs)).shape == (2, ways)
    assert isinstance(head, nn.Linear) and head is not net.head
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == count


def sizes(net: nn.Module, inputs: tuple[int, ...]) -> list[int]:
    """The heights of a net's feature maps, from the image to the last block."""
    seen = [inputs[1]]
    for name, block in net.named_children():
        if name.startswith("block"):
            block.register_forward_hook(lambda module, args, out: seen.append(out.shape[2]))
    net(torch.randn(2, *inputs))
    return seen


@pytest.mark.parametrize("filters", [(4, 6), [4, 6]])
def test_each_block_may_have_filters_of_its_own(filters) -> None:
    net = conv_net((1, 8, 8), 3, filters=filters, blocks=2)
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert shapes["block0.conv.weight"] == (4, 1, 3, 3) and shapes["block1.conv.weight"] == (6, 4, 3, 3)
    assert shapes["block1.norm.weight"] == (6,) and shapes["head.weight"] == (3, 6 * 2 * 2)
    assert net(torch.randn(5, 1, 8, 8)).shape == (5, 3)


@pytest.mark.parametrize(("text", "filters"), [("4,6", [4, 6]), ("[4, 6]", [4, 6]), ("5", 5)])
def test_filters_are_given_on_the_command_line(text, filters) -> None:
    given = config.load_config("digits-maml", ["--model", "conv_net", "--model.blocks", "2", "--model.filters", text])
    learner = config.build(given).learner
    kernels = [p.shape[0] for name, p in learner.named_parameters() if name.endswith("conv.weight")]
    assert kernels == (filters if isinstance(filters, list) else [filters] * 2)


def test_the_maps_of_the_papers_have_their_sizes() -> None:
    assert sizes(conv4_omniglot((1, 28, 28), 5, filters=2), (1, 28, 28)) == [28, 14, 7, 4, 2]
    assert sizes(conv4_mini((3, 84, 84), 5, filters=2), (3, 84, 84)) == [84, 42, 21, 10, 5]
    assert sizes(conv4((1, 28, 28), 5, filters=2), (1, 28, 28)) == [28, 14, 7, 3, 1]
    assert sizes(resnet12((3, 84, 84), 5, widths=(2, 2, 2, 2)), (3, 84, 84)) == [84, 42, 21, 10, 5]
    assert sizes(lenet((1, 28, 28), 2), (1, 28, 28)) == [28, 12, 4]
    assert sizes(conv_net((1, 5, 5), 2, filters=2, down="stride"), (1, 5, 5)) == [5, 3, 2, 1, 1]


def same(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """TensorFlow's SAME convolution with a stride of 2: as much padding as needed, an odd pixel right and below."""
    pads = [max(2 * (-(-size // 2) - 1) + 3 - size, 0) for size in x.shape[-2:]]
    rows, columns = ((pad // 2, pad - pad // 2) for pad in pads)
    return F.conv2d(F.pad(x, (*columns, *rows)), conv.weight, conv.bias, stride=2)


def test_strided_convolutions_are_tensorflows_on_turned_images() -> None:
    net = conv4_omniglot((1, 28, 28), 3, filters=3)
    x = torch.randn(4, 1, 28, 28)
    h = x
    for i in range(4):
        block = net.get_submodule(f"block{i}")
        h = block.relu(block.norm(same(h, block.conv)))
    expected = net.head(h.mean((2, 3)))
    with torch.no_grad():
        for i in range(4):
            kernel = net.get_submodule(f"block{i}.conv").weight
            kernel.copy_(kernel.flip(2, 3))
    torch.testing.assert_close(net(x.flip(2, 3)), expected, **CLOSE)
    assert not torch.allclose(net(x), expected), "the two paddings agree, so the comment on them is wrong"


def test_initial_values_are_those_of_the_released_code() -> None:
    omniglot, mini, plain = conv4_omniglot((1, 28, 28), 20), conv4_mini((3, 84, 84), 5), conv4((1, 28, 28), 5)
    for net in (omniglot, mini, plain):
        net.requires_grad_(False)
    assert float(omniglot.head.weight.std()) == pytest.approx(1.0, rel=0.05)
    bound = (6 / (9 * 64 + 9 * 64)) ** 0.5
    kernel = omniglot.block1.conv.weight
    assert bound * 0.99 < float(kernel.abs().max()) <= bound
    assert not any(p.any() for name, p in omniglot.named_parameters() if name.endswith("bias"))
    assert omniglot.block0.norm.eps == 1e-3
    assert float(mini.head.weight.abs().max()) <= (6 / 805) ** 0.5
    conv = plain.block1.conv
    assert float(conv.weight.std()) == pytest.approx((2 / 576) ** 0.5, rel=0.02)
    assert conv.bias.any()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: conv4((1, 8, 8), 5), "works from 16x16 on, or with at most 3 blocks"),
        (lambda: conv4_mini((3, 84, 15), 5), "image of 84x15 to nothing. It works from 16x16 on"),
        (lambda: resnet12((3, 15, 84), 5), "4 residual blocks.*works from 16x16 on"),
        (lambda: lenet((1, 15, 15), 2), "works from 16x16 on, or with more `padding`"),
        (lambda: lenet((1, 3, 3), 2, padding=2), "works from 4x4 on"),
        (lambda: resnet12((8,), 3), "Try `mlp`"),
        (lambda: resnet12((3, 16, 16), 3, readout="max"), "no readout 'max'.*flatten, mean"),
        (lambda: lenet((8,), 3), "Try `mlp`"),
        (lambda: conv_net((1, 8, 8), 3, blocks=10**19), "`blocks` was 10000000000000000000; give at most 64"),
        (lambda: conv_net((1, 8, 8), 3, blocks=65, down="stride"), "`blocks` was 65; give at most 64"),
        (lambda: conv_net((1, 8, 8), 3, filters=(4, 5), blocks=3), "`filters` has 2 numbers, and there are 3 blocks"),
        (
            lambda: conv_net((1, 8, 8), 3, filters=[4, 0], blocks=2),
            r"`filters` was \[4, 0\]; a block has 1 filter or more",
        ),
        (lambda: conv_net((1, 8, 8), 3, filters=-3, blocks=2), "`filters` was -3; a block has 1 filter or more"),
        (lambda: conv_net((1, 8, 8), 3, blocks=-1), "`blocks` was -1; give at most 64, and 0 or more"),
        (lambda: conv_net((1, 8, 8), 3, filters=[], blocks=3), "`filters` has 0 numbers, and there are 3 blocks"),
        (lambda: conv_net((1, 8, 8), 3, blocks=2, down="strides"), "no down 'strides'.*pool, stride"),
        (lambda: conv_net((1, 8, 8), 3, blocks=2, readout="max"), "no readout 'max'.*flatten, mean"),
        (lambda: conv_net((1, 8, 8), 3, blocks=2, init="he"), "no init 'he'.*fan_out, xavier"),
    ],
)
def test_sizes_that_cannot_work_are_refused_with_sizes_that_do(build: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build()


@pytest.mark.parametrize(
    ("build", "inputs"),
    [(conv4, (1, 16, 16)), (conv4_omniglot, (1, 1, 1)), (resnet12, (1, 16, 16)), (lenet, (1, 16, 16))],
)
def test_the_smallest_size_that_is_promised_works(build: Callable[..., nn.Module], inputs: tuple[int, ...]) -> None:
    assert build(inputs, 3)(torch.randn(2, *inputs)).shape == (2, 3)


def test_every_shipped_net_ends_in_its_head_and_says_what_it_is() -> None:
    for name, build in NETS.items():
        net = build((1, 28, 28), 3)
        assert isinstance(net.head, nn.Linear), name
        assert list(net._modules)[-1] == "head", name


# T


def test_a_cell_is_convolution_bias_metric_norm_relu() -> None:
    net = conv4_omniglot((1, 7, 7), WAYS, filters=3)
    cells = with_metric(net)
    x = torch.randn(5, 1, 7, 7)
    torch.testing.assert_close(cells(x), net(x), **EXACT)  # T = I
    with torch.no_grad():
        for name, p in cells.named_parameters():
            if name.endswith(("metric", "bias")):
                p.add_(torch.randn_like(p))
    h = x
    for i in range(4):
        block = cells.get_submodule(f"block{i}")
        assert isinstance(block.conv, MetricConv2d) and block.conv.metric.shape == (3, 3)
        assert list(block._modules) == ["conv", "norm", "relu"]
        y = F.conv2d(h, block.conv.weight, stride=2, padding=1) + block.conv.bias[:, None, None]
        y = F.conv2d(y, block.conv.metric[:, :, None, None])
        y = (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), keepdim=True, correction=0) + 1e-3).sqrt()
        h = (y + block.norm.bias[:, None, None]).relu()
    head = cells.get_submodule("head")
    expected = (F.linear(h.mean((2, 3)), head.weight, head.bias)) @ head.metric.T
    torch.testing.assert_close(cells(x), expected, **CLOSE)


@pytest.mark.parametrize("build", [conv4_pool, resnet12, lenet])
def test_the_identity_as_metric_changes_no_net(build: Callable[..., nn.Module]) -> None:
    options = {"widths": (3, 4)} if build is resnet12 else {}
    net = build((1, 16, 16), WAYS, **options)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    cells = with_metric(net)
    assert sum(name.endswith("metric") for name, _ in cells.named_parameters()) == len(layers)
    x = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(cells(x), net(x), **EXACT)


# The laws, on one method of each kind; all methods run on the nets of cases.py

SMALL = [
    Net("strided_mean", lambda: conv4_omniglot((1, 8, 8), WAYS, filters=2), (1, 8, 8)),
    Net("pooled_mean", lambda: conv_net((1, 8, 8), WAYS, filters=3, blocks=2, readout="mean"), (1, 8, 8)),
    Net("residual", lambda: resnet12((1, 8, 8), WAYS, widths=(2, 3)), (1, 8, 8)),
    Net("lenet", lambda: lenet((1, 8, 8), WAYS, channels=(2, 3), hidden=4, padding=2), (1, 8, 8)),
]
KINDS = [method for method in METHODS if method.name in ONE_OF_EACH_KIND]


@pytest.mark.parametrize(
    "law",
    [
        laws.test_vmap_loop_and_chunks_agree,
        laws.test_outer_gradient_is_the_central_difference,
        laws.test_adapt_returns_a_module_that_predicts_the_same,
    ],
    ids=lambda law: law.__name__.removeprefix("test_"),
)
@pytest.mark.parametrize("net", SMALL, ids=lambda net: net.name)
@pytest.mark.parametrize("method", KINDS, ids=lambda method: method.name)
def test_laws(law: Callable[..., None], method: object, net: Net) -> None:
    law(method, net)


@pytest.mark.parametrize("net", SMALL, ids=lambda net: net.name)
def test_a_learner_passes_its_own_check(net: Net) -> None:
    laws.test_a_learner_passes_its_own_check(KINDS[0], net)
