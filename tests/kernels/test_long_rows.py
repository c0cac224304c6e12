"""Rows cut into blocks: their error bounds, and that neither the cuts nor the threads can be seen around them."""

import numpy as np
import pytest
from exact import Exact

import softhead
from softhead.kernels import long_rows

NAN, INF = np.nan, np.inf
LENGTH = long_rows.LONG + 2 * long_rows._LENGTH + 77  # a few blocks and a part of one
ULPS = {np.float32: (2, 4), np.float64: (2, 8)}

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def rows(n_classes, dtype):
    """Rows whose maximum, and what matters beside it, lie in various blocks."""
    rng = np.random.default_rng(n_classes)
    middle, last = n_classes // 2, n_classes - 1
    for scale, offset in [(1e-3, 3.0), (1.0, 0.0), (10.0, -1e6), (1e4, 0.0)]:
        yield rng.standard_normal(n_classes) * scale + offset
    for gap in (17.0, 40.0, 90.0, 300.0, 700.0, 740.0):  # confident rows
        row = rng.uniform(-1.0, 0.0, n_classes)
        row[middle] = gap
        yield row
    yield np.linspace(0.0, -1.0, n_classes) * (740 if dtype == np.float64 else 100)  # down to subnormal results
    yield np.linspace(-1.0, 0.0, n_classes) * 1e3
    row = np.full(n_classes, -INF)
    row[[middle, last]] = 1.0, 0.5  # and blocks that hold nothing
    yield row
    yield np.full(n_classes, 0.3)
    row = np.zeros(n_classes)
    row[0], row[last] = np.finfo(dtype).max, -np.finfo(dtype).max
    yield row


