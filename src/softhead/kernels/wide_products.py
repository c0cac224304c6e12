"""Products with the Jacobians of softmax and its logarithm, in any floating type: compiled, see `wide`."""

import math
from typing import Any

import numpy as np

from softhead.kernels.elementary import fma, inlined, row_loop
from softhead.kernels.formats import FLOAT64, load, store
from softhead.kernels.wide import buffer, total


@inlined
def _scales(n: Any, temperature: Any) -> Any:
    """Return what vectors are shrunk by, lest a sum of n overflow; and what then replaces 1 / temperature.

    The latter are a factor near 1 and two powers of two, of which the second is 1 unless the temperature is tiny.
    """
    mantissa, exponent = math.frexp(temperature)
    room = math.frexp(np.float64(n))[1] + 1
    first = min(room - exponent, 1000)
    return math.ldexp(1.0, -room), 1.0 / mantissa, math.ldexp(1.0, first), math.ldexp(1.0, room - exponent - first)


@row_loop
def softmax_product(
    p: Any, p_code: Any, vectors: Any, code: Any, n: Any, temperature: Any, out: Any, out_code: Any
) -> None:
    """Write p * (v - sum of p v) / temperature for every row of probabilities p and vectors v."""
    shares, rows, terms, unused = buffer(1, n, 0.0), buffer(1, n, 0.0), buffer(1, n, 0.0)[0], np.empty(1)
    share, v = shares[0], rows[0]
    shrink, inverse, power, more = _scales(n, temperature)
    # A power that enlarges is applied to p, which is at most 1, and another to v: neither overflows by itself.
    inverse *= more * min(power, 1.0)
    power = max(power, 1.0)
    for i in range(len(p)):
        load(p, i, 1, p_code, n, shares, unused)
        load(vectors, i, 1, code, n, rows, unused)
        for j in range(len(v)):
            v[j] *= shrink
            terms[j] = share[j] * v[j]
        mean, mean_low = total(terms, np.nan, out_code == FLOAT64)
        mean += mean_low
        for j in range(len(v)):
            terms[j] = (share[j] * power) * ((v[j] - mean) * inverse)
        store(terms, out, i, out_code, n)


@row_loop
def log_softmax_vjp(
    p: Any, p_code: Any, cotangents: Any, code: Any, n: Any, temperature: Any, out: Any, out_code: Any
) -> None:
    """Write (c - p sum of c) / temperature for every row of probabilities p and cotangents c."""
    shares, rows, result, unused = buffer(1, n, 0.0), buffer(1, n, 0.0), buffer(1, n, 0.0)[0], np.empty(1)
    share, c = shares[0], rows[0]
    shrink, inverse, power, more = _scales(n, temperature)
    for i in range(len(p)):
        load(p, i, 1, p_code, n, shares, unused)
        load(cotangents, i, 1, code, n, rows, unused)
        for j in range(len(c)):
            c[j] *= shrink
        mass, mass_low = total(c, np.nan, out_code == FLOAT64)
        mass += mass_low
        for j in range(len(c)):
            result[j] = fma(-share[j], mass, c[j]) * inverse * power * more
        store(result, out, i, out_code, n)
