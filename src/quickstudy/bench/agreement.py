"""Agreement of contenders: their float64 meta-gradients and evaluation losses are compared with this library's loop.

A contender that does not agree is not timed: a wrong gradient is of no use, however fast it is. Two tasks and at most
three inner steps are compared; more of them would run the same code.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from quickstudy.bench.contenders import get_contender
from quickstudy.bench.implementations import ByHand, Implementation, Library
from quickstudy.bench.workloads import Case
from quickstudy.errors import InputError, describe_error

MAX_RELATIVE_ERROR = 1e-8
"""Correct implementations in float64 differ by a relative error of 1e-15 to 1e-12, wrong ones by 1e-4 and more."""

GRADIENT_FLOOR = 1e-6
"""The error of a small gradient is relative to this share of the largest gradient. A bias before a batch norm has the
gradient 0, and its computed value is a rounding error."""


def shrink_case(case: Case) -> Case:
    """The smaller case that is compared in place of a case."""
    return replace(case, tasks=2, steps=min(case.steps, 3), phase="train")


def check_agreement(case: Case, names: Sequence[str]) -> dict[str, float | str]:
    """The largest relative error of each contender, or the reason why there is none."""
    small = shrink_case(case)
    reference = Library(small, torch.float64, slice(None), {"backend": "loop"})
    right = [*reference.gradients(), reference.evaluate()]
    errors: dict[str, float | str] = {}
    for name in names:
        try:
            errors[name] = _compare_contender(name, small, right)
        except Exception as error:  # a peer may fail in any way, and the others are still to be measured
            errors[name] = str(error) if isinstance(error, InputError) else describe_error(error)
    return errors


def _compare_contender(name: str, case: Case, right: list[Tensor]) -> float:
    one: Implementation = replace(get_contender(name), processes=1).make(case, dtype=torch.float64)
    if isinstance(one, ByHand):
        one.share_noise()
    return relative_error([*one.gradients(), one.evaluate()], right)


def relative_error(given: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """The largest relative error of any tensor; infinite if a value is NaN.

    >>> relative_error([torch.tensor([1.0, 2.2])], [torch.tensor([1.0, 2.0])]) < 0.1
    True
    """
    floor = GRADIENT_FLOOR * max(float(r.norm()) for r in right)
    gaps = [float((g - r).norm()) / max(float(r.norm()), floor) for g, r in zip(given, right, strict=True)]
    return max(gaps) if all(gap == gap for gap in gaps) else float("inf")


def explain_disagreement(error: float | str) -> str | None:
    """Why a contender is not timed; None if it agrees."""
    if isinstance(error, str):
        return error
    return None if error < MAX_RELATIVE_ERROR else f"its meta-gradient is wrong: relative error {error:.1e} in float64"
