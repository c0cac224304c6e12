"""Row loops compiled by Numba: one row after the other, without the GIL, in float32 or float64.

Each takes C-contiguous rows x classes and writes results of the same dtype; `out` may be the input. Rows are copied
into a buffer, each padded with -inf to a multiple of `_LANES`, and every phase is a loop over a row of it that LLVM
vectorises, 64 bytes at a time where the processor can. No fast-math flag is set but on the additions of
`elementary.add`, whose order then depends on the length of the row alone: a row's bits depend on nothing around it.

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
    copy,
    divide,
    exp,
    exp_difference,
    fma,
    inlined,
    larger,
    log1p,
    reach,
    row_loop,
)

_BLOCK = 1024  # what is exponentiated and summed at a time, in the first-level cache
_LANES = 32
# Where the rest is less than this share of the largest, it is summed apart from it, lest it drown.
_CONFIDENT = 2.0**-20
# Adding it to at most _BLOCK numbers below 2**513 splits off their leading bits, whose sum is then exact (S. M. Rump,
# T. Ogita and S. Oishi, "Accurate floating-point summation part I", SIAM Journal on Scientific Computing 31, 2008).
_SPLITTER = 1.5 * 2.0**525

_at = np.uint64  # for indices that are sums: a signed one may be negative, and the check for it hinders vectorisation


@inlined
def _buffers(n: Any, dtype: Any) -> Any:
    """Return buffers for a group of rows and for the low parts of a block, on cache lines of their own."""
    width = (n + _LANES - 1) // _LANES * _LANES
    group = max(1, _BLOCK // width)
    memory = np.empty(group * width + _BLOCK + 2 * _LANES, dtype)
    first = -memory.ctypes.data % 64 // memory.itemsize
    second = first + group * width + _LANES
    return memory[first : first + group * width].reshape(group, width), memory[second : second + _BLOCK]


@inlined
def _load(x: Any, start: Any, rows: Any) -> Any:
    """Copy a group of rows into the buffer."""
    n, width = x.shape[1], rows.shape[1]
    size = min(len(rows), len(x) - start)
    for k in range(size):
        for j in range(_LANES):
            rows[k, _at(width - _LANES + j)] = -np.inf
        copy(rows, k * width, x, (start + k) * n, n)


@inlined
def _maximum(rows: Any, k: Any) -> Any:
    """Return the maximum of a row, NaN if it holds one."""
    m = rows[k, 0]
    for j in range(rows.shape[1]):
        m = larger(m, rows[k, j])
    return m


@inlined
def _add_wide(rows: Any, k: Any, first: Any, low: Any, n: Any) -> Any:
    """Return the sum of float32 numbers and of their low parts."""
    hi, lo = 0.0, np.float32(0.0)
    for j in range(n):
        hi = add(hi, np.float64(rows[k, _at(first + j)]))
    for j in range(n):
        lo = add(lo, low[j])
    return hi, np.float64(lo)


@inlined
def _add_exactly(rows: Any, k: Any, first: Any, low: Any, n: Any) -> Any:
    """Return the sum of float64 numbers but for their last bits, and the sum of those and of the low parts."""
    hi, lo = 0.0, 0.0
    for j in range(n):
        value = rows[k, _at(first + j)]
        leading = (_SPLITTER + value) - _SPLITTER
        hi = add(hi, leading)
        lo = add(lo, (value - leading) + low[j])
    return hi, lo


@inlined
def _exponentiate(rows: Any, k: Any, m: Any, low: Any) -> Any:
    """Overwrite logits by e, and return their sum as a pair."""
    least, nothing = m - reach(m), m - m
    hi = lo = 0.0
    for first in range(0, rows.shape[1], _BLOCK):
        n = min(rows.shape[1] - first, _BLOCK)
        for j in range(n):
            x = rows[k, _at(first + j)]
            far = x < least  # negligible, and exactly zero: subnormal numbers would slow down what follows
            x = m if far else x
            e, e_low = exp_difference(x, m)
            rows[k, _at(first + j)] = nothing if far else e
            low[j] = nothing if far else e_low
        more, more_lo = _add_wide(rows, k, first, low, n) if low.itemsize == 4 else _add_exactly(rows, k, first, low, n)
        hi, lo = add_pair(hi, lo, more, more_lo)
    total = hi + lo
    return total, lo - (total - hi)


@inlined
def _rest(rows: Any, k: Any, m: Any, hi: Any, lo: Any) -> Any:
    """Return the sum of all e but the largest, divided by the largest."""
    top, _ = exp(m - m, m - m)
    rest = (hi - top) + lo
    if rest < top * _CONFIDENT:
        rest = _sum_without(rows, k, top)
    return rest / top


@inlined
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


@inlined
def _store_scaled(rows: Any, k: Any, factor: Any, factor_low: Any, i: Any, out: Any) -> Any:
    """Write e times a factor: only the last operation rounds."""
    for j in range(rows.shape[1]):
        rows[k, j] = fma(rows[k, j], factor, rows[k, j] * factor_low)
    n = out.shape[1]
    copy(out, i * n, rows, k * rows.shape[1], n)


@inlined
def _fill(out: Any, i: Any, value: Any) -> Any:
    """Write one value into a row."""
    for j in range(out.shape[1]):
        out[i, j] = value


@row_loop
def softmax(x: Any, out: Any) -> Any:
    """Write the softmax of every row."""
    rows, low = _buffers(x.shape[1], x.dtype)
    for i in range(len(x)):
        k = i % len(rows)
        if k == 0:
            _load(x, i, rows)
        m = _maximum(rows, k)
        if math.isfinite(m):
            hi, lo = _exponentiate(rows, k, m, low)
            factor, factor_low = divide(1.0, hi, lo, out.dtype.type)
            _store_scaled(rows, k, factor, factor_low, i, out)
        else:
            _fill(out, i, np.nan)


@row_loop
def log_softmax(x: Any, out: Any) -> Any:
    """Write the logarithm of the softmax of every row."""
    rows, low = _buffers(x.shape[1], x.dtype)
    for i in range(len(x)):
        k = i % len(rows)
        if k == 0:
            _load(x, i, rows)
        m = _maximum(rows, k)
        if math.isfinite(m):
            hi, lo = _exponentiate(rows, k, m, low)
            rest = _rest(rows, k, m, hi, lo)
            log_sum = out.dtype.type(log1p(rest))
            for j in range(x.shape[1]):
                out[i, j] = (x[i, j] - m) - log_sum
        else:
            _fill(out, i, np.nan)


@row_loop
def logsumexp(x: Any, out: Any) -> Any:
    """Write log(sum of exp) of every row into out, of shape (rows, 1)."""
    rows, low = _buffers(x.shape[1], x.dtype)
    for i in range(len(x)):
        k = i % len(rows)
        if k == 0:
            _load(x, i, rows)
        m = _maximum(rows, k)
        if math.isfinite(m):
            hi, lo = _exponentiate(rows, k, m, low)
            rest = _rest(rows, k, m, hi, lo)
            out[i, 0] = m + log1p(rest)
        else:
            out[i, 0] = m


@inlined
def _losses(labels: Any, weight: Any, margins: Any, losses: Any) -> Any:
    """Turn `rest` into weight * (log(1 + rest) + margin); an infinite loss without weight is nothing."""
    for i in range(len(losses)):  # apart from the rows: log1p, too, is vectorised
        losses[i] = log1p(losses[i]) + margins[i]
    for i in range(len(losses)):
        own = weight[labels[i]] if labels[i] >= 0 else 0.0
        losses[i] = 0.0 if own == 0.0 and losses[i] == np.inf else own * losses[i]


@row_loop
def cross_entropy(x: Any, labels: Any, weight: Any, losses: Any) -> Any:
    """Write the loss of every row (float64) for integer labels; a negative label has loss zero."""
    rows, low = _buffers(x.shape[1], x.dtype)
    margins = np.zeros(len(x))
    for i in range(len(x)):
        k = i % len(rows)
        if k == 0:
            _load(x, i, rows)
        label = labels[i]
        losses[i] = 0.0
        if label >= 0:
            m = _maximum(rows, k)
            margins[i] = np.float64(m) - np.float64(rows[k, label])
            losses[i] = np.nan
            if math.isfinite(m):
                hi, lo = _exponentiate(rows, k, m, low)
                losses[i] = _rest(rows, k, m, hi, lo)
    _losses(labels, weight, margins, losses)


@row_loop
def cross_entropy_gradient(x: Any, labels: Any, weight: Any, denominator: Any, losses: Any, out: Any) -> Any:
    """Write as `cross_entropy` does, and the gradient of every row's loss / denominator into out."""
    rows, low = _buffers(x.shape[1], x.dtype)
    margins = np.zeros(len(x))
    for i in range(len(x)):
        k = i % len(rows)
        if k == 0:
            _load(x, i, rows)
        label = labels[i]
        if label < 0:
            losses[i] = 0.0
            _fill(out, i, 0.0)
            continue
        m = _maximum(rows, k)
        if not math.isfinite(m):
            losses[i] = np.nan
            _fill(out, i, np.nan)
            continue
        margin = np.float64(m) - np.float64(rows[k, label])
        hi, lo = _exponentiate(rows, k, m, low)
        rest = _rest(rows, k, m, hi, lo)
        margins[i], losses[i] = margin, rest
        scale = weight[label] / denominator
        factor, factor_low = divide(scale, hi, lo, out.dtype.type)
        share = rest / (1.0 + rest) if margin == 0.0 else ((hi - np.float64(rows[k, label])) + lo) / hi
        _store_scaled(rows, k, factor, factor_low, i, out)
        out[i, label] = -scale * share
    _losses(labels, weight, margins, losses)
