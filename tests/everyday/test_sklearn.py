"""scikit-learn's own checks of its conventions, on rows of numbers. Each expected failure has its reason."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.base import is_classifier, is_regressor
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import quickstudy as qs

EXPECTED: dict[str, str] = {}

with warnings.catch_warnings():
    # The classes have what scikit-learn asks for without inheriting it: its import takes as long as torch's.
    warnings.filterwarnings("ignore", "Estimator .* does not inherit")
    every_check = parametrize_with_checks(
        [qs.FewShotClassifier(), qs.FewShotRegressor()], expected_failed_checks=lambda estimator: EXPECTED
    )


@pytest.mark.filterwarnings("ignore")
@every_check
def test_the_conventions_of_scikit_learn_hold(estimator, check):
    check(estimator)


def test_they_work_inside_of_scikit_learns_own():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), np.repeat(["a", "b", "c"], 10)
    x += 3 * (y[:, None] == np.array(["a", "b", "c"]))
    assert is_classifier(qs.FewShotClassifier()) and is_regressor(qs.FewShotRegressor())
    assert cross_val_score(make_pipeline(StandardScaler(), qs.FewShotClassifier()), x, y).mean() > 0.8
    search = GridSearchCV(qs.FewShotClassifier(), {"norms": ["support", "trained"]}).fit(x, y)
    assert search.best_score_ > 0.8
    assert cross_val_score(qs.FewShotRegressor(), x, x @ [1.0, 2.0, 3.0]).mean() > 0.99


WITHOUT = """
import numpy as np, quickstudy as qs, quickstudy.everyday.estimator as e
e.has_sklearn = lambda: False

class Table:  # as those of pandas and polars
    def __init__(self, **columns):
        self.columns, self.held = list(columns), columns
    def to_numpy(self):
        return np.array(list(self.held.values())).T
    def __len__(self):
        return 4
    def __getitem__(self, names):
        return Table(**{name: self.held[name] for name in names})

table = Table(kg=[1.0, 2, 8, 9], cm=[90.0, 80, 20, 10])
c = qs.FewShotClassifier().fit(table, ["low", "low", "high", "high"])
r = qs.FewShotRegressor().fit(table, [1.0, 2.0, 3.0, 4.0])
assert c.predict(table).tolist() == ["low", "low", "high", "high"]
turned = table[["cm", "kg"]]
for use in (c.predict, r.predict, c.predict_set, lambda x: c.score(x, ["low"] * 4), lambda x: c.update(x, ["low"] * 4),
            lambda x: c.export("a.onnx", x), lambda x: r.export("a.pt2", x)):
    try:
        use(turned)
        print("taken")
    except qs.InputError as refusal:
        assert str(refusal).startswith("X has the columns cm, kg, and `fit` had kg, cm"), refusal
"""


def test_columns_in_another_order_are_refused_without_scikit_learn_too(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False, timeout=200, cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_scikit_learn_is_not_imported_with_them_and_need_not_be_there():
    script = (
        "import sys, quickstudy as qs; c = qs.FewShotClassifier(); assert 'sklearn' not in sys.modules; "
        "sys.modules['sklearn'] = None; "
        "import quickstudy.everyday.estimator as e; e.has_sklearn = lambda: False; "
        "print(c.fit([[0.0], [1.0], [5.0]], [*'aab']).predict([[4.0]]), c)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == "['b'] FewShotClassifier()\n"
