"""Rows so long that one of them is worth several threads: cut into blocks of a fixed length, combined in a fixed order.

The length of a row alone decides where it is cut, so its bits depend on nothing around it and on no number of threads.
Every block is read once and summarised by its maximum m_b and, as a pair, the sum r_b of exp(x - m_b) over all but one
of its maxima. With m the largest of the maxima, those of the row follow:

    1 + rest = sum over the blocks of (1 + r_b) exp(m_b - m),

where the block of m leaves out its 1. That sum is taken in pairs of float64; a map then reads every block once more.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from softhead.kernels import primitives
from softhead.kernels.elementary import copy, exp, fma, inlined, row_loop
from softhead.kernels.loops import _BLOCK, _CONFIDENT, _buffers, _exponentiate, _fill, _load, _maximum, _rest
from softhead.kernels.threads import in_parallel

LONG = 2**18  # elements: rows beyond it are cut
_LENGTH = 2**16  # elements of a block, but for the last of a row
_LIFT = 512  # sums hold 2**512 times their value, lest a small rest lose digits
_LIFTS = {np.dtype(np.float32): 60, np.dtype(np.float64): 512}  # of what `elementary.exp` returns

Place = tuple[slice, slice]


@inlined
def _summarise(rows: Any, k: Any, summary: Any, i: Any) -> Any:
    """Overwrite a row of logits by e, and write its maximum and the sum of exp(x - maximum) but for one maximum."""
    m = _maximum(rows, k)
    summary[i, 0], summary[i, 1], summary[i, 2] = m, 0.0, 0.0
    if math.isfinite(m):
        hi, lo = _exponentiate(rows, k, m, summary, len(summary), summary, len(summary))
        top, _ = exp(m - m, m - m)
        rest = hi - top
        if rest + lo < top * _CONFIDENT:
            summary[i, 1] = _rest(rows, k, m, hi, lo)
        else:
            summary[i, 1], summary[i, 2] = rest / top, ((hi - rest) - top + lo) / top


@row_loop
def summarise(x: Any, summary: Any) -> Any:
    """Write the maximum of every row and the sum of exp(x - maximum) over all entries but one maximum, as a pair."""
    rows, _ = _buffers(x.shape[1], x.dtype)
    for i in range(len(x)):
        k = i % len(rows)
        if k == 0:
            _load(x, i, rows)
        _summarise(rows, k, summary, i)


@row_loop
def exponentiate(x: Any, summary: Any, out: Any) -> Any:
    """Write as `summarise` does, and e into out, which may be x."""
    rows, _ = _buffers(x.shape[1], x.dtype)
    for i in range(len(x)):
        k = i % len(rows)
        if k == 0:
            _load(x, i, rows)
        _summarise(rows, k, summary, i)
        if not math.isfinite(summary[i, 0]):
            _fill(rows, k, 0.0)
        copy(out, i * x.shape[1], rows, k * rows.shape[1], x.shape[1])


@row_loop
def scale(x: Any, before: Any, factor: Any, factor_low: Any) -> Any:
    """Overwrite e by (before * e) * (factor + factor_low), where before is a power of 2: only the last rounds."""
    for i in range(len(x)):
        for j in range(x.shape[1]):
            value = np.float64(x[i, j]) * before
            x[i, j] = fma(value, factor, value * factor_low)


@row_loop
def write_differences(x: Any, m: Any, log_sum: Any, out: Any) -> Any:
    """Write (x - m) - log_sum; x may be out."""
    rows, _ = _buffers(_BLOCK, x.dtype)
    for first in range(0, x.size, _BLOCK):
        n = min(x.size - first, _BLOCK)
        copy(rows, 0, x, first, n)
        for j in range(n):
            rows[0, j] = (rows[0, j] - m) - log_sum
        copy(out, first, rows, 0, n)


class Sums(NamedTuple):
    """What is known of rows: the maximum m and, as pairs, sums of exp(x - m) over all entries but one maximum."""

    maximum: np.ndarray
    rest: np.ndarray  # NaN where the maximum is not finite
    rest_low: np.ndarray
    e: np.ndarray  # 2**_LIFT exp(m_b - m) of every block, blocks x rows
    e_low: np.ndarray

    def total(self) -> tuple[np.ndarray, np.ndarray]:
        """Return 1 + rest as a pair."""
        total, error = primitives.two_sum(np.ones_like(self.rest), self.rest)
        return total, error + self.rest_low

    def log_total(self) -> np.ndarray:
        """Return log(1 + rest)."""
        value, low = primitives.log1p(self.rest, self.rest_low)
        return value + low

    def complement(self, e: np.ndarray, e_low: np.ndarray) -> np.ndarray:
        """Return 1 - e / (1 + rest), for one entry's e = exp(x - m) a row; accurate also where that is tiny."""
        total, total_low = self.total()
        others = np.where(e == 1.0, self.rest + self.rest_low, (total - e) + (total_low - e_low))
        return others / total


