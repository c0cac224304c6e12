"""softmax, its logarithm and its normaliser, at any temperature and in any floating type: compiled, see `wide`."""

from typing import Any

from softhead.kernels.elementary import row_loop
from softhead.kernels.formats import store
from softhead.kernels.wide import exponentiate, probabilities, reciprocal, shift, take_rest, tile


@row_loop
def softmax(x: Any, code: Any, n: Any, temperature: Any, out: Any, out_code: Any) -> None:
    """Write the softmax of every row of x / temperature; x and out are the bytes of rows of n numbers."""
    buffers, scale = tile(n), reciprocal(temperature)
    _, e, _, state = buffers
    for start in range(0, len(x), len(e)):
        size = shift(x, start, code, n, scale[2], buffers)
        exponentiate(size, code, scale, buffers)
        for k in range(size):
            probabilities(e[k], state[2, k], state[3, k])
            store(e[k], out, start + k, out_code, n)


@row_loop
def log_softmax(x: Any, code: Any, n: Any, temperature: Any, out: Any, out_code: Any) -> None:
    """Write the logarithm of the softmax, likewise."""
    buffers, scale = tile(n), reciprocal(temperature)
    logits, _, _, state = buffers
    for start in range(0, len(x), len(logits)):
        size = shift(x, start, code, n, scale[2], buffers)
        exponentiate(size, code, scale, buffers)
        take_rest(size, code, buffers)
        for k in range(size):
            m, power, log_sum, row = state[0, k], state[1, k], state[5, k], logits[k]
            for j in range(n):
                row[j] = ((row[j] - m) * scale[0]) * power - log_sum
            store(row, out, start + k, out_code, n)


@row_loop
def logsumexp(x: Any, code: Any, n: Any, out: Any, out_code: Any) -> None:
    """Write log(sum of exp) of every row into the bytes of a column of numbers."""
    buffers, scale = tile(n), reciprocal(1.0)
    state = buffers[3]
    for start in range(0, len(x), state.shape[1]):
        size = shift(x, start, code, n, scale[2], buffers)
        exponentiate(size, code, scale, buffers)
        take_rest(size, code, buffers)
        for k in range(size):
            m = state[6, k]
            state[6, k] = m + state[5, k] if m - m == 0.0 else m
        for k in range(size):
            store(state[6, k : k + 1], out, start + k, out_code, 1)
