"""The metric along a path: built rarely, and adapted to another penalty at little or no cost."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from softhead.kernels.algebra import Factor, Placed, copied
from softhead.linear.contract import Objective
from softhead.linear.preconditioner import (
    MAX_HESSIAN_SIZE,
    ClassGrams,
    Hessian,
    Preconditioner,
    affords_class_grams,
    class_inverses_cost,
    hessian_cost,
    preconditioner,
    weighted_gram,
)

_MAX_FEATURES = 2048  # above, an eigendecomposition takes as long as all the factorisations that it saves
_MIN_ROWS, _ROWS_PER_FEATURE = 8000, 30
_MAX_BYTES = 2**27  # of all matrices kept
_TINY = float(np.finfo(np.float64).tiny)
_PATIENCE = 8.0  # the costs of a metric that passes must have reached before it is renewed


class _Base(Protocol):
    """A metric that knows which part of it is the penalty."""

    nbytes: int

    def under(self, l2: float) -> Preconditioner: ...


@dataclass
class _Record:
    """A metric, the penalty that it was made under, and the passes made with it."""

    base: _Base
    l2: float
    passes: float


class PathMetric:
    """What gives runs on similar problems, under any penalty, their metric: a few, renewed when that has become cheap.

    It is the Hessian on a sample of rows as soon as that costs at most half of the passes made so far; else a Gram
    matrix for every class where those are cheap; else one in the form of its eigenvectors, in which a penalty is added
    to the eigenvalues. What the nearest penalty had is taken: later paths find that of the first. Data whose shape or
    scales are not for this have a metric of their own for each run, as without a path.
    """

    def __init__(self) -> None:
        self._records: list[_Record] = []
        self._current: _Record | None = None
        self._last: Preconditioner | None = None
        self._last_l2 = -1.0
        self._passes = 0.0  # in all, before the current run
        self._suited = True

    def __call__(self, objective: Objective, coef: np.ndarray | None, *, budget: float) -> Preconditioner:
        """Return the metric for `objective`, from `coef` where it is renewed."""
        if coef is None:
            return preconditioner(objective, None, budget=budget)
        running = 2.0 * budget - 2.0  # about the passes of this run so far
        coupled = objective.shape[0] * objective.shape[1] <= MAX_HESSIAN_SIZE
        coupled = coupled and hessian_cost(objective) <= max(1.0, (self._passes + running) / 2.0)
        of_path = (self._passes + running) / 2.0
        by_class = not coupled and affords_class_grams(objective, of_path) and class_inverses_cost(objective) <= 0.5
        wanted = Hessian if coupled else ClassGrams if by_class else _EigenGram
        record = self._nearest(objective.l2)
        due = record is None or (wanted is not _EigenGram and not isinstance(record.base, wanted))
        if record is not None and not due:
            cost = hessian_cost(objective) if coupled else _gram_cost(objective)
            cost = record.base.cost if isinstance(record.base, ClassGrams) else cost
            due = record.passes + running >= _PATIENCE * cost
        if due and (self._suited or wanted is not _EigenGram):
            base: _Base | None
            if coupled:
                base = Hessian(objective, coef)
            else:
                base = ClassGrams(objective, coef, of_path) if by_class else _EigenGram.of(objective, coef)
            self._suited = base is not None
            if base is not None:
                self._keep(record, _Record(base, objective.l2, -running))
        if self._current is None:
            self._last, self._last_l2 = preconditioner(objective, coef, budget=budget), objective.l2
        last = self.under(objective.l2)
        assert last is not None
        return last

    def under(self, l2: float) -> Preconditioner | None:
        """Return the metric as far as it is known under the penalty `l2`, or a similar one."""
        record = self._nearest(l2)
        if record is not None and (record is not self._current or self._last_l2 != l2):
            self._current, self._last, self._last_l2 = record, record.base.under(l2), l2
        return self._last

    def spend(self, passes: float) -> None:
        """Take note of the passes that a run has made."""
        self._passes += passes
        if self._current is not None:
            self._current.passes += passes

    def _nearest(self, l2: float) -> "_Record | None":
        def distance(record: _Record) -> float:
            return abs(float(np.log(max(record.l2, _TINY)) - np.log(max(l2, _TINY))))

        return min(self._records, key=distance, default=None)

    def _keep(self, old: "_Record | None", new: "_Record") -> None:
        """Put a record in the place of an old one from almost the same penalty, or beside it where memory allows."""
        if old is not None and (type(old.base) is not type(new.base) or old.l2 < 2.0 * new.l2 < 4.0 * old.l2):
            self._records.remove(old)
        self._records.append(new)
        while len(self._records) > 1 and sum(record.base.nbytes for record in self._records) > _MAX_BYTES:
            self._records.pop(0)


def _gram_cost(objective: Objective) -> float:
    """Return about how many passes over the data the eigenvectors of a Gram matrix cost; see `hessian_cost`."""
    n, d, classes = objective.n_rows, objective.n_features, objective.n_classes
    rows = min(n, max(_MIN_ROWS, _ROWS_PER_FEATURE * d))
    return (rows * d**2 + 20 * d**3) / (4.0 * (n * classes * (2 * d + 50) / objective.speed + 2e7))


class _EigenGram:
    """M = T^T diag(G + lambda I, s) T with G = V diag(e) V^T centred: T takes the intercepts apart from the weights."""

    def __init__(self, gram: np.ndarray, l2: float, *, fit_intercept: bool) -> None:
        self.mass, self.mean = 0.0, np.zeros(len(gram) - fit_intercept)
        raw = np.diag(gram)[: len(self.mean)]
        if fit_intercept:
            self.mass = max(float(gram[-1, -1]), np.finfo(np.float64).tiny)
            self.mean = gram[-1, :-1] / self.mass
            gram = gram[:-1, :-1] - self.mass * np.outer(self.mean, self.mean)
        self.values, vectors = np.linalg.eigh(gram)
        self.onto, self.back, self.centre = Factor(vectors), Factor(vectors.T), Placed(self.mean)
        # Eigenvectors, unlike factors, lose the smallest columns to the rounding of the largest, or of their own means.
        used = np.diag(gram)[raw > 0.0] + l2
        self.trusted = bool((used > 1e-5 * raw[raw > 0.0]).all() and (used > 1e-10 * used.max(initial=0.0)).all())
        self.nbytes = 2 * vectors.nbytes

    @classmethod
    def of(cls, objective: Objective, coef: np.ndarray) -> "_EigenGram | None":
        """Return that of an objective at `coef`; None where the shape or the scales of its data are not for it."""
        n_rows, n_features = objective.n_rows, objective.n_features
        if n_features > min(n_rows, _MAX_FEATURES):
            return None
        stride = max(1, n_rows // max(_MIN_ROWS, _ROWS_PER_FEATURE * n_features))
        gram = weighted_gram(objective, coef, stride)
        if not np.isfinite(gram).all():
            raise ValueError("X: squares of its entries overflow; scale the features down")
        result = cls(gram, objective.l2, fit_intercept=objective.fit_intercept)
        return result if result.trusted else None

    def under(self, l2: float) -> "_UnderPenalty":
        """Return M under a penalty."""
        floor = 1e-12 * float(self.values.max(initial=0.0)) + np.finfo(np.float64).tiny
        return _UnderPenalty(self, np.maximum(np.maximum(self.values, 0.0) + l2, floor))


class _UnderPenalty:
    """An eigen-form with a penalty added."""

    def __init__(self, gram: _EigenGram, values: np.ndarray) -> None:
        self._gram, self._values = gram, Placed(values)

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        gram = self._gram
        n_features, mean = len(gram.mean), gram.centre.beside(gradient)
        intercepts = gradient[:, n_features:]  # none, or one column
        weights = gradient[:, :n_features] - intercepts * mean if gram.mass else gradient
        weights = gram.back(gram.onto(weights) / self._values.beside(gradient))
        if not gram.mass:
            return weights
        result = copied(gradient)
        result[:, :n_features], result[:, n_features] = weights, intercepts[:, 0] / gram.mass - weights @ mean
        return result
