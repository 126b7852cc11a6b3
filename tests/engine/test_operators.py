"""Torch's operators under the law that a meta-gradient rests on: a second derivative is the difference of first ones.

It must hold on the loop, and every way in which this package runs tasks together must give what the loop gives. The
operators and their inputs are those that torch tests itself with, and a few that nets use and that are not among them.
`WRONG` lists what breaks the law in the torch of the lock file. A new torch that breaks it in another place, or that
mends a listed one, fails here on the day it comes.
"""

import math
import warnings
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

PARTS = 8
SAMPLES, LARGEST = 4, 3000
"""Inputs that are tried of an operator, and the most numbers in one."""
STEPS = (1e-5, 1e-6)
SLOPE_TOLERANCE = 1e-3
"""Relative, against a difference whose own error is below it: the two steps agree that well, or the input is left."""
LOOP_TOLERANCE = 1e-6
"""Relative, between two exact ways in float64."""

UNDER_VMAP = {"tape over vmap of grad"}
AFFINE = "its kernel with a scale is wrong under the vmap of a gradient; `second_derivatives` scales afterwards"
NO_FAULT = "no fault: it reads one triangle of a matrix that the difference does not keep symmetric"
NO_SECOND = "its second derivative is zero without an error; `second_derivatives` calls it uncut"
WRONG = {
    "batch_norm": (UNDER_VMAP, AFFINE),
    "instance_norm": (UNDER_VMAP, AFFINE),
    "native_layer_norm": (UNDER_VMAP, AFFINE),
    "nn.functional.layer_norm": (UNDER_VMAP, AFFINE),
    "weight_norm": ({"loop"}, "its fused kernel is wrong on a CPU; `second_derivatives` has the formula"),
    "nn.functional.linear_cross_entropy.chunked": ({"loop"}, NO_SECOND),
    "nn.functional.linear_cross_entropy.chunked_none": ({"loop"}, NO_SECOND),
    "nn.functional.cosine_embedding_loss": ({"loop"}, "no fault: its target is a sign, which the difference moves"),
    "masked.logaddexp": ({"loop"}, "not a number where both terms are masked: no silent fault, but no derivative"),
    "cholesky": ({"loop"}, NO_FAULT),
    "linalg.cholesky": ({"loop"}, NO_FAULT),
    "linalg.cholesky_ex": ({"loop"}, NO_FAULT),
    "linalg.eigh": ({"loop"}, NO_FAULT),
    "linalg.eigvalsh": ({"loop"}, NO_FAULT),
    "linalg.pinv.hermitian": ({"loop"}, NO_FAULT),
}

QUICK = (
    "nn.functional.linear", "nn.functional.conv2d", "nn.functional.layer_norm", "nn.functional.max_pool2d", "softmax",
    "nn.functional.cross_entropy", "nn.functional.gelu", "batch_norm", "weight_norm", "linalg.cholesky",
)  # fmt: skip
COMPILED = (
    "nn.functional.linear", "nn.functional.conv2d", "nn.functional.layer_norm", "nn.functional.group_norm",
    "batch_norm", "instance_norm", "weight_norm", "nn.functional.max_pool2d", "nn.functional.avg_pool2d",
    "nn.functional.cross_entropy", "nn.functional.gelu", "nn.functional.embedding", "attention", "lstm_cell", "einsum",
    "linalg.solve",
)  # fmt: skip
"""Where compiling an operator takes seconds, those that most nets are made of."""


@dataclass(frozen=True)
class Problem:
    """A number as a function of an operator's real inputs, two points, and two directions for two derivatives."""

    value: object
    point: list
    inner: list
    outer: list

    def tasks(self, shared):
        """The point and another one, stacked; with `shared`, only the first input differs from task to task."""
        moved = [torch.stack([t, t + 0.01 * u]) for t, u in zip(self.point, self.outer, strict=True)]
        return [moved[0], *(self.point[1:] if shared else moved[1:])]

    def axes(self, shared):
        return tuple([0] + [None if shared else 0] * (len(self.point) - 1))

    def slope(self, *inputs):
        """The derivative along the inner direction, by the tape."""
        inputs = [t if t.requires_grad else t.requires_grad_() for t in inputs]
        grads = torch.autograd.grad(self.value(*inputs), inputs, create_graph=True, allow_unused=True)
        return dot(grads, self.inner)

    def transformed_slope(self, *inputs):
        """The same by `torch.func`."""
        return dot(grad(self.value, argnums=tuple(range(len(inputs))))(*inputs), self.inner)


def dot(found, direction):
    return sum((g * d).sum() for g, d in zip(found, direction, strict=True) if g is not None)


