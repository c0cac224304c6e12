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
