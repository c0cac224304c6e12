"""Rows in float64, for every option and every floating type: what the loops of this kind have in common, compiled.

A group of rows is widened into a buffer, each padded to a multiple of `_LANES`. Every phase is a loop over a row that
LLVM vectorises, done for one row of the group after the other, so that the processor need not wait for the sum of one
before it begins the next. With m the row maximum and T the temperature, z = (x - m) / T and e = 2**512 exp(z); hi + lo
is the sum of e, and `rest` the sum without the largest. What lies too far below the maximum to count is exactly zero.

For inputs of at most 32 bits plain float64 is far more than the result can hold. float64 rows are exact: z, e and the
sums are pairs, a number and what its rounding took.
"""

import math
from typing import Any

import numpy as np

from softhead.kernels.elementary import add, add_pair, borrowing, exp, fma, inlined, log1p, reach
from softhead.kernels.formats import FLOAT64, load

_LANES = 32
_BLOCK = 1024  # what is exponentiated and summed at a time, in the first-level cache
TOP = 2.0**512  # the largest e
# Where the rest is less than this share of the largest, it is summed apart from it, lest it drown.
_CONFIDENT = 2.0**-10
_HUGE = 2.0**900  # differences of such logits may overflow: they are divided by 4
_STEEP = 2.0**1000  # a factor of differences that leaves nothing but zero and what overflows

_at = np.uint64  # for indices that are sums: a signed one may be negative, and the check for it hinders vectorisation


@inlined
def _padded(n: Any) -> Any:
    """Return the length of the buffer of a row."""
    return (n + _LANES - 1) // _LANES * _LANES


@inlined
def buffer(size: Any, n: Any, padding: Any) -> Any:
    """Return rows of float64 for n numbers each, padded, on cache lines of their own."""
    width = _padded(n)
    memory = np.empty(size * width + 8)
    first = -memory.ctypes.data % 64 // 8
    rows = memory[first : first + size * width].reshape(size, width)
    for k in range(size):
        for j in range(width - n):
            rows[k, _at(n + j)] = padding
    return rows


