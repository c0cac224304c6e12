"""Row loops compiled by Numba: rows after rows, without the GIL, in float32 or float64.

Each takes C-contiguous rows x classes and writes results of the same dtype; `out` may be the input. A group of rows
is copied into a buffer, each padded with -inf to a multiple of `_LANES`; every phase is a loop over a row of it that
LLVM vectorises, 64 bytes at a time where the processor can. A phase is done for all rows of the group before the next
one begins: the processor then works on a row while the sum of the one before trickles through its last additions. No
fast-math flag is set but on the additions of `elementary.add`, whose order then depends on the length of the row
alone: a row's bits depend on nothing around it.

With m the row maximum, x - m is computed with its rounding error, and exp(x - m), lifted by a power of two, is called
e; hi + lo is the sum of e, a pair of float64. `rest` is the sum without the largest e, over the largest: the tiny
losses and gradients of confident rows are made of it.
"""

import math
from typing import Any

import numpy as np

from softhead.kernels.elementary import (
    add,
    add_pair,
    borrowing,
    copy,
    divide,
    exp_parts,
    fetch_to_read,
    fetch_to_write,
    fma,
    inlined,
    larger,
    log1p,
    reach,
    row_loop,
    unit,
)

_BLOCK = 1024  # what is exponentiated and summed at a time, in the first-level cache
_GROUP = 2**14  # bytes of rows handled together: four of 1,000 classes take a fifth less time than one by one
_LANES = 32
_NEAR = 2**9  # classes, up to which the same row of the next group is fetched: 100 float64 take a third less time
# Where the rest is less than this share of the largest, it is summed apart from it, lest it drown.
_CONFIDENT = 2.0**-20
# Adding it to at most _BLOCK numbers below 2**513 splits off their leading bits, whose sum is then exact (S. M. Rump,
# T. Ogita and S. Oishi, "Accurate floating-point summation part I", SIAM Journal on Scientific Computing 31, 2008).
_SPLITTER = 1.5 * 2.0**525

# Logits of this size that are near each other, as far as their exponentials count, have an exact difference.
_LARGE = 2.0**15
# What is known of the rows of a group: m, the pair of their sum, `rest` or log(1 + rest), and a pair of factors.
_M, _HI, _LO, _REST, _FACTOR, _FACTOR_LOW = range(6)

_at = np.uint64  # for indices that are sums: a signed one may be negative, and the check for it hinders vectorisation


