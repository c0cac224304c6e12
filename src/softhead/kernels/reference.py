"""The definitions, as plainly as a textbook, at NumPy's widest precision: what to read first, and the tests' oracle.

Every function takes rows of logits, shape (n, C), and works in `numpy.longdouble`. Targets are distributions q, shape
(n, C), whose rows need not sum to 1; `target_distribution` makes them from integer labels.
"""

import numpy as np


def _wide(x: np.ndarray) -> np.ndarray:
    return np.asarray(x).astype(np.longdouble)


def logsumexp(z: np.ndarray) -> np.ndarray:
    """Return log sum_j exp(z_j), shape (n, 1)."""
    z = _wide(z)
    m = z.max(axis=1, keepdims=True)
    return m + np.log(np.exp(z - m).sum(axis=1, keepdims=True))


def softmax(z: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return exp(z_i / T) / sum_j exp(z_j / T), shape (n, C)."""
    z = _wide(z)
    e = np.exp((z - z.max(axis=1, keepdims=True)) / temperature)
    return e / e.sum(axis=1, keepdims=True)


def log_softmax(z: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return z_i / T - log sum_j exp(z_j / T), shape (n, C)."""
    z = _wide(z)
    d = (z - z.max(axis=1, keepdims=True)) / temperature
    return d - np.log(np.exp(d).sum(axis=1, keepdims=True))


def target_distribution(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the one-hot rows of integer labels, shape (n, C)."""
    return np.eye(n_classes, dtype=np.longdouble)[labels]


def smooth(q: np.ndarray, label_smoothing: float) -> np.ndarray:
    """Return (1 - s) q + s / C, shape (n, C)."""
    s = np.longdouble(label_smoothing)
    return (1 - s) * q + s / q.shape[1]


def cross_entropy(
    z: np.ndarray, q: np.ndarray, temperature: float = 1.0, z_loss: float = 0.0, weight: np.ndarray | float = 1.0
) -> np.ndarray:
    """Return -sum_c w_c q_c log p_c + z_loss (log sum_j exp(z_j / T))^2 for every row, shape (n,)."""
    log_p = log_softmax(z, temperature)
    lse = logsumexp(_wide(z) / temperature)[:, 0]
    return -np.where(q == 0, 0, weight * q * log_p).sum(axis=1) + z_loss * lse**2


def cross_entropy_gradient(
    z: np.ndarray, q: np.ndarray, temperature: float = 1.0, z_loss: float = 0.0, weight: np.ndarray | float = 1.0
) -> np.ndarray:
    """Return (p sum_c w_c q_c - w q + 2 z_loss lse p) / T, the gradient of every row's loss, shape (n, C)."""
    p = softmax(z, temperature)
    lse = logsumexp(_wide(z) / temperature)
    wanted = weight * _wide(q)
    return (p * wanted.sum(axis=1, keepdims=True) - wanted + 2 * z_loss * lse * p) / temperature


def linear_cross_entropy(
    x: np.ndarray, linear_weight: np.ndarray, linear_bias: np.ndarray, q: np.ndarray, l2: float = 0.0
) -> tuple[np.longdouble, np.ndarray, np.ndarray, np.ndarray]:
    """Return mean_i CE(W x_i + b, q_i) + l2/2 ||W||^2 and its gradients with respect to x, W and b."""
    x, w = _wide(x), _wide(linear_weight)
    z = x @ w.T + linear_bias
    value = cross_entropy(z, q).mean() + l2 / 2 * (w**2).sum()
    residuals = cross_entropy_gradient(z, q) / len(x)
    return value, residuals @ w, residuals.T @ x + l2 * w, residuals.sum(axis=0)
