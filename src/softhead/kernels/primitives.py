"""Arithmetic on pairs of float64, with stated error bounds, for the row kernels.

A pair ``(hi, lo)`` stands for the number ``hi + lo``; ``lo`` holds what rounding took from ``hi``. A sum or a product
of two float64 is exactly such a pair (Knuth, The Art of Computer Programming 2, section 4.2.2; Dekker, "A
floating-point technique for extending the available precision", Numerische Mathematik 18, 1971). Everything here is
elementwise or reduces the first axis in a fixed order, so a column's result does not depend on its neighbours.
"""

import math

import numpy as np

# ln 2 in two parts: the first has 42 bits, so that its product with an exponent of up to 11 bits is exact.
_LN2_HI = float.fromhex("0x1.62e42fefa38p-1")
_LN2_LO = float.fromhex("0x1.ef35793c7673p-45")
_SPLITTER = 2.0**27 + 1.0
_BELOW_UNDERFLOW = -760.0  # exp is zero from -745.14 down
# Numbers of this size are scaled down, lest differences or splittings of them overflow; what underflows then is
# negligible beside them.
_LARGE, _SHRINK = 2.0**900, 2.0**-60
# 1/2!, ..., 1/14!: for |r| <= ln(2)/2 the first term left out is below 2**-63.
_EXP_TAYLOR = tuple(1.0 / math.factorial(n) for n in range(14, 1, -1))


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a + b as an exact pair."""
    total = a + b
    b_part = total - a
    return total, (a - (total - b_part)) + (b - b_part)


def two_product(a: np.ndarray, b: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return a * b as an exact pair, where neither splitting overflows (below 2**996) nor the low part underflows."""
    a_hi = _SPLITTER * a
    a_hi = a_hi - (a_hi - a)
    b_hi = _SPLITTER * b
    b_hi = b_hi - (b_hi - b)
    a_lo, b_lo = a - a_hi, b - b_hi
    product = a * b
    return product, ((a_hi * b_hi - product) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo


def divide(hi: np.ndarray, lo: np.ndarray, divisor: float, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (hi + lo) / (divisor * scale) as a pair, for powers of two in scale; the low part is always finite."""
    # Only a divisor in [1, 2) takes part, so that a tiny or huge one neither overflows nor underflows on the way.
    mantissa, exponent = math.frexp(divisor)
    mantissa, exponent = 2.0 * mantissa, exponent - 1
    quotient = hi / mantissa
    product, error = two_product(quotient, mantissa)
    remainder = (((hi - product) - error) + lo) / mantissa
    power = 1 - exponent - np.frexp(scale)[1]  # in one step, for either factor alone may overflow
    quotient, remainder = np.ldexp(quotient, power), np.ldexp(remainder, power)
    return quotient, np.where(np.isfinite(quotient + remainder), remainder, 0.0)


def over(values: np.ndarray, divisor: float, exponent: np.ndarray | int) -> np.ndarray:
    """Return 2**exponent * values / divisor: neither factor by itself overflows or underflows."""
    mantissa, divisor_exponent = math.frexp(divisor)
    return np.ldexp(values / mantissa, exponent - divisor_exponent)


def shift(x: np.ndarray, origin: np.ndarray, divisor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (x - origin) / divisor as a pair, also where x - origin alone would overflow."""
    scale = np.where((np.abs(origin) < _LARGE) & (divisor < _LARGE), 1.0, _SHRINK)
    hi, lo = two_sum(x * scale, -origin * scale)
    return divide(hi, lo, divisor, scale)


def exp(hi: np.ndarray, lo: np.ndarray, lift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return 2**lift exp(hi + lo) as a pair, for hi <= 0 and 0 <= lift <= 512: relative error 2**-55 if not subnormal.

    The low part must be at most the rounding error of the high part; where exp underflows it is not used.
    """
    floor = _BELOW_UNDERFLOW - lift
    lo = np.where(hi > floor, lo, 0.0)
    hi = np.maximum(hi, floor)  # keeps NaN
    power = np.rint(hi * (1.0 / math.log(2.0)))
    r, r_lo = two_sum(hi - power * _LN2_HI, -power * _LN2_LO)
    r_lo += lo
    tail = np.full_like(r, _EXP_TAYLOR[0])
    for coefficient in _EXP_TAYLOR[1:]:
        tail *= r
        tail += coefficient
    tail *= r * r
    # exp(r) = 1 + r + tail, with the rounding error of 1 + r kept: only the tail's own error, below 2**-55, is left.
    head = 1.0 + r
    tail += r - (head - 1.0)
    value = head + tail
    error = (tail - (value - head)) + r_lo * value
    power = power.astype(np.int32) + lift
    return np.ldexp(value, power), np.ldexp(error, power)


def log1p(hi: np.ndarray, lo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log(1 + hi + lo) as a pair, for 0 <= hi < 2**996: error below 2**-54 and 3 units of its own rounding."""
    value = np.log1p(hi)
    # One Newton step on exp: log(s) = v + log(s exp(-v)), and the last argument differs from 1 by rounding alone.
    s, s_lo = two_sum(np.ones_like(hi), hi)
    e, e_lo = exp(-value, np.zeros_like(value))
    product, error = two_product(s, e)
    return value, (product - 1.0) + (error + s * e_lo + (s_lo + lo) * e)


def total(hi: np.ndarray, lo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum over the first axis as a pair, by a tree of exact additions: order depends on the length alone."""
    hi, lo = hi.copy(), lo.copy()
    n = len(hi)
    while n > 1:
        half = n // 2
        hi[:half], error = two_sum(hi[:half], hi[n - half : n])
        lo[:half] += lo[n - half : n] + error
        n -= half
    return hi[0], np.where(np.isfinite(hi[0]), lo[0], 0.0)  # an infinite sum has no error


@np.errstate(all="ignore")
def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return float64 values in a dtype, rounded once."""
    if dtype.kind == "V":
        # bfloat16 is converted by way of float32, which would round twice. Keep 12 bits and let the last say whether
        # anything followed (round to odd): then float32 holds the value and the second rounding sees its true side.
        bits = np.asarray(values).view(np.uint64)
        followed = (bits & np.uint64(2**40 - 1)) != 0
        values = ((bits >> np.uint64(40) | followed) << np.uint64(40)).view(np.float64)
    return values.astype(dtype, copy=False)