def sums(x: np.ndarray, rows: np.ndarray, out: np.ndarray | None = None) -> Sums:
    """Return the sums of the rows of x with the given numbers, and write the e of every block into out, if given."""
    parts = np.empty((n_blocks(x), len(rows), 3))

    def run(i: int, b: int, place: Place) -> None:
        block, part = np.ascontiguousarray(x[place]), parts[b, i : i + 1]
        if out is None:
            summarise(block, part)
        else:
            with _contiguous(out[place]) as target:
                exponentiate(block, part, target)

    over_blocks(run, x, rows)
    return combine(*np.moveaxis(parts, -1, 0))


def combine(maxima: np.ndarray, rests: np.ndarray, rests_low: np.ndarray, temperature: float = 1.0) -> Sums:
    """Return the sums of rows from those of their blocks, blocks x rows, of exp((x - m) / temperature)."""
    top = maxima.argmax(axis=0)  # of the first NaN, if there is one
    at_top = top, np.arange(len(top))
    m = maxima[at_top]
    e, e_low = primitives.exp(*primitives.shift(maxima, m, temperature), _LIFT)
    s, s_low = primitives.two_sum(np.ones_like(rests), rests)
    terms, terms_low = primitives.two_product(s, e)
    terms_low += s * e_low + (s_low + rests_low) * e
    terms[at_top], terms_low[at_top] = np.ldexp(rests[at_top], _LIFT), np.ldexp(rests_low[at_top], _LIFT)
    rest, rest_low = primitives.total(terms, terms_low)
    rest[~np.isfinite(m)] = np.nan
    return Sums(m, np.ldexp(rest, -_LIFT), np.ldexp(rest_low, -_LIFT), e, e_low)


@np.errstate(all="ignore")
def softmax(x: np.ndarray, out: np.ndarray) -> None:
    """Write the softmax of every row of x."""
    rows = np.arange(len(x))
    _scale(out, rows, sums(x, rows, out), np.ones(len(x)))


@np.errstate(all="ignore")
def log_softmax(x: np.ndarray, out: np.ndarray) -> None:
    """Write the logarithm of the softmax of every row of x."""
    rows = np.arange(len(x))
    found = sums(x, rows)
    m, log_total = found.maximum.astype(x.dtype), found.log_total().astype(x.dtype)

    def run(i: int, b: int, place: Place) -> None:
        with _contiguous(out[place]) as target:
            write_differences(np.ascontiguousarray(x[place]), m[i], log_total[i], target)

    over_blocks(run, x, rows)


@np.errstate(all="ignore")
def logsumexp(x: np.ndarray, out: np.ndarray) -> None:
    """Write log(sum of exp) of every row of x into out, of shape (rows, 1)."""
    found = sums(x, np.arange(len(x)))
    finite = np.isfinite(found.maximum)
    out[:, 0] = np.where(finite, found.maximum + found.log_total(), found.maximum)


