"""The peak speed of the machine, and the number of operations of a case."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from quickstudy.bench.implementations import ByHand
from quickstudy.bench.workloads import Case

MATRIX_SIDE = 1536
"""Rows and columns of the matrices that are multiplied."""

CONV_IMAGES, CONV_CHANNELS, CONV_PIXELS = 64, 64, 28
"""The 3x3 convolution that is timed: a layer of Conv4-64 over some images of a task."""

SECONDS_PER_PEAK = 1.0
"""How long each of the two is repeated."""


def measure_peaks() -> dict[str, float]:
    """GFLOP/s of a large matrix product and of a 3x3 convolution in single precision, with this process's threads."""
    a, b = torch.randn(2, MATRIX_SIDE, MATRIX_SIDE)
    x = torch.randn(CONV_IMAGES, CONV_CHANNELS, CONV_PIXELS, CONV_PIXELS)
    kernel = torch.randn(CONV_CHANNELS, CONV_CHANNELS, 3, 3)
    conv_flops = 2 * CONV_IMAGES * CONV_CHANNELS**2 * 9 * CONV_PIXELS**2
    return {
        "threads": float(torch.get_num_threads()),
        "matmul": _measure_gflops("a @ b", 2 * MATRIX_SIDE**3, a=a, b=b),
        "conv": _measure_gflops("F.conv2d(x, kernel, padding=1)", conv_flops, F=F, x=x, kernel=kernel),
    }


def _measure_gflops(statement: str, flops: int, **names: Any) -> float:
    timer = Timer(statement, globals=names, num_threads=torch.get_num_threads())
    return flops / timer.blocked_autorange(min_run_time=SECONDS_PER_PEAK).median / 1e9


def count_flops(case: Case) -> int:
    """The multiplications and additions of a case, counted for the loop by hand (matrix products and convolutions).

    The same number stands for every contender, also for one that needs fewer: so rates compare as times do.
    """
    one = ByHand(replace(case, tasks=1), torch.float32, slice(None), {})
    with FlopCounterMode(display=False) as counter:
        one.evaluate() if case.phase == "evaluate" else one.gradients()
    return int(counter.get_total_flops()) * case.tasks
