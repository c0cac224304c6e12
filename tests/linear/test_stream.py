"""Fits on blocks: the optimum of all rows in memory, the same bits each time, and errors that name the row."""

import threading
import time

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_digits

import softhead
from softhead import RowSource, SoftmaxClassifier, SoftmaxClassifierCV
from softhead.kernels import threads
from softhead.linear import stream
from softhead.linear.labels import LabelCodes, unique_labels
from softhead.linear.prefetch import prefetched, prefetching
from softhead.linear.stream import survey


def blocks_of(X, y, cuts, weight=None):
    rows = np.split(np.arange(X.shape[0]), cuts)
    return [(X[r], y[r]) if weight is None else (X[r], y[r], weight[r]) for r in rows]


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X / 16.0, np.array([f"digit {k}" for k in y], object)


@pytest.mark.parametrize("form", ["float64", "float32", "sparse", "wide sparse"])
def test_the_optimum_is_that_of_all_rows_in_memory(digits, form):
    X, y = digits
    if form == "float32":
        X = X.astype(np.float32)
    elif form != "float64":
        few = np.flatnonzero(y < "digit 3")[:300]
        X, y = sparse.csr_array(X[few]), y[few]
        if form == "wide sparse":  # which is not expanded
            X = sparse.csr_array((X.data, X.indices, X.indptr), shape=(300, 2100))
    weight = np.random.default_rng(0).random(len(y)) + 0.5
    options = {"C": 0.1, "tol": 1e-6 if form == "float32" else 1e-11, "class_weight": "balanced"}
    whole = SoftmaxClassifier(**options).fit(X, y, weight)
    source = RowSource(blocks_of(X, y, [0, 5, 200, 201], weight))
    model = SoftmaxClassifier(**options).fit(source)
    assert model.status_ == "converged"
    assert model.objective_ == pytest.approx(whole.objective_, rel=1e-6 if form == "float32" else 1e-10)
    np.testing.assert_allclose(model.coef_, whole.coef_, atol=2e-3 if form == "float32" else 1e-5)
    assert model.coef_.dtype == whole.coef_.dtype
    assert model.classes_.tolist() == whole.classes_.tolist()
    again = SoftmaxClassifier(**options).fit(source)
    assert (again.coef_ == model.coef_).all()
    assert again.objective_ == model.objective_
    assert again.n_passes_ == model.n_passes_
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        ours, expected = getattr(model, method)(source), getattr(model, method)(X)
        if method == "predict":
            assert ours.tolist() == expected.tolist()
        else:
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6 if form == "float32" else 1e-13)
    assert model.score(source) == pytest.approx(model.score(X, y, weight), rel=1e-12)


def test_a_sample_stands_for_the_rows_that_memory_does_not_hold(digits, monkeypatch):
    X, y = digits
    monkeypatch.setattr(stream, "_SAMPLE_BYTES", 100_000)
    source = RowSource(blocks_of(X, y, [100, 700, 703]))
    found = survey(source)
    assert found.n_rows == len(y)
    assert found.sample.X.nbytes <= 100_000
    stride = round(len(y) / len(found.sample.y))
    np.testing.assert_array_equal(found.sample.X, X[::stride])
    assert found.sample.y.tolist() == y[::stride].tolist()
    whole = SoftmaxClassifier(tol=1e-9).fit(X, y)
    model = SoftmaxClassifier(tol=1e-9).fit(source)
    assert model.objective_ == pytest.approx(whole.objective_, rel=2e-9)
    assert model.n_passes_ < 2.0 * whole.n_passes_


