"""Every figure of a model on labelled rows, before and after its temperature: what `evaluate` and the report show."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from softhead._intervals import Estimate, mean, proportion
from softhead._reliability import Bins, brier_rows, ks_error, selective, top_label_error
from softhead.estimator import SoftmaxClassifier
from softhead.functional import log_softmax

CONFIDENCE = 0.95  # of every interval
N_BINS = 15
_ENTRIES_AT_ONCE = 1 << 20  # probabilities, or features, that are held at one time
_MOST_AT_ONCE = 65_536  # rows
_MOST_DENSE = 2048  # features: rows of more of them are mostly sparse


class Outcomes(NamedTuple):
    """What is known of each row, arrays of shape (n_rows,).

    Attributes
    ----------
    true, predicted : ndarray of int
        Positions in the classifier's ``classes_``.
    confidence, loss, brier : ndarray of float64
        The probability of the predicted class, the log loss and the squared distance from the true class.
    """

    true: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    loss: np.ndarray
    brier: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether the predicted class is the true one."""
        return self.true == self.predicted


class Figures(NamedTuple):
    """Each figure with its interval; the names are the keys of ``softhead evaluate --json``."""

    accuracy: Estimate
    log_loss: Estimate  # nats
    brier_score: Estimate
    calibration_error: Estimate  # of the predicted class, over 15 bins of equal width
    calibration_error_quantile: Estimate  # over 15 bins of equal weight
    calibration_error_every_class: Estimate  # the mean over all classes, over 15 bins of equal width each
    ks_calibration_error: Estimate  # of the predicted class, without bins
    risk_coverage_area: Estimate


class Evaluation(NamedTuple):
    """The figures of a classifier on labelled rows.

    Attributes
    ----------
    rows : int
    temperature : float
        The classifier's.
    figures : Figures
        With it.
    uncalibrated : Figures or None
        With the temperature 1; None where the classifier's is 1.
    outcomes, uncalibrated_outcomes : Outcomes, Outcomes or None
        Row by row, for pictures.
    """

    rows: int
    temperature: float
    figures: Figures
    uncalibrated: Figures | None
    outcomes: Outcomes
    uncalibrated_outcomes: Outcomes | None


def rows_at_once(classifier: SoftmaxClassifier) -> int:
    """Return how many rows a classifier is applied to at a time.

    A matrix product may give a row other last bits beside others: whoever wants the same ones cuts the rows here.
    """
    width = max(len(classifier.classes_), min(classifier.n_features_in_, _MOST_DENSE))
    return max(1, min(_MOST_AT_ONCE, _ENTRIES_AT_ONCE // width))


def evaluation(classifier: SoftmaxClassifier, matrix: Any, target: np.ndarray) -> Evaluation:
    """Return the figures of a classifier on encoded rows and labels that it knows.

    Parameters
    ----------
    classifier : SoftmaxClassifier
    matrix : ndarray, sparse matrix or pyarrow.Table of shape (n_rows, n_features)
    target : ndarray of shape (n_rows,)

    Returns
    -------
    Evaluation
    """
    true = np.searchsorted(classifier.classes_, target.astype(classifier.classes_.dtype))
    step = rows_at_once(classifier)
    return evaluation_of_blocks(classifier, (matrix[k : k + step] for k in range(0, len(true), step)), true)


def evaluation_of_blocks(classifier: SoftmaxClassifier, blocks: Iterable[Any], true: np.ndarray) -> Evaluation:
    """Return the figures of a classifier on encoded rows that come block by block.

    Some 30 bytes a row are held, its outcomes; while these are put in order for the figures, up to 60 more.

    Parameters
    ----------
    classifier : SoftmaxClassifier
    blocks : iterable
        Of rows as `evaluation` takes them: `rows_at_once` of them, but for the last ones.
    true : ndarray of int
        The places of all labels in the classifier's ``classes_``.

    Returns
    -------
    Evaluation
    """
    temperature = float(classifier.temperature_)
    temperatures = [temperature] if temperature == 1.0 else [temperature, 1.0]
    n_rows, n_classes = len(true), len(classifier.classes_)
    outcomes = [Outcomes(true, np.empty(n_rows, true.dtype), *np.empty((3, n_rows))) for _ in temperatures]
    bins = [Bins(n_rows, n_classes, n_bins=N_BINS) for _ in temperatures]
    start = 0
    for matrix in blocks:
        logits = _logits(classifier, matrix)
        stop = start + len(logits)
        for one, by_class, divisor in zip(outcomes, bins, temperatures, strict=True):
            _add(one, by_class, slice(start, stop), logits, divisor)
        start = stop
    figures = [_figures(*pair) for pair in zip(outcomes, bins, strict=True)]
    calibrated = len(temperatures) > 1
    return Evaluation(
        n_rows,
        temperature,
        figures[0],
        figures[1] if calibrated else None,
        outcomes[0],
        outcomes[1] if calibrated else None,
    )


def _logits(classifier: SoftmaxClassifier, matrix: Any) -> np.ndarray:
    """Return the logits of rows, one a class, for two classes as well."""
    scores = classifier.decision_function(matrix)
    return np.stack([np.zeros_like(scores), scores], axis=1) if scores.ndim == 1 else scores


def _add(outcomes: Outcomes, by_class: Bins, rows: slice, logits: np.ndarray, temperature: float) -> None:
    """Note what becomes of some of the rows."""
    log_p = log_softmax(logits, temperature=temperature).astype(np.float64)
    p = np.exp(log_p)
    at, true = np.arange(len(p)), outcomes.true[rows]
    outcomes.predicted[rows] = logits.argmax(axis=1)
    outcomes.confidence[rows] = p[at, outcomes.predicted[rows]]
    outcomes.loss[rows] = -log_p[at, true]
    outcomes.brier[rows] = brier_rows(p, true)
    hits = true[:, None] == np.arange(p.shape[1])
    by_class.add(rows, p, hits, np.ones(len(p)), [None] * p.shape[1])


def _figures(rows: Outcomes, by_class: Bins) -> Figures:
    """Return the figures of rows, and of the bins of every class."""
    weight = np.ones(len(rows.true))
    top = rows.confidence, rows.correct, weight
    options: dict[str, Any] = {"n_bins": N_BINS, "norm": "l1", "confidence": CONFIDENCE}
    return Figures(
        accuracy=proportion(rows.correct, None, CONFIDENCE),
        log_loss=mean(rows.loss, None, CONFIDENCE),
        brier_score=mean(rows.brier, None, CONFIDENCE, largest=2.0),
        calibration_error=top_label_error(*top, strategy="uniform", **options),
        calibration_error_quantile=top_label_error(*top, strategy="quantile", **options),
        calibration_error_every_class=by_class.error("l1", CONFIDENCE),
        ks_calibration_error=ks_error(*top, CONFIDENCE),
        risk_coverage_area=selective(*top, CONFIDENCE).area,
    )
