"""Inner products and matrix products of float64 arrays, for what stands between two passes over the rows.

BLAS would do these, but its threads keep their processors busy for a while after each call, in wait for the next: the
passes, which use the same processors, then take up to twice as long.

These functions are what a solver does with arrays of the size of its coefficients, beside plain arithmetic. Each looks
at the type of its first argument, which costs 0.24 us, and less where a run calls it by the thousand: other kinds of
arrays are registered by who imports their library (`softhead/torch/algebra.py`), and one solver serves them all.
"""

from functools import singledispatch
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


def add_multiple(a: Any, factor: float, b: Any) -> None:
    """Add factor * b to a, both of shape (n, m), float64."""
    if type(a) is np.ndarray:
        _add_multiple(a, factor, b)
    else:
        add_multiple_of(a, factor, b)


@singledispatch
def add_multiple_of(a: Any, factor: float, b: Any) -> None:
    """`add_multiple` for other kinds of arrays."""
    raise TypeError(f"no arithmetic is registered for {type(a).__name__}")


def dot(a: Any, b: Any) -> float:
    """Return the sum of the products of the entries of two arrays of one shape (n, m), float64."""
    return float(_dot(a, b)) if type(a) is np.ndarray else dot_of(a, b)


@singledispatch
def dot_of(a: Any, b: Any) -> float:
    """`dot` for other kinds of arrays."""
    raise TypeError(f"no arithmetic is registered for {type(a).__name__}")


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


@singledispatch
def gap_parts(
    coef: np.ndarray, gradient: np.ndarray, moments: np.ndarray, removed: np.ndarray, nu: np.ndarray, l2: float
) -> tuple[float, float]:
    """Return ||g_W - E||^2 and <E, W> with E = G_P diag(removed) - (G_P removed) nu^T and G_P = moments + g_W - l2 W.

    `coef` and `gradient` may have columns more than `moments` (n_classes, n_features): those of the intercepts.
    `removed` and `nu` (n_classes,) are of NumPy in any case.
    """
    given = (np.ascontiguousarray(array) for array in (coef, gradient, moments))
    curved, inner = _gap_parts(*given, removed, nu, l2)
    return float(curved), float(inner)


@singledispatch
def beside(neighbour: np.ndarray, array: np.ndarray) -> Any:
    """Return an array of NumPy as `neighbour` is: of its kind, where it lies and, elsewhere, in its dtype."""
    return array


@singledispatch
def on_host(array: np.ndarray) -> np.ndarray:
    """Return an array as one of NumPy."""
    return array


@singledispatch
def copied(array: np.ndarray) -> Any:
    """Return a copy."""
    return array.copy()


@singledispatch
def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two arrays agree in shape and in all numbers."""
    return np.array_equal(a, b)


@singledispatch
def reach(weights: np.ndarray, sizes: Any) -> float:
    """Return sum_j sizes_j max_c abs(weights_cj): how large logits can be."""
    return float(sizes @ np.abs(weights).max(axis=0))


@singledispatch
def laplacian(second: np.ndarray) -> Any:
    """Return diag(second 1) - second over its trace-like sum: the Hessian in intercepts, scaled."""
    scale = second.sum(axis=1)
    return (np.diag(scale) - second) / max(float(scale.sum()), np.finfo(float).tiny)


@singledispatch
def damped_solution(hessian: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Return -(H + small)^-1 residual for a Hessian in intercepts, in NumPy; zeros where it has no curvature."""
    if np.trace(hessian) <= np.finfo(np.float64).tiny:  # every probability is 0 or 1
        return np.zeros_like(residual)
    # Singular along the constant vector, which changes no probability: fix it, and classes that are all but empty.
    hessian += np.trace(hessian) / len(hessian) * (1.0 / len(hessian) + 1e-10 * np.eye(len(hessian)))
    return -np.linalg.solve(hessian, residual)


class Placed:
    """An array of NumPy with its copy where it is used: made once."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self._copy: Any = None

    def beside(self, neighbour: Any) -> Any:
        """Return the array, of the kind of a neighbour; all of these lie in one place."""
        if isinstance(neighbour, np.ndarray):
            return self._array
        if self._copy is None:
            self._copy = beside(neighbour, self._array)
        return self._copy


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
        self._placed = Placed(self._matrix[:, :m])

    def __call__(self, rows: Any) -> Any:
        """Return rows (k, n) times the matrix."""
        if not isinstance(rows, np.ndarray):
            return rows @ self._placed.beside(rows)
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


@singledispatch
def solve_cholesky(lower: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return (L L^T)^-1 times a vector (n,), for a lower triangular L (n, n); each of its rows is read twice."""
    x = np.array(vector, np.float64)
    _solve_both(np.ascontiguousarray(lower), x)
    return x
