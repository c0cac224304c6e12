import numpy as np
import pytest
from numba import njit

from softhead.kernels.multiply import STEP, add_product, add_square
from softhead.kernels.vectors import exponentiate, lanes, maximum, scale


@njit
def product(a, at, row, step, n, b, out, m):
    add_product(a, at, row, step, n, b, out, m)


@njit
def square(a, step, n, b, out, m):
    add_square(a, step, n, b, out, m)


@njit
def exponentials(z, i, m):
    return maximum(z, i * z.shape[1], z.shape[1]), exponentiate(z, i * z.shape[1], z.shape[1], m)


@njit
def scaled(z, i, factor, sums):
    scale(z, i * z.shape[1], z.shape[1], factor, sums)


@pytest.mark.parametrize("vectors", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("types", [(np.float32, np.float32), (np.float32, np.float64), (np.float64, np.float32)])
def test_products_in_both_directions(types, vectors):
    rng = np.random.default_rng(vectors)
    given, narrow = types
    n, d = 24, 40
    width = vectors * lanes(np.dtype(narrow).itemsize)
    x = rng.integers(-8, 8, (n, d)).astype(given)  # small integers: every sum is exact
    b = rng.integers(-8, 8, (d, width)).astype(narrow)
    out = np.ones((n, width), narrow)
    product(x, 0, d, 1, d, b, out, n)
    np.testing.assert_array_equal(out, 1.0 + x @ b)
    total = np.ones((d, width))
    product(x, 0, 1, d, n, out, total, d)
    np.testing.assert_array_equal(total, 1.0 + x.T @ out)


def test_a_product_starts_where_it_is_told_and_leaves_the_rest_alone():
    x = np.arange(100.0).reshape(10, 10)
    width = lanes(8)
    out = np.zeros((2 * STEP, width))
    product(x, 21, 0, 10, 3, np.ones((3, width)), out, 1)
    np.testing.assert_array_equal(out, np.repeat([[21.0 + 31.0 + 41.0], [0.0]], STEP, axis=0) * np.ones(width))


@pytest.mark.parametrize("vectors", [1, 3, 8])
def test_squares_hold_what_lies_on_and_above_the_diagonal(vectors):
    width = vectors * lanes(4)
    a = np.random.default_rng(0).integers(-8, 8, (16, width)).astype(np.float32)
    out = np.zeros((width, width))
    square(a, width, 16, a, out, width)
    np.testing.assert_array_equal(np.triu(out), np.triu(a.T @ a))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponentials_are_within_two_units(dtype):
    rng = np.random.default_rng(1)
    z = -rng.uniform(0.0, 60.0, (200, 3 * lanes(np.dtype(dtype).itemsize))).astype(dtype)
    z[:, 0] = 0.0
    given = z.copy()
    sums = [exponentials(z, i, dtype(0.0)) for i in range(len(z))]
    exact = np.exp(given.astype(np.longdouble))
    assert (np.abs(z - exact) <= 2.0 * np.spacing(exact.astype(dtype))).all()
    assert all(m == 0.0 for m, _ in sums)
    np.testing.assert_allclose([total for _, total in sums], z.sum(axis=1, dtype=np.float64), rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_padding_becomes_zero_and_what_is_not_a_number_stays_so(dtype):
    z = np.full((2, lanes(np.dtype(dtype).itemsize)), -np.inf, dtype)
    z[0, :2] = 3.0, 2.0
    z[1, :2] = 3.0, np.nan
    m, total = exponentials(z, 0, dtype(3.0))
    assert m == 3.0
    assert total == pytest.approx(1.0 + np.exp(-1.0), rel=float(np.finfo(dtype).eps))
    assert (z[0, 2:] == 0.0).all()
    assert np.isnan(exponentials(z, 1, dtype(3.0))[1])


def test_scaling_adds_what_it_writes():
    z = np.arange(2.0 * lanes(4), dtype=np.float32).reshape(1, -1)
    sums = np.ones(z.shape[1])
    scaled(z, 0, np.float32(0.5), sums)
    np.testing.assert_array_equal(z[0], np.arange(z.size) / 2.0)
    np.testing.assert_array_equal(sums, 1.0 + z[0])
