"""Whether contenders compute the same thing: their float64 meta-gradients and evaluation losses against the loop's.

A contender that does not agree is not timed: a fast wrong gradient is no result. Two tasks and at most three inner
steps are looked at; more of either run the same code.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from quickstudy.bench.contenders import contender
from quickstudy.bench.makers import ByHand, Library, Maker
from quickstudy.bench.workloads import Case
from quickstudy.errors import InputError, describe_error

LIMIT = 1e-8
"""Relative. Correct implementations in float64 differ by 1e-15 to 1e-12, wrong ones by 1e-4 and more."""

FAINT = 1e-6
"""A gradient this much smaller than the largest is compared on that scale: a bias before a batch norm has gradient 0,
and what is computed for it is rounding."""


def shrink_case(case: Case) -> Case:
    """What is looked at of a case."""
    return replace(case, tasks=2, steps=min(case.steps, 3), phase="train")


def check_agreement(case: Case, names: Sequence[str]) -> dict[str, float | str]:
    """For each contender the largest relative error, or why there is none."""
    small = shrink_case(case)
    reference = Library(small, torch.float64, slice(None), {"backend": "loop"})
    right = [*reference.gradients(), reference.evaluate()]
    found: dict[str, float | str] = {}
    for name in names:
        try:
            found[name] = _error(name, small, right)
        except Exception as error:  # a peer may fail in any way, and the others are still to be measured
            found[name] = str(error) if isinstance(error, InputError) else describe_error(error)
    return found


def _error(name: str, case: Case, right: list[Tensor]) -> float | str:
    one = contender(name)
    maker: Maker = replace(one, processes=1).make(case, dtype=torch.float64)
    if isinstance(maker, ByHand):
        maker.share_noise()
    return relative_error([*maker.gradients(), maker.evaluate()], right)


def relative_error(given: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """The largest relative error of any tensor; infinite where something is not a number.

    >>> relative_error([torch.tensor([1.0, 2.2])], [torch.tensor([1.0, 2.0])]) < 0.1
    True
    """
    floor = FAINT * max(float(r.norm()) for r in right)
    gaps = [float((g - r).norm()) / max(float(r.norm()), floor) for g, r in zip(given, right, strict=True)]
    return max(gaps) if all(gap == gap for gap in gaps) else float("inf")


def explain_fault(found: float | str) -> str | None:
    """Why a contender is not timed, or None."""
    if isinstance(found, str):
        return found
    return None if found < LIMIT else f"its meta-gradient is wrong: relative error {found:.1e} in float64"
