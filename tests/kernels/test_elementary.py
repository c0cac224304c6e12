"""The bounds that `elementary` states, against mpmath, and that its loops do what the operations alone do."""

import mpmath
import numpy as np
import pytest
from numba import njit

from softhead.kernels import elementary

LIFT = {np.float32: 60, np.float64: 512}
DIGITS = {np.float32: 24, np.float64: 53}


@pytest.fixture(autouse=True)
def _precision():
    with mpmath.workprec(300):
        yield


@njit
def exponentials(d, d_low, e, e_low):
    for i in range(len(d)):
        e[i], e_low[i] = elementary.exp(d[i], d_low[i])


@njit
def exponentials_of_differences(x, m, e, e_low):
    for i in range(len(x)):
        e[i], e_low[i] = elementary.exp_difference(x[i], m)


@njit
def logarithms(z, out):
    for i in range(len(z)):
        out[i] = elementary.log1p(z[i])


@njit
def plain_logarithms(x, out):
    for i in range(len(x)):
        out[i] = elementary.log(x[i])


@njit
def maximum(x):
    m = x[0]
    for value in x:
        m = elementary.larger(m, value)
    return m


def exact(x):
    return mpmath.mpf(float(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_error(dtype):
    rng = np.random.default_rng(0)
    u = mpmath.mpf(2) ** -DIGITS[dtype]
    reach = {np.float32: 120, np.float64: 1000}[dtype]
    d = np.concatenate(
        [-rng.uniform(0, reach, 1500), -rng.uniform(0, 1, 1500), -(10.0 ** rng.uniform(-30, 0, 500)), [0]]
    )
    d = d.astype(dtype)
    d_low = (d * rng.uniform(-1, 1, len(d)) * float(u)).astype(dtype)
    e, e_low = np.empty_like(d), np.empty_like(d)
    exponentials(d, d_low, e, e_low)
    for i in range(len(d)):
        true = mpmath.exp(exact(d[i]) + exact(d_low[i])) * mpmath.mpf(2) ** LIFT[dtype]
        assert abs((exact(e[i]) + exact(e_low[i])) / true - 1) < 0.7 * u
        assert abs(exact(e[i]) / true - 1) < 1.4 * u
    assert e[-1] == 2.0 ** LIFT[dtype]
    assert e_low[-1] == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("m", [0.0, 3.3, 90.0, 1e8, -1e8 / 3])
def test_exp_of_a_difference_keeps_what_its_rounding_takes(m, dtype):
    rng = np.random.default_rng(1)
    u = mpmath.mpf(2) ** -DIGITS[dtype]
    m = dtype(m)
    x = np.concatenate([m - rng.uniform(0, 100, 500), rng.uniform(-1e-3, 1e-3, 100)]).astype(dtype)
    x = np.minimum(x, m)
    x = x[m - x < 100]
    e, e_low = np.empty_like(x), np.empty_like(x)
    exponentials_of_differences(x, m, e, e_low)
    for i in range(len(x)):
        true = mpmath.exp(exact(x[i]) - exact(m)) * mpmath.mpf(2) ** LIFT[dtype]
        assert abs((exact(e[i]) + exact(e_low[i])) / true - 1) < 0.7 * u


def test_log1p_error():
    rng = np.random.default_rng(2)
    z = np.concatenate(
        [10.0 ** rng.uniform(-300, -1, 1000), rng.uniform(0, 3, 3000), 10.0 ** rng.uniform(-1, 14, 1000)]
    )
    log = np.empty_like(z)
    logarithms(z, log)
    for i in range(len(z)):
        true = mpmath.log1p(exact(z[i]))
        assert abs(exact(log[i]) - true) <= 1.5 * np.spacing(float(true))


def test_log1p_at_the_ends():
    log = np.empty(3)
    logarithms(np.array([0.0, 5e-324, np.nan]), log)
    np.testing.assert_array_equal(log, [0.0, 5e-324, np.nan])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 5, 64, 1000])
def test_larger_finds_the_maximum_and_every_nan(n, dtype):
    x = np.random.default_rng(n).standard_normal(n).astype(dtype)
    assert maximum(x) == x.max()
    for position in {0, n // 2, n - 1}:
        for bad in (np.nan, -np.nan):
            spoiled = x.copy()
            spoiled[position] = bad
            assert np.isnan(maximum(spoiled))
    assert maximum(np.full(n, -np.inf, dtype)) == -np.inf


def test_log_error():
    rng = np.random.default_rng(5)
    x = np.concatenate(
        [
            rng.uniform(0.5, 2.0, 1000),
            1 + 10.0 ** rng.uniform(-16, -1, 500),
            1 - 10.0 ** rng.uniform(-16, -1, 500),
            10.0 ** rng.uniform(-307, 308, 500),
            [5e-324, 1e-310, np.finfo(float).tiny, 1.0, np.finfo(float).max],
        ]
    )
    computed = np.empty_like(x)
    plain_logarithms(x, computed)
    for value, log in zip(x, computed, strict=True):
        true = mpmath.log(exact(value))
        assert abs(exact(log) - true) <= 1.5 * np.spacing(abs(float(true)))
    assert computed[-2] == 0.0
