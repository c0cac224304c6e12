"""The phases of the row loops where they branch: logits of either sign and of any size, groups that are not full."""

import numpy as np
import pytest
from numba import njit

from softhead.kernels import elementary, loops, reference

DTYPES = [np.float32, np.float64]
WIDTHS = [25, 100, 1000, 1025]


def error(result, x):
    """Return the largest error of a softmax, in units in the last place."""
    exact = reference.softmax(x)
    unit = np.spacing(np.maximum(exact.astype(x.dtype), np.finfo(x.dtype).smallest_normal))
    return (np.abs(result - exact) / unit).max()


def softmax(x):
    out = np.empty_like(x)
    loops.softmax(x, out)
    return out


@njit
def parts(d, scale, s):
    for i in range(len(d)):
        scale[i], s[i] = elementary.exp_parts(d[i], d[i] - d[i])


@njit
def constants(m):
    return elementary.unit(m), elementary.reach(m), elementary.exp(m - m, m - m)


@pytest.mark.parametrize(("dtype", "lift", "least"), [(np.float32, 60, -126), (np.float64, 512, -1022)])
def test_an_exponential_out_of_reach_is_exactly_zero(dtype, lift, least):
    unit, reach, exp_of_nothing = constants(dtype(1.5))
    assert exp_of_nothing == (unit, 0.0)
    assert unit == 2.0**lift
    d = np.linspace(-reach, 0.0, 5000).astype(dtype)
    scale, s = np.empty_like(d), np.empty_like(d)
    parts(d, scale, s)
    assert scale[0] == 0.0
    assert (np.abs(s) <= 0.415).all()
    assert set(np.unique(np.log2(scale[scale > 0.0]))) == set(range(least, lift + 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", WIDTHS)
@pytest.mark.parametrize("m", [0.0, 1e-30, 3.3, 64.8, 64.9, 129.7, 530.1, 533.7, 2.0**15 - 0.3, 2.0**15 + 0.3, 1e6 / 3])
def test_the_error_of_a_difference_is_kept_for_logits_of_either_sign(m, n_classes, dtype):
    """Where logits that count are larger in size than the maximum, it is not the maximum that is subtracted."""
    rng = np.random.default_rng(n_classes)
    for sign in (1.0, -1.0):
        top = dtype(sign * m)
        x = (top - rng.uniform(0.0, 90.0, (5, n_classes))).astype(dtype)
        x[:, n_classes // 2] = top
        assert error(softmax(x), x) <= 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", WIDTHS)
def test_a_common_offset_changes_no_bit_of_what_is_exact(n_classes, dtype):
    """Small logits, and those whose differences are taken beforehand."""
    x = 8.0 * np.random.default_rng(0).integers(-8, 8, (7, n_classes)).astype(dtype)
    for offset in (2.0**14, -(2.0**14), 2.0**15, 2.0**16, 1e8, -1e8):
        np.testing.assert_array_equal(softmax(x + dtype(offset)), softmax(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", WIDTHS)
def test_every_row_of_a_group_that_is_not_full_is_written_and_nothing_else(n_classes, dtype):
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 37, 71):
        x = rng.standard_normal((n, n_classes)).astype(dtype)
        memory = np.full((n + 2) * n_classes, 7.0, dtype)
        out = memory[n_classes:-n_classes].reshape(n, n_classes)
        loops.softmax(x, out)
        assert error(out, x) <= 2
        assert (memory[:n_classes] == 7.0).all()
        assert (memory[-n_classes:] == 7.0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", WIDTHS)
def test_a_row_that_is_not_finite_spoils_no_other_of_its_group(n_classes, dtype):
    x = np.random.default_rng(0).standard_normal((9, n_classes)).astype(dtype)
    expected, lse = softmax(x), np.empty((9, 1), dtype)
    x[1, 3], x[4, 5], x[6] = np.nan, np.inf, -np.inf
    result = softmax(x)
    good = [0, 2, 3, 5, 7, 8]
    np.testing.assert_array_equal(result[good], expected[good])
    assert np.isnan(result[[1, 4, 6]]).all()
    loops.logsumexp(x, lse)
    np.testing.assert_array_equal(lse[[1, 4, 6], 0], [np.nan, np.inf, -np.inf])
