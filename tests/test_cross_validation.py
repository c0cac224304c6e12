import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import get_scorer, log_loss, make_scorer
from sklearn.model_selection import GroupKFold, PredefinedSplit, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from softhead import SoftmaxClassifier, SoftmaxClassifierCV, load, save
from softhead._scoring import neg_log_loss


@parametrize_with_checks([SoftmaxClassifierCV(Cs=3, cv=3)])
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)


def iris(dtype=np.float64):
    X, y = load_iris(return_X_y=True)
    return X.astype(dtype), y


def peer(**options):
    return LogisticRegressionCV(
        l1_ratios=(0,), use_legacy_attributes=False, solver="newton-cg", tol=1e-10, max_iter=1000, **options
    )


SCORINGS = ["neg_log_loss", "accuracy", "neg_brier_score", None]


@pytest.mark.parametrize(
    ("data", "scoring"),
    # LogisticRegressionCV cannot score two classes by f1_macro: it gives pos_label twice.
    [("iris", "f1_macro"), *((data, scoring) for data in ("iris", "cancer") for scoring in SCORINGS)],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_logistic_regression_cv(data, weighted, scoring):
    X, y = iris() if data == "iris" else load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    Cs = np.geomspace(1e-3, 1e1, 5)
    options = {"Cs": Cs, "scoring": scoring, "class_weight": "balanced" if weighted else None, "cv": 4}
    weight = np.random.default_rng(0).exponential(size=len(y)) if weighted else None
    ours = SoftmaxClassifierCV(tol=1e-9, **options).fit(X, y, weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newton-cg's line search complains near the optimum
        theirs = peer(**options).fit(X, y, weight)
    for name in ("scores_", "n_iter_", "coef_", "intercept_", "Cs_", "classes_"):
        assert getattr(ours, name).shape == getattr(theirs, name).shape
    np.testing.assert_allclose(ours.scores_, theirs.scores_, atol=1e-4)
    assert ours.C_ == theirs.C_
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)
    assert ours.score(X, y, weight) == pytest.approx(theirs.score(X, y, sample_weight=weight), abs=1e-4)


def test_without_a_refit_the_folds_best_are_averaged():
    X, y = iris()
    Cs = np.geomspace(1e-2, 1e2, 7)
    ours = SoftmaxClassifierCV(Cs, refit=False, tol=1e-10).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newton-cg's line search complains near the optimum
        theirs = peer(Cs=Cs, refit=False, scoring="neg_log_loss").fit(X, y)
    assert pytest.approx(theirs.C_) == ours.C_
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    best = SoftmaxClassifier(C=ours.C_, tol=1e-10).fit(X, y).objective_
    assert 0.0 < ours.objective_ - best <= ours.gap_


def test_the_chosen_classifier_is_that_of_a_fit_and_goes_into_files(tmp_path):
    X, y = iris(np.float32)
    names = np.array(["setosa", "versicolor", "virginica"])
    model = SoftmaxClassifierCV(Cs=[10.0, 0.1, 1.0]).fit(X, names[y])
    alone = SoftmaxClassifier(C=model.C_).fit(X, names[y])
    assert model.C_ == 10.0
    assert (model.status_, model.coef_.dtype) == ("converged", np.float32)
    assert model.objective_ == pytest.approx(alone.objective_, rel=2e-4)
    assert (model.gaps_ <= 1e-4).all()
    assert model.predict(X[:2]).tolist() == ["setosa", "setosa"]
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert (type(again), again.C, again.gap_) == (SoftmaxClassifier, 10.0, model.gap_)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    with pytest.raises(Exception, match="not fitted"):
        save(SoftmaxClassifierCV(), tmp_path / "other.safetensors")


def test_a_validation_set_decides_as_a_loop_would():
    X, y = load_digits(return_X_y=True)
    X, y = X[:600] / 16.0, y[:600]
    part = np.where(np.arange(600) < 400, -1, 0)  # train, validation
    Cs = np.geomspace(1e-3, 1e1, 9)
    model = SoftmaxClassifierCV(Cs, cv=PredefinedSplit(part), tol=1e-9).fit(X, y)
    scores = [
        -log_loss(y[400:], SoftmaxClassifier(C=C, tol=1e-9).fit(X[:400], y[:400]).predict_proba(X[400:])) for C in Cs
    ]
    np.testing.assert_allclose(model.scores_[0, 0], scores, atol=1e-4)
    assert Cs[np.argmax(scores)] == model.C_
    whole = SoftmaxClassifier(C=model.C_, tol=1e-9).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), whole.predict_proba(X), atol=1e-3)


