"""Rows so long that they are cut into blocks (see `long_rows`), at any temperature and in any floating type.

A block is summarised, and later written, relative to its own maximum: between them, the row's maximum changes a factor
or a term alone.
"""

from typing import Any

import numpy as np

from softhead.kernels import primitives
from softhead.kernels.elementary import fma, row_loop
from softhead.kernels.formats import store
from softhead.kernels.long_rows import Place, Sums, combine, factors, n_blocks, over_blocks
from softhead.kernels.wide import TOP, exponentiate, reciprocal, shift, take_rest, tile
from softhead.kernels.wide_rows import run_here

_LIFT = 512  # of the e of `wide`


@row_loop
def summarise(x: Any, code: Any, n: Any, temperature: Any, summary: Any) -> None:
    """Write a block's maximum and, as a pair, the sum of exp((x - maximum) / T) but for one maximum."""
    buffers, scale = tile(n), reciprocal(temperature)
    shift(x, 0, code, n, scale[2], buffers)
    state = buffers[3]
    m = state[6, 0]
    summary[0], summary[1], summary[2] = m, 0.0, 0.0
    if m - m == 0.0:
        exponentiate(1, code, scale, buffers)
        take_rest(1, code, buffers)
        hi, lo = state[2, 0], state[3, 0]
        rest = hi - TOP
        if rest < TOP:
            summary[1] = state[4, 0] / TOP
        else:
            summary[1], summary[2] = rest / TOP, ((hi - rest) - TOP + lo) / TOP


@row_loop
def write_shares(
    x: Any, code: Any, n: Any, temperature: Any, before: Any, factor: Any, factor_low: Any, out: Any, out_code: Any
) -> None:
    """Write (before * e) * (factor + factor_low) of a block, where before is a power of 2."""
    buffers, scale = tile(n), reciprocal(temperature)
    shift(x, 0, code, n, scale[2], buffers)
    exponentiate(1, code, scale, buffers)
    row = buffers[1][0]
    for j in range(len(row)):
        value = row[j] * before
        row[j] = fma(value, factor, value * factor_low)
    store(row, out, 0, out_code, n)


@row_loop
def write_differences(x: Any, code: Any, n: Any, temperature: Any, lowered: Any, out: Any, out_code: Any) -> None:
    """Write (x - maximum) / T - lowered of a block."""
    buffers, scale = tile(n), reciprocal(temperature)
    shift(x, 0, code, n, scale[2], buffers)
    state, row = buffers[3], buffers[0][0]
    m, power = state[0, 0], state[1, 0]
    for j in range(n):
        row[j] = ((row[j] - m) * scale[0]) * power - lowered
    store(row, out, 0, out_code, n)


@np.errstate(all="ignore")
def softmax(x: np.ndarray, temperature: float, out: np.ndarray) -> None:
    """Write the softmax of every row of x / temperature."""
    maxima, found = _sums(x, temperature)
    before, factor, factor_low = factors(found, np.ones(len(x)), _LIFT)

    def write(i: int, b: int, place: Place) -> None:
        if not np.isfinite(found.maximum[i]):
            out[place] = np.nan
        elif maxima[b, i] == -np.inf:
            out[place] = 0.0
        else:
            own = before[b, i], factor[b, i], factor_low[b, i]
            run_here(write_shares, [x[place]], (_length(x, place), temperature, *own), [out[place]])

    over_blocks(write, x, np.arange(len(x)))


@np.errstate(all="ignore")
def log_softmax(x: np.ndarray, temperature: float, out: np.ndarray) -> None:
    """Write the logarithm of the softmax of every row of x / temperature."""
    maxima, found = _sums(x, temperature)
    between, between_low = primitives.shift(maxima, found.maximum, temperature)
    lowered = (found.log_total() - between) - between_low

    def write(i: int, b: int, place: Place) -> None:
        if not np.isfinite(found.maximum[i]):
            out[place] = np.nan
        elif maxima[b, i] == -np.inf:
            out[place] = -np.inf
        else:
            run_here(write_differences, [x[place]], (_length(x, place), temperature, lowered[b, i]), [out[place]])

    over_blocks(write, x, np.arange(len(x)))


@np.errstate(all="ignore")
def logsumexp(x: np.ndarray, out: np.ndarray) -> None:
    """Write log(sum of exp) of every row of x into out, of shape (rows, 1)."""
    _, found = _sums(x, 1.0)
    finite = np.isfinite(found.maximum)
    lse = np.where(finite, found.maximum + found.log_total(), found.maximum)
    out[:, 0] = primitives.rounded(lse, out.dtype)


def _sums(x: np.ndarray, temperature: float) -> tuple[np.ndarray, Sums]:
    """Return the maxima of the blocks, blocks x rows, and the sums of the rows."""
    parts = np.empty((n_blocks(x), len(x), 3))

    def read(i: int, b: int, place: Place) -> None:
        run_here(summarise, [x[place]], (_length(x, place), temperature), [parts[b, i]])

    over_blocks(read, x, np.arange(len(x)))
    maxima, rests, rests_low = np.moveaxis(parts, -1, 0)
    return maxima, combine(maxima, rests, rests_low, temperature)


def _length(x: np.ndarray, place: Place) -> int:
    """Return the length of a block."""
    return min(place[1].stop, x.shape[1]) - place[1].start