def test_classes_may_be_given_and_an_unseen_one_is_named(digits):
    X, y = digits
    source = RowSource(blocks_of(X, y, [1000]), classes=[*np.unique(y), "none"])
    model = SoftmaxClassifier(C=1e-3).fit(source)
    assert model.classes_[-1] == "none"
    assert "none" not in model.predict(source)
    unseen = y[1200]
    first = 1000 + int((y[1000:] == unseen).argmax())
    partial = RowSource(
        [(X[y != unseen], y[y != unseen]), *blocks_of(X, y, [1000])[1:]],
        classes=sorted({*y} - {unseen}),
    )
    row = (y != unseen).sum() + first - 1000
    with pytest.raises(ValueError, match=rf"block 1, row {row} \(counted from 0\): the label {unseen!r} is not among"):
        SoftmaxClassifier().fit(partial)


@pytest.mark.parametrize("when", [1, 3])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("width", "block 2, row 900 .*: 63 features"),
        ("nan", "block 2, row 903 .*: a feature is NaN or infinite"),
        ("label", "block 2, row 904 .*: the label 'new' is not among the 10 classes"),
        ("missing", "block 2, row 905 .*: the label is missing"),
        ("weight", "block 2, row 906 .*: the weight -1; weights are finite and not negative"),
        ("rows", "the source has 1796 rows in this pass; it had 1797 before"),
        ("read", "block 2, from row 900 .* on, cannot be read: the disk is gone"),
        ("kind", "block 2: got str; accepted are"),
    ],
)
def test_what_is_wrong_in_a_block_is_named_in_whatever_pass(digits, change, words, when):
    X, y = digits
    passes = 0

    def blocks():
        nonlocal passes
        passes += 1
        for k, (A, b, w) in enumerate(blocks_of(X, y, [600, 900], np.ones(len(y)))):
            A, b, w = A.copy(), b.copy(), w.copy()
            if k == 2 and passes >= when:
                if change == "width":
                    A = A[:, 1:]
                elif change == "nan":
                    A[3, 3] = np.nan
                elif change == "label":
                    b[4] = "new"
                elif change == "missing":
                    b[5] = None
                elif change == "weight":
                    w[6] = -1.0
                elif change == "rows":
                    A, b, w = A[1:], b[1:], w[1:]
                elif change == "read":
                    raise OSError("the disk is gone")
                elif change == "kind":
                    yield "rows"
            yield A, b, w

    model = SoftmaxClassifier()
    if when == 1 and change in ("label", "rows"):
        words = None  # then these are the rows
    if words is None:
        model.fit(RowSource(blocks))
        return
    with pytest.raises(ValueError, match=words):
        model.fit(RowSource(blocks))
    assert not hasattr(model, "coef_")
    assert not [thread for thread in threading.enumerate() if thread.name == "softhead-reader"]


def test_labels_and_weights_come_with_the_blocks(digits):
    X, y = digits
    with pytest.raises(ValueError, match="y: got ndarray; those of a RowSource are in its blocks"):
        SoftmaxClassifier().fit(RowSource([(X, y)]), y)
    with pytest.raises(ValueError, match="block 0 has no labels: a fit needs them"):
        SoftmaxClassifier().fit(RowSource([(X, None)]))
    with pytest.raises(ValueError, match="the source has no rows"):
        SoftmaxClassifier().fit(RowSource([]))
    with pytest.raises(ValueError, match="labels of type int64; those of the blocks before are object"):
        SoftmaxClassifier().fit(RowSource([(X, y), (X, np.zeros(len(y), int))]))
    with pytest.raises(ValueError, match="at least 2 classes"):
        SoftmaxClassifier().fit(RowSource([(X, np.zeros(len(y), int))]))


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([(np.ones((2, 0)), [0, 1])], "^block 0: no features"),
        (
            [(np.ones((0, 2)), []), (np.array([[1.0, np.nan]]), [1])],
            r"^block 1, row 0 \(counted from 0\): a feature is",
        ),
        ([(np.ones((2, 2)), [0, None])], r"^block 0, row 1 \(counted from 0\): the label is missing"),
        (
            [(np.ones((2, 2)), [0.0, np.inf])],
            r"^block 0, row 1 \(counted from 0\): the label is missing, or not finite",
        ),
        (
            [(np.ones((2, 2)), np.array([0, "a"], object))],
            "^block 0, row 0 .*: labels of kinds that have no common order",
        ),
        ([(np.arange(1.0, 101.0).reshape(50, 2) * 1e306, [0, 1] * 25)], "squares of its entries overflow"),
    ],
)
def test_what_no_fit_can_take_is_named_by_its_own_block_and_row_alone(blocks, words):
    blocks = [(X, np.array(y, object) if None in y else np.asarray(y)) for X, y in blocks]
    with pytest.raises(ValueError, match=words) as caught:
        SoftmaxClassifier().fit(RowSource(blocks))
    assert "cannot be read" not in str(caught.value)


