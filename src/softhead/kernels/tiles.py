"""Blocks of rows, shifted and exponentiated: what the row kernels have in common.

A kernel handles a block of rows at a time, so that its temporary memory is a few MB whatever the number of rows. Within
a block the classes come first: every operation then runs over long contiguous memory even when there are few classes,
and since each is elementwise or reduces the classes in a fixed order, a row's result is the same to the last bit
whatever the rows around it. A kernel's `out` may be its input: a block is read before it is written.

With m the largest logit of a row (the first, if there are several), d = (x - m) / temperature and e = exp(d), all that
follows is written in terms of rest, the sum of the other e: the sum of all is 1 + rest, and the log-sum-exp is
m / temperature + log1p(rest). This keeps the tiny losses and gradients of confident rows exact. float64 rows are
computed with pairs (see `primitives`); all others in float64 and rounded once.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from softhead.kernels import primitives

_BLOCK_SIZE = 2**16  # elements of a temporary array: half a MB, of which about ten are alive at a time
# float64 rows hold 2**512 e, so that a term below the smallest normal number keeps its digits until the result, which
# may be larger by a weight or by a temperature below 1, is known.
_LIFT = 512
_FEW_ROWS = 8  # below it, long rows go one by one: an operation's inner loop runs over the block's rows


class Tile(NamedTuple):
    """A block of rows, shifted and exponentiated; arrays of classes x rows, or of one entry a row."""

    rows: np.ndarray  # 0, 1, ..., for indexing
    top: np.ndarray  # class of the row maximum
    maximum: np.ndarray  # the row maximum, NaN where it is not finite
    d: np.ndarray
    d_lo: np.ndarray
    e: np.ndarray
    e_lo: np.ndarray
    rest: np.ndarray
    rest_lo: np.ndarray
    lifted_rest: np.ndarray
    lifted_rest_lo: np.ndarray
    lift: int  # e, e_lo and the lifted rest hold 2**lift times their values
    exact: bool  # float64: the low parts count

    def total(self, terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum of terms over the classes as a pair."""
        return total(terms, np.broadcast_to(0.0, terms.shape), self.exact)

    def log_sum(self) -> tuple[np.ndarray, np.ndarray]:
        """Return log(sum of e) as a pair."""
        return primitives.log1p(self.rest, self.rest_lo)

    def log_probabilities(self) -> np.ndarray:
        """Return log p of every class: a sum of two terms that are never positive."""
        log_sum, log_sum_lo = self.log_sum()
        return (self.d - log_sum) + (self.d_lo - log_sum_lo)

    def log_sum_exp(self, temperature: float, scale: float = 1.0) -> np.ndarray:
        """Return log(sum of exp(x / temperature)) / scale, a power of 2; accurate where its parts cancel."""
        nothing, scales = np.zeros_like(self.maximum), np.full_like(self.maximum, scale)
        maximum, maximum_lo = primitives.divide(self.maximum, nothing, temperature, scales)
        log_sum, log_sum_lo = (part / scale for part in self.log_sum())
        lse, error = primitives.two_sum(maximum, log_sum)
        return np.where(np.isinf(lse), lse, lse + (error + (maximum_lo + log_sum_lo)))

    def share(self, part: np.ndarray, part_lo: np.ndarray) -> np.ndarray:
        """Return a part of the lifted sum of e, divided by the sum: lifted."""
        s, s_lo = primitives.two_sum(np.ones_like(self.rest), self.rest)
        s_lo += self.rest_lo
        quotient = part / s
        quotient += (part_lo - quotient * s_lo) / s
        return quotient

    def probabilities(self) -> np.ndarray:
        """Return the softmax."""
        return np.ldexp(self.share(self.e, self.e_lo), -self.lift)


def row_blocks(n_rows: int, n_classes: int) -> Iterator[slice]:
    """Yield slices of rows, none where there is nothing to compute."""
    if n_classes == 0:
        return
    size = _BLOCK_SIZE // n_classes
    size = size if size >= _FEW_ROWS else 1
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def total(hi: np.ndarray, lo: np.ndarray, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum over the first axis as a pair, whose low part is zero unless exact."""
    if exact:
        return primitives.total(hi, lo)
    plain = primitives.plain_total(hi)
    return plain, np.zeros_like(plain)


def exponentiate(x: np.ndarray, temperature: float) -> Tile:
    """Shift and exponentiate a block of rows."""
    values = x.T.astype(np.float64, order="C")
    rows = np.arange(values.shape[1])
    top = values.argmax(axis=0)
    maximum = values[top, rows]
    # NaN, or a maximum of +inf or -inf, makes its whole row NaN.
    maximum[~np.isfinite(maximum)] = np.nan
    exact = x.dtype == np.float64
    lift = _LIFT if exact else 0
    if exact:
        d, d_lo = primitives.shift(values, maximum, temperature)
        e, e_lo = primitives.exp(d, d_lo, lift)
        e_lo[top, rows] = 0.0
    else:
        d = (values - maximum) / temperature
        d_lo = e_lo = np.broadcast_to(0.0, d.shape)
        e = np.exp(d)
    e[top, rows] = d[top, rows]  # left out of the sum: zero, or NaN
    rest, rest_lo = total(e, e_lo, exact)
    e[top, rows] += 2.0**lift
    unlifted = np.ldexp(rest, -lift), np.ldexp(rest_lo, -lift)
    return Tile(rows, top, maximum, d, d_lo, e, e_lo, *unlifted, rest, rest_lo, lift, exact)


def store(values: np.ndarray, out: np.ndarray) -> None:
    """Write values (classes x rows, float64) into out (rows x classes), rounding once."""
    out[...] = primitives.rounded(values, out.dtype).T
