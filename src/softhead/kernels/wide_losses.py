"""Cross-entropy with every option, in any floating type, its gradient and its Hessian: compiled, see `wide`.

A row's targets are `own` of its label and `aims` of every class: what label smoothing spreads, or targets that are
probabilities. With their sum, the mass, and 2 z lse, the pull of the squared log-sum-exp, the loss is

    own (log_sum - z_label) + mass of aims * log_sum - sum of aims * z + z_loss lse**2

and its gradient ((mass + pull) p - aims - own at the label) / T.
"""

import math
from typing import Any

import numpy as np

from softhead.kernels.elementary import borrowing, exp, fma, inlined, row_loop
from softhead.kernels.formats import FLOAT64, load, store
from softhead.kernels.wide import TOP, buffer, exponentiate, probabilities, reciprocal, shift, take_rest, tile, total

# Factors between this and its inverse neither overflow nor lose what matters; others are applied as powers of two.
_ORDINARY = 2.0**200


@inlined
def _targets(n: Any, size: Any, weight: Any, smoothing: Any) -> Any:
    """Return buffers for the aims of a group, with what label smoothing gives, and for a row of terms; and the mass."""
    aims, terms = buffer(size, n, 0.0), buffer(1, n, 0.0)[0]
    spread = smoothing / n
    for k in range(size):
        for j in range(n):
            aims[k, j] = spread * weight[j]
    mass, mass_low = total(aims[0], np.nan, True)
    return aims, terms, mass + mass_low


@inlined
def _load_aims(q: Any, q_code: Any, start: Any, size: Any, weight: Any, smoothing: Any, aims: Any, masses: Any) -> Any:
    """Load targets that are probabilities, and take their sums."""
    n = len(weight)
    load(q, start, size, q_code, n, aims, masses)
    kept, spread = 1.0 - smoothing, smoothing / n
    for k in range(size):
        for j in range(n):
            aims[k, j] = weight[j] * (kept * aims[k, j] + spread)
        mass, mass_low = total(aims[k], np.nan, True)
        masses[k] = mass + mass_low


@borrowing
def _distance(logits: Any, m: Any, aims: Any, code: Any, terms: Any) -> Any:
    """Return the sum of aims * (m - x) of a row, where an aim of zero counts nothing."""
    for j in range(len(terms)):
        aim, d = aims[j], m - logits[j]
        product = aim * d
        terms[j] = 0.0 if aim == 0.0 else product
    hi, lo = total(terms, np.nan, code == FLOAT64)
    return hi + lo


@inlined
def _quarter_lse(k: Any, scale: Any, state: Any) -> Any:
    """Return a quarter of log(sum of exp(x / T)): the whole may be beyond float64; accurate where its parts cancel."""
    inverse, inverse_low, _ = scale
    quarter, power, rest, log_sum = 0.25 * state[0, k], state[1, k], state[4, k] / TOP, state[5, k]
    hi = quarter * inverse
    lo = (fma(quarter, inverse, -hi) + quarter * inverse_low) * power
    hi *= power
    # One Newton step gives what log_sum lacks: log(s) = v + log(s exp(-v)), where the last argument is nearly 1.
    s = 1.0 + rest
    s_low = rest - (s - 1.0) if rest < 1.0 else 1.0 - (s - rest)
    e, e_low = exp(-log_sum, 0.0)
    product = s * e
    lack = ((product - TOP) + (fma(s, e, -product) + s * e_low + s_low * e)) / TOP
    more = 0.25 * log_sum
    both = hi + more
    part = both - hi
    error = ((hi - (both - part)) + (more - part)) + (lo + 0.25 * lack)
    return both + error if both - both == 0.0 else both


@inlined
def _loss(own: Any, margin: Any, mass: Any, distance: Any, log_sum: Any, squared: Any) -> Any:
    """Return the loss of a row from its parts."""
    return _weighted(own, log_sum + margin) + (mass * log_sum + distance) + squared


@inlined
def _scaled(lifted: Any, factor: Any, mantissa: Any, exponent: Any) -> Any:
    """Return 2**-512 lifted * factor * mantissa * 2**exponent: only the result may overflow or underflow."""
    if lifted == 0.0:
        return 0.0
    fraction, power = math.frexp(factor)
    return math.ldexp(lifted * fraction * mantissa, power + exponent - 512)


@borrowing
def _write_gradient(hi: Any, lo: Any, pulled: Any, aims: Any, mantissa: Any, exponent: Any, e: Any) -> Any:
    """Overwrite e by (pulled * p - aims) * mantissa * 2**exponent."""
    if (1.0 / _ORDINARY < abs(pulled) < _ORDINARY or pulled == 0.0) and abs(exponent) < 200:
        scale = math.ldexp(mantissa, exponent)
        numerator = pulled * scale
        factor = numerator / hi
        factor_low = (fma(-factor, hi, numerator) - factor * lo) / hi
        for j in range(len(e)):
            e[j] = fma(-aims[j], scale, fma(e[j], factor, e[j] * factor_low))
        return
    for j in range(len(e)):
        share = (e[j] / (hi / TOP)) * (1.0 - lo / hi)
        e[j] = _scaled(share, pulled, mantissa, exponent) - math.ldexp(aims[j] * mantissa, exponent)


