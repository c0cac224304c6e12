"""Inner products and matrix products of float64 arrays, for what stands between two compiled passes over the rows.

BLAS would do these, but its threads keep their processors busy for a while after each call, in wait for the next: the
passes, which use the same processors, then take up to twice as long.
"""

from typing import Any

import numpy as np

from softhead.kernels.elementary import add, row_loop
from softhead.kernels.multiply import STEP, add_product
from softhead.kernels.threads import in_parallel
from softhead.kernels.vectors import lanes

_PART = 2**22  # multiply-adds worth a thread


@row_loop
def _dot(a: Any, b: Any) -> Any:
    total = 0.0
    for i in range(a.shape[0]):
        part = 0.0
        for j in range(a.shape[1]):
            part = add(part, a[i, j] * b[i, j])
        total += part
    return total


@row_loop
def _add_multiple(a: Any, factor: Any, b: Any) -> Any:
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            a[i, j] += factor * b[i, j]


def add_multiple(a: np.ndarray, factor: float, b: np.ndarray) -> None:
    """Add factor * b to a, both of shape (n, m), float64."""
    _add_multiple(a, factor, b)


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of the products of the entries of two arrays of one shape (n, m), float64."""
    return float(_dot(a, b))


@row_loop
def _gap_parts(coef: Any, gradient: Any, moments: Any, removed: Any, nu: Any, l2: Any) -> Any:
    given = np.zeros(moments.shape[1])
    for c in range(moments.shape[0]):
        if removed[c] != 0.0:
            for j in range(moments.shape[1]):
                given[j] += removed[c] * (moments[c, j] + gradient[c, j] - l2 * coef[c, j])
    curved, inner = 0.0, 0.0
    for c in range(moments.shape[0]):
        squares, products = 0.0, 0.0
        for j in range(moments.shape[1]):
            model = moments[c, j] + gradient[c, j] - l2 * coef[c, j]
            shift = removed[c] * model - nu[c] * given[j]
            difference = gradient[c, j] - shift
            squares = add(squares, difference * difference)
            products = add(products, shift * coef[c, j])
        curved += squares
        inner += products
    return curved, inner


def gap_parts(
    coef: np.ndarray, gradient: np.ndarray, moments: np.ndarray, removed: np.ndarray, nu: np.ndarray, l2: float
) -> tuple[float, float]:
    """Return ||g_W - E||^2 and <E, W> with E = G_P diag(removed) - (G_P removed) nu^T and G_P = moments + g_W - l2 W.

    `coef` and `gradient` may have columns more than `moments` (n_classes, n_features): those of the intercepts.
    """
    given = (np.ascontiguousarray(array) for array in (coef, gradient, moments))
    curved, inner = _gap_parts(*given, removed, nu, l2)
    return float(curved), float(inner)


@row_loop
def _product(a: Any, b: Any, start: Any, stop: Any, out: Any) -> Any:
    add_product(a, start * a.shape[1], a.shape[1], 1, a.shape[1], b, out[start:], stop - start)


class Factor:
    """A matrix (n, m) by which rows are multiplied, kept as the compiled products take it."""

    def __init__(self, matrix: np.ndarray) -> None:
        n, m = matrix.shape
        self._columns = m
        self._matrix = np.zeros((n, -(-m // lanes(8)) * lanes(8)))
        self._matrix[:, :m] = matrix

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (k, n) times the matrix."""
        k, n = rows.shape
        width = self._matrix.shape[1]
        steps = -(-k // STEP)
        a, out = np.zeros((steps * STEP, n)), np.zeros((steps * STEP, width))
        a[:k] = rows
        parts = max(1, min(steps, steps * STEP * n * width // _PART))
        each = -(-steps // parts) * STEP

        def run(part: int) -> None:
            start = part * each
            _product(a, self._matrix, start, max(start, min(start + each, len(a))), out)

        in_parallel(run, parts)
        return out[:k, : self._columns]


@row_loop
def _solve_both(lower: Any, x: Any) -> Any:
    n = len(x)
    for i in range(n):
        part = 0.0
        for j in range(i):
            part = add(part, lower[i, j] * x[j])
        x[i] = (x[i] - part) / lower[i, i]
    for i in range(n - 1, -1, -1):  # by rows here too: columns lie far apart
        x[i] /= lower[i, i]
        factor = x[i]
        for j in range(i):
            x[j] -= factor * lower[i, j]


def solve_cholesky(lower: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return (L L^T)^-1 times a vector (n,), for a lower triangular L (n, n); each of its rows is read twice."""
    x = np.array(vector, np.float64)
    _solve_both(np.ascontiguousarray(lower), x)
    return x
