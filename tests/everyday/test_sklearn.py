"""scikit-learn's own checks of its conventions, on rows of numbers. Each expected failure has its reason."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

import quickstudy as qs

EXPECTED: dict[str, str] = {}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [qs.FewShotClassifier(), qs.FewShotRegressor()], expected_failed_checks=lambda estimator: EXPECTED
)
def test_the_conventions_of_scikit_learn_hold(estimator, check):
    check(estimator)
