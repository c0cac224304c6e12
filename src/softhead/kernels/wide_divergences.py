"""Entropy, relative entropy and the loss of distillation, in any floating type: compiled, see `wide`.

Log-probabilities are written as z - log_sum, both never positive, with z = (x - m) / T.
"""

from typing import Any

import numpy as np

from softhead.kernels.elementary import inlined, log, row_loop
from softhead.kernels.formats import BFLOAT16, FLOAT16, FLOAT64, load
from softhead.kernels.wide import buffer, exponentiate, probabilities, reciprocal, shift, take_rest, tile, total


@inlined
def _log_probability(x: Any, m: Any, inverse: Any, power: Any, log_sum: Any) -> Any:
    """Return log p of a logit."""
    return ((x - m) * inverse) * power - log_sum


@row_loop
def entropy(x: Any, code: Any, n: Any, out: Any) -> None:
    """Write -sum of p log p of every row (float64): log_sum - sum of p z."""
    buffers, scale = tile(n), reciprocal(1.0)
    logits, e, _, state = buffers
    terms = buffer(1, n, 0.0)[0]
    for start in range(0, len(x), len(e)):
        size = shift(x, start, code, n, scale[2], buffers)
        exponentiate(size, code, scale, buffers)
        take_rest(size, code, buffers)
        for k in range(size):
            row, share, m, factor = logits[k], e[k], state[0, k], scale[0] * state[1, k]
            for j in range(len(terms)):
                term = share[j] * ((m - row[j]) * factor)
                terms[j] = 0.0 if share[j] == 0.0 else term
            hi, lo = total(terms, np.nan, code == FLOAT64)
            out[start + k] = state[5, k] + (hi + lo) / (state[2, k] + state[3, k])


@row_loop
def kl_divergence(x: Any, code: Any, q: Any, q_code: Any, n: Any, temperature: Any, losses: Any) -> None:
    """Write the sum of q (log q - log p) of every row (float64), where a q of zero counts nothing."""
    buffers, scale = tile(n), reciprocal(temperature)
    logits, e, _, state = buffers
    targets, unused, terms = buffer(len(e), n, 0.0), np.empty(len(e)), buffer(1, n, 0.0)[0]
    rounding = 2.0**-6 if (q_code == FLOAT16) | (q_code == BFLOAT16) else 2.0**-20
    for start in range(0, len(x), len(e)):
        size = shift(x, start, code, n, scale[2], buffers)
        load(q, start, size, q_code, n, targets, unused)
        exponentiate(size, code, scale, buffers)
        take_rest(size, code, buffers)
        for k in range(size):
            row, target, m, power, log_sum = logits[k], targets[k], state[0, k], state[1, k], state[5, k]
            for j in range(len(terms)):
                wanted = target[j]
                term = wanted * (log(wanted) - _log_probability(row[j], m, scale[0], power, log_sum))
                terms[j] = 0.0 if wanted == 0.0 else term
            hi, lo = total(terms, np.nan, True)
            mass, mass_low = total(target, np.nan, True)
            # Of a distribution, whose sum may carry the rounding of its type, the divergence is not negative.
            proper = abs(mass + mass_low - 1.0) < rounding
            losses[start + k] = 0.0 if proper and hi + lo < 0.0 else hi + lo


@row_loop
def distillation(x: Any, code: Any, teacher: Any, teacher_code: Any, n: Any, temperature: Any, losses: Any) -> None:
    """Write temperature**2 times the divergence of the teacher's softmax from that of x, row by row (float64)."""
    buffers, sources, scale = tile(n), tile(n), reciprocal(temperature)
    logits, e, _, state = buffers
    wanted, share, _, origin = sources
    terms = buffer(1, n, 0.0)[0]
    widest = max(code, teacher_code)
    for start in range(0, len(x), len(e)):
        size = shift(x, start, code, n, scale[2], buffers)
        shift(teacher, start, teacher_code, n, scale[2], sources)
        exponentiate(size, widest, scale, buffers)
        exponentiate(size, widest, scale, sources)
        take_rest(size, widest, buffers)
        take_rest(size, widest, sources)
        for k in range(size):
            q, goal, row = share[k], wanted[k], logits[k]
            probabilities(q, origin[2, k], origin[3, k])
            for j in range(len(terms)):
                log_q = _log_probability(goal[j], origin[0, k], scale[0], origin[1, k], origin[5, k])
                log_p = _log_probability(row[j], state[0, k], scale[0], state[1, k], state[5, k])
                term = q[j] * (log_q - log_p)
                terms[j] = 0.0 if q[j] == 0.0 else term
            hi, lo = total(terms, np.nan, True)
            divergence = hi + lo
            losses[start + k] = 0.0 if divergence < 0.0 else divergence * temperature * temperature
