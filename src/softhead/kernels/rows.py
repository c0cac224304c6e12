"""The kernels of the maps: rows of a 2-D array (rows x classes), already checked, into `out`.

The family of softmax is compiled (see `loops` and `wide`). The rest works on blocks of rows turned so that the classes
come first: each operation runs over long contiguous memory also when there are few classes, and a row's result is the
same to the last bit whatever the rows around it.
"""

from collections.abc import Iterator

import numpy as np

from softhead.kernels import compiled, halves, primitives, wide_long, wide_maps, wide_products
from softhead.kernels.long_rows import LONG
from softhead.kernels.wide_rows import run

_BLOCK_SIZE = 2**16  # elements of a temporary array
_FEW_ROWS = 8  # below it, long rows go one by one: an operation's inner loop runs over the block's rows


def softmax(x: np.ndarray, temperature: float, out: np.ndarray) -> None:
    """Write the softmax of every row of x / temperature."""
    if compiled.takes(x, out, temperature):
        compiled.softmax(x, out)
        return
    if temperature == 1.0 and halves.takes(x, out):
        halves.softmax(x, out)
        return
    if x.shape[1] > LONG:
        wide_long.softmax(x, temperature, out)
        return
    run(wide_maps.softmax, (x,), (x.shape[1], temperature), (out,))


def log_softmax(x: np.ndarray, temperature: float, out: np.ndarray) -> None:
    """Write the logarithm of the softmax of every row of x / temperature."""
    if compiled.takes(x, out, temperature):
        compiled.log_softmax(x, out)
        return
    if temperature == 1.0 and halves.takes(x, out):
        halves.log_softmax(x, out)
        return
    if x.shape[1] > LONG:
        wide_long.log_softmax(x, temperature, out)
        return
    run(wide_maps.log_softmax, (x,), (x.shape[1], temperature), (out,))


def logsumexp(x: np.ndarray, out: np.ndarray) -> None:
    """Write log(sum of exp) of every row of x into out, of shape (rows, 1)."""
    if compiled.takes(x, out):
        compiled.logsumexp(x, out)
        return
    if x.shape[1] > LONG:
        wide_long.logsumexp(x, out)
        return
    run(wide_maps.logsumexp, (x,), (x.shape[1],), (out,))


@np.errstate(all="ignore")
def hardmax(x: np.ndarray, out: np.ndarray) -> None:
    """Write 1 at the first maximum of every row and 0 elsewhere; a row that holds NaN is NaN."""
    for block in _row_blocks(*x.shape):
        values = x[block].T.astype(np.float64, order="C")
        at_top = values.argmax(axis=0), np.arange(values.shape[1])
        result = np.where(np.isnan(values[at_top]), np.nan, np.zeros_like(values))
        result[at_top] += 1.0
        _store(result, out[block])


@np.errstate(all="ignore")
def normalize_l1(x: np.ndarray, out: np.ndarray) -> None:
    """Write every row divided by the sum of its absolute values."""
    for block in _row_blocks(*x.shape):
        values = _scaled(x[block])
        _store_quotient(values, _sum(np.abs(values)), out[block])


@np.errstate(all="ignore")
def normalize_l2(x: np.ndarray, out: np.ndarray) -> None:
    """Write every row divided by the root of its sum of squares."""
    for block in _row_blocks(*x.shape):
        values = _scaled(x[block])
        _store_quotient(values, np.sqrt(_sum(values * values)), out[block])


@np.errstate(all="ignore")
def normalize_max(x: np.ndarray, out: np.ndarray) -> None:
    """Write every row divided by its largest absolute value."""
    for block in _row_blocks(*x.shape):
        values = _scaled(x[block])
        _store_quotient(values, np.abs(values).max(axis=0), out[block])


@np.errstate(all="ignore")
def normalize_zscore(x: np.ndarray, out: np.ndarray) -> None:
    """Write every row's deviations from its mean, divided by their root mean square."""
    for block in _row_blocks(*x.shape):
        values = _scaled(x[block])
        values -= values[0]  # a constant row is exactly zero from here on, whatever its mean rounds to
        values -= _sum(values) / len(values)
        _store_quotient(values, np.sqrt(_sum(values * values) / len(values)), out[block])


def softmax_product(p: np.ndarray, vectors: np.ndarray, temperature: float, out: np.ndarray) -> None:
    """Write p * (v - sum of p v) / temperature, the product of softmax's (symmetric) Jacobian with every row v."""
    run(wide_products.softmax_product, (p, vectors), (p.shape[1], temperature), (out,))


def log_softmax_vjp(p: np.ndarray, cotangents: np.ndarray, temperature: float, out: np.ndarray) -> None:
    """Write (c - p sum of c) / temperature for every row of cotangents c."""
    run(wide_products.log_softmax_vjp, (p, cotangents), (p.shape[1], temperature), (out,))


@np.errstate(all="ignore")
def softmax_jacobian(p: np.ndarray, temperature: float, out: np.ndarray) -> None:
    """Write (diag(p) - p p^T) / temperature of every row into out (rows, classes, classes)."""
    diagonal = np.arange(p.shape[1])
    for row, jacobian in zip(p, out, strict=True):
        values = row.astype(np.float64)
        product = -values[:, np.newaxis] * values
        product[diagonal, diagonal] = values * (1.0 - values)
        _store(primitives.over(product, temperature, 0), jacobian)


def _row_blocks(n_rows: int, n_classes: int) -> Iterator[slice]:
    """Yield slices of rows, none where there is nothing to compute."""
    if n_classes == 0:
        return
    size = _BLOCK_SIZE // n_classes
    size = size if size >= _FEW_ROWS else 1
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def _store(values: np.ndarray, out: np.ndarray) -> None:
    """Write values (classes x rows, float64) into out (rows x classes), rounding once."""
    out[...] = primitives.rounded(values, out.dtype).T


def _sum(values: np.ndarray) -> np.ndarray:
    """Return the sum over the classes, rounded once."""
    hi, lo = primitives.total(values, np.zeros_like(values))
    return hi + lo


def _scaled(x: np.ndarray) -> np.ndarray:
    """Return a block, classes first, each row times a power of two that brings its largest entry near 2**400.

    Its square does not overflow, and no entry underflows whose share of the largest is not below all numbers.
    """
    values = x.T.astype(np.float64, order="C")
    _, exponent = np.frexp(np.abs(values).max(axis=0))
    return np.ldexp(values, 400 - exponent)


def _store_quotient(values: np.ndarray, divisor: np.ndarray, out: np.ndarray) -> None:
    """Write values / divisor, and zero where the divisor is."""
    _store(np.where(divisor == 0.0, 0.0, values / divisor), out)
