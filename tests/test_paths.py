import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_digits, load_iris

from softhead import SoftmaxClassifier, softmax_path


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"fit_intercept": False}, {"class_weight": "balanced"}])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_path_is_a_fit_for_every_c(classes, options, dtype):
    X, y = load_iris(return_X_y=True)
    X, y = X[y < classes].astype(dtype), y[y < classes]
    weight = np.random.default_rng(0).exponential(size=len(y))
    Cs = [1.0, 1e-3, 100.0, 0.03]
    path = softmax_path(X, y, Cs=Cs, sample_weight=weight, tol=1e-6, **options)
    np.testing.assert_array_equal(path.Cs, Cs)
    rows = 1 if classes == 2 else 3
    assert (path.coefs.shape, path.intercepts.shape, path.coefs.dtype) == ((4, rows, 4), (4, rows), dtype)
    assert path.statuses == ["converged"] * 4
    assert (path.gaps <= 1e-6 * path.objectives).all()
    for index, C in enumerate(Cs):
        model = SoftmaxClassifier(C=C, tol=1e-6, **options).fit(X, y, weight)
        assert path.objectives[index] == pytest.approx(model.objective_, rel=2e-6)
        same = path.classifier(index)
        assert (same.C, same.gap_, same.status_) == (C, path.gaps[index], "converged")
        np.testing.assert_allclose(same.predict_proba(X), model.predict_proba(X), atol=0.01)


def test_an_integer_is_a_grid_and_infinity_is_no_penalty():
    X, y = load_iris(return_X_y=True)
    path = softmax_path(X[50:], y[50:], Cs=4)
    np.testing.assert_allclose(path.Cs, [1e-4, 10 ** (-4 / 3), 10 ** (4 / 3), 1e4])
    assert (np.diff(path.objectives) < 0).all()
    path = softmax_path(X[50:], y[50:], Cs=[np.inf, 1.0])
    assert (path.gaps[0], path.statuses[0], path.gaps[1] < 1e-4) == (np.inf, "converged", True)
    alone = SoftmaxClassifier(C=np.inf).fit(X[50:], y[50:])
    assert path.objectives[0] == pytest.approx(alone.objective_, rel=1e-5)


def test_what_float32_cannot_certify_says_so():
    X, y = load_digits(return_X_y=True)
    path = softmax_path((X[:200] / 16.0).astype(np.float32), y[:200], Cs=[1e-2, 1.0], tol=1e-15)
    assert path.statuses == ["precision_limit"] * 2
    assert (path.gaps < 1e-6 * path.objectives).all()
    assert softmax_path(X, y, Cs=[1.0], tol=1e-9, max_iter=3).statuses == ["max_iter"]


def test_sparse_is_dense():
    X, y = load_digits(return_X_y=True)
    X, y = np.where(X > 8, X, 0.0)[:300], y[:300]
    dense, thin = (softmax_path(M, y, Cs=[1e-4, 1e-2], tol=1e-8) for M in (X, sparse.csc_array(X)))
    np.testing.assert_allclose(thin.objectives, dense.objectives, rtol=2e-8)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"Cs": [0.0]}, ValueError, "Cs: 0 is among them"),
        ({"Cs": True}, TypeError, "Cs: True"),
        ({"Cs": [[1.0]]}, ValueError, r"shape \(1, 1\)"),
        ({"tol": np.nan}, ValueError, "tol == nan"),
        ({"sample_weight": [1.0]}, ValueError, "sample_weight: shape"),
        ({"class_weight": "even"}, ValueError, "class_weight"),
    ],
)
def test_wrong_parameters_are_named(options, error, message):
    with pytest.raises(error, match=message):
        softmax_path(*load_iris(return_X_y=True), **options)
    with pytest.raises(ValueError, match="at least 2 classes"):
        softmax_path([[0.0], [1.0]], [1, 1])


def test_its_classifiers_have_the_names_of_features_and_all_parameters():
    X, y = load_iris(return_X_y=True, as_frame=True)
    weights = {0: 1.0, 1: 2.0, 2: 1.0}
    path = softmax_path(X, y, Cs=[1.0, 2.0], fit_intercept=False, class_weight=weights, tol=1e-3, max_iter=50)
    model = path.classifier(1)
    assert model.feature_names_in_.tolist() == X.columns.tolist()
    assert model.score(X, y) > 0.9
    expected = SoftmaxClassifier(2.0, fit_intercept=False, class_weight=weights, tol=1e-3, max_iter=50)
    assert model.get_params() == expected.get_params()
    # Intercepts that are all 0 were fitted all the same.
    assert softmax_path([[-1.0], [1.0]], [0, 1], Cs=[1.0]).classifier(0).fit_intercept
