"""Rows of logits, shifted and exponentiated: what the generic formulas have in common.

With m the first maximum of a row, d = (x - m) / T and e = exp(d), all is written in terms of rest, the sum of the other
e: the sum of all is 1 + rest, the log-sum-exp m / T + log1p(rest), and 1 - p of the maximum rest / (1 + rest). This
keeps the tiny losses and gradients of confident rows exact, and automatic derivatives of them too, since nothing but m
depends on the entry at the maximum.
"""

import math
from typing import Any, NamedTuple

from softhead.generic.namespace import Namespace


class Tile(NamedTuple):
    """Rows of logits, shifted and exponentiated: arrays (rows, classes) and, from `maximum` on, also (rows, 1)."""

    xp: Any
    temperature: float
    top: Any  # True at the first maximum of the row
    d: Any  # zero at the top
    e: Any  # zero at the top
    maximum: Any  # NaN where it is not finite: all that follows from it is NaN, too
    rest: Any

    def log_sum(self) -> Any:
        """Return log(sum of exp(d))."""
        return self.xp.log1p(self.rest)

    def log_sum_exp(self) -> Any:
        """Return log(sum of exp(x / temperature))."""
        return self.maximum / self.temperature + self.log_sum()

    def probabilities(self) -> Any:
        """Return the softmax."""
        return self.xp.where(self.top, 1.0, self.e) / (1.0 + self.rest)

    def log_probabilities(self) -> Any:
        """Return its logarithm: a sum of two terms that are never positive."""
        return self.d - self.log_sum()


def first_maximum(ns: Namespace, rows: Any) -> Any:
    """Return True at the first maximum of every row, False elsewhere."""
    n_classes = rows.shape[1]
    if n_classes == 0:
        return ns.xp.zeros(rows.shape, dtype=ns.xp.bool, device=ns.device)
    index = ns.xp.argmax(rows, axis=-1, keepdims=True)
    return index == ns.xp.arange(n_classes, dtype=index.dtype, device=ns.device)


def exponentiate(ns: Namespace, rows: Any, temperature: float) -> Tile:
    """Shift and exponentiate rows, whose own dtype says whether the wide one leaves room for rounding errors."""
    xp = ns.xp
    x = ns.widened(rows)
    top = first_maximum(ns, x)
    # Taken by selection, the maximum's derivative goes to this one entry, whichever others tie with it.
    maximum = xp.sum(xp.where(top, x, 0.0), axis=-1, keepdims=True)
    maximum = xp.where(xp.isfinite(maximum), maximum, xp.nan)
    zero = xp.where(xp.isnan(maximum), maximum, 0.0)
    # Halves, because the difference of two finite numbers may overflow.
    half, origin = 0.5 * x, 0.5 * maximum
    quotient = (half - origin) / temperature
    e = xp.exp(2.0 * quotient)
    if rows.dtype == ns.wide:
        e = e * (1.0 + 2.0 * lost(ns, half, origin, temperature, quotient))
    e = xp.where(top, zero, e)
    d = xp.where(top, zero, 2.0 * quotient)
    return Tile(xp, temperature, top, d, e, maximum, xp.sum(e, axis=-1, keepdims=True))


def lost(ns: Namespace, a: Any, b: Any, temperature: float, quotient: Any) -> Any:
    """Return (a - b) / temperature - quotient: what rounding took from the difference and from the quotient.

    What it took from the difference is known exactly (Knuth, The Art of Computer Programming 2, section 4.2.2). The
    quotient's integer part k has few bits, and so has the high part of the temperature: their product is exact, and
    the fraction's too small for its rounding to matter. Unlike products of numbers split in halves (Dekker's), this
    has an automatic derivative that is not all rounding error.
    """
    xp = ns.xp
    limits = xp.finfo(ns.wide)
    near = quotient > math.log(float(limits.smallest_normal))  # of the others the exponential is zero anyway
    a, quotient = xp.where(near, a, b), xp.where(near, quotient, 0.0)
    difference = a - b
    b_part = a - difference
    error = (a - (difference + b_part)) + (b_part - b)
    mantissa, exponent = math.frexp(temperature)
    bits = 2 * (1 - round(math.log2(float(limits.eps)))) // 3
    high = math.ldexp(math.floor(math.ldexp(mantissa, bits)), exponent - bits)
    k = xp.ceil(quotient)
    remainder = (difference - k * high) - (quotient - k) * temperature
    return (remainder + (error - k * (temperature - high))) / temperature
