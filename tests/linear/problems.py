"""Small problems and an independent optimum: damped Newton with the explicit Hessian."""

import numpy as np
from scipy.special import log_softmax


def random_problem(rng, *, soft=False, intercept=True):
    """Return the arguments of LinearSoftmaxObjective for a random problem of random difficulty."""
    n, d, c = int(rng.integers(5, 80)), int(rng.integers(1, 12)), int(rng.integers(2, 7))
    X = rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-1, 1) + rng.normal() * 3.0
    y = np.concatenate([np.arange(c), rng.integers(0, c, n)])[:n] if n >= c else np.arange(n) % c
    targets = rng.dirichlet(np.full(c, 0.3), size=n) if soft else y
    return {
        "X": X,
        "targets": targets,
        "n_classes": c,
        "sample_weight": rng.exponential(size=n) * (rng.random(n) < 0.9) + 1e-3,
        "l2": 10.0 ** rng.uniform(-5, 0),
        "fit_intercept": intercept,
    }


def definition(problem, coef):
    """F written out: the textbook formula on the whole arrays."""
    X, targets, c = problem["X"], problem["targets"], problem["n_classes"]
    q = np.eye(c)[targets] if targets.ndim == 1 else targets
    a = problem["sample_weight"] / problem["sample_weight"].sum()
    weights = coef[:, : X.shape[1]]
    logits = X @ weights.T + (coef[:, -1] if problem["fit_intercept"] else 0.0)
    return -(a[:, None] * q * log_softmax(logits, axis=1)).sum() + 0.5 * problem["l2"] * (weights**2).sum()


def derivatives(problem, coef):
    """The gradient and the explicit Hessian of F, over coef.ravel()."""
    X, targets, c = problem["X"], problem["targets"], problem["n_classes"]
    q = np.eye(c)[targets] if targets.ndim == 1 else targets
    a = problem["sample_weight"] / problem["sample_weight"].sum()
    design = np.column_stack([X, np.ones(len(X))]) if problem["fit_intercept"] else X
    p = np.exp(log_softmax(design @ coef.T, axis=1))
    penalty = np.full(coef.shape, problem["l2"])
    if problem["fit_intercept"]:
        penalty[:, -1] = 0.0
    gradient = (a[:, None] * (p - q)).T @ design + penalty * coef
    curvature = a[:, None, None] * (np.eye(c) * p[:, :, None] - p[:, :, None] * p[:, None, :])
    hessian = np.einsum("icd,ij,ik->cjdk", curvature, design, design).reshape(coef.size, coef.size)
    return gradient, hessian + np.diag(penalty.ravel())


def newton_optimum(problem):
    """Return (F*, coef*) to rounding."""
    X = problem["X"]
    coef = np.zeros((problem["n_classes"], X.shape[1] + problem["fit_intercept"]))
    value = definition(problem, coef)
    for _ in range(200):
        gradient, hessian = derivatives(problem, coef)
        # With 1s on the diagonal, or columns in small units would count as none.
        scale = 1.0 / np.sqrt(np.maximum(np.diag(hessian), 1e-300))
        scaled = hessian * scale * scale[:, None]
        direction = -scale * np.linalg.lstsq(scaled, scale * gradient.ravel(), rcond=1e-14)[0]
        direction = direction.reshape(coef.shape)
        step = 1.0
        while step > 1e-12 and definition(problem, coef + step * direction) > value + 1e-4 * step * np.vdot(
            gradient, direction
        ):
            step /= 2.0
        if step <= 1e-12:
            break
        coef = coef + step * direction
        value = definition(problem, coef)
        if -np.vdot(gradient, direction) < 1e-18:
            break
    return value, coef
