"""The text encoder: the stated formula, what it takes, what it refuses, and that a file gives it back."""

import math

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

from softhead import SoftmaxClassifier, TextEncoder, load, save

TEXTS = ["a red house, a RED door", "the red fox", "Das Mädchen und die Füchse 狐狸", "the fox, the fox!"]
WORDS = ["das", "die", "door", "fox", "füchse", "house", "mädchen", "red", "the", "und", "狐狸"]


@pytest.mark.parametrize(
    "check",
    [
        "check_estimator_repr",
        "check_get_params_invariance",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
    ],
)
def test_scikit_learn_checks_that_need_no_numbers(check):
    getattr(estimator_checks, check)("TextEncoder", TextEncoder())


def test_the_formula():
    encoder = TextEncoder().fit(TEXTS)
    assert encoder.vocabulary_.tolist() == WORDS
    row = np.zeros(len(WORDS))
    for word, count, texts in (("red", 2, 2), ("house", 1, 1), ("door", 1, 1)):
        row[WORDS.index(word)] = (1.0 + math.log(count)) * (math.log(5.0 / (1.0 + texts)) + 1.0)
    encoded = encoder.transform(TEXTS)
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded[[0]].toarray()[0], row / np.linalg.norm(row), rtol=1e-6)
    np.testing.assert_array_equal(TextEncoder().fit_transform(TEXTS).toarray(), encoded.toarray())


def test_parameters():
    assert "red house" in TextEncoder(max_words=2).fit(TEXTS).vocabulary_
    assert TextEncoder(min_texts=2).fit(TEXTS).vocabulary_.tolist() == ["fox", "red", "the"]
    assert len(TextEncoder(max_columns=2).fit(TEXTS).vocabulary_) == 2
    for name, value in (("max_words", 0), ("min_texts", 1.5), ("max_columns", True), ("max_words", None)):
        with pytest.raises(ValueError, match=rf"{name} is .*; accepted is an integer of at least 1"):
            TextEncoder(**{name: value}).fit(TEXTS)
    with pytest.raises(ValueError, match="none of its 4 texts has a word to encode that is in 5 of them"):
        TextEncoder(min_texts=5).fit(TEXTS)


@pytest.mark.parametrize(
    "make",
    [
        tuple,
        iter,
        np.array,
        lambda texts: np.array(texts, dtype=object)[:, None],
        pd.Series,
        pl.Series,
        lambda texts: pa.chunked_array([texts]),
        lambda texts: pd.DataFrame({"words": texts}),
        lambda texts: pl.DataFrame({"words": texts}),
        lambda texts: pa.table({"words": texts}),
    ],
)
def test_every_kind_of_input_gives_the_same(make):
    expected = TextEncoder().fit(TEXTS).transform(TEXTS).toarray()
    encoder = TextEncoder().fit(make(TEXTS))
    np.testing.assert_array_equal(encoder.transform(make(TEXTS)).toarray(), expected)


@pytest.mark.parametrize("dtype", ["object", "str", "string", "string[pyarrow]"])
def test_missing_texts_of_pandas(dtype):
    texts = pd.Series([*TEXTS, None, pd.NA], dtype=dtype)
    expected = TextEncoder().fit_transform([*TEXTS, "", ""]).toarray()
    np.testing.assert_array_equal(TextEncoder().fit_transform(texts).toarray(), expected)


def test_a_column_without_a_name_has_a_number():
    encoder = TextEncoder().fit(pd.DataFrame(TEXTS))
    assert encoder.feature_names_in_.tolist() == ["0"]
    np.testing.assert_array_equal(
        encoder.transform(pd.DataFrame(TEXTS)).toarray(), TextEncoder().fit_transform(TEXTS).toarray()
    )


def test_a_table_gives_the_column_of_its_name():
    encoder = TextEncoder().fit(pd.DataFrame({"words": TEXTS}))
    assert encoder.feature_names_in_.tolist() == ["words"]
    table = pd.DataFrame({"other": range(4), "words": TEXTS})
    np.testing.assert_array_equal(encoder.transform(table).toarray(), encoder.transform(TEXTS).toarray())
    with pytest.raises(ValueError, match="no column 'words'"):
        encoder.transform(table[["other"]])
    with pytest.raises(ValueError, match="2 columns"):
        encoder.fit(table)


def test_missing_and_unknown_texts_are_rows_of_zeros():
    encoder = TextEncoder().fit([*TEXTS, None])
    encoded = encoder.transform([None, float("nan"), "", "unknown", TEXTS[1]])
    assert np.diff(encoded.indptr).tolist() == [0, 0, 0, 0, 3]


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("one text", TypeError, "X is a str"),
        (5, TypeError, "X is a int"),
        (["a b", 7], TypeError, r"X, row 2: found 7, of type int"),
        ([b"bytes"], TypeError, "row 1: found b'bytes'"),
        (np.zeros((3, 2)), ValueError, r"shape \(3, 2\)"),
        (["a", "?", None], ValueError, "none of its 3 texts has a word"),
        ([], ValueError, "none of its 0 texts"),
        ([np.zeros(2)], TypeError, "row 1: found array"),
    ],
)
def test_what_is_no_texts_is_refused(texts, error, message):
    with pytest.raises(error, match=message):
        TextEncoder().fit(texts)


def test_a_saved_model_predicts_the_same_bits(tmp_path):
    model = make_pipeline(TextEncoder(max_words=2), SoftmaxClassifier())
    model.fit(pd.DataFrame({"words": TEXTS}), ["b", "a", "c", "a"])
    save(model, tmp_path / "model.safetensors")
    same = load(tmp_path / "model.safetensors")
    new = ["the house of the fox", "", None, "die Füchse"]
    assert np.array_equal(same.predict_proba(new), model.predict_proba(new))
    assert same[0].get_params() == model[0].get_params()
    assert same[0].feature_names_in_.tolist() == ["words"]
    save(same, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_a_copy_is_unfitted():
    encoder = TextEncoder(min_texts=2).fit(TEXTS)
    assert clone(encoder).get_params() == encoder.get_params()
    assert not hasattr(clone(encoder), "vocabulary_")
