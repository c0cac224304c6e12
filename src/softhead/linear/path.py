"""Regularisation paths: one problem under many penalties, each solved from what its neighbours have shown."""

import operator
from collections import deque
from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np

from softhead.kernels.algebra import beside, copied, dot
from softhead.linear import blas
from softhead.linear.certificate import intercept_step
from softhead.linear.contract import Objective
from softhead.linear.lbfgs import MAX_INTERCEPT_CLASSES, quasi_newton
from softhead.linear.path_metric import PathMetric
from softhead.linear.solution import Callback, Pair, Solution
from softhead.linear.solver import solve

_ORDERS = 3  # of extrapolation tried: constant, secant, parabola
# By which extrapolation may magnify the errors of its points: in even steps it is 3 for the secant, 7 for the parabola.
_MOST_MAGNIFIED = 100.0


def solve_path(
    objective: Objective,
    l2s: Sequence[float],
    *,
    tol: float,
    max_iter: int,
    callback: Callback | None = None,
    metric: PathMetric | None = None,
    reference: Sequence[np.ndarray] | None = None,
) -> Iterator[Solution]:
    """Yield the solution under each penalty of `l2s`, in their order; a monotone one is fast.

    What goes from one to the next: the coefficients, extrapolated along the path; the curvature pairs, in which a
    penalty is a known term; the metric, in which it is one as well. Nothing but the speed depends on any of it: every
    solution has a certificate of its own. After a KeyboardInterrupt the last solution is "interrupted".

    Parameters
    ----------
    objective : Objective
        Its own penalty plays no part.
    l2s : sequence of float
    tol, max_iter, callback
        As for `solve`, for each of the penalties.
    metric : PathMetric, optional
        Shared between paths of similar problems.
    reference : sequence of ndarray, optional
        Coefficients of a similar problem under the same penalties: only the difference from them is extrapolated.
    """
    metric = PathMetric() if metric is None else metric
    track = _Track()
    pairs: list[Pair] = []
    last_l2, n_iter, unbalanced = 0.0, max_iter, False
    for index, l2 in enumerate(l2s):
        current = objective.with_l2(l2)
        base = objective.zeros() if reference is None else reference[index]
        start = base + track.predict(l2)
        if unbalanced:
            with blas.one_thread():
                start[:, -1] += beside(start, intercept_step(current, start)[1])
        # Where one point or two are enough, float32 would only be asked before float64 must be in any case.
        solution = solve(
            current,
            current.representable(start),
            tol=tol,
            max_iter=max_iter,
            callback=callback,
            pairs=[_under(pair, l2 - last_l2, objective) for pair in pairs],
            metric=metric,
            wide=n_iter <= 1,
        )
        if solution.status == "interrupted":
            yield solution
            return
        pairs, last_l2, n_iter = solution.pairs, l2, solution.n_iter
        metric.spend(solution.passes)
        # Extrapolated intercepts cost the gap in the first order, and are half a pass to correct.
        slack = objective.fit_intercept and objective.n_classes <= MAX_INTERCEPT_CLASSES
        unbalanced |= slack and index > 0 and solution.history[0].gap > 0.2 * tol * solution.value
        coef, known = solution.coef, metric.under(l2)
        if solution.gradient is not None and known is not None:
            # One more step, which costs no pass, tells better than the solution where the path goes on.
            coef = coef + quasi_newton(solution.gradient, pairs, known)
        track.append(l2, coef - base)
        yield solution


class _Track:
    """The points of a path so far, extrapolated over log l2 by the order that would have told the last one best."""

    def __init__(self) -> None:
        self.points: deque[tuple[float, np.ndarray]] = deque(maxlen=_ORDERS)
        self.order = 1

    def append(self, l2: float, coef: np.ndarray) -> None:
        """Add the next point."""
        if len(self.points) > 1:
            missed = [self._extrapolated(l2, order) - coef for order in range(len(self.points))]
            errors = [dot(part, part) for part in missed]
            self.order = int(np.argmin(errors))
            if self.order == len(self.points) - 1 < _ORDERS - 1:
                self.order += 1  # the highest order so far was the best: try the next
        self.points.append((l2, coef))

    def predict(self, l2: float) -> np.ndarray | float:
        """Return where the path is expected at `l2`."""
        return self._extrapolated(l2, min(self.order, len(self.points) - 1)) if self.points else 0.0

    def _extrapolated(self, l2: float, order: int) -> np.ndarray:
        """Return the polynomial of `order` through the last points, at `l2`, by Lagrange's formula."""
        points = list(self.points)[-1 - order :]
        if order == 0 or l2 == 0.0 or 0.0 in [l2 for l2, _ in points]:
            return points[-1][1]
        x, at = np.log(l2), np.log([l2 for l2, _ in points])
        with np.errstate(divide="ignore", invalid="ignore"):  # a penalty may come twice
            factors = [np.prod([(x - b) / (a - b) for j, b in enumerate(at) if j != i]) for i, a in enumerate(at)]
        if not np.abs(factors).sum() <= _MOST_MAGNIFIED:
            return self._extrapolated(l2, order - 1)
        return reduce(operator.add, (float(factor) * coef for factor, (_, coef) in zip(factors, points, strict=True)))


def _under(pair: Pair, change: float, objective: Objective) -> Pair:
    """Return a pair as it would be under a penalty larger by `change`."""
    gradient = copied(pair.change)
    step, of_weights = objective.split(pair.step)[0], objective.split(gradient)[0]
    of_weights += change * step
    return Pair(pair.step, gradient, pair.curvature + change * dot(step, step))
