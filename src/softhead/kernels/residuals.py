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
    """Overwrite `logits` (n, C) by ``weights * (softmax(logits) - targets)``, rows of `targets` (n, C) summing to 1."""
    np.subtract(logits, logits.max(axis=1, keepdims=True), out=logits)
    losses[:] = -np.einsum("ij,ij->i", targets, logits, dtype=np.float64)
    np.exp(logits, out=logits)
    total = logits.sum(axis=1, dtype=np.float64)
    losses += np.log(total)
    np.divide(logits, total[:, None], out=logits, casting="same_kind")
    np.subtract(logits, targets, out=logits)
    np.multiply(logits, weights[:, None], out=logits, casting="same_kind")


def probabilities(logits: np.ndarray) -> None:
    """Overwrite `logits` (n, C) by their softmax."""
    np.subtract(logits, logits.max(axis=1, keepdims=True), out=logits)
    np.exp(logits, out=logits)
    np.divide(logits, logits.sum(axis=1, dtype=np.float64)[:, None], out=logits, casting="same_kind")
