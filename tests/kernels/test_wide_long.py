"""Rows cut into blocks at any temperature and in any floating type: bounds, hazards, and that no cut can be seen."""

import ml_dtypes
import numpy as np
import pytest
from exact import Exact

import softhead
from softhead.kernels import long_rows, wide_long

NAN, INF = np.nan, np.inf
LENGTH = long_rows.LONG + long_rows._LENGTH + 77
DTYPES = [np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]
BOUNDS = {"float16": (1, 1), "bfloat16": (1, 1), "float32": (2, 4), "float64": (2, 8)}  # softmax, its logarithm

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def assert_within(computed, exact, bound):
    """Hold results to a bound in units in the last place of their dtype."""
    info = ml_dtypes.finfo(computed.dtype)
    within = np.abs(exact) <= float(info.max) / 2
    size = np.maximum(np.abs(exact[within]), np.longdouble(float(info.smallest_normal)))
    unit = np.exp2(np.floor(np.log2(size))) * np.longdouble(float(info.eps))
    own = 0.05 if np.finfo(np.longdouble).nmant > 60 else 20.0  # of the reference itself
    assert (np.abs(computed[within].astype(np.longdouble) - exact[within]) <= (bound + own) * unit).all()


@each_dtype
@pytest.mark.parametrize("temperature", [1.0, 0.37, 5.0, 1e-3, 1e4])
@pytest.mark.parametrize("n_classes", [65, 1000])
def test_error_bounds(n_classes, temperature, dtype, monkeypatch):
    monkeypatch.setattr(long_rows, "_LENGTH", 64)
    rng = np.random.default_rng(n_classes)
    for scale, offset, gap in [(0.01, 3.0, 0), (1.0, 0.0, 0), (12.0, -1e3, 0), (300.0, 0.0, 0), (0.5, 0.0, 90)]:
        row = rng.standard_normal((1, n_classes)) * scale + offset
        row[0, n_classes // 2] += gap
        x = row.astype(dtype)
        exact = Exact(x, np.zeros(1, int), temperature)
        p, log_p, lse = np.empty_like(x), np.empty_like(x), np.empty((1, 1), dtype)
        wide_long.softmax(x, temperature, p)
        wide_long.log_softmax(x, temperature, log_p)
        assert_within(p, exact.softmax, BOUNDS[dtype.name][0])
        assert_within(log_p, exact.log_softmax, BOUNDS[dtype.name][1])
        if temperature == 1.0:
            wide_long.logsumexp(x, lse)
            unit = float(ml_dtypes.finfo(dtype).eps) * exact.size
            assert np.abs(lse[0].astype(np.longdouble) - exact.logsumexp) <= unit * BOUNDS[dtype.name][1] / 2


@each_dtype
def test_neither_threads_nor_batch_nor_layout_can_be_seen(dtype):
    x = (np.random.default_rng(0).standard_normal((3, LENGTH)) * 4).astype(dtype)
    for function in (softhead.softmax, softhead.log_softmax):
        direct = np.empty_like(x)
        getattr(wide_long, function.__name__)(x, 0.7, direct)
        for n in (1, 2, 8):
            with softhead.num_threads(n):
                np.testing.assert_array_equal(function(x, temperature=0.7), direct)
        np.testing.assert_array_equal(function(x[1], temperature=0.7), direct[1])
        np.testing.assert_array_equal(function(np.asfortranarray(x), temperature=0.7), direct)
        function(in_place := x.copy(), temperature=0.7, out=in_place)
        np.testing.assert_array_equal(in_place, direct)


@each_dtype
def test_hazards(dtype):
    x = np.zeros((5, LENGTH), dtype)
    x[0, -1], x[1, 5], x[2], x[3, :-1] = NAN, INF, -INF, -INF
    last = np.arange(LENGTH) == LENGTH - 1
    for function, expected in [
        (softhead.softmax, last.astype(float)),
        (softhead.log_softmax, np.where(last, 0.0, -INF)),
    ]:
        result = function(x, temperature=2.0).astype(float)
        assert np.isnan(result[:3]).all()
        np.testing.assert_array_equal(result[3], expected)
        assert (result[4] == result[4, 0]).all()
    lse = softhead.logsumexp(x).astype(float)
    np.testing.assert_array_equal(lse, [NAN, INF, -INF, 0.0, np.float64(np.log(LENGTH)).astype(dtype)])
