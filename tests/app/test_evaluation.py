"""Every figure that the command line shows of a model is that of the public metrics, calibrated and not."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from typer.testing import CliRunner

import softhead
from softhead.app import cli
from softhead.app.evaluation import evaluation


def figures(model, X, codes):
    """The figures from the public functions."""
    p = model.predict_proba(X)
    return {
        "accuracy": np.mean(p.argmax(axis=1) == codes),
        "log_loss": softhead.log_loss(model.predict_log_proba(X), codes),
        "brier_score": softhead.brier_score(p, codes),
        "calibration_error": softhead.calibration_error(p, codes),
        "calibration_error_quantile": softhead.calibration_error(p, codes, strategy="quantile"),
        "calibration_error_every_class": softhead.calibration_error(p, codes, of="every_class"),
        "ks_calibration_error": softhead.ks_calibration_error(p, codes),
        "risk_coverage_area": softhead.risk_coverage(p, codes).area,
    }


@pytest.mark.parametrize("load", [load_digits, load_breast_cancer])
def test_figures_are_those_of_the_public_metrics(load):
    X, y = load(return_X_y=True)
    X = X / X.max(axis=0).clip(1.0)
    labels = np.array([f"class {k}" for k in range(10)], object)[y]
    model = softhead.SoftmaxClassifier(C=100.0).fit(X[::2], labels[::2])
    plain = evaluation(model, X[1::2], labels[1::2])
    assert (plain.temperature, plain.uncalibrated, plain.uncalibrated_outcomes) == (1.0, None, None)
    better = softhead.calibrate(model, X[1::2], labels[1::2], cv=None)
    both = evaluation(better, X[1::2], labels[1::2])
    assert both.temperature == better.temperature_ != 1.0
    assert both.uncalibrated == plain.figures
    for shown, classifier in ((plain, model), (both, better)):
        assert shown.rows == len(y[1::2]) == len(shown.outcomes.correct)
        for name, expected in figures(classifier, X[1::2], y[1::2]).items():
            estimate = getattr(shown.figures, name)
            if name == "accuracy":
                assert estimate.value == expected
                assert estimate.low < estimate.value < estimate.high
            else:
                assert estimate == pytest.approx(expected, abs=1e-12)
        np.testing.assert_array_equal(model.classes_[shown.outcomes.predicted], model.predict(X[1::2]))


def test_blocks_of_rows_change_nothing(monkeypatch):
    X, y = load_digits(return_X_y=True)
    model = softhead.SoftmaxClassifier().fit(X[:500], y[:500])
    whole = evaluation(model, X, y).figures
    monkeypatch.setattr("softhead.app.evaluation._ENTRIES_AT_ONCE", 700)
    assert np.array(evaluation(model, X, y).figures) == pytest.approx(np.array(whole), abs=1e-12)


def test_json_and_text_hold_every_figure_with_its_interval(tmp_path):
    X, y = load_digits(return_X_y=True)
    model = softhead.calibrate(softhead.SoftmaxClassifier(C=100.0).fit(X[:900], y[:900]), X[900:], y[900:], cv=None)
    softhead.save(model, tmp_path / "model.safetensors")
    np.savez(tmp_path / "data.npz", X=X[900:], y=y[900:])
    command = ["evaluate", str(tmp_path / "model.safetensors"), str(tmp_path / "data.npz"), "--target", "y"]
    out = json.loads(CliRunner().invoke(cli.app, [*command, "--json"]).stdout)
    text = CliRunner().invoke(cli.app, command).stdout
    shown = evaluation(model, X[900:], y[900:])
    assert (out["rows_tested"], out["temperature"], out["confidence"]) == (897, model.temperature_, 0.95)
    for part, expected in ((out, shown.figures), (out["uncalibrated"], shown.uncalibrated)):
        assert part["intervals"].keys() == set(expected._fields)
        for name, estimate in expected._asdict().items():
            assert (part[name], *part["intervals"][name]) == estimate
            assert f"{estimate.value:.4g}  ({estimate.low:.4g} to {estimate.high:.4g}, 95%)" in text
    assert "log loss, uncalibrated" in text
