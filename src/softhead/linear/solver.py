"""The solver for an objective: dual ascent where it fits the data, and L-BFGS for all else and for the rest."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from softhead.linear import blas, lbfgs
from softhead.linear.certificate import polish_intercepts
from softhead.linear.contract import Objective
from softhead.linear.dual_ascent import DualAscent, suited
from softhead.linear.objective import LinearSoftmaxObjective
from softhead.linear.preconditioner import Metric, preconditioner
from softhead.linear.solution import Callback, Checkpoint, Pair, Progress, Solution

# Of the gap allowed, at which the estimated gap is worth a certificate: it leaves out what the intercepts cause.
_WORTH = 0.2
_PATIENCE = 30  # sweeps without halving the estimated gap before the ascent is given up


def solve(
    objective: Objective,
    coef: np.ndarray,
    *,
    tol: float,
    max_iter: int,
    callback: Callback | None = None,
    pairs: Iterable[Pair] = (),
    metric: Metric = preconditioner,
    wide: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Solution:
    """Minimise `objective` from `coef`; parameters and result are those of `lbfgs.solve`.

    A sweep of dual ascent counts as an iteration and as a pass. What it cannot certify, L-BFGS continues. An ascent
    leaves nothing in a checkpoint: run again, it takes the same way.
    """
    with blas.one_thread() if objective.compiled else nullcontext():
        if isinstance(objective, LinearSoftmaxObjective) and suited(objective):
            return _ascend(objective, coef, tol, max_iter, callback, metric, wide)
        return lbfgs.solve(
            objective,
            coef,
            tol=tol,
            max_iter=max_iter,
            callback=callback,
            pairs=pairs,
            metric=metric,
            wide=wide,
            checkpoint=checkpoint,
        )


def _ascend(
    objective: LinearSoftmaxObjective,
    coef: np.ndarray,
    tol: float,
    max_iter: int,
    callback: Callback | None,
    metric: Metric,
    wide: bool,
) -> Solution:
    """Minimise `objective` by dual ascent, and what that leaves by L-BFGS."""
    run = _Run(objective, coef, tol, callback)
    try:
        stages = [objective] if objective.dtype == np.float64 else [objective, objective.wide()]
        for stage in stages[-1:] if wide else stages:
            solution = run.ascend(stage, sweeps=(max_iter + 1) // 2 - run.n_iter)
            if solution is not None:
                return solution
        run.retreat_to(coef)
    except KeyboardInterrupt:
        return run.interrupted()
    return run.finish(max_iter - run.n_iter, metric)


class _Run:
    """A run: the best coefficients so far, and what they have cost."""

    def __init__(
        self, objective: LinearSoftmaxObjective, coef: np.ndarray, tol: float, callback: Callback | None
    ) -> None:
        self.objective, self.coef, self.tol, self.callback = objective, coef, tol, callback
        self.history: list[Progress] = []
        self.n_iter = 0
        self.passes = 0.0

    def ascend(self, stage: LinearSoftmaxObjective, *, sweeps: int) -> Solution | None:
        """Sweep until a certificate holds, and return the solution; None where there is no progress, or no time."""
        if sweeps <= 0:
            return None
        ascent = DualAscent(stage, self.coef)
        if not ascent.feasible:
            return None
        best, deadline, worth = np.inf, _PATIENCE, _WORTH
        try:
            for k in range(sweeps):
                loss, gap = ascent.sweep()
                self.n_iter += 1
                self.passes += 1.0
                if not np.isfinite(loss + ascent.penalty()):
                    return None
                self.history.append(Progress(self.passes, loss + ascent.penalty(), gap))
                if self.callback is not None:
                    self.callback(self.history[-1], ascent.coef())
                if gap <= worth * self.tol * max(loss, lbfgs.NEGLIGIBLE_LOSS):
                    self.coef = self.objective.representable(ascent.coef())
                    if self.objective.fit_intercept and self.objective.n_classes <= lbfgs.MAX_INTERCEPT_CLASSES:
                        # Half passes in the stage's dtype, which spare the certificate one in float64 and more.
                        polished = polish_intercepts(stage, self.coef, target=0.01 * self.tol * loss)
                        self.coef = self.objective.representable(polished)
                    solution = self.finish(0, preconditioner)
                    if solution.status in ("converged", "interrupted"):
                        return solution
                    worth *= 0.1
                if gap < 0.5 * best:
                    best, deadline = gap, k + _PATIENCE
                elif k >= deadline or worth < 1e-3 * _WORTH:
                    break
        finally:
            coef = ascent.coef()
            if np.abs(coef).max() < float(np.finfo(self.objective.dtype).max):  # False for a NaN as well
                self.coef = self.objective.representable(coef)
        return None

    def finish(self, max_iter: int, metric: Metric) -> Solution:
        """Certify the coefficients, after iterations of L-BFGS if need be."""
        before = self.objective.passes
        wide = max_iter == 0
        callback = None if wide else self.callback
        solution = lbfgs.solve(
            self.objective, self.coef, tol=self.tol, max_iter=max_iter, callback=callback, metric=metric, wide=wide
        )
        self.n_iter += solution.n_iter
        self.passes += solution.passes - before
        return replace(solution, n_iter=self.n_iter, passes=self.passes, history=[*self.history, *solution.history])

    def retreat_to(self, start: np.ndarray) -> None:
        """Take `start` again if F is lower there: an ascent on rows of a norm of millions may go far astray."""
        if self.coef is not start:
            self.passes += 2.0
            if not self.objective.loss_gradient(self.coef)[0] <= self.objective.loss_gradient(start)[0]:
                self.coef = start

    def interrupted(self) -> Solution:
        """State the last coefficients without another look at the data."""
        value = self.history[-1].value if self.history else np.inf
        return Solution(self.coef, value, np.inf, "interrupted", self.n_iter, self.passes, self.history)