@inlined
def _buffers(n: Any, dtype: Any) -> Any:
    """Return a buffer for a group of rows, on cache lines of its own, and one for what is known of each."""
    width = (n + _LANES - 1) // _LANES * _LANES
    group = max(1, _GROUP // (width * np.empty(0, dtype).itemsize))
    memory = np.empty(group * width + 2 * _LANES, dtype)
    first = -memory.ctypes.data % 64 // memory.itemsize
    return memory[first : first + group * width].reshape(group, width), np.empty((6, group))


@borrowing
def _load(x: Any, start: Any, rows: Any) -> Any:
    """Copy a group of rows into the buffer, and return their number."""
    n, width = x.shape[1], rows.shape[1]
    size = min(len(rows), len(x) - start)
    for k in range(size):
        for j in range(_LANES):
            rows[k, _at(width - _LANES + j)] = -np.inf
        copy(rows, k * width, x, (start + k) * n, n)
    return size


@borrowing
def _maximum(rows: Any, k: Any) -> Any:
    """Return the maximum of a row, NaN if it holds one."""
    m = rows[k, 0]
    for j in range(rows.shape[1]):
        m = larger(m, rows[k, j])
    return m


@borrowing
def _add_wide(rows: Any, k: Any, first: Any, n: Any, lo: Any) -> Any:
    """Return the sum of float32 numbers, and lo."""
    hi = 0.0
    for j in range(n):
        hi = add(hi, np.float64(rows[k, _at(first + j)]))
    return hi, np.float64(lo)


@borrowing
def _add_exactly(rows: Any, k: Any, first: Any, n: Any, lo: Any) -> Any:
    """Return the sum of float64 numbers but for their last bits, and lo with the sum of those."""
    hi = 0.0
    for j in range(n):
        value = rows[k, _at(first + j)]
        leading = (_SPLITTER + value) - _SPLITTER
        hi = add(hi, leading)
        lo = add(lo, value - leading)
    return hi, lo


@borrowing
def _origin(rows: Any, k: Any, m: Any) -> Any:
    """Return a number near m and what m has more, so that what is subtracted from a logit that counts is exact.

    The error of d = x - a is (x - (d + a)) where a is a multiple of the last place of x (T. J. Dekker, "A
    floating-point technique for extending the available precision", Numerische Mathematik 18, 1971): m itself is such
    a number where no logit that counts is larger in size, else m rounded as one of those is. Large logits are replaced
    by their differences to m.
    """
    if abs(m) > _LARGE:
        for j in range(rows.shape[1]):
            rows[k, j] -= m
        m = m - m
    far = reach(m)
    origin = m if m + m >= far else (m - far) + far
    return origin, m - origin


@borrowing
def _fetch(x: Any, i: Any, out: Any, k: Any, first: Any) -> Any:
    """Ask for a block of row i of x, and of row k of out, while the processor is busy with something else."""
    per_line = 64 // x.itemsize
    if i < len(x) and x.shape[1] <= _NEAR:
        start, n = i * x.shape[1] + first, min(x.shape[1] - first, _BLOCK)
        for line in range((n + per_line - 1) // per_line):
            fetch_to_read(x, start + line * per_line)
    if k < len(out):
        start, n = k * out.shape[1] + first, min(out.shape[1] - first, _BLOCK)
        for line in range((n + per_line - 1) // per_line):
            fetch_to_write(out, start + line * per_line)


@borrowing
def _exponentiate(rows: Any, k: Any, m: Any, x: Any, ahead: Any, out: Any, here: Any) -> Any:
    """Overwrite logits by e, and return their sum as a pair; fetch row `ahead` of x and `here` of out, if there are."""
    origin, m_low = _origin(rows, k, m)
    least = origin - reach(m)
    hi = lo = 0.0
    for first in range(0, rows.shape[1], _BLOCK):
        _fetch(x, ahead, out, here, first)
        n = min(rows.shape[1] - first, _BLOCK)
        low = m - m
        for j in range(n):
            logit = rows[k, _at(first + j)]
            logit = logit if logit > least else least
            d = logit - origin
            scale, s = exp_parts(d, (logit - (d + origin)) - m_low)
            e = fma(scale, s, scale)
            rows[k, _at(first + j)] = e
            low = add(low, fma(scale, s, scale - e))
        in_single = rows.itemsize == 4
        more, more_low = _add_wide(rows, k, first, n, low) if in_single else _add_exactly(rows, k, first, n, low)
        hi, lo = add_pair(hi, lo, more, more_low)
    total = hi + lo
    return total, lo - (total - hi)


@borrowing
def _exponentiate_group(x: Any, start: Any, rows: Any, known: Any, out: Any) -> Any:
    """Load a group of rows, exponentiate it, and return its size; m, hi and lo are then known."""
    size = _load(x, start, rows)
    for k in range(size):
        known[_M, k] = _maximum(rows, k)
    for k in range(size):
        m, i = x.dtype.type(known[_M, k]), start + k
        known[_HI, k], known[_LO, k] = _exponentiate(rows, k, m, x, i + size, out, i)
    return size


@borrowing
def _rest_group(x: Any, size: Any, rows: Any, known: Any) -> Any:
    """Compute the rest of every row of a group, NaN where m is not finite."""
    for k in range(size):
        m = x.dtype.type(known[_M, k])
        known[_REST, k] = _rest(rows, k, m, known[_HI, k], known[_LO, k]) + np.float64(m - m)


@borrowing
def _rest(rows: Any, k: Any, m: Any, hi: Any, lo: Any) -> Any:
    """Return the sum of all e but the largest, divided by the largest."""
    top = unit(m)
    rest = (hi - top) + lo
    if rest < top * _CONFIDENT:
        rest = _sum_without(rows, k, top)
    return rest / top


@borrowing
def _sum_without(rows: Any, k: Any, top: Any) -> Any:
    """Return the sum of what does not equal the largest."""
    rest = 0.0
    for j in range(rows.shape[1]):
        value = rows[k, j]
        rest = add(rest, np.float64(0.0 if value == top else value))
    if rows.itemsize == 4 or rest == 0.0:
        return rest
    splitter = math.ldexp(1.5, math.frexp(rest)[1] + 2)
    hi = lo = 0.0
    for j in range(rows.shape[1]):
        value = rows[k, j]
        value = 0.0 if value == top else value
        leading = (splitter + value) - splitter
        hi = add(hi, leading)
        lo = add(lo, value - leading)
    return hi + lo


@borrowing
def _factors(size: Any, known: Any, kind: Any) -> Any:
    """Turn numerators into factors, which are these over the sums of e."""
    for k in range(size):
        factor, factor_low = divide(known[_FACTOR, k], known[_HI, k], known[_LO, k], kind)
        known[_FACTOR, k], known[_FACTOR_LOW, k] = factor, factor_low


@borrowing
def _store_scaled(rows: Any, k: Any, factor: Any, factor_low: Any, i: Any, out: Any) -> Any:
    """Write e times a factor: only the last operation rounds."""
    for j in range(out.shape[1]):
        out[i, j] = fma(rows[k, j], factor, rows[k, j] * factor_low)


@borrowing
def _store_group(size: Any, rows: Any, known: Any, start: Any, out: Any) -> Any:
    """Write the rows of a group, times their factors."""
    _factors(size, known, out.dtype.type)
    for k in range(size):
        factor, factor_low = out.dtype.type(known[_FACTOR, k]), out.dtype.type(known[_FACTOR_LOW, k])
        _store_scaled(rows, k, factor, factor_low, start + k, out)


@borrowing
def _fill(out: Any, i: Any, value: Any) -> Any:
    """Write one value into a row."""
    for j in range(out.shape[1]):
        out[i, j] = value


@row_loop
def softmax(x: Any, out: Any) -> Any:
    """Write the softmax of every row."""
    rows, known = _buffers(x.shape[1], x.dtype)
    for start in range(0, len(x), len(rows)):
        size = _exponentiate_group(x, start, rows, known, out)
        for k in range(size):
            known[_FACTOR, k] = 1.0 + (known[_M, k] - known[_M, k])  # NaN where m is not finite
        _store_group(size, rows, known, start, out)


@row_loop
def log_softmax(x: Any, out: Any) -> Any:
    """Write the logarithm of the softmax of every row."""
    rows, known = _buffers(x.shape[1], x.dtype)
    for start in range(0, len(x), len(rows)):
        size = _exponentiate_group(x, start, rows, known, out)
        _rest_group(x, size, rows, known)
        for k in range(size):
            known[_REST, k] = log1p(known[_REST, k])
        for k in range(size):
            m, log_sum = out.dtype.type(known[_M, k]), out.dtype.type(known[_REST, k])
            for j in range(x.shape[1]):
                out[start + k, j] = (x[start + k, j] - m) - log_sum


@row_loop
def logsumexp(x: Any, out: Any) -> Any:
    """Write log(sum of exp) of every row into out, of shape (rows, 1)."""
    rows, known = _buffers(x.shape[1], x.dtype)
    for start in range(0, len(x), len(rows)):
        size = _exponentiate_group(x, start, rows, known, out)
        _rest_group(x, size, rows, known)
        for k in range(size):
            m = known[_M, k]
            lse = m + log1p(known[_REST, k])
            out[start + k, 0] = lse if m - m == 0.0 else m


@borrowing
def _losses(x: Any, labels: Any, weight: Any, start: Any, size: Any, known: Any, losses: Any) -> Any:
    """Write weight * (log(1 + rest) + m - logit); an infinite loss without weight is nothing."""
    for k in range(size):  # apart from what follows: log1p, too, is vectorised
        losses[start + k] = log1p(known[_REST, k])
    for k in range(size):
        label, loss, own = labels[start + k], 0.0, 0.0
        if label >= 0:
            own = weight[label]
            loss = losses[start + k] + (known[_M, k] - np.float64(x[start + k, label]))
        losses[start + k] = 0.0 if own == 0.0 and (loss == np.inf or label < 0) else own * loss


@row_loop
def cross_entropy(x: Any, labels: Any, weight: Any, losses: Any) -> Any:
    """Write the loss of every row (float64) for integer labels; a negative label has loss zero."""
    rows, known = _buffers(x.shape[1], x.dtype)
    for start in range(0, len(x), len(rows)):
        size = _exponentiate_group(x, start, rows, known, losses.reshape(-1, 1))
        _rest_group(x, size, rows, known)
        _losses(x, labels, weight, start, size, known, losses)


@row_loop
def cross_entropy_gradient(x: Any, labels: Any, weight: Any, denominator: Any, losses: Any, out: Any) -> Any:
    """Write as `cross_entropy` does, and the gradient of every row's loss / denominator into out."""
    rows, known = _buffers(x.shape[1], x.dtype)
    own = np.empty(len(rows))
    for start in range(0, len(x), len(rows)):
        size = _exponentiate_group(x, start, rows, known, out)
        _rest_group(x, size, rows, known)
        _losses(x, labels, weight, start, size, known, losses)
        for k in range(size):
            label, rest, hi, lo = max(labels[start + k], 0), known[_REST, k], known[_HI, k], known[_LO, k]
            scale = weight[label] / denominator
            share = rest / (1.0 + rest)
            if np.float64(x[start + k, label]) != known[_M, k]:
                share = ((hi - np.float64(rows[k, label])) + lo) / hi
            known[_FACTOR, k] = scale + (rest - rest)
            own[k] = -scale * (share + (rest - rest))
        _store_group(size, rows, known, start, out)
        for k in range(size):
            if labels[start + k] >= 0:
                out[start + k, labels[start + k]] = own[k]
            else:
                _fill(out, start + k, 0.0)
