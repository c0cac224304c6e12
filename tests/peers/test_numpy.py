"""NumPy's validation sets for exp and log1p: correctly rounded values, with the largest error allowed in ulp."""

import csv
from importlib.resources import files

import numpy as np
import pytest

from softhead.kernels import primitives

DATA = files("numpy._core").joinpath("tests", "data")

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="this NumPy comes without its tests")


def not_positive(x):
    """Return where exp is defined: at logits less the largest, and NaN."""
    return ~(x > 0)


def not_negative(x):
    """Return where log1p is defined: at NaN and sums of exponentials, far below what overflows in `two_product`."""
    return ~((x < 0) | (x >= 2.0**996))


@np.errstate(invalid="ignore")  # some of the NaNs are signalling
@pytest.mark.parametrize(
    ("function", "domain", "dtype", "count"),
    [
        (primitives.exp, not_positive, "float32", 68),
        (primitives.exp, not_positive, "float64", 139),
        (primitives.log1p, not_negative, "float32", 408),
        (primitives.log1p, not_negative, "float64", 320),
    ],
)
def test_validation_set(function, domain, dtype, count):
    with DATA.joinpath(f"umath-validation-set-{function.__name__}.csv").open() as file:
        table = csv.DictReader(line for line in file if not line.startswith("#"))
        rows = [row for row in table if row["dtype"] == f"np.{dtype}"]
    (bound,) = {int(row["ulperrortol"]) for row in rows}
    unsigned = f"u{np.dtype(dtype).itemsize}"
    x, expected = (np.array([int(row[key], 16) for row in rows], unsigned).view(dtype) for key in ("input", "output"))
    x = x.astype(np.float64)
    used = domain(x)
    assert used.sum() == count
    hi, lo = function(x[used], np.zeros(count))
    np.testing.assert_array_max_ulp((hi + lo).astype(dtype), expected[used], maxulp=bound)
