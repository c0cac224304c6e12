import itertools
import pickle
import warnings

import joblib
import numpy as np
import pytest
from linear.problems import newton_optimum
from scipy import sparse
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.estimator_checks import parametrize_with_checks

from softhead import SoftmaxClassifier
from softhead.linear.objective import LinearSoftmaxObjective


@parametrize_with_checks([SoftmaxClassifier()])
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)


def digits():
    return load_digits(return_X_y=True)


def objective_of(model, X, y, weight, *, C, fit_intercept):
    """F of a fitted model, ours or scikit-learn's, in float64."""
    classes, codes = np.unique(y, return_inverse=True)
    l2 = (2.0 if len(classes) == 2 else 1.0) / (C * weight.sum())
    objective = LinearSoftmaxObjective(X, codes, n_classes=len(classes), sample_weight=weight, l2=l2)
    coef, intercept = model.coef_.astype(float), np.broadcast_to(model.intercept_, len(model.coef_)).astype(float)
    if len(classes) == 2:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    return objective.loss_gradient(np.column_stack([coef, intercept]))[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(
    ("data", "C"), [("digits", 0.01), ("digits", 1.0), ("iris", 1.0), ("two", 1.0), ("two", np.inf), ("cancer", 10.0)]
)
def test_the_optimum_is_that_of_logistic_regression(data, C, fit_intercept, weighted, dtype):
    if data == "digits":
        X, y = digits()
        X = X / 16.0
    elif data == "cancer":
        X, y = load_breast_cancer(return_X_y=True)
        X = StandardScaler().fit_transform(X)
    else:
        X, y = load_iris(return_X_y=True)
        X, y = (X[y > 0], y[y > 0]) if data == "two" else (X, y)
    X = X.astype(np.float32).astype(dtype)
    rng = np.random.default_rng(0)
    sample_weight = rng.exponential(size=len(y)) if weighted else None
    options = {"C": C, "fit_intercept": fit_intercept, "class_weight": "balanced" if weighted else None}
    bound = 1e-9 if dtype is np.float64 else 1e-6  # float32 rounds the coefficients
    model = SoftmaxClassifier(tol=min(bound, 1e-8), **options).fit(X, y, sample_weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's own line search complains near the optimum
        peer = LogisticRegression(tol=1e-10, max_iter=2000, solver="newton-cg", **options)
        peer.fit(X.astype(float), y, sample_weight)

    classes, codes = np.unique(y, return_inverse=True)
    weight = np.ones(len(y)) if sample_weight is None else sample_weight.copy()
    if weighted:
        weight *= compute_class_weight("balanced", classes=classes, y=y, sample_weight=sample_weight)[codes]
    ours, theirs = (
        objective_of(m, X.astype(float), y, weight, C=C, fit_intercept=fit_intercept) for m in (model, peer)
    )
    assert model.status_ == "converged"
    assert ours <= theirs * (1.0 + bound)
    assert ours == pytest.approx(model.objective_, rel=1e-12)
    assert ours - min(ours, theirs) <= model.gap_
    assert (model.gap_ == np.inf) == (np.inf == C)
    if fit_intercept:
        frequencies = np.bincount(codes, weights=weight) / weight.sum()
        np.testing.assert_allclose(
            weight @ model.predict_proba(X) / weight.sum(), frequencies, atol=1e-6 if np.inf == C else 2e-7
        )


@pytest.mark.parametrize(("classes", "rows"), [(2, 1), (3, 3)])
def test_shapes_are_those_of_logistic_regression(classes, rows):
    X, y = load_iris(return_X_y=True)
    X, y = X[y < classes], y[y < classes]
    model, peer = SoftmaxClassifier().fit(X, y), LogisticRegression(max_iter=1000).fit(X, y)
    for name in ("coef_", "intercept_", "classes_", "n_iter_"):
        assert getattr(model, name).shape == getattr(peer, name).shape
    assert model.coef_.shape == (rows, 4)
    assert model.decision_function(X).shape == peer.decision_function(X).shape
    np.testing.assert_allclose(model.predict_proba(X), peer.predict_proba(X), atol=0.02)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X), rtol=1e-12)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1.0, rtol=1e-15)
    np.testing.assert_array_equal(model.predict(X), model.classes_[model.predict_proba(X).argmax(axis=1)])