def test_sparse_is_dense_and_groups_reach_the_splitter():
    X, y = load_digits(return_X_y=True)
    X, y = np.where(X > 8, X, 0.0)[:500], y[:500]
    groups = np.arange(500) // 50
    options = {"Cs": [1e-4, 1e-2], "cv": GroupKFold(2), "tol": 1e-7}
    dense = SoftmaxClassifierCV(**options).fit(X, y, groups=groups)
    thin = SoftmaxClassifierCV(**options).fit(sparse.csc_array(X), y, groups=groups)
    split = SoftmaxClassifierCV(**options | {"cv": list(GroupKFold(2).split(X, y, groups))}).fit(X, y)
    np.testing.assert_allclose(thin.scores_, dense.scores_, atol=1e-5)
    np.testing.assert_array_equal(split.scores_, dense.scores_)
    assert thin.score(sparse.csr_array(X), y) == pytest.approx(dense.score(X, y), abs=1e-6)


def test_frames_keep_their_names():
    pandas = pytest.importorskip("pandas")
    X, y = iris()
    frame = pandas.DataFrame(X, columns=list("abcd"))
    model = SoftmaxClassifierCV([0.1, 1.0]).fit(frame, pandas.Series(y))
    assert model.best_estimator_.feature_names_in_.tolist() == list("abcd")
    for scoring in ("neg_log_loss", "accuracy"):
        assert np.isfinite(model.set_params(scoring=scoring).score(frame, y))
    np.testing.assert_array_equal(model.predict(frame), model.best_estimator_.predict(frame))


def test_the_log_loss_is_scikit_learns_and_scorers_of_any_kind_are_asked():
    X, y = iris()
    model = SoftmaxClassifier(C=1e6).fit(X, y)
    weight = np.random.default_rng(1).exponential(size=len(y))
    scorer = get_scorer("neg_log_loss")
    assert neg_log_loss(model, X, y, None) == pytest.approx(scorer(model, X, y), rel=1e-12)
    assert neg_log_loss(model, X, y, weight) == pytest.approx(scorer(model, X, y, sample_weight=weight), rel=1e-12)
    with pytest.raises(ValueError, match="the label 7 is not among"):
        neg_log_loss(model, X[:1], np.array([7]), None)

    def plain(estimator, X, y):
        return (estimator.predict(X) == y).mean()

    def weighted(y, predicted, sample_weight=None):
        return np.average(y == predicted, weights=sample_weight)

    a = SoftmaxClassifierCV([0.1, 1.0], scoring=plain).fit(X, y, weight)
    b = SoftmaxClassifierCV([0.1, 1.0], scoring=make_scorer(weighted)).fit(X, y, weight)
    c = SoftmaxClassifierCV([0.1, 1.0], scoring="accuracy").fit(X, y, weight)
    np.testing.assert_array_equal(b.scores_, c.scores_)
    assert not np.array_equal(a.scores_, c.scores_)


def test_a_class_that_a_fold_lacks_is_scored_and_none_is_infinite():
    X, y = iris()
    folds = [(np.flatnonzero(y != c), np.flatnonzero(y == c)) for c in range(3)]
    for scoring in ("neg_log_loss", "accuracy", "neg_brier_score"):
        model = SoftmaxClassifierCV([0.1, 1.0], cv=folds, scoring=scoring).fit(X, y)
        assert np.isfinite(model.scores_).all()
        assert model.predict(X).max() == 2


def test_ties_take_the_strongest_penalty_whatever_the_order():
    X, y = iris()
    for Cs in ([1e-3, 1.0, 1e3], [1e3, 1e-3, 1.0]):
        model = SoftmaxClassifierCV(Cs, scoring=lambda estimator, X, y: 1.0).fit(X, y)
        assert model.C_ == 1e-3
        np.testing.assert_array_equal(model.Cs_, Cs)


