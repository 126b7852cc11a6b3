"""The machine under the numbers: what it is, what it can do at most, and how much a case asks of it."""

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from quickstudy.bench.makers import ByHand
from quickstudy.bench.workloads import Case

SIDE = 1536
"""Of the square matrices that are multiplied."""

IMAGES, CHANNELS, PIXELS = 64, 64, 28
"""Of the 3x3 convolution: a layer of Conv4-64 over some of a task's images."""

SPENT = 1.0
"""Seconds for each of the two peaks."""


def measure_peaks() -> dict[str, float]:
    """GFLOP/s of a large single-precision product and of a 3x3 convolution, with this process's threads."""
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    x, kernel = torch.randn(IMAGES, CHANNELS, PIXELS, PIXELS), torch.randn(CHANNELS, CHANNELS, 3, 3)
    with torch.no_grad():
        return {
            "threads": float(torch.get_num_threads()),
            "matmul": _rate(lambda: a @ b, 2 * SIDE**3),
            "conv": _rate(lambda: F.conv2d(x, kernel, padding=1), 2 * IMAGES * CHANNELS**2 * 9 * PIXELS**2),
        }


def _rate(work: Callable[[], object], flops: int) -> float:
    work()
    times = []
    began = perf_counter()
    while perf_counter() - began < SPENT:
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return flops / median(times) / 1e9


def count_flops(case: Case) -> int:
    """Of one go of the case, counted on the loop by hand: multiplications and additions of products and convolutions.

    A contender that does with fewer has them counted all the same, so rates compare as times do.
    """
    one = ByHand(replace(case, tasks=1), torch.float32, slice(None), {})
    with FlopCounterMode(display=False) as counter:
        one.evaluate() if case.phase == "evaluate" else one.gradients()
    return int(counter.get_total_flops()) * case.tasks
