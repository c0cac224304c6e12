"""Passes over the rows of a sparse matrix by compiled loops, on several threads; nothing is expanded or transposed."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from softhead.kernels.sparse import dense_operand, loss_rows, root_probability_rows, spread_rows
from softhead.kernels.threads import in_parallel
from softhead.kernels.vectors import lanes

_TASK_ROWS = 256  # whose logits and residuals are one task of a thread
_COMPILED_WIDTH = 128  # classes, up to which P^T A P is summed in the loop over rows
_BLOCK_BYTES = 2**25  # of residuals, which lie between the product for logits and that for the gradient


class SparsePasses:
    """Sums over the rows of a CSR matrix `X` in canonical format: what `DensePasses` does for arrays.

    Products and sums of products are in `dtype`. Threads divide the rows where logits are made, and the classes where a
    gradient is: each of its numbers is a sum over all rows in their order, whatever the number of threads.
    """

    def __init__(self, X: Any, dtype: np.dtype, n_classes: int) -> None:
        self._dtype, self._n_classes = np.dtype(dtype), n_classes
        # float32 entries are widened one by one where products are float64.
        values = X.data if X.data.dtype == np.float32 else X.data.astype(self._dtype, copy=False)
        self._entries = X.indptr, X.indices, values
        self._n_rows, self._n_features = X.shape
        self._step = lanes(self._dtype.itemsize)
        self._width = -(-n_classes // self._step) * self._step
        fitting = _BLOCK_BYTES // (self._width * self._dtype.itemsize)
        self._block_rows = max(1, min(self._n_rows, max(fitting, _TASK_ROWS)))

    def loss_gradient(
        self, coef: np.ndarray, intercepts: np.ndarray, targets: np.ndarray, shares: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Return sum_i a_i CE_i and its gradient in the weights (n_classes, n_features) and in the intercepts."""
        parameters = self._padded(coef, intercepts)
        gradient, sums, losses = self._total(), np.zeros(self._width), np.zeros(1)

        def run(first: int, z: np.ndarray, sums: np.ndarray, loss: np.ndarray) -> None:
            loss += loss_rows(*self._entries, first, *parameters, targets, shares, z, sums)

        for first, z in self._blocks():
            self._over_rows(run, first, z, sums, losses)
            self._spread(first, z, gradient)
        return float(losses[0]), gradient[:, : self._n_classes].T, sums[: self._n_classes]

    def moments(self, targets: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return X^T A Q as (n_classes, n_features), sum_i a_i q_i, and sum_i a_i abs(x_i)."""
        moments, sums = self._total(), np.zeros(self._n_classes)
        indptr, indices, values = self._entries
        for first, z in self._blocks():
            rows = slice(first, first + len(z))
            z[...] = 0.0
            if targets.ndim == 1:
                z[np.arange(len(z)), targets[rows]] = shares[rows]
                sums += np.bincount(targets[rows], shares[rows], self._n_classes)
            else:
                z[:, : self._n_classes] = shares[rows, None] * targets[rows]
                sums += shares[rows] @ targets[rows]
            self._spread(first, z, moments)
        by_entry = np.abs(values) * np.repeat(shares, np.diff(indptr))
        return moments[:, : self._n_classes].T, sums, np.bincount(indices, by_entry, self._n_features)

    def intercept_system(
        self, coef: np.ndarray, intercepts: np.ndarray, shares: np.ndarray, stride: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return sum_i a_i p_i, and P^T A P over every `stride`-th row."""
        parameters = self._padded(coef, intercepts)
        # Between compiled passes BLAS wakes its threads anew: 0.2 s for a product that takes 2 ms.
        compiled = self._width <= _COMPILED_WIDTH and stride == 1
        second, sums = np.zeros((self._width, self._width)), np.zeros(self._width)

        def run(first: int, z: np.ndarray, sums: np.ndarray, second: np.ndarray) -> None:
            root_probability_rows(*self._entries, first, *parameters, shares, z, sums, second)

        for first, z in self._blocks():
            self._over_rows(run, first, z, sums, second[: self._width if compiled else 0])
            if not compiled:
                sample = z[-first % stride :: stride]
                second += sample.T @ sample
        return sums[: self._n_classes], second[: self._n_classes, : self._n_classes]

    def _total(self) -> np.ndarray:
        return dense_operand(self._n_features, self._width, self._dtype)

    def _padded(self, weights: np.ndarray, intercepts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the coefficients as the loops take them."""
        columns = self._total()
        columns[:, : self._n_classes] = weights.T
        last = np.full(self._width, -np.inf, self._dtype)
        last[: self._n_classes] = intercepts
        return columns, last

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row of each block, and space for numbers of its rows."""
        space = dense_operand(self._block_rows, self._width, self._dtype)
        for first in range(0, self._n_rows, self._block_rows):
            yield first, space[: self._n_rows - first]

    def _over_rows(self, run: Callable[..., None], first: int, z: np.ndarray, *totals: np.ndarray) -> None:
        """Call run(first row, part of z, *parts of totals) for all rows of a block; add the parts in order."""
        n_tasks = -(-len(z) // _TASK_ROWS)
        parts = [np.zeros((n_tasks, *total.shape)) for total in totals]

        def task(k: int) -> None:
            start = k * _TASK_ROWS
            run(first + start, z[start : start + _TASK_ROWS], *(part[k] for part in parts))

        in_parallel(task, n_tasks)
        for total, part in zip(totals, parts, strict=True):
            total += part.sum(axis=0)

    def _spread(self, first: int, z: np.ndarray, total: np.ndarray) -> None:
        """Add X^T z to `total`, z belonging to the rows from `first` on."""
        step = self._step if self._width > self._step else max(4, self._step // 2)

        def task(k: int) -> None:
            for start in range(0, len(z), 32 * _TASK_ROWS):  # between which Ctrl-C is seen
                spread_rows(
                    *self._entries, first + start, z[start : start + 32 * _TASK_ROWS], total, k * step, (k + 1) * step
                )

        in_parallel(task, self._width // step)
