"""Reading and writing rows of any floating type: every half number, and what lies between two of them."""

import ml_dtypes
import numpy as np
import pytest
from numba import njit

from softhead.kernels import formats
from softhead.kernels.primitives import rounded

HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


@njit
def widen(source, code, n, rows, maxima):
    formats.load(source, 0, len(rows), code, n, rows, maxima)


@njit
def narrow(rows, code, target):
    for i in range(len(rows)):
        formats.store(rows[i], target, i, code, rows.shape[1])


def read(x):
    rows, maxima = np.empty(x.shape), np.empty(len(x))
    widen(x.view(np.uint8), formats.CODES[x.dtype.name], x.shape[1], rows, maxima)
    return rows, maxima


def written(rows, dtype):
    target = np.empty(rows.shape, dtype)
    narrow(rows, formats.CODES[dtype.name], target.view(np.uint8))
    return target


def bits(x):
    return x.view(f"u{x.dtype.itemsize}")


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_half_number_is_read_and_written_as_it_is(dtype):
    x = np.arange(2**16, dtype=np.uint16).view(dtype).reshape(256, 256)
    rows, maxima = read(x)
    with np.errstate(invalid="ignore"):
        expected = x.astype(np.float64)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(np.signbit(rows), np.signbit(expected))
    np.testing.assert_array_equal(maxima, expected.max(axis=1))
    back, number = written(rows, dtype), ~np.isnan(expected)
    np.testing.assert_array_equal(bits(back)[number], bits(x)[number])
    assert (bits(back)[~number] % 2**15 > bits(np.full(1, np.inf, dtype))[0]).all()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_ties_go_to_the_even_number_and_all_else_to_the_nearest(dtype):
    infinity = int(bits(np.full(1, np.inf, dtype))[0])
    numbers = np.arange(infinity, dtype=np.uint16).view(dtype).astype(np.float64)
    ties = (numbers[1:] + numbers[:-1]) / 2
    overflow = numbers[-1] + (numbers[-1] - numbers[-2]) / 2  # from here on it is infinity
    values = np.concatenate(
        [ties, np.nextafter(ties, np.inf), np.nextafter(ties, 0), [overflow, np.nextafter(overflow, 0), 1e300, 5e-324]]
    )
    values = np.stack([values, -values])
    result = written(values, dtype)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(bits(result), bits(rounded(values, dtype)))
    below, above = bits(result[0, : len(ties)]), bits(rounded(numbers[:-1], dtype))
    assert (below % 2 == 0).all()
    assert (below - above <= 1).all()
    np.testing.assert_array_equal(result[:, -4].astype(float), [np.inf, -np.inf])
    np.testing.assert_array_equal(result[:, -3].astype(float), [numbers[-1], -numbers[-1]])


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64)], ids=str)
def test_wider_types_are_read_and_written_by_the_processor(dtype):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((7, 45)) * 10.0 ** rng.integers(-40, 30, (7, 45))).astype(dtype)
    x[0, :4] = np.inf, -np.inf, np.nan, 0.0
    x[1, 3] = np.inf
    rows, maxima = read(x)
    np.testing.assert_array_equal(rows, x.astype(np.float64))
    np.testing.assert_array_equal(maxima, x.max(axis=1).astype(np.float64))
    values = rows * (1 + 2.0**-25 + 2.0**-40)
    np.testing.assert_array_equal(written(values, dtype), values.astype(dtype))