@borrowing
def _first_largest(e: Any) -> Any:
    """Return the position of the first of the largest e."""
    n = len(e)
    first = n
    for j in range(n):
        first = min(first, j if e[j] == TOP else n)
    return first


@row_loop
def cross_entropy(
    x: Any,
    code: Any,
    labels: Any,
    q: Any,
    q_code: Any,
    weight: Any,
    smoothing: Any,
    temperature: Any,
    z_loss: Any,
    losses: Any,
) -> None:
    """Write the loss of every row (float64): of labels, where a negative one has none, or of probabilities q."""
    n = len(weight)
    buffers, scale = tile(n), reciprocal(temperature)
    logits, _, _, state = buffers
    aims, terms, spread = _targets(n, len(logits), weight, smoothing)
    masses = np.full(len(logits), spread)
    distances = np.zeros(len(logits))
    for start in range(0, len(x), len(logits)):
        size = shift(x, start, code, n, scale[2], buffers)
        if len(q):
            _load_aims(q, q_code, start, size, weight, smoothing, aims, masses)
        if len(q) or smoothing:
            for k in range(size):
                distances[k] = _distance(logits[k], state[0, k], aims[k], code, terms) * scale[0] * state[1, k]
        exponentiate(size, code, scale, buffers)
        take_rest(size, code, buffers)
        for k in range(size):
            own, margin, squared = 0.0, 0.0, 0.0
            if len(labels):
                label = labels[start + k]
                if label < 0:
                    losses[start + k] = 0.0
                    continue
                own = (1.0 - smoothing) * weight[label]
                margin = (state[0, k] - logits[k, label]) * scale[0] * state[1, k]
            if z_loss:
                lse = 4.0 * _quarter_lse(k, scale, state)
                squared = z_loss * (lse * lse)
            losses[start + k] = _loss(own, margin, masses[k], distances[k], state[5, k], squared)


@row_loop
def cross_entropy_gradient(
    x: Any,
    code: Any,
    labels: Any,
    q: Any,
    q_code: Any,
    weight: Any,
    smoothing: Any,
    temperature: Any,
    z_loss: Any,
    denominator: Any,
    losses: Any,
    out: Any,
    out_code: Any,
) -> None:
    """Write as `cross_entropy` does, and the gradient of every row's loss / denominator into out."""
    n = len(weight)
    buffers, scale = tile(n), reciprocal(temperature)
    logits, e, _, state = buffers
    aims, terms, spread = _targets(n, len(logits), weight, smoothing)
    masses = np.full(len(logits), spread)
    distances = np.zeros(len(logits))
    mantissa, exponent = _inverse(temperature, denominator)
    for start in range(0, len(x), len(logits)):
        size = shift(x, start, code, n, scale[2], buffers)
        if len(q):
            _load_aims(q, q_code, start, size, weight, smoothing, aims, masses)
        if len(q) or smoothing:
            for k in range(size):
                distances[k] = _distance(logits[k], state[0, k], aims[k], code, terms) * scale[0] * state[1, k]
        exponentiate(size, code, scale, buffers)
        take_rest(size, code, buffers)
        for k in range(size):
            label, own, margin, squared, pull = -1, 0.0, 0.0, 0.0, 0.0
            if len(labels):
                label = labels[start + k]
                if label < 0:
                    losses[start + k] = 0.0
                    for j in range(n):
                        e[k, j] = 0.0
                    store(e[k], out, start + k, out_code, n)
                    continue
                own = (1.0 - smoothing) * weight[label]
                margin = (state[0, k] - logits[k, label]) * scale[0] * state[1, k]
            if z_loss:
                quarter = _quarter_lse(k, scale, state)
                squared = z_loss * ((4.0 * quarter) * (4.0 * quarter))
                pull = 8.0 * z_loss * quarter
            losses[start + k] = _loss(own, margin, masses[k], distances[k], state[5, k], squared)

            hi, lo, rest = state[2, k], state[3, k], state[4, k]
            mass, others = own + masses[k], rest / (1.0 + rest / TOP)
            if len(q) or smoothing:
                # The largest p may be so near 1 that p - target cancels: there, (mass - target) - mass (1 - p).
                top = _first_largest(e[k]) if rest < TOP else -1
                largest = TOP / (hi / TOP)
                _write_gradient(hi, lo, mass + pull, aims[k], mantissa, exponent, e[k])
                if label >= 0:
                    e[k, label] -= math.ldexp(own * mantissa, exponent)
                if top >= 0:
                    surplus = masses[k] - aims[k, top] + (0.0 if label == top else own)
                    e[k, top] = math.ldexp(surplus * mantissa, exponent) + (
                        _scaled(largest, pull, mantissa, exponent) - _scaled(others, mass, mantissa, exponent)
                    )
            else:
                at_label = e[k, label] / (hi / TOP)
                if margin != 0.0:
                    others = ((hi - e[k, label]) + lo) / (hi / TOP)
                _write_gradient(hi, lo, mass + pull, aims[k], mantissa, exponent, e[k])
                e[k, label] = _scaled(at_label, pull, mantissa, exponent) - _scaled(others, own, mantissa, exponent)
            store(e[k], out, start + k, out_code, n)


