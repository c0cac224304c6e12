"""Passes over dense rows by compiled loops, on several threads: what the objective and its metric sum over rows."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from softhead.kernels.linear_pass import (
    class_moment_pass,
    column_loss_pass,
    coupled_pass,
    gram_pass,
    intercept_pass,
    loss_pass,
    moment_pass,
)
from softhead.kernels.multiply import STEP
from softhead.kernels.threads import in_parallel
from softhead.kernels.vectors import lanes
from softhead.linear.columns import Columns

# Of rows, in the second-level cache from their logits to their gradient.
_TILE_BYTES = 300_000
_LEAST_ROWS, _MOST_ROWS = 32, 256
_PIECE_BYTES = 2**19  # of rows that are made of columns at a time
# Rows are cut into stripes of at least so many tiles: each has sums of its own, as many numbers as there are
# coefficients, which are added at the end.
_STRIPE_TILES, _MOST_STRIPES = 16, 32
TOTALS_BYTES = 2**27
_MOST_GRAMS = 8  # stripes of a Gram matrix, which is larger
_COUPLED_ROWS = 128  # at a time, of the products of probabilities and features
# Multiply-adds of a stripe, below which a thread is not worth its start, and of one call, between which Ctrl-C is seen.
_STRIPE_WORK, _CALL_WORK = 2**20, 2**31


def suited(X: Any, n_classes: int) -> bool:
    """Return whether the compiled passes are for this `X`: dense, and the sums of a few stripes fit in memory."""
    return isinstance(X, np.ndarray | Columns) and 64 * X.shape[1] * n_classes <= TOTALS_BYTES


def _rounded_up(n: int, step: int) -> int:
    return -(-n // step) * step


class DensePasses:
    """Sums over the rows of a dense `X`, in the dtype of the products with float64 totals.

    The rows are cut into stripes in a way that depends on shapes alone, and what the stripes give is added in their
    order: results do not depend on the number of threads.
    """

    def __init__(self, X: "np.ndarray | Columns", dtype: np.dtype, n_classes: int) -> None:
        self.X: Any = X if isinstance(X, Columns) else np.asarray(X)
        self._dtype, self._n_classes = np.dtype(dtype), n_classes
        n_rows, n_features = X.shape
        self._width = _rounded_up(n_classes, max(STEP, lanes(self._dtype.itemsize)))
        self._depth = _rounded_up(n_features, STEP)
        fitting = _TILE_BYTES // (self._depth * self._dtype.itemsize) // STEP * STEP
        self._tile_rows = min(max(fitting, _LEAST_ROWS), _MOST_ROWS)
        self._in_place = isinstance(X, Columns) or bool(X.flags.c_contiguous)
        self._piece_rows = self._tile_rows * max(1, _PIECE_BYTES // (self._tile_rows * n_features * X.dtype.itemsize))
        # Kept from pass to pass: to allocate, NumPy gives up the interpreter's lock, and waits for its return.
        self._spaces: list[tuple[np.ndarray, np.ndarray]] = []
        n_tiles = -(-n_rows // self._tile_rows)
        self._row_work = (n_features + 32) * self._width
        most = (_MOST_STRIPES, n_tiles // _STRIPE_TILES, n_rows * self._row_work // _STRIPE_WORK)
        self._n_stripes = max(1, min(most))

    def loss_gradient(
        self, coef: np.ndarray, intercepts: np.ndarray, targets: np.ndarray, shares: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Return sum_i a_i CE_i and its gradient in the weights (n_classes, n_features) and in the intercepts.

        Every row's 1 - sum_c p_ic^2 is kept in `spreads`.
        """
        parameters = self._padded(coef, intercepts)
        self.spreads = np.empty(len(self.X))
        given = targets, shares, self.spreads

        def run(start: int, stop: int, gradient: np.ndarray, sums: np.ndarray, loss: np.ndarray, space: Any) -> None:
            rest = *parameters, *given, gradient, sums, *space, loss[0]
            if isinstance(self.X, Columns):
                rows = np.zeros((self._piece_rows + STEP, self.X.shape[1]), self.X.dtype)
                loss[0] = column_loss_pass(self.X.addresses, self.X.begins, start, stop, rows, *rest)
            else:
                loss[0] = loss_pass(self.X, start, stop, self._in_place, *rest)

        gradient, sums, loss = self._sum(run, (self._depth, self._width), (self._width,), (1,))
        return float(loss[0]), gradient[: self.X.shape[1], : self._n_classes].T, sums[: self._n_classes]

    def moments(self, targets: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return X^T A Q as (n_classes, n_features), sum_i a_i q_i, and sum_i a_i abs(x_i)."""
        n_classes, n_features = self._n_classes, self.X.shape[1]

        def run(start: int, stop: int, moments: np.ndarray, sums: np.ndarray, sizes: np.ndarray, space: Any) -> None:
            if targets.ndim == 1:
                class_moment_pass(self.X, start, stop, targets, shares, moments, sums, sizes)
            else:
                moment_pass(self.X, start, stop, targets, shares, moments, sums, sizes, *space)

        if targets.ndim == 1:
            moments, sums, sizes = self._sum(run, (n_classes, n_features), (n_classes,), (n_features,))
            return moments, sums, sizes
        moments, sums, sizes = self._sum(run, (self._depth, self._width), (self._width,), (n_features,))
        return np.ascontiguousarray(moments[:n_features, :n_classes].T), sums[:n_classes], sizes

    def intercept_system(
        self, coef: np.ndarray, intercepts: np.ndarray, shares: np.ndarray, stride: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return sum_i a_i p_i, and P^T A P over every `stride`-th tile of rows."""
        parameters = self._padded(coef, intercepts)

        def run(start: int, stop: int, second: np.ndarray, sums: np.ndarray, space: Any) -> None:
            intercept_pass(self.X, start, stop, stride, *parameters, shares, second, sums, *space)

        second, sums = self._sum(run, (self._width, self._width), (self._width,))
        return sums[: self._n_classes], second[: self._n_classes, : self._n_classes]

    def gram(self, spreads: np.ndarray, factor: float, shares: np.ndarray, stride: int) -> np.ndarray:
        """Return sum_i a_i w_i x~_i x~_i^T over every `stride`-th row, x~ with a 1 at its end; w as in `gram_pass`."""
        n_features = self.X.shape[1]
        width = _rounded_up(n_features + 1, max(STEP, lanes(self._dtype.itemsize)))

        def run(start: int, stop: int, gram: np.ndarray, space: Any) -> None:
            tile = np.zeros((_MOST_ROWS, width), self._dtype)
            start += -start % stride
            gram_pass(self.X, start, stop, stride, spreads, shares, factor, gram, tile)

        (gram,) = self._sum(run, (width, width), most=_MOST_GRAMS, row_work=width**2 // (2 * stride))
        upper = np.triu(gram[: n_features + 1, : n_features + 1])
        return upper + np.triu(upper, 1).T

    def coupled(self, coef: np.ndarray, intercepts: np.ndarray, shares: np.ndarray, stride: int) -> np.ndarray:
        """Return sum_i a_i (p_i (x) x~_i)(p_i (x) x~_i)^T over every `stride`-th row, in order of classes."""
        n_features = self.X.shape[1]
        size = self._n_classes * (n_features + 1)
        count = lanes(self._dtype.itemsize)
        width = (-(-size // count) | 1) * count  # an even number of vectors may map rows onto few places of the cache
        parameters = self._padded(coef, intercepts)

        def run(start: int, stop: int, total: np.ndarray, space: Any) -> None:
            start += -start % stride
            coupled_pass(self.X, start, stop, stride, *parameters, shares, self._n_classes, total, _COUPLED_ROWS)

        (total,) = self._sum(run, (_rounded_up(size, STEP), width), most=_MOST_GRAMS, row_work=width**2 // (2 * stride))
        upper = np.triu(total[:size, :size])
        return upper + np.triu(upper, 1).T

    def _padded(self, weights: np.ndarray, intercepts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the coefficients as the loops take them."""
        columns = np.zeros((self.X.shape[1], self._width), self._dtype)
        columns[:, : self._n_classes] = weights.T
        last = np.full(self._width, -np.inf, self._dtype)
        last[: self._n_classes] = intercepts
        return columns, last

    def _sum(
        self, run: Callable[..., None], *shapes: tuple[int, ...], most: int = _MOST_STRIPES, row_work: int = 0
    ) -> tuple[np.ndarray, ...]:
        """Call run(start, stop, *totals, space) for all rows; return the totals, float64 arrays of these shapes."""
        n_stripes = self._n_stripes
        if row_work:
            n_stripes = min(len(self.X) // self._tile_rows, len(self.X) * row_work // _STRIPE_WORK)
        n_stripes = max(1, min(n_stripes, most, TOTALS_BYTES // (8 * sum(map(math.prod, shapes)))))
        stripe_rows = _rounded_up(-(-len(self.X) // n_stripes), self._tile_rows)
        call_tiles = max(1, _CALL_WORK // ((row_work or self._row_work) * self._tile_rows))
        call_rows = call_tiles * self._tile_rows
        totals = [np.zeros((n_stripes, *shape)) for shape in shapes]
        stopped = False

        def work(k: int) -> None:
            nonlocal stopped
            try:
                space = self._spaces.pop()
            except IndexError:
                space = self._space()
            try:
                end = min((k + 1) * stripe_rows, len(self.X))
                for start in range(k * stripe_rows, end, call_rows):
                    if stopped:
                        return
                    run(start, min(start + call_rows, end), *(total[k] for total in totals), space)
            except BaseException:
                stopped = True
                raise
            self._spaces.append(space)

        in_parallel(work, n_stripes)
        return tuple(total[0] if n_stripes == 1 else total.sum(axis=0) for total in totals)

    def _space(self) -> tuple[np.ndarray, np.ndarray]:
        tile = np.zeros((self._tile_rows, self._depth), self._dtype)
        return tile, np.zeros((self._tile_rows, self._width), self._dtype)