def along_outer(problem, slope, inputs):
    """The derivative of a slope along the outer direction, by the tape; a slope without a tape is a constant."""
    if not (isinstance(slope, torch.Tensor) and slope.requires_grad):
        return 0.0
    return float(dot(torch.autograd.grad(slope, inputs, allow_unused=True), problem.outer))


def leaves(inputs):
    return [t.clone().requires_grad_() for t in inputs]


def on_the_loop(problem, shared):
    inputs = leaves(problem.tasks(shared))
    each = [[t if axis is None else t[i] for t, axis in zip(inputs, problem.axes(shared), strict=True)] for i in (0, 1)]
    return along_outer(problem, sum(problem.slope(*task) for task in each), inputs)


def tape_over_vmap(problem, shared):
    inputs = leaves(problem.tasks(shared))
    total = vmap(problem.value, in_dims=problem.axes(shared))(*inputs).sum()
    grads = torch.autograd.grad(total, inputs, create_graph=True, allow_unused=True)
    return along_outer(problem, dot(grads, problem.inner), inputs)


def tape_over_vmap_of_grad(problem, shared):
    """What `Engine("vmap")` does: the inner gradient inside, the outer one over it."""
    inputs = leaves(problem.tasks(shared))
    slopes = vmap(problem.transformed_slope, in_dims=problem.axes(shared))(*inputs)
    return along_outer(problem, slopes.sum(), inputs)


def vmap_of_grad_of_grad(problem, shared, wrap=lambda function: function):
    both = grad(problem.transformed_slope, argnums=tuple(range(len(problem.point))))
    each = wrap(vmap(both, in_dims=problem.axes(shared)))
    with torch.no_grad():
        return float(dot(each(*problem.tasks(shared)), problem.outer))


def compiled(problem, shared):
    """What `compile` does: both gradients inside `vmap`, in one piece."""
    return vmap_of_grad_of_grad(problem, shared, lambda each: torch.compile(each, fullgraph=True, dynamic=False))


WAYS = {
    "tape over vmap": tape_over_vmap,
    "tape over vmap of grad": tape_over_vmap_of_grad,
    "vmap of grad of grad": vmap_of_grad_of_grad,
}


class Operator:
    """An operator that torch's database lacks, in the shape of one of its entries."""

    variant_test_name = ""

    def __init__(self, name, function, *shapes):
        self.name, self.function, self.shapes = name, function, shapes

    def __call__(self, *args):
        return self.function(*args)

    def sample_inputs(self, device, dtype, requires_grad):
        from torch.testing._internal.opinfo.core import SampleInput

        draw = torch.Generator().manual_seed(3)
        for _ in range(2):
            first, *rest = (torch.randn(shape, generator=draw, dtype=dtype) for shape in self.shapes)
            yield SampleInput(first, args=tuple(rest))


WORDS = torch.tensor([[0, 1], [2, 2]])
IMAGES, CHANNELS = (5, 4, 3, 3), (4,)
MORE = (
    Operator("batch_norm", lambda x, w, b: F.batch_norm(x, None, None, w, b, True), IMAGES, CHANNELS, CHANNELS),
    Operator("batch_norm.plain", lambda x: F.batch_norm(x, None, None, None, None, True), IMAGES),
    Operator("instance_norm", lambda x, w, b: F.instance_norm(x, None, None, w, b), IMAGES, CHANNELS, CHANNELS),
    Operator("instance_norm.plain", F.instance_norm, IMAGES),
    Operator("layer_norm.plain", lambda x: F.layer_norm(x, (4,)), (3, 4)),
    Operator("weight_norm", lambda v, g: torch._weight_norm(v, g, 0), (6, 4), (6, 1)),
    Operator("rnn_cell", torch.rnn_tanh_cell, (2, 3), (2, 4), (4, 3), (4, 4)),
    Operator("gru_cell", torch.gru_cell, (2, 3), (2, 4), (12, 3), (12, 4)),
    Operator("lstm_cell", lambda x, h, c, *w: torch.lstm_cell(x, (h, c), *w), (2, 3), *[(2, 4)] * 2, (16, 3), (16, 4)),
    Operator("attention", F.scaled_dot_product_attention, (2, 3, 4), (2, 3, 4), (2, 3, 4)),
    Operator("attention.causal", lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=True), *[(2, 3, 4)] * 3),
    Operator("embedding_bag", lambda table: F.embedding_bag(WORDS, table), (4, 3)),
    Operator("embedding_bag.max", lambda table: F.embedding_bag(WORDS, table, mode="max"), (4, 3)),
    Operator("fold", lambda x: F.fold(x, (3, 3), 2), (2, 8, 4)),
    Operator("bilinear", F.bilinear, (2, 3), (2, 4), (5, 3, 4)),
)  # fmt: skip


