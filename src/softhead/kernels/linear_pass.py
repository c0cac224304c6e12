"""Passes over the rows of a linear softmax model, compiled: each row is read once for all that is made of it.

Rows are taken in tiles that stay in cache from their logits to their part of the gradient. Products are taken in the
dtype of `weights`, sums over tiles in float64. The logits are rounded products, so that their exponentials are taken in
their own dtype, to a few units in the last place. What confident rows need is kept: their tiny loss is log1p(rest) and
the residual of their true class is -rest / total, with `rest` the sum of all other exponentials, never p - 1.

Arrays, with `width` the number of classes padded to whole vectors and a multiple of STEP, and d that of features:

- x: rows (n, d), of which those from start to stop are taken; shares (n,): their weights a_i, float64;
- weights (d, width), zero beyond the classes; intercepts (width,), -inf beyond the classes;
- gradient (d padded to a multiple of STEP, width) and sums (width,): float64, and added to;
- tile, z: space for the rows and the logits of a tile, in the dtype of `weights`; their length is the tile's.
"""

import math
from typing import Any

import numpy as np

from softhead.kernels.elementary import inlined, log1p, row_loop
from softhead.kernels.multiply import STEP, add_product, add_square
from softhead.kernels.transpose import columns_to_rows
from softhead.kernels.vectors import exponentiate, maximum, scale

_LEAST_SHARE = 1e-100  # of a row whose curvature counts: squares of less underflow
_DEPTH = 1024  # features of a partial sum of logits: the weights of a block of classes stay in the second-level cache


@inlined
def _logits(x: Any, at: Any, stride: Any, d: Any, size: Any, weights: Any, intercepts: Any, z: Any) -> Any:
    """Write the logits of `size` rows, from a flat position on."""
    for i in range(size):
        for c in range(z.shape[1]):
            z[i, c] = intercepts[c]
    for first in range(0, d, _DEPTH):
        add_product(x, at + first, stride, 1, min(d - first, _DEPTH), weights[first:], z, size)


@inlined
def _load(x: Any, first: Any, size: Any, tile: Any) -> Any:
    """Copy rows into the tile."""
    for i in range(size):
        for j in range(x.shape[1]):
            tile[i, j] = x[first + i, j]


@inlined
def _class_residuals(
    z: Any, first: Any, size: Any, classes: Any, shares: Any, notes: Any, sums: Any, spreads: Any
) -> Any:
    """Turn logits into shares * (p - one_hot), add these to `sums`, and return the sum of shares * losses.

    The rows' 1 - sum_c p_c^2 go to `spreads`.
    """
    kind, width = z.dtype.type, z.shape[1]
    tops, margins, rests = notes[0], notes[1], notes[2]
    loss = 0.0
    # By groups, phase by phase: a vector loaded right after a number inside it was stored waits for that store.
    for group in range(0, size, STEP):
        end = min(group + STEP, size)
        for i in range(group, end):
            m = maximum(z, i * width, width)
            y = classes[first + i]
            margins[i] = np.float64(m) - np.float64(z[i, y])  # 0 where the true class is on top
            tops[i] = m
            z[i, y] = -np.inf
        for i in range(group, end):
            rests[i] = exponentiate(z, i * width, width, kind(tops[i]))
        for i in range(group, end):
            rest, margin, share = rests[i], margins[i], shares[first + i]
            total = rest + (1.0 if margin == 0.0 else math.exp(-margin))
            z[i, classes[first + i]] = kind(-rest)
            tops[i], spreads[first + i] = share / total, rest / total
            # On top: total = 1 + rest. Below: the exponential of the top class, 1, is inside rest.
            rests[i] = rest if margin == 0.0 else total - 1.0
            loss += share * margin
        for i in range(group, end):
            squares = scale(z, i * width, width, kind(tops[i]), sums)
            share, others = shares[first + i], spreads[first + i]
            # 1 - sum_c p_c^2, from the squares of p_c and, of the true class, of 1 - p.
            spreads[first + i] = 2.0 * others - squares / share**2 if share > _LEAST_SHARE else 0.0
    for i in range(size):  # apart from the rows: log1p, too, is vectorised
        rests[i] = log1p(rests[i])
    for i in range(size):
        loss += shares[first + i] * rests[i]
    return loss