def test_one_warning_tells_how_many_fits_failed():
    X, y = iris()
    with pytest.warns(ConvergenceWarning, match="of 11 fits, 11 with the status max_iter") as caught:
        model = SoftmaxClassifierCV([1.0, 1e3], max_iter=1, tol=1e-9).fit(X, y)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert set(model.statuses_.ravel()) == {"max_iter"}
    assert (model.gaps_ > 1e-9).all()


def test_callbacks_see_every_fit_and_may_interrupt():
    seen = []

    class Recorder:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...
        def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
            seen.append((context.task_name, fitted_estimator.predict(X).shape))
            if len(seen) == limit:
                raise KeyboardInterrupt

    X, y = iris()
    limit = 0
    SoftmaxClassifierCV([0.1, 1.0], cv=3).set_callbacks(Recorder()).fit(X, y)
    assert [name for name, _ in seen] == ["fit with C=0.1", "fit with C=1"] * 3 + ["fit"]
    limit = len(seen) + 2
    with pytest.raises(KeyboardInterrupt):
        SoftmaxClassifierCV([0.1, 1.0], cv=3).set_callbacks(Recorder()).fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"Cs": 0}, ValueError, "Cs == 0"),
        ({"Cs": []}, ValueError, "Cs: an array of shape"),
        ({"Cs": [1.0, -1.0]}, ValueError, "Cs: -1 is among them"),
        ({"Cs": [np.nan]}, ValueError, "Cs: nan is among them"),
        ({"Cs": "many"}, TypeError, "Cs: 'many'"),
        ({"tol": -1.0}, ValueError, "tol == -1"),
        ({"max_iter": 1.5}, TypeError, "max_iter must be"),
        ({"cv": StratifiedKFold(60)}, ValueError, "n_splits=60"),
        ({"cv": []}, ValueError, r"cv: \[\] gives no folds"),
        ({"cv": [(np.arange(150), [])]}, ValueError, "the 0 rows to score"),
        ({"scoring": "taste"}, ValueError, "taste"),
        ({"scoring": ["accuracy"]}, TypeError, r"scoring: \['accuracy'\]; accepted are one name"),
        ({"scoring": lambda *_: np.nan}, ValueError, "is NaN at C=0.0001 in fold 0, of 30 validation rows"),
    ],
)
def test_wrong_parameters_are_named(parameters, error, message):
    with pytest.raises(error, match=message):
        SoftmaxClassifierCV(**parameters).fit(*iris())


def test_an_iterator_of_folds_serves_one_fit():
    X, y = iris()
    model = SoftmaxClassifierCV([1.0], cv=StratifiedKFold(3).split(X, y)).fit(X, y)
    assert model.scores_.shape == (3, 1, 1)
    with pytest.raises(ValueError, match="gives no folds"):
        model.fit(X, y)


def test_what_an_interrupt_leaves_is_not_fitted(tmp_path):
    X, y = iris()
    calls = iter(range(99))

    def interrupted(model, X, y):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return model.C

    model = SoftmaxClassifierCV([0.1, 1.0], cv=3, scoring=interrupted).fit(X, y)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y > 1)
    for call in (lambda: model.predict(X), lambda: model.score(X, y), lambda: save(model, tmp_path / "model")):
        with pytest.raises(NotFittedError):
            call()


def test_rows_and_labels_that_do_not_fit_are_refused_in_scores():
    X, y = iris()
    model = SoftmaxClassifierCV([1.0], cv=2).fit(X, y)
    for rows, labels in ((5, 10), (10, 5)):
        with pytest.raises(ValueError, match="inconsistent numbers"):
            model.score(X[:rows], y[:labels])
    with pytest.raises(ValueError, match="150 rows to score have weights of the sum 0"):
        model.score(X, y, np.zeros(150))
    split = [(np.arange(0, 150, 2), np.arange(1, 150, 2))]
    with pytest.raises(ValueError, match="75 rows to score have weights of the sum 0"):
        SoftmaxClassifierCV([1.0], cv=split).fit(X, y, np.arange(150) % 2 == 0)