@cache
def operators():
    """Every operator that torch says has a second derivative, by name, and ours."""
    from torch.testing._internal.common_methods_invocations import op_db

    found = [op for op in op_db if op.supports_autograd and op.supports_gradgrad] + list(MORE)
    return {".".join(filter(None, (op.name, op.variant_test_name))): op for op in found}


def in_arguments(sample, replace):
    """The arguments of a sample with every real tensor in them replaced, also inside lists."""

    def one(value):
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            return type(value)(map(one, value))
        return replace(value) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return one(sample.input), [one(a) for a in sample.args], {name: one(a) for name, a in sample.kwargs.items()}


def real_outputs(output):
    if isinstance(output, tuple | list):
        return [t for part in output for t in real_outputs(part)]
    return [output] if isinstance(output, torch.Tensor) and output.is_floating_point() else []


def problem_of(op, sample):
    """The operator on one sample as a number, or None where it has no real input or output, or is too large."""
    point = []
    in_arguments(sample, lambda t: point.append(t.detach()) or t)
    if not point or sum(t.numel() for t in point) > LARGEST:
        return None
    draw = torch.Generator().manual_seed(0)

    def noise(tensors):
        return [torch.randn(t.shape, generator=draw, dtype=t.dtype) for t in tensors]

    def outputs(*inputs):
        given = iter(inputs)
        first, args, named = in_arguments(sample, lambda _: next(given))
        return real_outputs(sample.output_process_fn_grad(op(first, *args, **named)))

    weights = noise(outputs(*point))
    if not weights:
        return None
    return Problem(lambda *inputs: dot(outputs(*inputs), weights), point, noise(point), noise(point))


def differs(given, right, tolerance):
    return not abs(given - right) <= tolerance * max(1e-3, abs(right))


def breaks_on_the_loop(problem):
    """Whether the second derivative is not the central difference; None where two steps give no one difference."""
    inputs = leaves(problem.point)
    exact, found = along_outer(problem, problem.slope(*inputs), inputs), []
    for step in STEPS:
        ends = [[t + sign * step * u for t, u in zip(problem.point, problem.outer, strict=True)] for sign in (1, -1)]
        found.append(float(problem.slope(*ends[0]) - problem.slope(*ends[1])) / (2 * step))
    return None if differs(*found, SLOPE_TOLERANCE) else differs(exact, found[0], SLOPE_TOLERANCE)


def try_operator(op, ways, samples):
    """Where the operator breaks the law, and where it could be tried; what raises an error is not silently wrong."""
    wrong, tried = set(), set()
    count = 0
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
        if count == samples:
            break
        try:
            problem = problem_of(op, sample)
            broken = problem and breaks_on_the_loop(problem)
        except Exception:  # of any kind: these are inputs that the operator refuses to differentiate twice
            continue
        if problem is None:
            continue
        count += 1
        if broken is None:
            continue
        tried.add("loop")
        if broken:
            wrong.add("loop")
        for shared in (False, True)[: len(problem.point)]:
            right = on_the_loop(problem, shared)
            if not math.isfinite(right):  # the second task has left the domain, as that of an arcsine
                continue
            for name, way in ways.items():
                try:
                    given = way(problem, shared)
                except Exception:  # vmap and the compiler refuse with errors of every kind
                    continue
                tried.add(name)
                if differs(given, right, LOOP_TOLERANCE):
                    wrong.add(name)
    return wrong, tried


def law(names, ways, samples=SAMPLES):
    """What breaks the law otherwise than listed, and how many operators each way could be tried on."""
    known, tried, wrong = operators(), dict.fromkeys(["loop", *ways], 0), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # operators warn of many things that are not held here
        for name in names:
            torch.manual_seed(0)  # some draw their inputs from the global state
            wrong[name], where = try_operator(known[name], ways, samples)
            tried = {way: count + (way in where) for way, count in tried.items()}
    expected = {name: WRONG[name][0] & {"loop", *ways} if name in WRONG else set() for name in names}
    return {name: (found, expected[name]) for name, found in wrong.items() if found != expected[name]}, tried


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_second_derivatives_of_every_operator(part):
    names = sorted(operators())[part::PARTS]
    surprises, tried = law(names, WAYS)
    assert not surprises, "found where, listed where"
    assert min(tried.values()) > 0.75 * len(names), tried


def test_second_derivatives_of_some_operators():
    surprises, tried = law(QUICK, WAYS, samples=2)
    assert not surprises, "found where, listed where"
    assert set(tried.values()) == {len(QUICK)}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_second_derivatives_of_compiled_operators(name):
    torch.compiler.reset()
    surprises, tried = law([name], {"compiled": compiled}, samples=1)
    assert not surprises, "found where, listed where"
    assert tried["compiled"], "the compiler refuses it"


def test_every_listed_operator_is_in_the_database():
    assert WRONG.keys() <= operators().keys()