@inlined
def tile(n: Any) -> Any:
    """Return buffers for a group of rows of logits and of e, for the low parts of a block, and for single numbers.

    The last, of shape (7, rows), holds m (NaN where the softmax is), the power of two in z = (x - m) * inverse * power,
    hi, lo, rest, log(sum of exp(z)), and the maximum.
    """
    size = max(1, _BLOCK // _padded(n))
    return buffer(size, n, -np.inf), buffer(size, n, 0.0), np.empty(_BLOCK), np.zeros((7, size))


@inlined
def reciprocal(temperature: Any) -> Any:
    """Return 1 / temperature as a pair and a power of two to be applied last: whatever the temperature, all finite.

    The pair is at most 1, so that a difference that is divided by a large temperature does not overflow on the way.
    """
    mantissa, exponent = math.frexp(temperature)
    mantissa, exponent = 2.0 * mantissa, exponent - 1
    if exponent < -900:
        mantissa, exponent = mantissa * 2.0**-100, exponent + 100
    inverse = 1.0 / mantissa
    return inverse, fma(-inverse, mantissa, 1.0) / mantissa, math.ldexp(1.0, -exponent)


@inlined
def shift(x: Any, start: Any, code: Any, n: Any, steps: Any, buffers: Any) -> Any:
    """Load a group of rows and find their maxima; return the number of rows."""
    logits, _, _, state = buffers
    size = min(len(logits), len(x) - start)
    load(x, start, size, code, n, logits, state[6])
    for k in range(size):
        m, power = state[6, k], steps
        if m > _HUGE:
            m, power = m * 0.25, power * 4.0
            for j in range(n):
                logits[k, j] *= 0.25
        state[0, k], state[1, k] = m if m - m == 0.0 else np.nan, power
    return size


@inlined
def exponentiate(size: Any, code: Any, scale: Any, buffers: Any) -> Any:
    """Exponentiate the rows of a group."""
    logits, e, low, state = buffers
    inverse, inverse_low, _ = scale
    for k in range(size):
        m, power = state[0, k], state[1, k]
        if code == FLOAT64:
            hi, lo = _exponentiate_exactly(logits[k], m, inverse, inverse_low, power, e[k], low)
        else:
            hi, lo = _exponentiate(logits[k], m, min(inverse * power, _STEEP), e[k]), 0.0
        state[2, k], state[3, k] = hi, lo


@borrowing
def _exponentiate(x: Any, m: Any, factor: Any, e: Any) -> Any:
    """Write e and return its sum."""
    hi, least = 0.0, -reach(m)
    for j in range(len(x)):
        z = (x[j] - m) * factor
        value, _ = exp(least if z < least else z, 0.0)
        e[j] = value
        hi = add(hi, value)
    return hi


@borrowing
def _exponentiate_exactly(x: Any, m: Any, inverse: Any, inverse_low: Any, power: Any, e: Any, low: Any) -> Any:
    """Write e and return its sum as a pair."""
    hi, lo, least = 0.0, 0.0, -reach(m)
    for first in range(0, len(x), _BLOCK):
        n = min(len(x) - first, _BLOCK)
        for j in range(n):
            logit = x[_at(first + j)]
            d = logit - m
            minus_m = d - logit
            d_low = (logit - (d - minus_m)) - (m + minus_m)
            z = d * inverse
            z_low = fma(d, inverse, -z) + fma(d, inverse_low, d_low * inverse)
            z, z_low = z * power, z_low * power
            far = z < least
            e[_at(first + j)], low[j] = exp(least if far else z, 0.0 if far else z_low)
        more, more_low = _total_block(e, first, n, np.nan)
        for j in range(n):
            more_low = add(more_low, low[j])
        hi, lo = add_pair(hi, lo, more, more_low)
    total = hi + lo
    return total, lo - (total - hi)


@inlined
def take_rest(size: Any, code: Any, buffers: Any) -> Any:
    """Compute the sum of all e but the largest, and the logarithm of the sum of all exp(z)."""
    _, e, _, state = buffers
    for k in range(size):
        rest = (state[2, k] - TOP) + state[3, k]
        if rest < TOP * _CONFIDENT:
            rest, rest_low = total(e[k], TOP, code == FLOAT64)
            rest += rest_low
        state[4, k] = rest
    for k in range(size):
        state[5, k] = log1p(state[4, k] / TOP)


@borrowing
def probabilities(e: Any, hi: Any, lo: Any) -> Any:
    """Overwrite e by the softmax: only the last operation rounds."""
    factor = 1.0 / hi
    factor_low = (fma(-factor, hi, 1.0) - factor * lo) / hi
    for j in range(len(e)):
        e[j] = fma(e[j], factor, e[j] * factor_low)


@borrowing
def total(values: Any, without: Any, exact: Any) -> Any:
    """Return the sum of what in a row does not equal a number, as a pair whose low part is zero unless exact."""
    hi = lo = 0.0
    if not exact:
        for j in range(len(values)):
            value = values[j]
            hi = add(hi, 0.0 if value == without else value)
        return hi, 0.0
    for first in range(0, len(values), _BLOCK):
        more, more_low = _total_block(values, first, min(len(values) - first, _BLOCK), without)
        hi, lo = add_pair(hi, lo, more, more_low)
    return hi, lo if hi - hi == 0.0 else 0.0  # an infinite sum has no error


@borrowing
def _total_block(values: Any, first: Any, n: Any, without: Any) -> Any:
    """Return `total` of a block.

    What exceeds a unit that depends on the size of all is split off: its sum is exact in any order, and that of what
    remains is small (S. M. Rump, T. Ogita and S. Oishi, "Accurate floating-point summation part I", SIAM Journal on
    Scientific Computing 31, 2008).
    """
    size = 0.0
    for j in range(n):
        value = values[_at(first + j)]
        size = add(size, 0.0 if value == without else abs(value))
    splitter = math.ldexp(1.5, math.frexp(size)[1] + 2) if size < _STEEP else 0.0
    hi = lo = 0.0
    for j in range(n):
        value = values[_at(first + j)]
        value = 0.0 if value == without else value
        leading = (splitter + value) - splitter
        hi = add(hi, leading)
        lo = add(lo, value - leading)
    return hi, lo
