"""The metric of the solver: the Hessian on a sample of rows where that is affordable, else re-weighted Gram matrices.

At coefficients with probabilities P the Hessian of the mean cross-entropy is

    H = sum_i a_i (diag p_i - p_i p_i^T) (x) x~_i x~_i^T,

with x~ the row and a 1 for the intercept. Its class factor has the trace 1 - sum_c p_ic^2 and C - 1 non-zero
eigenvalues; replaced by their mean times the identity it leaves one matrix of the features for every class,

    M = sum_i a_i w_i x~_i x~_i^T + lambda I,    w_i = (1 - sum_c p_ic^2) / (C - 1),

with no lambda for the intercept. It is the exact Hessian, on the directions that sum to 0 over classes, for two
classes anywhere and for any number of classes at W = 0. Where classes are all but separable, the Hessian itself, which
knows how they are coupled, needs far fewer iterations. Where classes are rare, so does its part without coupling.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np

from softhead.kernels.algebra import Factor, Placed, on_host, solve_cholesky
from softhead.kernels.residuals import probabilities
from softhead.linear import blas
from softhead.linear.contract import Objective

_HESSIAN_ROWS, _ROWS_PER_UNKNOWN = (2000, 8000), 8  # of a Hessian's sample: at least, at most, and between
_THREADED_SIZE = 1024  # unknowns of a Hessian whose products, a tenth of a second, are worth the threads of BLAS
MAX_HESSIAN_SIZE = 4096  # coefficients: 134 MB
_MAX_FEATURES = 4096  # above: a Gram matrix of the features costs more than the passes it saves
_MAX_SMALL_ROWS = 4096  # more features than that, but no more rows: work in the space of the rows
_MIN_ROWS, _ROWS_PER_FEATURE = 8000, 30
_CLASS_GRAMS_BYTES = 2**27
_NEGLIGIBLE = 1e-4  # of the largest weight in a block: rows of smaller ones are left out of a class's Gram matrix


class Preconditioner(Protocol):
    """The law: `solve` is linear, symmetric and positive definite on arrays of the objective's coefficient shape."""

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """Return M^-1 applied to each class's row of `gradient`."""
        ...


class Metric(Protocol):
    """What gives a run its metric: `preconditioner`, or what reuses the metric of a neighbouring problem."""

    def __call__(self, objective: Objective, coef: np.ndarray | None, *, budget: float) -> Preconditioner:
        """Return a metric for `objective` at `coef`, worth about `budget` passes."""
        ...


@np.errstate(over="ignore", invalid="ignore")  # _Inverse tells of squares that overflow
def preconditioner(objective: Objective, coef: np.ndarray | None, *, budget: float) -> Preconditioner:
    """Return the metric at `coef` that fits the shape of the data and costs at most about `budget` passes.

    Where the budget allows it, that is the Hessian with its class coupling, on up to 8,000 rows; else M. Without a
    `coef` it is M with w_i = 1/2, which bounds the Hessian everywhere: its class factor is at most 1/2 (D. Boehning,
    "Multinomial logistic regression algorithm", Annals of the Institute of Statistical Mathematics 44, 1992).
    """
    n_rows, n_features = objective.n_rows, objective.n_features
    if coef is not None and affords_hessian(objective, budget):
        return Hessian(objective, coef)
    if coef is not None and affords_class_grams(objective, budget):
        return ClassGrams(objective, coef, budget)
    if n_features <= _MAX_FEATURES and n_features <= n_rows:
        return _FeatureGram(objective, coef, budget)
    if n_rows <= _MAX_SMALL_ROWS:
        return _RowGram(objective, coef)
    return _Diagonal(objective, coef)


def affords_hessian(objective: Objective, budget: float) -> bool:
    """Return whether a Hessian is to be had for about `budget` passes.

    It may cost as much as twice that, for it saves more: on 336,776 x 229 with 16 classes, two took a run to its end in
    96 passes and one in 213; without any, its gap was 5e-4 after 640.
    """
    size = objective.shape[0] * objective.shape[1]
    return size <= MAX_HESSIAN_SIZE and hessian_cost(objective) <= 2.0 * budget


def hessian_cost(objective: Objective) -> float:
    """Return about how many passes over the data a Hessian of a sample of rows costs, factored.

    Symmetry saves half of its products.
    """
    size = objective.shape[0] * objective.shape[1]
    return (0.4 * _hessian_rows(objective) * size**2 + 0.6 * size**3) / objective.pass_work


