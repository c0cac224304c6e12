"""L-BFGS in the metric of a preconditioner, for convex objectives, stopped by a certificate."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from softhead.kernels.algebra import add_multiple, dot, same
from softhead.linear.certificate import duality_gap, polish_intercepts, rounding_allowance
from softhead.linear.contract import Objective
from softhead.linear.preconditioner import Metric, Preconditioner, affords_class_grams, affords_hessian, preconditioner
from softhead.linear.resume import Recipe, restore, state_of
from softhead.linear.solution import Callback, Checkpoint, Pair, Progress, Solution, Status

_MEMORY = 20  # more pairs save few passes, and each is two arrays of the size of the coefficients
_PATIENCE = 25  # iterations without halving the predicted decrease before rounding is suspected
MAX_INTERCEPT_CLASSES = 4096  # Newton steps on the intercepts factor a matrix of classes x classes


# Relative to a loss below this, in nats a row, no gap is asked for: the infimum may be 0 and not attained.
NEGLIGIBLE_LOSS = 1e-10


class _Point(NamedTuple):
    coef: np.ndarray
    value: float
    gradient: np.ndarray
    dtype: np.dtype  # of the products that they come from

    @classmethod
    def at(cls, coef: np.ndarray, objective: Objective) -> "_Point":
        """Evaluate an objective."""
        return cls(coef, *objective.loss_gradient(coef), objective.dtype)


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
    """Minimise `objective` from `coef` until its relative optimality gap is at most `tol`.

    Products are taken in the objective's dtype as long as that makes progress, then in float64. The solution's
    coefficients are representable in the objective's dtype, and its value and gap are those of exactly these
    coefficients. A KeyboardInterrupt ends the run with the best point so far and the status "interrupted".

    A run on a problem near to one already solved may begin with its `pairs`, and ask `metric` for its metrics. With
    `wide`, products are float64 from the first: where the first points are expected to be the last. A `checkpoint` is
    offered the state of every iteration; a run that finds one in it goes on from there, to the same last bit.

    Raises
    ------
    ValueError
        If the loss overflows at the starting coefficients, or a checkpoint is of other rows.
    """
    run = _Run(objective, tol, pairs, metric, wide)
    try:
        state = None if checkpoint is None else checkpoint.load()
        if checkpoint is None or state is None:
            run.start(coef)
        else:
            restore(run, state, exactly=checkpoint.exactly)
        return run.finish(run.iterate(max_iter, callback, checkpoint))
    except KeyboardInterrupt:
        return run.interrupted(coef)


class _Run:
    """The state of one run: the current point, the best dual bound, the curvature pairs and the metric.

    What a checkpoint must hold, and how it comes back, is in `resume.py`.
    """

    point: _Point
    metric: Preconditioner
    recipe: Recipe | None = None  # of the metric

    def __init__(self, objective: Objective, tol: float, pairs: Iterable[Pair], new_metric: Metric, wide: bool) -> None:
        self.tol = tol
        self.new_metric = new_metric
        self.original = objective
        self.exact = objective if objective.dtype == np.float64 else objective.wide()
        self.working = self.exact if wide else objective
        self.rounded = True  # whether points are: one that the result can hold needs no other look at the data
        self.bound = -np.inf if objective.l2 == 0.0 else 0.0  # cross-entropy is never negative
        self.pairs = deque(pairs, maxlen=_MEMORY)
        self.history: list[Progress] = []
        self.n_iter = 0
        self.ask_below = np.inf  # after a failed certificate: not again before the penalised part of the gap has halved
        self.goal, self.deadline = np.inf, _PATIENCE
        self.cautious = (
            False  # with a metric that bounds every Hessian: where a step fails even so, rounding is the reason
        )

    @property
    def narrow(self) -> bool:
        return self.working is not self.exact

    def held(self, coef: np.ndarray) -> np.ndarray:
        """Return the coefficients that stand for these."""
        return self.original.representable(coef) if self.rounded else coef

    @property
    def passes(self) -> float:
        return self.original.passes + (self.exact.passes if self.exact is not self.original else 0.0)

    @property
    def allowed(self) -> float:
        """The gap to reach."""
        return self.tol * max(self.point.value, NEGLIGIBLE_LOSS)

    def start(self, coef: np.ndarray, objective: Objective | None = None) -> None:
        """Evaluate the first point, by the working objective or another one."""
        self.point = _Point.at(coef, objective or self.working)
        if not np.isfinite(self.point.value):
            raise ValueError("X: the loss overflows at the starting coefficients; scale the features down")

    def iterate(self, max_iter: int, callback: Callback | None, checkpoint: Checkpoint | None = None) -> Status:
        """Run until converged, stuck in rounding, or out of iterations."""
        while True:
            if checkpoint is not None and self.n_iter > 0:
                checkpoint.offer(partial(state_of, self), last=self.n_iter >= max_iter)
            allowed = self.allowed
            gap, slack = duality_gap(self.exact, self.point.coef, self.point.gradient)
            self.history.append(Progress(self.passes, self.point.value, gap))
            if callback is not None:
                callback(self.history[-1], self.point.coef)
            curved = gap - slack
            # In float64 a step costs less than polishing the intercepts does, and helps the weights as well.
            ready = curved <= min(0.7 * allowed, self.ask_below) and (self.narrow or self.n_iter > 3)
            if ready or (gap <= allowed and not self.narrow):
                self.certify()
                if self.gap() <= self.allowed:
                    return "converged"
                if self.point.value - self.bound <= rounding_allowance(self.exact, self.point.coef, self.point.value):
                    return "precision_limit"
                self.working, self.rounded = self.exact, False
                self.ask_below = 0.5 * curved
            if self.n_iter >= max_iter:
                return "max_iter"

            if self.cautious:
                # Where almost all probabilities are 0 or 1, the curvature there says nothing of a step's length.
                self.renew(Recipe(self.narrow, None, 0.0))
            elif self.due():
                # The longer a run has taken, the more its metric may cost.
                self.renew(Recipe(self.narrow, self.point.coef, self.budget))
            direction = quasi_newton(self.point.gradient, self.pairs, self.metric)
            decrease = -0.5 * dot(direction, self.point.gradient)
            if decrease < 0.5 * self.goal:
                self.goal, self.deadline = decrease, self.n_iter + _PATIENCE
            # Without a penalty only a model predicts the distance; 100 times less than allowed is demanded of it. (A
            # metric above the Hessian predicts too little.)
            if self.original.l2 == 0.0 and decrease <= 0.01 * allowed and not self.cautious:
                if not self.narrow:
                    return "converged"
                self.widen()
            elif self.narrow and self.n_iter >= self.deadline:
                self.deadline = self.n_iter + _PATIENCE
                self.widen(unless_noise_below=0.1 * decrease)
            elif self.n_iter >= self.deadline and decrease <= np.finfo(np.float64).eps * self.point.value:
                return "precision_limit"
            elif not self.advance(direction):
                if self.narrow:
                    self.widen()
                elif self.rounded:
                    self.rounded = False
                elif self.pairs:
                    self.pairs.clear()
                elif not self.cautious:
                    self.cautious = True
                    continue
                else:
                    return "precision_limit"
            self.cautious = False

    def renew(self, recipe: Recipe) -> None:
        """Make the metric anew."""
        objective = self.original if recipe.narrow else self.exact
        self.metric, self.recipe = self.new_metric(objective, recipe.coef, budget=recipe.budget), recipe

    @property
    def budget(self) -> float:
        """What a metric may cost, in passes: the more, the longer the run has taken."""
        return max(1.0, self.n_iter / 2)

    def due(self) -> bool:
        """Return whether the metric is to be renewed: at every other power of 2, at each where it knows the classes."""
        n = self.n_iter
        if n & (n - 1):
            return False
        knowing = affords_hessian(self.working, self.budget) or affords_class_grams(self.working, self.budget)
        return n == 0 or n.bit_length() % 2 == 0 or knowing

    def widen(self, *, unless_noise_below: float = 0.0) -> None:
        """Take all further products in float64, unless the gradient's rounding hides no more decrease than that.

        Points are no longer rounded either: the intercepts' rounding would show in the gap.
        """
        if self.narrow:
            narrow = self.point.gradient
            self.point = _Point.at(self.point.coef, self.exact)
            noise = narrow - self.point.gradient
            if unless_noise_below == 0.0 or 0.5 * dot(noise, self.metric.solve(noise)) > unless_noise_below:
                self.working, self.rounded = self.exact, False

    def advance(self, direction: np.ndarray) -> bool:
        """Move along `direction`; False where no step makes progress that the working precision can see."""
        start, found = self.point, line_search(self.working, self.point, direction, self.held)
        if found is None:
            return False
        self.point = found
        self.n_iter += 1
        step, change = found.coef - start.coef, found.gradient - start.gradient
        curvature = dot(step, change)
        if curvature > 1e-14 * math.sqrt(dot(step, step) * dot(change, change)):
            self.pairs.append(Pair(step, change, curvature))
        return True

    def certify(self) -> None:
        """Polish the intercepts where they cost much, evaluate in float64 and raise the dual bound."""
        allowed = self.allowed
        gap, slack = duality_gap(self.exact, self.point.coef, self.point.gradient)
        coef = self.point.coef
        polishable = self.original.fit_intercept and self.original.n_classes <= MAX_INTERCEPT_CLASSES
        if polishable and slack > 0.2 * allowed and gap > (0.8 if self.narrow else 1.0) * allowed:
            polished = self.original if self.rounded else self.working
            coef = self.held(polish_intercepts(polished, coef, target=0.01 * allowed))
        if self.narrow or coef is not self.point.coef:
            self.point = _Point.at(coef, self.exact)
            gap, slack = duality_gap(self.exact, coef, self.point.gradient)
        self.bound = max(self.bound, self.point.value - gap)

    def gap(self) -> float:
        """Return the distance from the current value to the best dual bound, rounding included."""
        if self.original.l2 == 0.0:
            return np.inf
        point = self.point
        return max(point.value - self.bound, 0.0) + rounding_allowance(self.exact, point.coef, point.value)

    def finish(self, status: Status) -> Solution:
        """Certify what was reached and state it for the coefficients as the objective's dtype represents them."""
        if status != "converged" and self.original.l2 > 0.0:
            self.certify()
        coef = self.original.representable(self.point.coef)
        if not same(coef, self.point.coef):
            self.point = _Point.at(coef, self.exact)
        gap = self.gap()
        if gap <= self.allowed:
            status = "converged"
        elif status == "converged" and gap < np.inf:
            status = "precision_limit"
        return Solution(
            coef,
            self.point.value,
            gap,
            status,
            self.n_iter,
            self.passes,
            self.history,
            self.point.gradient,
            list(self.pairs),
        )

    def interrupted(self, coef: np.ndarray) -> Solution:
        """State the last point without another look at the data."""
        value, gap = np.inf, np.inf
        if hasattr(self, "point"):
            coef, value = self.point.coef, self.point.value
            gap = value - self.bound + 100.0 * self.original.eps * value
        coef = self.original.representable(coef)
        return Solution(coef, value, gap, "interrupted", self.n_iter, self.passes, self.history)