def test_soft_labels_are_weighted_repetitions():
    rng = np.random.default_rng(0)
    X, q, s = rng.normal(size=(50, 3)), rng.dirichlet(np.ones(4), size=50), rng.exponential(size=50)
    for class_weight in (None, "balanced", {0: 2.0, 1: 1.0, 2: 0.5, 3: 3.0}):
        options = {"class_weight": class_weight, "tol": 1e-11}
        soft = SoftmaxClassifier(**options).fit_proba(X, q, sample_weight=s)
        hard = SoftmaxClassifier(**options).fit(
            np.repeat(X, 4, axis=0), np.tile(np.arange(4), 50), (s[:, None] * q).ravel()
        )
        np.testing.assert_allclose(soft.coef_, hard.coef_, atol=1e-5)
        np.testing.assert_allclose(soft.intercept_, hard.intercept_, atol=1e-5)


def test_soft_labels_that_are_one_hot_are_hard_labels():
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])
    soft = SoftmaxClassifier(tol=1e-10).fit_proba(X, np.eye(3)[y], classes=names)
    hard = SoftmaxClassifier(tol=1e-10).fit(X, names[y])
    np.testing.assert_allclose(soft.coef_, hard.coef_, atol=1e-6)
    np.testing.assert_array_equal(soft.predict(X), hard.predict(X))


@pytest.mark.parametrize(
    ("probabilities", "classes", "message"),
    [
        ([[0.5, 0.6], [1.0, 0.0]], None, "probabilities: row 0 .* sum 1.1"),
        ([[0.5, 0.5], [1.5, -0.5]], None, "probabilities: row 1 has the minimum -0.5"),
        ([[0.5, 0.5]], None, "probabilities: 1 rows for 2 rows of X"),
        ([[0.5, 0.5], [1.0, np.nan]], None, "NaN"),
        ([[0.5, 0.5], [1.0, 0.0]], ["b", "a"], "classes: must be 2 different labels in sorted order"),
        ([[0.5, 0.5], [1.0, 0.0]], ["a"], "classes: must be 2 different labels"),
        ([[1.0], [1.0]], None, "at least 2 classes"),
    ],
)
def test_wrong_soft_labels_are_named(probabilities, classes, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxClassifier().fit_proba([[0.0], [1.0]], probabilities, classes=classes)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"C": 0.0}, ValueError, "C == 0"),
        ({"C": -1.0}, ValueError, "C == -1"),
        ({"C": float("nan")}, ValueError, "C == nan"),
        ({"C": 5e-324}, ValueError, "C == 5e-324, must be larger"),
        ({"C": "1"}, TypeError, "C must be"),
        ({"tol": -1e-4}, ValueError, "tol == -0.0001"),
        ({"max_iter": 1.5}, TypeError, "max_iter must be"),
        ({"fit_intercept": "no"}, TypeError, "fit_intercept must be"),
        ({"warm_start": 1}, TypeError, "warm_start must be"),
        ({"class_weight": "even"}, ValueError, "class_weight"),
    ],
)
def test_wrong_parameters_are_named(parameters, error, message):
    with pytest.raises(error, match=message):
        SoftmaxClassifier(**parameters).fit([[0.0], [1.0]], [0, 1])