def _hessian_rows(objective: Objective) -> int:
    least, most = _HESSIAN_ROWS
    wanted = _ROWS_PER_UNKNOWN * objective.shape[0] * objective.shape[1]
    return min(objective.n_rows, max(least, min(wanted, most)))


def affords_class_grams(objective: Objective, budget: float) -> bool:
    """Return whether a Gram matrix for every class costs little beside `budget` passes.

    Where classes are alike it saves few of them: 0.86 and 0.93 are left on MNIST, 0.67 and 0.9 on sentence embeddings,
    for which it is dear. Rare classes, and many rows of few features, are what it is for.
    """
    classes, columns = objective.shape
    if 8 * classes * columns**2 > _CLASS_GRAMS_BYTES or objective.n_features > objective.n_rows:
        return False
    return _class_gram_rows(objective, budget / 8.0) >= min(objective.n_rows, _MIN_ROWS)


def _class_gram_rows(objective: Objective, cost: float) -> int:
    """Return of how many rows the Gram matrices of all classes, inverted, cost as much as `cost` passes."""
    classes, columns = objective.shape
    left = max(cost - class_inverses_cost(objective), 0.0)
    return min(objective.n_rows, int(left * objective.pass_work / (0.5 * classes * columns**2)))


def class_inverses_cost(objective: Objective) -> float:
    """Return about how many passes over the data the inverses of a matrix for every class cost."""
    classes, columns = objective.shape
    return 2.0 * classes * columns**3 / objective.pass_work


class Hessian:
    """The Hessian itself, class coupling and all, of rows at a fixed stride."""

    def __init__(self, objective: Objective, coef: np.ndarray) -> None:
        stride = objective.n_rows // _hessian_rows(objective)
        with blas.all_threads() if math.prod(objective.shape) >= _THREADED_SIZE else nullcontext():
            coupled = objective.compiled_coupling(coef, stride)
            if coupled is None:
                coupled = _coupling(objective, coef, stride)
            self._set(objective, coupled)

    def _set(self, objective: Objective, coupled: np.ndarray) -> None:
        """Make the Hessian and its inverse from the second moments of probabilities times features."""
        classes, columns = objective.shape
        # Probabilities sum to 1: a class's own part, with p (1 - p), is minus the sum of the parts it has with others.
        hessian = coupled.reshape(classes, columns, classes, columns)
        own = range(classes)
        hessian[own, :, own, :] = 0.0
        np.negative(coupled, out=coupled)
        hessian[own, :, own, :] = -hessian.sum(axis=2)
        for c in own:
            hessian[c, range(objective.n_features), c, range(objective.n_features)] += objective.l2
        # Singular along equal intercepts, which change no probability.
        if objective.fit_intercept:
            hessian[:, -1, :, -1] += np.trace(hessian[:, -1, :, -1]) / classes**2
        self._weights = np.arange(len(coupled)).reshape(objective.shape)[:, : objective.n_features].ravel()
        self._matrix, self._l2, self.nbytes = coupled, objective.l2, 2 * coupled.nbytes
        self._inverse = _Inverse(coupled, one=True)

    def under(self, l2: float) -> "Hessian":
        """Return the Hessian of the same rows under another penalty."""
        other = copy.copy(self)
        other._matrix, other._l2 = self._matrix.copy(), l2
        other._matrix[self._weights, self._weights] += l2 - self._l2
        other._inverse = _Inverse(other._matrix, one=True)
        return other

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """Return the inverse applied to a gradient."""
        return self._inverse.solve(gradient.reshape(1, -1)).reshape(gradient.shape)


def _coupling(objective: Objective, coef: np.ndarray, stride: int) -> np.ndarray:
    """Return the mean of (p_i (x) x~_i)(p_i (x) x~_i)^T over every `stride`-th row, by BLAS."""
    coef = on_host(coef)
    coupled = np.zeros((coef.size, coef.size))
    sample = objective.sample(stride)
    for rows, block, p in sample._logits(coef):
        probabilities(p)
        x = _with_intercept(objective, block, np.sqrt(sample.row_weights[rows]))
        joint = (p[:, :, None] * x[:, None, :]).reshape(len(x), coef.size)
        coupled += joint.T @ joint
    objective.passes += 0.5 / stride
    return coupled


