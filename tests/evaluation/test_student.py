"""The quantiles of Student's t, beside those of scipy."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import t

from quickstudy.evaluation.student import student


@given(st.floats(0.1, 0.9999), st.integers(1, 20_000))
@example(0.95, 1)
@example(0.95, 2)
@example(0.95, 3)
@example(0.95, 99_999)
def test_the_quantile_is_students(confidence, freedom):
    assert student(confidence, freedom) == pytest.approx(t.ppf((1 + confidence) / 2, freedom), rel=1e-8)
