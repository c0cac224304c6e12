"""The objective of the L2-regularised linear softmax model, in blocks of rows: never rows x classes in memory."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from softhead.kernels.algebra import dot
from softhead.kernels.residuals import class_residuals, distribution_residuals, probabilities
from softhead.linear.blocks import RowBlocks
from softhead.linear.passes import TOTALS_BYTES, DensePasses, suited
from softhead.linear.sparse_passes import SparsePasses


class LinearSoftmaxObjective:
    r"""The mean cross-entropy of a linear softmax model with an L2 penalty on its weights.

    .. math:: F(W, b) = \sum_i a_i \Big[\log \sum_c e^{z_{ic}} - \sum_c q_{ic} z_{ic}\Big]
        + \frac{\lambda}{2} \lVert W \rVert^2, \qquad z_i = W x_i + b, \quad a_i = s_i / \sum_k s_k

    The **coefficient layout** is fixed here: a float64 array of shape (n_classes, n_features + 1), the intercept in the
    last column, or (n_classes, n_features) without one. Products are taken in `dtype`; sums over rows and everything
    of the size of the coefficients are float64.

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
        self.blocks = RowBlocks(X, X.dtype if dtype is None else dtype, n_classes)
        self._compiled: DensePasses | SparsePasses | None = None
        if suited(X, n_classes):
            self._compiled = DensePasses(X, self.blocks.dtype, n_classes)
        elif self.blocks.sparse and not self.blocks.expand:
            self._compiled = SparsePasses(self.blocks.X, self.blocks.dtype, n_classes)
        self.X, self.targets, self.l2, self.fit_intercept = self.blocks.X, targets, l2, fit_intercept
        self.dtype = self.blocks.dtype
        self.n_rows, self.n_features = X.shape
        self.n_classes = n_classes
        self.shape = (n_classes, self.n_features + fit_intercept)
        weight = np.ones(self.n_rows) if sample_weight is None else np.asarray(sample_weight, np.float64)
        self.sample_weight = weight
        self.total_weight = float(weight.sum()) if total_weight is None else total_weight
        self.row_weights = weight / self.total_weight  # a
        self.passes = 0.0  # reads of X; one that only takes logits counts half
        self._of_data: dict[str, Any] = {}  # computed once, whatever the penalty

    def wide(self) -> "LinearSoftmaxObjective":
        """Return the same objective with float64 products."""
        if "wide" not in self._of_data:
            self._of_data["wide"] = LinearSoftmaxObjective(
                self.X,
                self.targets,
                n_classes=self.n_classes,
                sample_weight=self.sample_weight,
                fit_intercept=self.fit_intercept,
                dtype=np.dtype(np.float64),
                total_weight=self.total_weight,
            )
        wide: LinearSoftmaxObjective = self._of_data["wide"]
        return wide.with_l2(self.l2)

    @property
    def compiled(self) -> bool:
        """Whether passes are taken by compiled loops, on threads of their own, and not by BLAS."""
        return self._compiled is not None

    def with_l2(self, l2: float) -> "LinearSoftmaxObjective":
        """Return the objective of the same data under another penalty; its passes are counted anew."""
        other = copy.copy(self)
        other.l2, other.passes = l2, 0.0
        return other

    def split(self, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return views of the weights (n_classes, n_features) and of the intercepts (n_classes,), or zeros for them."""
        if self.fit_intercept:
            return coef[:, :-1], coef[:, -1]
        return coef, np.zeros(self.n_classes)

    def representable(self, coef: np.ndarray) -> np.ndarray:
        """Return the coefficients as the dtype can hold them; those of two classes as one vector w: (-w/2, w/2).

        Without a penalty they could move by any vector common to all classes: then their mean is zero.
        """
        if self.n_classes == 2:
            half = (coef[1] - coef[0]).astype(self.dtype) / 2.0
            coef = np.stack([-half, half])
        elif self.l2 == 0.0:
            coef = coef - coef.mean(axis=0)
        return coef.astype(self.dtype).astype(np.float64)

    def loss_gradient(self, coef: np.ndarray) -> tuple[float, np.ndarray]:
        """Return F and its gradient, in one pass over the rows."""
        losses = np.empty(self.blocks.rows)
        loss = 0.0
        gradient = np.zeros(self.shape)
        with np.errstate(over="ignore", invalid="ignore"):  # a trial step may overflow; the line search sees a NaN
            if self._compiled is not None:
                loss, *parts = self._compiled.loss_gradient(*self.split(coef), self.targets, self.row_weights)
                for part, value in zip(self.split(gradient), parts, strict=True):
                    part[...] = value
            for rows, block, logits in self._logits(coef) if self._compiled is None else ():
                a = self.row_weights[rows]
                self._to_residuals(logits, rows, a, losses[: len(a)])
                loss += float(a @ losses[: len(a)])
                self._accumulate(gradient, logits, block)
        self.passes += 1.0
        weights, gradient_weights = self.split(coef)[0], self.split(gradient)[0]
        gradient_weights += self.l2 * weights
        return loss + 0.5 * self.l2 * dot(weights, weights), gradient

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

    def intercept_system(self, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradient and the Hessian of F in the intercepts alone: pbar - pi and diag(pbar) - P^T A P."""
        mean, second = self.intercept_moments(coef)
        scale = second.sum(axis=1)
        hessian = np.diag(scale) - second
        return mean - self.target_moments()[1], hessian / max(float(scale.sum()), np.finfo(float).tiny)

    def intercept_moments(self, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pbar = sum_i a_i p_i, and P^T A P over all rows or over a sample of them."""
        # P^T A P costs n C^2: where that is more than the rest of a pass, a sample of blocks estimates it.
        stride = 1 + self.n_classes // (4 * self.n_features + 64)
        if self._compiled is not None:
            mean, second = self._compiled.intercept_system(*self.split(coef), self.row_weights, stride)
        else:
            mean = np.zeros(self.n_classes)
            second = np.zeros((self.n_classes, self.n_classes))
            for index, (rows, _, p) in enumerate(self._logits(coef)):
                probabilities(p)
                a = self.row_weights[rows]
                mean += a @ p
                if index % stride == 0:
                    second += (p * a[:, None].astype(self.dtype)).T @ p
        self.passes += 0.5
        return mean, second

    def compiled_gram(self, coef: np.ndarray | None, stride: int) -> np.ndarray | None:
        """Return the mean of w_i x~_i x~_i^T over every `stride`-th row, from compiled passes; None without these."""
        if not isinstance(self._compiled, DensePasses) or 32 * self.shape[1] ** 2 > TOTALS_BYTES:
            return None
        gram = self._compiled.gram(None if coef is None else self.split(coef), self.row_weights, stride)
        self.passes += 0.5 / stride
        gram /= float(self.row_weights[::stride].sum())
        return gram if self.fit_intercept else gram[:-1, :-1]

    def sample(self, stride: int) -> "LinearSoftmaxObjective":
        """Return the objective of every `stride`-th row, without the penalty."""
        chosen = slice(None, None, stride)
        return LinearSoftmaxObjective(
            self.X[chosen] if stride > 1 else self.X,
            self.targets[chosen],
            n_classes=self.n_classes,
            sample_weight=self.sample_weight[chosen],
            dtype=self.dtype,
            fit_intercept=self.fit_intercept,
        )

    def target_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return X^T A Q as (n_classes, n_features) and pi = sum_i a_i q_i as (n_classes,): they are constant."""
        if "moments" not in self._of_data and self._compiled is not None:
            moments, frequencies, sizes = self._compiled.moments(self.targets, self.row_weights)
            self.passes += 0.5
            self._of_data |= {"moments": (moments, frequencies), "mean_sizes": sizes}
        if "moments" not in self._of_data:
            moments = np.zeros(self.shape)
            frequencies = np.zeros(self.n_classes)
            for rows, block in self.blocks:
                a = self.row_weights[rows]
                if self.targets.ndim == 2:
                    weighted = a[:, None] * self.targets[rows]
                else:
                    weighted = np.zeros((len(a), self.n_classes))
                    weighted[np.arange(len(a)), self.targets[rows]] = a
                frequencies += weighted.sum(axis=0)
                self._accumulate(moments, weighted.astype(self.dtype), block)
            self.passes += 0.5
            self._of_data["moments"] = self.split(moments)[0], frequencies
        result: tuple[np.ndarray, np.ndarray] = self._of_data["moments"]
        return result

    def mean_sizes(self) -> np.ndarray:
        """Return sum_i a_i abs(x_i) as (n_features,); it is constant."""
        if "mean_sizes" not in self._of_data and self._compiled is not None:
            self.target_moments()
        if "mean_sizes" not in self._of_data:
            sizes = np.zeros(self.n_features)
            for rows, block in self.blocks:
                sizes += abs(block).T @ self.row_weights[rows].astype(self.dtype)
            self.passes += 0.5
            self._of_data["mean_sizes"] = sizes
        result: np.ndarray = self._of_data["mean_sizes"]
        return result

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
