"""The temperature: scikit-learn's to the last digits that it has, the root of the loss's slope, and no leakage."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import DataConversionWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline

import softhead
from softhead import SoftmaxClassifier, SoftmaxClassifierCV, TableEncoder, TemperatureScaler, calibrate


def sample(n=500, n_classes=6, seed=0, temperature=3.0):
    """Logits and classes drawn from their softmax at a temperature."""
    rng = np.random.default_rng(seed)
    z = rng.normal(scale=4.0, size=(n, n_classes))
    return z, (z / temperature + rng.gumbel(size=z.shape)).argmax(axis=1)


def slope(z, y, temperature, weight=None):
    """The derivative of the mean loss by 1 / temperature, in the textbook's way."""
    p = softhead.softmax(z / temperature)
    return np.average((p * z).sum(axis=1) - z[np.arange(len(z)), y], weights=weight)


@pytest.mark.parametrize("temperature", [0.01, 0.3, 1.0, 3.0, 50.0])
def test_the_temperature_is_the_root_of_the_slope(temperature):
    z, y = sample(2000, temperature=max(temperature, 0.3))
    z, weight = z * temperature / max(temperature, 0.3), np.random.default_rng(1).random(len(y))
    scaler = TemperatureScaler().fit(z, y, weight)
    assert scaler.status_ == "converged"
    assert scaler.temperature_ == pytest.approx(temperature, rel=0.2)
    assert abs(slope(z, y, scaler.temperature_, weight)) < 1e-13 * np.abs(z).max()
    for factor in (0.999, 1.001):  # the loss is larger on both sides
        here, there = (
            softhead.cross_entropy(z, y, temperature=t, reduction="none") @ weight
            for t in (scaler.temperature_, factor * scaler.temperature_)
        )
        assert here < there
    assert scaler.n_iter_ < 10


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("load", [load_digits, load_breast_cancer])
def test_it_equals_scikit_learns(load, weighted):
    X, y = load(return_X_y=True)
    X = X / X.max(axis=0).clip(1.0)
    model = SoftmaxClassifier(C=10.0).fit(X[::2], y[::2])
    X, y = X[1::2], y[1::2]
    weight = np.random.default_rng(0).random(len(y)) if weighted else None
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Since FrozenEstimator")  # does not take the weights, and need not
        theirs.fit(X, y, sample_weight=weight)
    beta = theirs.calibrated_classifiers_[0].calibrators[0].beta_
    logits = model.decision_function(X)
    ours = TemperatureScaler().fit(logits, y, weight)
    # Two classes are the logits (-x, x) there and (0, x) here: of twice the difference.
    assert ours.temperature_ * (2.0 * beta if logits.ndim == 1 else beta) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(ours.predict_proba(logits), theirs.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_dtype_of_the_logits_only_rounds_them(dtype):
    z, y = sample()
    rounded = z.astype(dtype)
    scaler = TemperatureScaler().fit(rounded, y)
    assert scaler.temperature_ == pytest.approx(
        TemperatureScaler().fit(rounded.astype(float), y).temperature_, rel=1e-12
    )
    assert scaler.transform(rounded).dtype == dtype
    assert scaler.predict_proba(rounded).dtype == dtype
    np.testing.assert_allclose(scaler.transform(z), z / scaler.temperature_)
    np.testing.assert_allclose(scaler.predict_proba(z), softhead.softmax(z / scaler.temperature_), rtol=1e-12)


def test_soft_labels_are_rows_with_weights():
    z, y = sample(80, 4)
    q = np.random.default_rng(0).dirichlet(np.ones(4), len(z))
    repeated, labels = np.repeat(z, 4, axis=0), np.tile(np.arange(4), len(z))
    weight = np.random.default_rng(1).random(len(z))
    one = TemperatureScaler().fit_proba(z, q, weight)
    other = TemperatureScaler().fit(repeated, labels, (weight[:, None] * q).ravel())
    assert one.temperature_ == pytest.approx(other.temperature_, rel=1e-11)
    hard = TemperatureScaler().fit_proba(z, np.eye(4)[y])
    assert hard.temperature_ == pytest.approx(TemperatureScaler().fit(z, y).temperature_, rel=1e-11)


def test_probabilities_of_another_temperature_give_it_back():
    z, _ = sample()
    assert TemperatureScaler().fit_proba(z, softhead.softmax(z / 2.5)).temperature_ == pytest.approx(2.5, rel=1e-12)


def test_offsets_scales_and_impossible_classes():
    z, y = sample()
    plain = TemperatureScaler().fit(z, y).temperature_
    offset = np.random.default_rng(2).normal(scale=1e3, size=(len(z), 1))
    assert TemperatureScaler().fit(z + offset, y).temperature_ == pytest.approx(plain, rel=1e-9)
    for scale in (1e-30, 1e30):
        assert TemperatureScaler().fit(z * scale, y).temperature_ == pytest.approx(plain * scale, rel=1e-9)
    masked = np.hstack([z, np.full((len(z), 2), -np.inf)])
    assert TemperatureScaler().fit(masked, y).temperature_ == pytest.approx(plain, rel=1e-12)
    assert TemperatureScaler().fit_proba(masked, np.eye(8)[y]).temperature_ == pytest.approx(plain, rel=1e-11)


def test_only_the_ratios_of_weights_count():
    z, y = sample()
    weight = np.random.default_rng(1).integers(1, 4, len(y)).astype(float)
    temperature = TemperatureScaler().fit(z, y, weight).temperature_
    for factor in (2.0**1020, 2.0**-1070):
        assert TemperatureScaler().fit(z, y, factor * weight).temperature_ == temperature


def test_a_column_of_labels_is_taken_with_a_warning(digits):
    X, y = digits[0][:200], digits[1][:200]
    with pytest.warns(DataConversionWarning, match="column-vector"):
        model = calibrate(SoftmaxClassifier(), X, y[:, None], cv=2)
    assert model.temperature_ == calibrate(SoftmaxClassifier(), X, y, cv=2).temperature_


def test_rows_that_do_not_bound_it_are_told():
    z, y = sample()
    best = TemperatureScaler().fit(z, z.argmax(axis=1))
    assert (best.status_, best.temperature_) == ("lower_bound", pytest.approx(1e-6 * np.ptp(z, axis=1).max()))
    worst = TemperatureScaler().fit(z, z.argmin(axis=1))
    assert (worst.status_, worst.temperature_) == ("upper_bound", pytest.approx(1e6 * np.ptp(z, axis=1).max()))
    np.testing.assert_allclose(worst.predict_proba(z), 1 / 6, atol=1e-6)
    assert (
        TemperatureScaler().fit(np.zeros((3, 2)), [0, 1, 1]).status_ == "lower_bound"
    )  # always on top, if among others
    # One wrong row among many bounds it.
    y = z.argmax(axis=1)
    y[0] = z[0].argmin()
    assert TemperatureScaler().fit(z, y).status_ == "converged"


@pytest.mark.parametrize(
    ("call", "error", "part"),
    [
        (lambda z, y: TemperatureScaler().fit(z[:, :1], y), ValueError, "logits has shape"),
        (lambda z, y: TemperatureScaler().fit(z[:0], y[:0]), ValueError, "logits has shape"),
        (lambda z, y: TemperatureScaler().fit(np.where(z == z[3, 2], np.nan, z), y), ValueError, "row 3"),
        (lambda z, y: TemperatureScaler().fit(np.where(z == z[3, 2], np.inf, z), y), ValueError, "row 3"),
        (lambda z, y: TemperatureScaler().fit(np.where(z == z[3, y[3]], -np.inf, z), y), ValueError, "row 3"),
        (lambda z, y: TemperatureScaler().fit(z, y[1:]), ValueError, "y has shape"),
        (lambda z, y: TemperatureScaler().fit(z, y + 1), IndexError, r"y\[4\] is 6; classes lie in \[0, 6\)"),
        (lambda z, y: TemperatureScaler().fit(z, y - 1), IndexError, r"y\[\d+\] is -1; classes lie in \[0, 6\)$"),
        (lambda z, y: TemperatureScaler().fit(z, y.astype(str)), TypeError, "^y has dtype"),
        (lambda z, y: TemperatureScaler().fit(z * 1e150, y), ValueError, "differ by .*e\\+151; accepted"),
        (lambda z, y: TemperatureScaler().fit(np.copysign(1.7e308, z), y), ValueError, "differ by inf; accepted"),
        (lambda z, y: TemperatureScaler().fit(z, y, -np.ones(len(y))), ValueError, "sample_weight"),
        (lambda z, y: TemperatureScaler().fit(z, y, np.zeros(len(y))), ValueError, "sample_weight"),
        (lambda z, y: TemperatureScaler().fit_proba(z, -z), ValueError, "probabilities"),
        (lambda z, y: TemperatureScaler().fit_proba(z, z[:1]), ValueError, "probabilities has shape"),
        (lambda z, y: TemperatureScaler().predict_proba(z), ValueError, "not fitted"),
        (lambda z, y: calibrate(LogisticRegression(), z, y), TypeError, "LogisticRegression"),
        (lambda z, y: calibrate(SoftmaxClassifier(), z, y, cv=None), ValueError, "not fitted"),
    ],
)
def test_what_is_wrong_is_named(call, error, part):
    with pytest.raises(error, match=part):
        call(*sample(60))


# --- the classifier's temperature


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X / 16.0, y


def test_held_out_rows_set_the_temperature_and_nothing_else(digits):
    X, y = digits
    model = SoftmaxClassifier(C=100.0).fit(X[:600], y[:600])
    better = calibrate(model, X[600:1200], y[600:1200], cv=None)
    assert model.temperature_ == 1.0
    assert better.temperature_ > 1.0
    assert better.coef_ is model.coef_
    z = model.decision_function(X[1200:])
    np.testing.assert_array_equal(better.decision_function(X[1200:]), z)
    np.testing.assert_array_equal(better.predict(X), model.predict(X))
    np.testing.assert_allclose(better.predict_proba(X[1200:]), softhead.softmax(z / better.temperature_), rtol=1e-12)
    np.testing.assert_allclose(np.exp(better.predict_log_proba(X[1200:])), better.predict_proba(X[1200:]), rtol=1e-12)
    losses = [softhead.log_loss(m.predict_log_proba(X[1200:]), y[1200:]).value for m in (model, better)]
    assert losses[1] < losses[0]
    assert clone(better).fit(X[:600], y[:600]).temperature_ == 1.0


def test_folds_are_as_with_a_loop_over_them(digits):
    X, y = digits
    model, names = SoftmaxClassifier(C=10.0), np.array([f"digit {k}" for k in range(10)], object)
    folds = list(StratifiedKFold(3).split(X, y))
    logits = np.empty((len(y), 10))
    for train, test in folds:
        logits[test] = clone(model).fit(X[train], y[train]).decision_function(X[test])
    by_hand = TemperatureScaler().fit(logits, y)
    better = calibrate(model, X, names[y], cv=3)
    assert better.temperature_ == pytest.approx(by_hand.temperature_, rel=1e-9)
    np.testing.assert_array_equal(better.coef_, clone(model).fit(X, names[y]).coef_)
    assert not hasattr(model, "coef_")
    assert calibrate(model, X, y, cv=folds).temperature_ == better.temperature_


def test_two_classes_and_weights(digits):
    X, y = digits
    even = np.where(y % 2 == 0, "even", "odd")
    weight = np.random.default_rng(0).integers(0, 3, len(y))
    model = calibrate(SoftmaxClassifier(C=100.0), X, even, cv=3, sample_weight=weight)
    repeated = np.repeat(np.arange(len(y)), weight)
    folds = [(np.repeat(t, 1), v) for t, v in StratifiedKFold(3).split(X, even)]
    place = np.repeat(
        np.concatenate([np.full(len(v), k) for k, (_, v) in enumerate(folds)])[
            np.argsort(np.concatenate([v for _, v in folds]))
        ],
        weight,
    )
    again = [(np.flatnonzero(place != k), np.flatnonzero(place == k)) for k in range(3)]
    other = calibrate(SoftmaxClassifier(C=100.0), X[repeated], even[repeated], cv=again)
    assert model.temperature_ == pytest.approx(other.temperature_, rel=1e-2)  # fits agree to their tol
    z = model.decision_function(X) / model.temperature_
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 1.0 / (1.0 + np.exp(-z)), rtol=1e-9)


