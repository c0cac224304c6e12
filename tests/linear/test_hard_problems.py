"""Problems that users have and solvers dislike: each converges, without a warning, to the optimum of what was posed."""

import numpy as np
import pytest
from linear.problems import newton_optimum

from softhead import SoftmaxClassifier


def scales(rng):
    X = rng.normal(size=(300, 7)) * 10.0 ** np.arange(-6, 7, 2)
    return X, (X / 10.0 ** np.arange(-6, 7, 2))[:, :3].argmax(axis=1), 1e3


def far_from_zero(rng):
    X = rng.normal(size=(300, 4)) + 1e3
    return X, (X[:, 0] > 1e3).astype(int) + (X[:, 1] + rng.normal(size=300) > 1e3), 1.0


def constant_and_zero_columns(rng):
    X = rng.normal(size=(200, 3))
    return np.column_stack([X, np.full(200, 7.0), np.zeros(200)]), rng.integers(0, 3, 200), 10.0


def duplicate_columns(rng):
    X = rng.normal(size=(200, 3))
    return np.column_stack([X, X, -2.0 * X]), (X[:, 0] + 0.3 * rng.normal(size=200) > 0).astype(int), 10.0


def fewer_rows_than_columns(rng):
    return rng.normal(size=(20, 60)), np.arange(20) % 3, 1.0


def separable(rng):
    y = np.arange(150) % 3
    return rng.normal(size=(150, 2)) + 20.0 * np.eye(3)[y][:, :2], y, 1e4


def a_class_with_one_row(rng):
    y = np.r_[rng.integers(0, 3, 99), 3]
    return rng.normal(size=(100, 5)), y, 100.0


HARD = [
    scales,
    far_from_zero,
    constant_and_zero_columns,
    duplicate_columns,
    fewer_rows_than_columns,
    separable,
    a_class_with_one_row,
]


@pytest.mark.parametrize("make", HARD, ids=lambda make: make.__name__)
@pytest.mark.parametrize(("dtype", "tol"), [(np.float64, 1e-8), (np.float32, 1e-4)])
def test_the_optimum_of_the_posed_problem_is_found(make, dtype, tol):
    X, y, C = make(np.random.default_rng(0))
    X = X.astype(dtype)
    model = SoftmaxClassifier(C=C, tol=tol).fit(X, y)  # a ConvergenceWarning would be an error
    classes = len(model.classes_)
    l2 = (2.0 if classes == 2 else 1.0) / (C * len(y))
    problem = {"X": X.astype(float), "targets": y, "n_classes": classes, "sample_weight": np.ones(len(y)), "l2": l2}
    optimum, _ = newton_optimum({**problem, "fit_intercept": True})
    assert model.status_ == "converged"
    assert model.gap_ <= tol * model.objective_
    assert model.objective_ - optimum <= model.gap_ + 1e-12
    assert model.objective_ >= optimum * (1.0 - 1e-8)


def test_units_of_columns_do_not_change_what_an_unpenalised_model_predicts():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 5))
    y = (X[:, 0] + rng.normal(size=300) > 0).astype(int) + (X[:, 1] + rng.normal(size=300) > 1)
    units = 10.0 ** np.array([-6.0, -3.0, 0.0, 3.0, 6.0])
    plain = SoftmaxClassifier(C=np.inf, tol=1e-10).fit(X, y)
    other = SoftmaxClassifier(C=np.inf, tol=1e-10).fit(X * units, y)
    np.testing.assert_allclose(other.coef_ * units, plain.coef_, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(other.predict_proba(X * units), plain.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e30), (np.float64, 1e200)])
def test_features_whose_squares_overflow_are_an_error_that_says_what_to_do(dtype, size):
    X = (np.random.default_rng(2).normal(size=(50, 3)) * size).astype(dtype)
    with pytest.raises(ValueError, match=r"X: .* overflow.*scale the features down"):
        SoftmaxClassifier().fit(X, np.arange(50) % 3)
