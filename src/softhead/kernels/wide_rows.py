"""How rows are handed to the loops of `wide`: as bytes, in chunks, on several threads."""

from collections.abc import Callable

import numpy as np

from softhead.kernels import wide_losses
from softhead.kernels.formats import CODES, FLOAT64
from softhead.kernels.threads import over_rows

_NO_LABELS, _NO_PROBABILITIES = np.empty(0, np.intp), np.empty((0, 0), np.uint8)


def map_rows(loop: Callable[..., None], x: np.ndarray, parameters: tuple[float, ...], out: np.ndarray) -> None:
    """Run a loop from rows to rows, of any floating type."""

    def run(rows: slice) -> None:
        own = out[rows]
        target = _target(own)
        loop(_bytes(x[rows]), _code(x), x.shape[1], *parameters, target.view(np.uint8), _code(out))
        _put_back(target, own)

    over_rows(run, x)


def cross_entropy(
    logits: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    losses: np.ndarray,
) -> None:
    """Write the loss of every row (float64), of any floating type and with every option: of labels or probabilities."""

    def run(rows: slice) -> None:
        options = weight, label_smoothing, temperature, z_loss
        wide_losses.cross_entropy(_bytes(logits[rows]), _code(logits), *_targets(targets[rows]), *options, losses[rows])

    over_rows(run, logits)


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
    """Write likewise, and the gradient of every row's loss / denominator into out."""

    def run(rows: slice) -> None:
        own = out[rows]
        target = _target(own)
        wide_losses.cross_entropy_gradient(
            _bytes(logits[rows]),
            _code(logits),
            *_targets(targets[rows]),
            weight,
            label_smoothing,
            temperature,
            z_loss,
            denominator,
            losses[rows],
            target.view(np.uint8),
            _code(out),
        )
        _put_back(target, own)

    over_rows(run, logits)


def _targets(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return labels, the bytes of probabilities and their code: one of the two arrays is empty."""
    if targets.ndim == 1:
        return targets, _NO_PROBABILITIES, FLOAT64
    return _NO_LABELS, _bytes(targets), _code(targets)


def _bytes(x: np.ndarray) -> np.ndarray:
    """Return rows as bytes, in a copy if they are not contiguous and aligned."""
    x = np.ascontiguousarray(x)
    return (x if x.flags.aligned else x.copy()).view(np.uint8)


def _code(x: np.ndarray) -> int:
    """Return the code of the format of an array."""
    return CODES[x.dtype.name]


def _target(out: np.ndarray) -> np.ndarray:
    """Return out, or where it is not contiguous and aligned an array that is, to be put back."""
    return out if out.flags.carray else np.empty(out.shape, out.dtype)


def _put_back(result: np.ndarray, out: np.ndarray) -> None:
    """Write a result where it belongs, if it is not there."""
    if result is not out:
        out[...] = result
