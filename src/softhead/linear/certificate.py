"""A certificate of optimality: an upper bound on F(W, b) - F*, from a feasible point of the Fenchel dual."""

import numpy as np
from scipy.special import xlogy

from softhead.kernels.algebra import beside, copied, damped_solution, dot, gap_parts, on_host, reach
from softhead.linear.contract import Objective


def duality_gap(objective: Objective, coef: np.ndarray, gradient: np.ndarray) -> tuple[float, float]:
    r"""Return ``(gap, slack)``: F(coef) - min F <= gap, and the part `slack` of it that the intercepts cause.

    For any distributions p'_i, log-sum-exp is at least p'_i . z + H(p'_i). With that, minimising over W, and over b
    where sum_i a_i p'_i = pi := sum_i a_i q_i (else the bound is minus infinity),

    .. math:: F^* \ge \sum_i a_i H(p'_i) - \frac{1}{2\lambda} \lVert X^T A (P' - Q) \rVert^2 .

    The model's own probabilities meet the condition only where the intercept's gradient g_b = pbar - pi is 0. They
    are made to: each class keeps the fraction rho = min(1, pi / pbar), and what a row loses goes to the classes that
    lack mass, in proportions nu. The entropy of the result is bounded below by concavity (-x log x has a slope of at
    least -1 on [0, 1]); the entropy of one class, where it is needed, by Jensen's inequality. Subtracting the bound
    from F leaves a sum without large terms that cancel, in which all but the first is of the order of g_b:

    .. math:: \frac{\lVert g_W - E \rVert^2}{2\lambda} + \langle E, W\rangle + g_b \cdot b
        + \sum_c (1-\rho_c) h_c + \sum_c \bar p_c \rho_c \log \rho_c + \Delta,

    with Delta = ||g_b||_1 / 2, h_c = -pbar_c log pbar_c, G_P = X^T A P and E = G_P diag(1 - rho) -
    (G_P (1 - rho)) nu^T. Without an intercept it is ||g_W||^2 / (2 lambda). Without a penalty there is no finite bound,
    and the result is inf.

    Parameters
    ----------
    objective : Objective
    coef : ndarray of the objective's coefficient shape
    gradient : ndarray of the same shape, the gradient of F at `coef`
    """
    if objective.l2 == 0.0:
        return np.inf, np.inf
    gradient_weights = objective.split(gradient)[0]
    if not objective.fit_intercept:
        return dot(gradient_weights, gradient_weights) / (2.0 * objective.l2), 0.0

    intercepts, gradient_intercepts = (on_host(objective.split(array)[1]) for array in (coef, gradient))
    moments_targets, pi = objective.target_moments()
    pbar = np.maximum(pi + gradient_intercepts, 0.0)
    # From g_b itself: pbar - pi would lose what is small beside pi.
    lacking, surplus = np.maximum(-gradient_intercepts, 0.0), np.minimum(np.maximum(gradient_intercepts, 0.0), pbar)
    delta = lacking.sum()
    removed = np.divide(surplus, pbar, out=np.zeros_like(pbar), where=pbar > 0.0)  # 1 - rho
    nu = lacking / delta if delta > 0.0 else lacking
    curved, inner = gap_parts(coef, gradient, moments_targets, removed, nu, objective.l2)
    curved /= 2.0 * objective.l2
    slack = (
        inner
        + float(gradient_intercepts @ (intercepts - intercepts.mean()))  # g_b sums to 0
        - float(removed @ xlogy(pbar, pbar))
        + float(xlogy(pbar - surplus, 1.0 - removed).sum())
        + 1.000001 * float(delta)  # rows of targets may sum to 1 plus the rounding of float32
    )
    return max(curved + slack, 0.0), abs(slack)


def rounding_allowance(objective: Objective, coef: np.ndarray, value: float) -> float:
    """Return what float64 rounding may add to a computed gap, so that it stays a bound near the optimum.

    A row's loss moves by (p - q) . dz when rounding moves its logits by dz, and ||p - q||_1 is at most twice the loss:
    the error of F is about F times the error of a logit, a sum of n_features products.
    """
    weights, intercepts = objective.split(coef)
    logits = 1.0 + reach(weights, objective.mean_sizes()) + float(np.abs(on_host(intercepts)).max())
    return 4.0 * float(np.finfo(np.float64).eps) * float(np.sqrt(objective.n_features + 1)) * logits * abs(value)


def polish_intercepts(objective: Objective, coef: np.ndarray, *, target: float) -> np.ndarray:
    """Return `coef` after Newton steps on the intercepts alone, until ||g_b||_1 <= target: at most 4 half passes."""
    best, best_norm = coef, np.inf
    for _ in range(4):
        norm, step = intercept_step(objective, coef)
        if norm < best_norm:
            best, best_norm = coef, norm
        if norm <= target or norm > best_norm or not step.any():
            break
        coef = copied(coef)
        coef[:, -1] += beside(coef, step)
    return best


def intercept_step(objective: Objective, coef: np.ndarray) -> tuple[float, np.ndarray]:
    """Return ||g_b||_1 at `coef` and the Newton step of the intercepts alone, at half a pass."""
    residual, hessian = objective.intercept_system(coef)
    return float(np.abs(residual).sum()), damped_solution(hessian, residual)