@inlined
def _distribution_residuals(z: Any, first: Any, size: Any, targets: Any, shares: Any, sums: Any, spreads: Any) -> Any:
    """Turn logits into shares * (sum(q) p - q), with all else as `_class_residuals` has it."""
    kind, width = z.dtype.type, z.shape[1]
    loss = 0.0
    for i in range(size):
        at, q, share = i * width, targets[first + i], shares[first + i]
        m = maximum(z, at, width)
        top, inner, mass = 0, 0.0, 0.0
        for c in range(len(q) - 1, -1, -1):
            top = c if z[i, c] == m else top
            inner += np.float64(q[c]) * (np.float64(z[i, c]) - np.float64(m)) if q[c] > 0.0 else 0.0
            mass += q[c]
        z[i, top] = -np.inf
        rest = exponentiate(z, at, width, m)
        factor = mass / (1.0 + rest)
        others, squares = 0.0, 1.0
        for c in range(len(q)):
            others += 0.0 if c == top else q[c]
            squares += z[i, c] * z[i, c]
            z[i, c] = kind(factor * z[i, c] - q[c])
        # Of the class on top, mass p - q = (mass - q) - mass (1 - p): what the other classes are given and have.
        z[i, top] = kind(others - factor * rest)
        scale(z, at, width, kind(share), sums)
        spreads[first + i] = 1.0 - squares / (1.0 + rest) ** 2
        loss += share * (mass * math.log1p(rest) - inner)
    return loss


@inlined
def residuals(z: Any, first: Any, size: Any, targets: Any, shares: Any, notes: Any, sums: Any, spreads: Any) -> Any:
    """Turn logits into weighted residuals, for classes or distributions."""
    if targets.ndim == 1:
        return _class_residuals(z, first, size, targets, shares, notes, sums, spreads)
    return _distribution_residuals(z, first, size, targets, shares, sums, spreads)


@row_loop
def loss_pass(
    x: Any,
    start: Any,
    stop: Any,
    in_place: Any,
    weights: Any,
    intercepts: Any,
    targets: Any,
    shares: Any,
    spreads: Any,
    gradient: Any,
    sums: Any,
    tile: Any,
    z: Any,
    loss: Any,
) -> Any:
    """Return `loss` and sum_i a_i CE_i over the rows, and add its gradient; targets are classes or distributions.

    1 - sum_c p_ic^2 of every row goes to `spreads` (n,).
    Contiguous rows may be used where they lie, `in_place`.
    """
    d, stride = x.shape[1], tile.shape[1]
    notes = np.empty((3, len(tile)))
    for first in range(start, stop, len(tile)):
        size = min(len(tile), stop - first)
        # Products read whole steps of rows and features: beyond the last row there is nothing to be read.
        if in_place and first + size + STEP < len(x):
            at = first * d
            _logits(x, at, d, d, size, weights, intercepts, z)
            loss += residuals(z, first, size, targets, shares, notes, sums, spreads)
            add_product(x, at, 1, d, size, z, gradient, d)
        else:
            _load(x, first, size, tile)
            _logits(tile, 0, stride, d, size, weights, intercepts, z)
            loss += residuals(z, first, size, targets, shares, notes, sums, spreads)
            add_product(tile, 0, 1, stride, size, z, gradient, d)
    return loss


@row_loop
def column_loss_pass(
    addresses: Any,
    begins: Any,
    start: Any,
    stop: Any,
    rows: Any,
    weights: Any,
    intercepts: Any,
    targets: Any,
    shares: Any,
    spreads: Any,
    gradient: Any,
    sums: Any,
    tile: Any,
    z: Any,
    loss: Any,
) -> Any:
    """Return what `loss_pass` does, of rows that lie in memory as `columns_to_rows` has them.

    They become rows in `rows` (some tiles and STEP, d), where they are still in cache for the products.
    """
    size = len(rows) - STEP
    for first in range(start, stop, size):
        last = min(first + size, stop)
        columns_to_rows(addresses, begins, first, last, rows)
        loss = loss_pass(
            rows,
            0,
            last - first,
            True,
            weights,
            intercepts,
            targets[first:last],
            shares[first:last],
            spreads[first:last],
            gradient,
            sums,
            tile,
            z,
            loss,
        )
    return loss


@row_loop
def class_moment_pass(
    x: Any, start: Any, stop: Any, classes: Any, shares: Any, moments: Any, sums: Any, sizes: Any
) -> Any:
    """Add X^T A Q of integer classes to `moments` (n_classes, d), and the rest as `moment_pass`."""
    for i in range(start, stop):
        y, share = classes[i], shares[i]
        sums[y] += share
        for j in range(x.shape[1]):
            part = share * np.float64(x[i, j])
            moments[y, j] += part
            sizes[j] += abs(part)