def quasi_newton(gradient: np.ndarray, pairs: Sequence[Pair], metric: Preconditioner) -> np.ndarray:
    """Return the direction of descent, by the two-loop recursion around the metric."""
    q = -gradient
    alphas = []
    for pair in reversed(pairs):
        alphas.append(dot(pair.step, q) / pair.curvature)
        add_multiple(q, -alphas[-1], pair.change)
    q = metric.solve(q)
    if pairs:
        last = pairs[-1]
        q *= last.curvature / dot(last.change, metric.solve(last.change))
    for pair, alpha in zip(pairs, reversed(alphas), strict=True):
        add_multiple(q, alpha - dot(pair.change, q) / pair.curvature, pair.step)
    return q


def line_search(
    objective: Objective,
    start: _Point,
    direction: np.ndarray,
    held: Callable[[np.ndarray], np.ndarray],
) -> _Point | None:
    """Return a point along `direction` with a weak Wolfe step, or None where rounding hides every decrease.

    Near the optimum differences of values drown in rounding before slopes do; there a step is accepted by its slope: a
    convex function has decreased where the slope is still negative, and a little beyond where the value is not larger
    than rounding explains (the approximate Wolfe conditions of Hager and Zhang, 2005).
    """
    slope = dot(direction, start.gradient)
    if not slope < 0.0:
        return None
    wider = objective.eps / float(np.finfo(np.float64).eps)
    noise = wider * rounding_allowance(objective, start.coef, start.value)
    step, low, low_slope, high = 1.0, 0.0, slope, np.inf
    for _ in range(20):
        coef = held(start.coef + step * direction)
        if same(coef, start.coef):
            return None
        point = _Point.at(coef, objective)
        new_slope = dot(direction, point.gradient)
        decreases = point.value <= start.value + 1e-4 * step * slope
        if decreases or new_slope <= 0.0 or (point.value <= start.value + noise and new_slope <= -0.8 * slope):
            if new_slope >= 0.9 * slope:
                return point
            low, low_slope = step, new_slope
            step = 4.0 * step if high == np.inf else 0.5 * (low + high)
        else:
            high = step
            secant = low_slope / (low_slope - new_slope) if new_slope > 0.0 else 0.5  # False for a NaN as well
            step = low + (high - low) * min(max(secant, 0.1), 0.9)
    return None