def assert_within(computed, exact, bound, dtype, slack=0.0):
    """Hold results to a bound in units in the last place."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = exact.astype(dtype)
        finite = np.isfinite(rounded)
        np.testing.assert_array_equal(computed[~finite], rounded[~finite])
        error = np.abs(computed[finite] - exact[finite])
        unit = np.spacing(np.abs(rounded[finite])).astype(np.longdouble)
    # An oracle no wider than what it measures is itself off by some units.
    own = 0.1 if np.finfo(np.longdouble).nmant > 60 or dtype == np.float32 else 20.0
    assert (error <= (bound + own) * unit + slack).all()


@each_dtype
@pytest.mark.parametrize("n_classes", [65, 128, 129, 1000, 12_345])
def test_error_bounds_with_short_blocks(n_classes, dtype, monkeypatch):
    monkeypatch.setattr(long_rows, "_LENGTH", 64)
    x = np.array(list(rows(n_classes, dtype)), dtype)
    for labels in (x.argmax(axis=1), x.argmin(axis=1), np.full(len(x), n_classes // 3)):
        check(x, labels, dtype)


@each_dtype
def test_error_bounds(dtype):
    assert LENGTH > long_rows.LONG
    for row in rows(LENGTH, dtype):
        x = row[np.newaxis].astype(dtype)
        check(x, x.argmax(axis=1), dtype)
        results = everything(x, x.argmax(axis=1))
        direct = np.empty_like(x)
        long_rows.softmax(x, direct)
        np.testing.assert_array_equal(results["softmax"], direct)  # these rows are cut


def check(x, labels, dtype):
    """Hold all functions of rows to their bounds."""
    exact = Exact(x, labels)
    first, bound = ULPS[dtype]
    smallest = x.shape[1] * np.longdouble(np.finfo(dtype).smallest_subnormal)
    p, log_p, lse = np.empty_like(x), np.empty_like(x), np.empty((len(x), 1), dtype)
    losses, again, gradient = np.empty(len(x)), np.empty(len(x)), np.empty_like(x)
    ones = np.ones(x.shape[1])
    long_rows.softmax(x, p)
    long_rows.log_softmax(x, log_p)
    long_rows.logsumexp(x, lse)
    long_rows.cross_entropy(x, labels, ones, losses)
    long_rows.cross_entropy_gradient(x, labels, ones, 1.0, again, gradient)
    np.testing.assert_array_equal(losses, again)
    assert_within(p, exact.softmax, first, dtype)
    assert_within(log_p, exact.log_softmax, bound, dtype, slack=smallest)
    error = np.abs(lse[:, 0] - exact.logsumexp)
    assert (error <= bound / 2 * np.finfo(dtype).eps * exact.size).all()
    with np.errstate(over="ignore"):
        assert_within(losses.astype(dtype), exact.loss, bound, dtype, slack=smallest)
    assert_within(gradient, exact.gradient, bound, dtype, slack=smallest)


def everything(x, labels, **options):
    value, gradient = softhead.cross_entropy_value_and_grad(x, labels, reduction="none", **options)
    return {
        "softmax": softhead.softmax(x),
        "log_softmax": softhead.log_softmax(x),
        "logsumexp": softhead.logsumexp(x),
        "cross_entropy": softhead.cross_entropy(x, labels, reduction="none", **options),
        "value": value,
        "gradient": gradient,
    }


def assert_same(first, second, rows=slice(None)):
    for name, result in first.items():
        np.testing.assert_array_equal(result[rows], second[name], err_msg=name)


@each_dtype
def test_neither_threads_nor_batch_can_be_seen(dtype):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((5, LENGTH)) * 10).astype(dtype)
    labels = np.array([0, LENGTH - 1, x[2].argmax(), -100, long_rows._LENGTH])
    with softhead.num_threads(1):
        together = everything(x, labels)
    for n in (2, 8):
        with softhead.num_threads(n):
            assert_same(together, everything(x, labels))
            for i in range(5):
                assert_same(together, everything(x[i : i + 1], labels[i : i + 1]), slice(i, i + 1))


@each_dtype
def test_shares_are_as_those_of_rows_that_are_not_cut(dtype, monkeypatch):
    x = (np.random.default_rng(0).standard_normal((3, LENGTH)) * 5).astype(dtype)
    labels = np.array([7, LENGTH - 1, -100])
    cut = everything(x, labels)
    monkeypatch.setattr("softhead.kernels.compiled.LONG", LENGTH)
    whole = everything(x, labels)
    eps = np.finfo(dtype).eps
    for name, result in cut.items():
        np.testing.assert_allclose(result, whole[name], rtol=4 * eps, err_msg=name)


@each_dtype
def test_hazards(dtype):
    x = np.zeros((6, LENGTH), dtype)
    x[0, -1], x[1, 5], x[2], x[3, :-1] = NAN, INF, -INF, -INF
    x[4] = NAN  # of the row that is ignored
    x[4, 3] = INF
    labels = np.array([0, 5, 1, 0, -100, 1])
    found = everything(x, labels)
    for name in ("softmax", "log_softmax"):
        result = found[name]
        assert np.isnan(result[[0, 1, 2, 4]]).all()
        assert np.isfinite(result[5]).all()
    np.testing.assert_array_equal(found["softmax"][3], np.arange(LENGTH) == LENGTH - 1)
    np.testing.assert_array_equal(found["log_softmax"][3], np.where(np.arange(LENGTH) == LENGTH - 1, 0.0, -INF))
    np.testing.assert_array_equal(found["softmax"][5], dtype(1.0) / dtype(LENGTH))
    np.testing.assert_array_equal(found["logsumexp"], np.array([NAN, INF, -INF, 0.0, NAN, np.log(LENGTH)], dtype))
    losses = np.array([NAN, NAN, NAN, INF, 0.0, np.log(LENGTH)], dtype)
    np.testing.assert_array_equal(found["cross_entropy"], losses)
    np.testing.assert_array_equal(found["value"], losses)
    gradient = found["gradient"]
    assert np.isnan(gradient[:3]).all()
    np.testing.assert_array_equal(gradient[4], 0.0)
    np.testing.assert_array_equal(gradient[3, [0, 1, -1]], [-1.0, 0.0, 1.0])
    weight = np.ones(LENGTH)
    weight[0] = 0.0
    np.testing.assert_array_equal(softhead.cross_entropy(x[3:4], [0], weight=weight, reduction="sum"), 0.0)


@each_dtype
def test_masked_weighted_strided_and_in_place(dtype):
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((2, LENGTH)) * 3).astype(dtype)
    expected = everything(x, labels := np.array([1, LENGTH - 2]))
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[::-1, ::-1].copy()[::-1, ::-1]):
        assert_same(expected, everything(other, labels))
    for name in ("softmax", "log_softmax"):
        in_place = x.copy()
        getattr(softhead, name)(in_place, out=in_place)
        np.testing.assert_array_equal(in_place, expected[name])
        out = np.empty(x.shape[::-1], dtype).T
        getattr(softhead, name)(x, out=out)
        np.testing.assert_array_equal(out, expected[name])
    mask = rng.random(x.shape) < 0.5
    masked = softhead.softmax(x, where=mask)
    np.testing.assert_array_equal(masked[~mask], 0.0)
    np.testing.assert_array_equal(masked, softhead.softmax(np.where(mask, x, dtype(-INF))))
    weight = rng.uniform(0.5, 2.0, LENGTH)
    value, gradient = softhead.cross_entropy_value_and_grad(x, labels, weight=weight, reduction="sum")
    plain = expected["gradient"] * weight[labels][:, np.newaxis]
    np.testing.assert_allclose(gradient, plain, rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(value, (expected["value"] * weight[labels]).sum(), rtol=8 * np.finfo(dtype).eps)
