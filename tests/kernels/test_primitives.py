"""The bounds that `primitives` states, against mpmath."""

import mpmath
import numpy as np
import pytest

from softhead.kernels import primitives


@pytest.fixture(autouse=True)
def _precision():
    with mpmath.workprec(300):
        yield


def number(hi, lo):
    return mpmath.mpf(float(hi)) + mpmath.mpf(float(lo))


def test_two_sum_and_two_product_are_exact():
    rng = np.random.default_rng(0)
    a = rng.standard_normal(500) * 10.0 ** rng.integers(-30, 30, 500)
    b = rng.standard_normal(500) * 10.0 ** rng.integers(-30, 30, 500)
    sums, products = primitives.two_sum(a, b), primitives.two_product(a, b)
    for i in range(500):
        x, y = mpmath.mpf(a[i]), mpmath.mpf(b[i])
        assert number(sums[0][i], sums[1][i]) == x + y
        assert number(products[0][i], products[1][i]) == x * y


@pytest.mark.parametrize("lift", [0, 512])
def test_exp_error(lift):
    rng = np.random.default_rng(1)
    hi = np.concatenate(
        [-rng.uniform(0, 700, 1000), -rng.uniform(0, 1, 1000), -(10.0 ** rng.uniform(-20, 0, 500)), [0]]
    )
    lo = hi * rng.uniform(-1, 1, len(hi)) * 2.0**-53
    e = primitives.exp(hi, lo, lift)
    for i in range(len(hi)):
        exact = mpmath.exp(number(hi[i], lo[i])) * mpmath.mpf(2) ** lift
        assert abs(number(e[0][i], e[1][i]) / exact - 1) < mpmath.mpf(2) ** -55


def test_exp_at_the_ends():
    hi = np.array([-745.0, -746.0, -1e308, -np.inf, np.nan])
    with np.errstate(invalid="ignore"):
        value, error = primitives.exp(hi, np.zeros(5))
    np.testing.assert_array_equal(value, [5e-324, 0.0, 0.0, 0.0, np.nan])
    np.testing.assert_array_equal(error[:4], 0.0)
    # Lifted, a value below the smallest subnormal number keeps all its digits.
    lifted, rest = primitives.exp(np.array([-1000.0]), np.zeros(1), 512)
    exact = mpmath.exp(-1000) * mpmath.mpf(2) ** 512
    assert abs(number(lifted[0], rest[0]) / exact - 1) < mpmath.mpf(2) ** -55


def test_log1p_error():
    rng = np.random.default_rng(2)
    hi = 10.0 ** rng.uniform(-300, 8, 2000)
    hi[:1000] = 10.0 ** rng.uniform(-20, 8, 1000)
    lo = hi * rng.uniform(-1, 1, len(hi)) * 2.0**-53
    log = primitives.log1p(hi, lo)
    for i in range(len(hi)):
        exact = mpmath.log1p(number(hi[i], lo[i]))
        error = abs(number(log[0][i], log[1][i]) - exact)
        assert error < mpmath.mpf(2) ** -54
        assert error <= 3 * mpmath.mpf(2) ** -53 * exact


@pytest.mark.parametrize("divisor", [0.7, 3.0, 1e-300, 1e300, 5e-324, np.finfo(np.float64).max])
def test_shift_keeps_what_rounding_takes(divisor):
    largest = np.finfo(np.float64).max
    x = np.array([1.1, -2.7e5, 1e-200, -largest, largest, 0.3 * largest])
    for origin in (0.1, 1e8 / 3, largest, -largest, 1e-200):
        with np.errstate(all="ignore"):
            hi, lo = primitives.shift(x, np.full(len(x), origin), divisor)
        for i in range(len(x)):
            exact = (mpmath.mpf(x[i]) - mpmath.mpf(origin)) / mpmath.mpf(divisor)
            if not np.isfinite(hi[i]):
                assert abs(exact) >= mpmath.mpf(largest)
                assert lo[i] == 0.0
            elif abs(exact) < 1e290:
                tolerance = abs(exact) * mpmath.mpf(2) ** -102 + mpmath.mpf(2) ** -1000
                assert abs(number(hi[i], lo[i]) - exact) <= tolerance


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1000, 131072])
def test_total_is_exact_to_the_pair(n):
    rng = np.random.default_rng(n)
    hi = np.exp(-rng.uniform(0, 300, (n, 2)))
    lo = hi * 2.0**-54
    total = primitives.total(hi, lo)
    for column in range(2):
        exact = mpmath.fsum(hi[:, column]) * (1 + mpmath.mpf(2) ** -54)
        assert abs(number(total[0][column], total[1][column]) / exact - 1) < mpmath.mpf(2) ** -98


def test_rounded_to_bfloat16_rounds_once():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype(ml_dtypes.bfloat16)
    # By way of float32 the first would be a tie, and go down to the even neighbour.
    values = np.array([1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, 1 + 2.0**-8 - 2.0**-40, -3.0, 0.0, np.inf, np.nan])
    expected = [1 + 2.0**-7, 1.0, 1.0, -3.0, 0.0, np.inf, np.nan]
    np.testing.assert_array_equal(primitives.rounded(values, dtype).astype(np.float64), expected)
    assert float(primitives.rounded(np.float64(1 + 2.0**-8 + 2.0**-40), dtype)) == 1 + 2.0**-7