@row_loop
def moment_pass(
    x: Any, start: Any, stop: Any, targets: Any, shares: Any, moments: Any, sums: Any, sizes: Any, tile: Any, z: Any
) -> Any:
    """Add X^T A Q to `moments`, the sum of a_i q_i to `sums`, and that of a_i abs(x_i) to `sizes`."""
    d, width = x.shape[1], z.shape[1]
    for first in range(start, stop, len(tile)):
        size = min(len(tile), stop - first)
        _load(x, first, size, tile)
        z[:size] = 0.0
        for i in range(size):
            share = shares[first + i]
            z[i, : targets.shape[1]] = targets[first + i]
            scale(z, i * width, width, z.dtype.type(share), sums)
            for j in range(d):
                sizes[j] += share * abs(np.float64(tile[i, j]))
        add_product(tile, 0, 1, tile.shape[1], size, z, moments, d)


@inlined
def probabilities(z: Any, i: Any, factor: Any, nothing: Any) -> Any:
    """Turn a row of logits into its probabilities times a factor."""
    width = z.shape[1]
    total = exponentiate(z, i * width, width, maximum(z, i * width, width))
    scale(z, i * width, width, z.dtype.type(factor / total), nothing)


@row_loop
def intercept_pass(
    x: Any,
    start: Any,
    stop: Any,
    stride: Any,
    weights: Any,
    intercepts: Any,
    shares: Any,
    second: Any,
    sums: Any,
    tile: Any,
    z: Any,
) -> Any:
    """Add the sum of a_i p_i to `sums` and P^T A P over every `stride`-th tile to `second` (width, width)."""
    d, width = x.shape[1], z.shape[1]
    nothing = np.zeros(width)
    for first in range(start, stop, len(tile)):
        size = min(len(tile), stop - first)
        _load(x, first, size, tile)
        _logits(tile, 0, tile.shape[1], d, size, weights, intercepts, z)
        for i in range(size):
            root = math.sqrt(shares[first + i])
            probabilities(z, i, root, nothing)
            for c in range(width):
                sums[c] += root * np.float64(z[i, c])
        if first // len(tile) % stride == 0:
            add_product(z, 0, 1, width, size, z, second, width)


@row_loop
def gram_pass(
    x: Any, start: Any, stop: Any, stride: Any, spreads: Any, shares: Any, factor: Any, gram: Any, tile: Any
) -> Any:
    """Add sum_i a_i w_i x~_i x~_i^T, at least on and above the diagonal, to `gram`, with x~_i = (x_i, 1).

    Over every `stride`-th row; w_i is a factor times what `spreads` holds of the row. `tile` is as wide as `gram`.
    """
    d, kind = x.shape[1], tile.dtype.type
    for first in range(start, stop, len(tile) * stride):
        size = min(len(tile), (stop - first + stride - 1) // stride)
        for i in range(size):
            at = first + i * stride
            root = kind(math.sqrt(factor * max(spreads[at], 0.0) * shares[at]))
            for j in range(d):
                tile[i, j] = root * kind(x[at, j])
            tile[i, d] = root
        add_square(tile, tile.shape[1], size, tile, gram, d + 1)


@row_loop
def coupled_pass(
    x: Any,
    start: Any,
    stop: Any,
    stride: Any,
    weights: Any,
    intercepts: Any,
    shares: Any,
    n_classes: Any,
    total: Any,
    rows: Any,
) -> Any:
    """Add sum_i a_i (p_i (x) x~_i)(p_i (x) x~_i)^T, at least on and above the diagonal, to `total`, x~_i = (x_i, 1).

    Over every `stride`-th row. Class c and feature j lie at c (d + 1) + j; `total` is padded to
    whole steps and vectors. As many `rows` are taken at a time.
    """
    d, width = x.shape[1], len(intercepts)
    tile, z = np.zeros((rows, d + STEP), weights.dtype), np.zeros((rows, width), weights.dtype)
    joint = np.zeros((rows, total.shape[1]), weights.dtype)
    nothing = np.zeros(width)
    for first in range(start, stop, len(tile) * stride):
        size = min(len(tile), (stop - first + stride - 1) // stride)
        for i in range(size):
            for j in range(d):
                tile[i, j] = x[first + i * stride, j]
        _logits(tile, 0, tile.shape[1], d, size, weights, intercepts, z)
        for i in range(size):
            probabilities(z, i, math.sqrt(shares[first + i * stride]), nothing)
            tile[i, d] = 1.0
            for c in range(n_classes):
                factor = z[i, c]
                for j in range(d + 1):
                    joint[i, c * (d + 1) + j] = factor * tile[i, j]
        add_square(joint, joint.shape[1], size, joint, total, n_classes * (d + 1))
