"""Row loops for few classes, compiled by Numba: as `loops`, but for many rows at a time.

A row of ten classes does not fill a vector. Here a tile of `_ROWS` rows is turned so that the classes come first, and
every phase is a loop over its rows, one a lane. Each lane does the same operations whatever is in the others, so a
row's bits depend on nothing around it.
"""

from typing import Any

import numpy as np

from softhead.kernels.elementary import (
    add_pair,
    borrowing,
    divide,
    exp_difference,
    fma,
    inlined,
    larger,
    log1p,
    reach,
    row_loop,
    unit,
)

_ROWS = 64


@inlined
def _buffers(n: Any, dtype: Any) -> Any:
    """Return buffers for logits and e, classes x rows; for maxima and their classes; and for pairs of float64."""
    shape = (n, _ROWS)
    # Lanes beyond the last row hold zeros, or what was in an earlier tile.
    return np.zeros(shape, dtype), np.empty(shape, dtype), np.empty((3, _ROWS), dtype), np.empty((4, _ROWS))


@borrowing
def _exponentiate(x: Any, start: Any, buffers: Any) -> Any:
    """Load a tile and compute its e = 2**lift exp(x - m); return the number of rows and 2**lift.

    Of every lane, the sum of all e but the largest is left in wide[0] + wide[1] and rest, that over the largest, in
    wide[2]; the maximum in single[0], its class in single[1]. What is not finite makes rest NaN.
    """
    values, e, single, wide = buffers
    n, size = x.shape[1], min(_ROWS, len(x) - start)
    for i in range(size):
        for c in range(n):
            values[c, i] = x[start + i, c]
    maximum, top, low, hi, lo, rest = single[0], single[1], single[2], wide[0], wide[1], wide[2]
    zero = x.dtype.type(0.0)
    lift = unit(zero)
    for i in range(_ROWS):
        maximum[i], top[i] = values[0, i], zero
        hi[i] = lo[i] = 0.0
    # Loads stand before conditions, not within: only what needs no branch is vectorised.
    for c in range(1, n):
        at = x.dtype.type(c)
        for i in range(_ROWS):
            value, m, before = values[c, i], maximum[i], top[i]
            top[i] = at if value > m else before
            maximum[i] = larger(m, value)
    for c in range(n):
        at = x.dtype.type(c)
        for i in range(_ROWS):
            value, m, largest = values[c, i], maximum[i], top[i]
            m = m if m - m == zero else zero
            far = value < m - reach(m)
            value, value_low = exp_difference(m if far else value, m)
            e[c, i] = zero if far else value
            low[i] = zero if far | (largest == at) else value_low
        for i in range(_ROWS):
            value, largest = e[c, i], top[i]
            more, more_low = np.float64(zero if largest == at else value), np.float64(low[i])
            if x.itemsize == 4:
                hi[i] += more
                lo[i] += more_low
            else:
                hi[i], lo[i] = add_pair(hi[i], lo[i], more, more_low)
    for i in range(_ROWS):
        rest[i] = (hi[i] + lo[i]) / lift + np.float64(maximum[i] - maximum[i])
    return size, np.float64(lift)


@borrowing
def _log_sum(rest: Any, log_sum: Any) -> Any:
    """Write log(1 + rest)."""
    for i in range(_ROWS):
        log_sum[i] = log1p(rest[i])


@borrowing
def _scale(buffers: Any, lift: Any) -> Any:
    """Multiply e by the factors in wide[3] over its sum."""
    _, e, single, wide = buffers
    for i in range(_ROWS):
        total, total_lo = add_pair(lift, 0.0, wide[0, i], wide[1, i])
        single[0, i], single[2, i] = divide(wide[3, i], total, total_lo, e.dtype.type)
    for c in range(len(e)):
        for i in range(_ROWS):
            e[c, i] = fma(e[c, i], single[0, i], e[c, i] * single[2, i])