class _FeatureGram:
    """M itself, from rows at a fixed stride, factored by Cholesky."""

    def __init__(self, objective: Objective, coef: np.ndarray | None, budget: float = 0.0) -> None:
        # In proportion to what the run has cost: late in a long one all rows are worth it.
        wanted = max(_MIN_ROWS, int(0.5 * budget * objective.pass_work / (0.5 * objective.n_features**2)))
        if coef is None:
            wanted = max(wanted, _ROWS_PER_FEATURE * objective.n_features)
        stride = max(1, objective.n_rows // wanted)
        gram = weighted_gram(objective, coef, stride)
        gram[np.diag_indices(objective.n_features)] += objective.l2
        self._inverse = _Inverse(gram)

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        return self._inverse.solve(gradient)


def weighted_gram(objective: Objective, coef: np.ndarray | None, stride: int) -> np.ndarray:
    """Return sum_i a_i w_i x~_i x~_i^T over every `stride`-th row, scaled to stand for all rows."""
    gram = objective.compiled_gram(coef, stride)
    if gram is None:
        gram = np.zeros((objective.shape[1], objective.shape[1]))
        for block, w in _weighted_rows(objective, coef, stride):
            half = _with_intercept(objective, block, np.sqrt(w))
            gram += half.T @ half
    return gram


class ClassGrams:
    """A Gram matrix for every class, its rows weighted by p_c (1 - p_c): the Hessian without what couples the classes.

    M has one for all, which is too large for a rare class, and knows nothing of where in the features a class lies.
    """

    def __init__(self, objective: Objective, coef: np.ndarray, budget: float) -> None:
        self.cost = budget / 4.0
        stride = objective.n_rows // _class_gram_rows(objective, self.cost)
        with blas.all_threads():
            grams = objective.compiled_class_grams(coef, stride)
            if grams is None:
                grams = _class_grams(objective, coef, stride)
        if objective.fit_intercept:  # a class with no probability anywhere is given that of a part of one row
            grams[:, -1, -1] += 0.25 / objective.n_rows
        self._grams, self._n_features, self.nbytes = grams, objective.n_features, 2 * grams.nbytes
        self._invert(objective.l2)

    def _invert(self, l2: float) -> None:
        """Invert the matrices with a penalty."""
        weights = np.arange(self._n_features)
        inverses = np.empty_like(self._grams)
        for gram, inverse in zip(self._grams, inverses, strict=True):
            penalised = gram.copy()
            penalised[weights, weights] += l2
            scale, root = _scaled_root(penalised)
            root = _inverse_of_lower(root) * scale
            np.matmul(root.T, root, out=inverse)
        self._inverses = Placed(inverses)

    def under(self, l2: float) -> "ClassGrams":
        """Return the matrices of the same rows under another penalty."""
        other = copy.copy(self)
        other._invert(l2)
        return other

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """Return the inverse of each class's matrix applied to its row of a gradient."""
        return (self._inverses.beside(gradient) @ gradient[:, :, None])[:, :, 0]


def _class_grams(objective: Objective, coef: np.ndarray, stride: int) -> np.ndarray:
    """Return the mean of p_ic (1 - p_ic) x~_i x~_i^T for every class, over every `stride`-th row, by BLAS."""
    classes, columns = objective.shape
    grams = np.zeros((classes, columns, columns))
    sample = objective.sample(stride)
    for rows, block, p in sample._logits(on_host(coef)):
        probabilities(p)
        p *= 1.0 - p
        p *= sample.row_weights[rows, None].astype(p.dtype)
        x = _with_intercept(objective, block, np.ones(len(p)))
        for w, gram in zip(p.T, grams, strict=True):
            chosen = np.flatnonzero(w > _NEGLIGIBLE * w.max(initial=0.0))
            half = x[chosen]
            half *= np.sqrt(w[chosen, None])
            gram += half.T @ half
    objective.passes += 0.5 / stride
    return grams


class _RowGram:
    """M^-1 = (I - Z^T (lambda I + Z Z^T)^-1 Z) / lambda, with Z the weighted rows: for few rows and many features."""

    def __init__(self, objective: Objective, coef: np.ndarray | None) -> None:
        parts = [_with_intercept(objective, block, np.sqrt(w)) for block, w in _weighted_rows(objective, coef, 1)]
        rows = np.concatenate(parts)
        self._rows = Placed(rows)
        gram = (rows @ rows.T).astype(np.float64)
        # Without a penalty the metric still needs a floor; the intercept's missing penalty is lent to it here as well.
        self._l2 = max(objective.l2, 1e-6 * float(np.trace(gram)) / len(gram))
        gram[np.diag_indices(len(gram))] += self._l2
        self._inverse = _Inverse(gram)

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        rows = self._rows.beside(gradient)
        return (gradient - self._inverse.solve(gradient @ rows.T) @ rows) / self._l2


class _Diagonal:
    """The diagonal of M."""

    def __init__(self, objective: Objective, coef: np.ndarray | None) -> None:
        stride = max(1, objective.n_rows // (10 * _MIN_ROWS))
        diagonal = objective.compiled_diagonal(coef, stride)
        if diagonal is None:
            diagonal = np.zeros(objective.shape[1])
            for block, w in _weighted_rows(objective, coef, stride):
                squares = block**2 if isinstance(block, np.ndarray) else block.power(2)
                diagonal[: objective.n_features] += squares.T @ w
                if objective.fit_intercept:
                    diagonal[-1] += w.sum()
        diagonal[: objective.n_features] += objective.l2
        self._diagonal = Placed(np.maximum(diagonal, 1e-12 * diagonal.max()))

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        return gradient / self._diagonal.beside(gradient)


def _weighted_rows(objective: Objective, coef: np.ndarray | None, stride: int) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield ``(block, a_i w_i)`` over every `stride`-th row, the weights scaled to stand for all rows."""
    sample = objective.sample(stride)
    objective.passes += 0.5 / stride
    if coef is None:
        for rows, block in sample.blocks:
            yield block, 0.5 * sample.row_weights[rows]
        return
    for rows, block, p in sample._logits(on_host(coef)):
        probabilities(p)
        spread = 1.0 - np.einsum("ij,ij->i", p, p, dtype=np.float64)
        yield block, sample.row_weights[rows] * np.maximum(spread, 0.0) / (objective.n_classes - 1)


def _with_intercept(objective: Objective, block: Any, scale: np.ndarray) -> np.ndarray:
    """Return the dense rows [block, 1] times `scale`, in the objective's dtype."""
    dense = block if isinstance(block, np.ndarray) else block.toarray()
    rows = np.ones((len(dense), objective.shape[1]), objective.dtype)
    rows[:, : objective.n_features] = dense
    rows *= scale[:, None].astype(objective.dtype)
    return rows


class _Inverse:
    """The inverse of a positive semi-definite matrix as S L^-T L^-1 S, with L from Cholesky and S scaling it to 1s.

    Factored in NumPy's BLAS, not in SciPy's, which brings threads of its own; applied, once an iteration, without
    BLAS: see `kernels/algebra.py`. For `one` row at a time L itself is kept: to invert it takes twice as long as to
    make it, and to apply the inverse is then no faster.
    """

    def __init__(self, matrix: np.ndarray, *, one: bool = False) -> None:
        scale, root = _scaled_root(matrix)
        self._scale, self._root = Placed(scale), Placed(root) if one else None
        if not one:
            root = _inverse_of_lower(root)
            self._down, self._up = Factor(root.T), Factor(root)

    def solve(self, rows: np.ndarray) -> np.ndarray:
        """Return the inverse applied to every row."""
        scale = self._scale.beside(rows)
        if self._root is not None:
            return solve_cholesky(self._root.beside(rows), rows[0] * scale)[None] * scale
        return self._up(self._down(rows * scale)) * scale


def _scaled_root(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the diagonal of S, and L from Cholesky with L L^T = S matrix S, whose diagonal is 1."""
    if not np.isfinite(matrix).all():
        raise ValueError("X: squares of its entries overflow; scale the features down")
    diagonal = np.diag(matrix)
    # A column of zeros without a penalty has no curvature at all, and gets some.
    floor = np.max(diagonal, initial=0.0) * 1e-30 + np.finfo(np.float64).tiny
    scale = 1.0 / np.sqrt(np.maximum(diagonal, floor))
    scaled = matrix * scale[:, None] * scale
    for relative in (0.0, 1e-12, 1e-9, 1e-6, 1e-3, 1.0):  # as little as rounding needs
        scaled[np.diag_indices_from(scaled)] = 1.0 + relative
        try:
            return scale, np.linalg.cholesky(scaled)
        except np.linalg.LinAlgError:
            continue
    return scale, np.eye(len(matrix))


def _inverse_of_lower(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of a lower triangular matrix, by halves: n^3 / 3 multiply-adds in large products."""
    n = len(matrix)
    if n <= 64:
        return np.tril(np.linalg.inv(matrix))
    half = n // 2
    inverse = np.zeros_like(matrix)
    first, last = _inverse_of_lower(matrix[:half, :half]), _inverse_of_lower(matrix[half:, half:])
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[half:, :half] = -last @ (matrix[half:, :half] @ first)
    return inverse