@row_loop
def cross_entropy_hvp(
    x: Any,
    code: Any,
    labels: Any,
    q: Any,
    q_code: Any,
    tangents: Any,
    tangent_code: Any,
    weight: Any,
    smoothing: Any,
    temperature: Any,
    z_loss: Any,
    denominator: Any,
    out: Any,
    out_code: Any,
) -> None:
    """Write ((mass + pull) p (t - mean of t) + 2 z_loss (mean of t) p) / T**2 / denominator for every row's tangent t.

    It is the Hessian of the row's loss / denominator times t; the mean is that with the weights p.
    """
    n = len(weight)
    buffers, scale = tile(n), reciprocal(temperature)
    logits, e, _, state = buffers
    aims, terms, spread = _targets(n, len(logits), weight, smoothing)
    masses = np.full(len(logits), spread)
    moves, unused = buffer(len(logits), n, 0.0), np.empty(len(logits))
    mantissa, exponent = _inverse(temperature, denominator)
    inverse, more = _inverse(temperature, 1.0)
    mantissa, exponent = mantissa * inverse, exponent + more
    for start in range(0, len(x), len(logits)):
        size = shift(x, start, code, n, scale[2], buffers)
        load(tangents, start, size, tangent_code, n, moves, unused)
        if len(q):
            _load_aims(q, q_code, start, size, weight, smoothing, aims, masses)
        exponentiate(size, code, scale, buffers)
        if z_loss:
            take_rest(size, code, buffers)
        for k in range(size):
            mass, pull, ignored = masses[k], 0.0, False
            if len(labels):
                label = labels[start + k]
                ignored = label < 0
                mass += (1.0 - smoothing) * weight[max(label, 0)]
            if z_loss:
                pull = 8.0 * z_loss * _quarter_lse(k, scale, state)
            share, t = e[k], moves[k]
            probabilities(share, state[2, k], state[3, k])
            for j in range(len(terms)):
                terms[j] = share[j] * t[j]
            mean, mean_low = total(terms, np.nan, code == FLOAT64)
            mean += mean_low
            steepness, lift = mass + pull, 2.0 * z_loss * mean
            for j in range(len(share)):
                share[j] = steepness * (share[j] * (t[j] - mean)) + lift * share[j]
            if abs(exponent) < 1000:
                factor = math.ldexp(mantissa, exponent)
                for j in range(len(share)):
                    share[j] = 0.0 if ignored else share[j] * factor
            else:
                for j in range(len(share)):
                    share[j] = 0.0 if ignored else math.ldexp(share[j] * mantissa, exponent)
            store(share, out, start + k, out_code, n)


@row_loop
def nll(log_probs: Any, code: Any, labels: Any, q: Any, q_code: Any, weight: Any, smoothing: Any, losses: Any) -> None:
    """Write -sum of targets * log p of every row (float64), given log p; a negative label has loss zero."""
    n = len(weight)
    rows, maxima = buffer(1, n, 0.0), np.empty(1)
    log_p = rows[0]
    aims, terms, _ = _targets(n, 1, weight, smoothing)
    for i in range(len(log_probs)):
        load(log_probs, i, 1, code, n, rows, maxima)
        loss = 0.0
        if len(labels):
            label = labels[i]
            if label < 0:
                losses[i] = 0.0
                continue
            loss = _weighted((1.0 - smoothing) * weight[label], -log_p[label])
        if len(q) or smoothing:
            if len(q):
                _load_aims(q, q_code, i, 1, weight, smoothing, aims, maxima)
            for j in range(len(terms)):
                terms[j] = _weighted(aims[0, j], -log_p[j])
            hi, lo = total(terms, np.nan, True)
            loss += hi + lo
        losses[i] = loss


@inlined
def _weighted(weight: Any, loss: Any) -> Any:
    """Return weight * loss; an infinite loss without weight is nothing."""
    product = weight * loss
    return 0.0 if (weight == 0.0) & (abs(loss) == np.inf) else product


@inlined
def _inverse(first: Any, second: Any) -> Any:
    """Return 1 / (first * second) as a number near 1 and a power of two."""
    a, power = math.frexp(first)
    b, more = math.frexp(second)
    return 1.0 / a / b, -power - more