@borrowing
def _store(result: Any, size: Any, start: Any, out: Any) -> Any:
    """Write a tile of results, turned back."""
    for i in range(size):
        for c in range(len(result)):
            out[start + i, c] = result[c, i]


@row_loop
def softmax(x: Any, out: Any) -> Any:
    """Write the softmax of every row."""
    buffers = _buffers(x.shape[1], x.dtype)
    _, e, _, wide = buffers
    for start in range(0, len(x), _ROWS):
        size, lift = _exponentiate(x, start, buffers)
        for i in range(_ROWS):
            wide[3, i] = 1.0 + (wide[2, i] - wide[2, i])  # NaN where rest is
        _scale(buffers, lift)
        _store(e, size, start, out)


@row_loop
def log_softmax(x: Any, out: Any) -> Any:
    """Write the logarithm of the softmax of every row."""
    buffers = _buffers(x.shape[1], x.dtype)
    values, e, single, wide = buffers
    for start in range(0, len(x), _ROWS):
        size, _ = _exponentiate(x, start, buffers)
        _log_sum(wide[2], wide[3])
        for c in range(len(e)):
            for i in range(_ROWS):
                e[c, i] = (values[c, i] - single[0, i]) - out.dtype.type(wide[3, i])
        _store(e, size, start, out)


@row_loop
def logsumexp(x: Any, out: Any) -> Any:
    """Write log(sum of exp) of every row into out, of shape (rows, 1)."""
    buffers = _buffers(x.shape[1], x.dtype)
    _, _, single, wide = buffers
    for start in range(0, len(x), _ROWS):
        size, _ = _exponentiate(x, start, buffers)
        _log_sum(wide[2], wide[3])
        for i in range(size):
            m = single[0, i]
            out[start + i, 0] = m + wide[3, i] if np.isfinite(m) else m


@borrowing
def _losses(x: Any, labels: Any, weight: Any, start: Any, size: Any, buffers: Any, losses: Any) -> Any:
    """Write weight * -log p of every row's label; none where the row is ignored, or an infinite loss has no weight."""
    _, _, single, wide = buffers
    _log_sum(wide[2], wide[3])
    for i in range(size):
        label = labels[start + i]
        loss, own = 0.0, 0.0
        if label >= 0:
            own = weight[label]
            loss = wide[3, i] + (np.float64(single[0, i]) - np.float64(x[start + i, label]))
        losses[start + i] = 0.0 if own == 0.0 and (loss == np.inf or label < 0) else own * loss


@row_loop
def cross_entropy(x: Any, labels: Any, weight: Any, losses: Any) -> Any:
    """Write the loss of every row (float64) for integer labels; a negative label has loss zero."""
    buffers = _buffers(x.shape[1], x.dtype)
    for start in range(0, len(x), _ROWS):
        size, _ = _exponentiate(x, start, buffers)
        _losses(x, labels, weight, start, size, buffers, losses)


@row_loop
def cross_entropy_gradient(x: Any, labels: Any, weight: Any, denominator: Any, losses: Any, out: Any) -> Any:
    """Write as `cross_entropy` does, and the gradient of every row's loss / denominator into out."""
    buffers = _buffers(x.shape[1], x.dtype)
    _, e, single, wide = buffers
    own = np.empty(_ROWS)
    for start in range(0, len(x), _ROWS):
        size, lift = _exponentiate(x, start, buffers)
        _losses(x, labels, weight, start, size, buffers, losses)
        for i in range(size):
            label, rest = labels[start + i], wide[2, i]
            scale = weight[max(label, 0)] / denominator
            others = rest
            if single[1, i] != label:
                others = (1.0 + rest) - np.float64(e[max(label, 0), i]) / lift
            wide[3, i] = scale + (rest - rest)
            own[i] = -scale * (others / (1.0 + rest))
        _scale(buffers, lift)
        _store(e, size, start, out)
        for i in range(size):
            label = labels[start + i]
            if label >= 0:
                out[start + i, label] = own[i]
            else:
                for c in range(len(e)):
                    out[start + i, c] = 0.0
