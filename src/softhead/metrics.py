"""How good probabilities are: calibration, Brier score, risk against coverage, and how far a row is out of scope.

Every figure is an `Estimate` with a confidence interval: Wilson's for shares, the normal one for means of independent
rows, and a bootstrap over rows for the rest, always of the same random numbers. Of one row, which does not tell how far
rows differ, the interval of all but shares is the whole range of the figure. Rows of weight 0 do not count.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from softhead import _checks as check
from softhead._intervals import Estimate, mean
from softhead._reliability import (
    Bins,
    ReliabilityTable,
    RiskCoverage,
    brier_rows,
    edges,
    ks_error,
    reliability,
    selective,
    top_label_error,
)
from softhead.functional import logsumexp, softmax

_ENTRIES_AT_ONCE = 1 << 22  # probabilities that are binned at one time


def calibration_error(
    probabilities: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    of: Literal["top_label", "every_class"] = "top_label",
    n_bins: int = 15,
    strategy: Literal["uniform", "quantile"] = "uniform",
    norm: Literal["l1", "l2", "max"] = "l1",
    sample_weight: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Estimate:
    r"""Return how far probabilities are from frequencies, over bins.

    With :math:`m_b` the share of the rows' weight in bin b, and :math:`d_b` the difference there between the share of
    true rows and the mean probability,

    .. math:: \sum_b m_b \lvert d_b \rvert, \qquad \sqrt{\textstyle\sum_b m_b d_b^2}, \qquad \max_b \lvert d_b \rvert

    for the norms "l1" (the expected calibration error), "l2" and "max".

    Parameters
    ----------
    probabilities : array_like of shape (n_rows, n_classes)
    targets : array_like of int of shape (n_rows,)
        The true classes, from 0 on.
    of : {"top_label", "every_class"}, default="top_label"
        What is compared with frequencies: the probability of the predicted class, or of every class in bins of its own,
        averaged over the classes ("max": the largest).
    n_bins : int, default=15
    strategy : {"uniform", "quantile"}, default="uniform"
        Bins of equal width, or of equal weight of rows. Bin b holds what is above its lower edge and at most its upper.
    norm : {"l1", "l2", "max"}, default="l1"
    sample_weight : array_like of shape (n_rows,), optional
    confidence : float, default=0.95
        Of the interval.

    Returns
    -------
    Estimate
        NaN without rows.

    Raises
    ------
    TypeError, ValueError, IndexError
        On probabilities that are none, classes outside them, or an option that is not listed.

    Notes
    -----
    The error is the norm of a vector with one entry a bin, so it is off by at most the norm of that vector's own error.
    The interval is the value plus and minus the quantile of that norm, from a bootstrap over rows. Percentiles of the
    bootstrapped error itself would not do: on n rows the error of a calibrated model is not 0 but of the order
    :math:`\sqrt{n_\mathrm{bins} / n}`, and resampling adds as much again. Where the error is large, the interval is
    wider than it need be.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017, equation 3. Nixon, Dusenberry,
    Zhang, Jerfel and Tran, Measuring Calibration in Deep Learning, CVPR Workshops 2019 (every class; equal weights).

    Examples
    --------
    >>> import softhead
    >>> softhead.calibration_error([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]], [0, 0, 0]).value
    0.4
    """
    p, y, weight = checked_rows(probabilities, targets, sample_weight)
    check.one_of("of", of, ("top_label", "every_class"))
    if of == "top_label":
        return top_label_error(*_top(p, y), weight, n_bins=n_bins, strategy=strategy, norm=norm, confidence=confidence)
    classes = np.arange(p.shape[1])
    bins = Bins(len(p), len(classes), n_bins=n_bins)
    limits = [edges(column, weight, n_bins, strategy) for column in p.T]
    step = max(1, _ENTRIES_AT_ONCE // len(classes))
    for start in range(0, len(p), step):
        rows = slice(start, start + step)
        bins.add(rows, p[rows], y[rows, None] == classes, weight[rows], limits)
    return bins.error(norm, confidence)


def ks_calibration_error(
    probabilities: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    sample_weight: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Estimate:
    r"""Return the calibration error of the predicted class without bins, after Kolmogorov and Smirnov.

    .. math:: \max_t \Big\lvert \sum_{i: p_i \le t} a_i (h_i - p_i) \Big\rvert,

    where :math:`p_i` is the probability of the predicted class, :math:`h_i` is 1 where it is the true one, and
    :math:`a_i` are the rows' shares of the weight.

    Parameters
    ----------
    probabilities : array_like of shape (n_rows, n_classes)
    targets : array_like of int of shape (n_rows,)
    sample_weight : array_like of shape (n_rows,), optional
    confidence : float, default=0.95

    Returns
    -------
    Estimate
        The interval is value plus and minus the bootstrapped quantile of the largest deviation of the cumulative sum.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `calibration_error`.

    References
    ----------
    Gupta, Rahimi, Ajanthan, Mensink, Sminchisescu and Hartley, Calibration of Neural Networks using Splines, ICLR 2021.

    Examples
    --------
    >>> import softhead
    >>> round(softhead.ks_calibration_error([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]], [0, 0, 0]).value, 4)
    0.1333
    """
    p, y, weight = checked_rows(probabilities, targets, sample_weight)
    return ks_error(*_top(p, y), weight, confidence)


def brier_score(
    probabilities: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    sample_weight: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Estimate:
    r"""Return the mean squared distance between probabilities and the true class as a unit vector.

    .. math:: \sum_i a_i \sum_c (p_{ic} - [c = y_i])^2,

    from 0 to 2; for two classes it is twice the mean of (p - y)^2, as in scikit-learn without ``scale_by_half``.

    Parameters
    ----------
    probabilities : array_like of shape (n_rows, n_classes)
    targets : array_like of int of shape (n_rows,)
    sample_weight : array_like of shape (n_rows,), optional
    confidence : float, default=0.95

    Returns
    -------
    Estimate
        With the normal interval: it is a mean over independent rows of a bounded number.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `calibration_error`.

    References
    ----------
    Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 78, 1950.

    Examples
    --------
    >>> import softhead
    >>> round(softhead.brier_score([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], [0, 1, 1]).value, 4)
    0.14
    """
    p, y, weight = checked_rows(probabilities, targets, sample_weight)
    return mean(brier_rows(p, y), weight, confidence, largest=2.0)


def log_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    sample_weight: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Estimate:
    r"""Return the mean negative log-probability of the true classes, in nats.

    .. math:: -\sum_i a_i \log p_{i y_i}

    Parameters
    ----------
    log_probs : array_like of shape (n_rows, n_classes)
        As ``predict_log_proba`` or `log_softmax` gives them: exact where the probability itself would be 0.
    targets : array_like of int of shape (n_rows,)
    sample_weight : array_like of shape (n_rows,), optional
    confidence : float, default=0.95

    Returns
    -------
    Estimate
        With the normal interval: it is a mean over independent rows.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `calibration_error`.

    References
    ----------
    Gneiting and Raftery, Strictly Proper Scoring Rules, Prediction, and Estimation, JASA 102, 2007.

    Examples
    --------
    >>> import numpy as np, softhead
    >>> round(softhead.log_loss(np.log([[0.9, 0.1], [0.2, 0.8]]), [0, 1]).value, 4)
    0.1643
    """
    log_p, y, weight = _rows("log_probs", log_probs, targets, sample_weight)
    if (log_p > 1e-3).any() or np.isnan(log_p).any():
        raise ValueError(f"log_probs has the maximum {log_p.max()}; logarithms of probabilities are at most 0")
    return mean(-log_p[np.arange(len(y)), y], weight, confidence)


def reliability_table(
    probabilities: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    n_bins: int = 15,
    strategy: Literal["uniform", "quantile"] = "uniform",
    sample_weight: ArrayLike | None = None,
    confidence: float = 0.95,
) -> ReliabilityTable:
    """Return the share of correct predictions in bins of their probability: what a reliability diagram draws.

    Parameters
    ----------
    probabilities : array_like of shape (n_rows, n_classes)
    targets : array_like of int of shape (n_rows,)
    n_bins : int, default=15
    strategy : {"uniform", "quantile"}, default="uniform"
        As in `calibration_error`.
    sample_weight : array_like of shape (n_rows,), optional
    confidence : float, default=0.95

    Returns
    -------
    ReliabilityTable
        Arrays of shape (n_bins,): ``lower`` and ``upper``, the edges; ``mass``, the share of the weight;
        ``confidence``, the mean probability, and ``accuracy``, the share of correct rows, NaN in a bin without rows;
        ``low`` and ``high``, Wilson's interval of ``accuracy``. `calibration_error` is the
        sum of ``mass * abs(accuracy - confidence)`` over the bins with rows.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `calibration_error`.

    References
    ----------
    Niculescu-Mizil and Caruana, Predicting Good Probabilities With Supervised Learning, ICML 2005, section 3.

    Examples
    --------
    >>> import softhead
    >>> table = softhead.reliability_table([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]], [0, 0, 0], n_bins=2)
    >>> table.mass, table.confidence[1].round(3), table.accuracy[1].round(3)
    (array([0., 1.]), np.float64(0.8), np.float64(0.667))
    """
    p, y, weight = checked_rows(probabilities, targets, sample_weight)
    return reliability(*_top(p, y), weight, n_bins=n_bins, strategy=strategy, confidence=confidence)


def risk_coverage(
    probabilities: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    score: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    confidence: float = 0.95,
) -> RiskCoverage:
    r"""Return the error rate of the rows that are answered, against their share: what abstaining buys.

    A row is answered if its score is at least a threshold; every score is one.

    Parameters
    ----------
    probabilities : array_like of shape (n_rows, n_classes)
    targets : array_like of int of shape (n_rows,)
    score : array_like of shape (n_rows,), optional
        Large where a prediction is trusted; the largest probability by default.
    sample_weight : array_like of shape (n_rows,), optional
    confidence : float, default=0.95
        Of the interval of ``area``.

    Returns
    -------
    RiskCoverage
        Arrays with one entry for each different score, in falling order of ``threshold``: ``coverage``, the share of
        the weight that is answered, rising to 1, and ``risk``, the share of wrong predictions in it. ``area`` is the
        mean risk over all coverages, an `Estimate` with percentiles of a bootstrap over rows.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `calibration_error`.

    References
    ----------
    Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017. The area: Geifman, Uziel and
    El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers, ICLR 2019.

    Examples
    --------
    >>> import softhead
    >>> curve = softhead.risk_coverage([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6], [0.7, 0.3]], [0, 1, 0, 0])
    >>> curve.coverage, curve.risk
    (array([0.5 , 0.75, 1.  ]), array([0.  , 0.  , 0.25]))
    """
    p, y, weight = checked_rows(probabilities, targets, sample_weight)
    top, correct = _top(p, y)
    if score is not None:
        top = check.same_shape("score", score, "targets", np.shape(targets)).astype(np.float64)
        if np.isnan(top).any():
            raise ValueError("score holds NaN; every row needs a number")
        if sample_weight is not None:
            top = top[np.broadcast_to(sample_weight, top.shape) > 0.0]
    return selective(top, correct, weight, confidence)


def out_of_scope_score(
    logits: ArrayLike,
    /,
    *,
    method: Literal["energy", "max_logit", "max_probability"] = "energy",
    temperature: float = 1.0,
) -> np.ndarray:
    r"""Return how much each row looks like none of the classes: larger is further out.

    "energy" is :math:`-T \log \sum_c e^{z_c / T}`, "max_logit" is :math:`-\max_c z_c`, and "max_probability" is 1 minus
    the largest softmax probability.

    Parameters
    ----------
    logits : array_like of shape (n_rows, n_classes)
    method : {"energy", "max_logit", "max_probability"}, default="energy"
    temperature : float, default=1.0

    Returns
    -------
    ndarray of shape (n_rows,)

    Raises
    ------
    TypeError, ValueError
        On logits that are not a matrix of numbers, another method, or a temperature that is not positive.

    Notes
    -----
    On CLINC150, at C = 1, 10 and 100, the area under the receiver's curve is 0.971, 0.973 and 0.971 with "energy",
    0.972, 0.973 and 0.970 with "max_logit", and 0.966, 0.962 and 0.956 with "max_probability"
    (``benchmarks/calibration.py``).

    References
    ----------
    Liu, Wang, Owens and Li, Energy-based Out-of-distribution Detection, NeurIPS 2020, equation 4; Hendrycks and Gimpel,
    A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks, ICLR 2017.

    Examples
    --------
    >>> import softhead
    >>> softhead.out_of_scope_score([[5.0, 0.0], [0.2, 0.0]], method="max_logit")
    array([-5. , -0.2])
    """
    check.one_of("method", method, ("energy", "max_logit", "max_probability"))
    z = check.real_array("logits", logits)
    if z.ndim != 2 or not z.shape[1]:
        raise ValueError(f"logits has shape {z.shape}; it must be (n_rows, n_classes) with at least one class")
    temperature = check.positive("temperature", temperature)
    if method == "max_logit":
        return -z.max(axis=1)
    if method == "energy":
        wide = z.astype(np.float64, copy=False)  # logits of a narrow type over a small temperature would overflow
        return (-temperature * logsumexp(wide / temperature)).astype(z.dtype, copy=False)
    p = softmax(z, temperature=temperature)
    p[np.arange(len(p)), p.argmax(axis=1)] = 0.0
    return p.sum(axis=1)


def checked_rows(
    probabilities: ArrayLike, targets: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities and weights in float64 and the true classes of the rows that have weight, checked."""
    p, y, weight = _rows("probabilities", probabilities, targets, sample_weight)
    check.unit_interval("probabilities", p)
    off = np.abs(p.sum(axis=1) - 1.0)
    if (off > 1e-2).any():
        row = int(off.argmax())
        raise ValueError(f"probabilities: row {row} has the sum {p[row].sum():g}; the rows must sum to 1")
    return p, y, weight


def _rows(
    name: str, values: ArrayLike, targets: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a matrix and weights in float64 and the true classes, checked but for the range of the matrix.

    Rows without weight are left out.
    """
    matrix = check.real_array(name, values).astype(np.float64, copy=False)
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise ValueError(f"{name} has shape {matrix.shape}; it must be (n_rows, n_classes) with at least one class")
    if np.shape(targets) != matrix.shape[:1]:
        raise ValueError(
            f"targets has shape {np.shape(targets)}; with {name} of shape {matrix.shape} it must be one "
            f"class a row, {matrix.shape[:1]}"
        )
    y = check.classes("targets", targets, matrix.shape[1])
    weight = check.relative_weights(check.broadcast_weight("sample_weight", sample_weight, matrix.shape[:1]))
    counts = weight > 0.0
    if len(weight) and not counts.any():
        raise ValueError("sample_weight is all zeros; at least one row needs a positive weight")
    return (matrix, y, weight) if counts.all() else (matrix[counts], y[counts], weight[counts])


def _top(p: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each row's predicted class, the first of the largest, and whether it is true."""
    predicted = p.argmax(axis=1)
    return p[np.arange(len(p)), predicted], predicted == targets
