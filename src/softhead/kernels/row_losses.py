"""The kernels of the losses: rows of logits (rows x classes) and targets, already checked; see `tiles`.

Losses are written in float64, to be reduced or rounded by the caller; gradients are written into `out`, rounded once.
Targets are labels, one a row and negative where the row is ignored, or probabilities; weights are one a class.
"""

import math
from typing import NamedTuple

import numpy as np

from softhead.kernels import compiled, primitives, wide_rows
from softhead.kernels.tiles import Tile, exponentiate, row_blocks, store


class _Targets(NamedTuple):
    """A block's targets: row i wants own[i] of class label[i], and spread[c, i] of every class c."""

    label: np.ndarray
    own: np.ndarray
    spread: np.ndarray | None


@np.errstate(all="ignore")
def cross_entropy(
    logits: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    losses: np.ndarray,
) -> None:
    """Write the loss of every row (float64) for integer labels; a negative label has loss zero."""
    if compiled.takes_loss(logits, logits, weight, label_smoothing, temperature, z_loss, 1.0):
        compiled.cross_entropy(logits, labels, weight, losses)
        return
    wide_rows.cross_entropy(logits, labels, weight, label_smoothing, temperature, z_loss, losses)


@np.errstate(all="ignore")
def cross_entropy_gradient(
    logits: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    denominator: float,
    losses: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write as `cross_entropy` does, and the gradient of every row's loss / denominator into out."""
    if compiled.takes_loss(logits, out, weight, label_smoothing, temperature, z_loss, denominator):
        compiled.cross_entropy_gradient(logits, labels, weight, denominator, losses, out)
        return
    wide_rows.cross_entropy_gradient(
        logits, labels, weight, label_smoothing, temperature, z_loss, denominator, losses, out
    )


@np.errstate(all="ignore")
def soft_cross_entropy(
    logits: np.ndarray,
    probabilities: np.ndarray,
    weight: np.ndarray,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    losses: np.ndarray,
) -> None:
    """Write the loss of every row (float64) for targets given as probabilities."""
    wide_rows.cross_entropy(logits, probabilities, weight, label_smoothing, temperature, z_loss, losses)


@np.errstate(all="ignore")
def soft_cross_entropy_gradient(
    logits: np.ndarray,
    probabilities: np.ndarray,
    weight: np.ndarray,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    denominator: float,
    losses: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write as `soft_cross_entropy` does, and the gradient of every row's loss / denominator into out."""
    wide_rows.cross_entropy_gradient(
        logits, probabilities, weight, label_smoothing, temperature, z_loss, denominator, losses, out
    )


@np.errstate(all="ignore")
def cross_entropy_hvp(
    logits: np.ndarray,
    labels: np.ndarray,
    tangents: np.ndarray,
    weight: np.ndarray,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    denominator: float,
    out: np.ndarray,
) -> None:
    """Write the Hessian of every row's loss / denominator times its tangent; a negative label has the Hessian zero."""
    for block in row_blocks(*logits.shape):
        tile = exponentiate(logits[block], temperature)
        mass, _ = _mass(tile, _from_labels(labels[block], weight, label_smoothing))
        product = _hessian_product(tile, mass, tangents[block], temperature, z_loss, denominator)
        product[:, labels[block] < 0] = 0.0
        store(product, out[block])


@np.errstate(all="ignore")
def soft_cross_entropy_hvp(
    logits: np.ndarray,
    probabilities: np.ndarray,
    tangents: np.ndarray,
    weight: np.ndarray,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    denominator: float,
    out: np.ndarray,
) -> None:
    """Write the Hessian of every row's loss / denominator times its tangent."""
    for block in row_blocks(*logits.shape):
        tile = exponentiate(logits[block], temperature)
        mass, _ = _mass(tile, _from_probabilities(probabilities[block], weight, label_smoothing))
        store(_hessian_product(tile, mass, tangents[block], temperature, z_loss, denominator), out[block])


@np.errstate(all="ignore")
def nll(
    log_probs: np.ndarray, labels: np.ndarray, weight: np.ndarray, label_smoothing: float, losses: np.ndarray
) -> None:
    """Write the negative weighted sum of every row for integer labels; a negative label has loss zero."""
    for block in row_blocks(*log_probs.shape):
        targets = _from_labels(labels[block], weight, label_smoothing)
        losses[block] = np.where(labels[block] < 0, 0.0, _negative_log_likelihood(log_probs[block], targets))


@np.errstate(all="ignore")
def soft_nll(
    log_probs: np.ndarray, probabilities: np.ndarray, weight: np.ndarray, label_smoothing: float, losses: np.ndarray
) -> None:
    """Write the negative weighted sum of every row for targets given as probabilities."""
    for block in row_blocks(*log_probs.shape):
        targets = _from_probabilities(probabilities[block], weight, label_smoothing)
        losses[block] = _negative_log_likelihood(log_probs[block], targets)


@np.errstate(all="ignore")
def binary_cross_entropy(logits: np.ndarray, targets: np.ndarray, pos_weight: np.ndarray, losses: np.ndarray) -> None:
    """Write weight * y * softplus(-x) + (1 - y) * softplus(x), elementwise for arrays of one shape."""
    for block in row_blocks(len(logits), 1):
        x, y = logits[block].astype(np.float64), targets[block].astype(np.float64)
        positive, negative = pos_weight[block] * y, 1.0 - y
        # softplus(x) = max(x, 0) + log1p(exp(-|x|)): only the side that is wrong pays |x|.
        size = np.abs(x)
        wrong = _weighted(np.where(x >= 0.0, negative, positive), size)
        losses[block] = (positive + negative) * np.log1p(np.exp(-size)) + wrong


@np.errstate(all="ignore")
def entropy(logits: np.ndarray, out: np.ndarray) -> None:
    """Write -sum of p log p of every row (float64)."""
    for block in row_blocks(*logits.shape):
        tile = exponentiate(logits[block], 1.0)
        log_sum, log_sum_lo = tile.log_sum()
        p = tile.share(tile.e, tile.e_lo)
        spread, spread_lo = tile.total(np.where(p == 0.0, 0.0, p * -tile.d))
        out[block] = log_sum + (np.ldexp(spread + spread_lo, -tile.lift) + log_sum_lo)


@np.errstate(all="ignore")
def kl_divergence(logits: np.ndarray, probabilities: np.ndarray, temperature: float, losses: np.ndarray) -> None:
    """Write the sum of q (log q - log p) of every row (float64)."""
    for block in row_blocks(*logits.shape):
        tile = exponentiate(logits[block], temperature)
        q = probabilities[block].T.astype(np.float64, order="C")
        mass, mass_lo = tile.total(q)
        # Of a distribution, whose sum may carry the rounding of a half type, the divergence is not negative.
        least = np.where(np.abs(mass + mass_lo - 1.0) < 2.0**-6, 0.0, -np.inf)
        losses[block] = np.maximum(_divergence(tile, q, np.log(q)), least)


@np.errstate(all="ignore")
def distillation(student: np.ndarray, teacher: np.ndarray, temperature: float, losses: np.ndarray) -> None:
    """Write temperature^2 times the divergence of the teacher's from the student's softmax, row by row (float64)."""
    for block in row_blocks(*student.shape):
        source = exponentiate(teacher[block], temperature)
        tile = exponentiate(student[block], temperature)
        divergence = _divergence(tile, source.probabilities(), source.log_probabilities())
        losses[block] = np.maximum(divergence, 0.0) * temperature * temperature


def _from_labels(labels: np.ndarray, weight: np.ndarray, label_smoothing: float) -> _Targets:
    """Return targets of (1 - smoothing) w_y at the label and smoothing / C w_c everywhere."""
    label = np.maximum(labels, 0)
    own = (1.0 - label_smoothing) * weight[label]
    spread = (label_smoothing / len(weight)) * weight[:, np.newaxis] if label_smoothing else None
    return _Targets(label, own, spread)


def _from_probabilities(probabilities: np.ndarray, weight: np.ndarray, label_smoothing: float) -> _Targets:
    """Return targets of w_c ((1 - smoothing) q_c + smoothing / C)."""
    spread = probabilities.T.astype(np.float64, order="C")
    if label_smoothing:
        spread = (1.0 - label_smoothing) * spread + label_smoothing / len(weight)
    spread *= weight[:, np.newaxis]
    nothing = np.zeros(spread.shape[1])
    return _Targets(nothing.astype(np.intp), nothing, spread)


def _weighted(weight: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Return weight * loss, where an infinite loss of weight zero counts nothing."""
    return np.where((weight == 0.0) & np.isinf(loss), 0.0, weight * loss)


def _loss(tile: Tile, targets: _Targets, temperature: float, z_loss: float) -> np.ndarray:
    """Return sum of target * -log p + z_loss lse^2 of every row."""
    log_sum, log_sum_lo = tile.log_sum()
    at_label = targets.label, tile.rows
    loss = _weighted(targets.own, (log_sum - tile.d[at_label]) + (log_sum_lo - tile.d_lo[at_label]))
    if targets.spread is not None:
        terms, terms_lo = tile.total(_weighted(targets.spread, -tile.log_probabilities()))
        loss += terms + terms_lo
    if z_loss:
        loss += z_loss * np.square(tile.log_sum_exp(temperature))
    return loss


def _negative_log_likelihood(log_probs: np.ndarray, targets: _Targets) -> np.ndarray:
    """Return -sum of target * log p of every row."""
    log_p = log_probs.T.astype(np.float64, order="C")
    loss = _weighted(targets.own, -log_p[targets.label, np.arange(log_p.shape[1])])
    if targets.spread is not None:
        weighted = _weighted(targets.spread, -log_p)
        terms, terms_lo = primitives.total(weighted, np.zeros_like(weighted))
        loss += terms + terms_lo
    return loss


def _divergence(tile: Tile, q: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Return the sum of q (log q - log p) of every row, where a q of zero counts nothing."""
    terms, terms_lo = tile.total(np.where(q == 0.0, 0.0, q * (log_q - tile.log_probabilities())))
    return terms + terms_lo


def _mass(tile: Tile, targets: _Targets) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of the targets of every row as a pair."""
    if targets.spread is None:
        return targets.own, np.zeros_like(targets.own)
    spread, spread_lo = tile.total(targets.spread)
    mass, error = primitives.two_sum(targets.own, spread)
    return mass, error + spread_lo


def _pull(tile: Tile, temperature: float, z_loss: float) -> np.ndarray:
    """Return 2 z_loss lse of every row: what the squared log-sum-exp adds to the mass."""
    # A quarter of the log-sum-exp: itself it may be just beyond float64, where the gradient is not.
    return 8.0 * z_loss * tile.log_sum_exp(temperature, 4.0) if z_loss else np.zeros_like(tile.rest)


def _gradient(tile: Tile, targets: _Targets, temperature: float, z_loss: float, denominator: float) -> np.ndarray:
    """Return (p * (mass of the targets + 2 z_loss lse) - target) / temperature / denominator, classes x rows."""
    at_top = tile.top, tile.rows
    mass, mass_lo = _mass(tile, targets)
    wanted_at_top = np.where(targets.label == tile.top, targets.own, 0.0)
    if targets.spread is not None:
        wanted_at_top = wanted_at_top + np.broadcast_to(targets.spread, tile.e.shape)[at_top]
    pull = np.ldexp(_pull(tile, temperature, z_loss), -tile.lift)  # lowered: times a lifted p it is of true size

    mantissa, exponent = math.frexp(temperature)

    def lowered(term: np.ndarray) -> np.ndarray:
        """Return a lifted term / temperature / denominator at its true size: here alone it may underflow."""
        return np.ldexp(term / mantissa / denominator, -exponent - tile.lift)

    p = tile.share(tile.e, tile.e_lo)
    gradient = lowered(mass * p)
    if z_loss:
        gradient += np.where(p == 0.0, 0.0, pull * p) / temperature / denominator
    if targets.spread is not None:
        gradient -= targets.spread / temperature / denominator
    gradient[targets.label, tile.rows] -= targets.own / temperature / denominator
    # The largest p may be so close to 1 that p - target cancels: there, take (mass - target) - mass (1 - p).
    surplus = (mass - wanted_at_top + mass_lo) / temperature / denominator
    others = tile.share(tile.lifted_rest, tile.lifted_rest_lo)
    p_top = p[at_top]
    at_one = surplus + (pull * p_top / temperature / denominator - lowered(mass * others))
    gradient[at_top] = np.where(p_top > 0.5 * 2.0**tile.lift, at_one, gradient[at_top])
    return gradient


def _hessian_product(
    tile: Tile, mass: np.ndarray, tangents: np.ndarray, temperature: float, z_loss: float, denominator: float
) -> np.ndarray:
    """Return ((mass + 2 z lse) (diag(p) - p p^T) + 2 z p p^T) t / temperature^2 / denominator, classes x rows."""
    p = tile.probabilities()
    t = tangents.T.astype(np.float64, order="C")
    mean, mean_lo = tile.total(p * t)
    mean += mean_lo
    product = (mass + _pull(tile, temperature, z_loss)) * (p * (t - mean)) + 2.0 * z_loss * mean * p
    return product / temperature / temperature / denominator