@np.errstate(all="ignore")
def cross_entropy(logits: np.ndarray, labels: np.ndarray, weight: np.ndarray, losses: np.ndarray) -> None:
    """Write the loss of every row (float64) for integer labels; a negative label has loss zero."""
    rows = np.flatnonzero(labels >= 0)
    wanted = logits[rows, labels[rows]].astype(np.float64)
    _write_losses(wanted, sums(logits, rows), weight[labels[rows]], rows, losses)


@np.errstate(all="ignore")
def cross_entropy_gradient(
    logits: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    denominator: float,
    losses: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write as `cross_entropy` does, and the gradient of every row's loss / denominator into out."""
    rows = np.flatnonzero(labels >= 0)
    labels = labels[rows]
    own = weight[labels]
    wanted = logits[rows, labels].astype(np.float64)  # before out, which may be logits, is written
    found = sums(logits, rows, out)
    d, d_low = _write_losses(wanted, found, own, rows, losses)
    _scale(out, rows, found, own / denominator)
    out[rows, labels] = -own / denominator * found.complement(*primitives.exp(d, d_low))
    ignored = np.ones(len(out), np.bool_)
    ignored[rows] = False
    out[ignored] = 0.0


def _write_losses(
    wanted: np.ndarray, found: Sums, own: np.ndarray, rows: np.ndarray, losses: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Write the losses from the labels' logits and weights, and return logit - m as a pair."""
    d, d_low = primitives.shift(wanted, found.maximum, 1.0)
    loss = found.log_total() - d
    losses[...] = 0.0
    losses[rows] = np.where((own == 0.0) & (loss == np.inf), 0.0, own * loss)
    return d, d_low


def factors(found: Sums, numerators: np.ndarray, lift: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what turns 2**lift exp(x - m_b) into numerators * exp(x - m) / (1 + rest), blocks x rows, for `scale`."""
    total, total_low = found.total()
    factor = found.e * numerators / total
    product, error = primitives.two_product(factor, total)
    share, share_low = primitives.two_product(found.e, numerators)
    factor_low = ((share - product) - error + share_low + found.e_low * numerators - factor * total_low) / total
    # e is lifted as well. Where a factor would leave the normal numbers by it, e is brought to its size before.
    before = np.where(factor < 2.0**112, 2.0**-lift, 1.0)
    power = -_LIFT - np.where(before == 1.0, lift, 0)
    return before, np.ldexp(factor, power), np.ldexp(factor_low, power)


def _scale(out: np.ndarray, rows: np.ndarray, found: Sums, numerators: np.ndarray) -> None:
    """Turn the e of every block in out into numerators * exp(x - m) / (1 + rest)."""
    before, factor, factor_low = factors(found, numerators, _LIFTS[out.dtype])

    def run(i: int, b: int, place: Place) -> None:
        block = out[place]
        target = np.ascontiguousarray(block)
        scale(target, before[b, i], factor[b, i], factor_low[b, i])
        if target is not block:
            block[...] = target

    over_blocks(run, out, rows)


@contextmanager
def _contiguous(out: np.ndarray) -> Iterator[np.ndarray]:
    """Give out, or where it is not contiguous an array that is, and is then put back."""
    target = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
    yield target
    if target is not out:
        out[...] = target


def over_blocks(run: Callable[[int, int, Place], None], x: np.ndarray, rows: np.ndarray) -> None:
    """Call run(i, b, place) for every block b of the row rows[i] of x, which lies at a place."""
    count = n_blocks(x)

    def task(k: int) -> None:
        b, i = divmod(k, len(rows))  # neighbouring rows of a transposed array share cache lines
        run(i, b, (slice(rows[i], rows[i] + 1), slice(b * _LENGTH, (b + 1) * _LENGTH)))

    in_parallel(task, len(rows) * count)


def n_blocks(x: np.ndarray) -> int:
    """Return how many blocks a row has."""
    return -(-x.shape[1] // _LENGTH)