def test_a_score_over_labels_of_another_kind_is_refused(digits):
    X, y = digits
    model = SoftmaxClassifier(C=1e-3).fit(X, y)
    with pytest.raises(ValueError, match="block 0: labels of type int64; those of the model are object"):
        model.score(RowSource([(X, np.zeros(len(y), np.int64))]))
    with pytest.raises(TypeError, match="X: a RowSource; accepted for probabilities are rows in memory"):
        model.fit_proba(RowSource([(X, y)]), np.full((len(y), 2), 0.5))
    with pytest.raises(TypeError, match="X: a RowSource; accepted are rows in memory and dask collections"):
        SoftmaxClassifierCV().fit(RowSource([(X, y)]), None)


@pytest.mark.parametrize(
    ("dtype", "classes"),
    [("i1", [-100, 0, 100]), ("i2", [-30000, 30000]), ("u8", [2**63 + 1, 2**63 + 9]), ("i8", [-(2**63), 5 - 2**63])],
)
def test_codes_of_integers_whose_differences_overflow(dtype, classes):
    array = np.array(classes, dtype)
    codes_of = LabelCodes(array)
    assert codes_of(array[::-1]).tolist() == list(range(len(classes)))[::-1]
    assert codes_of(array[:1] + array.dtype.type(1)).tolist() == [-1]


@pytest.mark.parametrize(
    "classes",
    [[3, 5, 9], [-5, 0, 7], [-(2**40), 0, 2**40], [0.0, 1.0, 7.0], [False, True], ["a", "b", "é"]],
)
def test_codes_are_places_among_the_classes(classes):
    rng = np.random.default_rng(1)
    array = np.array(classes, object if isinstance(classes[0], str) else None)
    expected = rng.integers(0, len(array), 50)
    found, codes = unique_labels(array[expected])
    assert found.tolist() == classes
    assert codes.tolist() == expected.tolist()
    codes_of = LabelCodes(array)
    assert codes_of(array[expected]).tolist() == expected.tolist()
    assert codes_of(array[:0]).tolist() == []
    if len(classes) == 3:
        other = np.array([*classes[:2], "z" if isinstance(classes[0], str) else 10**6], array.dtype)
        assert codes_of(other).tolist() == [0, 1, -1]


def test_reading_ahead_keeps_order_bounds_and_errors():
    made = []

    def items():
        for k in range(10):
            made.append(k)
            yield k
        raise KeyError("the end")

    got = []
    with prefetching(items, depth=2) as ahead:
        for item in ahead:
            time.sleep(0.002)
            got.append(item)
            assert len(made) <= len(got) + 4
            if len(got) == 10:
                break
        with pytest.raises(KeyError, match="the end"):
            next(ahead)
    assert got == list(range(10))
    made.clear()
    iterator = prefetched(items)
    next(iterator)
    iterator.close()
    assert len(made) < 8
    assert not [thread for thread in threading.enumerate() if thread.name == "softhead-reader"]


def test_a_limit_on_threads_holds_for_the_thread_that_reads_ahead():
    with softhead.num_threads(1), prefetching(lambda: iter([threads.several()])) as ahead:
        assert list(ahead) == [False]
    with softhead.num_threads(3), prefetching(lambda: iter([threads.several()])) as ahead:
        assert list(ahead) == [True]