@pytest.mark.parametrize(
    ("weight", "message"),
    [([1.0, -1.0], "sample_weight: -1 at row 1"), ([0.0, 0.0], "zero"), ([1.0], r"sample_weight: shape \(1,\)")],
)
def test_wrong_weights_are_named(weight, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxClassifier().fit([[0.0], [1.0]], [0, 1], weight)


@pytest.mark.parametrize(
    "labels", [["no", "yes", "maybe"], [False, True, False], [3, -1, 7], np.array(["a", "b", "c"], object)]
)
def test_labels_keep_their_type(labels):
    labels = np.asarray(labels)
    model = SoftmaxClassifier(C=100.0).fit(np.arange(3.0)[:, None] ** [[1, 2]], labels)
    predicted = model.predict([[0.0, 0.0]])
    assert predicted.dtype == labels.dtype
    again = SoftmaxClassifier.from_state(model.to_state())
    assert again.classes_.dtype == model.classes_.dtype
    np.testing.assert_array_equal(again.classes_, model.classes_)


def test_sparse_is_dense():
    X, y = digits()
    X = np.where(X > 8, X, 0.0)
    dense = SoftmaxClassifier(tol=1e-9).fit(X, y)
    for container in (sparse.csr_array, sparse.csr_matrix, sparse.csc_array, sparse.coo_array):
        model = SoftmaxClassifier(tol=1e-9).fit(container(X), y)
        np.testing.assert_allclose(model.coef_, dense.coef_, atol=1e-4)
        np.testing.assert_array_equal(model.predict(container(X)), model.predict(X))
        np.testing.assert_allclose(model.predict_proba(container(X)), model.predict_proba(X), rtol=1e-9, atol=1e-300)


def test_repeated_entries_of_a_sparse_matrix_add_up_and_it_is_not_changed():
    data, indices, indptr = np.array([1.0, 2.0, 5.0, 1.0]), np.array([0, 0, 1, 0]), np.array([0, 2, 3, 4])
    X = sparse.csr_array((data, indices, indptr), shape=(3, 2))
    model = SoftmaxClassifier().fit(X, [0, 1, 1])
    same = SoftmaxClassifier().fit(np.array([[3.0, 0.0], [0.0, 5.0], [1.0, 0.0]]), [0, 1, 1])
    np.testing.assert_allclose(model.coef_, same.coef_, rtol=1e-12)
    assert X.nnz == 4


def test_warm_start_ends_where_it_began():
    X, y = digits()
    for keep in (y >= 0, y < 2):
        model = SoftmaxClassifier(warm_start=True, tol=1e-6).fit(X[keep], y[keep])
        passes, coef = model.n_passes_, model.coef_.copy()
        model.fit(X[keep], y[keep])
        assert model.n_iter_[0] == 0
        assert model.n_passes_ < passes / 3
        np.testing.assert_array_equal(model.coef_, coef)
    model.fit(X, y)  # other classes: from zero
    cold = SoftmaxClassifier(tol=1e-6).fit(X, y)
    np.testing.assert_array_equal(model.coef_, cold.coef_)


def test_separable_classes_without_a_penalty_warn_and_say_why():
    X, y = np.array([[-1.0], [-2.0], [1.0], [2.0]]), [0, 0, 1, 1]
    with pytest.warns(ConvergenceWarning, match="max_iter=30 .* hyperplane separates"):
        model = SoftmaxClassifier(C=np.inf, max_iter=30).fit(X, y)
    assert (model.status_, model.gap_) == ("max_iter", np.inf)
    np.testing.assert_array_equal(model.predict(X), y)


def test_a_class_without_weight_leaves_the_others_as_they_are():
    X, y = load_iris(return_X_y=True)
    weight = (y != 2).astype(float)
    model = SoftmaxClassifier(tol=1e-7).fit(X, y, weight)
    pair = SoftmaxClassifier(C=2.0, tol=1e-7).fit(X[y != 2], y[y != 2])  # one vector, of half the squared norm
    assert model.predict_proba(X)[y != 2, 2].max() < 1e-5
    np.testing.assert_allclose(model.predict_proba(X)[:, 1][y != 2], pair.predict_proba(X)[:, 1][y != 2], atol=1e-3)


def test_ctrl_c_keeps_the_best_model_and_is_raised():
    class Interrupt:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if fitted_estimator.n_passes_ > 5:
                raise KeyboardInterrupt

    X, y = digits()
    model = SoftmaxClassifier(tol=1e-12).set_callbacks(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.status_ == "interrupted"
    assert model.score(X, y) > 0.8
    assert 0.0 < model.gap_ < np.inf


def test_callbacks_see_the_model_of_every_iteration():
    seen = []

    class Recorder:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            seen.append(fitted_estimator)

    X, y = digits()
    names = np.array([f"digit {digit}" for digit in y])
    weight = np.random.default_rng(0).exponential(size=len(y))
    monitor = ScoringMonitor(scoring="neg_log_loss")
    model = SoftmaxClassifier().set_callbacks(Recorder(), monitor, ProgressBar()).fit(X, names, weight)
    *iterates, last = seen
    assert [iterate.n_iter_[0] for iterate in iterates] == list(range(model.n_iter_[0] + 1))
    assert all(a.n_passes_ < b.n_passes_ for a, b in itertools.pairwise(iterates))
    assert iterates[0].objective_ == pytest.approx(np.log(10))
    assert iterates[-1].objective_ >= model.objective_ - 1e-12
    for iterate in iterates:
        loss = log_loss(names, iterate.predict_proba(X), sample_weight=weight)
        penalty = 0.5 * (iterate.coef_**2).sum() / weight.sum()
        assert iterate.objective_ == pytest.approx(loss + penalty, rel=1e-12)
        assert iterate.objective_ - model.objective_ <= iterate.gap_
    np.testing.assert_array_equal(last.coef_, model.coef_)
    assert last.gap_ == model.gap_
    scored = [entry["neg_log_loss"] for entry in monitor.get_logs().data]  # that of the whole fit first
    losses = [log_loss(names, iterate.predict_proba(X), sample_weight=weight) for iterate in (last, *iterates)]
    np.testing.assert_allclose(scored, np.negative(losses), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_without_a_penalty_the_classes_sum_to_zero(dtype):
    X, y = digits()
    y = np.random.default_rng(0).integers(0, 4, len(y))  # nothing separates these
    model = SoftmaxClassifier(C=np.inf).fit(X[:, 20:30].astype(dtype), y)
    np.testing.assert_allclose(model.coef_.sum(axis=0), 0.0, atol=4 * np.finfo(dtype).eps * abs(model.coef_).max())
    assert abs(model.intercept_.sum()) <= 4 * np.finfo(dtype).eps * abs(model.intercept_).max()


def test_it_lives_in_pipelines_searches_and_files(tmp_path):
    X, y = digits()
    pipeline = make_pipeline(StandardScaler(), SoftmaxClassifier())
    search = GridSearchCV(pipeline, {"softmaxclassifier__C": [0.001, 0.1]}, cv=3, n_jobs=2).fit(X, y)
    assert search.best_score_ > 0.9
    model = search.best_estimator_
    joblib.dump(model, tmp_path / "model")
    for other in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model")):
        np.testing.assert_array_equal(other.predict_proba(X), model.predict_proba(X))
    assert clone(model).get_params()["softmaxclassifier__C"] == search.best_params_["softmaxclassifier__C"]


def test_more_features_than_rows():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(30, 200)), np.arange(30) % 3
    model = SoftmaxClassifier(tol=1e-10).fit(X, y)
    optimum, _ = newton_optimum(
        {"X": X, "targets": y, "n_classes": 3, "sample_weight": np.ones(30), "l2": 1 / 30, "fit_intercept": True}
    )
    assert -1e-14 <= model.objective_ - optimum <= model.gap_ <= 1e-10 * model.objective_


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("C", [1e-6, 1e-3, 1.0, 1e6])
def test_rare_classes_and_useless_features_converge(C, dtype):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X = (rng.normal(size=(400, 5)) * [0.0, 1e-3, 1.0, 1.0, 1e3]).astype(dtype)
        y = np.minimum(rng.geometric(0.6, size=400), 8)
        for tol in (1e-2, 1e-4):
            model = SoftmaxClassifier(C=C, tol=tol).fit(X, y)
            assert model.status_ == "converged"
            assert model.gap_ <= tol * model.objective_


def test_a_start_where_all_is_decided_and_wrong_is_left():
    X = np.array([[-1.0], [1.0], [-1.0], [1.0]]) * 1e3
    model = SoftmaxClassifier(C=1e6, warm_start=True).fit(X, [0, 1, 0, 1])
    assert model.fit(X, [1, 0, 0, 1]).objective_ == pytest.approx(np.log(2.0))
    model.coef_[:], model.intercept_[:] = 50.0, 1e6
    assert model.fit(X, [1, 0, 0, 1]).objective_ == pytest.approx(np.log(2.0), rel=1e-4)


@pytest.mark.parametrize("fit", ["fit", "fit_proba"])
def test_objectives_all_but_0_are_exact_and_their_gap_is_true(fit):
    X, y = np.array([[1.0], [-1.0]] * 5), np.array([1, 0] * 5)
    for C in (1.0, 1e6, 1e12):
        model = SoftmaxClassifier(C=C, tol=1e-8)
        model = model.fit(X, y) if fit == "fit" else model.fit_proba(X, np.eye(2)[y])
        # One vector w and no intercept by symmetry: log1p(exp(-w)) + w^2 / 20 C, minimised by bisection of its slope.
        low, high = 0.0, 100.0
        for _ in range(200):
            w = 0.5 * (low + high)
            low, high = (w, high) if w / (10.0 * C) < 1.0 / (1.0 + np.exp(w)) else (low, w)
        optimum = np.log1p(np.exp(-w)) + w * w / (20.0 * C)
        assert -1e-12 * optimum <= model.objective_ - optimum <= model.gap_ + 1e-12 * optimum
        assert model.gap_ <= 1e-8 * max(model.objective_, 1e-10)


def test_an_infimum_of_0_is_approached_and_certified():
    X, y = np.random.default_rng(0).normal(size=(10, 1)), np.arange(10) % 2
    model = SoftmaxClassifier(tol=1e-8).fit(X, y, sample_weight=(y == 1).astype(float))
    assert model.status_ == "converged"
    assert 0.0 < model.objective_ <= model.gap_ <= 1e-18


@pytest.mark.parametrize(
    ("weights", "message"),
    [({0: -1.0}, "class_weight: -1"), ({0: np.nan}, "class_weight: nan"), ({0: np.inf}, "class_weight: inf")],
)
def test_wrong_class_weights_are_named(weights, message):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=message):
        SoftmaxClassifier(class_weight={1: 1.0, 2: 1.0, **weights}).fit(X, y)
    with pytest.raises(ValueError, match=message):
        SoftmaxClassifier(class_weight={1: 1.0, 2: 1.0, **weights}).fit_proba(X, np.eye(3)[y])


def test_classes_of_weight_0_are_alike_for_hard_and_soft_labels():
    X, y = load_iris(return_X_y=True)
    for class_weight in ("balanced", {0: 0.0, 1: 1.0, 2: 1.0}):
        model = SoftmaxClassifier(class_weight=class_weight, tol=1e-8)
        weight = (y != 0).astype(float)
        hard = model.fit(X, y, weight).objective_
        assert model.fit_proba(X, np.eye(3)[y], sample_weight=weight).objective_ == pytest.approx(hard, rel=1e-7)


@pytest.mark.parametrize("scale", [1e160, 1e300])
def test_features_whose_squares_overflow_are_an_error(scale):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=r"X: .* overflow; scale the features down"):
        SoftmaxClassifier().fit(X * scale, y)
    with pytest.raises(ValueError, match="sample_weight: the sum of the weights overflows"):
        SoftmaxClassifier().fit(X, y, np.full(len(y), 1e308))


def test_repeated_sparse_entries_add_up_in_predictions_too():
    data, indices, indptr = np.array([1.0, 2.0, -5.0]), np.array([0, 0, 1]), np.array([0, 3])
    X = sparse.csr_array((data, indices, indptr), shape=(1, 2))
    rng = np.random.default_rng(0)
    for _ in range(20):
        model = SoftmaxClassifier().fit(rng.normal(size=(20, 2)), np.arange(20) % 3)
        assert model.predict(X) == model.predict(X.toarray())


def test_advice_on_precision_is_not_what_is_done_already():
    X, y = load_iris(return_X_y=True)
    for dtype, advice in ((np.float64, "A larger tol helps;"), (np.float32, "A larger tol or float64 features help;")):
        with pytest.warns(ConvergenceWarning, match=f"reached the limit of {np.dtype(dtype)} .*{advice}"):
            SoftmaxClassifier(tol=0.0).fit(X.astype(dtype), y)
