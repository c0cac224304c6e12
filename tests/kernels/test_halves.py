"""Half types by way of float32: every number, every tie, and what the loops make of them."""

import ml_dtypes
import numpy as np
import pytest

from softhead.kernels import halves

LAYOUTS = {np.dtype(np.float16): halves._FLOAT16, np.dtype(ml_dtypes.bfloat16): halves._BFLOAT16}


@pytest.mark.parametrize("dtype", LAYOUTS, ids=str)
def test_every_half_number_and_every_tie(dtype):
    dropped, rebias, unit, rounder, smallest, infinity = LAYOUTS[dtype]
    bits = np.concatenate([np.arange(infinity + 1), np.arange(0x8000, 0x8000 + infinity + 1)]).astype(np.uint16)
    singles = np.empty(len(bits), np.float32)
    halves._widen(bits, dropped, rebias, unit, infinity, singles)
    np.testing.assert_array_equal(singles, bits.view(dtype).astype(np.float32))
    numbers = np.sort(singles[np.isfinite(singles)])
    ties = ((numbers[1:].astype(float) + numbers[:-1]) / 2).astype(np.float32)
    values = np.concatenate([singles, ties, np.nextafter(ties, np.float32(9e9)), np.nextafter(ties, np.float32(-9e9))])
    result = np.empty(len(values), np.uint16)
    halves._narrow(values, dropped, rebias, rounder, smallest, infinity, result)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(result, values.astype(dtype).view(np.uint16))
    result = np.empty(2, np.uint16)
    halves._narrow(np.array([np.nan, -np.nan], np.float32), dropped, rebias, rounder, smallest, infinity, result)
    assert (result % 2**15 > infinity).all()


@pytest.mark.parametrize("dtype", LAYOUTS, ids=str)
def test_rows_wherever_they_lie_in_memory(dtype):
    x = np.random.default_rng(0).standard_normal((700, 130)).astype(dtype)
    p = np.empty_like(x)
    halves.softmax(x, p)
    columns, spaced = np.empty(x.shape[::-1], dtype).T, np.empty((700, 260), dtype)[:, ::2]
    for source, target in ((np.asfortranarray(x), columns), (np.repeat(x, 2, axis=1)[:, ::2], spaced)):
        halves.softmax(source, target)
        assert target.tobytes() == p.tobytes()
    halves.softmax(x, x)
    assert x.tobytes() == p.tobytes()
