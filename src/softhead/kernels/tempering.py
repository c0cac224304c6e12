"""What the derivatives of the log loss by the inverse temperature are made of: moments of the logits, row by row."""

from typing import Any

import numpy as np

from softhead.kernels.elementary import add, exp_parts, row_loop
from softhead.kernels.threads import over_rows

_REACH = -1064.0  # below it an exponential is zero


def moments(logits: np.ndarray, top: np.ndarray, beta: float, out: np.ndarray) -> None:
    """Write for each row the mean and the variance of d = logits - top under softmax(beta * d).

    Parameters
    ----------
    logits : ndarray of shape (n, C), any floating dtype
        A logit of -inf has the probability 0.
    top : float64 ndarray of shape (n,)
        The maxima of the rows.
    beta : float
        Positive.
    out : float64 ndarray of shape (n, 2)
    """

    def run(rows: slice) -> None:
        block = logits[rows]
        dtype = np.float64 if block.dtype == np.float64 else np.float32
        _moments(np.ascontiguousarray(block, dtype), top[rows], beta, out[rows])

    over_rows(run, logits)


@row_loop
def _moments(logits: Any, top: Any, beta: Any, out: Any) -> None:
    for i in range(len(logits)):
        m = top[i]
        total = first = second = 0.0
        for j in range(logits.shape[1]):
            d = max(np.float64(logits[i, j]) - m, -1e100)  # keeps 0 * d at 0 where the logit is -inf
            scale, s = exp_parts(max(beta * d, _REACH), 0.0)
            e = (scale + scale * s) * 2.0**-512
            total = add(total, e)
            first = add(first, e * d)
            second = add(second, e * d * d)
        out[i, 0] = first / total
        out[i, 1] = max(second / total - (first / total) * (first / total), 0.0)
