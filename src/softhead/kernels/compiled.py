"""Which rows the compiled loops take, and how they are handed over: contiguous, in chunks, on several threads."""

from collections.abc import Callable
from types import ModuleType

import numpy as np

from softhead.kernels import long_rows, loops, narrow
from softhead.kernels.long_rows import LONG
from softhead.kernels.threads import SMALL, over_rows

_FEW = 24  # classes, up to which rows are computed one a lane
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
# Weights over the denominator: with these, an exponential times its factor leaves the normal numbers only at the end.
_LEAST, _MOST = 2.0**-40, 2.0**40


def takes(x: np.ndarray, out: np.ndarray, temperature: float = 1.0) -> bool:
    """Return whether the compiled loops cover these rows: float32 or float64 throughout, at temperature 1."""
    dtype = x.dtype
    return dtype in (_FLOAT32, _FLOAT64) and out.dtype == dtype and temperature == 1.0


def takes_loss(
    logits: np.ndarray,
    out: np.ndarray,
    weight: np.ndarray,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    denominator: float,
) -> bool:
    """Return whether they cover this loss: no option but weights of ordinary size."""
    if not takes(logits, out, temperature) or label_smoothing != 0.0 or z_loss != 0.0 or not 0.0 < denominator < np.inf:
        return False
    least, most = weight.min(initial=1.0), weight.max(initial=1.0)
    if least == 0.0:
        least = weight[weight > 0.0].min(initial=1.0)
    return bool(least / denominator >= _LEAST and most / denominator <= _MOST)


def softmax(x: np.ndarray, out: np.ndarray) -> None:
    """Write the softmax of every row of x."""
    if x.shape[1] > LONG:
        long_rows.softmax(x, out)
    else:
        _map(loops_for(x).softmax, x, out)


def log_softmax(x: np.ndarray, out: np.ndarray) -> None:
    """Write the logarithm of the softmax of every row of x."""
    if x.shape[1] > LONG:
        long_rows.log_softmax(x, out)
    else:
        _map(loops_for(x).log_softmax, x, out)


def logsumexp(x: np.ndarray, out: np.ndarray) -> None:
    """Write log(sum of exp) of every row of x into out, of shape (rows, 1)."""
    if x.shape[1] > LONG:
        long_rows.logsumexp(x, out)
    else:
        _map(loops_for(x).logsumexp, x, out)


def cross_entropy(logits: np.ndarray, labels: np.ndarray, weight: np.ndarray, losses: np.ndarray) -> None:
    """Write the loss of every row (float64) for integer labels; a negative label has loss zero."""
    if logits.shape[1] > LONG:
        long_rows.cross_entropy(logits, labels, weight, losses)
        return
    loop = loops_for(logits).cross_entropy

    def run(rows: slice) -> None:
        loop(np.ascontiguousarray(logits[rows]), labels[rows], weight, losses[rows])

    over_rows(run, logits)


def cross_entropy_gradient(
    logits: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    denominator: float,
    losses: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write as `cross_entropy` does, and the gradient of every row's loss / denominator into out."""
    if logits.shape[1] > LONG:
        long_rows.cross_entropy_gradient(logits, labels, weight, denominator, losses, out)
        return
    loop = loops_for(logits).cross_entropy_gradient

    def run(rows: slice) -> None:
        target = _contiguous(out[rows])
        block = np.ascontiguousarray(logits[rows])
        loop(block, labels[rows], weight, denominator, losses[rows], target)
        _put_back(target, out[rows])

    over_rows(run, logits)


def loops_for(x: np.ndarray) -> ModuleType:
    """Return the module of the loops for rows of this length."""
    return narrow if x.shape[1] <= _FEW else loops


def _map(loop: Callable[[np.ndarray, np.ndarray], None], x: np.ndarray, out: np.ndarray) -> None:
    """Run a loop from rows to rows."""
    if x.size <= SMALL and x.flags.c_contiguous and out.flags.c_contiguous:
        if x.size:
            loop(x, out)
        return

    def run(rows: slice) -> None:
        target = _contiguous(out[rows])
        loop(np.ascontiguousarray(x[rows]), target)
        _put_back(target, out[rows])

    over_rows(run, x)


def _contiguous(out: np.ndarray) -> np.ndarray:
    """Return out, or where it is not contiguous an array that is, to be put back."""
    return out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)


def _put_back(result: np.ndarray, out: np.ndarray) -> None:
    """Write a result where it belongs, if it is not there."""
    if not out.flags.c_contiguous:
        out[...] = result
