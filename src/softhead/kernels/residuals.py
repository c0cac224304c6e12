"""Residuals of the linear model: a block of logits becomes softmax(logits) - targets, in place.

The logits of a linear model are rounded products, so these kernels work in the logits' own dtype where `rows` works
wider; only the sums over classes are taken in float64. What confident rows need is kept: their tiny loss is log1p(rest)
and the residual of their true class is -rest / total, with `rest` the sum of all other exponentials, never p - 1.
"""

import numpy as np


def class_residuals(logits: np.ndarray, classes: np.ndarray, weights: np.ndarray, losses: np.ndarray) -> None:
    """Overwrite `logits` (n, C) by ``weights * (softmax(logits) - one_hot(classes))``; `losses` stay unweighted."""
    rows = np.arange(len(logits))
    top = logits.max(axis=1)
    margin = np.subtract(top, logits[rows, classes], dtype=np.float64)  # 0 where the true class is on top
    np.subtract(logits, top[:, None], out=logits)
    np.exp(logits, out=logits)
    true_exp = logits[rows, classes]
    logits[rows, classes] = 0.0
    rest = logits.sum(axis=1, dtype=np.float64)
    total = rest + true_exp
    logits[rows, classes] = -rest
    np.multiply(logits, (weights / total)[:, None], out=logits, casting="same_kind")
    # On top: total = 1 + rest. Below: the exponential of the top class, 1, is inside rest.
    losses[:] = np.log1p(np.where(margin == 0.0, rest, total - 1.0)) + margin


def distribution_residuals(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, losses: np.ndarray) -> None:
    """Overwrite `logits` (n, C) by ``weights * (sum(targets) * softmax(logits) - targets)``; `losses` stay unweighted.

    The loss is ``sum(targets) * lse - targets . logits``: rows of `targets` (n, C) sum to 1, up to their rounding.
    """
    rows = np.arange(len(logits))
    top = logits.argmax(axis=1)
    np.subtract(logits, logits[rows, top][:, None], out=logits)
    losses[:] = -np.einsum("ij,ij->i", targets, logits, dtype=np.float64)
    np.exp(logits, out=logits)
    logits[rows, top] = 0.0
    rest = logits.sum(axis=1, dtype=np.float64)
    mass = targets.sum(axis=1, dtype=np.float64)
    losses += mass * np.log1p(rest)
    scale = mass / (1.0 + rest)
    np.multiply(logits, scale[:, None], out=logits, casting="same_kind")
    # Of the class on top, p - target = (mass - target) - mass (1 - p): what the other classes are given and have.
    others = targets.copy()
    others[rows, top] = 0.0
    np.subtract(logits, targets, out=logits, casting="same_kind")
    logits[rows, top] = others.sum(axis=1, dtype=np.float64) - scale * rest
    np.multiply(logits, weights[:, None], out=logits, casting="same_kind")


def probabilities(logits: np.ndarray) -> None:
    """Overwrite `logits` (n, C) by their softmax."""
    np.subtract(logits, logits.max(axis=1, keepdims=True), out=logits)
    np.exp(logits, out=logits)
    np.divide(logits, logits.sum(axis=1, dtype=np.float64)[:, None], out=logits, casting="same_kind")
