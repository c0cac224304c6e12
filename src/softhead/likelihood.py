"""Negative log-likelihoods: of log-probabilities, and of binary logits."""

import numpy as np
from numpy.typing import ArrayLike

from softhead import _checks
from softhead._dispatch import for_any_array
from softhead.kernels import primitives
from softhead.kernels import row_losses as kernels
from softhead.losses import answer, loss_denominator, loss_rows, reduce_losses


@for_any_array()
def nll_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    axis: int = -1,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> np.ndarray:
    r"""Return the negative log-likelihood of targets under log-probabilities.

    .. math:: \ell = -\sum_c w_c q_c \log p_c,

    -w_y log p_y for an integer target y: `cross_entropy` of logits is this loss of their `log_softmax`. It is also the
    loss of probabilities p, given as log p.

    Parameters
    ----------
    log_probs : array_like of shape (..., C, ...)
        Logarithms of probabilities, taken as they are, of any dtype that `cross_entropy` takes.
    targets, axis, weight, ignore_index, label_smoothing, reduction
        As in `cross_entropy`.

    Returns
    -------
    ndarray
        Of the dtype of `log_probs`: a scalar, or with "none" the losses of the shape of `log_probs` without the axis.

    Raises
    ------
    TypeError, ValueError, IndexError, numpy.exceptions.AxisError
        As `cross_entropy` raises them.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, equation (4.108).

    Examples
    --------
    >>> import numpy as np, softhead
    >>> softhead.nll_loss(np.log([0.05, 0.15, 0.4, 0.3, 0.1]), 3).round(4)
    np.float64(1.204)
    """
    rows = loss_rows(
        log_probs, targets, axis, weight, ignore_index, label_smoothing, 1.0, 0.0, reduction, name="log_probs"
    )
    losses = np.zeros(len(rows.logits))
    kernels.nll(rows.logits, rows.targets, rows.options.weight, rows.options.label_smoothing, losses)
    return answer(losses, loss_denominator(rows.targets, rows.options), reduction, rows.array, rows.axis)


@for_any_array()
def binary_cross_entropy_with_logits(
    logits: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    pos_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> np.ndarray:
    r"""Return the binary cross-entropy of every logit on its own.

    With :math:`\sigma(x) = 1 / (1 + e^{-x})` the probability of a yes,

    .. math:: \ell = -w \, y \log \sigma(x) - (1 - y) \log(1 - \sigma(x)),

    the cross-entropy of the two logits (0, x) with the targets (1 - y, w y).

    Parameters
    ----------
    logits : array_like of any shape
        x: integers or booleans (computed as float64), float16, bfloat16, float32 or float64.
    targets : array_like of the shape of `logits`
        y, the probability of a yes, in [0, 1]: numbers or booleans.
    pos_weight : array_like, broadcast to the shape of `logits`, optional
        w, the weight of a yes: finite and not negative, 1 by default.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides the sum by the number of logits, "none" returns every loss.

    Returns
    -------
    ndarray
        Of the dtype of `logits`: a scalar, or with "none" the losses of the shape of `logits`. The mean over no logit
        is NaN.

    Raises
    ------
    TypeError
        If a dtype is none of the above.
    ValueError
        If shapes do not fit, or a target or a weight lies outside its range.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, equation (4.90).

    Examples
    --------
    >>> import softhead
    >>> softhead.binary_cross_entropy_with_logits([40.0, 0.0], [1, 0], reduction="none")
    array([4.24835426e-18, 6.93147181e-01])
    """
    array = _checks.real_array("logits", logits)
    wanted = _checks.unit_interval("targets", _checks.same_shape("targets", targets, "logits", array.shape))
    positive = _checks.broadcast_weight("pos_weight", pos_weight, array.shape)
    _checks.one_of("reduction", reduction, _checks.REDUCTIONS)
    losses = np.empty(array.size)
    kernels.binary_cross_entropy(array.reshape(-1), wanted.reshape(-1), positive.reshape(-1), losses)
    value = reduce_losses(losses, array.size if reduction == "mean" else 1.0, reduction)
    value = primitives.rounded(value, array.dtype)
    return value.reshape(array.shape)[()] if reduction == "none" else value[()]
