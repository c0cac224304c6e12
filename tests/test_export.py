"""Exported models predict what the model predicts: in onnxruntime, and as scikit-learn's own classifier."""

import builtins
import datetime as dt

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from softhead import SoftmaxClassifier, SoftmaxClassifierCV, TableEncoder, TextEncoder, calibrate, to_onnx, to_sklearn

TOLERANCE = {"float32": 1e-7, "float64": 1e-12}


def run(path, inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["label", "probabilities"]
    assert {one.name for one in session.get_inputs()} == inputs.keys()
    return session.run(None, inputs)


def onnx_of(model, path, dtype=None):
    pytest.importorskip("onnx")
    to_onnx(model, path / "model.onnx", dtype=dtype)
    return path / "model.onnx"


# --- classifiers of arrays


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("load", [load_digits, load_breast_cancer])
def test_a_calibrated_classifier_agrees(tmp_path, load, dtype):
    X, y = load(return_X_y=True)
    X = ((X - X.mean(axis=0)) / X.std(axis=0).clip(0.1)).astype(dtype)
    model = calibrate(SoftmaxClassifier(C=1.0).fit(X[::2], y[::2]), X[1::2], y[1::2], cv=None)
    assert model.temperature_ != 1.0
    label, p = run(onnx_of(model, tmp_path), {"X": X})
    assert p.dtype == dtype
    np.testing.assert_allclose(p, model.predict_proba(X), atol=TOLERANCE[dtype], rtol=0)
    np.testing.assert_array_equal(label, model.predict(X))
    plain = to_sklearn(model)
    assert type(plain) is LogisticRegression
    atol = {"float32": 2e-6, "float64": 2e-12}[dtype]  # its products are of the dtype of the rows
    np.testing.assert_allclose(plain.predict_proba(X), model.predict_proba(X), atol=atol, rtol=0)
    np.testing.assert_array_equal(plain.predict(X), model.predict(X))


@pytest.mark.parametrize(
    "labels",
    [["naïve", "", "<b>"], [-3, 0, 7], [0, 2**63 - 1, 5], [-1.0, 0.0, 4.0], ["x", "y"], [False, True], [7, 9]],
    ids=str,
)
def test_labels_of_any_type_and_one_feature(tmp_path, labels):
    x = np.random.default_rng(0).normal(size=(90, 1))
    y = np.resize(np.sort(np.array(labels)), 90)[np.argsort(np.argsort(x[:, 0])) // (90 // len(labels)) % len(labels)]
    model = SoftmaxClassifier().fit(x, y)
    label, p = run(onnx_of(model, tmp_path), {"X": x})
    assert label.tolist() == model.predict(x).tolist()
    assert p.shape == (90, len(set(labels)))
    np.testing.assert_allclose(p, model.predict_proba(x), atol=1e-14)
    plain = to_sklearn(model)
    assert plain.predict(x).tolist() == model.predict(x).tolist()
    np.testing.assert_allclose(plain.predict_proba(x), model.predict_proba(x), atol=1e-14)


def test_extreme_logits_are_probabilities(tmp_path):
    model = SoftmaxClassifier().fit(np.eye(3), [0, 1, 2])
    model.coef_ = model.coef_ * 1e200
    _, p = run(onnx_of(model, tmp_path), {"X": np.eye(3) * 1e50})
    np.testing.assert_array_equal(p, np.eye(3))


def test_a_search_and_images(tmp_path):
    digits = load_digits()
    images = digits.images.astype(np.uint8)
    search = SoftmaxClassifierCV([0.1, 10.0], cv=2).fit(images.reshape(len(images), -1) / 16.0, digits.target)
    _, p = run(onnx_of(search, tmp_path), {"X": images.reshape(len(images), -1) / 16.0})
    np.testing.assert_allclose(p, search.predict_proba(images.reshape(len(images), -1) / 16.0), atol=1e-12)
    assert to_sklearn(search).C == search.C_
    model = make_pipeline(TableEncoder(), SoftmaxClassifier()).fit(images, digits.target)
    _, p = run(onnx_of(model, tmp_path, "float32"), {"X": images.astype(np.float32)})
    np.testing.assert_allclose(p, model.predict_proba(images), atol=1e-7)
    _, p = run(onnx_of(model, tmp_path, "float64"), {"X": images.astype(np.float64)})
    exact = model[-1].predict_proba(model[0].transform(images).astype(np.float64))
    np.testing.assert_allclose(p, exact, atol=1e-12)


# --- tables


def mixed(n=400, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "height": rng.normal(170.0, 10.0, n),
            "count": rng.integers(0, 1000, n),
            "colour": rng.choice(["red", "grün", "blue", ""], n),
            "code": [f"{k:03d}" for k in rng.geometric(0.02, n)],
            "day": pd.Timestamp("1890-01-01") + pd.to_timedelta(rng.integers(0, 80_000, n), unit="D"),
            "moment": pd.Timestamp("1969-06-01") + pd.to_timedelta(rng.integers(0, 10**9, n), unit="s"),
            "clock": [dt.time(k // 60, k % 60) for k in rng.integers(0, 1440, n)],
            "nothing": pd.Series([None] * n, dtype=object),
            "constant": 5.0,
        }
    )
    label = np.where(table["colour"].eq("red") | (table["height"] > 180.0), "yes", "no").astype(object)
    label[table["day"].dt.month == 3] = "maybe"
    table.loc[::7, "height"] = np.nan
    table.loc[::11, ["day", "moment", "clock", "code"]] = None
    return table, label


def as_inputs(table):
    """The columns as the ONNX model takes them."""

    def seconds(column):
        return (column - pd.Timestamp("1970-01-01")).dt.total_seconds().to_numpy(float)

    clock = [np.nan if pd.isna(t) else t.hour * 3600.0 + t.minute * 60.0 for t in table["clock"]]
    columns = {
        "height": table["height"].to_numpy(float),
        "count": table["count"].to_numpy(float),
        "colour": table["colour"].to_numpy(object),
        "code": table["code"].fillna("").to_numpy(object),
        "day": seconds(table["day"]),
        "moment": seconds(table["moment"]),
        "clock": np.array(clock),
        "constant": table["constant"].to_numpy(float),
    }
    return {name: values[:, None] for name, values in columns.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("max_categories", [100, 5])
def test_every_kind_of_column_is_encoded_alike(tmp_path, dtype, max_categories):
    table, label = mixed()
    model = make_pipeline(TableEncoder(max_categories), SoftmaxClassifier(C=10.0)).fit(table, label)
    path = onnx_of(model, tmp_path, dtype)
    other, _ = mixed(1000, seed=1)  # with codes, and days, that the model has not seen
    for rows in (table, other):
        predicted, p = run(path, as_inputs(rows))
        encoded = model[0].transform(rows)
        exact = model[-1].predict_proba(encoded.astype(dtype))
        np.testing.assert_allclose(p, exact, atol=TOLERANCE[dtype], rtol=0)
        np.testing.assert_array_equal(predicted, model.predict(rows))


def test_the_last_and_first_days_of_years_are_told_apart(tmp_path):
    days = pd.DataFrame({"day": pd.date_range("1890-01-01", "2110-01-05", freq="D")})  # 1900 and 2100 have no leap day
    model = make_pipeline(TableEncoder(), SoftmaxClassifier(C=0.1))
    model.fit(days, days["day"].dt.month > 6)
    path = onnx_of(model, tmp_path, "float64")
    edges = days[(days["day"].dt.day_of_year <= 2) | (days["day"].dt.day_of_year >= 364)]
    seconds = (edges["day"] - pd.Timestamp("1970-01-01")).dt.total_seconds().to_numpy()[:, None]
    _, p = run(path, {"day": seconds})
    exact = model[-1].predict_proba(model[0].transform(edges).astype(np.float64))
    np.testing.assert_allclose(p, exact, atol=1e-12)


def test_a_table_for_scikit_learn_keeps_its_encoder():
    table, label = mixed()
    model = make_pipeline(TableEncoder(), SoftmaxClassifier()).fit(table, label)
    plain = to_sklearn(model)
    assert type(plain[-1]) is LogisticRegression
    np.testing.assert_allclose(plain.predict_proba(table), model.predict_proba(table), atol=2e-6)
    assert type(model[-1]) is SoftmaxClassifier


# --- what cannot be exported


def named_columns(*names):
    """A fitted model of a column of categories and one of numbers, and its table."""
    rng = np.random.default_rng(5)
    table = pd.DataFrame({names[0]: rng.choice(["u", ""], 60), names[1]: rng.normal(size=60)})
    table.loc[3, names[0]] = None
    return make_pipeline(TableEncoder(), SoftmaxClassifier()).fit(table, rng.integers(0, 2, 60)), table


@pytest.mark.parametrize("names", [("label", "probabilities"), ("constant/0", "value/0"), ("label", "label_")])
@pytest.mark.filterwarnings("ignore:column")
def test_columns_may_have_the_names_of_outputs_and_nodes(tmp_path, names):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, table = named_columns(*names)
    session = onnxruntime.InferenceSession(onnx_of(model, tmp_path))
    assert [value.name for value in session.get_inputs()] == list(names)
    table = table.drop(index=3)
    feed = {name: table[name].to_numpy(kind)[:, None] for name, kind in zip(names, (object, float), strict=True)}
    label, p = session.run(None, feed)
    np.testing.assert_allclose(p, model.predict_proba(table), atol=1e-6)
    np.testing.assert_array_equal(label, model.predict(table))


def test_what_onnx_cannot_say_of_a_column_is_told(tmp_path):
    with pytest.warns(UserWarning, match="column 'kind' has missing values and the empty string as a category"):
        onnx_of(named_columns("kind", "x")[0], tmp_path)
    with pytest.raises(ValueError, match="column without a name"):
        to_onnx(named_columns("kind", "")[0], tmp_path / "none.onnx")
    assert not (tmp_path / "none.onnx").exists()


def test_text_and_strangers_are_refused(tmp_path):
    text = make_pipeline(TextEncoder(), SoftmaxClassifier()).fit(["a good day", "a bad day"] * 3, [1, 0] * 3)
    for model, part in (
        (text, "TextEncoder"),
        (LogisticRegression(), "LogisticRegression"),
        (make_pipeline(StandardScaler(), SoftmaxClassifier()).fit(np.eye(2), [0, 1]), "StandardScaler"),
    ):
        with pytest.raises(TypeError, match=part):
            to_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(TypeError, match="LogisticRegression"):
        to_sklearn(LogisticRegression())
    for export in (to_sklearn, lambda model: to_onnx(model, tmp_path / "model.onnx")):
        with pytest.raises(NotFittedError):
            export(SoftmaxClassifier())
    with pytest.raises(ValueError, match="dtype"):
        to_onnx(SoftmaxClassifier().fit(np.eye(2), [0, 1]), tmp_path / "model.onnx", dtype="float16")
    assert not (tmp_path / "model.onnx").exists()


def test_without_onnx_the_message_says_what_to_install(tmp_path, monkeypatch):
    plain = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "onnx":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"softhead\[onnx\]"):
        to_onnx(SoftmaxClassifier().fit(np.eye(2), [0, 1]), tmp_path / "model.onnx")
