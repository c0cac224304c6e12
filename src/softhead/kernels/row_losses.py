"""The kernels of the losses: rows of logits (rows x classes) and targets, already checked.

Losses are written in float64, to be reduced or rounded by the caller; gradients are written into `out`, rounded once.
Targets are labels, one a row and negative where the row is ignored, or probabilities; weights are one a class. Of a row
that is ignored the loss, the gradient and the Hessian are zero.
"""

import numpy as np

from softhead.kernels import compiled, wide_divergences, wide_losses
from softhead.kernels.wide_rows import run, targets_of

_BLOCK_SIZE = 2**16  # elements of a temporary array


def cross_entropy(
    logits: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    losses: np.ndarray,
) -> None:
    """Write the loss of every row (float64)."""
    options = weight, label_smoothing, temperature, z_loss
    if targets.ndim == 1 and compiled.takes_loss(logits, logits, *options, 1.0):
        compiled.cross_entropy(logits, targets, weight, losses)
    else:
        run(wide_losses.cross_entropy, (logits, *targets_of(targets)), options, (losses,))


def cross_entropy_gradient(
    logits: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    denominator: float,
    losses: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write as `cross_entropy` does, and the gradient of every row's loss / denominator into out."""
    options = weight, label_smoothing, temperature, z_loss, denominator
    if targets.ndim == 1 and compiled.takes_loss(logits, out, *options):
        compiled.cross_entropy_gradient(logits, targets, weight, denominator, losses, out)
    else:
        run(wide_losses.cross_entropy_gradient, (logits, *targets_of(targets)), options, (losses, out))


def cross_entropy_hvp(
    logits: np.ndarray,
    targets: np.ndarray,
    tangents: np.ndarray,
    weight: np.ndarray,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    denominator: float,
    out: np.ndarray,
) -> None:
    """Write the Hessian of every row's loss / denominator times its tangent."""
    options = weight, label_smoothing, temperature, z_loss, denominator
    run(wide_losses.cross_entropy_hvp, (logits, *targets_of(targets), tangents), options, (out,))


def nll(
    log_probs: np.ndarray, targets: np.ndarray, weight: np.ndarray, label_smoothing: float, losses: np.ndarray
) -> None:
    """Write the negative weighted sum of every row of log-probabilities (float64)."""
    run(wide_losses.nll, (log_probs, *targets_of(targets)), (weight, label_smoothing), (losses,))


@np.errstate(all="ignore")
def binary_cross_entropy(logits: np.ndarray, targets: np.ndarray, pos_weight: np.ndarray, losses: np.ndarray) -> None:
    """Write weight * y * softplus(-x) + (1 - y) * softplus(x), elementwise for arrays of one shape."""
    for start in range(0, len(logits), _BLOCK_SIZE):
        block = slice(start, start + _BLOCK_SIZE)
        x, y = logits[block].astype(np.float64), targets[block].astype(np.float64)
        positive, negative = pos_weight[block] * y, 1.0 - y
        # softplus(x) = max(x, 0) + log1p(exp(-|x|)): only the side that is wrong pays |x|.
        size, weight = np.abs(x), np.where(x >= 0.0, negative, positive)
        wrong = np.where((weight == 0.0) & np.isinf(size), 0.0, weight * size)
        losses[block] = (positive + negative) * np.log1p(np.exp(-size)) + wrong


def entropy(logits: np.ndarray, out: np.ndarray) -> None:
    """Write -sum of p log p of every row (float64)."""
    run(wide_divergences.entropy, (logits,), (logits.shape[1],), (out,))


def kl_divergence(logits: np.ndarray, probabilities: np.ndarray, temperature: float, losses: np.ndarray) -> None:
    """Write the sum of q (log q - log p) of every row (float64)."""
    run(wide_divergences.kl_divergence, (logits, probabilities), (logits.shape[1], temperature), (losses,))


def distillation(student: np.ndarray, teacher: np.ndarray, temperature: float, losses: np.ndarray) -> None:
    """Write temperature^2 times the divergence of the teacher's from the student's softmax, row by row (float64)."""
    run(wide_divergences.distillation, (student, teacher), (student.shape[1], temperature), (losses,))
