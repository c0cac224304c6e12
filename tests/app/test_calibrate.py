"""`softhead train --calibrate`: the temperature of rows that nothing else has seen, kept, applied and told."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from typer.testing import CliRunner

import softhead
from softhead.app import cli, training
from softhead.model_file import read_model, write_model


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command(*arguments, code=0):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def split():
    """Digits as the command line encodes them, and the rows that it tests on."""
    digits = load_digits()
    return digits.images, digits.target, training.hold_out(digits.target, test_size=0.2, seed=0)


def test_rows_kept_for_the_temperature_are_given_to_nothing_else():
    out = json.loads(command("train", "digits", "--C", 100, "--calibrate", "holdout", "--json")[0])
    images, y, tested = split()
    kept = np.flatnonzero(~tested)
    aside = training.hold_out(y[kept], test_size=0.2, seed=0)
    assert 0.15 < aside.mean() < 0.25
    encoder = softhead.TableEncoder().fit(images[kept[~aside]])
    X = encoder.transform(images)
    by_hand = softhead.SoftmaxClassifier(C=100.0).fit(X[kept[~aside]], y[kept[~aside]])
    scaler = softhead.TemperatureScaler().fit(by_hand.decision_function(X[kept[aside]]), y[kept[aside]])
    model, record = read_model("digits.safetensors")
    np.testing.assert_array_equal(model[-1].coef_, by_hand.coef_)
    assert out["temperature"] == model[-1].temperature_ == scaler.temperature_ != 1.0
    assert record["calibration"] == {"method": "holdout", "folds": 0, "rows": aside.sum()}
    raw = softhead.log_loss(by_hand.predict_log_proba(X[tested]), y[tested]).value
    assert out["uncalibrated"]["log_loss"] == pytest.approx(raw, rel=1e-6)
    assert out["log_loss"] == pytest.approx(
        softhead.log_loss(model.predict_log_proba(images[tested]), y[tested]).value, rel=1e-6
    )


def test_folds_have_an_encoder_and_a_classifier_of_their_own():
    out = json.loads(command("train", "digits", "--C", 100, "--calibrate", "cv", "--cv", 3, "--json")[0])
    images, y, tested = split()
    kept = np.flatnonzero(~tested)
    logits = np.empty((len(kept), 10), np.float32)
    for train, test in StratifiedKFold(3, shuffle=True, random_state=0).split(kept, y[kept]):
        encoder = softhead.TableEncoder().fit(images[kept[train]])
        model = softhead.SoftmaxClassifier(C=100.0).fit(encoder.transform(images[kept[train]]), y[kept[train]])
        logits[test] = model.decision_function(encoder.transform(images[kept[test]]))
    assert out["temperature"] == pytest.approx(softhead.TemperatureScaler().fit(logits, y[kept]).temperature_, rel=1e-9)
    assert out["log_loss"] < out["uncalibrated"]["log_loss"]
    plain = json.loads(command("train", "digits", "--C", 100, "-q", "--out", "plain.safetensors", "--json")[0] or "{}")
    assert plain == {}
    calibrated, raw = (read_model(name).model[-1] for name in ("digits.safetensors", "plain.safetensors"))
    np.testing.assert_array_equal(calibrated.coef_, raw.coef_)  # fitted to all rows that are not tested on
    again = json.loads(command("evaluate", "digits.safetensors", "digits", "--json")[0])
    for name in ("log_loss", "calibration_error", "temperature"):
        assert again[name] == out[name]
    for name in ("log_loss", "calibration_error"):
        assert again["uncalibrated"][name] == out["uncalibrated"][name]


@pytest.mark.parametrize("method", ["holdout", "cv"])
def test_it_goes_with_sweeps_tables_and_texts(method):
    rng = np.random.default_rng(0)
    colour, size = rng.choice(["red", "green", "blue"], 300), rng.normal(size=300)
    label = np.where((colour == "red") ^ (size + rng.normal(size=300) > 0.8), "big", "small")
    words = [" ".join(rng.choice([c, "thing", "other", "word"], 4)) for c in colour]
    csv.write_csv(pa.table({"colour": colour, "size": size, "words": words, "label": label}), "t.csv")
    for options in (("--sweep", "--Cs", "1,100"), ("--text", "words", "--C", 100)):
        out = json.loads(command("train", "t.csv", "--target", "label", "--calibrate", method, *options, "--json")[0])
        assert out["temperature"] != 1.0
        shown = dict(line.rsplit("  ", 1) for line in map(str.rstrip, command("info", "t.safetensors")[0].splitlines()))
        assert float({k.strip(): v for k, v in shown.items()}["temperature"]) == pytest.approx(
            out["temperature"], rel=1e-3
        )
        assert "rows of the training" in command("info", "t.safetensors")[0]
        model = softhead.load("t.safetensors")
        command("predict", "t.safetensors", "t.csv", "-o", "p.csv", "--probabilities")
        predicted = csv.read_csv("p.csv")["probability_big"].to_numpy()
        table = csv.read_csv("t.csv").select(list(model[0].feature_names_in_))
        np.testing.assert_allclose(predicted, model.predict_proba(table)[:, 0], rtol=1e-6)


def test_rows_that_do_not_bound_it_leave_it_at_one_and_are_told():
    out, err = command("train", "wine", "--calibrate", "holdout", "--json")
    assert err.startswith("softhead: warning: calibration: 28 rows do not bound the temperature")
    assert err.count("\n") == 1
    assert json.loads(out)["temperature"] == 1.0
    assert "uncalibrated" not in out


def test_a_record_that_is_not_ours_is_none():
    command("train", "digits", "--calibrate", "holdout", "-q")
    model, record = read_model("digits.safetensors")
    assert training.Record.read(record).calibration == record["calibration"]
    older = {name: value for name, value in record.items() if name != "calibration"}
    assert training.Record.read(older).calibration is None
    for wrong in ({"method": "cv"}, {**record["calibration"], "rows": 1.0}):
        assert training.Record.read(record | {"calibration": wrong}) is None
    write_model(model, "older.safetensors", older)
    assert "calibrated on" not in command("info", "older.safetensors")[0]


@pytest.mark.parametrize("options", [("--calibrate", "test"), ("--calibrate", "holdout", "--cv", 3)])
def test_options_that_make_no_sense_are_refused(options):
    assert "Invalid value" in command("train", "iris", *options, code=2)[1]


def test_models_are_exported(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    command("train", "digits", "--calibrate", "holdout", "-q")
    out = json.loads(command("export", "digits.safetensors", "--json")[0])
    assert out == {"onnx": "digits.onnx", "bytes": (tmp_path / "digits.onnx").stat().st_size}
    images = load_digits().images.astype(np.float32)
    _, p = onnxruntime.InferenceSession("digits.onnx").run(None, {"X": images})
    np.testing.assert_allclose(p, softhead.load("digits.safetensors").predict_proba(images), atol=2e-6)
    assert "not an .onnx file" in command("export", "digits.safetensors", "-o", "digits.pb", code=2)[1]
    csv.write_csv(pa.table({"t": ["good day", "bad day"] * 20, "y": [0, 1] * 20}), "t.csv")
    command("train", "t.csv", "--target", "y", "--text", "t", "-q")
    _, err = command("export", "t.safetensors", code=1)
    assert err.startswith("softhead: error: t.safetensors: model has a TextEncoder")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("rows", "how", "said"),
    [
        (["1,a", "2,b"], "holdout", "calibration: of 2 rows none can be kept for it, since no class has two"),
        (["1,a", "2,b", "3,a", "4,b"], "cv", "5 folds need a class of 5 rows to train on; the largest has 2"),
    ],
)
def test_too_few_rows_are_told(tmp_path, rows, how, said):
    (tmp_path / "few.csv").write_text("\n".join(["x,y", *rows]))
    assert said in command("train", "few.csv", "--target", "y", "--calibrate", how, code=1)[1]
    assert not (tmp_path / "few.safetensors").exists()


def test_training_says_which_rows_the_temperature_is_of():
    trained = json.loads(command("train", "digits", "--calibrate", "holdout", "--json")[0])
    info = json.loads(command("info", "digits.safetensors", "--json")[0])
    assert trained["calibrated_on"] == info["calibrated_on"] == "288 rows of the training, kept for it"
