"""The second derivative of batch norm, against central differences and against single operations."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from quickstudy.models.batchnorm_gradient import batch_norm

EPS = 1e-3


def plain(x, weight, bias):
    return F.batch_norm(x, None, None, weight, bias, True, 0.0, EPS)


def ours(x, weight, bias):
    return batch_norm(x, weight, bias, EPS)


def given(shape, scaled=True, shifted=True, kind=torch.float64):
    draw = torch.Generator().manual_seed(len(shape))
    x = (3 * torch.randn(shape, generator=draw, dtype=kind) + 2).requires_grad_()
    weight, bias = (torch.randn(shape[1], generator=draw, dtype=kind).requires_grad_() for _ in range(2))
    return x, weight if scaled else None, bias if shifted else None


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 7), (5, 4, 3, 2), (2, 2, 2, 1, 3)], ids=str)
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("shifted", [True, False])
def test_both_derivatives_are_central_differences(shape, scaled, shifted):
    every = given(shape, scaled, shifted)
    there = [part for part in every if part is not None]

    def function(*parts):
        left = iter(parts)
        return ours(*(None if part is None else next(left) for part in every))

    assert gradcheck(function, there) and gradgradcheck(function, there)


def derivatives(norm, x, weight, bias, layout):
    """The first, second and third derivative of a sum, in one direction each."""
    found = []
    value = norm(x.contiguous(memory_format=layout), weight, bias).pow(3).mean()
    for _ in range(3):
        grads = torch.autograd.grad(value, [x, weight, bias], create_graph=True)
        found += grads
        value = sum(g.square().mean() for g in grads)
    return found


def in_single_operations(x, weight, bias):
    axes, shape = (0, *range(2, x.ndim)), (1, -1) + (1,) * (x.ndim - 2)
    scale = (x.var(axes, correction=0, keepdim=True) + EPS).rsqrt()
    return (x - x.mean(axes, keepdim=True)) * scale * weight.reshape(shape) + bias.reshape(shape)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_three_derivatives_are_right_in_either_layout(layout):
    """Torch's own third derivative for x is wrong by 100 %."""
    every = given((4, 3, 5, 2))
    right = derivatives(in_single_operations, *every, layout)
    for mine, expected in zip(derivatives(ours, *every, layout), right, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-11)


def test_gradients_that_are_not_needed_are_not_computed():
    x, weight, bias = given((5, 3))
    for wanted in ([x], [weight], [bias]):
        (first,) = torch.autograd.grad(ours(x, weight, bias).pow(3).sum(), wanted, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), wanted)
        (its,) = torch.autograd.grad(plain(x, weight, bias).pow(3).sum(), wanted, create_graph=True)
        torch.testing.assert_close(second, torch.autograd.grad(its.square().sum(), wanted)[0])


def test_one_value_per_channel_and_half_precision_use_torchs_own_kernel():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ours(*given((1, 3)))
    half = [part.detach().bfloat16().requires_grad_() for part in given((6, 3))]
    assert torch.equal(ours(*half), plain(*half))
