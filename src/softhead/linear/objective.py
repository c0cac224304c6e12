"""The objective over rows in memory, block by block: never rows x classes of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from softhead.kernels.residuals import class_residuals, distribution_residuals, probabilities
from softhead.linear.blocks import RowBlocks, affords_dense
from softhead.linear.contract import Objective
from softhead.linear.passes import TOTALS_BYTES, DensePasses, suited
from softhead.linear.sparse_passes import SparsePasses


class LinearSoftmaxObjective(Objective):
    """The objective of rows in memory; see `Objective` for what it minimises and for the layout of the coefficients.

    Parameters
    ----------
    X : ndarray or scipy.sparse CSR of shape (n_rows, n_features), float32 or float64
    targets : ndarray
        Integer classes (n_rows,), or distributions (n_rows, n_classes) whose rows sum to 1.
    n_classes : int
    sample_weight : ndarray of shape (n_rows,), optional
        Non-negative, with a positive sum.
    l2 : float
        The penalty lambda of the mean objective.
    fit_intercept : bool
    dtype : dtype, optional
        Of the products; that of `X` by default.
    total_weight : float, optional
        What the rows' weights are divided by: their sum by default. A part of the rows, with the sum over all of them
        and no penalty, gives its share of every sum over rows.
    """

    def __init__(
        self,
        X: Any,
        targets: np.ndarray,
        *,
        n_classes: int,
        sample_weight: np.ndarray | None = None,
        l2: float = 0.0,
        fit_intercept: bool = True,
        dtype: np.dtype | None = None,
        total_weight: float | None = None,
    ) -> None:
        dtype = X.dtype if dtype is None else dtype
        super().__init__(X.shape[0], X.shape[1], n_classes, l2=l2, fit_intercept=fit_intercept, dtype=dtype)
        if affords_dense(X):
            X = X.toarray()
        self.blocks = RowBlocks(X, self.dtype, n_classes)
        self._compiled: DensePasses | SparsePasses | None = None
        if suited(X, n_classes):
            self._compiled = DensePasses(X, self.dtype, n_classes)
        elif self.blocks.sparse and not self.blocks.expand:
            self._compiled = SparsePasses(self.blocks.X, self.dtype, n_classes)
        self.X, self.targets = self.blocks.X, targets
        weight = np.ones(self.n_rows) if sample_weight is None else np.asarray(sample_weight, np.float64)
        self.sample_weight = weight
        self.total_weight = float(weight.sum()) if total_weight is None else total_weight
        self.row_weights = weight / self.total_weight  # a
        # 1 - sum_c p_ic^2 of every row, and the coefficients where it was so: those of the last pass.
        self._spreads: tuple[np.ndarray | None, np.ndarray] = (None, np.empty(0))

    def _widened(self) -> "LinearSoftmaxObjective":
        wide = LinearSoftmaxObjective(
            self.X,
            self.targets,
            n_classes=self.n_classes,
            sample_weight=self.sample_weight,
            fit_intercept=self.fit_intercept,
            dtype=np.dtype(np.float64),
            total_weight=self.total_weight,
        )
        if self.targets.ndim == 1 and isinstance(self._compiled, DensePasses):
            wide._of_data = self._of_data  # moments of classes are float64 here and there
        return wide

    @property
    def compiled(self) -> bool:
        """Whether passes are taken by compiled loops, and not by BLAS."""
        return self._compiled is not None

    def loss_sums(self, coef: np.ndarray) -> tuple[float, np.ndarray]:
        """Return sum_i a_i CE_i and its gradient."""
        gradient = np.zeros(self.shape)
        if self._compiled is not None:
            loss, *parts = self._compiled.loss_gradient(*self.split(coef), self.targets, self.row_weights)
            for part, value in zip(self.split(gradient), parts, strict=True):
                part[...] = value
            if isinstance(self._compiled, DensePasses):
                self._spreads = coef, self._compiled.spreads
            return loss, gradient
        losses = np.empty(self.blocks.rows)
        loss = 0.0
        for rows, block, logits in self._logits(coef):
            a = self.row_weights[rows]
            self._to_residuals(logits, rows, a, losses[: len(a)])
            loss += float(a @ losses[: len(a)])
            self._accumulate(gradient, logits, block)
        return loss, gradient

    def hvp(self, coef: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Return the Hessian of F at `coef` times `direction`: X^T A [P * U - P * sum(P * U)] with U = X V^T."""
        product = np.zeros(self.shape)
        for (rows, block, p), (_, _, u) in zip(self._logits(coef), self._logits(direction), strict=True):
            probabilities(p)
            u -= np.einsum("ij,ij->i", p, u, dtype=np.float64)[:, None].astype(self.dtype)
            u *= p
            u *= self.row_weights[rows, None].astype(self.dtype)
            self._accumulate(product, u, block)
        self.passes += 1.5
        self.split(product)[0][...] += self.l2 * self.split(direction)[0]
        return product

    def intercept_moments(self, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pbar = sum_i a_i p_i, and P^T A P over all rows or over a sample of them."""
        # P^T A P costs n C^2: where that is more than the rest of a pass, a sample of blocks estimates it.
        stride = 1 + self.n_classes // (4 * self.n_features + 64)
        if self._compiled is not None:
            return self._compiled.intercept_system(*self.split(coef), self.row_weights, stride)
        mean = np.zeros(self.n_classes)
        second = np.zeros((self.n_classes, self.n_classes))
        for index, (rows, _, p) in enumerate(self._logits(coef)):
            probabilities(p)
            a = self.row_weights[rows]
            mean += a @ p
            if index % stride == 0:
                second += (p * a[:, None].astype(self.dtype)).T @ p
        return mean, second

    def compiled_gram(self, coef: np.ndarray | None, stride: int) -> np.ndarray | None:
        """Return the mean of w_i x~_i x~_i^T over every `stride`-th row, from compiled passes; None without these."""
        if not isinstance(self._compiled, DensePasses) or 32 * self.shape[1] ** 2 > TOTALS_BYTES:
            return None
        spreads, factor = np.ones(self.n_rows), 0.5
        if coef is not None:
            factor = 1.0 / (self.n_classes - 1)
            if not coef.any():
                spreads *= 1.0 - 1.0 / self.n_classes
            else:
                if coef is not self._spreads[0]:
                    self.loss_gradient(coef)
                spreads = self._spreads[1]
        stride = self._telling(stride)
        gram = self._compiled.gram(spreads, factor, self.row_weights, stride)
        gram /= float(self.row_weights[::stride].sum())
        return gram if self.fit_intercept else gram[:-1, :-1]

    def compiled_coupling(self, coef: np.ndarray, stride: int) -> np.ndarray | None:
        """Return the mean of (p_i (x) x~_i)(p_i (x) x~_i)^T over every `stride`-th row, or None."""
        size = self.n_classes * (self.n_features + 1)
        if not isinstance(self._compiled, DensePasses) or 16 * size**2 > TOTALS_BYTES:
            return None
        stride = self._telling(stride)
        coupled = self._compiled.coupled(*self.split(coef), self.row_weights, stride)
        self.passes += 0.5 / stride
        coupled /= float(self.row_weights[::stride].sum())
        if self.fit_intercept:
            return coupled
        used = np.arange(size).reshape(self.n_classes, -1)[:, :-1].ravel()
        return coupled[np.ix_(used, used)]

    def sample(self, stride: int) -> "LinearSoftmaxObjective":
        """Return the objective of every `stride`-th row, without the penalty."""
        stride = self._telling(stride)
        chosen = slice(None, None, stride)
        return LinearSoftmaxObjective(
            self.X[chosen] if stride > 1 else self.X,
            self.targets[chosen],
            n_classes=self.n_classes,
            sample_weight=self.sample_weight[chosen],
            dtype=self.dtype,
            fit_intercept=self.fit_intercept,
        )

    def _telling(self, stride: int) -> int:
        """Return a stride for a metric: 1 where every row of the one given happens to have the weight 0."""
        return stride if self.row_weights[::stride].any() else 1

    def moment_sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return X^T A Q, sum_i a_i q_i and sum_i a_i abs(x_i)."""
        if self._compiled is not None:
            return self._compiled.moments(self.targets, self.row_weights)
        moments = np.zeros(self.shape)
        frequencies, sizes = np.zeros(self.n_classes), np.zeros(self.n_features)
        for rows, block in self.blocks:
            a = self.row_weights[rows]
            if self.targets.ndim == 2:
                weighted = a[:, None] * self.targets[rows]
            else:
                weighted = np.zeros((len(a), self.n_classes))
                weighted[np.arange(len(a)), self.targets[rows]] = a
            frequencies += weighted.sum(axis=0)
            sizes += abs(block).T @ a.astype(self.dtype)
            self._accumulate(moments, weighted.astype(self.dtype), block)
        return self.split(moments)[0], frequencies, sizes

    def _logits(self, coef: np.ndarray) -> Iterator[tuple[slice, Any, np.ndarray]]:
        """Yield ``(rows, block, logits)``; the logits live in a buffer that is the caller's until the next block."""
        weights, intercepts = (np.asarray(part, self.dtype) for part in self.split(coef))
        columns = weights.T
        if self.blocks.sparse and not self.blocks.expand:
            columns = np.ascontiguousarray(columns)  # or every sparse product would copy it
        buffer = np.empty((min(self.blocks.rows, self.n_rows), self.n_classes), self.dtype)
        for rows, block in self.blocks:
            logits = buffer[: rows.stop - rows.start]
            if isinstance(block, np.ndarray):
                np.matmul(block, columns, out=logits)
            else:
                logits[...] = block @ columns
            if self.fit_intercept:
                logits += intercepts
            yield rows, block, logits

    def _to_residuals(self, logits: np.ndarray, rows: slice, weights: np.ndarray, losses: np.ndarray) -> None:
        """Turn a block of logits into its weighted residuals in place, and fill the losses of its rows."""
        targets = self.targets[rows]
        if targets.ndim == 2:
            distribution_residuals(logits, targets, weights, losses)
        else:
            class_residuals(logits, targets, weights, losses)

    def _accumulate(self, total: np.ndarray, residuals: np.ndarray, block: Any) -> None:
        """Add residuals^T [block, 1] to `total`, which is float64."""
        weights, intercepts = self.split(total)
        weights += residuals.T @ block if isinstance(block, np.ndarray) else (block.T @ residuals).T
        if self.fit_intercept:
            intercepts += residuals.sum(axis=0, dtype=np.float64)