def test_a_pipeline_is_fitted_anew_in_each_fold(digits):
    X, y = digits
    table = pd.DataFrame(X[:400, :8]).add_prefix("pixel ")
    table["part"] = np.where(y[:400] < 5, "low", "high")
    model = make_pipeline(TableEncoder(), SoftmaxClassifier())
    better = calibrate(model, table, y[:400], cv=4)
    assert better[-1].temperature_ != 1.0
    raw = clone(model).fit(table, y[:400])
    np.testing.assert_array_equal(better[-1].coef_, raw[-1].coef_)
    held_out = calibrate(raw, table, y[:400], cv=None)
    assert raw[-1].temperature_ == 1.0 != held_out[-1].temperature_


def test_a_search_is_calibrated_too(digits):
    X, y = digits
    model = calibrate(SoftmaxClassifierCV([1.0, 100.0], cv=2), X[:300], y[:300], cv=2)
    assert model.temperature_ == model.best_estimator_.temperature_ != 1.0
    np.testing.assert_array_equal(model.predict_proba(X), model.best_estimator_.predict_proba(X))


def test_a_class_that_a_fold_lacks_is_left_out_and_told(digits):
    X, y = digits
    y = np.where(np.arange(len(y)) == 7, 10, y)  # a class of one row
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        with pytest.warns(UserWarning, match="1 of 400 rows are left out"):
            model = calibrate(SoftmaxClassifier(C=10.0), X[:400], y[:400], cv=2)
    assert 0.1 < model.temperature_ < 10.0
    assert model.predict_proba(X).shape == (len(X), 11)


def test_rows_that_are_all_right_leave_the_temperature_alone():
    X, y = np.array([[-2.0], [-1.0], [1.0], [2.0]] * 5), np.array([0, 0, 1, 1] * 5)
    with pytest.warns(UserWarning, match="20 rows do not bound the temperature, for each has its class on top"):
        model = calibrate(SoftmaxClassifier(), X, y)
    assert model.temperature_ == 1.0


def test_files_keep_the_temperature_and_older_ones_mean_one(tmp_path, digits):
    X, y = digits
    model = SoftmaxClassifier().fit(X, y)
    assert "temperature_" not in model.to_state()  # as files were before there was one
    better = calibrate(model, X, y, cv=None)
    softhead.save(better, tmp_path / "model.safetensors")
    same = softhead.load(tmp_path / "model.safetensors")
    assert same.temperature_ == better.temperature_
    assert same.predict_proba(X).tobytes() == better.predict_proba(X).tobytes()
    assert SoftmaxClassifier.from_state(model.to_state()).temperature_ == 1.0
    for wrong in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="temperature"):
            SoftmaxClassifier.from_state(model.to_state() | {"temperature_": wrong})
