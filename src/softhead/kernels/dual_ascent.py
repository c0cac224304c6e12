"""One sweep of dual coordinate ascent over sparse rows, compiled: each row's distribution is set to its best value.

The dual of the penalised softmax model has a distribution p_i for every row, and W = sum_i s_i (q_i - p_i) x_i^T with
s_i = a_i / lambda. Given all others, with z_i = W x_i + b at the present p_i and c = s_i ||x_i||^2, the best one solves

    log p + c p = z_i + c p_i + constant,    sum(p) = 1,

by a few steps of Newton's method on log p, whose matrix is diagonal but for one row and column.
"""

import math
from typing import Any

import numpy as np

from softhead.kernels.elementary import add, inlined, larger, row_loop
from softhead.kernels.sparse import gather, spread
from softhead.kernels.vectors import exponentiate, maximum

LEAST = -60.0  # of log p: what is less is not told from 0
_STEPS = 4  # of Newton's method at most: the next sweep goes on


@inlined
def _normalised(v: Any, p: Any) -> Any:
    """Write the softmax of v into p and its logarithm into v."""
    width = len(v)
    for c in range(width):
        p[c] = v[c]
    m = maximum(p, 0, width)
    total = exponentiate(p, 0, width, m)
    shift, factor = p.dtype.type(m + math.log(total)), p.dtype.type(1.0 / total)
    least = p.dtype.type(LEAST)
    for c in range(width):
        v[c] = max(v[c] - shift, least)
        p[c] *= factor


@inlined
def _spread_of(r: Any, p: Any) -> Any:
    """Return half of the variance of r under p: about the Kullback-Leibler divergence that r is the logarithm of."""
    zero = p.dtype.type(0.0)
    mean, square = zero, zero
    for c in range(len(p)):
        mean = add(mean, p[c] * r[c])
    for c in range(len(p)):
        square = add(square, p[c] * (r[c] - mean) * (r[c] - mean))
    return 0.5 * square


@inlined
def _step(z: Any, before: Any, curvature: Any, v: Any, p: Any, r: Any) -> Any:
    """Take a damped Newton step in v = log p; return how much probability it moves at most."""
    kind = p.dtype.type
    one, two, zero, least = kind(1.0), kind(2.0), kind(0.0), kind(LEAST)
    top, bottom = zero, zero
    for c in range(len(p)):
        r[c] = z[c] + curvature * (before[c] - p[c]) - v[c]
        d = p[c] / (one + curvature * p[c])
        top, bottom = add(top, d * r[c]), add(bottom, d)
    shift = top / bottom
    free = -kind(math.log(curvature)) if curvature > zero else kind(np.inf)
    moved = zero
    for c in range(len(p)):
        dv = (r[c] - shift) / (one + curvature * p[c])
        # Upwards log p + curvature * p bends: as far as a step in p itself would go, or to where it begins to bend.
        up = max(v[c] + two * dv / (two + dv), min(v[c] + dv, free))
        new = max(v[c] + dv if dv < zero else up, least)
        moved = larger(moved, abs(new - v[c]) * p[c])
        v[c] = new
    _normalised(v, p)
    return moved


@row_loop
def sweep(
    indptr: Any,
    indices: Any,
    values: Any,
    order: Any,
    targets: Any,
    scales: Any,
    curvatures: Any,
    extra: Any,
    first: Any,
    log_p: Any,
    weights: Any,
    intercepts: Any,
) -> Any:
    """Set the distributions of the rows in `order` one after the other; return sums that tell how it goes.

    Parameters
    ----------
    indptr, indices, values : CSR
    targets : classes or distributions
    scales, curvatures : of each row, s_i and s_i (||x_i||^2 + extra)
    extra : the square of the entry that every row has for the intercepts
    first : whether a row's p_i is still its target, and `log_p` not yet set
    log_p : (rows, width); in and out
    weights, intercepts : (features, width) and (width,); in and out. The intercepts are very low beyond the classes.

    Returns
    -------
    loss, gap : float
        Sums of s_i times each row's cross-entropy with p_i, and times about the divergence of p_i from softmax(z_i):
        the duality gap over lambda, where the sum of s_i (q_i - p_i) is 0.
    """
    kind, width = weights.dtype.type, weights.shape[1]
    n_classes = width if targets.ndim == 1 else targets.shape[1]
    z, v, p = np.empty(width, weights.dtype), np.empty(width, weights.dtype), np.empty(width, weights.dtype)
    before, r = np.zeros(width, weights.dtype), np.empty(width, weights.dtype)
    loss, gap = 0.0, 0.0
    for i in order:
        for c in range(width):
            z[c] = intercepts[c]
        gather(z, 0, weights, indices, values, indptr[i], indptr[i + 1], 0, width)
        scale, curvature = kind(scales[i]), kind(curvatures[i])
        for c in range(width):
            v[c] = z[c] if first else log_p[i, c]
        _normalised(v, p)
        for c in range(width):
            before[c] = kind(0.0) if first else p[c]
        if first:
            if targets.ndim == 1:
                before[targets[i]] = kind(1.0)
            else:
                for c in range(n_classes):
                    before[c] = targets[i, c]
        for k in range(_STEPS):
            moved = _step(z, before, curvature, v, p, r)
            if k == 0:
                gap += scales[i] * _spread_of(r, before)
            if moved < kind(0.02):
                break
        for c in range(width):
            log_p[i, c] = v[c]
            r[c] = scale * (before[c] - p[c])
        if targets.ndim == 1:  # of the true class as the sum of the others: p - 1 would be lost in rounding
            y = targets[i]
            loss -= scales[i] * np.float64(v[y])
            r[y] = kind(0.0)
            rest = kind(0.0)
            for c in range(width):
                rest = add(rest, r[c])
            r[y] = -rest
        else:
            for c in range(n_classes):
                loss -= scales[i] * np.float64(targets[i, c]) * np.float64(v[c])
        spread(r, 0, weights, indices, values, indptr[i], indptr[i + 1], 0, width)
        for c in range(width):
            intercepts[c] += kind(extra) * r[c]
    return loss, gap
