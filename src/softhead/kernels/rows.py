"""The kernels of the maps: rows of a 2-D array (rows x classes), already checked, into `out`.

softmax, its logarithm and its normaliser have a compiled form (see `loops`), everything else works on tiles (see
`tiles`).
"""

import numpy as np

from softhead.kernels import compiled, primitives, wide_maps, wide_rows
from softhead.kernels.tiles import row_blocks, store, total


@np.errstate(all="ignore")
def softmax(x: np.ndarray, temperature: float, out: np.ndarray) -> None:
    """Write the softmax of every row of x / temperature."""
    if compiled.takes(x, out, temperature):
        compiled.softmax(x, out)
        return
    wide_rows.map_rows(wide_maps.softmax, x, (temperature,), out)


@np.errstate(all="ignore")
def log_softmax(x: np.ndarray, temperature: float, out: np.ndarray) -> None:
    """Write the logarithm of the softmax of every row of x / temperature."""
    if compiled.takes(x, out, temperature):
        compiled.log_softmax(x, out)
        return
    wide_rows.map_rows(wide_maps.log_softmax, x, (temperature,), out)


@np.errstate(all="ignore")
def logsumexp(x: np.ndarray, out: np.ndarray) -> None:
    """Write log(sum of exp) of every row of x into out, of shape (rows, 1)."""
    if compiled.takes(x, out):
        compiled.logsumexp(x, out)
        return
    wide_rows.map_rows(wide_maps.logsumexp, x, (), out)


@np.errstate(all="ignore")
def hardmax(x: np.ndarray, out: np.ndarray) -> None:
    """Write 1 at the first maximum of every row and 0 elsewhere; a row that holds NaN is NaN."""
    for block in row_blocks(*x.shape):
        values = x[block].T.astype(np.float64, order="C")
        at_top = values.argmax(axis=0), np.arange(values.shape[1])
        result = np.where(np.isnan(values[at_top]), np.nan, np.zeros_like(values))
        result[at_top] += 1.0
        store(result, out[block])


@np.errstate(all="ignore")
def normalize_l1(x: np.ndarray, out: np.ndarray) -> None:
    """Write every row divided by the sum of its absolute values."""
    for block in row_blocks(*x.shape):
        values = _scaled(x[block])
        _store_quotient(values, _sum(np.abs(values)), out[block])


@np.errstate(all="ignore")
def normalize_l2(x: np.ndarray, out: np.ndarray) -> None:
    """Write every row divided by the root of its sum of squares."""
    for block in row_blocks(*x.shape):
        values = _scaled(x[block])
        _store_quotient(values, np.sqrt(_sum(values * values)), out[block])


@np.errstate(all="ignore")
def normalize_max(x: np.ndarray, out: np.ndarray) -> None:
    """Write every row divided by its largest absolute value."""
    for block in row_blocks(*x.shape):
        values = _scaled(x[block])
        _store_quotient(values, np.abs(values).max(axis=0), out[block])


@np.errstate(all="ignore")
def normalize_zscore(x: np.ndarray, out: np.ndarray) -> None:
    """Write every row's deviations from its mean, divided by their root mean square."""
    for block in row_blocks(*x.shape):
        values = _scaled(x[block])
        values -= values[0]  # a constant row is exactly zero from here on, whatever its mean rounds to
        values -= _sum(values) / len(values)
        _store_quotient(values, np.sqrt(_sum(values * values) / len(values)), out[block])


@np.errstate(all="ignore")
def softmax_product(p: np.ndarray, vectors: np.ndarray, temperature: float, out: np.ndarray) -> None:
    """Write p * (v - sum of p v) / temperature, the product of softmax's (symmetric) Jacobian with every row v."""
    for block in row_blocks(*p.shape):
        p_block, v, exponent = _factors(p[block], vectors[block])
        v -= _sum(p_block * v)
        # Mantissas and exponents apart, the product underflows or overflows only where the result does.
        p_mantissa, p_exponent = np.frexp(p_block)
        v_mantissa, v_exponent = np.frexp(v)
        product = primitives.over(p_mantissa * v_mantissa, temperature, p_exponent + v_exponent + exponent)
        store(product, out[block])


@np.errstate(all="ignore")
def log_softmax_vjp(p: np.ndarray, cotangents: np.ndarray, temperature: float, out: np.ndarray) -> None:
    """Write (c - p sum of c) / temperature for every row of cotangents c."""
    for block in row_blocks(*p.shape):
        p_block, c, exponent = _factors(p[block], cotangents[block])
        store(primitives.over(c - p_block * _sum(c), temperature, exponent), out[block])


@np.errstate(all="ignore")
def softmax_jacobian(p: np.ndarray, temperature: float, out: np.ndarray) -> None:
    """Write (diag(p) - p p^T) / temperature of every row into out (rows, classes, classes)."""
    diagonal = np.arange(p.shape[1])
    for row, jacobian in zip(p, out, strict=True):
        values = row.astype(np.float64)
        product = -values[:, np.newaxis] * values
        product[diagonal, diagonal] = values * (1.0 - values)
        store(primitives.over(product, temperature, 0), jacobian)


def _sum(values: np.ndarray) -> np.ndarray:
    """Return the sum over the classes, rounded once."""
    hi, lo = total(values, np.broadcast_to(0.0, values.shape), exact=True)
    return hi + lo


def _scaled(x: np.ndarray) -> np.ndarray:
    """Return a block, classes first, each row times a power of two that brings its largest entry near 1/8."""
    values = x.T.astype(np.float64, order="C")
    _, exponent = np.frexp(np.abs(values).max(axis=0))
    return np.ldexp(values, -exponent - 2)


def _store_quotient(values: np.ndarray, divisor: np.ndarray, out: np.ndarray) -> None:
    """Write values / divisor, and zero where the divisor is."""
    store(np.where(divisor == 0.0, 0.0, values / divisor), out)


def _factors(p: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return p and 2**-exponent times the vectors, classes first, so that no sum overflows; and the exponent."""
    exponent = p.shape[1].bit_length() + 1
    v = vectors.T.astype(np.float64, order="C")
    return p.T.astype(np.float64, order="C"), np.ldexp(v, -exponent), exponent
