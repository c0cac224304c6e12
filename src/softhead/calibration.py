"""How far predicted probabilities are from frequencies."""

import numpy as np


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, *, n_bins: int = 15) -> float:
    r"""Return the expected calibration error of top-label probabilities over bins of equal width.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} \,\lvert \mathrm{acc}_b - \mathrm{conf}_b \rvert

    Parameters
    ----------
    confidence : ndarray of shape (n_rows,)
        The probability of the predicted class, in [0, 1]. Bin b holds the values in (b / n_bins, (b + 1) / n_bins].
    correct : ndarray of bool of shape (n_rows,)
        Whether the predicted class was the true one.
    n_bins : int, default=15

    Returns
    -------
    float
        In [0, 1]; NaN without rows.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017, equation 3.

    Examples
    --------
    >>> import numpy as np
    >>> round(expected_calibration_error(np.array([0.9, 0.9, 0.6]), np.array([True, False, True])), 6)
    0.4
    """
    if len(confidence) == 0:
        return float("nan")
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.intp) - 1, 0, n_bins - 1)
    difference = np.bincount(bins, weights=correct.astype(np.float64) - confidence, minlength=n_bins)
    return float(np.abs(difference).sum()) / len(confidence)
